"""The entries of a query, a few at a time, for answers that take long.

Kept are the keys, never a view: each view holds the index's whole file in memory, and clients that stand still, each in
another generation, would keep them all. So an entry comes as it stands when its turn comes, and one that has gone does
not come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

    from ckpt_indexer.web.catalog import Catalog
    from ckpt_indexer.web.view import Rows, View


class Walk:
    """One walk through a selection, from its first entry to its last; one task at a time."""

    def __init__(self, catalog: Catalog, view: View, rows: Rows, *, limit: int | None = None) -> None:
        self.generation = view.generation  # in which the walk began: what changed later may be missing
        self._catalog = catalog
        self._keys = view.keys
        self._rows = rows.rows if limit is None else rows.rows[:limit]
        self._start = 0

    @property
    def total(self) -> int:
        """How many entries there were at the start."""
        return len(self._rows)

    @property
    def has_more(self) -> bool:
        return self._start < len(self._rows)

    def take(self, count: int) -> list[msgspec.Raw]:
        """Give the next encoded entries, *count* at most; each keeps its view's file alive, so let go of them."""
        rows = self._rows[self._start : self._start + count]
        self._start += count
        view = self._catalog.view
        if view.keys is self._keys:
            return [view.raws[row] for row in rows]
        found = [view.get(self._keys[row]) for row in rows]
        return [raw for raw in found if raw is not None]
