"""The daemon's state as it is kept and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import DaemonState, Reason, read_state
from ckpt_indexer.watch.state import StateKeeper

if TYPE_CHECKING:
    from pathlib import Path


def keeper_of(root: Path) -> tuple[StateKeeper, list[str]]:
    states: list[str] = []
    keeper = StateKeeper(str(root), DaemonState(pid=7), lambda: states.append(keeper.state.state))
    return keeper, states


def test_a_session_is_starting_until_its_index_has_equalled_the_disk(tmp_path: Path) -> None:
    keeper, _ = keeper_of(tmp_path)
    assert keeper.state == DaemonState("starting", pid=7)
    keeper.set_ready()
    assert keeper.state.state == "ok"


def test_the_reasons_decide_on_the_state_and_each_change_is_reported_once(tmp_path: Path) -> None:
    keeper, states = keeper_of(tmp_path)
    keeper.set("network", "m", "c")
    keeper.set_ready()
    keeper.set("network", "another message", "c")
    assert (keeper.state.state, keeper.is_polling) == ("polling", True)
    keeper.set("index-unwritable", "m", "c")
    keeper.clear("network")
    assert (keeper.state.reasons, keeper.is_polling) == ([Reason("index-unwritable", "m", "c")], False)
    keeper.clear("index-unwritable")
    keeper.clear("index-unwritable")
    assert states == ["starting", "degraded", "degraded", "ok"]


def test_a_session_that_cannot_do_its_work_is_degraded_before_it_is_ready(tmp_path: Path) -> None:
    keeper, _ = keeper_of(tmp_path)
    keeper.set("unreadable", "m", "c")
    assert keeper.state.state == "degraded"


def test_without_all_watches_it_is_degraded_and_polls(tmp_path: Path) -> None:
    keeper, _ = keeper_of(tmp_path)
    keeper.set_ready()
    keeper.set("watches", "m", "c")
    assert (keeper.state.state, keeper.is_polling) == ("degraded", True)


def test_what_is_written_is_what_readers_read(tmp_path: Path) -> None:
    keeper, _ = keeper_of(tmp_path)
    keeper.write()
    assert (read_state(tmp_path), keeper.is_written) == (DaemonState("starting", pid=7), True)
    keeper.set("error", "m", "c")
    keeper.write_stopped()
    assert read_state(tmp_path) == DaemonState("stopped", pid=7)


def test_a_state_that_cannot_be_written_leaves_none(tmp_path: Path, monkeypatch) -> None:
    import ckpt_indexer.watch.state as module

    keeper, _ = keeper_of(tmp_path)
    keeper.write()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_file", fail)
    keeper.write()
    assert (keeper.is_written, (tmp_path / paths.DAEMON_STATE_NAME).exists()) == (False, False)
