"""What is mounted at and below a folder, and whether inotify can be believed there.

Inotify tells what happens through this kernel. On a network file system others write without this kernel's knowledge,
and a mount made over a watched folder hides it without a word; both have to be looked for.
Source: proc(5), /proc/pid/mountinfo; fs-path-utils-linux.c of git for the list of remote types.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ckpt_indexer.paths import is_below

# Types whose other clients' writes cause no events here. fuse.* may be local, but what is behind it may change alone.
REMOTE_TYPES = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "fuse", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
     "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs"}
)  # fmt: skip
_MOUNTINFO = "/proc/self/mountinfo"
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mounted file system."""

    id: str
    path: str
    type: str

    @property
    def is_remote(self) -> bool:
        return self.type in REMOTE_TYPES or self.type.startswith("fuse.")


def parse_mountinfo(text: str) -> list[Mount]:
    r"""Read /proc/self/mountinfo, in the order of mounting.

    >>> parse_mountinfo("36 35 98:0 / /mnt\\040a rw,noatime shared:1 - nfs4 host:/x rw\n")
    [Mount(id='36', path='/mnt a', type='nfs4')]
    """
    mounts = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) >= 5 and rest:
            path = _OCTAL.sub(lambda m: chr(int(m[1], 8)), parts[4])
            mounts.append(Mount(parts[0], path, rest.split(" ")[0]))
    return mounts


def find_mounts(folder: str, mounts: list[Mount]) -> list[Mount]:
    """Choose the mount that *folder* (absolute, without links) is on, and those below it.

    >>> mounts = [Mount("1", "/", "ext4"), Mount("2", "/data", "nfs4"), Mount("3", "/data/o/tmp", "tmpfs")]
    >>> [mount.id for mount in find_mounts("/data/o", mounts)]
    ['2', '3']
    """
    above = [mount for mount in mounts if is_below(folder.lstrip("/"), mount.path.strip("/"))]
    # Of several at one place the last hides the others.
    own = max(above, key=lambda mount: (len(mount.path), mounts.index(mount)), default=None)
    below = [mount for mount in mounts if mount is not own and is_below(mount.path, folder) and mount.path != folder]
    return [*([own] if own is not None else []), *below]


def read_mounts(folder: str) -> list[Mount]:
    """Return what is mounted at and below *folder* now; nothing where the kernel does not say."""
    try:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            return find_mounts(folder, parse_mountinfo(file.read()))
    except OSError:
        return []
