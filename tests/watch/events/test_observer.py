"""The observer: which hint an event becomes, and what it says when events cannot be relied on."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileSystemEvent,
)

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import DaemonState
from ckpt_indexer.errors import WatchFailed
from ckpt_indexer.paths import ROOT
from ckpt_indexer.watch.events.emitter import InotifyEmitter, WatchGap
from ckpt_indexer.watch.events.hints import EVERYTHING, Hints
from ckpt_indexer.watch.events.observer import TreeObserver, _wanted
from ckpt_indexer.watch.state import StateKeeper
from tests.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COOKIE = f"{paths.COOKIE_PREFIX}7-ab"


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[TreeObserver]:
    keeper = StateKeeper(str(tmp_path), DaemonState(), lambda: None)
    observer = TreeObserver(str(tmp_path), Hints(), keeper, test_interval_s=30.0)
    yield observer
    observer.stop()


def codes(observer: TreeObserver) -> list[str]:
    return [reason.code for reason in observer._keeper.state.reasons]


@pytest.mark.parametrize(
    ("kind", "path", "hints"),
    [
        (FileClosedEvent, "r/a.ckpt", {"r/a.ckpt"}),
        (FileDeletedEvent, "r/a.ckpt", {"r/a.ckpt"}),
        (FileClosedEvent, "r/a.ckpt.metadata.yaml", {"r/a.ckpt"}),
        (FileCreatedEvent, "r/shards.ckpt/0.bin", {"r/shards.ckpt"}),
        (FileClosedEvent, "r/config.yaml", {"r"}),
        (FileClosedEvent, "r/.hydra/config.yaml", {"r"}),
        (DirCreatedEvent, "r/checkpoints", {"r/checkpoints"}),
        (DirDeletedEvent, "r", {"r"}),
        (FileClosedEvent, COOKIE, {COOKIE}),
        (FileDeletedEvent, COOKIE, set()),
        (FileClosedEvent, paths.INDEX_NAME, set()),
        (FileDeletedEvent, paths.INDEX_NAME, {EVERYTHING}),
    ],
)
def test_an_event_becomes_the_hint_to_scan_what_it_is_about(
    observer: TreeObserver, tmp_path: Path, kind: type[FileSystemEvent], path: str, hints: set[str]
) -> None:
    observer._on_event(kind(str(tmp_path / path)))
    assert (observer._hints.drain(0), observer.lost) == (hints, None)


def test_a_lost_watch_is_named_and_everything_is_to_be_scanned(observer: TreeObserver, tmp_path: Path) -> None:
    observer._on_event(WatchGap(str(tmp_path), "overflow", lost=True))
    assert (observer.lost, observer._hints.drain(0)) == ("overflow", {EVERYTHING})


def test_a_folder_without_a_watch_is_scanned_at_the_next_check(observer: TreeObserver, tmp_path: Path) -> None:
    observer._on_event(WatchGap(str(tmp_path / "a"), "unreadable", lost=False))
    assert (observer.lost, observer.check(), observer.check(), codes(observer)) == (None, {"a"}, set(), [])


def test_when_watches_run_out_the_state_says_so_with_the_cure(observer: TreeObserver, tmp_path: Path) -> None:
    observer._on_event(WatchGap(str(tmp_path / "a"), "watches", lost=False))
    assert observer.check() == {"a", EVERYTHING}
    (reason,) = observer._keeper.state.reasons
    assert (reason.code, reason.cure.startswith("sysctl fs.inotify.max_user_watches=")) == ("watches", True)
    observer._on_event(WatchGap(str(tmp_path / "b"), "watches", lost=False))
    assert observer.check() == {"b"}


def test_a_self_test_whose_event_comes_passes_and_leaves_no_file(observer: TreeObserver, tmp_path: Path) -> None:
    observer.start()
    observer.request_test()
    assert observer.check() == set()
    (cookie,) = wait_for(lambda: observer._hints.drain(0))
    assert observer.is_test_cookie(cookie)
    others = {cookie, COOKIE}
    assert (observer.receive_test_cookie(others), others) == (True, {COOKIE})
    assert (observer.receive_test_cookie(others), list(tmp_path.iterdir())) == (False, [])


def test_a_self_test_without_an_event_restarts_and_the_second_makes_it_blind(
    observer: TreeObserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    observer.request_test()
    found = []
    for _ in range(2):
        now_s = observer.due_s()
        observer.check()
        now_s = observer.due_s()
        found.append((observer.check(), observer.lost, codes(observer)))
        observer.lost = None
    assert observer._test.cookie is None
    now_s = observer.due_s()
    observer.check()
    observer._restarts.failed(now_s)
    assert observer.receive_test_cookie({observer._test.cookie or ROOT})  # events are back
    assert (codes(observer), observer._restarts.delay_s) == ([], 0.0)
    assert found == [(set(), "self-test", []), ({EVERYTHING}, None, ["blind"])]


def test_a_thread_that_ended_is_lost(observer: TreeObserver) -> None:
    observer.start()
    assert observer._emitter is not None
    observer._emitter.stop()
    observer._emitter.join()
    observer.check()
    assert observer.lost == "dead thread"


def test_a_restart_watches_anew_and_is_counted(observer: TreeObserver, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(observer._hints, "pause", pauses.append)
    observer.start()
    for reason in ("overflow", "mounts", "overflow"):
        observer.lost = reason
        observer.restart()
    state = observer._keeper.state
    assert (state.rebuilds, state.overflows, state.watches, observer.lost) == (3, 2, 1, None)
    assert pauses == [0.2, 0.4, 0.8]


def test_other_suffixes_need_another_emitter(observer: TreeObserver) -> None:
    observer.set_suffixes((".pt",))
    assert observer.lost is None  # nothing is watched yet
    observer.start()
    observer.set_suffixes((".pt",))
    assert observer.lost is None
    observer.set_suffixes((".ckpt",))
    assert observer.lost == "suffixes"


@pytest.mark.parametrize(("number", "is_fatal"), [(errno.EMFILE, False), (errno.ENOMEM, False), (errno.EIO, True)])
def test_a_first_start_without_resources_is_left_to_the_passes(
    observer: TreeObserver, monkeypatch: pytest.MonkeyPatch, number: int, is_fatal: bool
) -> None:
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(InotifyEmitter, "start", fail)
    if is_fatal:
        with pytest.raises(WatchFailed):
            observer.start(is_first=True)
    else:
        observer.start(is_first=True)
        assert codes(observer) == ["watch-failed"]
    monkeypatch.undo()
    observer.report_pass(1)  # each pass tries again
    assert (observer._emitter is not None, codes(observer)) == (True, [])


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        (b"/r", b"a.ckpt", True),
        (b"/r", b"a.ckpt.metadata.yaml", True),
        (b"/r", b"config.yaml", True),
        (b"/r", paths.INDEX_NAME.encode(), True),
        (b"/r", COOKIE.encode(), True),
        (b"/r/x.ckpt", b"anything", True),
        (b"/r/x.ckpt/inner", b"anything", True),
        (b"/r", b"events.out", False),
        (b"/r/x.ckpt.d", b"anything", False),
        (b"/r", b"a.ckpt.tmp", False),
    ],
)
def test_files_that_cannot_matter_are_dropped(folder: bytes, name: bytes, expected: bool) -> None:
    assert _wanted((".ckpt",))(folder, name) is expected
