r"""Path rules: what a path below the root is called, and which names are whose.

Owns the names of every file this project reads or writes and the mapping between a key and a path; promises that
``to_path(to_key(p)) == p`` for every POSIX path. Touches no disk.

A **key** (``Key``) is a checkpoint's POSIX path relative to the root, as text that is always valid UTF-8: a byte that
is not part of UTF-8 is written ``\xHH`` and a backslash ``\\``; every other character stands for itself. A ``RelPath``
is the same path as the operating system knows it. ``to_key`` and ``to_path`` are the two doors between them; the type
checker, and it alone, tells the two apart.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType, TypeVar, cast

Key = NewType("Key", str)  # a checkpoint's identity, as the index and its readers write it
RelPath = NewType("RelPath", str)  # relative to the root, as the operating system knows it (``os.fsdecode``)
Either = TypeVar("Either", Key, RelPath)

ROOT = RelPath("")  # the root itself, and so everything below it
SUFFIXES = (".ckpt",)  # names that end so are checkpoints, unless the index says otherwise
SIDECAR_SUFFIX = ".metadata.yaml"
# What other programs call a sidecar: the first beside "best.ckpt" is "best.metadata.yaml", the suffix replaced.
OTHER_SIDECAR_ENDS = (".metadata.yaml", ".metadata.json")
# A configuration of one checkpoint, beside it: "best.config.yaml".
OWN_CONFIG_ENDS = (".config.yaml", ".config.yml", ".config.json", ".resolved.config.json")
KNOWN_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")  # of what may share such a file with a checkpoint
OWN_PREFIX = ".checkpoint_index."  # of the names of the index and of what belongs to it
INDEX_NAME = RelPath(".checkpoint_index.json")
LOCK_NAME = ".checkpoint_index.lock"
DAEMON_LOCK_NAME = ".checkpoint_index.daemon.lock"
DAEMON_STATE_NAME = ".checkpoint_index.daemon.json"
COOKIE_PREFIX = ".checkpoint_index.cookie-"
TEMPORARY_PREFIX = ".ckpt-indexer-"  # + random + suffix: short, because a checkpoint's name may fill all 255 bytes
TEMPORARY_SUFFIX = ".tmp"
NAME_BYTES_MAX = 255  # NAME_MAX of every Linux file system in use
CONFIG_NAME = "config.yaml"
# What loggers and trainers write of a run's settings, in the order they are believed; a configuration above is more.
# They count for the checkpoints in their own folder, Lightning's also for those in the folders right below.
SETTINGS_NAMES = ("hparams.yaml", "args.yaml", "config.json")  # Lightning's loggers; timm; Hugging Face
HYDRA_FOLDER = ".hydra"

_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,15}){1,2}")
_OWN_ENDS = (".yaml", ".json", ".lock", ".tmp")  # of files that this project writes
_ESCAPE = re.compile(r"[\\\udc80-\udcff]")
_UNESCAPE = re.compile(r"\\(\\|x[89a-f][0-9a-f])")


def to_key(path: RelPath) -> Key:
    r"""Write a path (as ``os.fsdecode`` gives it) as a key.

    >>> to_key("a/b.ckpt"), to_key("a\\b"), to_key("\udcff.ckpt")
    ('a/b.ckpt', 'a\\\\b', '\\xff.ckpt')
    """
    if path.isascii() and "\\" not in path:
        return Key(path)  # nearly always, and four times as fast to see
    return Key(_ESCAPE.sub(lambda m: "\\\\" if m[0] == "\\" else f"\\x{ord(m[0]) - 0xDC00:02x}", path))


def to_path(key: Key) -> RelPath:
    r"""Return the path that ``to_key`` was given.

    >>> to_path('a\\\\b\\xff') == "a\\b\udcff"
    True
    """
    if "\\" not in key:
        return RelPath(key)
    return RelPath(_UNESCAPE.sub(lambda m: "\\" if m[1] == "\\" else chr(0xDC00 + int(m[1][1:], 16)), key))


def to_text(path: str) -> str:
    """Write any path, one that is not relative to a root too, as ``to_key`` would: to be shown or told."""
    return to_key(RelPath(path))


def join(folder: RelPath, name: str) -> RelPath:
    """Return the path of *name*, which may have several parts, in *folder*.

    >>> join("a", "b/c.ckpt"), join("", "c.ckpt")
    ('a/b/c.ckpt', 'c.ckpt')
    """
    return RelPath(f"{folder}/{name}" if folder else name)


def split(path: RelPath) -> tuple[RelPath, str]:
    """Return the folder that *path* stands in, and its name there.

    >>> split("a/b/c.ckpt"), split("c.ckpt")
    (('a/b', 'c.ckpt'), ('', 'c.ckpt'))
    """
    folder, _, name = path.rpartition("/")
    return RelPath(folder), name


def is_suffix(suffix: str) -> bool:
    """Return whether *suffix* may mark checkpoints.

    >>> is_suffix(".pt"), is_suffix(".pth.tar"), is_suffix("pt"), is_suffix(""), is_suffix(".yaml")
    (True, True, False, False, False)
    """
    return _SUFFIX.fullmatch(suffix) is not None and not suffix.endswith(_OWN_ENDS)


def is_checkpoint(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    return name.endswith(suffixes)


def is_ours(name: str) -> bool:
    """Return whether this project writes a file of that name: the index and what belongs to it, or a sidecar.

    >>> is_ours(".checkpoint_index.daemon.json"), is_ours("a.ckpt.metadata.yaml"), is_ours("a.ckpt")
    (True, True, False)
    """
    return name.startswith(OWN_PREFIX) or name.endswith(SIDECAR_SUFFIX) or is_temporary(name)


def is_temporary(name: str) -> bool:
    """Return whether this project made the name for a file that is not finished."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def sidecar_path(checkpoint_path: RelPath) -> RelPath:
    return RelPath(checkpoint_path + SIDECAR_SUFFIX)


def stem_of(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Return *path* without the suffix that marks it as a checkpoint.

    >>> stem_of("a/best.ckpt"), stem_of("a/x.pth.tar", (".tar", ".pth.tar"))
    ('a/best', 'a/x')
    """
    found = max((suffix for suffix in suffixes if path.endswith(suffix)), key=len, default="")
    return path[: len(path) - len(found)]


def other_sidecar_paths(path: RelPath, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[RelPath, ...]:
    """Return where other programs may have put the sidecar of the checkpoint at *path*, in the order they are believed.

    >>> other_sidecar_paths("a/best.ckpt")
    ('a/best.metadata.yaml', 'a/best.ckpt.metadata.json', 'a/best.metadata.json')
    """
    stem = stem_of(path, suffixes)
    by_stem, other = OTHER_SIDECAR_ENDS
    return RelPath(stem + by_stem), RelPath(path + other), RelPath(stem + other)


def own_config_paths(path: RelPath, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[RelPath, ...]:
    """Return where a configuration of this one checkpoint may stand, in the order they are believed."""
    return tuple(RelPath(stem_of(path, suffixes) + end) for end in OWN_CONFIG_ENDS)


def subjects_of(path: RelPath, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[RelPath, ...]:
    """Return what an event at *path* may be about: as ``subject_of``; several where a name leaves the suffix out.

    >>> subjects_of("a/b.ckpt"), subjects_of("a/best.metadata.yaml"), subjects_of("a/best.resolved.config.json")
    (('a/b.ckpt',), ('a/best.ckpt',), ('a/best.ckpt', 'a/best.resolved.ckpt'))
    """
    subject = subject_of(path, suffixes)
    if subject is not None:
        return (subject,)
    stems = {path.removesuffix(end) for end in (*OTHER_SIDECAR_ENDS, *OWN_CONFIG_ENDS) if path.endswith(end)}
    names = {stem if is_checkpoint(stem, suffixes) else stem + suffix for stem in stems for suffix in suffixes}
    return tuple(map(RelPath, sorted(names)))


class Place(NamedTuple):
    """Where a checkpoint stands: root / experiment / "checkpoints" / name, after normalising, is its path."""

    experiment: Key  # of a folder
    name: str


def place_of(key: Key) -> Place:
    """Apply the path rule of the index's ``checkpoints`` section.

    >>> place_of("ocr/b/checkpoints/epoch=2-val/hmean=0.7188.ckpt")
    Place(experiment='ocr/b', name='epoch=2-val/hmean=0.7188.ckpt')
    >>> place_of("ocr/b/x.ckpt")
    Place(experiment='ocr/b', name='../x.ckpt')
    >>> place_of("x.ckpt"), place_of("checkpoints/x.ckpt")
    (Place(experiment='.', name='../x.ckpt'), Place(experiment='.', name='x.ckpt'))
    """
    parts = key.split("/")
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "checkpoints":
            return Place(Key("/".join(parts[:i]) or "."), "/".join(parts[i + 1 :]))
    return Place(Key("/".join(parts[:-1]) or "."), f"../{parts[-1]}")


def subject_of(path: RelPath, suffixes: tuple[str, ...] = SUFFIXES) -> RelPath | None:
    """Return what an event at *path* (relative to the root) is about: the path to scan, ``None`` for nothing.

    A sidecar stands for its checkpoint, a file inside a sharded checkpoint for that folder, a config file for the
    folder whose checkpoints it describes. The empty path is the whole root. A path without one of these names is
    looked at only if it is (or was) a folder, which the caller knows.

    >>> subject_of("a/b.ckpt"), subject_of("a/b.ckpt.metadata.yaml"), subject_of("a/s.ckpt/meta.pt")
    ('a/b.ckpt', 'a/b.ckpt', 'a/s.ckpt')
    >>> subject_of("a/.hydra/config.yaml"), subject_of("a/config.yaml"), subject_of("config.yaml")
    ('a', 'a', '')
    >>> subject_of("a/notes.txt") is None
    True
    """
    parts = path.split("/")
    for i, part in enumerate(parts):
        if is_checkpoint(part, suffixes):
            return RelPath("/".join(parts[: i + 1]))
    name = parts[-1]
    if is_checkpoint(name.removesuffix(SIDECAR_SUFFIX), suffixes):
        return RelPath(path.removesuffix(SIDECAR_SUFFIX))
    if name == CONFIG_NAME or name in SETTINGS_NAMES:
        parts.pop()
        if parts and parts[-1] == HYDRA_FOLDER:
            parts.pop()
        return RelPath("/".join(parts))
    return None


def subject_of_folder(path: RelPath, suffixes: tuple[str, ...] = SUFFIXES) -> RelPath:
    """Return what an event about the folder at *path* is about: itself, but for the folders that belong to something.

    >>> subject_of_folder("a/b"), subject_of_folder("a/.hydra"), subject_of_folder("a/s.ckpt/rank0")
    ('a/b', 'a', 'a/s.ckpt')
    """
    folder, name = split(path)
    return folder if name == HYDRA_FOLDER else subject_of(join(path, ""), suffixes) or path


def ancestors(path: Either) -> list[Either]:
    """List the folders above *path* (or key), the nearest first, the root (``""``) last.

    >>> ancestors("a/b/c.ckpt"), ancestors("c.ckpt")
    (['a/b', 'a', ''], [''])
    """
    found = []
    while path:
        path = cast("Either", path.rpartition("/")[0].rstrip("/"))
        found.append(path)
    return found


def is_below(path: str, folder: str) -> bool:
    """Return whether *path* is *folder* or stands below it; everything is below ``""``."""
    return not folder or path == folder or path.startswith(folder + "/")
