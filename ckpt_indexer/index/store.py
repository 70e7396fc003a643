"""The index's store: who may write, and in which order, so that a reader always sees a whole index.

Promises:
- One writer at a time: ``commit`` holds ``.checkpoint_index.lock`` from reading the current index until the new one
  stands. Nobody's entries are lost, whoever else writes (daemon, ``rebuild``, a training callback).
- Nobody's newer knowledge is replaced by older: what another writer changed since this store last looked is not written
  over but named as *contested*, and whoever commits looks at the disk again.
- A lock dies with its holder (``flock``): a killed writer blocks nobody.
- A reader needs no lock: the file is replaced by rename, after its bytes were synced, and the folder is synced before
  ``commit`` returns. After a power cut there is the old index or the new one.
- What another program writes without the lock, from what it read earlier, takes nothing back: this store's entries and
  generation stand, fields that it does not know are kept, and the next commit writes the index even if nothing else
  changed. Such a write is known by its generation, which is not beyond ours: every locked writer adds one.
- What is not an index is set aside as ``.checkpoint_index.json.corrupt-<time>``, never overwritten; an index of a newer
  major version is left alone, and the error says so.

A ``Store`` remembers what it last read or wrote and reads the file again only if it is no longer that file. One thread
at a time may use it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from filelock import Timeout

from ckpt_indexer import paths
from ckpt_indexer.errors import IndexCorrupt, IndexLocked, NotRegularFile
from ckpt_indexer.index import codec
from ckpt_indexer.index.codec import Index
from ckpt_indexer.model import utc_text
from ckpt_indexer.tree.local import fingerprint_of, locked_folder, opened_at, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckpt_indexer.model import Entry, Fingerprint

TORN_AGE_S = 1.0  # a file that is no JSON and older than this is not being written any more
TORN_WAIT_S, TORN_PAUSE_S = 0.5, 0.02  # for such a file to become whole; the lock is held, and its patience is longer
LOCK_TIMEOUT_S = 10.0  # a commit takes milliseconds; longer means a stuck writer
SET_ASIDE_INFIX = ".corrupt-"


class Outcome(NamedTuple):
    """What a commit did."""

    changed: list[str]  # keys whose entries really changed or went
    contested: set[str]  # keys that another writer changed since the store last looked: nothing was written for them


class Doubts(NamedTuple):
    """What has to be looked at on the disk, because the index's file was not what it should have been."""

    keys: set[str]  # that vanished, changed, or are listed by somebody else
    older: set[str]  # those whose entries are older than what was known: to be read again, whatever their stamps say


class Store:
    """The index of one root, for writers."""

    def __init__(
        self,
        root: str,
        *,
        suffixes: tuple[str, ...] | None = None,
        on_set_aside: Callable[[str, str], None] | None = None,
    ) -> None:
        """*suffixes* say which names are checkpoints; without them those of the index hold.

        *on_set_aside* is told (new name, reason) when a file that is no index was moved out of the way.
        """
        self.root = root
        self._suffixes = suffixes
        self._path = os.path.join(root, paths.INDEX_NAME)
        self.loads = 0  # how often entries came from the file; a number that moved means another writer was there
        self.overwrites = 0  # how often the file was found written without the lock, from an older index
        self.overwritten_by = 0  # the generation of the last such file
        self.writes = 0  # of the index's file
        self._must_write = False  # the file is not what is known: the next commit writes it
        self._doubts = Doubts(set(), set())
        self._on_set_aside = on_set_aside
        self._index = Index()
        self._fingerprint: Fingerprint | None = None  # of the file self._index came from
        self._is_unsynced = False  # a write was not known to be on disk when it failed
        self._members: dict[str, set[str]] = {}  # experiment -> keys
        self._listings: dict[str, msgspec.Raw] = {}

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
    def has_doubts(self) -> bool:
        return bool(self._doubts.keys)

    def take_doubts(self) -> Doubts:
        """Return what has to be looked at on the disk, and forget it."""
        doubts, self._doubts = self._doubts, Doubts(set(), set())
        return doubts

    def is_current(self) -> bool:
        """Return whether the file is the one that was last read or written; one ``stat``, without the lock.

        A file that cannot be looked at is left to the next ``load``.
        """
        try:
            return fingerprint_of(os.stat(self._path, follow_symlinks=False)) == self._fingerprint
        except FileNotFoundError:
            return self._fingerprint is None
        except OSError:
            return True

    @property
    def entries(self) -> Mapping[str, msgspec.Raw]:
        """The entries as last read or written, encoded."""
        return self._index.entries

    def load(self) -> set[str]:
        """Read the index if the file changed since; gives the contested keys. A missing index is an empty one.

        Raises:
            IndexTooNew: a newer major version wrote it.

        """
        with self._locked() as folder:
            return self._load(folder)

    def commit(self, changed: Iterable[Entry], removed: Iterable[str] = ()) -> Outcome:
        """Put entries in, take keys out, and write the index once, or not at all if it says all that already.

        The entries' ``generation`` and ``indexed_at`` are set here.

        Raises:
            IndexLocked: another writer kept the lock for ``LOCK_TIMEOUT_S``; nothing changed.
            IndexTooNew: a newer major version wrote the index; nothing changed.
            OSError: the index could not be written; the old one stands.

        """
        # Read after locking: a copy read earlier may predate another writer's commit, and saving it back would drop
        # that writer's entries.
        with self._locked() as folder:
            contested = self._load(folder)
            now = utc_text(time.time_ns())
            entries = self._index.entries
            generation = self._index.generation + 1
            new: dict[str, msgspec.Raw | None] = {}
            for entry in changed:
                previous = entries.get(entry.path)
                if previous is not None and codec.same_content(entry, codec.decode_entry(previous)):
                    contested.discard(entry.path)
                    continue
                if entry.path in contested:
                    continue
                stamped = msgspec.structs.replace(entry, generation=generation, indexed_at=now)
                new[entry.path] = codec.encode_entry(stamped, previous)
            new.update((key, None) for key in removed if key in entries and key not in contested)
            if new or self._fingerprint is None or self.is_behind:
                self._write(folder, new, generation, now)
            elif self._is_unsynced:
                os.fsync(folder)  # what failed before was only this: the new index has its name already
            self._is_unsynced = False
            return Outcome(list(new), contested)

    def _write(self, folder: int, new: Mapping[str, msgspec.Raw | None], generation: int, now: str) -> None:
        before = {key: self._index.entries.get(key) for key in new}
        self._put(new)
        index = self._index
        index = Index(
            generation=generation,
            last_updated=now,
            suffixes=self.suffixes,
            entries=index.entries,
            extra=index.extra,
        )
        try:
            pieces = codec.iter_encoded(index, self._listings)
            self._fingerprint = replace_file(folder, paths.INDEX_NAME, pieces)
            self.writes += 1
        except BaseException:
            self._put(before)
            self._is_unsynced = True
            raise
        self._index = index
        self._must_write = False

    def _put(self, new: Mapping[str, msgspec.Raw | None]) -> None:
        """Apply changes to the entries in memory, and to what the ``checkpoints`` section says of them."""
        experiments = set()
        for key, raw in new.items():
            old = self._index.entries.pop(key, None) if raw is None else self._index.entries.get(key)
            if old is not None:
                experiment = codec.decode_listed(old).experiment
                experiments.add(experiment)
                self._members[experiment].discard(key)
            if raw is not None:
                self._index.entries[key] = raw
                experiment = codec.decode_listed(raw).experiment
                experiments.add(experiment)
                self._members.setdefault(experiment, set()).add(key)
        for experiment in experiments:
            members = self._members[experiment]
            listing = codec.encode_listing(codec.decode_listed(self._index.entries[key]) for key in members)
            if listing is None:
                self._listings.pop(experiment, None)
            else:
                self._listings[experiment] = listing
            if not members:
                del self._members[experiment]

    def _load(self, folder: int) -> set[str]:
        """Read the index if it changed; gives the keys whose entries others changed since this store last looked."""
        before, loads = self._index.entries, self.loads
        self._read(folder)
        if not loads or loads == self.loads:
            return set()
        now = self._index.entries
        contested = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        # A locked writer that began with an index which somebody else had overwritten passes on what that one lost.
        self._doubts.keys.update(contested)
        self._doubts.older.update(
            key for key in contested & now.keys() & before.keys() if _is_older(now[key], before[key])
        )
        return contested

    def _read(self, folder: int) -> None:
        try:
            with opened_at(folder, paths.INDEX_NAME) as file:
                fingerprint = fingerprint_of(os.fstat(file))
                if fingerprint == self._fingerprint:
                    return
                data, fingerprint = _read_whole(file)
            index = codec.decode_index(data, self._path)
        except FileNotFoundError:
            # Deleted by somebody who wants it made anew; a writer without the lock replaces it, and deletes none.
            if self._fingerprint is not None or not self.loads:
                self._replace(self._emptied(), None)
        except NotRegularFile:
            self._set_aside(folder, "it is no regular file")
        except IndexCorrupt as error:
            self._set_aside(folder, str(error))
        else:
            if not self.loads or index.generation > self._index.generation:
                self._replace(index, fingerprint)
            else:
                self._meet_overwrite(index, fingerprint)

    def _meet_overwrite(self, index: Index, fingerprint: Fingerprint) -> None:
        """Let what is known stand against a file that is not newer, and remember what it says beyond that.

        Only a writer without the lock makes one: with other content it was overwritten, with the same it was touched.
        """
        ours = self._index
        is_same = (
            index.generation == ours.generation
            and index.entries == ours.entries
            and index.extra == ours.extra
            and index.suffixes == ours.suffixes
            and index.listings == codec.encode_listings(self._listings)
        )
        if is_same:
            self._fingerprint = fingerprint
            return
        ours.extra.update(index.extra)  # theirs may be newer; what only we know is not lost
        self._doubts.keys.update(index.entries.keys() - ours.entries.keys())
        self._doubts.keys.update(codec.decode_listed_keys(index.listings, self.suffixes) - ours.entries.keys())
        self.overwrites += 1
        self.overwritten_by = index.generation
        self._stand(fingerprint)

    def _stand(self, fingerprint: Fingerprint | None) -> None:
        """Keep what is known, though the file says something else: the next commit writes it."""
        self._fingerprint = fingerprint
        self._must_write = True

    def _emptied(self) -> Index:
        """Give what is left of an index whose file is gone."""
        return Index(generation=self._index.generation, suffixes=self._index.suffixes)

    def _replace(self, index: Index, fingerprint: Fingerprint | None) -> None:
        entries, index.entries = index.entries, {}  # a new one: `_load` compares it with the old
        index.listings = None
        self._index, self._members, self._listings = index, {}, {}
        usable: dict[str, msgspec.Raw | None] = {}
        for key, raw in entries.items():
            # An entry edited by hand into something else is dropped here, and made anew by the next pass.
            with contextlib.suppress(msgspec.MsgspecError):
                if codec.decode_entry(raw).path == key:
                    usable[key] = raw
        self._put(usable)
        self._fingerprint = fingerprint
        self._must_write = False
        self.loads += 1

    def _set_aside(self, folder: int, reason: str) -> None:
        moment = f"{paths.INDEX_NAME}{SET_ASIDE_INFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        taken = set(os.listdir(folder))  # two in one second must not replace each other; the lock keeps others out
        name = next(n for i in itertools.count(1) if (n := moment if i == 1 else f"{moment}-{i}") not in taken)
        os.replace(paths.INDEX_NAME, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)  # before a new index takes the name: a power cut may keep that rename and lose this one
        if self.loads:
            self._stand(None)
        else:
            self._replace(self._emptied(), None)
        if self._on_set_aside is not None:
            self._on_set_aside(name, reason)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the writers' lock; gives a descriptor of the root."""
        try:
            with locked_folder(self.root, paths.LOCK_NAME, timeout_s=LOCK_TIMEOUT_S) as folder:
                yield folder
        except Timeout:
            raise IndexLocked(path=os.path.join(self.root, paths.LOCK_NAME), waited_s=LOCK_TIMEOUT_S) from None


def _read_whole(file: int) -> tuple[bytes, Fingerprint]:
    """Return a file's bytes and fingerprint, after waiting a moment for one that is being written in place."""
    deadline = time.monotonic() + TORN_WAIT_S
    while True:
        with open(file, "rb", closefd=False) as stream:
            status = os.fstat(file)  # before its bytes: what is written after this changes the fingerprint
            stream.seek(0)
            data = stream.read()
        is_young = abs(time.time() - status.st_mtime) < TORN_AGE_S
        if not (is_young and time.monotonic() < deadline and codec.is_torn(data)):
            return data, fingerprint_of(status)
        time.sleep(TORN_PAUSE_S)


def _is_older(raw: msgspec.Raw, than: msgspec.Raw) -> bool:
    return codec.decode_entry(raw).generation < codec.decode_entry(than).generation
