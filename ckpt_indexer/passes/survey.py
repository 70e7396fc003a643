"""The index held against the disk, without changing either: what ``verify`` and ``--dry-run`` ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.errors import IndexMissing
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.metadata.entry import stamp_of
from ckpt_indexer.passes.reconcile import Plan, reconcile
from ckpt_indexer.passes.scan import Found, scan
from ckpt_indexer.paths import SUFFIXES, Key

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry
    from ckpt_indexer.paths import RelPath


class Survey(NamedTuple):
    """What is on disk, and what the index would have to change."""

    found: dict[Key, Found]
    plan: Plan
    entries: dict[Key, Entry]  # what the index says now
    unseen: dict[RelPath, str]


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
    suffixes = suffixes or SUFFIXES
    snapshot = scan(root, suffixes=suffixes)
    plan = reconcile(snapshot, {key: stamp_of(entry) for key, entry in entries.items()}, suffixes=suffixes)
    return Survey(snapshot.found, plan, entries, snapshot.unseen)
