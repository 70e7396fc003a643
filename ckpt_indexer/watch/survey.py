"""The index held against the disk, without changing either: what ``verify``, ``--dry-run`` and ``status`` ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.errors import IndexMissing
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.watch.reconcile import Plan, reconcile
from ckpt_indexer.watch.scan import Found, scan, stamp_of

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry


class Survey(NamedTuple):
    """What is on disk, and what the index would have to change."""

    found: dict[str, Found]
    plan: Plan
    entries: dict[str, Entry]  # what the index says now
    unseen: dict[str, str]


def survey(root: str, *, must_exist: bool = False) -> Survey:
    """Compare *root*'s index with its disk.

    Raises:
        IndexMissing: there is no index, and *must_exist*.
        OSError: the root cannot be listed.

    """
    entries: dict[str, Entry] = {}
    try:
        entries = read_index(root).entries
    except IndexMissing:
        if must_exist:
            raise
    snapshot = scan(root)
    plan = reconcile(snapshot, {key: stamp_of(entry) for key, entry in entries.items()})
    return Survey(snapshot.found, plan, entries, snapshot.unseen)
