"""A checkpoint's file together with what stands beside it and says whether it is whole.

Owns two kinds of evidence that no file has in itself: the control file of a downloader, and the index of the shards
that it is one of. Each is looked for by its name, two to six calls of the system in all; nothing is opened through a
link. What follows becomes the facts' problem or a warning. Which of a set's shards have to be read again when one
changes is said here, too.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from ckpt_indexer.errors import NotRegularFile
from ckpt_indexer.formats.frameworks.sharded import index_names_of, may_be_short, problem_of_shards, shards_of_set
from ckpt_indexer.model import Problem
from ckpt_indexer.paths import Key, RelPath, split
from ckpt_indexer.tree.local import opened_at, opened_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckpt_indexer.formats.facts import Facts, ShardIndex
    from ckpt_indexer.model import Fingerprint, Stamp
    from ckpt_indexer.passes.scan import Found
    from ckpt_indexer.sandbox.owner import Reader

CONTROL_END = ".aria2"  # beside the file that it is about, until that is whole
CONTROL_NS = 120 * 10**9  # aria2 saves it every 60 s: what was written so much later was written by something else
# Another, unfinished file, which takes the name when it is whole: Firefox and others, Chrome, huggingface_hub.
PART_ENDS = (".part", ".crdownload", ".incomplete")


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
            _heed_shards(root, shard, candidates, facts, reader)
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
            elif mtime_ns > status.st_mtime_ns + CONTROL_NS:
                facts.warnings.append(f"{name}{end} stands beside it and is older: a download that was given up")
            elif facts.problem is None or facts.problem.status == "corrupt":
                message = f"its download is not finished: aria2's {name}{end} stands beside it"
                facts.problem = Problem.of("truncated", message)


def _heed_shards(root: str, path: RelPath, candidates: Collection[str], facts: Facts, reader: Reader) -> None:
    folder, own_name = split(path)
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
                facts.problem = _problem_of_set(folder_fd, index, own_name, reader)
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


def _problem_of_set(folder_fd: int, index: ShardIndex, own_name: str, reader: Reader) -> Problem | None:
    sizes = {}
    for name in index.files:
        with contextlib.suppress(OSError):  # a link to nothing is a shard that is missing
            sizes[name] = os.stat(name, dir_fd=folder_fd).st_size
    problem = problem_of_shards(index, sizes)
    if problem is not None or not may_be_short(index, sizes):
        return problem
    for name in index.files:
        if name == own_name:
            continue
        with contextlib.suppress(OSError), opened_at(folder_fd, name) as file:
            found = reader.read_checkpoint(file).problem
            if found is not None:
                return Problem.of(found.code, f"the shard {name}: {found.message}")
    return None


def siblings_to_read(
    read: Mapping[Key, Found], removed: Collection[Key], stamps: Mapping[Key, Stamp | None]
) -> set[Key]:
    """Return the keys, among those of *stamps*, of shards whose set has another shard that came, changed or went.

    *read* and *removed* are what a scan found to be new or changed, and gone.
    """
    changed = [key for key, found in read.items() if _is_news(stamps.get(key, ()), found.stamp.fingerprint)]
    siblings: set[Key] = set()
    for key in (*changed, *removed):
        if "-of-" in key and key not in siblings:
            folder, _, name = key.rpartition("/")
            siblings.update(Key(posixpath.join(folder, each)) for each in shards_of_set(name))
    return {key for key in siblings if key in stamps and key not in read and key not in removed}


def _is_news(stamp: Stamp | tuple[()] | None, fingerprint: Fingerprint) -> bool:
    """Return whether a file is new or changed; one that was only marked to be read again is no news."""
    return stamp == () or (stamp is not None and not isinstance(stamp, tuple) and stamp.fingerprint != fingerprint)
