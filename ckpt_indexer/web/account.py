"""What the daemon says of itself, as a reader of the root sees it.

The file is described in ``watch/state.py``, which this layer may not import; unknown fields are ignored.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.tree.local import opened_file

_ACCOUNT_MAX = 1 << 20  # bytes


class Reason(msgspec.Struct):
    """Why the index may be behind the disk, and what helps."""

    code: str
    message: str
    cure: str = ""


class Account(msgspec.Struct):
    """The daemon's own account; what it says holds while it is alive."""

    state: str = "stopped"
    reasons: list[Reason] = []
    started: str | None = None  # ISO 8601, UTC
    last_pass: str | None = None
    overflows: int = 0
    rebuilds: int = 0  # of the watches
    watches: int = 0
    index_writes: int = 0
    is_alive: bool = False  # never from the file


def read_account(root: str) -> Account:
    """Read the daemon's account; without a daemon that is alive its state is ``stopped``."""
    account = Account()
    with contextlib.suppress(OSError, msgspec.MsgspecError), opened_file(root, paths.DAEMON_STATE_NAME) as descriptor:
        account = msgspec.json.decode(os.read(descriptor, _ACCOUNT_MAX), type=Account)
    account.is_alive = is_daemon_alive(root)
    if not account.is_alive:
        account.state, account.reasons = "stopped", []
    elif account.state == "stopped":
        account.state = "degraded"
        account.reasons = [Reason("state-unwritable", "the daemon's state cannot be read", "make room")]
    return account
