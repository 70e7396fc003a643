"""The loop that keeps one root's index equal to its disk.

Theory of operation. A *session* belongs to one root, as identified by device and inode: it holds the daemon's lock, a
``TreeObserver`` and an ``Indexer``. It watches first, then looks at everything, then follows the hints, so that nothing
falls between. When watching is lost it is started anew and everything is looked at. When the root itself is replaced or
vanishes, the session ends and the next one begins as soon as there is a root; no entry is removed because a root is
not there. Signals only set a flag and wake the loop.

Writes of the index are paced (``pace``): what changes after a quiet time is written at once, a burst costs few writes.
What nobody waits for, a checkpoint that is still being written, is written with the next thing or a little later.

A *cookie* is a barrier: a file in the root that somebody (``sync``) puts there. When it has been noticed, everything
written before it has been noticed; it is removed when all of that is in the index.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Self

import structlog
from filelock import Timeout

from ckpt_indexer import __version__, paths
from ckpt_indexer.errors import DaemonRunning, IndexTooNew, RootUnusable, StoreError, WatchFailed
from ckpt_indexer.model import utc_text
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.trackers.wandb.lookup import Lookup, default_cache_dir
from ckpt_indexer.tree.local import check_root, locked_folder
from ckpt_indexer.watch.events.hints import EVERYTHING, Hints, is_cookie
from ckpt_indexer.watch.events.observer import BACKOFF_FIRST_S, BACKOFF_LAST_S, SELF_TEST_INTERVAL_S, TreeObserver
from ckpt_indexer.watch.pace import Pace
from ckpt_indexer.watch.state import Account, DaemonState, write_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.passes.scan import Snapshot
    from ckpt_indexer.settings import Settings
    from ckpt_indexer.systemd_notify import ServiceManager
    from ckpt_indexer.trackers.wandb.run import RunPath

INCOMPLETE_DELAY_S = 0.5  # until it is told that a checkpoint is incomplete: most are whole by then
COMMIT_RETRY_MAX_S = 16.0  # between attempts while the index cannot be written
RENEWED_AT_ONCE = 32  # entries of older rules, between two looks at the hints
SLICE_S = 0.1  # of work between two looks at the hints
POLL_INTERVAL_S = 5.0  # between passes where events cannot be relied on
POLL_SHARE = 0.05  # of the time, at most, is spent on those passes
UNSEEN_RETRY_S = 1.0  # until the next pass where a folder could not be looked at; doubled with each such pass
ROOT_CHECK_S = 2.0  # between looks at whether the root is still the same folder: a lazy unmount tells nobody
INDEX_LOOK_S = 0.5  # between looks at the index's file where its events cannot be relied on
INDEX_CHECK_MIN_S, INDEX_CHECK_MAX_S = 0.05, 0.5  # between two readings of an index that somebody else writes
OVERWRITE_LINE_S = 60.0  # between two lines about an index that is being overwritten
LOCK_GRACE_S = 0.5  # `status` holds the lock for a moment to see whether anybody else does

log = structlog.get_logger("ckpt_indexer")


class Daemon:
    """Watches one root until told to stop; ``run`` is called once, in the main thread."""

    def __init__(self, root: str, load_settings: Callable[[], Settings], manager: ServiceManager) -> None:
        self.root = root
        self._load_settings = load_settings
        self.manager = manager
        self.hints = Hints()
        self.stop_signal: int | None = None
        self.must_reload = False
        self._root_wait_s = 0.0  # between looks at a root that was lost; 0 while it is there
        self.state = DaemonState(pid=os.getpid(), started=utc_text(time.time_ns()))

    def run(self) -> None:
        """Keep the index until SIGTERM or SIGINT; returns after the commit at hand.

        Raises:
            RootUnusable: the root is no folder, or cannot be read or written.
            DaemonRunning: another daemon watches it.
            IndexTooNew: the index was written by a newer major version.

        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        settings = self._load_settings()
        log.info("daemon_started", root=self.root, version=__version__, pid=os.getpid())
        check_root(self.root)
        is_first = True
        while self.stop_signal is None:
            try:
                with _Session(self, settings, is_first=is_first) as session:
                    is_first = False
                    self._note_root_found()
                    session.run()
            except RootUnusable as error:
                if is_first:
                    raise
                self._wait_for_root(error.reason)
                continue
            if self.must_reload:
                self.must_reload = False
                settings = self._reloaded(settings)
        self.manager.stopping()
        log.info("daemon_stopped", signal=signal.Signals(self.stop_signal).name)

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self.must_reload = True
        else:
            self.stop_signal = number
        self.hints.interrupt()

    def _wait_for_root(self, reason: str) -> None:
        """Wait a moment for a root that is not there, or cannot be used; what is known of it stands meanwhile."""
        if self._root_wait_s == 0:
            log.warning("root_lost", root=self.root, reason=reason)
            self.manager.status(f"the outputs root cannot be used: {reason}")
        # Each wait is longer than the last until a session has begun: a root that is there may still refuse its lock.
        self._root_wait_s = min(max(BACKOFF_FIRST_S, 2 * self._root_wait_s), ROOT_CHECK_S)
        self.hints.take(self._root_wait_s)
        self.manager.alive()

    def _note_root_found(self) -> None:
        if self._root_wait_s > 0:
            self._root_wait_s = 0.0
            log.info("root_found", root=self.root)

    def _reloaded(self, settings: Settings) -> Settings:
        self.manager.reloading()
        try:
            settings = self._load_settings()
        except Exception as error:  # noqa: BLE001 - a broken file must not end a daemon that works
            log.error("settings_rejected", reason=str(error))
        else:
            log.info("settings_reloaded", **settings.model_dump())
        return settings


class _Session:
    """One root, from taking its lock to losing it."""

    def __init__(self, daemon: Daemon, settings: Settings, *, is_first: bool) -> None:
        self._daemon = daemon
        self._settings = settings
        self._root = daemon.root
        self._hints = daemon.hints
        self._state = daemon.state
        self._manager = daemon.manager
        self._identity: tuple[int, int] | None = None  # of the folder that the session is about
        self._account = Account(daemon.state, self._tell_state)
        test_interval_s = min(SELF_TEST_INTERVAL_S, (daemon.manager.watchdog_s or float("inf")) / 3)
        self._observer = TreeObserver(self._root, self._hints, self._account, test_interval_s=test_interval_s)
        self._lookup_problem: str | None = None  # as it was told
        self._runs_answered: collections.deque[str] = collections.deque()
        self._lookup: Lookup | None = None
        if settings.wandb_api:
            self._lookup = Lookup(default_cache_dir(), on_result=self._on_run_answered)
        lookup = None if self._lookup is None else self._lookup.get
        self._indexer = Indexer.of(self._root, settings, lookup=lookup)
        self._cookies: set[str] = set()  # noticed, and not yet answered
        self._next_pass = 0.0
        self._pace = Pace(time.monotonic())
        self._dirty_since: float | None = None
        self._retry_commit_at = 0.0
        self._next_index_check = 0.0
        self._overwrites_told = 0
        self._next_overwrite_line = 0.0
        self._commit_failures = 0
        self._turn_failures = 0  # in a row
        self._unseen_passes = 0  # passes in a row that could not look at everything
        self._is_state_written = True
        self._is_first = is_first
        self._has_begun = False
        self._is_ready = False
        self._held = contextlib.ExitStack()  # the daemon's lock

    def __enter__(self) -> Self:
        """Take the daemon's lock.

        Raises:
            DaemonRunning: another one has it.
            RootUnusable: the root is gone, or cannot be written.

        """
        try:
            self._identity = _identity(self._root)
            self._held.enter_context(locked_folder(self._root, paths.DAEMON_LOCK_NAME, timeout_s=LOCK_GRACE_S))
        except Timeout:
            raise DaemonRunning(root=self._root) from None
        except OSError as error:
            raise RootUnusable(root=self._root, reason=error.strerror or str(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.stop()
        if self._lookup is not None:
            self._lookup.close()
        self._indexer.__exit__()
        with contextlib.suppress(OSError):
            if self._is_same_root():
                self._state.state, self._state.reasons = "stopped", []
                write_state(self._root, self._state)
        self._held.close()

    def run(self) -> None:
        """Work until told to stop, or until the root is another one."""
        while True:
            if not self._is_state_written:
                self._tell_state()
            try:
                if not self._has_begun:
                    self._begin()
                if not self._turn():
                    return
                self._turn_failures = 0
                self._account.clear("error")
            except (IndexTooNew, WatchFailed):
                raise
            except Exception as error:
                with contextlib.suppress(OSError):
                    if not self._is_same_root():
                        return
                if self._turn_failures == 0:  # once, however long a disk stays broken
                    log.exception("turn_failed")
                what = str(error) if isinstance(error, StoreError | OSError) else "a defect of this program"
                self._account.set(
                    "error", f"a pass failed: {what}", "none: it is tried again; the log has the traceback"
                )
                self._hints.pause(min(BACKOFF_FIRST_S * 2 ** min(self._turn_failures, 10), BACKOFF_LAST_S))
                self._turn_failures += 1
                self._hints.add(EVERYTHING)

    def _begin(self) -> None:
        self._indexer.load()
        self._observer.use(self._indexer.store.suffixes)
        self._observer.start(is_first=self._is_first)
        self._hints.add(EVERYTHING)
        self._has_begun = True

    def _turn(self) -> bool:
        """One turn of the loop; False to end the session."""
        places = self._hints.take(self._wait_s())
        if self._daemon.stop_signal is not None or self._daemon.must_reload:
            if self._indexer.is_dirty:
                self._commit()
            return False
        if not self._is_same_root():
            if os.path.isdir(self._root):
                log.warning("root_replaced", root=self._root)
            return False
        if not self._is_ready:
            self._manager.alive()  # a first pass may take long; what moves on is alive
        cookies = {path for path in places if is_cookie(path)}
        places -= cookies
        if self._observer.take_test_cookie(cookies):
            self._manager.alive()
        self._cookies |= cookies
        places |= self._observer.check() | self._indexer.pop_due_retries() | self._check_index()
        while self._runs_answered:
            places |= self._indexer.invalidate_run(self._runs_answered.popleft())
        if self._observer.lost is not None:
            self._observer.restart()
            places = {EVERYTHING}
        if time.monotonic() >= self._next_pass:
            places = {EVERYTHING}
        if not places and self._is_ready and self._indexer.is_idle:
            places = self._indexer.pop_renewals(RENEWED_AT_ONCE)
        if places:
            self._look(places)
        self._indexer.run_for(SLICE_S)
        self._finish_turn()
        return True

    def _check_index(self) -> set[str]:
        """Meet what somebody else wrote into the index's file; return the places to look at because of it.

        One ``stat`` while the file is the one that we know. A writer that takes no lock may have put an old one back:
        what we know then stands, and is written again.
        """
        if not self._indexer.store.is_current() and time.monotonic() >= self._next_index_check:
            started = time.monotonic()
            self._indexer.load()
            # Paced: a writer that writes all the time must not keep us reading more than half of it.
            seconds = time.monotonic() - started
            pause_s = min(4 * seconds, max(INDEX_CHECK_MAX_S, seconds))
            self._next_index_check = time.monotonic() + max(INDEX_CHECK_MIN_S, pause_s)
        return self._indexer.pop_unverified()

    def _note_overwrites(self) -> None:
        """Log that somebody overwrites the index without its lock: at once, then once a minute."""
        store = self._indexer.store
        times = store.overwrites - self._overwrites_told
        if times and time.monotonic() >= self._next_overwrite_line:
            log.warning("index_overwritten", generation=store.overwritten_by, known=store.generation, times=times)
            self._overwrites_told = store.overwrites
            self._next_overwrite_line = time.monotonic() + OVERWRITE_LINE_S

    def _on_run_answered(self, run: RunPath) -> None:
        """Take note that a run is known better; called in the thread that asks."""
        self._runs_answered.append(run.id)
        self._hints.interrupt()

    def _note_lookup(self) -> None:
        """Say once when Weights & Biases' servers cannot be asked, and when they can again."""
        problem = None if self._lookup is None else self._lookup.problem
        if problem is not None and self._lookup_problem is None:
            log.warning("wandb_unanswered", reason=problem)
        elif problem is None and self._lookup_problem is not None:
            log.info("wandb_answered")
        self._lookup_problem = problem

    def _wait_s(self) -> float:
        """Give the time until there is something to do without a hint."""
        if not self._indexer.is_idle or self._observer.lost is not None:
            return 0.0
        if self._is_ready and self._indexer.known.has_renewals:
            return 0.0
        due = [self._next_pass, self._observer.due_s()]
        if not self._indexer.store.is_current():
            due.append(self._next_index_check)
        if self._indexer.is_dirty:
            due.append(self._commit_due())
        look_s = INDEX_LOOK_S if self._account.is_polling else ROOT_CHECK_S
        return max(0.0, min(min(due) - time.monotonic(), self._indexer.retry_due_s(), look_s))

    def _look(self, places: set[str]) -> None:
        started = time.monotonic()
        is_pass = EVERYTHING in places
        if is_pass:
            # A cookie's event may have been lost with the others; what was written before it, this pass will see.
            self._cookies.update(name for name in self._iter_cookies() if not self._observer.is_test_cookie(name))
            self._indexer.load()
            self._observer.use(self._indexer.store.suffixes)
        snapshot = self._indexer.scan_and_plan(places)
        if snapshot.unseen:
            self._note_unseen(snapshot.unseen)
        elif is_pass:
            self._account.clear("unreadable")
        if is_pass:
            self._unseen_passes = self._unseen_passes + 1 if snapshot.unseen else 0
            self._end_pass(snapshot, time.monotonic() - started)
        if snapshot.unseen:
            # No event tells that a disk works again. Ever later, because a folder may stay unreadable for good.
            soon_s = UNSEEN_RETRY_S * 2 ** min(self._unseen_passes, 10)
            self._next_pass = min(self._next_pass, time.monotonic() + soon_s)

    def _end_pass(self, snapshot: Snapshot, seconds: float) -> None:
        """Say what the pass over everything found, and plan the next one."""
        interval = self._settings.scan_interval
        if self._account.is_polling:
            interval = min(interval, max(POLL_INTERVAL_S, seconds / POLL_SHARE))
            self._manager.alive()  # events cannot vouch for us here; a pass that came to its end does
        self._next_pass = time.monotonic() + interval * random.uniform(0.75, 1.25)
        self._state.last_pass = utc_text(time.time_ns())
        log.info(
            "pass_finished",
            folders=snapshot.folders,
            checkpoints=len(snapshot.found),
            to_read=len(self._indexer.todo),
            seconds=round(seconds, 4),
        )
        self._observer.note_pass(snapshot.folders)
        self._note_lookup()
        if self._is_ready:
            self._tell_state()

    def _finish_turn(self) -> None:
        """Commit if it is time, and answer who waits for it."""
        self._note_overwrites()
        is_idle = self._indexer.is_idle and self._indexer.retry_due_s() > 0
        must = is_idle and (bool(self._cookies) or not self._is_ready)
        if self._indexer.is_dirty and self._dirty_since is None:
            self._dirty_since = time.monotonic()
        if must or (self._indexer.is_dirty and time.monotonic() >= self._commit_due()):
            self._commit()
        if not (is_idle and self._indexer.is_idle) or self._indexer.is_dirty:
            return
        for cookie in self._cookies:
            self._unlink(cookie)
        self._cookies.clear()
        if not self._is_ready:
            self._is_ready = True
            self._tell_state()
            counts = self._indexer.known.counts_by_status()
            log.info("daemon_ready", entries=sum(counts.values()), generation=self._indexer.store.generation, **counts)
            self._manager.ready(self._status_line())
            self._observer.test_soon()
            self._indexer.warm_up()

    def _commit_due(self) -> float:
        """Give the moment from which on what changed is to be written."""
        if self._indexer.store.is_overwritten:
            return self._retry_commit_at  # at once: who reads it for the first time sees the old one; checks are paced
        due = max(self._pace.due(), self._retry_commit_at)
        if not self._indexer.has_news and self._dirty_since is not None:
            due = max(due, self._dirty_since + INCOMPLETE_DELAY_S)
        return due

    def _commit(self) -> None:
        try:
            committed = self._indexer.commit()
        except IndexTooNew:
            raise
        except (StoreError, OSError) as error:
            self._commit_failures += 1
            if self._commit_failures == 1:
                log.error("commit_failed", reason=str(error))
                self._account.set("index-unwritable", str(error), "make room, or make the root writable")
            self._retry_commit_at = time.monotonic() + min(COMMIT_RETRY_MAX_S, 2.0 ** min(self._commit_failures, 5) / 2)
            return
        if self._commit_failures:
            log.info("commit_recovered", failures=self._commit_failures)
            self._commit_failures = 0
            self._account.clear("index-unwritable")
        self._dirty_since = None
        if committed is None:
            return
        self._state.index_writes += 1
        self._pace.spend(time.monotonic(), committed.seconds, is_busy=not self._indexer.is_idle)
        log.info(
            "index_written",
            generation=committed.generation,
            changed=len(committed.keys),
            first=committed.keys[0] if committed.keys else None,
            entries=len(self._indexer.store.entries),
            seconds=round(committed.seconds, 4),
        )

    def _note_unseen(self, unseen: dict[str, str]) -> None:
        path, reason = next(iter(unseen.items()))
        more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
        message = f"{paths.to_key(path) or '.'} cannot be looked at: {reason}{more}"
        self._account.set("unreadable", message, "make the folder readable; its entries stand meanwhile")

    def _tell_state(self) -> None:
        self._state.generation = self._indexer.store.generation
        self._is_state_written = write_state(self._root, self._state)
        self._manager.status(self._status_line())

    def _status_line(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self._indexer.known.counts_by_status().items())
        reasons = "; ".join(reason.message for reason in self._state.reasons)
        return f"{self._state.state}: {counts or 'no checkpoints'}" + (f" ({reasons})" if reasons else "")

    def _iter_cookies(self) -> Iterator[str]:
        try:
            return filter(is_cookie, os.listdir(self._root))
        except OSError:
            return iter(())  # the scan that follows says so

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._root, name))

    def _is_same_root(self) -> bool:
        """Say whether the root is still the folder that the session is about.

        Raises:
            OSError: that cannot be seen now, which is no reason to believe in another one.

        """
        try:
            return _identity(self._root) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False


def _identity(root: str) -> tuple[int, int]:
    status = os.stat(root)
    return (status.st_dev, status.st_ino)
