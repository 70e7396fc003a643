"""What was found out and is not written into the index yet. One thread uses it; an indexer commits it as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckpt_indexer.model import Entry
    from ckpt_indexer.paths import Key


class Changes:
    """Entries that differ from the index's, and keys that it has to lose; a key is in one of them at most."""

    def __init__(self, *, may_remove: bool = True) -> None:
        """Without *may_remove* no key is ever taken out: what is gone keeps its entry."""
        self._may_remove = may_remove
        self.entries: dict[Key, Entry] = {}
        self.removed: set[Key] = set()
        self.has_news = False  # somebody may wait for them: more than checkpoints that are being written

    def __bool__(self) -> bool:
        return bool(self.entries or self.removed)

    def put(self, entry: Entry) -> None:
        """Add an entry that is to be written."""
        self.removed.discard(entry.path)
        self.entries[entry.path] = entry
        self.has_news = self.has_news or entry.status != "incomplete"

    def remove(self, key: Key) -> None:
        """Add a key that is to be removed; the index has it."""
        self.entries.pop(key, None)
        if self._may_remove:
            self.removed.add(key)
            self.has_news = True

    def discard(self, keys: Collection[Key]) -> set[Key]:
        """Leave the index's entries of *keys* as they are; return the keys for which something else was planned."""
        dropped = self.removed.intersection(keys) | self.entries.keys() & set(keys)
        self.removed -= dropped
        for key in dropped:
            self.entries.pop(key, None)
        return dropped

    def clear(self) -> None:
        """Begin anew, after a commit."""
        self.entries, self.removed, self.has_news = {}, set(), False
