"""What the daemon says about itself, in a file beside the index, and whether it is alive.

``.checkpoint_index.daemon.json`` is replaced after every full pass and whenever the state changes. The lock on
``.checkpoint_index.daemon.lock`` is held as long as the daemon lives: it, not the file, says whether it does.
"""

from __future__ import annotations

import fcntl
import os
from typing import Literal

import msgspec

from ckpt_indexer import layout
from ckpt_indexer.disk import opened_folder, replace_file

State = Literal["ok", "degraded", "polling", "stopped"]
_STATE_MAX = 1 << 20  # bytes


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


def write_state(root: str, state: DaemonState) -> None:
    """Put the state beside the index.

    Raises:
        OSError: the root cannot be written.

    """
    with opened_folder(root, "") as folder:
        replace_file(folder, layout.DAEMON_STATE_NAME, msgspec.json.encode(state) + b"\n", durable=False)


def read_state(root: str) -> DaemonState:
    """Read the state; an absent or damaged file is that of a daemon that never ran."""
    try:
        with open(os.path.join(root, layout.DAEMON_STATE_NAME), "rb") as file:
            return msgspec.json.decode(file.read(_STATE_MAX), type=DaemonState)
    except (OSError, msgspec.MsgspecError):
        return DaemonState()


def is_daemon_alive(root: str) -> bool:
    """Say whether a daemon holds its lock on *root* now."""
    try:
        fd = os.open(os.path.join(root, layout.DAEMON_LOCK_NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
