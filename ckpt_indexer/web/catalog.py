"""The index, followed: the newest view of it, and what changed from one to the next.

Owns the one place where the server touches the index's file. ``look`` costs one ``stat`` while the file has not
changed; where it has, only entries whose bytes are new are decoded, to see that they are entries. A file that cannot
be read leaves the last view standing, with ``error`` beside it. Knows no HTTP and no event loop: any thread may look,
one at a time does; reading ``view`` and ``error`` never waits.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.errors import IndexCorrupt, IndexMissing, NotRegularFile, RootUnusable, StoreError, reason_of
from ckpt_indexer.index import codec
from ckpt_indexer.index.reader import HOLD_S, INDEX_MAX
from ckpt_indexer.tree.local import fingerprint_of, opened_file
from ckpt_indexer.web.view import View

if TYPE_CHECKING:
    from ckpt_indexer.model import Fingerprint

CHANGES_MAX = 1000  # generations that can be resumed: a quarter of an hour of an index that changes each second
CHANGED_KEYS_MAX = 5000  # in one generation; more is a new index, and cheaper to load anew
FEED_KEYS_MAX = 50_000  # in all generations together; 10 MB of keys at worst
MISSING_S = 0.5  # a file system in between (NFS, FUSE) may show nothing while the index is replaced


class Change(msgspec.Struct, frozen=True):
    """What one generation changed."""

    generation: int
    keys: tuple[str, ...]  # of entries that came, changed or went


class Delta(NamedTuple):
    """What several generations changed."""

    view: View  # the newest, which holds what changed
    changed: list[str]
    removed: list[str]


class Catalog:
    """The index of one root, for readers."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.view = View()
        self.error: StoreError | RootUnusable | None = IndexMissing(path=os.path.join(root, paths.INDEX_NAME))
        self.epoch = 0  # grows when generations no longer follow each other: another index took the place
        self.size_bytes = 0  # of the index's file
        self._fingerprint: Fingerprint | None = None
        self._refused: Fingerprint | None = None  # of a file that is no index, not to be read again and again
        self._missing_since: float | None = None
        self._held_since: float | None = None  # when the file was first seen to be older than the view, or torn
        self._feed: deque[Change] = deque()
        self._feed_keys = 0
        self._floor = 0  # the oldest generation that can be resumed from
        self._lock = threading.Lock()  # held for a whole look
        self._feed_lock = threading.Lock()  # held for moments: view and feed change together

    def look(self) -> bool:
        """Take the newest index if the file is not the one that was read; say whether anything changed."""
        with self._lock:
            try:
                return self._look()
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
        """Give what changed after a generation; ``None`` where that is not known any more."""
        with self._feed_lock:
            view = self.view
            if not self._floor <= generation <= view.generation:
                return None
            keys = {key for change in self._feed if change.generation > generation for key in change.keys}
        changed = sorted(key for key in keys if view.get(key) is not None)
        return Delta(view, changed, sorted(keys.difference(changed)))

    @property
    def _path(self) -> str:
        return os.path.join(self.root, paths.INDEX_NAME)

    def _look(self) -> bool:
        fingerprint = fingerprint_of(os.stat(self._path, follow_symlinks=False))
        if fingerprint == self._refused:
            return False
        if fingerprint == self._fingerprint:
            was_failing, self.error, self._missing_since = self.error is not None, None, None
            self._held_since = None
            return was_failing
        with opened_file(self.root, paths.INDEX_NAME) as descriptor:
            # Opened before it is looked at, so that the fingerprint belongs to the bytes read.
            status = os.fstat(descriptor)
            if status.st_size > INDEX_MAX:
                raise IndexCorrupt(path=self._path, reason="it is larger than any index")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read()
        fingerprint = fingerprint_of(status)
        try:
            index = codec.decode_index(data, self._path)
            if index.generation <= self.view.generation and self._is_held():
                return False
            self._take(index, "-".join(map(str, fingerprint)))
        except StoreError:
            if codec.is_torn(data) and self._is_held():
                return False
            self._refused = fingerprint
            raise
        self._held_since = None
        self._fingerprint, self.size_bytes = fingerprint, status.st_size
        self.error = self._missing_since = None
        return True

    def _is_held(self) -> bool:
        """Return whether the view stands against a file that is older or torn, as for ``read_index``."""
        if self._fingerprint is None or self.error is not None or not is_daemon_alive(self.root):
            return False
        now = time.monotonic()
        self._held_since = now if self._held_since is None else self._held_since
        return now - self._held_since <= HOLD_S

    def _take(self, index: codec.Index, identity: str) -> None:
        """Make a view of an index; entries that stand as they were share everything with the old view."""
        old = self.view
        old_rows = {key: row for row, key in enumerate(old.keys)}
        entries, rows, changed = [], [], []
        for key, raw in sorted(index.entries.items()):
            row = old_rows.pop(key, -1)
            if row >= 0 and old.raws[row] == raw:
                entries.append((old.keys[row], raw))
                rows.append(row)
                continue
            clean = _checked(key, raw)
            if clean is None:
                if row >= 0:
                    changed.append(key)
                continue
            if row >= 0 and old.raws[row] == clean:
                entries.append((old.keys[row], clean))
                rows.append(row)
                continue
            entries.append((key, clean))
            rows.append(-1)
            changed.append(key)
        if index.entries and not entries:
            raise IndexCorrupt(path=self._path, reason="none of its entries can be read")
        view = View(generation=index.generation, last_updated=index.last_updated, identity=identity, entries=entries)
        view.take_over(old, rows)
        changed += old_rows
        with self._feed_lock:
            self._note(old, view, changed)
            self.view = view

    def _note(self, old: View, view: View, changed: list[str]) -> None:
        """Put what changed into the feed."""
        is_successor = view.generation > old.generation or (view.generation == old.generation and not changed)
        if self._fingerprint is None or not is_successor or len(changed) > CHANGED_KEYS_MAX:
            self.epoch += not is_successor
            self._feed.clear()
            self._feed_keys, self._floor = 0, view.generation
            return
        self._feed.append(Change(view.generation, tuple(changed)))
        self._feed_keys += len(changed)
        while len(self._feed) > CHANGES_MAX or self._feed_keys > FEED_KEYS_MAX:
            gone = self._feed.popleft()
            self._feed_keys -= len(gone.keys)
            self._floor = gone.generation

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


def _checked(key: str, raw: msgspec.Raw) -> msgspec.Raw | None:
    """Give an entry as it may be sent: on one line; ``None`` for what is no entry, as every reader of the index."""
    try:
        if codec.decode_entry(raw).path != key:
            return None
    except msgspec.MsgspecError:
        return None
    data = bytes(raw)
    if b"\n" in data or b"\r" in data:  # an index that was edited by hand
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    return raw
