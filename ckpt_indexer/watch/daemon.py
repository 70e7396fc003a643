"""The loop that keeps one root's index equal to its disk.

Theory of operation. A *session* belongs to one root, as identified by device and inode: it holds the daemon's lock,
an observer, and an ``Indexer``. It watches first, then looks at everything, then follows the hints, so that nothing
falls between. When watching breaks (overflow, a dead thread, a self-test that does not come through), the observer is
thrown away and a new one started, with growing pauses, and everything is looked at. When the root itself is replaced or
vanishes, the session ends and the next one begins as soon as there is a root; no entry is removed because a root is
not there. Signals only set a flag and wake the loop.

Writes of the index are paced: the first change after a quiet time is written at once, further ones at most every
``COMMIT_INTERVAL_S`` and never for more than a tenth of the time, so a burst costs few writes.

The *self-test* is a cookie: a file in the root whose event has to come back. It feeds systemd's watchdog. The same
cookies, made by somebody else, are a barrier: when a cookie has been noticed, everything before it has been noticed,
and it is removed when all of that is in the index.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Self

import structlog
from filelock import FileLock, Timeout
from watchdog.events import FileDeletedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver

from ckpt_indexer import __version__, layout
from ckpt_indexer.errors import DaemonRunning, IndexTooNew, RootUnusable, StoreError, WatchFailed
from ckpt_indexer.metadata.entry import utc_text
from ckpt_indexer.watch.emitter import Blinded, InotifyEmitter
from ckpt_indexer.watch.hints import EVERYTHING, Hints, is_cookie
from ckpt_indexer.watch.indexer import Indexer
from ckpt_indexer.watch.state import DaemonState, Reason, write_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.settings import Settings
    from ckpt_indexer.watch.notify import ServiceManager

COMMIT_INTERVAL_S = 0.25  # a burst of 10,000 checkpoints takes some 10 s: about 40 writes
COMMIT_SHARE = 0.1  # of the time, at most, is spent writing
COMMIT_DELAY_MAX_S = 0.9  # a consumer is never more than a second behind
SLICE_S = 0.1  # of work between two looks at the hints
SELF_TEST_INTERVAL_S = 30.0  # less where systemd's watchdog wants it
SELF_TEST_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.2
BACKOFF_LAST_S = 30.0
LOCK_GRACE_S = 0.5  # `status` holds the lock for a moment to see whether anybody else does
REASONS_MAX = 20

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
        while self.stop_signal is None:
            if not os.path.isdir(self.root):
                self._wait_for_root()
                continue
            with _Session(self, settings) as session:
                session.run()
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

    def _wait_for_root(self) -> None:
        """Wait until the root is there again; what is known of it stands meanwhile."""
        log.warning("root_lost", root=self.root)
        self.manager.status("the outputs root is not there")
        delay = BACKOFF_FIRST_S
        while self.stop_signal is None and not os.path.isdir(self.root):
            self.hints.take(delay)
            delay = min(2 * delay, 2.0)
            self.manager.alive()
        if self.stop_signal is None:
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


def check_root(root: str) -> None:
    """Refuse a root that cannot be one.

    Raises:
        RootUnusable: it does not exist, is no folder, or may not be listed or written to.

    """
    if not os.path.exists(root):
        raise RootUnusable(root=root, reason="there is no such folder")
    if not os.path.isdir(root):
        raise RootUnusable(root=root, reason="it is not a folder")
    try:
        os.listdir(root)
    except OSError as error:
        raise RootUnusable(root=root, reason=error.strerror or str(error)) from error


class _Handler(FileSystemEventHandler):
    """Turns watchdog's events into hints; runs in the observer's thread and never raises."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._prefix = len(session.real_root) + 1

    def dispatch(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)[self._prefix :]
        if isinstance(event, Blinded):
            self._session.on_blinded(path, event)
            return
        if event.is_directory:
            self._session.hints.add(layout.subject_of_folder(path))
            return
        if path == layout.INDEX_NAME:
            if isinstance(event, FileDeletedEvent):
                self._session.hints.add(EVERYTHING)
            return
        if is_cookie(path):
            if not isinstance(event, FileDeletedEvent):
                self._session.hints.add(path)
            return
        subject = layout.subject_of(path)
        if subject is not None:
            self._session.hints.add(subject)


def _is_wanted(name: bytes) -> bool:
    """Say whether a file of this name can matter: called for every event, so it only compares ends."""
    return name.endswith(_WANTED_ENDS) or name.startswith(_WANTED_STARTS) or name in (_INDEX, _CONFIG)


_SHARD_ENDS = (".pt", ".distcp", ".metadata")  # inside a checkpoint that is a folder
_SHARD_STARTS = ("latest",)
_WANTED_ENDS = tuple(
    map(os.fsencode, (layout.CHECKPOINT_SUFFIX, layout.CHECKPOINT_SUFFIX + layout.SIDECAR_SUFFIX, *_SHARD_ENDS))
)
_WANTED_STARTS = tuple(map(os.fsencode, (layout.COOKIE_PREFIX, *_SHARD_STARTS)))
_INDEX, _CONFIG = os.fsencode(layout.INDEX_NAME), os.fsencode(layout.CONFIG_NAME)


class _Session:
    """One root, from taking its lock to losing it."""

    def __init__(self, daemon: Daemon, settings: Settings) -> None:
        self._daemon = daemon
        self._settings = settings
        self.root = daemon.root
        self.real_root = os.path.realpath(daemon.root)
        self.hints = daemon.hints
        self.state = daemon.state
        self._manager = daemon.manager
        self._identity = _identity(self.root)
        self._indexer = Indexer(
            self.root, workers=settings.workers, sidecars=settings.sidecars, remove_orphans=settings.remove_orphans
        )
        self._observer: BaseObserver | None = None
        self._lost: str | None = None  # why the observer has to be thrown away
        self._reasons: dict[str, Reason] = {}
        self._backoff_s = BACKOFF_FIRST_S
        self._cookies: set[str] = set()
        self._next_pass = 0.0
        self._next_commit = 0.0
        self._commit_failures = 0
        self._test_interval_s = min(SELF_TEST_INTERVAL_S, (daemon.manager.watchdog_s or 1e9) / 3)
        self._next_test = 0.0
        self._test_cookie: str | None = None
        self._test_deadline = float("inf")
        self._is_ready = False
        try:
            self._lock = FileLock(os.path.join(self.root, layout.DAEMON_LOCK_NAME), mode=0o666)
            self._lock.acquire(timeout=LOCK_GRACE_S)
        except Timeout:
            raise DaemonRunning(root=self.root) from None
        except OSError as error:
            raise RootUnusable(root=self.root, reason=error.strerror or str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_observer()
        self._indexer.__exit__()
        with contextlib.suppress(OSError, StoreError):
            if _identity(self.root) == self._identity:
                self.state.state = "stopped"
                write_state(self.root, self.state)
        self._lock.release()

    def run(self) -> None:
        """Work until told to stop, or until the root is another one."""
        self._remove_cookies()
        self._indexer.load()
        self._start_observer()
        self.hints.add(EVERYTHING)
        while True:
            try:
                if not self._turn():
                    return
                self._clear_reason("error")
            except (IndexTooNew, RootUnusable):
                raise
            except Exception:
                if _identity(self.root) != self._identity:
                    return
                log.exception("turn_failed")
                self._set_reason("error", "a pass failed; see the log", "it is tried again")
                self.hints.take(self._pause())
                self.hints.add(EVERYTHING)

    def _turn(self) -> bool:
        """One turn of the loop; False to end the session."""
        places = self.hints.take(self._wait_s())
        if self._daemon.stop_signal is not None or self._daemon.must_reload:
            if self._indexer.is_dirty:
                self._commit()
            return False
        if _identity(self.root) != self._identity:
            log.warning("root_replaced", root=self.root)
            return False
        now = time.monotonic()
        cookies = {path for path in places if is_cookie(path)}
        self._take_cookies(cookies)
        places -= cookies
        self._check_self_test(now)
        if self._lost is not None:
            self._restart_observer()
            places = {EVERYTHING}
        if now >= self._next_pass:
            places = {EVERYTHING}
        places |= self._indexer.take_retries()
        if places:
            self._look(places)
        self._indexer.work(SLICE_S)
        self._finish_turn()
        return True

    def _wait_s(self) -> float:
        if not self._indexer.is_idle or self._lost is not None:
            return 0.0
        now = time.monotonic()
        due = [self._next_pass, self._next_test, self._test_deadline]
        if self._indexer.is_dirty:
            due.append(self._next_commit)
        return max(0.0, min(min(due) - now, self._indexer.retry_due_s()))

    def _look(self, places: set[str]) -> None:
        started = time.monotonic()
        if EVERYTHING in places:
            # A cookie's event may have been lost with the others; what was written before it, this pass will see.
            self._cookies.update(name for name in self._iter_cookies() if name != self._test_cookie)
            self._indexer.load()
        snapshot = self._indexer.look(places)
        self._set_unseen(snapshot.unseen)
        if EVERYTHING in places:
            interval = self._settings.scan_interval
            self._next_pass = time.monotonic() + interval * random.uniform(0.75, 1.25)
            self.state.last_pass = utc_text(time.time_ns())
            seconds = round(time.monotonic() - started, 4)
            log.info(
                "pass_finished",
                folders=snapshot.folders,
                checkpoints=len(snapshot.found),
                to_read=len(self._indexer.todo),
                seconds=seconds,
            )
            if self._is_ready:
                self._tell_state()

    def _finish_turn(self) -> None:
        """Commit if it is time, and answer who waits for it."""
        idle = self._indexer.is_idle
        must = idle and (bool(self._cookies) or not self._is_ready)
        if (self._indexer.is_dirty or must) and (must or time.monotonic() >= self._next_commit):
            self._commit()
        if not idle or self._indexer.is_dirty:
            return
        for cookie in self._cookies:
            self._unlink(cookie)
        self._cookies.clear()
        if not self._is_ready:
            self._is_ready = True
            self._tell_state()
            counts = self._indexer.counts_by_status()
            log.info("daemon_ready", entries=sum(counts.values()), generation=self._indexer.store.generation, **counts)
            self._manager.ready(self._status_line())
            self._next_test = time.monotonic()

    def _commit(self) -> None:
        try:
            committed = self._indexer.commit()
        except IndexTooNew:
            raise
        except (StoreError, OSError) as error:
            self._commit_failures += 1
            if self._commit_failures == 1:
                log.error("commit_failed", reason=str(error))
                self._set_reason("index-unwritable", str(error), "make room, or make the root writable")
            self._next_commit = time.monotonic() + min(BACKOFF_LAST_S, 2.0 ** min(self._commit_failures, 5) / 2)
            return
        if self._commit_failures:
            log.info("commit_recovered", failures=self._commit_failures)
            self._commit_failures = 0
            self._clear_reason("index-unwritable")
        if committed is None:
            return
        self.state.index_writes += 1
        delay = min(COMMIT_DELAY_MAX_S, max(COMMIT_INTERVAL_S, committed.seconds / COMMIT_SHARE))
        self._next_commit = time.monotonic() + delay
        log.info(
            "index_written",
            generation=committed.generation,
            changed=len(committed.keys),
            first=committed.keys[0],
            entries=len(self._indexer.store.entries),
            seconds=round(committed.seconds, 4),
        )

    # --- watching ---

    def on_blinded(self, path: str, event: Blinded) -> None:
        """Take note that events are lost or will be; called in the observer's thread."""
        if event.lost:
            self._lost = event.reason
            self.hints.add(EVERYTHING)
        elif event.reason == "watches":
            self._set_reason(
                "watches",
                f"no more inotify watches; from {path or '.'} on, changes are seen by passes only",
                "raise fs.inotify.max_user_watches (sysctl) above the number of folders",
            )
        else:
            self._set_reason("unreadable", f"{path or '.'} cannot be watched", "make the folder readable")

    def _start_observer(self) -> None:
        observer = BaseObserver(InotifyEmitter, wanted=_is_wanted)
        observer.schedule(_Handler(self), self.real_root, recursive=True)
        self._lost = None
        try:
            observer.start()
        except OSError as error:
            cure = "raise fs.inotify.max_user_instances (sysctl)" if error.errno == 24 else ""
            self._set_reason("watch-failed", error.strerror or str(error), cure)
            if not self._is_ready and error.errno not in (24, 28):
                raise WatchFailed(path=self.root, reason=error.strerror or str(error)) from error
            log.warning("watch_failed", reason=error.strerror)
            return
        self._clear_reason("watch-failed")
        self._observer = observer
        self.state.watches = sum(e.watches for e in observer.emitters if isinstance(e, InotifyEmitter))

    def _stop_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    def _restart_observer(self) -> None:
        """Throw the observer away and start another, on a descriptor of its own."""
        reason, self._lost = self._lost or "", None
        self.state.rebuilds += 1
        self.state.overflows += reason == "overflow"
        log.warning("watch_lost", reason=reason, rebuilds=self.state.rebuilds)
        self._stop_observer()
        self.hints.take(self._pause())
        for code in ("watches", "unreadable", "blind"):
            self._clear_reason(code)
        self._start_observer()
        self._test_cookie, self._test_deadline = None, float("inf")
        self._next_test = time.monotonic()
        log.info("watch_restored", watches=self.state.watches)

    def _pause(self) -> float:
        """Give the next pause: they grow while watching keeps breaking, and start again after a good self-test."""
        pause = self._backoff_s
        self._backoff_s = min(2 * pause, BACKOFF_LAST_S)
        return pause

    def _check_self_test(self, now: float) -> None:
        if self._observer is not None and not all(e.is_alive() for e in (self._observer, *self._observer.emitters)):
            self._lost = self._lost or "dead thread"
        if now >= self._test_deadline:
            self._test_cookie, self._test_deadline = None, float("inf")
            self._set_reason("blind", "the self-test's event did not come", "watching is started anew")
            self._lost = self._lost or "self-test"
        elif self._is_ready and self._test_cookie is None and now >= self._next_test:
            name = f"{layout.COOKIE_PREFIX}test-{os.getpid()}"
            self._unlink(name)
            try:
                os.close(
                    os.open(os.path.join(self.root, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                )
            except OSError as error:
                self._set_reason("index-unwritable", error.strerror or str(error), "make the root writable")
                self._next_test = now + self._test_interval_s
                return
            self._test_cookie, self._test_deadline = name, now + SELF_TEST_TIMEOUT_S

    def _take_cookies(self, cookies: set[str]) -> None:
        if self._test_cookie in cookies:
            self._unlink(self._test_cookie)
            cookies.discard(self._test_cookie)
            self._test_cookie, self._test_deadline = None, float("inf")
            self._next_test = time.monotonic() + self._test_interval_s
            self._backoff_s = BACKOFF_FIRST_S
            self._manager.alive()
        self._cookies |= cookies

    def _unlink(self, name: str | None) -> None:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.root, name))

    def _remove_cookies(self) -> None:
        """Remove the cookies of those who waited for a daemon that is gone: they ask again."""
        for name in self._iter_cookies():
            self._unlink(name)

    def _iter_cookies(self) -> Iterator[str]:
        return filter(is_cookie, os.listdir(self.root))

    # --- saying how it is ---

    def _set_reason(self, code: str, message: str, cure: str) -> None:
        if code in self._reasons or len(self._reasons) >= REASONS_MAX:
            return
        self._reasons[code] = Reason(code, message, cure)
        log.warning("degraded", code=code, message=message, cure=cure)
        self._tell_state()

    def _clear_reason(self, code: str) -> None:
        if self._reasons.pop(code, None) is not None:
            log.info("restored", code=code)
            self._tell_state()

    def _set_unseen(self, unseen: dict[str, str]) -> None:
        for path, reason in list(unseen.items())[:1]:
            self._set_reason("unreadable", f"{layout.to_key(path) or '.'}: {reason}", "make the folder readable")

    def _tell_state(self) -> None:
        self.state.state = "degraded" if self._reasons else "ok"
        self.state.reasons = list(self._reasons.values())
        self.state.generation = self._indexer.store.generation
        with contextlib.suppress(OSError):
            write_state(self.root, self.state)
        self._manager.status(self._status_line())

    def _status_line(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self._indexer.counts_by_status().items())
        reasons = "; ".join(reason.message for reason in self._reasons.values())
        return f"{self.state.state}: {counts or 'no checkpoints'}" + (f" ({reasons})" if reasons else "")


def _identity(root: str) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)
