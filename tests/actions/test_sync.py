"""The barrier without a daemon, and with one that does not answer; with one that does, the tests in watch/ use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.actions.sync import sync, wait_for_daemon
from ckpt_indexer.errors import RootUnusable, SyncTimeout
from ckpt_indexer.paths import COOKIE_PREFIX, DAEMON_LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def deaf_daemon(root: Path) -> Iterator[None]:
    """Hold the lock that a daemon holds, and do nothing."""
    with (root / DAEMON_LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cookies(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if name.startswith(COOKIE_PREFIX)]


def test_without_a_daemon_sync_does_the_work_itself(tree: Path) -> None:
    done = sync(str(tree))
    assert (done.had_daemon, done.generation, len(read_index(tree).entries)) == (False, 1, 5)
    assert wait_for_daemon(str(tree), timeout_s=0) is False


def test_a_daemon_that_does_not_answer_is_a_timeout_and_leaves_no_cookie(tree: Path) -> None:
    with deaf_daemon(tree), pytest.raises(SyncTimeout, match=r"did not catch up within 0\.01 s"):
        sync(str(tree), timeout_s=0.01)
    assert cookies(tree) == []


def test_a_daemon_that_dies_meanwhile_is_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, True, False])
    monkeypatch.setattr("ckpt_indexer.actions.sync.is_daemon_alive", lambda _: next(answers))
    monkeypatch.setattr("ckpt_indexer.actions.sync.CHECK_ALIVE_S", -1.0)
    assert wait_for_daemon(str(tree), timeout_s=60) is False
    assert cookies(tree) == []


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RootUnusable):
        sync(str(tmp_path / "missing"))
