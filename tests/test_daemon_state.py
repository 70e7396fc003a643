"""One truth about the daemon: the lock says whether it lives, the file what it says, and both faces the same."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ckpt_indexer import paths
from ckpt_indexer.cli import status
from ckpt_indexer.daemon_state import DaemonState, DaemonStatus, Reason, describe, is_daemon_alive, read_state
from ckpt_indexer.index.store import Store
from ckpt_indexer.tree.local import locked_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = DaemonState("stopped", pid=123, started="2026-01-01T00:00:00Z", last_pass="2026-01-01T00:01:00Z", overflows=2)


def write(root: Path, state: DaemonState) -> None:
    (root / paths.DAEMON_STATE_NAME).write_bytes(msgspec.json.encode(state))


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Path]:
    """A root with an index whose daemon's lock is held."""
    Store(str(tmp_path)).commit([])
    with locked_folder(str(tmp_path), paths.DAEMON_LOCK_NAME, timeout_s=0):
        yield tmp_path


def http_says(root: Path) -> dict[str, Any]:
    from starlette.testclient import TestClient

    from ckpt_indexer.web import create_app

    with TestClient(create_app(root), base_url="http://localhost") as client:
        answer: dict[str, Any] = client.get("/health/checkpoints").json()
        assert 'ckpt_indexer_daemon_state="starting"} 1.0' in client.get("/metrics").text
        return answer


def test_a_daemon_that_lives_while_its_file_says_stopped_is_starting_for_both_faces(living: Path) -> None:
    write(living, OLD)
    told = status.describe(str(living))
    assert (told["state"], told["reasons"], told["daemon"]) == ("starting", [], {"pid": None, "alive": True})
    health = http_says(living)
    assert health["daemon"] == {"state": "starting", "alive": True, "reasons": []}
    assert health["catalog_status"] == "degraded"


def test_a_starting_daemon_is_not_given_the_figures_that_would_be_another_ones(living: Path) -> None:
    write(living, OLD)
    assert describe(living) == DaemonStatus("starting", last_pass=OLD.last_pass, overflows=2, is_alive=True)


def test_a_living_daemon_is_believed(living: Path) -> None:
    said = DaemonState("degraded", [Reason("watches", "m", "c")], pid=7, watches=5)
    write(living, said)
    assert describe(living) == DaemonStatus(**msgspec.structs.asdict(said), is_alive=True)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"state": "dancing"}', b"[]"])
def test_a_living_daemon_whose_file_cannot_be_read_is_degraded(living: Path, content: bytes | None) -> None:
    if content is not None:
        (living / paths.DAEMON_STATE_NAME).write_bytes(content)
    told = describe(living)
    assert (told.state, [reason.code for reason in told.reasons], told.pid) == ("degraded", ["state-unwritable"], None)


def test_without_a_lock_the_daemon_is_stopped_whatever_it_said(tmp_path: Path) -> None:
    write(tmp_path, DaemonState("ok", [Reason("error", "m")], pid=7, index_writes=4))
    assert describe(tmp_path) == DaemonStatus("stopped", index_writes=4)


def test_an_unknown_field_is_ignored(tmp_path: Path) -> None:
    (tmp_path / paths.DAEMON_STATE_NAME).write_bytes(b'{"state": "ok", "moon": "full"}')
    assert read_state(tmp_path) == DaemonState("ok")


def test_the_file_cannot_say_that_its_daemon_lives(tmp_path: Path) -> None:
    (tmp_path / paths.DAEMON_STATE_NAME).write_bytes(b'{"state": "ok", "is_alive": true}')
    assert describe(tmp_path).is_alive is False


def test_a_link_or_a_pipe_in_the_files_place_is_not_followed_or_waited_for(tmp_path: Path) -> None:
    import os

    (tmp_path / "elsewhere").write_bytes(b'{"state": "ok"}')
    (tmp_path / paths.DAEMON_STATE_NAME).symlink_to("elsewhere")
    assert read_state(tmp_path) is None
    (tmp_path / paths.DAEMON_STATE_NAME).unlink()
    os.mkfifo(tmp_path / paths.DAEMON_STATE_NAME)
    assert read_state(tmp_path) is None


def test_the_lock_says_whether_a_daemon_lives(tmp_path: Path) -> None:
    assert not is_daemon_alive(tmp_path)
    with contextlib.ExitStack() as held:
        held.enter_context(locked_folder(str(tmp_path), paths.DAEMON_LOCK_NAME, timeout_s=0))
        assert is_daemon_alive(tmp_path)
    assert not is_daemon_alive(tmp_path)


def test_asking_loads_nothing_heavy() -> None:
    code = (
        "import sys, ckpt_indexer.daemon_state; print(sorted({'pydantic', 'filelock', 'structlog'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
