"""The index, followed: the newest table of it, and what changed from one to the next.

Owns the one place where a long-lived reader touches the index's file. ``refresh`` costs one ``stat`` while the file
has not changed; where it has, only entries whose bytes are new are decoded, to see that they are entries. A file that
cannot be read leaves the last table standing, with ``error`` beside it. Knows no HTTP and no event loop: any thread may
refresh, one at a time does; reading ``table`` and ``error`` never waits.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.errors import (
    IndexCorrupt,
    IndexMissing,
    NotRegularFile,
    RootUnusable,
    StoreError,
    reason_of,
)
from ckpt_indexer.index import codec
from ckpt_indexer.index.changes import ChangeFeed
from ckpt_indexer.index.columns import Table
from ckpt_indexer.index.reader import HOLD_S, INDEX_MAX
from ckpt_indexer.tree.local import fingerprint_of, opened_file

if TYPE_CHECKING:
    from ckpt_indexer.index.changes import Delta
    from ckpt_indexer.index.columns import Pair
    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.paths import Key

MISSING_S = 0.5  # a file system in between (NFS, FUSE) may show nothing while the index is replaced


class _Merged(NamedTuple):
    """An index's entries, as far as they are entries."""

    entries: list[Pair]  # sorted by key; those that stand as they were share their keys with the old table
    rows: list[int]  # of each in the old table, -1 for those that changed
    changed: list[Key]  # of entries that came, changed or went


class FollowedIndex:
    """The index of one root, for readers that stay."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.table = Table()
        self.error: StoreError | RootUnusable | None = IndexMissing(path=os.path.join(root, paths.INDEX_NAME))
        self.size_bytes = 0  # of the index's file
        self._fingerprint: Fingerprint | None = None
        self._refused: Fingerprint | None = None  # of a file that is no index, not to be read again and again
        self._missing_since: float | None = None
        self._held_since: float | None = None  # when the file was first seen to be older than the table, or torn
        self._feed = ChangeFeed()
        self._lock = threading.Lock()  # held while the file is read
        self._feed_lock = threading.Lock()  # held for moments: table and feed change together

    @property
    def epoch(self) -> int:
        """How often another index took the place: across that, generations cannot be compared."""
        return self._feed.epoch

    def refresh(self) -> bool:
        """Read the newest index if the file is not the one that was read; return whether anything changed."""
        with self._lock:
            try:
                return self._refresh()
            except FileNotFoundError:
                return self._fail_missing()
            except (StoreError, RootUnusable) as error:
                return self._fail(error)
            except NotRegularFile as error:
                return self._fail(IndexCorrupt(path=self._path, reason=reason_of(error)))
            except OSError as error:
                if error.errno == errno.ESTALE:
                    return self._fail_missing()
                return self._fail(RootUnusable(root=self.root, reason=reason_of(error)))

    def since(self, generation: int) -> Delta | None:
        """Return what changed after a generation; ``None`` where that is not known any more."""
        with self._feed_lock:
            return self._feed.since(generation, self.table)

    @property
    def _path(self) -> str:
        return os.path.join(self.root, paths.INDEX_NAME)

    def _refresh(self) -> bool:
        fingerprint = fingerprint_of(os.stat(self._path, follow_symlinks=False))
        if fingerprint == self._refused:
            return False
        if fingerprint == self._fingerprint:
            was_failing, self.error, self._missing_since = self.error is not None, None, None
            self._held_since = None
            return was_failing
        data, fingerprint = self._read()
        try:
            index = codec.decode_index(data, self._path)
            if index.generation <= self.table.generation and self._is_held():
                return False
            self._replace(index, "-".join(map(str, fingerprint)))
        except StoreError:
            if codec.is_torn(data) and self._is_held():
                return False
            self._refused = fingerprint
            raise
        self._held_since = None
        self._fingerprint, self.size_bytes = fingerprint, fingerprint[0]
        self.error = self._missing_since = None
        return True

    def _read(self) -> tuple[bytes, Fingerprint]:
        """Read the file; opened before its status is asked for, so that the fingerprint belongs to the bytes."""
        with opened_file(self.root, paths.INDEX_NAME) as descriptor:
            status = os.fstat(descriptor)
            if status.st_size > INDEX_MAX:
                raise IndexCorrupt(path=self._path, reason="it is larger than any index")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(), fingerprint_of(status)

    def _is_held(self) -> bool:
        """Return whether the table stands against a file that is older or torn, as for ``read_index``."""
        if self._fingerprint is None or self.error is not None or not is_daemon_alive(self.root):
            return False
        now = time.monotonic()
        self._held_since = now if self._held_since is None else self._held_since
        return now - self._held_since <= HOLD_S

    def _replace(self, index: codec.Index, identity: str) -> None:
        """Make the table of an index the newest."""
        old = self.table
        merged = _merge(old, index)
        if index.entries and not merged.entries:
            raise IndexCorrupt(path=self._path, reason="none of its entries can be read")
        table = Table(
            generation=index.generation, last_updated=index.last_updated, identity=identity, entries=merged.entries
        )
        table.carry_over(old, merged.rows)
        with self._feed_lock:
            self._feed.add(old, table, merged.changed, is_first=self._fingerprint is None)
            self.table = table

    def _fail_missing(self) -> bool:
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        if self._fingerprint is not None and now - self._missing_since < MISSING_S:
            return False
        if not os.path.isdir(self.root):
            return self._fail(RootUnusable(root=self.root, reason="there is no such folder"))
        return self._fail(IndexMissing(path=self._path))

    def _fail(self, error: StoreError | RootUnusable) -> bool:
        was, self.error = self.error, error
        return str(was) != str(error)


def _merge(old: Table, index: codec.Index) -> _Merged:
    """Compare an index's entries with the old table's."""
    old_rows = {key: row for row, key in enumerate(old.keys)}
    merged = _Merged([], [], [])
    for key, raw in sorted(index.entries.items()):
        row = old_rows.pop(key, -1)
        is_same = row >= 0 and old.raws[row] == raw
        clean = raw if is_same else _checked(key, raw)
        if clean is None:
            if row >= 0:
                merged.changed.append(key)
            continue
        is_same = is_same or (row >= 0 and old.raws[row] == clean)
        merged.entries.append((old.keys[row] if is_same else key, clean))
        merged.rows.append(row if is_same else -1)
        if not is_same:
            merged.changed.append(key)
    merged.changed.extend(old_rows)
    return merged


def _checked(key: Key, raw: msgspec.Raw) -> msgspec.Raw | None:
    """Return an entry as it may be sent: on one line; ``None`` for what is no entry, as every reader of the index."""
    try:
        if codec.decode_entry(raw).path != key:
            return None
    except msgspec.MsgspecError:
        return None
    data = bytes(raw)
    if b"\n" in data or b"\r" in data:  # an index that was edited by hand
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    return raw
