"""The writing side of ``daemon_state``: the state as the daemon keeps it, and the file beside the index.

A ``StateKeeper`` derives the state from the reasons that hold now; each change is logged once and reported to its
owner. Where the file cannot be written it is removed, because no state is better than an old one.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec
import structlog

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import DaemonState, Reason, State
from ckpt_indexer.tree.local import opened_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

_ONLY_PASSES = frozenset({"network", "blind", "watch-failed"})  # the index is right, but by passes instead of events
_NEEDS_PASSES = _ONLY_PASSES | {"watches"}

log = structlog.get_logger("ckpt_indexer")


class StateKeeper:
    """The state of one session; *on_change* is called after each change of the state or its reasons."""

    def __init__(self, root: str, state: DaemonState, on_change: Callable[[], None]) -> None:
        self.state = state
        self.is_written = True  # the file says what the state is, as far as it was to be written
        self._root = root
        self._reasons: dict[str, Reason] = {}
        self._on_change = on_change
        self._is_ready = False
        state.state, state.reasons = "starting", []

    @property
    def is_polling(self) -> bool:
        """Whether events are no longer relied on, somewhere or everywhere."""
        return not self._reasons.keys().isdisjoint(_NEEDS_PASSES)

    def has(self, code: str) -> bool:
        return code in self._reasons

    def set(self, code: str, message: str, cure: str) -> None:
        """Add a reason why the index may be behind the disk; of several with one code the first stands."""
        if code in self._reasons:
            return
        self._reasons[code] = Reason(code, message, cure)
        log.warning("degraded", code=code, message=message, cure=cure)
        self._update()
        self._on_change()

    def clear(self, code: str) -> None:
        """Remove a reason."""
        if self._reasons.pop(code, None) is not None:
            log.info("restored", code=code)
            self._update()
            self._on_change()

    def set_ready(self) -> None:
        """Record that the index has equalled the disk once."""
        self._is_ready = True
        self._update()

    def write(self) -> None:
        """Write the state into its file."""
        self.is_written = _write_state(self._root, self.state)

    def write_stopped(self) -> None:
        """Write that there is no session any more."""
        self.state.state, self.state.reasons = "stopped", []
        self.write()

    def _update(self) -> None:
        self.state.reasons = list(self._reasons.values())
        self.state.state = self._summary()

    def _summary(self) -> State:
        if not self._reasons.keys() <= _ONLY_PASSES:
            return "degraded"
        if not self._is_ready:
            return "starting"
        return "polling" if self._reasons else "ok"


def _write_state(root: str, state: DaemonState) -> bool:
    """Write the state beside the index, or remove the old one; return whether it is there."""
    with contextlib.suppress(OSError), opened_folder(root, paths.ROOT) as folder:
        try:
            replace_file(folder, paths.DAEMON_STATE_NAME, msgspec.json.encode(state) + b"\n", durable=False)
        except OSError:
            os.unlink(paths.DAEMON_STATE_NAME, dir_fd=folder)
        else:
            return True
    return False
