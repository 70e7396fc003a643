"""What is known of the daemon of a root: the one answer that readers, commands and the web server share.

Owns the record that the daemon writes into ``.checkpoint_index.daemon.json`` (``watch/state.py`` writes it after every
pass and whenever the state changes), and how it is read. The lock on ``.checkpoint_index.daemon.lock`` is held as long
as a daemon lives: it, not the file, says whether one does, so a killed daemon is seen as dead at once.

| lock | file | ``describe`` |
|---|---|---|
| free | any | ``stopped``; its figures are those of the last daemon |
| held | ``stopped``: left by the last daemon | ``starting``, pid unknown |
| held | cannot be read | ``degraded`` for ``state-unwritable``, pid unknown |
| held | any other | as the file says |

A file that a killed daemon left behind is believed until the next daemon writes its own, which is the first thing it
does with the lock. Nothing heavy is imported, because every reader of the index may ask.
"""

from __future__ import annotations

import fcntl
import os
from typing import Literal

import msgspec

from ckpt_indexer import paths

State = Literal["starting", "ok", "polling", "degraded", "stopped"]
STATES: tuple[State, ...] = ("ok", "polling", "degraded", "starting", "stopped")
_STATE_MAX = 1 << 20  # bytes
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Reason(msgspec.Struct):
    """Why the index may be behind the disk, and what helps."""

    code: str
    message: str
    cure: str = ""


class DaemonState(msgspec.Struct):
    """What the daemon says of itself; readers ignore unknown fields."""

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


class DaemonStatus(DaemonState):
    """What is known of the daemon now."""

    is_alive: bool = False


def describe(root: str | os.PathLike[str]) -> DaemonStatus:
    """Return what is known of the daemon of *root* now, as the table above says."""
    is_alive, state = is_daemon_alive(root), read_state(root)
    status = DaemonStatus() if state is None else DaemonStatus(**msgspec.structs.asdict(state))
    status.is_alive = is_alive
    if not is_alive:
        status.state, status.reasons, status.pid = "stopped", [], None
    elif state is None:
        cure = "make room, or make the root writable; a daemon that is just starting needs a moment"
        status.state = "degraded"
        status.reasons = [Reason("state-unwritable", "the daemon's state cannot be read", cure)]
    elif state.state == "stopped":
        status.state, status.reasons, status.pid, status.started = "starting", [], None, None
    return status


def read_state(root: str | os.PathLike[str]) -> DaemonState | None:
    """Read what a daemon of *root* wrote last; ``None`` where there is nothing that can be read."""
    try:
        fd = os.open(os.path.join(root, paths.DAEMON_STATE_NAME), _FLAGS)
    except OSError:
        return None
    try:
        return msgspec.json.decode(os.read(fd, _STATE_MAX), type=DaemonState)
    except (OSError, msgspec.MsgspecError):
        return None
    finally:
        os.close(fd)


def is_daemon_alive(root: str | os.PathLike[str]) -> bool:
    """Return whether a daemon holds its lock on *root* now; False where that cannot be seen."""
    try:
        fd = os.open(os.path.join(root, paths.DAEMON_LOCK_NAME), _FLAGS)
    except OSError:
        return False
    try:
        # Shared, so that two askers do not see each other; a starting daemon waits out the moment this takes.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(fd)
