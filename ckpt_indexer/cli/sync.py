"""``ckpt-indexer sync``: a barrier between a writer and the readers of the index."""

from __future__ import annotations

import os
import secrets
import time

import click

from ckpt_indexer import paths
from ckpt_indexer.cli.options import json_option, print_json, root_argument
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.errors import SyncTimeout
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.tree.local import check_root

POLL_S = 0.001


@click.command("sync")
@root_argument
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds.")
@json_option
def command(root: str, timeout_s: float, as_json: bool) -> None:
    """Return when all that was written below ROOT before this call is in its index; exit 1 if that takes too long.

    Without a daemon, ROOT is looked at here and now.
    """
    check_root(root)
    started = time.monotonic()
    has_daemon = sync(root, timeout_s=timeout_s)
    if not has_daemon:
        _pass(root)
    if as_json:
        seconds = round(time.monotonic() - started, 4)
        print_json({"ok": True, "daemon": has_daemon, "generation": read_index(root).generation, "seconds": seconds})


def _pass(root: str) -> None:
    """Do what a daemon would have done."""
    from ckpt_indexer.log import configure_log
    from ckpt_indexer.passes.indexer import Indexer
    from ckpt_indexer.settings import environment_settings

    settings = environment_settings()
    configure_log("warning", "text", is_terminal=False)
    with Indexer.of(root, settings) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.finish()


def sync(root: str, *, timeout_s: float) -> bool:
    """Wait for the daemon; False if there is none.

    A cookie is put into the root. Events come in order, so when the daemon sees the cookie's it has seen all earlier
    ones; it removes the cookie once they are in the index.

    Raises:
        SyncTimeout: the daemon lives, and the cookie is still there.

    """
    if not is_daemon_alive(root):
        return False
    cookie = os.path.join(root, f"{paths.COOKIE_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    with open(cookie, "xb"):
        pass
    deadline = time.monotonic() + timeout_s
    checked = time.monotonic()
    try:
        while os.path.exists(cookie):
            now = time.monotonic()
            if now > deadline:
                raise SyncTimeout(root=root, timeout_s=timeout_s)
            if now > checked + 0.5:
                checked = now
                if not is_daemon_alive(root):
                    return False
            time.sleep(POLL_S)
    finally:
        if os.path.exists(cookie):
            os.unlink(cookie)
    return True
