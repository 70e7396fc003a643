"""What is known of each checkpoint in the index, beyond its encoded entry: what a pass is decided by.

Owns the stamps that entries were made from, and by key: what is not ok, where links lead, which run it belongs to,
which entries older rules made, which checkpoints are the same save. Promises that a stamp which no longer counts was
named with a reason (``invalidate``). Reads no file, no clock and no index; one thread uses it.
"""

from __future__ import annotations

import enum
import itertools
import posixpath
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from ckpt_indexer.metadata.entry import stamp_of
from ckpt_indexer.model import RULES, Stamp
from ckpt_indexer.passes.twins import Twins
from ckpt_indexer.paths import Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckpt_indexer.model import Entry, TwinScore

Value = TypeVar("Value")

# Problems of a link that could not be followed: its ``link_target`` is its own text. With any other it is a key, also
# where the target cannot be used. "io-error" may be either, and is tried again in any case.
_UNRESOLVED = frozenset({"link-dangling", "link-loop", "link-outside", "io-error"})


class Cause(enum.Enum):
    """Why an entry has to be made again although its stamp may say that nothing changed."""

    CONTESTED = "another writer changed it too, and nobody knows who read the disk later"
    OLDER = "the index's file said of it what was so earlier"
    RENEWAL = "older rules made it"
    RETRY = "what was wrong may have passed, or it was read too early"
    RUN = "more is known of its run"
    SHARD = "another shard of its set came, changed or went"
    TWIN = "the score of the same save under another name is another one"
    UNREADABLE = "something happened to a checkpoint that could not be read; a chmod changes no stamp"

    @property
    def outdates_sidecar(self) -> bool:
        """Whether our own sidecar is outdated too, although it is about the same files."""
        return self in (Cause.RUN, Cause.SHARD, Cause.TWIN)


class Known:
    """What is known, by key. Every entry of the index has a stamp here, ``None`` where it does not count any more."""

    def __init__(self) -> None:
        self.stamps: dict[Key, Stamp | None] = {}
        self.statuses: dict[Key, str] = {}  # of the entries that are not ok
        self.links: dict[Key, Key] = {}  # of a link -> of what it leads to, whether or not that is there
        self._runs: dict[Key, str] = {}  # key -> id of its Weights & Biases run
        self._renewals: dict[Key, None] = {}  # keys of entries that older rules made: read again when there is time
        self._distrusted: set[Key] = set()  # keys whose sidecars, if ours, prove nothing
        self._twins = Twins()
        self._rescans: set[Key] = set()  # keys that became invalid by what was recorded of others
        self._invalid: set[Key] = set()  # keys whose stamp does not count until they are read, whatever is loaded

    def load(self, entries: Iterable[Entry]) -> None:
        """Replace all that is known by what *entries* say; they are looked at one by one and not kept."""
        for table in (self.stamps, self.statuses, self.links, self._runs, self._renewals):
            table.clear()
        self._twins.clear()
        shared: dict[Any, Any] = {}
        for entry in entries:
            self._set(entry, shared)
            self._twins.add(entry)
        self._outdate_twins(self._twins.stale())
        self._invalid &= self.stamps.keys()
        self.stamps.update(dict.fromkeys(self._invalid))

    def record(self, entry: Entry) -> None:
        """Remember what a new entry says; twins whose score is another one by it are to be scanned again."""
        self._set(entry)
        if entry.path in self._rescans:
            self.stamps[entry.path] = None  # its reading began before the score of its twin was known
        else:
            self._invalid.discard(entry.path)
        self._outdate_twins(self._twins.note(entry))

    def forget(self, key: Key) -> None:
        """Drop a checkpoint that is gone; twins that had its score are to be scanned again."""
        for table in (self.stamps, self.statuses, self.links, self._runs, self._renewals):
            table.pop(key, None)
        self._distrusted.discard(key)
        self._invalid.discard(key)
        self._outdate_twins(self._twins.forget(key))

    def invalidate(self, key: Key, cause: Cause) -> None:
        """Mark the checkpoint at *key* to be read again when it is next scanned, or removed if it is gone.

        The mark lasts until the checkpoint is read, also where the index is loaded meanwhile.
        """
        self.stamps[key] = None
        self._invalid.add(key)
        if cause.outdates_sidecar:
            self._distrusted.add(key)

    def distrust_sidecar(self, key: Key) -> None:
        """Mark a checkpoint so that its next reading makes our own sidecar anew, whatever it says."""
        self._distrusted.add(key)

    def pop_distrust(self, key: Key) -> bool:
        """Return whether the sidecar at *key* proves nothing; asked once, by the reading that makes it anew."""
        is_distrusted = key in self._distrusted
        self._distrusted.discard(key)
        return is_distrusted

    def pop_rescans(self) -> set[Key]:
        """Return the keys that became invalid by what was recorded of others."""
        keys, self._rescans = self._rescans, set()
        return keys

    @property
    def has_rescans(self) -> bool:
        return bool(self._rescans)

    def pop_renewals(self, count_max: int) -> list[Key]:
        """Return, and invalidate, the keys of some entries that older rules made."""
        keys = list(itertools.islice(self._renewals, count_max))
        for key in keys:
            del self._renewals[key]
            self.invalidate(key, Cause.RENEWAL)
        return keys

    @property
    def has_renewals(self) -> bool:
        """Whether entries are left that older rules made."""
        return bool(self._renewals)

    def invalidate_shards(self, keys: Collection[Key]) -> None:
        """Mark shards to be scanned and read again: another one of their set is another one."""
        for key in keys:
            self.invalidate(key, Cause.SHARD)
        self._rescans.update(keys)

    def invalidate_run(self, run_id: str) -> list[Key]:
        """Return, and invalidate, the keys of a run's checkpoints."""
        keys = [key for key, its_run in self._runs.items() if its_run == run_id]
        for key in keys:
            self.invalidate(key, Cause.RUN)
        return keys

    def keys_with_inode(self, inodes: Collection[int]) -> list[Key]:
        """Return the keys of the entries that were made from one of these files."""
        return [key for key, stamp in self.stamps.items() if stamp is not None and stamp.fingerprint[2] in inodes]

    def twin_score(self, key: Key) -> TwinScore | None:
        """Return the score that a checkpoint gets from the same save under other names."""
        return self._twins.score_for(key)

    def counts_by_status(self) -> dict[str, int]:
        """Count the entries by status."""
        counts = Counter(self.statuses.values())
        counts["ok"] = len(self.stamps) - counts.total()
        return {status: count for status, count in sorted(counts.items()) if count}

    def _set(self, entry: Entry, shared: dict[Any, Any] | None = None) -> None:
        key = entry.path
        self.stamps[key] = stamp_of(entry, shared)
        _set_or_drop(self.statuses, key, None if entry.status == "ok" else entry.status)
        _set_or_drop(self.links, key, _link_leads_to(entry))
        _set_or_drop(self._runs, key, entry.wandb_run_id)
        if entry.rules < RULES:
            self._renewals[key] = None
        else:
            self._renewals.pop(key, None)

    def _outdate_twins(self, keys: Collection[Key]) -> None:
        for key in keys:
            self.invalidate(key, Cause.TWIN)
        self._rescans.update(keys)


def _set_or_drop(table: dict[Key, Value], key: Key, value: Value | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _link_leads_to(entry: Entry) -> Key | None:
    """Return the key at which a link's target is, or would be if it were there; ``None`` for what is no link."""
    if entry.link_target is None:
        return None
    if entry.problem is None or entry.problem.code not in _UNRESOLVED:
        return Key(entry.link_target)
    return Key(posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.link_target)))
