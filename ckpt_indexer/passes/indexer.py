"""Passes: from places to look at, over a plan, to a commit. The one piece that both the daemon and ``rebuild`` run.

An ``Indexer`` holds what was decided and not yet done (``todo``) and what was done and not yet written (``changes``);
one thread owns it. ``look`` scans and plans, ``work`` carries the plan out for a while, ``commit`` writes the index.
A checkpoint that fails costs its own entry only; an error of the store goes to the caller, and nothing is forgotten.
"""

from __future__ import annotations

import concurrent.futures as cf
import itertools
import posixpath
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import structlog

from ckpt_indexer import paths
from ckpt_indexer.index import codec
from ckpt_indexer.index.store import Store
from ckpt_indexer.metadata.entry import bare_entry
from ckpt_indexer.model import RULES, Entry, Problem
from ckpt_indexer.passes.examine import Examined, Examiner
from ckpt_indexer.passes.reconcile import Scope, places_linked_to, reconcile
from ckpt_indexer.passes.scan import Found, Stamp, scan, stamp_of
from ckpt_indexer.passes.twins import Twins
from ckpt_indexer.tree.local import remove_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckpt_indexer.passes.examine import LookUp
    from ckpt_indexer.passes.scan import Snapshot
    from ckpt_indexer.settings import Settings

IN_FLIGHT_PER_WORKER = 2  # one being read, one waiting: the worker process never idles
DOUBTS_MAX = 1_000  # checkpoints that are looked at one by one; a pass over everything costs no more than so many
RETRY_FIRST_S = {"incomplete": 0.25, "unreadable": 5.0, "sidecar": 5.0}
RETRY_LAST_S = {"incomplete": 60.0, "unreadable": 600.0, "sidecar": 600.0}
_TRANSIENT = frozenset({"io-error", "permission-denied", "time-limit", "reader-crashed"})

log = structlog.get_logger("ckpt_indexer")


class Committed(NamedTuple):
    """One commit."""

    keys: list[str]  # whose entries changed or went; none where only an overwritten index was written again
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
        suffixes: tuple[str, ...] | None = None,
        lookup: LookUp | None = None,
    ) -> None:
        self.root = root
        self.store = Store(root, suffixes=suffixes, on_set_aside=_log_set_aside)
        self.examiner = Examiner(
            root, sidecars=sidecars, fill=sidecar_fill, both_names=sidecar_names == "both", lookup=lookup
        )
        self.known: dict[str, Stamp | None] = {}
        self.todo: OrderedDict[str, Found] = OrderedDict()
        self.statuses: dict[str, str] = {}  # of the entries that are not ok
        self.force = False  # read and write anew what is current
        self.on_examined: Callable[[Examined, bool], None] | None = None  # told each outcome: did it change anything?
        self._twins = Twins()
        self._relook: set[str] = set()  # paths to look at again before all else that is planned
        self._renewals: dict[str, None] = {}  # keys of entries that older rules made: read again when there is time
        self._loads = 0  # of the store, when ``known`` was last taken from it
        self._links: dict[str, str] = {}
        self._runs: dict[str, str] = {}  # key -> id of its Weights & Biases run
        self._changed: dict[str, Entry] = {}
        self._removed: set[str] = set()
        self._has_news = False
        self._retries: dict[str, tuple[float, float]] = {}  # key -> (when due, delay after that)
        self._suspect: set[str] = set()  # read within the clock's tick of their last change: a sidecar proves nothing
        self._outdated: set[str] = set()  # being examined, and what comes of it counts no more
        self._foreign_orphans: set[tuple[str, object]] = set()
        self._remove_orphans = remove_orphans
        self._pool = cf.ThreadPoolExecutor(workers, thread_name_prefix="examine")
        self._in_flight: dict[cf.Future[Examined], str] = {}
        self._in_flight_max = workers * IN_FLIGHT_PER_WORKER

    @classmethod
    def of(cls, root: str, settings: Settings, **changes: Any) -> Self:
        """Build an indexer as the settings say; *changes* are arguments that say otherwise."""
        names = ("workers", "sidecars", "sidecar_fill", "sidecar_names", "remove_orphans", "suffixes")
        return cls(root, **{**{name: getattr(settings, name) for name in names}, **changes})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.examiner.close()

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._changed or self._removed) or self.store.is_behind

    @property
    def has_news(self) -> bool:
        """Whether somebody may be waiting for what is to commit: for all but checkpoints that are being written."""
        return self._has_news or self.store.is_behind

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do but to commit."""
        return not self.todo and not self._in_flight and not self._relook

    def warm_up(self) -> None:
        """Have a worker process ready for the next checkpoint."""
        self._pool.submit(self.examiner.warm_up)

    def load(self) -> bool:
        """Take over what the index on disk says, if somebody else wrote it; say whether that was so.

        Raises:
            IndexTooNew: a newer major version wrote the index.

        """
        contested = self.store.load()
        if self.store.loads == self._loads:
            return False
        self._loads = self.store.loads
        self.known, self._links, self._runs, self.statuses = {}, {}, {}, {}
        self._twins.clear()
        self._renewals.clear()
        for key, raw in self.store.entries.items():
            entry = codec.decode_entry(raw)
            entry.path = paths.Key(key)  # one text in memory for both
            self._note(entry)
            self._twins.add(entry)
            if entry.rules < RULES:
                self._renewals[key] = None
        self._doubt(contested)
        for key in self._twins.stale():
            self._suspect.add(key)
            self.known[key] = None
        return True

    def look(self, places: Collection[str] = ("",), *, forget: bool = True) -> Snapshot:
        """Scan *places* and plan what follows from it; without *forget* no entry is taken out.

        Raises:
            OSError: the root cannot be listed.

        """
        if "" not in places:
            places = places_linked_to(places, self._links)
        snapshot = scan(self.root, places, self.store.suffixes)
        if "" not in places:
            # An event about what could not be read: a chmod changes no stamp, and the next retry may be minutes away.
            for key in snapshot.found.keys() & self._retries.keys():
                if self.statuses.get(key) == "unreadable":
                    self.known[key] = None
        plan = reconcile(snapshot, self.known, places, self.store.suffixes)
        self.todo.update(plan.read)
        for key in plan.remove if forget else ():
            self._forget(key)
        scope, unseen = Scope(places), Scope(snapshot.unseen)
        for key in self._in_flight.values():
            path = paths.to_path(key)
            if key not in snapshot.found and scope.covers(path) and not unseen.covers(path):
                self._outdated.add(key)
        if self._remove_orphans:
            for key, fingerprint in plan.orphans.items():
                if (key, fingerprint) in self._foreign_orphans:
                    continue
                if not self.examiner.remove_sidecar_if_ours(key):
                    self._foreign_orphans.add((key, fingerprint))
        for path in snapshot.temporaries:
            remove_temporary(self.root, path)
        twins = self._twins_of(plan.read)
        if twins:
            self.look(twins)
        return snapshot

    def _twins_of(self, read: Mapping[str, Found]) -> set[str]:
        """Find the other names, in the index, of files that changed."""
        inodes = {found.stamp.fingerprint[2] for found in read.values() if found.has_twins}
        if not inodes:
            return set()
        twins = (key for key, stamp in self.known.items() if stamp is not None and stamp.fingerprint[2] in inodes)
        return {paths.to_path(key) for key in twins if key not in self.todo}

    def work(self, seconds: float = float("inf")) -> None:
        """Carry out what is planned, for about *seconds*."""
        deadline = time.monotonic() + seconds
        while not self.is_idle:
            if self._relook:
                places, self._relook = self._relook, set()
                self.look(places, forget=False)
            while len(self._in_flight) < self._in_flight_max and (key := self._next_key()) is not None:
                force = self.force or key in self._suspect
                self._suspect.discard(key)
                twin = self._twins.score_for(key)
                found = self.todo.pop(key)
                future = self._pool.submit(self.examiner.examine, key, found, force=force, twin=twin)
                self._in_flight[future] = key
            left = deadline - time.monotonic()
            done, _ = cf.wait(self._in_flight, max(0.0, left) if seconds != float("inf") else None, cf.FIRST_COMPLETED)
            for future in done:
                self._finish(self._in_flight.pop(future), future)
            if time.monotonic() >= deadline:
                return

    def commit(self) -> Committed | None:
        """Write what changed, or what somebody overwrote; ``None`` if nothing was to be written.

        Afterwards there may be more to do: see ``is_idle``.

        Raises:
            IndexLocked, IndexTooNew, OSError: nothing is lost; call again later.

        """
        started, writes = time.monotonic(), self.store.writes
        keys, contested = self.store.commit(self._changed.values(), self._removed)
        seconds = time.monotonic() - started
        doubtful = self._doubt(contested)
        self._changed, self._removed, self._has_news = {}, set(), False
        if doubtful:
            self.look({paths.to_path(key) for key in doubtful})
        return Committed(keys, self.store.generation, seconds) if self.store.writes != writes else None

    def finish(self) -> None:
        """Carry out all that is planned and commit it; raises what ``commit`` raises."""
        while True:
            self.work()
            self.commit()
            if places := self.take_doubts():
                self.look(places)
            if self.is_idle:  # and no other writer left us in doubt
                return

    def take_doubts(self) -> set[str]:
        """Return the places that have to be looked at because of what somebody else wrote into the index's file."""
        doubts = self.store.take_doubts()
        for key in doubts.older & self.known.keys():
            self.known[key] = None
        if len(doubts.keys) > DOUBTS_MAX:
            return {""}
        return {paths.to_path(key) for key in doubts.keys}

    def _doubt(self, contested: set[str]) -> set[str]:
        """Drop what we found out, or are about to, of checkpoints that another writer knew later; gives their keys.

        Nobody can tell whose look at the disk was the later one: the next look decides.
        """
        busy = set(self._in_flight.values())
        doubtful = contested & (self._changed.keys() | self._removed | busy)
        self._outdated |= doubtful & busy
        self._removed -= doubtful
        for key in doubtful:
            self._changed.pop(key, None)
            self.known[key] = None
        return doubtful

    def retry_due_s(self) -> float:
        """Give the seconds until ``take_retries`` has something."""
        if not self._retries:
            return float("inf")
        return max(0.0, min(due for due, _ in self._retries.values()) - time.monotonic())

    def take_retries(self) -> set[str]:
        """Give the paths that are due to be looked at again, whatever their stamps say."""
        now = time.monotonic()
        due = [key for key, (moment, _) in self._retries.items() if moment <= now]
        for key in due:
            delay = self._retries[key][1]
            self._retries[key] = (now + delay, delay)
            if key in self.known:
                self.known[key] = None
            else:
                del self._retries[key]
        return {paths.to_path(key) for key in due}

    def take_renewals(self, count_max: int) -> set[str]:
        """Return the paths of some entries that older rules made, to be read again."""
        keys = list(itertools.islice(self._renewals, count_max))
        for key in keys:
            del self._renewals[key]
            if key in self.known:
                self.known[key] = None
        return {paths.to_path(key) for key in keys}

    @property
    def has_renewals(self) -> bool:
        """Whether entries are left that older rules made."""
        return bool(self._renewals)

    def _make_again(self, keys: list[str]) -> None:
        """Read the checkpoints at *keys* again, whatever their sidecars say: more is known of them now."""
        self._suspect.update(keys)
        self.known.update(dict.fromkeys(keys))
        self._relook.update(map(paths.to_path, keys))

    def doubt_run(self, run_id: str) -> set[str]:
        """Give the paths of a run's checkpoints, to be read again: more is known of the run than when they were."""
        keys = {key for key, its_run in self._runs.items() if its_run == run_id}
        self.known.update(dict.fromkeys(keys))
        self._suspect |= keys
        return {paths.to_path(key) for key in keys}

    def counts_by_status(self) -> dict[str, int]:
        """Count the entries by status."""
        counts = Counter(self.statuses.values())
        counts["ok"] = len(self.known) - counts.total()
        return {status: count for status, count in sorted(counts.items()) if count}

    def _next_key(self) -> str | None:
        """Choose what to examine next; not what is being examined: the two could finish in the wrong order."""
        busy = self._in_flight.values()
        return next((key for key in self.todo if key not in busy), None)

    def _finish(self, key: str, future: cf.Future[Examined]) -> None:
        try:
            examined = future.result()
        except Exception as error:
            # One checkpoint must not end the pass over the others; this is a defect of ours, hence the traceback.
            log.exception("checkpoint_failed", key=key)
            problem = Problem.of("reader-crashed", f"{type(error).__name__}: {error}")
            examined = Examined(bare_entry(key, (0, 0, 0), None, problem))
        entry = examined.entry
        if key in self._outdated:
            self._outdated.discard(key)
            return
        if examined.is_gone:
            if key not in self.todo:
                self._forget(key)
            return
        self._removed.discard(key)
        previous = self.store.entries.get(key)
        known = None if previous is None else codec.decode_entry(previous)
        if known is not None and known.health is not None and known.fingerprint == entry.fingerprint:
            entry.take_health(known.health)  # it still holds
        is_changed = known is None or not codec.same_content(entry, known)
        if is_changed or key in self._changed:
            self._changed[key] = entry
            self._has_news = self._has_news or entry.status != "incomplete"
        self._note(entry, look_again_s=examined.look_again_s)
        self._renewals.pop(key, None)
        self._make_again(self._twins.note(entry))
        log.debug("checkpoint_indexed", key=key, status=entry.status)
        if self.on_examined is not None:
            self.on_examined(examined, is_changed or examined.wrote_sidecar)

    def _note(self, entry: Entry, *, look_again_s: float | None = None) -> None:
        """Remember what the entry was made from, and whether to look again."""
        key = entry.path
        self.known[key] = stamp_of(entry)
        if entry.status == "ok":
            self.statuses.pop(key, None)
        else:
            self.statuses[key] = entry.status
        if entry.link_target is not None:
            self._links[key] = _link_leads_to(entry)
        else:
            self._links.pop(key, None)
        if entry.wandb_run_id is not None:
            self._runs[key] = entry.wandb_run_id
        else:
            self._runs.pop(key, None)
        kind = _retry_kind(entry)
        if kind is not None:
            delay = min(self._retries[key][1] * 2, RETRY_LAST_S[kind]) if key in self._retries else RETRY_FIRST_S[kind]
            self._retries[key] = (time.monotonic() + delay, delay)
        elif look_again_s is not None:
            self._suspect.add(key)
            self._retries[key] = (time.monotonic() + look_again_s, look_again_s)
        else:
            self._retries.pop(key, None)

    def _forget(self, key: str) -> None:
        for table in (self.known, self.todo, self._links, self._runs, self._changed, self._retries, self.statuses):
            table.pop(key, None)
        self._suspect.discard(key)
        self._renewals.pop(key, None)
        self._make_again(self._twins.forget(key))
        if key in self.store.entries:
            self._removed.add(key)
            self._has_news = True


def _link_leads_to(entry: Entry) -> str:
    """Name the key at which a link's target is, or would be if it were there."""
    target = entry.link_target or ""
    if entry.problem is None:
        return target
    return posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), target))


def _retry_kind(entry: Entry) -> str | None:
    if entry.status == "incomplete":
        return "incomplete"
    if entry.problem is not None and entry.problem.code in _TRANSIENT:
        return "unreadable"
    if entry.metadata_problem is not None and entry.metadata_problem.code == "sidecar-unwritable":
        return "sidecar"
    return None


def _log_set_aside(name: str, reason: str) -> None:
    log.warning("index_set_aside", file=name, reason=reason)
