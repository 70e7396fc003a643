"""What changed from one generation of the index to the next, kept for a while, for clients that were away.

Owns ``ChangeFeed``, which holds keys only, within bounds, and forgets the oldest first. Promises that a delta names
every key that differs between two generations, or that there is none. Knows neither files nor threads: the owner locks.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt_indexer.paths import Key

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckpt_indexer.index.columns import Table

CHANGES_MAX = 1000  # generations that can be resumed: a quarter of an hour of an index that changes each second
CHANGED_KEYS_MAX = 5000  # in one generation; more is a new index, and cheaper to load anew
FEED_KEYS_MAX = 50_000  # in all generations together; 10 MB of keys at worst


class Change(msgspec.Struct, frozen=True):
    """What one generation changed."""

    generation: int
    keys: tuple[Key, ...]  # of entries that came, changed or went


class Delta(NamedTuple):
    """What several generations changed."""

    table: Table  # the newest, which holds what changed
    changed: list[Key]
    removed: list[Key]


class ChangeFeed:
    """The last changes, in the order of their generations."""

    def __init__(self) -> None:
        self.epoch = 0  # grows when generations no longer follow each other: another index took the place
        self._changes: deque[Change] = deque()
        self._keys = 0  # in all changes together
        self._floor = 0  # the oldest generation that can be resumed from

    def add(self, old: Table, new: Table, changed: Collection[Key], *, is_first: bool) -> None:
        """Add what changed from *old* to *new*; where that does not follow, or is too much, begin again."""
        is_successor = new.generation > old.generation or (new.generation == old.generation and not changed)
        if is_first or not is_successor or len(changed) > CHANGED_KEYS_MAX:
            self.epoch += not is_successor
            self._changes.clear()
            self._keys, self._floor = 0, new.generation
            return
        self._changes.append(Change(new.generation, tuple(changed)))
        self._keys += len(changed)
        while len(self._changes) > CHANGES_MAX or self._keys > FEED_KEYS_MAX:
            oldest = self._changes.popleft()
            self._keys -= len(oldest.keys)
            self._floor = oldest.generation

    def since(self, generation: int, table: Table) -> Delta | None:
        """Return what changed after a generation; *table* is the newest. ``None`` where that is no longer known."""
        if not self._floor <= generation <= table.generation:
            return None
        keys = {key for change in self._changes if change.generation > generation for key in change.keys}
        changed = sorted(key for key in keys if table.get(key) is not None)
        return Delta(table, changed, sorted(keys.difference(changed)))
