"""The index held against the disk, without changing either: what ``verify``, ``--dry-run`` and ``status`` ask."""

from __future__ import annotations

from typing import NamedTuple

from ckpt_indexer.errors import IndexMissing
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.watch.reconcile import Plan, reconcile
from ckpt_indexer.watch.scan import Found, Stamp, scan, stamp_of


class Survey(NamedTuple):
    """What is on disk, and what the index would have to change."""

    found: dict[str, Found]
    plan: Plan
    known: dict[str, Stamp | None]
    unseen: dict[str, str]


def survey(root: str, *, must_exist: bool = False) -> Survey:
    """Compare *root*'s index with its disk.

    Raises:
        IndexMissing: there is no index, and *must_exist*.
        OSError: the root cannot be listed.

    """
    known: dict[str, Stamp | None] = {}
    try:
        known = {key: stamp_of(entry) for key, entry in read_index(root).entries.items()}
    except IndexMissing:
        if must_exist:
            raise
    snapshot = scan(root)
    return Survey(snapshot.found, reconcile(snapshot, known), known, snapshot.unseen)
