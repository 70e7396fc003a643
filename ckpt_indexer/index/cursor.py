"""The entries of a query, a few at a time, for answers that take long.

Kept are the keys, never a table: each table holds the index's whole file in memory, and clients that stand still, each
in another generation, would keep them all. So an entry comes as it stands when its turn comes, and one that has gone
does not come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

    from ckpt_indexer.index.columns import Rows, Table
    from ckpt_indexer.index.follow import FollowedIndex


class Cursor:
    """A place in a selection, which goes from its first entry to its last; one task at a time."""

    def __init__(self, index: FollowedIndex, table: Table, rows: Rows, *, limit: int | None = None) -> None:
        self.generation = table.generation  # in which it began: what changed later may be missing
        self._index = index
        self._keys = table.keys
        self._rows = rows.rows if limit is None else rows.rows[:limit]
        self._start = 0

    @property
    def total(self) -> int:
        """How many entries there were at the start."""
        return len(self._rows)

    @property
    def has_more(self) -> bool:
        return self._start < len(self._rows)

    def fetch(self, count: int) -> list[msgspec.Raw]:
        """Return the next encoded entries, *count* at most; each keeps the index's file in memory: drop them soon."""
        rows = self._rows[self._start : self._start + count]
        self._start += count
        table = self._index.table
        if table.keys is self._keys:
            return [table.raws[row] for row in rows]
        found = [table.get(self._keys[row]) for row in rows]
        return [raw for raw in found if raw is not None]
