"""The index held against the disk, without changing either: what ``verify`` and ``--dry-run`` ask."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer import paths
from ckpt_indexer.errors import IndexMissing
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.metadata.entry import stamp_of
from ckpt_indexer.passes.reconcile import Plan, reconcile
from ckpt_indexer.passes.scan import Found, scan
from ckpt_indexer.paths import Key

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry
    from ckpt_indexer.paths import RelPath


FILES_MAX = 100_000  # looked at to say what is there instead of checkpoints
LIKELY_SUFFIXES = (".pth.tar", *paths.KNOWN_SUFFIXES, ".pkl")  # of checkpoints, as frameworks name them


class Survey(NamedTuple):
    """What is on disk, and what the index would have to change."""

    found: dict[Key, Found]
    plan: Plan
    entries: dict[Key, Entry]  # what the index says now
    unseen: dict[RelPath, str]
    suffixes: tuple[str, ...]  # of the names that count as checkpoints


def survey(root: str, *, must_exist: bool = False, suffixes: tuple[str, ...] | None = None) -> Survey:
    """Compare *root*'s index with its disk, by its own *suffixes* if no others are given.

    Raises:
        IndexMissing: there is no index, and *must_exist*.
        OSError: the root cannot be listed.

    """
    entries: dict[Key, Entry] = {}
    try:
        index = read_index(root)
        entries = {Key(key): entry for key, entry in index.entries.items()}
        suffixes = suffixes or index.suffixes
    except IndexMissing:
        if must_exist:
            raise
    suffixes = suffixes or paths.SUFFIXES
    snapshot = scan(root, suffixes=suffixes)
    plan = reconcile(snapshot, {key: stamp_of(entry) for key, entry in entries.items()}, suffixes=suffixes)
    return Survey(snapshot.found, plan, entries, snapshot.unseen, suffixes)


def count_endings(root: str) -> dict[str, int]:
    """Count the files below *root* by how their names end, as keys write it, those that checkpoints often have first.

    Folders that cannot be listed, hidden folders, our own files and those without an ending are left out.
    """
    counts: Counter[str] = Counter()
    for _, folders, names in os.walk(root):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for name in names:
            ending = next((each for each in LIKELY_SUFFIXES if name.endswith(each)), os.path.splitext(name)[1])
            if ending and not paths.is_ours(name):
                counts[paths.to_text(ending)] += 1
        if counts.total() > FILES_MAX:
            break
    return dict(sorted(counts.items(), key=lambda item: (item[0] not in LIKELY_SUFFIXES, -item[1], item[0])))
