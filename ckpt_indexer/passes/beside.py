"""A checkpoint's file together with what stands beside it and says whether it is whole.

Owns two kinds of evidence that no file has in itself: the control file of a downloader, and the index of the shards
that it is one of. Each is looked for by its name, in two to six calls of the system for a file that is no shard; the
headers of a set are read once, not once for each of its shards. Only a shard's index may be a link, and only to a
place below the root. What follows becomes the facts' problem or a warning.
"""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import stat
import time
from typing import TYPE_CHECKING

from ckpt_indexer import paths
from ckpt_indexer.errors import NotRegularFile
from ckpt_indexer.formats.frameworks.sharded import index_names_of, may_be_short, problem_of_shards
from ckpt_indexer.model import Problem
from ckpt_indexer.paths import RelPath, split
from ckpt_indexer.tree.local import fingerprint_of, opened_at, opened_folder

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckpt_indexer.formats.facts import Facts, ShardIndex
    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.sandbox.owner import Reader

CONTROL_END = ".aria2"  # beside the file that it is about, until that is whole
# A downloader that runs has written meanwhile: aria2 saves its control file every 60 s, at most every 600 s. What was
# written so much later was written by something else.
QUIET_NS = 900 * 10**9
# Another, unfinished file, which takes the name when it is whole: Firefox and others, Chrome, huggingface_hub.
PART_ENDS = (".part", ".crdownload", ".incomplete")
HUB_FOLDER = ".cache/huggingface/download"  # where huggingface_hub writes what it downloads into a folder
SETS_KEPT_MAX = 8  # whose shards' headers were read: they are read one after the other


def read_file(root: str, path: RelPath, descriptor: int, reader: Reader, *, name: RelPath | None = None) -> Facts:
    """Read the opened checkpoint at *path* below *root*, and what stands beside it.

    *name* is its own path where *path* is a link's target: a set of shards stands where the links do.
    """
    facts = reader.read_checkpoint(descriptor)
    with contextlib.suppress(OSError):  # what stands beside it is no part of it
        _heed_downloads(root, path, os.fstat(descriptor).st_mtime_ns, facts)
    shard = path if name is None else name
    if (candidates := index_names_of(posixpath.basename(shard))) and (facts.problem is None):
        with contextlib.suppress(OSError):
            _heed_shards(root, path, shard, candidates, facts, reader)
    return facts


def _heed_downloads(root: str, path: RelPath, mtime_ns: int, facts: Facts) -> None:
    folder, name = split(path)
    with opened_folder(root, folder) as folder_fd:
        for end in (CONTROL_END, *PART_ENDS):
            try:
                status = os.stat(name + end, dir_fd=folder_fd, follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if end != CONTROL_END:
                facts.warnings.append(f"{name}{end} stands beside it: another download of it is not finished")
            elif mtime_ns > status.st_mtime_ns + QUIET_NS:
                facts.warnings.append(f"{name}{end} stands beside it and is older: a download that was given up")
            elif facts.problem is None or facts.problem.status == "corrupt":
                message = f"its download is not finished: aria2's {name}{end} stands beside it"
                facts.problem = Problem.of("truncated", message)


def _heed_shards(
    root: str, path: RelPath, shard: RelPath, candidates: Collection[str], facts: Facts, reader: Reader
) -> None:
    folder, own_name = split(shard)
    with opened_folder(root, folder) as folder_fd:
        for index_name in candidates:
            try:
                index = _read_index(root, folder, folder_fd, index_name, reader)
            except FileNotFoundError:
                continue
            if index.error is not None:
                facts.warnings.append(f"{index_name} beside it cannot be used: {index.error}")
            elif own_name not in index.files:
                facts.warnings.append(f"{index_name} beside it does not name it")
            else:
                facts.problem = _problem_of_set(root, path, shard, index, reader)
            return


def _read_index(root: str, folder: RelPath, folder_fd: int, name: str, reader: Reader) -> ShardIndex:
    """Read the index; through a link, as in huggingface_hub's cache, only to where it leads below the root."""
    try:
        with opened_at(folder_fd, name) as file:
            return reader.read_index(file)
    except NotRegularFile:
        real_root = os.path.realpath(root)
        real = os.path.realpath(os.path.join(real_root, folder, name), strict=True)
        target_folder, target = split(RelPath(os.path.relpath(real, real_root)))
        with opened_folder(real_root, target_folder) as target_fd, opened_at(target_fd, target) as file:
            return reader.read_index(file)


def _problem_of_set(root: str, path: RelPath, shard: RelPath, index: ShardIndex, reader: Reader) -> Problem | None:
    folder, _ = split(shard)
    statuses: dict[str, os.stat_result] = {}
    with opened_folder(root, folder) as folder_fd:
        for name in index.files:
            with contextlib.suppress(OSError):  # a link to nothing is a shard that is missing
                statuses[name] = os.stat(name, dir_fd=folder_fd)
    sizes = {name: status.st_size for name, status in statuses.items()}
    problem = problem_of_shards(index, sizes)
    if problem is not None and problem.code == "record-missing":
        part = _find_running_download(root, (folder, RelPath(posixpath.join(folder, HUB_FOLDER)), split(path)[0]))
        return problem if part is None else Problem.of("truncated", f"{problem.message}; {part} is being downloaded")
    if problem is not None or not may_be_short(index, sizes):
        return problem
    return _problem_of_shard(
        root, folder, tuple((name, fingerprint_of(statuses[name])) for name in index.files), reader
    )


def _find_running_download(root: str, folders: Collection[RelPath]) -> str | None:
    """Find a file in *folders* that a downloader is writing, or was until a few minutes ago."""
    since_ns = time.time_ns() - QUIET_NS
    for folder in folders:
        with contextlib.suppress(OSError), opened_folder(root, folder) as folder_fd:
            for name in sorted(os.listdir(folder_fd)):
                if name.endswith((CONTROL_END, *PART_ENDS)) and os.stat(name, dir_fd=folder_fd).st_mtime_ns > since_ns:
                    return paths.to_text(name)
    return None


@functools.lru_cache(maxsize=SETS_KEPT_MAX)
def _problem_of_shard(
    root: str, folder: RelPath, shards: tuple[tuple[str, Fingerprint], ...], reader: Reader
) -> Problem | None:
    """Read the headers of a whole set and name a shard that is not; kept, as each of the set's shards asks."""
    with opened_folder(root, folder) as folder_fd:
        for name, _ in shards:
            with contextlib.suppress(OSError), opened_at(folder_fd, name) as file:
                found = reader.read_checkpoint(file).problem
                if found is not None and found.status != "unreadable":  # that may pass, and this answer is kept
                    return Problem.of(found.code, f"the shard {name}: {found.message}")
    return None
