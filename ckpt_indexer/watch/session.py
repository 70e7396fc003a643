"""One root, from locking it to losing it: watch first, then scan everything, then follow the hints.

In this order nothing falls between. A ``Session`` owns the lock and decides what an error means: a pass that fails is
tried again, with growing pauses; a lost root ends the session, and no entry is removed because a root is not there.
Its ``Follower`` does the work, one turn after the other: what events, retries, other writers and trackers name is
scanned; what the scans planned is done for a moment; what came of it is committed when ``schedules`` say so, and who
waits at a barrier is released.

Neither decides when anything is due (``schedules``, ``barriers``) nor what a change means (``passes``).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Self

import structlog

from ckpt_indexer.backoff import Backoff
from ckpt_indexer.errors import IndexTooNew, ScanStopped, StoreError, WatchFailed
from ckpt_indexer.model import utc_text
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.paths import to_key
from ckpt_indexer.watch.barriers import Barriers
from ckpt_indexer.watch.events.hints import EVERYTHING, is_cookie
from ckpt_indexer.watch.events.observer import SELF_TEST_INTERVAL_S, TreeObserver
from ckpt_indexer.watch.root import LockedRoot
from ckpt_indexer.watch.runs import RunAnswers
from ckpt_indexer.watch.schedules import CommitSchedule, PassSchedule, ReloadSchedule, Unwritten
from ckpt_indexer.watch.state import StateKeeper

if TYPE_CHECKING:
    from ckpt_indexer.passes.scan import Snapshot
    from ckpt_indexer.paths import RelPath
    from ckpt_indexer.settings import Settings
    from ckpt_indexer.watch.daemon import Daemon

RENEWED_AT_ONCE = 32  # entries of older rules, between two looks at the hints
SLICE_S = 0.1  # of work between two looks at the hints
TURN_RETRY_FIRST_S, TURN_RETRY_LAST_S = 0.2, 30.0  # after a pass that failed
ROOT_CHECK_S = 2.0  # between checks that the root is still the same folder: a lazy unmount causes no event
INDEX_CHECK_S = 0.5  # between checks of the index's file where its events cannot be relied on

log = structlog.get_logger("ckpt_indexer")


class Session:
    """The daemon's work on one root; ``run`` is called once, while it is entered."""

    def __init__(self, daemon: Daemon, settings: Settings, *, is_first: bool) -> None:
        self._daemon = daemon
        self._root = LockedRoot(daemon.root)
        self._is_first = is_first
        self._retry = Backoff(TURN_RETRY_FIRST_S, TURN_RETRY_LAST_S)
        self._follower = Follower(daemon, self._root, settings)

    def __enter__(self) -> Self:
        """Lock the root, and say so.

        Raises:
            DaemonRunning, RootUnusable: as ``LockedRoot``.

        """
        self._root.__enter__()
        self._follower.report_state()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.close()
        with contextlib.suppress(OSError):
            if self._root.is_same():
                self._follower.keeper.write_stopped()
        self._root.__exit__()

    def run(self) -> None:
        """Work until told to stop, or until the root is another one."""
        has_begun = False
        while True:
            try:
                if not has_begun:
                    self._follower.begin(is_first=self._is_first)
                    has_begun = True
                if not self._follower.turn():
                    return
            except ScanStopped:
                continue  # the next turn ends the session
            except (IndexTooNew, WatchFailed):
                raise
            except Exception as error:
                if self._is_root_lost():
                    return
                if not self._retry.delay_s:  # once, however long a disk stays broken
                    log.exception("turn_failed")
                self._wait_after(error)
                self._daemon.hints.add(EVERYTHING)
            else:
                self._retry.succeeded()
                self._follower.keeper.clear("error")

    def _is_root_lost(self) -> bool:
        with contextlib.suppress(OSError):
            return not self._root.is_same()
        return False

    def _wait_after(self, error: Exception) -> None:
        """Record a turn's failure in the state, and wait before the next one."""
        what = str(error) if isinstance(error, StoreError | OSError) else "a defect of this program"
        self._follower.keeper.set(
            "error", f"a pass failed: {what}", "none: it is tried again; the log has the traceback"
        )
        now_s = time.monotonic()
        self._daemon.hints.pause(self._retry.failed(now_s) - now_s)


class Follower:
    """Keeps the index equal to one root; the daemon's main thread uses it."""

    def __init__(self, daemon: Daemon, root: LockedRoot, settings: Settings) -> None:
        test_interval_s = min(SELF_TEST_INTERVAL_S, (daemon.manager.watchdog_s or float("inf")) / 3)
        self._daemon = daemon
        self._root = root
        self.keeper = StateKeeper(root.path, daemon.state, self.report_state)
        self._observer = TreeObserver(
            root.path, daemon.hints, self.keeper, test_interval_s=test_interval_s, should_stop=daemon.should_stop
        )
        self._runs = RunAnswers(daemon.hints.interrupt, is_enabled=settings.wandb_api)
        self._indexer = Indexer.of(root.path, settings, lookup=self._runs.get)
        self._commits = CommitSchedule(time.monotonic())
        self._passes = PassSchedule(settings.scan_interval)
        self._reloads = ReloadSchedule()
        self._barriers = Barriers()

    def begin(self, *, is_first: bool) -> None:
        """Read the index and start watching; raises what these raise, and may be called again after that."""
        self._indexer.load()
        self._observer.set_suffixes(self._indexer.store.suffixes)
        self._observer.start(is_first=is_first)
        self._daemon.hints.add(EVERYTHING)

    def close(self) -> None:
        """End all threads and processes."""
        self._observer.stop()
        self._runs.close()
        self._indexer.__exit__()

    def turn(self) -> bool:
        """Wait for something to do and do it; False to end the session."""
        if not self.keeper.is_written:
            self.report_state()
        places = self._daemon.hints.drain(self._wait_s())
        if self._daemon.should_stop() or self._daemon.must_reload:
            if self._indexer.is_dirty:
                self._commit()
            return False
        if not self._root.is_same():
            if os.path.isdir(self._root.path):
                log.warning("root_replaced", root=self._root.path)
            return False
        if not self._barriers.is_ready:
            self._daemon.manager.alive()  # a first pass may take long; what moves on is alive
        places = self._places(self._without_cookies(places))
        if places:
            self._scan(places)
        self._indexer.run_for(SLICE_S)
        self._finish_turn()
        return True

    def _without_cookies(self, hints: set[RelPath]) -> set[RelPath]:
        """Return the hints that are no cookies, and add those that are to the barriers."""
        cookies = set(filter(is_cookie, hints))
        places = hints - cookies
        if self._observer.receive_test_cookie(cookies):
            self._daemon.manager.alive()
        self._barriers.add(cookies)
        return places

    def _places(self, hinted: set[RelPath]) -> set[RelPath]:
        """Return what must be scanned now, *hinted* places among it."""
        places = hinted | self._observer.check() | self._indexer.pop_due_retries() | self._check_index()
        for run_id in self._runs.drain():
            places |= self._indexer.invalidate_run(run_id)
        if self._observer.lost is not None:
            self._observer.restart()
            return {EVERYTHING}
        if time.monotonic() >= self._passes.due_s:
            return {EVERYTHING}
        if not places and self._barriers.is_ready and self._indexer.is_idle:
            return self._indexer.pop_renewals(RENEWED_AT_ONCE)
        return places

    def _check_index(self) -> set[RelPath]:
        """Read what somebody else wrote into the index's file; return the places to scan because of it.

        One ``stat`` while the file is the one that we know. A writer that takes no lock may have put an old one back:
        what we know then stands, and is written again.
        """
        started_s = time.monotonic()
        if not self._indexer.store.is_current() and started_s >= self._reloads.due_s:
            self._indexer.load()
            now_s = time.monotonic()
            self._reloads.report_read(now_s, now_s - started_s)
        return self._indexer.pop_unverified()

    def _wait_s(self) -> float:
        """Return the time until there is something to do without a hint."""
        if not self._indexer.is_idle or self._observer.lost is not None:
            return 0.0
        if self._barriers.is_ready and self._indexer.known.has_renewals:
            return 0.0
        due_s = min(self._passes.due_s, self._observer.due_s(), self._commits.due_s(self._unwritten()))
        if not self._indexer.store.is_current():
            due_s = min(due_s, self._reloads.due_s)
        check_s = INDEX_CHECK_S if self.keeper.is_polling else ROOT_CHECK_S
        return max(0.0, min(due_s - time.monotonic(), self._indexer.retry_due_s(), check_s))

    def _scan(self, places: set[RelPath]) -> None:
        started_s = time.monotonic()
        is_pass = EVERYTHING in places
        if is_pass:
            # A cookie's event may have been lost with the others; what was written before it, this pass will see.
            names = filter(is_cookie, self._root.names())
            self._barriers.add(name for name in names if not self._observer.is_test_cookie(name))
            self._indexer.load()
            self._observer.set_suffixes(self._indexer.store.suffixes)
        snapshot = self._indexer.scan_and_plan(places, should_stop=self._daemon.should_stop)
        now_s = time.monotonic()
        if snapshot.unseen:
            self._report_unseen(snapshot.unseen)
        if is_pass:
            self._finish_pass(snapshot, now_s, now_s - started_s)
        elif snapshot.unseen:
            self._passes.report_unseen(now_s)

    def _finish_pass(self, snapshot: Snapshot, now_s: float, seconds: float) -> None:
        """Report what the pass over everything found, and plan the next one."""
        if not snapshot.unseen:
            self.keeper.clear("unreadable")
        self._passes.report_pass(now_s, seconds, is_polling=self.keeper.is_polling, has_unseen=bool(snapshot.unseen))
        if self.keeper.is_polling:
            self._daemon.manager.alive()  # no self-test can say so where events cannot be relied on
        self.keeper.state.last_pass = utc_text(time.time_ns())
        log.info(
            "pass_finished",
            folders=snapshot.folders,
            checkpoints=len(snapshot.found),
            to_read=len(self._indexer.todo),
            seconds=round(seconds, 4),
        )
        self._observer.report_pass(snapshot.folders)
        self._runs.report_problem()
        if self._barriers.is_ready:
            self.report_state()

    def _finish_turn(self) -> None:
        """Commit if it is time, and release who waits for it."""
        self._report_overwrites()
        now_s, unwritten = time.monotonic(), self._unwritten()
        self._commits.report_unwritten(now_s, unwritten)
        is_waited_for = self._is_settled() and self._barriers.is_open and now_s >= self._commits.retry_due_s
        if is_waited_for or now_s >= self._commits.due_s(unwritten):
            self._commit()
        if self._is_settled() and not self._indexer.is_dirty and not self._commits.failures:
            self._release_barriers()

    def _is_settled(self) -> bool:
        """Return whether everything known of is done, but for the commit."""
        return self._indexer.is_idle and self._indexer.retry_due_s() > 0

    def _unwritten(self) -> Unwritten:
        return Unwritten(self._indexer.is_dirty, self._indexer.has_news, self._indexer.store.is_overwritten)

    def _release_barriers(self) -> None:
        was_ready = self._barriers.is_ready
        for cookie in self._barriers.release():
            self._root.remove(cookie)
        if not was_ready:
            self.keeper.set_ready()
            self.report_state()
            counts = self._indexer.known.counts_by_status()
            log.info("daemon_ready", entries=sum(counts.values()), generation=self._indexer.store.generation, **counts)
            self._daemon.manager.ready(self._status_line())
            self._observer.request_test()
            self._indexer.warm_up()

    def _commit(self) -> None:
        try:
            committed = self._indexer.commit()
        except IndexTooNew:
            raise
        except (StoreError, OSError) as error:
            self._report_commit_failure(error)
            return
        if self._commits.failures:
            log.info("commit_recovered", failures=self._commits.failures)
            self.keeper.clear("index-unwritable")
        self._commits.report_succeeded()
        if committed is None:
            return
        self.keeper.state.index_writes += 1
        self._commits.report_written(time.monotonic(), committed.seconds, is_busy=not self._indexer.is_idle)
        log.info(
            "index_written",
            generation=committed.generation,
            changed=len(committed.keys),
            first=committed.keys[0] if committed.keys else None,
            entries=len(self._indexer.store.entries),
            seconds=round(committed.seconds, 4),
        )

    def _report_commit_failure(self, error: Exception) -> None:
        if not self._commits.failures:
            log.error("commit_failed", reason=str(error))
            self.keeper.set("index-unwritable", str(error), "make room, or make the root writable")
        self._commits.report_failed(time.monotonic())

    def _report_overwrites(self) -> None:
        """Log that somebody overwrites the index without its lock: at once, then once a minute."""
        store = self._indexer.store
        times = self._reloads.drain_overwrites(time.monotonic(), store.overwrites)
        if times:
            log.warning("index_overwritten", generation=store.overwritten_by, known=store.generation, times=times)

    def _report_unseen(self, unseen: dict[RelPath, str]) -> None:
        path, reason = next(iter(unseen.items()))
        more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
        message = f"{to_key(path) or '.'} cannot be looked at: {reason}{more}"
        self.keeper.set("unreadable", message, "make the folder readable; its entries stand meanwhile")

    def report_state(self) -> None:
        """Write the state's file, and send systemd the same in one line."""
        self.keeper.state.generation = self._indexer.store.generation
        self.keeper.write()
        self._daemon.manager.status(self._status_line())

    def _status_line(self) -> str:
        state = self.keeper.state
        counts = ", ".join(f"{n} {status}" for status, n in self._indexer.known.counts_by_status().items())
        reasons = "; ".join(reason.message for reason in state.reasons)
        return f"{state.state}: {counts or 'no checkpoints'}" + (f" ({reasons})" if reasons else "")
