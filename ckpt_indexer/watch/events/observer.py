"""Seeing changes below one root for as long as that is possible, and saying so when it is not.

A ``TreeObserver`` owns an emitter and its replacement: when watching breaks (overflow, a dead thread, new mounts, a
self-test that does not come through) ``lost`` names the reason; its owner then calls ``restart`` and looks at
everything. Pauses between restarts grow until a self-test succeeds.

The *self-test* is a cookie: a file in the root whose event has to come back. Where events cannot be had or trusted
(network file systems, no inotify instance left, a self-test that fails again) the account says so, and passes do the
work.

Events arrive in the emitter's thread, which only adds hints and notes; everything else is called by the owner's thread.
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
from ckpt_indexer.errors import WatchFailed
from ckpt_indexer.watch.events.emitter import Blinded, InotifyEmitter
from ckpt_indexer.watch.events.hints import EVERYTHING, Hints, is_cookie
from ckpt_indexer.watch.events.mounts import Mount, read_mounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.events import FileSystemEvent

    from ckpt_indexer.watch.state import Account

SELF_TEST_INTERVAL_S = 30.0  # less where systemd's watchdog wants it
SELF_TEST_TIMEOUT_S = 10.0  # half the interval where that is less: two failures, then a pass, within systemd's limit
SELF_TEST_FAILURES_MAX = 2  # in a row; then passes are relied on
STOP_TIMEOUT_S = 5.0
BACKOFF_FIRST_S = 0.2
BACKOFF_LAST_S = 30.0
BLINDED_MAX = 100  # notes from the emitter's thread between two turns; the passes find the rest
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)

log = structlog.get_logger("ckpt_indexer")


class TreeObserver:
    """Watches one root; *account* is told what cannot be watched."""

    def __init__(self, root: str, hints: Hints, account: Account, *, test_interval_s: float) -> None:
        self.root = root
        self.lost: str | None = None  # why it has to be restarted
        self._suffixes: tuple[str, ...] = paths.SUFFIXES
        self._real_root = os.path.realpath(root)
        self._hints = hints
        self._account = account
        self._emitter: InotifyEmitter | None = None
        self._blinded: collections.deque[tuple[str, str]] = collections.deque(maxlen=BLINDED_MAX)
        self._mounts: list[Mount] = []  # as they were when the emitter was started
        self._watch_limit = 0  # when watches ran out
        self._backoff_s = BACKOFF_FIRST_S
        self._test_interval_s = test_interval_s
        self._test_timeout_s = min(SELF_TEST_TIMEOUT_S, test_interval_s / 2)
        self._test_failures = 0
        self._test_cookie: str | None = None
        self._test_deadline = float("inf")
        self._next_test = float("inf")

    def start(self, *, is_first: bool = False) -> None:
        """Start watching; without the resources for it the account says so, and passes do the work.

        Raises:
            WatchFailed: the first start fails for a reason that will not pass.

        """
        emitter = InotifyEmitter(self._real_root, self._on_event, wanted=_wanted(self._suffixes))
        self.lost = None
        self._mounts = read_mounts(self._real_root)
        remote = next((mount for mount in self._mounts if mount.is_remote), None)
        if remote is not None:
            message = f"{paths.to_key(remote.path)} is {remote.type}: what other machines write there causes no events"
            self._account.set("network", message, "nothing to do: the tree is looked at every few seconds instead")
        try:
            emitter.start()
        except OSError as error:
            if is_first and error.errno not in _NO_RESOURCES:
                raise WatchFailed(path=self.root, reason=error.strerror or str(error)) from error
            cure = "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"
            self._account.set("watch-failed", f"inotify is not to be had: {error.strerror}", cure)
            return
        self._account.clear("watch-failed")
        self._emitter = emitter
        self._account.state.watches = emitter.watches

    def use(self, suffixes: tuple[str, ...]) -> None:
        """Say what the names of checkpoints end in."""
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
        """Throw the emitter away and start another, on a descriptor of its own, after a pause."""
        reason, self.lost = self.lost, None
        state = self._account.state
        state.rebuilds += 1
        state.overflows += reason == "overflow"
        log.warning("watch_lost", reason=reason, rebuilds=state.rebuilds)
        self.stop()
        self._hints.pause(self.next_pause_s())
        self._account.clear("watches")
        self._account.clear("network")
        self.start()
        self.test_soon()
        log.info("watch_restored", watches=state.watches)

    def next_pause_s(self) -> float:
        """Give the pause before the next attempt: they grow until a self-test succeeds."""
        pause = self._backoff_s
        self._backoff_s = min(2 * pause, BACKOFF_LAST_S)
        return pause

    def due_s(self) -> float:
        """Give the moment (monotonic) at which ``check`` has something to do."""
        return min(self._next_test, self._test_deadline)

    def test_soon(self) -> None:
        """Start the next self-test with the next ``check``; one that is under way counts no more."""
        self._test_cookie, self._test_deadline = None, float("inf")
        self._next_test = time.monotonic()

    def check(self) -> set[str]:
        """See whether watching still works; gives the places that have to be looked at because it does not there."""
        places, now = set[str](), time.monotonic()
        if self._emitter is not None and not self._emitter.is_alive():
            self.lost = self.lost or "dead thread"
        if now >= self._test_deadline:
            self._test_failures += 1
            self.test_soon()
            self._next_test = now + self._test_interval_s
            if self._test_failures < SELF_TEST_FAILURES_MAX:
                self.lost = self.lost or "self-test"
            elif not self._account.has("blind"):
                self._account.set("blind", "events do not come through; passes do the work", "see the log")
                places.add(EVERYTHING)  # now, not when a pass was due while events were believed in
        elif self._test_cookie is None and now >= self._next_test:
            self._begin_test(now)
        while self._blinded:
            place, reason = self._blinded.popleft()
            places.add(place)
            if reason == "watches" and not self._account.has("watches"):
                self._note_out_of_watches(place)
                places.add(EVERYTHING)
        return places

    def take_test_cookie(self, cookies: set[str]) -> bool:
        """Take the self-test's cookie out of those that were noticed; say whether it was among them."""
        if self._test_cookie not in cookies:
            return False
        cookies.discard(self._test_cookie)
        self._unlink(self._test_cookie)
        self.test_soon()
        self._next_test += self._test_interval_s
        self._test_failures = 0
        self._backoff_s = BACKOFF_FIRST_S
        self._account.clear("blind")
        return True

    def is_test_cookie(self, name: str) -> bool:
        return name == self._test_cookie

    def note_pass(self, folders: int) -> None:
        """Look, after a pass that met *folders* folders, at what no event tells: mounts, limits."""
        mounts, self._mounts = self._mounts, read_mounts(self._real_root)
        if mounts != self._mounts:
            self.lost = self.lost or "mounts"
        if self._account.has("watches") and _watch_limit() > max(self._watch_limit, folders):
            self.lost = self.lost or "more watches allowed"
        if self._emitter is None and self.lost is None:
            self.start()

    def _on_event(self, event: FileSystemEvent) -> None:
        """Turn an event into a hint or a note; called in the emitter's thread, and never raises."""
        path = os.fsdecode(event.src_path)[len(self._real_root) + 1 :]
        if isinstance(event, Blinded):
            self._on_blinded(path, event)
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

    def _on_blinded(self, path: str, event: Blinded) -> None:
        """Take note that events are lost or will be."""
        if event.lost:
            self.lost = event.reason
            self._hints.add(EVERYTHING)
        else:
            self._blinded.append((path, event.reason))
            self._hints.interrupt()

    def _begin_test(self, now: float) -> None:
        name = f"{paths.COOKIE_PREFIX}test-{os.getpid()}"
        self._unlink(name)
        self._next_test = now + self._test_interval_s
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        # Without room for an empty file the index cannot be written either, and that is told where it is tried.
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(self.root, name), flags, 0o600))
            self._test_cookie, self._test_deadline = name, now + self._test_timeout_s

    def _note_out_of_watches(self, place: str) -> None:
        self._watch_limit = _watch_limit()
        folders = sum(1 for _ in os.walk(self._real_root))
        self._account.set(
            "watches",
            f"no more inotify watches: {paths.to_key(place) or '.'} and other folders are seen by passes only",
            f"sysctl fs.inotify.max_user_watches={self._watch_limit + 2 * folders}",
        )

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.root, name))


def _wanted(suffixes: tuple[str, ...]) -> Callable[[bytes, bytes], bool]:
    """Make the test of whether a file can matter: called for every event, so it only compares ends.

    In a checkpoint that is a folder every file does.
    """
    own = tuple(map(os.fsencode, suffixes))
    ends = (*own, *map(os.fsencode, (*paths.OTHER_SIDECAR_ENDS, *paths.OWN_CONFIG_ENDS)))
    inside = tuple(suffix + b"/" for suffix in own)

    def is_wanted(folder: bytes, name: bytes) -> bool:
        return (
            name.endswith(ends)
            or name.startswith(_COOKIE)
            or name in (_INDEX, _CONFIG)
            or folder.endswith(own)
            or any(part in folder for part in inside)
        )

    return is_wanted


_COOKIE, _INDEX, _CONFIG = map(os.fsencode, (paths.COOKIE_PREFIX, paths.INDEX_NAME, paths.CONFIG_NAME))


def _watch_limit() -> int:
    """Read how many watches this user may have; a user namespace may have a lower limit of its own."""
    limits = []
    for path in ("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limits.append(int(file.read()))
    return min(limits, default=0)
