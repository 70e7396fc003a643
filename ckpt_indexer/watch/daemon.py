"""The daemon of one root: one session after the other, until it is told to stop.

A *session* (``session``) belongs to one root, as identified by device and inode. When the root itself is replaced or
vanishes, the session ends and the next one begins as soon as there is a root. Signals only set a flag and wake the
loop; a scan that is under way ends at its next folder when the daemon is to stop.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import structlog

from ckpt_indexer import __version__
from ckpt_indexer.backoff import Backoff
from ckpt_indexer.daemon_state import DaemonState
from ckpt_indexer.errors import RootUnusable
from ckpt_indexer.model import utc_text
from ckpt_indexer.tree.local import check_root
from ckpt_indexer.watch.events.hints import Hints
from ckpt_indexer.watch.session import ROOT_CHECK_S, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.settings import Settings
    from ckpt_indexer.systemd_notify import ServiceManager

ROOT_RETRY_FIRST_S = 0.2  # between checks of a root that is not there, at first

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
        # Until a session has begun: a root that is there may still refuse its lock.
        self._root_retry = Backoff(ROOT_RETRY_FIRST_S, ROOT_CHECK_S)
        self.state = DaemonState(pid=os.getpid(), started=utc_text(time.time_ns()))

    def run(self) -> None:
        """Keep the index until SIGTERM or SIGINT; return after the commit at hand.

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
                with Session(self, settings, is_first=is_first) as session:
                    is_first = False
                    self._report_root_found()
                    session.run()
            except RootUnusable as error:
                if is_first:
                    raise
                self._wait_for_root(error.reason)
            if self.must_reload:
                self.must_reload = False
                settings = self._reloaded(settings)
        self.manager.stopping()
        log.info("daemon_stopped", signal=signal.Signals(self.stop_signal).name)

    def should_stop(self) -> bool:
        """Return whether the daemon is to end."""
        return self.stop_signal is not None

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self.must_reload = True
        else:
            self.stop_signal = number
        self.hints.interrupt()

    def _wait_for_root(self, reason: str) -> None:
        """Wait a moment for a root that is not there, or cannot be used; what is known of it stands meanwhile."""
        if not self._root_retry.delay_s:
            log.warning("root_lost", root=self.root, reason=reason)
            self.manager.status(f"the outputs root cannot be used: {reason}")
        now_s = time.monotonic()
        self.hints.drain(self._root_retry.failed(now_s) - now_s)
        self.manager.alive()

    def _report_root_found(self) -> None:
        if self._root_retry.delay_s:
            self._root_retry.succeeded()
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
