"""What the daemon says about itself, in a file beside the index.

``.checkpoint_index.daemon.json`` is replaced after every full pass and whenever the state changes. The lock on
``.checkpoint_index.daemon.lock`` is held as long as the daemon lives: it, not the file, says whether it does
(``daemon_state.is_daemon_alive``).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog

from ckpt_indexer import paths
from ckpt_indexer.tree.local import opened_file, opened_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["ok", "degraded", "polling", "stopped"]
_STATE_MAX = 1 << 20  # bytes
_ONLY_PASSES = frozenset({"network", "blind", "watch-failed"})  # nothing is wrong but that there are no events
_NEEDS_PASSES = _ONLY_PASSES | {"watches"}

log = structlog.get_logger("ckpt_indexer")


class Reason(msgspec.Struct):
    """Why the index may be behind the disk, and what helps."""

    code: str
    message: str
    cure: str = ""


class DaemonState(msgspec.Struct):
    """The daemon's own account."""

    state: State = "stopped"
    reasons: list[Reason] = []
    pid: int | None = None
    started: str | None = None  # ISO 8601, UTC
    last_pass: str | None = None  # when the last pass over everything was finished
    generation: int = 0
    overflows: int = 0
    rebuilds: int = 0  # of the watches
    watches: int = 0
    index_writes: int = 0


class Account:
    """The state as it is kept: reasons come and go by code, and each change is logged and told once."""

    def __init__(self, state: DaemonState, on_change: Callable[[], None]) -> None:
        self.state = state
        state.state, state.reasons = "ok", []
        self._reasons: dict[str, Reason] = {}
        self._on_change = on_change

    @property
    def is_polling(self) -> bool:
        """Whether events are no longer relied on, somewhere or everywhere."""
        return not self._reasons.keys().isdisjoint(_NEEDS_PASSES)

    def has(self, code: str) -> bool:
        return code in self._reasons

    def set(self, code: str, message: str, cure: str) -> None:
        """Give a reason why the index may be behind the disk; of several with one code the first stands."""
        if code in self._reasons:
            return
        self._reasons[code] = Reason(code, message, cure)
        log.warning("degraded", code=code, message=message, cure=cure)
        self._changed()

    def clear(self, code: str) -> None:
        """Take a reason back."""
        if self._reasons.pop(code, None) is not None:
            log.info("restored", code=code)
            self._changed()

    def _changed(self) -> None:
        codes = self._reasons.keys()
        self.state.reasons = list(self._reasons.values())
        self.state.state = "ok" if not codes else "polling" if codes <= _ONLY_PASSES else "degraded"
        self._on_change()


def write_state(root: str, state: DaemonState) -> bool:
    """Put the state beside the index; where that is not possible there is none, rather than an old one.

    Says whether it is there.
    """
    with contextlib.suppress(OSError), opened_folder(root, "") as folder:
        try:
            replace_file(folder, paths.DAEMON_STATE_NAME, msgspec.json.encode(state) + b"\n", durable=False)
        except OSError:
            os.unlink(paths.DAEMON_STATE_NAME, dir_fd=folder)
        else:
            return True
    return False


def read_state(root: str) -> DaemonState | None:
    """Read the state; ``None`` where there is none that can be read."""
    try:
        with opened_file(root, paths.DAEMON_STATE_NAME) as fd:
            return msgspec.json.decode(os.read(fd, _STATE_MAX), type=DaemonState)
    except (OSError, msgspec.MsgspecError):
        return None
