"""Changes below one root as hints, for as long as they can be seen, and a report when they cannot.

A ``TreeObserver`` owns an emitter and its replacement: when watching breaks (overflow, a dead thread, new mounts, a
self-test that does not come through) ``lost`` names the reason; its owner then calls ``restart`` and scans
everything. Pauses between restarts grow until a self-test succeeds.

The *self-test* (``self_test``) is a file in the root whose event has to come back. Where there are no events, or none
that can be trusted (network file systems, no inotify instance left, a self-test that fails again), the daemon's state
says so, and passes do the work.

Events arrive in the emitter's thread, which only adds hints and gaps; everything else is called by the owner's thread.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

import structlog
from watchdog.events import FileDeletedEvent

from ckpt_indexer import paths
from ckpt_indexer.backoff import Backoff
from ckpt_indexer.errors import WatchFailed, reason_of
from ckpt_indexer.paths import RelPath
from ckpt_indexer.watch.events.emitter import InotifyEmitter, WatchGap
from ckpt_indexer.watch.events.hints import EVERYTHING, Hints, is_cookie
from ckpt_indexer.watch.events.mounts import Mount, read_mounts
from ckpt_indexer.watch.events.self_test import SelfTest

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.events import FileSystemEvent

    from ckpt_indexer.watch.state import StateKeeper

SELF_TEST_INTERVAL_S = 30.0  # less where systemd's watchdog wants it
STOP_TIMEOUT_S = 5.0
RESTART_FIRST_S, RESTART_LAST_S = 0.2, 30.0  # pauses before watching starts anew
GAPS_MAX = 100  # from the emitter's thread between two turns; the passes find the rest
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)

log = structlog.get_logger("ckpt_indexer")


class TreeObserver:
    """Watches one root; *keeper* learns what cannot be watched, *should_stop* ends a start that takes long."""

    def __init__(
        self,
        root: str,
        hints: Hints,
        keeper: StateKeeper,
        *,
        test_interval_s: float,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.lost: str | None = None  # why it has to be restarted
        self._real_root = os.path.realpath(root)
        self._suffixes: tuple[str, ...] = paths.SUFFIXES
        self._hints = hints
        self._keeper = keeper
        self._should_stop = should_stop
        self._emitter: InotifyEmitter | None = None
        self._gaps: collections.deque[tuple[RelPath, str]] = collections.deque(maxlen=GAPS_MAX)  # path, reason
        self._mounts: list[Mount] = []  # as they were when the emitter was started
        self._watch_limit = 0  # when watches ran out
        self._restarts = Backoff(RESTART_FIRST_S, RESTART_LAST_S)
        self._test = SelfTest(test_interval_s)

    def start(self, *, is_first: bool = False) -> None:
        """Start watching; without the resources for it the state says so, and passes do the work.

        Raises:
            WatchFailed: the first start fails for a reason that will not pass.

        """
        emitter = InotifyEmitter(
            self._real_root, self._on_event, wanted=_wanted(self._suffixes), should_stop=self._should_stop
        )
        self.lost = None
        self._mounts = read_mounts(self._real_root)
        remote = next((mount for mount in self._mounts if mount.is_remote), None)
        if remote is not None:
            message = f"{paths.to_text(remote.path)} is {remote.type}: what other machines write there causes no events"
            self._keeper.set("network", message, "nothing to do: the tree is looked at every few seconds instead")
        try:
            emitter.start()
        except OSError as error:
            if is_first and error.errno not in _NO_RESOURCES:
                raise WatchFailed(path=self._real_root, reason=reason_of(error)) from error
            cure = "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"
            self._keeper.set("watch-failed", f"inotify is not to be had: {error.strerror}", cure)
            return
        self._keeper.clear("watch-failed")
        self._emitter = emitter
        self._keeper.state.watches = emitter.watches

    def set_suffixes(self, suffixes: tuple[str, ...]) -> None:
        """Set what the names of checkpoints end in."""
        if suffixes != self._suffixes:
            self._suffixes = suffixes
            if self._emitter is not None:
                self.lost = self.lost or "suffixes"

    def stop(self) -> None:
        """End watching."""
        emitter, self._emitter = self._emitter, None
        if emitter is not None:
            emitter.stop()
            emitter.join(STOP_TIMEOUT_S)  # a thread that hangs in the kernel must not hang its owner

    def restart(self) -> None:
        """Replace the emitter by a new one, on a descriptor of its own, after a pause.

        Pauses grow until a self-test succeeds.
        """
        reason, self.lost = self.lost, None
        state = self._keeper.state
        state.rebuilds += 1
        state.overflows += reason == "overflow"
        log.warning("watch_lost", reason=reason, rebuilds=state.rebuilds)
        self.stop()
        now_s = time.monotonic()
        self._hints.pause(self._restarts.failed(now_s) - now_s)
        self._keeper.clear("watches")
        self._keeper.clear("network")
        self.start()
        self.request_test()
        log.info("watch_restored", watches=state.watches)

    def due_s(self) -> float:
        """Return the moment (monotonic) at which ``check`` has something to do."""
        return self._test.due_s

    def request_test(self) -> None:
        """Start the next self-test with the next ``check``; one that is under way counts no more."""
        self._test.request(time.monotonic())

    def check(self) -> set[RelPath]:
        """Check that watching still works; return the places that must be scanned because no events arrive for them."""
        places, now_s = set[RelPath](), time.monotonic()
        if self._emitter is not None and not self._emitter.is_alive():
            self.lost = self.lost or "dead thread"
        if self._test.has_failed(now_s):
            if not self._test.report_failed(now_s):
                self.lost = self.lost or "self-test"
            elif not self._keeper.has("blind"):
                self._keeper.set("blind", "events do not come through; passes do the work", "see the log")
                places.add(EVERYTHING)  # now, not when a pass was due while events were believed in
        elif self._test.is_due(now_s):
            self._begin_test(now_s)
        while self._gaps:
            place, reason = self._gaps.popleft()
            places.add(place)
            if reason == "watches" and not self._keeper.has("watches"):
                self._report_out_of_watches(place)
                places.add(EVERYTHING)
        return places

    def receive_test_cookie(self, cookies: set[RelPath]) -> bool:
        """Remove the self-test's cookie from those whose events have come; return whether it was among them."""
        if self._test.cookie not in cookies:
            return False
        cookies.discard(self._test.cookie)
        self._unlink(self._test.cookie)
        self._test.report_passed(time.monotonic())
        self._restarts.succeeded()
        self._keeper.clear("blind")
        return True

    def is_test_cookie(self, name: RelPath) -> bool:
        return name == self._test.cookie

    def report_pass(self, folders: int) -> None:
        """Check, after a pass that met *folders* folders, what no event tells: mounts, limits."""
        mounts, self._mounts = self._mounts, read_mounts(self._real_root)
        if mounts != self._mounts:
            self.lost = self.lost or "mounts"
        if self._keeper.has("watches") and _watch_limit() > max(self._watch_limit, folders):
            self.lost = self.lost or "more watches allowed"
        if self._emitter is None and self.lost is None:
            self.start()

    def _on_event(self, event: FileSystemEvent) -> None:
        """Turn an event into a hint or a gap; called in the emitter's thread, and never raises."""
        path = RelPath(os.fsdecode(event.src_path)[len(self._real_root) + 1 :])
        if isinstance(event, WatchGap):
            self._on_gap(path, event)
        elif event.is_directory:
            self._hints.add(paths.subject_of_folder(path, self._suffixes))
        elif path == paths.INDEX_NAME:
            if isinstance(event, FileDeletedEvent):
                self._hints.add(EVERYTHING)
            else:
                self._hints.interrupt()  # the owner sees by a stat whether it was our own write
        elif is_cookie(path):
            if not isinstance(event, FileDeletedEvent):
                self._hints.add(path)
        else:
            for subject in paths.subjects_of(path, self._suffixes):
                self._hints.add(subject)

    def _on_gap(self, path: RelPath, event: WatchGap) -> None:
        """Record that events are lost or will be."""
        if event.lost:
            self.lost = event.reason
            self._hints.add(EVERYTHING)
        else:
            self._gaps.append((path, event.reason))
            self._hints.interrupt()

    def _begin_test(self, now_s: float) -> None:
        name = RelPath(f"{paths.COOKIE_PREFIX}test-{os.getpid()}")
        self._unlink(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            os.close(os.open(os.path.join(self._real_root, name), flags, 0o600))
        except OSError:
            # Without room for an empty file the index cannot be written either, and that is reported where it is tried.
            self._test.report_begun(now_s, None)
        else:
            self._test.report_begun(now_s, name)

    def _report_out_of_watches(self, place: RelPath) -> None:
        self._watch_limit = _watch_limit()
        folders = sum(1 for _ in os.walk(self._real_root))
        self._keeper.set(
            "watches",
            f"no more inotify watches: {paths.to_key(place) or '.'} and other folders are seen by passes only",
            f"sysctl fs.inotify.max_user_watches={self._watch_limit + 2 * folders}",
        )

    def _unlink(self, name: RelPath) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._real_root, name))


def _wanted(suffixes: tuple[str, ...]) -> Callable[[bytes, bytes], bool]:
    """Build the test of whether a file can matter: called for every event, so it only compares ends.

    In a checkpoint that is a folder every file does.
    """
    own = tuple(map(os.fsencode, suffixes))
    ends = (*own, *map(os.fsencode, (*paths.OTHER_SIDECAR_ENDS, *paths.OWN_CONFIG_ENDS)))
    inside = tuple(suffix + b"/" for suffix in own)

    def is_wanted(folder: bytes, name: bytes) -> bool:
        return (
            name.endswith(ends)
            or name.startswith(_COOKIE)
            or name in _NAMES
            or folder.endswith(own)
            or any(part in folder for part in inside)
        )

    return is_wanted


_COOKIE = os.fsencode(paths.COOKIE_PREFIX)
_NAMES = frozenset(map(os.fsencode, (paths.INDEX_NAME, paths.CONFIG_NAME, *paths.SETTINGS_NAMES)))


def _watch_limit() -> int:
    """Read how many watches this user may have; a user namespace may have a lower limit of its own."""
    limits = []
    for path in ("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limits.append(int(file.read()))
    return min(limits, default=0)
