"""A barrier between a writer and the readers of an index: all that was written before is in it afterwards.

With a daemon, ``sync`` waits for it by a cookie, a file of a known name: events come in order, so when the daemon sees
the cookie's it has seen all earlier ones, and it removes the cookie once they are in the index. Without a daemon it
does a pass itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.errors import SyncTimeout
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.tree.local import check_root

POLL_S = 0.001  # the daemon answers within milliseconds
CHECK_ALIVE_S = 0.5  # how often a daemon that does not answer is asked whether it lives


@dataclass(frozen=True)
class Synced:
    """The index as it is after the barrier."""

    had_daemon: bool  # whether a daemon did the work
    generation: int
    seconds: float


def sync(root: str, *, timeout_s: float = 60.0) -> Synced:
    """Return when all that was written below *root* before this call is in its index.

    Raises:
        RootUnusable: the root cannot be listed.
        SyncTimeout: there is a daemon, and it did not get so far within *timeout_s*.
        StoreError: without a daemon, the index could not be written.

    """
    started = time.monotonic()
    check_root(root)
    has_daemon = wait_for_daemon(root, timeout_s=timeout_s)
    if not has_daemon:
        # Late: whoever waits for a daemon does not pay for the indexer.
        from ckpt_indexer.actions.rebuild import run_pass
        from ckpt_indexer.settings import environment_settings

        run_pass(root, environment_settings())
    return Synced(has_daemon, read_index(root).generation, round(time.monotonic() - started, 4))


def wait_for_daemon(root: str, *, timeout_s: float) -> bool:
    """Wait until the daemon has indexed what was written before; return False if there is none.

    Raises:
        SyncTimeout: the daemon lives, and the cookie is still there.
        PermissionError: the root cannot be written.

    """
    if not is_daemon_alive(root):
        return False
    cookie = os.path.join(root, f"{paths.COOKIE_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    with open(cookie, "xb"):
        pass
    try:
        return _wait_gone(root, cookie, timeout_s)
    finally:
        with contextlib.suppress(FileNotFoundError):  # the daemon removed it
            os.unlink(cookie)


def _wait_gone(root: str, cookie: str, timeout_s: float) -> bool:
    checked = time.monotonic()
    deadline = checked + timeout_s
    while os.path.exists(cookie):
        now = time.monotonic()
        if now > deadline:
            raise SyncTimeout(root=root, timeout_s=timeout_s)
        if now > checked + CHECK_ALIVE_S:
            checked = now
            if not is_daemon_alive(root):
                return False
        time.sleep(POLL_S)
    return True
