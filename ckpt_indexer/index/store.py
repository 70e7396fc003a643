"""The index's store: who may write, and in which order, so that a reader always sees a whole index.

Promises:
- One writer at a time: ``commit`` holds ``.checkpoint_index.lock`` from reading the current index until the new one
  stands. Nobody's entries are lost, whoever else writes (daemon, ``rebuild``, a training callback).
- Nobody's newer knowledge is replaced by older: what another writer changed since this store last read the file is not
  written over but named as *contested*, and whoever commits looks at the disk again.
- A lock dies with its holder (``flock``): a killed writer blocks nobody.
- A reader needs no lock: the file is replaced by rename, after its bytes were synced, and the folder is synced before
  ``commit`` returns. After a power cut there is the old index or the new one.
- What another program writes without the lock, from what it read earlier, takes nothing back: this store's entries and
  generation stand, fields that it does not know are kept, and the next commit writes the index even if nothing else
  changed. Such a write is known by its generation, which is not beyond ours: every locked writer adds one.
- What is not an index is set aside as ``.checkpoint_index.json.corrupt-<time>``, never overwritten; an index of a newer
  major version is left alone, and the error says so.

A ``Store`` remembers what it last read or wrote and reads the file again only if it is no longer that file. Entries
stay encoded: each is decoded once when it comes from the file, and handed on at that moment to whoever wants it. One
thread at a time may use it.
"""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt_indexer.index import codec
from ckpt_indexer.index.codec import Index
from ckpt_indexer.index.file import IndexFile, Unread
from ckpt_indexer.index.listings import Listings
from ckpt_indexer.model import utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckpt_indexer.model import Entry
    from ckpt_indexer.paths import Key


class CommitOutcome(NamedTuple):
    """What a commit did."""

    changed: list[Key]  # keys whose entries really changed or went
    contested: set[Key]  # keys that another writer changed since the store last looked: nothing was written for them


class Unverified(NamedTuple):
    """Keys to be checked on the disk, because the index's file was not what it should have been."""

    keys: set[Key]  # that vanished, changed, or are listed by somebody else
    older: set[Key]  # those whose entries are older than what was known: to be read again, whatever their stamps say


class Store:
    """The index of one root, for writers."""

    def __init__(
        self,
        root: str,
        *,
        suffixes: tuple[str, ...] | None = None,
        on_loaded: Callable[[Iterator[Entry]], object] | None = None,
        on_set_aside: Callable[[str, str], None] | None = None,
    ) -> None:
        """*suffixes* say which names are checkpoints; without them those of the index hold.

        *on_loaded* is called with all entries each time that they come from the file, also within ``commit``. The lock
        is held meanwhile. An entry is decoded when the iterator comes to it, and kept by nobody else.
        *on_set_aside* is called with the new name and the reason when a file that is no index was renamed.
        """
        self.loads = 0  # how often entries came from the file; a number that moved means another writer was there
        self.overwrites = 0  # how often the file was found written without the lock, from an older index
        self.overwritten_by = 0  # the generation of the last such file
        self._suffixes = suffixes
        self._file = IndexFile(root, on_set_aside)
        self._must_write = False  # the file is not what is known: the next commit writes it
        self._unverified = Unverified(set(), set())
        self._on_loaded = on_loaded
        self._index = Index()
        self._listings = Listings()

    @property
    def root(self) -> str:
        return self._file.root

    @property
    def writes(self) -> int:
        """How often this store has written the file."""
        return self._file.writes

    @property
    def generation(self) -> int:
        return self._index.generation

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of this index's checkpoints end in."""
        return self._suffixes or self._index.suffixes

    @property
    def is_behind(self) -> bool:
        """Whether the index on disk has other suffixes, or was overwritten: the next commit writes it."""
        return self._must_write or self.suffixes != self._index.suffixes

    @property
    def is_overwritten(self) -> bool:
        """Whether the index on disk lacks what is known, because somebody overwrote or removed it."""
        return self._must_write

    @property
    def entries(self) -> Mapping[Key, msgspec.Raw]:
        """The entries as last read or written, encoded."""
        return self._index.entries

    def pop_unverified(self) -> Unverified:
        """Return the keys that have to be checked on the disk, and forget them."""
        unverified, self._unverified = self._unverified, Unverified(set(), set())
        return unverified

    def is_current(self) -> bool:
        """Return whether the file is the one that was last read or written; one ``stat``, without the lock.

        A file that cannot be looked at is left to the next ``load``.
        """
        return self._file.is_current()

    def load(self) -> set[Key]:
        """Read the index if the file changed, and return the contested keys. A missing index is an empty one.

        Raises:
            IndexLocked: another writer kept the lock for ``LOCK_TIMEOUT_S``.
            IndexTooNew: a newer major version wrote it.

        """
        with self._file.locked() as folder:
            return self._load(folder)

    def commit(self, changed: Iterable[Entry], removed: Iterable[Key] = (), *, compared: bool = False) -> CommitOutcome:
        """Add entries, remove keys, and write the index once, or not at all if it says all that already.

        The entries' ``generation`` and ``indexed_at`` are set here. *compared* says that each of *changed* differs from
        what ``entries`` has for it: then only those that another writer changed since are compared again.

        Raises:
            IndexLocked: another writer kept the lock for ``LOCK_TIMEOUT_S``; nothing changed.
            IndexTooNew: a newer major version wrote the index; nothing changed.
            OSError: the index could not be written; the old one stands.

        """
        # Read after locking: a copy read earlier may predate another writer's commit, and saving it back would drop
        # that writer's entries.
        with self._file.locked() as folder:
            compared = compared and self.loads > 0
            contested = self._load(folder)
            now = utc_text(time.time_ns())
            entries = self._index.entries
            generation = self._index.generation + 1
            new: dict[Key, msgspec.Raw | None] = {}
            for entry in changed:
                if (not compared or entry.path in contested) and self._says(entry):
                    contested.discard(entry.path)
                elif entry.path not in contested:
                    stamped = msgspec.structs.replace(entry, generation=generation, indexed_at=now)
                    new[entry.path] = codec.encode_entry(stamped, entries.get(entry.path))
            new.update((key, None) for key in removed if key in entries and key not in contested)
            if new or self._file.is_missing or self.is_behind:
                self._write(folder, new, generation, now)
            else:
                self._file.sync(folder)
            return CommitOutcome(list(new), contested)

    def _says(self, entry: Entry) -> bool:
        """Return whether the index says what *entry* does."""
        raw = self._index.entries.get(entry.path)
        return raw is not None and codec.same_content(entry, codec.decode_entry(raw))

    def _write(self, folder: int, new: Mapping[Key, msgspec.Raw | None], generation: int, now: str) -> None:
        old = self._index
        before = {key: old.entries.get(key) for key in new}
        self._change(new)
        index = Index(generation, now, self.suffixes, old.entries, old.extra)
        try:
            self._file.write(folder, codec.iter_encoded(index, self._listings.encoded))
        except BaseException:
            self._change(before)
            raise
        self._index = index
        self._must_write = False

    def _change(self, new: Mapping[Key, msgspec.Raw | None]) -> None:
        """Apply changes to the entries in memory, and to what the ``checkpoints`` section says of them."""
        entries = self._index.entries
        for key, raw in new.items():
            old = entries.pop(key, None) if raw is None else entries.get(key)
            if old is not None:
                self._listings.remove(codec.decode_listed(old))
            if raw is not None:
                entries[key] = raw
                self._listings.add(codec.decode_listed(raw))
        self._listings.apply()

    def _load(self, folder: int) -> set[Key]:
        """Read the index if it changed; return the keys whose entries others changed since it was last read."""
        before, loads = self._index.entries, self.loads
        self._read(folder)
        if not loads or loads == self.loads:
            return set()
        now = self._index.entries
        contested = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        # A locked writer that began with an index which somebody else had overwritten passes on what that one lost.
        self._unverified.keys.update(contested)
        self._unverified.older.update(
            key for key in contested & now.keys() & before.keys() if _is_older(now[key], before[key])
        )
        return contested

    def _read(self, folder: int) -> None:
        index = self._file.read(folder)
        if isinstance(index, Index):
            if not self.loads or index.generation > self._index.generation:
                self._replace(index)
            else:
                self._resist(index)
        elif not self.loads or index is Unread.GONE:
            # Deleted by somebody who wants it made anew; a writer without the lock replaces it, and deletes none.
            self._replace(Index(generation=self._index.generation, suffixes=self._index.suffixes))
        elif index is Unread.SET_ASIDE:
            self._must_write = True

    def _resist(self, index: Index) -> None:
        """Keep what is known against a file that is not newer, and remember what it says beyond that.

        Only a writer without the lock makes one: with other content it was overwritten, with the same it was touched.
        """
        ours = self._index
        is_same = (
            index.generation == ours.generation
            and index.entries == ours.entries
            and index.extra == ours.extra
            and index.suffixes == ours.suffixes
            and index.listings == codec.encode_listings(self._listings.encoded)
        )
        if is_same:
            return
        ours.extra.update(index.extra)  # theirs may be newer; what only we know is not lost
        self._unverified.keys.update(index.entries.keys() - ours.entries.keys())
        self._unverified.keys.update(codec.decode_listed_keys(index.listings, self.suffixes) - ours.entries.keys())
        self.overwrites += 1
        self.overwritten_by = index.generation
        self._must_write = True

    def _replace(self, index: Index) -> None:
        """Replace what is known by what the file says."""
        encoded, index.entries = index.entries, {}  # a new one: `_load` compares it with the old
        index.listings = None
        self._index, self._listings = index, Listings()
        self._must_write = False
        self.loads += 1
        entries = self._decoded(encoded)
        try:
            if self._on_loaded is not None:
                self._on_loaded(entries)
        finally:
            collections.deque(entries, maxlen=0)  # all of them, whatever became of whom they were handed to
            self._listings.apply()

    def _decoded(self, encoded: Mapping[Key, msgspec.Raw]) -> Iterator[Entry]:
        """Decode entries one by one, and keep them and their listings as they are passed on."""
        for key, raw in encoded.items():
            # An entry edited by hand into something else is dropped here, and made anew by the next pass.
            try:
                entry = codec.decode_entry(raw)
            except msgspec.MsgspecError:
                continue
            if entry.path == key:
                entry.path = key  # one text in memory for both
                self._index.entries[key] = raw
                self._listings.add(entry)
                yield entry


def _is_older(raw: msgspec.Raw, than: msgspec.Raw) -> bool:
    return codec.decode_entry(raw).generation < codec.decode_entry(than).generation
