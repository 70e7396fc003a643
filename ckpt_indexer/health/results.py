"""Results of checks, kept in the entries of an index that is there.

A ``Ledger`` knows what the index says at the start and writes what is found into the entries that still belong to the
same bytes: entries that others changed meanwhile are read anew, entries of other bytes are left alone, and where there
is no index none is made. A ledger that cannot be written costs no check; ``trouble`` says why.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckpt_indexer import paths
from ckpt_indexer.errors import StoreError
from ckpt_indexer.health.check import merged
from ckpt_indexer.index import codec
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.index.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_indexer.model import Entry, Fingerprint, Health
    from ckpt_indexer.paths import Key

TRIES_MAX = 5  # a writer that changes the same entries between a look and a commit does so once


class Ledger:
    """The health of one root's checkpoints."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.entries: Mapping[str, Entry] = {}  # as the index said at the start
        self.suffixes: tuple[str, ...] = paths.SUFFIXES  # of the names that count as checkpoints
        self.trouble: str | None = None
        self._store: Store | None = None
        self._pending: dict[Key, tuple[Fingerprint, Health]] = {}
        if not os.path.lexists(os.path.join(root, paths.INDEX_NAME)):
            return
        try:
            index = read_index(root)
            self.entries, self.suffixes = index.entries, index.suffixes
            self._store = Store(root)
        except (StoreError, OSError) as error:
            self.trouble = str(error)

    def health_of(self, key: Key, fingerprint: Fingerprint) -> Health | None:
        """Return what is known of these bytes."""
        entry = self.entries.get(key)
        return entry.health if entry is not None and entry.fingerprint == fingerprint else None

    def put(self, key: Key, fingerprint: Fingerprint, health: Health) -> None:
        """Remember a result until the next ``commit``."""
        if self._store is not None:
            self._pending[key] = (fingerprint, health)

    def commit(self) -> None:
        """Write what was put since the last time."""
        store = self._store
        if store is None or not self._pending:
            return
        try:
            for _ in range(TRIES_MAX):
                store.load()
                outcome = store.commit(self._changed(store))
                self._pending = {key: each for key, each in self._pending.items() if key in outcome.contested}
                if not self._pending:
                    return
        except (StoreError, OSError) as error:
            self.trouble = str(error)

    def _changed(self, store: Store) -> list[Entry]:
        changed = []
        for key, (fingerprint, health) in self._pending.items():
            raw = store.entries.get(key)
            if raw is None or (entry := codec.decode_entry(raw)).fingerprint != fingerprint:
                continue
            entry.take_health(merged(health, entry.health))
            changed.append(entry)
        return changed
