"""Bring the index of a root and its sidecars in line with the disk, without a daemon: ``rebuild`` and ``generate``.

``plan`` compares index and disk and returns what would be done; ``apply`` does it. ``apply`` takes the request and not
a plan: the disk is scanned again under what the index says by then, because a plan may be older than another writer's
entries, and to carry it out would remove them. Both count alike: ``total`` is ``good + broken + unread`` and also
``written + up_to_date``, whatever was done before.
"""

from __future__ import annotations

import os
import time
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.errors import RootUnusable
from ckpt_indexer.index import codec
from ckpt_indexer.log import ensure_log
from ckpt_indexer.model import RULES, Problem
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.passes.survey import LIKELY_SUFFIXES, count_endings, survey
from ckpt_indexer.paths import ROOT
from ckpt_indexer.settings import Settings
from ckpt_indexer.tree.local import check_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckpt_indexer.passes.examine import Examined
    from ckpt_indexer.passes.scan import Found, Snapshot
    from ckpt_indexer.paths import Key, RelPath

COMMIT_INTERVAL_S = 1.0  # a run that is interrupted has lost at most this much
DOUBTS_MAX = 3  # times that a file which keeps changing is read once more
SLICE_S = 0.1  # of work between two reports of progress
WORKERS_MAX = 8  # unless the caller says otherwise: more do not make a disk faster


@dataclass(frozen=True)
class Rebuild:
    """What is asked for."""

    root: str
    _: KW_ONLY
    missing_only: bool = False  # write the sidecars that are missing and their entries; remove nothing (`generate`)
    force: bool = False  # read what is up to date too, and write our sidecars anew
    workers: int | None = None  # processes that read; None: one for each CPU, WORKERS_MAX at most
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rebuild did or, as a plan, would do; all keys are of checkpoints on disk."""

    total: int  # checkpoints on disk
    broken: dict[Key, str]  # key -> why it cannot be used, as the index says
    unread: int  # checkpoints of which nothing is known, because they were not read
    written: list[Key]  # keys whose entry or sidecar was, or would be, written
    failed: list[Key]  # keys of those that were read now and are broken; none in a plan
    unseen: dict[RelPath, str]  # path -> why it could not be scanned; what the index says of it stands
    suffixes: tuple[str, ...]  # of the names that count as checkpoints
    others: dict[str, int]  # where there is no checkpoint: how the names of what is there end, and how many do
    seconds: float

    @property
    def good(self) -> int:
        """How many can be used."""
        return self.total - len(self.broken) - self.unread

    @property
    def suffixes_to_try(self) -> list[str]:
        """Endings that checkpoints often have, of files that are there and do not count as any."""
        return [ending for ending in self.others if ending in LIKELY_SUFFIXES]

    @property
    def up_to_date(self) -> int:
        """How many needed nothing."""
        return self.total - len(self.written)


def plan(request: Rebuild) -> Outcome:
    """Return what ``apply`` would do now; write nothing.

    Raises:
        RootUnusable: the root cannot be listed.

    """
    started = time.monotonic()
    check_root(request.root)
    surveyed = survey(request.root, suffixes=request.settings.suffixes)
    statuses = {key: entry.status for key, entry in surveyed.entries.items()}
    if request.missing_only:
        to_read = set(_without_sidecar(surveyed.found, statuses, force=request.force))
    else:
        older = {key for key, entry in surveyed.entries.items() if entry.rules < RULES}
        to_read = set(surveyed.found if request.force else surveyed.plan.read) | older & surveyed.found.keys()
    known = {key: entry.problem for key, entry in surveyed.entries.items() if key not in surveyed.plan.read}
    disk = _Disk(request.root, surveyed.found, surveyed.unseen, surveyed.suffixes)
    return _outcome(disk, known, _Tally(written=to_read), started)


def apply(request: Rebuild, *, on_progress: Callable[[int, int], object] = lambda _done, _total: None) -> Outcome:
    """Do what is asked for; safe beside a daemon. *on_progress* is told how many of how many were read.

    Raises:
        RootUnusable: the root cannot be listed.
        IndexLocked, IndexTooNew: the index was not written; what was committed before stands.

    """
    started = time.monotonic()
    check_root(request.root)
    tally = _Tally()
    with _indexer_of(request, tally) as indexer:
        snapshot = _begin(indexer, request)
        if ROOT in snapshot.unseen:
            raise RootUnusable(root=request.root, reason=snapshot.unseen[ROOT])
        _work(indexer, tally, on_progress)
        known = {key: _problem_in(indexer, key) for key in _known_keys(indexer, snapshot)}
        disk = _Disk(request.root, snapshot.found, snapshot.unseen, indexer.store.suffixes)
        return _outcome(disk, known, tally, started)


def run_pass(root: str, settings: Settings, places: tuple[RelPath, ...] = (ROOT,)) -> None:
    """Bring the index of *root* in line with the disk in *places*, as a daemon would.

    It never waits: a training calls it after each save. What was read within its time stamp's second is as it was read;
    see ``_finish``.

    Raises:
        RootUnusable: the root cannot be listed.
        StoreError, OSError: nothing was lost, and the index was not written.

    """
    ensure_log()
    with Indexer.of(root, settings) as indexer:
        indexer.load()
        snapshot = indexer.scan_and_plan(places)
        if ROOT in snapshot.unseen:
            raise RootUnusable(root=root, reason=snapshot.unseen[ROOT])
        indexer.finish()


class _Disk(NamedTuple):
    """What the scan found."""

    root: str
    found: Mapping[Key, Found]
    unseen: dict[RelPath, str]
    suffixes: tuple[str, ...]


class _Tally:
    """What came of the checkpoints that were read."""

    def __init__(self, written: Iterable[Key] = ()) -> None:
        self.examined = 0
        self.written = dict.fromkeys(written)  # keys; one may be read twice, where its twin's score became known
        self.failed: dict[Key, None] = {}

    def add(self, examined: Examined, is_written: bool) -> None:
        self.examined += 1
        if is_written:
            self.written[examined.entry.path] = None
        if examined.entry.problem is not None:
            self.failed[examined.entry.path] = None


# --- how the indexer is used; nothing else here knows its methods ---


def _indexer_of(request: Rebuild, tally: _Tally) -> Indexer:
    ensure_log()
    workers = request.workers or min(WORKERS_MAX, os.cpu_count() or 1)
    # Sidecars are what `generate` is for, whatever the settings say of the daemon's, and it removes nothing.
    changes = {"sidecars": True, "remove_orphans": False, "remove_entries": False} if request.missing_only else {}
    return Indexer.of(request.root, request.settings, workers=workers, on_examined=tally.add, **changes)


def _begin(indexer: Indexer, request: Rebuild) -> Snapshot:
    """Load the index, scan the disk and plan what is to be read."""
    indexer.load()
    if not request.missing_only:
        indexer.pop_renewals(len(indexer.known.stamps))
        indexer.invalidate_incomplete()
    snapshot = indexer.scan_and_plan(force=request.force)
    if request.missing_only:
        to_read = _without_sidecar(snapshot.found, indexer.known.statuses, force=request.force)
        indexer.replan(to_read, force=request.force)
    return snapshot


def _work(indexer: Indexer, tally: _Tally, on_progress: Callable[[int, int], object]) -> None:
    """Read what is to be read, committing now and then."""
    total, committed = len(indexer.todo), time.monotonic()
    while not indexer.is_idle:
        indexer.run_for(SLICE_S)
        on_progress(tally.examined, total)
        if time.monotonic() - committed > COMMIT_INTERVAL_S:
            indexer.commit()
            committed = time.monotonic()
    _finish(indexer)


def _finish(indexer: Indexer) -> None:
    """Carry out and commit what is planned, then wait for and read again what was read too early to be trusted.

    The wait is at most ``DOUBTS_MAX`` times ``judge.COARSE_S``.
    """
    indexer.finish()
    for _ in range(DOUBTS_MAX):
        if (wait_s := indexer.doubtful_s()) is None:
            return
        time.sleep(wait_s)
        indexer.scan_and_plan(indexer.pop_due_retries())
        indexer.finish()


def _known_keys(indexer: Indexer, snapshot: Snapshot) -> set[Key]:
    return snapshot.found.keys() & indexer.known.stamps.keys()


def _problem_in(indexer: Indexer, key: Key) -> Problem | None:
    """Return why the checkpoint of an entry cannot be used; only entries that are not ok are decoded."""
    if key not in indexer.known.statuses:
        return None
    return codec.decode_entry(indexer.store.entries[key]).problem or Problem.of("not-a-checkpoint", "not usable")


# --- what came of it ---


def _without_sidecar(found: Mapping[Key, Found], statuses: Mapping[Key, str], *, force: bool) -> dict[Key, Found]:
    """Choose the checkpoints that should have a sidecar and have none; *statuses* are those in the index."""
    return {
        key: each
        for key, each in found.items()
        if each.problem is None
        and not each.is_folder
        and (each.stamp.sidecar is None or force)
        and statuses.get(key, "ok") in ("ok", "unsupported")
    }


def _outcome(disk: _Disk, known: Mapping[Key, Problem | None], tally: _Tally, started: float) -> Outcome:
    """Count the checkpoints on disk by what is *known* of each: why it cannot be used, or that it can."""
    found, broken = disk.found, {}
    for key, each in found.items():
        problem = known.get(key) or (None if each.problem is None else Problem.of(*each.problem))
        if problem is not None:
            broken[key] = problem.message
    return Outcome(
        total=len(found),
        broken=dict(sorted(broken.items())),
        unread=sum(key not in known and key not in broken for key in found),
        written=sorted(found.keys() & tally.written),
        failed=sorted(found.keys() & tally.failed),
        unseen=disk.unseen,
        suffixes=disk.suffixes,
        others={} if found else count_endings(disk.root),
        seconds=round(time.monotonic() - started, 3),
    )
