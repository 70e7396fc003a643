"""Passes: from places to scan, over a plan, to a commit. The one piece that daemon, commands and callback share.

An ``Indexer`` joins what is known of each key (``Known``), what is being examined (``InFlight``), when to read again
(``Retries``) and what is not written yet (``Changes``); one thread owns it. ``scan_and_plan`` compares the disk with
what is known, ``run_for`` carries the plan out for a while, ``commit`` writes the index. A checkpoint that fails costs
its own entry only; an error of the store goes to the caller, and nothing is forgotten.
"""

from __future__ import annotations

import concurrent.futures as cf
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import structlog

from ckpt_indexer import paths
from ckpt_indexer.index import codec
from ckpt_indexer.index.store import Store
from ckpt_indexer.metadata.entry import bare_entry
from ckpt_indexer.model import Problem
from ckpt_indexer.passes.changes import Changes
from ckpt_indexer.passes.examine import Examined, Examiner
from ckpt_indexer.passes.in_flight import InFlight
from ckpt_indexer.passes.judge import COARSE_S
from ckpt_indexer.passes.known import Cause, Known
from ckpt_indexer.passes.orphans import Orphans
from ckpt_indexer.passes.reconcile import Scope, places_linked_to, reconcile, siblings_to_read
from ckpt_indexer.passes.retries import Retries, retry_kind
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.tree.local import remove_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from ckpt_indexer.model import Entry
    from ckpt_indexer.passes.examine import LookUp
    from ckpt_indexer.passes.scan import Found, Snapshot
    from ckpt_indexer.paths import Key, RelPath
    from ckpt_indexer.settings import Settings

IN_FLIGHT_PER_WORKER = 2  # one being read, one waiting: the worker process never idles
SINGLE_CHECKS_MAX = 1_000  # checkpoints that are scanned one by one; a pass over everything costs no more than so many


class Committed(NamedTuple):
    """One commit."""

    keys: list[Key]  # whose entries changed or went; none where only an overwritten index was written again
    generation: int
    seconds: float


class Indexer:
    """Brings the index of one root in line with its disk."""

    def __init__(
        self,
        root: str,
        *,
        workers: int = 1,
        sidecars: bool = True,
        sidecar_fill: bool = True,
        sidecar_names: str = "full",
        remove_orphans: bool = True,
        remove_entries: bool = True,
        suffixes: tuple[str, ...] | None = None,
        lookup: LookUp | None = None,
        executor: cf.Executor | None = None,
        on_examined: Callable[[Examined, bool], object] | None = None,
        log: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*executor* examines the checkpoints, *workers* at a time; without it threads do that, and end with us.

        It has to run what it is given in this process. Without *remove_entries* no entry is ever taken out.
        *on_examined* is called with each outcome, and whether it changed an entry or wrote a sidecar. *log* is a logger
        of structlog. *clock* gives seconds, and does not jump.
        """
        self.known = Known()
        self._log = structlog.get_logger("ckpt_indexer") if log is None else log
        self.store = Store(root, suffixes=suffixes, on_loaded=self._load_known, on_set_aside=self._log_set_aside)
        self._examiner = Examiner(
            root, sidecars=sidecars, fill=sidecar_fill, both_names=sidecar_names == "both", lookup=lookup
        )
        self._orphans = Orphans(self._examiner.remove_sidecar_if_ours) if remove_orphans else None
        self._retries = Retries()
        self._changes = Changes(may_remove=remove_entries)
        self._in_flight: InFlight[Found, Examined] = InFlight(
            cf.ThreadPoolExecutor(workers, thread_name_prefix="examine") if executor is None else executor,
            workers * IN_FLIGHT_PER_WORKER,
            is_owner=executor is None,
        )
        self._on_examined = on_examined
        self._clock = clock

    @classmethod
    def of(cls, root: str, settings: Settings, **changes: Any) -> Self:
        """Build an indexer as the settings say; *changes* are arguments that say otherwise."""
        names = ("workers", "sidecars", "sidecar_fill", "sidecar_names", "remove_orphans", "suffixes")
        return cls(root, **{**{name: getattr(settings, name) for name in names}, **changes})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in_flight.close()
        self._examiner.close()

    @property
    def root(self) -> str:
        return self.store.root

    @property
    def todo(self) -> Mapping[Key, Found]:
        """What is planned to be examined, and has not begun."""
        return self._in_flight.waiting

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._changes) or self.store.is_behind

    @property
    def has_news(self) -> bool:
        """Whether somebody may be waiting for what is to commit: for all but checkpoints that are being written."""
        return self._changes.has_news or self.store.is_behind

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do but to commit."""
        return self._in_flight.is_idle and not self.known.has_rescans

    def warm_up(self) -> None:
        """Start a worker process for the next checkpoint."""
        self._in_flight.submit_aside(self._examiner.warm_up)

    def load(self) -> bool:
        """Load what the index on disk says, if somebody else wrote it; return whether that was so.

        Raises:
            IndexLocked: another writer kept the lock.
            IndexTooNew: a newer major version wrote the index.

        """
        loads = self.store.loads
        self._discard_contested(self.store.load())
        return self.store.loads != loads

    def scan_and_plan(
        self,
        places: Collection[RelPath] = (paths.ROOT,),
        *,
        force: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Snapshot:
        """Scan *places* and plan what follows from it.

        With *force* every checkpoint found there is read again, whatever its stamp and its sidecar say.

        Raises:
            OSError: the root cannot be listed.
            ScanStopped: *should_stop* said so; nothing is planned.

        """
        if paths.ROOT not in places:
            places = places_linked_to(places, self.known.links)
        snapshot = scan(self.root, places, self.store.suffixes, should_stop=should_stop)
        if paths.ROOT not in places:
            self._invalidate_unreadable(snapshot.found)
        plan = reconcile(snapshot, self.known.stamps, places, self.store.suffixes)
        self.known.invalidate_shards(siblings_to_read(plan.read, plan.remove, self.known.stamps))
        self._plan(snapshot.found if force else plan.read, force=force)
        for key in plan.remove:
            self._forget(key)
        self._outdate_vanished(snapshot, places)
        if self._orphans is not None:
            self._orphans.remove(plan.orphans)
        for path in snapshot.temporaries:
            remove_temporary(self.root, path)
        if others := self._other_names(plan.read):
            self.scan_and_plan(others)
        return snapshot

    def replan(self, found: Mapping[Key, Found], *, force: bool = False) -> None:
        """Plan to read *found*, and nothing else that was planned; with *force* whatever their sidecars say."""
        self._in_flight.waiting.clear()
        self._plan(found, force=force)

    def run_for(self, seconds: float = float("inf")) -> None:
        """Carry out what is planned, for about *seconds*."""
        deadline = self._clock() + seconds
        while not self.is_idle:
            if rescans := self.known.pop_rescans():
                self.scan_and_plan(_paths_of(rescans))
            while (task := self._in_flight.pop_next()) is not None:
                self._start(*task)
            left = None if seconds == float("inf") else max(0.0, deadline - self._clock())
            for key, future in self._in_flight.wait(left):
                self._finish(key, future)
            if self._clock() >= deadline:
                return

    def commit(self) -> Committed | None:
        """Write what changed, or what somebody overwrote; ``None`` if nothing was to be written.

        Afterwards there may be more to do: see ``is_idle``.

        Raises:
            IndexLocked, IndexTooNew, OSError: nothing is lost; call again later.

        """
        started, writes = self._clock(), self.store.writes
        changes = self._changes
        keys, contested = self.store.commit(changes.entries.values(), changes.removed, compared=True)
        seconds = self._clock() - started
        discarded = self._discard_contested(contested)
        changes.clear()
        if discarded:
            self.scan_and_plan(_paths_of(discarded))
        return Committed(keys, self.store.generation, seconds) if self.store.writes != writes else None

    def finish(self) -> None:
        """Carry out all that is planned and commit it; raises what ``commit`` raises."""
        while True:
            self.run_for()
            self.commit()
            if places := self.pop_unverified():
                self.scan_and_plan(places)
            if self.is_idle:  # and no other writer changed what we changed
                return

    def pop_unverified(self) -> set[RelPath]:
        """Return the places to scan because of what somebody else wrote into the index's file."""
        unverified = self.store.pop_unverified()
        for key in unverified.older & self.known.stamps.keys():
            self.known.invalidate(key, Cause.OLDER)
        return {paths.ROOT} if len(unverified.keys) > SINGLE_CHECKS_MAX else _paths_of(unverified.keys)

    def retry_due_s(self) -> float:
        """Return the seconds until ``pop_due_retries`` has something."""
        return max(0.0, self._retries.due_s() - self._clock())

    def doubtful_s(self) -> float | None:
        """Return the seconds until what was just read can be read once more and trusted; ``None``: it can be now.

        A file that changes within one tick of its file system's clock keeps its fingerprint.
        """
        now_s = self._clock()
        due_s = self._retries.last_single_due_s(now_s, COARSE_S)
        return max(0.0, due_s - now_s) if due_s > float("-inf") else None

    def pop_due_retries(self) -> set[RelPath]:
        """Return the paths that are due to be scanned again, whatever their stamps say."""
        busy = self._in_flight.keys | self._in_flight.waiting.keys()
        due = [key for key in self._retries.pop_due(self._clock()) if key not in busy]
        for key in due:
            if key in self.known.stamps:
                self.known.invalidate(key, Cause.RETRY)
            else:
                self._retries.drop(key)
        return _paths_of(due)

    def pop_renewals(self, count_max: int) -> set[RelPath]:
        """Return the paths of some entries that older rules made, to be scanned again."""
        return _paths_of(self.known.pop_renewals(count_max))

    def invalidate_incomplete(self) -> None:
        """Mark every incomplete checkpoint to be read again when it is next scanned: once whole, it may look the same.

        The end of a download, for example, may show in nothing but that the downloader's control file is gone.
        """
        for key, status in self.known.statuses.items():
            if status == "incomplete":
                self.known.invalidate(key, Cause.RETRY)

    def invalidate_run(self, run_id: str) -> set[RelPath]:
        """Return the paths of a run's checkpoints, to be scanned again: more is known of the run now."""
        return _paths_of(self.known.invalidate_run(run_id))

    def _load_known(self, entries: Iterator[Entry]) -> None:
        """Replace what is known by what the index says, and by what we found out and have not written yet."""
        changes, now_s = self._changes, self._clock()

        def theirs_then_ours() -> Iterator[Entry]:
            for entry in entries:
                if entry.path not in changes.entries and entry.path not in changes.removed:
                    if entry.path not in self._retries and (kind := retry_kind(entry)) is not None:
                        self._retries.plan(entry.path, kind, now_s)
                    yield entry
            yield from changes.entries.values()

        self.known.load(theirs_then_ours())

    def _discard_contested(self, contested: set[Key]) -> set[Key]:
        """Discard pending results for checkpoints that another writer changed since we last read; return their keys.

        Nobody can tell who read the disk later: the next scan decides.
        """
        discarded = self._changes.discard(contested) | contested & self._in_flight.keys
        self._in_flight.outdate(discarded)
        for key in discarded:
            self.known.invalidate(key, Cause.CONTESTED)
        return discarded

    def _plan(self, found: Mapping[Key, Found], *, force: bool) -> None:
        self._in_flight.waiting.update(found)
        if force:
            for key in found:
                self.known.distrust_sidecar(key)

    def _invalidate_unreadable(self, found: Collection[Key]) -> None:
        """Invalidate what could not be read and something happened to; the next retry may be minutes away."""
        for key in found:
            if self.known.statuses.get(key) == "unreadable" and key in self._retries:
                self.known.invalidate(key, Cause.UNREADABLE)

    def _outdate_vanished(self, snapshot: Snapshot, places: Collection[RelPath]) -> None:
        """Drop what will come of checkpoints that are gone while they are being examined."""
        scope, unseen = Scope(places), Scope(snapshot.unseen)
        for key in self._in_flight.keys - snapshot.found.keys():
            path = paths.to_path(key)
            if scope.covers(path) and not unseen.covers(path):
                self._in_flight.outdate([key])

    def _other_names(self, read: Mapping[Key, Found]) -> set[RelPath]:
        """Return the paths of the other names, in the index, of files that changed."""
        inodes = {found.stamp.fingerprint[2] for found in read.values() if found.has_hard_links}
        keys = self.known.keys_with_inode(inodes) if inodes else ()
        return {paths.to_path(key) for key in keys if key not in self._in_flight.waiting}

    def _start(self, key: Key, found: Found) -> None:
        force, twin = self.known.pop_distrust(key), self.known.twin_score(key)
        self._in_flight.submit(key, self._examiner.examine, key, found, force=force, twin=twin)

    def _finish(self, key: Key, future: cf.Future[Examined]) -> None:
        examined = self._outcome_of(key, future)
        entry = examined.entry
        if examined.is_gone:
            if key not in self._in_flight.waiting:
                self._forget(key)
            return
        raw = self.store.entries.get(key)
        previous = None if raw is None else codec.decode_entry(raw)
        if previous is not None and previous.health is not None and previous.fingerprint == entry.fingerprint:
            entry.take_health(previous.health)  # it still holds
        is_changed = previous is None or not codec.same_content(entry, previous)
        if is_changed:
            self._changes.put(entry)
        else:
            self._changes.discard([key])
        self.known.record(entry)
        self._plan_retry(entry, examined.look_again_s)
        self._log.debug("checkpoint_indexed", key=key, status=entry.status)
        if self._on_examined is not None:
            self._on_examined(examined, is_changed or examined.wrote_sidecar)

    def _outcome_of(self, key: Key, future: cf.Future[Examined]) -> Examined:
        try:
            return future.result()
        except Exception as error:  # noqa: BLE001 - one checkpoint must not end the pass over the others
            # A defect of ours, hence the traceback.
            self._log.exception("checkpoint_failed", key=key)
            problem = Problem.of("reader-crashed", f"{type(error).__name__}: {error}")
            return Examined(bare_entry(key, (0, 0, 0), None, problem))

    def _plan_retry(self, entry: Entry, look_again_s: float | None) -> None:
        key, kind = entry.path, retry_kind(entry)
        if kind is not None:
            self._retries.plan(key, kind, self._clock())
        elif look_again_s is not None:
            self.known.distrust_sidecar(key)  # ours, which says what was read too early
            self._retries.plan_once(key, look_again_s, self._clock())
        else:
            self._retries.drop(key)

    def _forget(self, key: Key) -> None:
        """Remove a checkpoint that is gone."""
        self._in_flight.waiting.pop(key, None)
        self._retries.drop(key)
        self.known.forget(key)
        if key in self.store.entries:
            self._changes.remove(key)
        else:
            self._changes.discard([key])

    def _log_set_aside(self, name: str, reason: str) -> None:
        self._log.warning("index_set_aside", file=name, reason=reason)


def _paths_of(keys: Iterable[Key]) -> set[RelPath]:
    return {paths.to_path(key) for key in keys}
