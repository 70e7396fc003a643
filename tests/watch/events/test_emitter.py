"""The emitter on real folders: each test makes changes and waits for the events that they must cause."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from watchdog.observers.inotify_c import InotifyConstants as In
from watchdog.observers.inotify_c import inotify_add_watch

from ckpt_indexer.watch.events import emitter as module
from ckpt_indexer.watch.events.emitter import InotifyEmitter, WatchGap
from tests.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from watchdog.events import FileSystemEvent


class Watched:
    """A root, its emitter, and what the emitter said."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.events: list[FileSystemEvent] = []
        options = {"wanted": lambda _, name: name.endswith(b".ckpt"), **options}
        self.emitter = InotifyEmitter(str(root), self.events.append, **options)

    def said(self) -> list[tuple[str, str]]:
        """Each event once, in order: what happened, and to which path."""
        seen: dict[tuple[str, str], None] = {}
        for event in self.events:
            kind = ("folder " if event.is_directory else "") + event.event_type
            seen[kind, os.path.relpath(os.fsdecode(event.src_path), self.root)] = None
        return list(seen)

    def gaps(self) -> list[tuple[str, str, bool]]:
        gaps = [event for event in self.events if isinstance(event, WatchGap)]
        return [(os.path.relpath(os.fsdecode(gap.src_path), self.root), gap.reason, gap.lost) for gap in gaps]

    def wait_said(self, kind: str, path: str) -> None:
        wait_for(lambda: (kind, path) in self.said() or None)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    running: list[Watched] = []

    def start(**options: Any) -> Watched:
        watched = Watched(tmp_path, **options)
        watched.emitter.start()
        running.append(watched)
        return watched

    yield start
    for watched in running:
        watched.emitter.stop()
        watched.emitter.join()


def test_a_file_is_reported_when_it_appears_is_closed_and_goes_and_others_never(started, tmp_path: Path) -> None:
    watched = started()
    (tmp_path / "other.txt").write_bytes(b"x")
    (tmp_path / "a.ckpt").write_bytes(b"x")
    (tmp_path / "a.ckpt").unlink()
    watched.wait_said("deleted", "a.ckpt")
    assert watched.said() == [("created", "a.ckpt"), ("closed", "a.ckpt"), ("deleted", "a.ckpt")]


def test_a_folder_that_appears_is_watched_before_it_is_reported(started, tmp_path: Path) -> None:
    inner = tmp_path.parent / "inner" / "deep"
    inner.mkdir(parents=True)
    watched = started()
    inner.parent.rename(tmp_path / "inner")
    watched.wait_said("folder created", "inner")
    assert watched.emitter.watches == 3
    (tmp_path / "inner/deep/a.ckpt").write_bytes(b"x")
    watched.wait_said("closed", "inner/deep/a.ckpt")


def test_nothing_is_reported_from_a_folder_that_was_moved_away(started, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    watched = started()
    outside = tmp_path.parent / "outside"
    (tmp_path / "a").rename(outside)
    watched.wait_said("folder deleted", "a")
    assert watched.emitter.watches == 1
    (outside / "b/x.ckpt").write_bytes(b"x")
    (tmp_path / "y.ckpt").write_bytes(b"x")
    watched.wait_said("closed", "y.ckpt")
    assert [path for _, path in watched.said() if path.endswith("x.ckpt")] == []


def test_a_folder_that_was_renamed_is_reported_under_its_new_name(started, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    watched = started()
    (tmp_path / "a").rename(tmp_path / "z")
    watched.wait_said("folder created", "z")
    (tmp_path / "z/b/x.ckpt").write_bytes(b"x")
    watched.wait_said("closed", "z/b/x.ckpt")
    assert (watched.emitter.watches, watched.gaps()) == (3, [])


def test_a_root_that_goes_is_a_gap_and_the_end(started, tmp_path: Path) -> None:
    watched = started()
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    watched.emitter.join()
    assert watched.gaps() == [(".", "root", True)]


def test_an_overflow_is_a_gap_and_the_end(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert watched.emitter._dispatch(-1, In.IN_Q_OVERFLOW, b"") is False
    assert watched.gaps() == [(".", "overflow", True)]


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "watches"), (errno.ENOMEM, "watches"), (errno.EACCES, "unreadable")]
)
def test_a_folder_that_cannot_be_watched_is_one_gap_and_the_rest_goes_on(
    started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    monkeypatch.setattr(
        module,
        "inotify_add_watch",
        lambda fd, path, mask: -1 if path.endswith(b"/bad") else inotify_add_watch(fd, path, mask),
    )
    monkeypatch.setattr(module, "get_errno", lambda: number)
    watched = started()
    os.utime(tmp_path / "bad")  # an event about it does not make a second gap of it
    (tmp_path / "good/a.ckpt").write_bytes(b"x")
    watched.wait_said("closed", "good/a.ckpt")
    assert watched.gaps()[:1] == [("bad", reason, False)]
    assert watched.emitter.watches == 2


def test_a_root_that_cannot_be_watched_is_an_error_of_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Watched(tmp_path / "gone").emitter.start()


def test_a_start_that_is_to_stop_watches_no_more_folders(started, tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"{i}/inner").mkdir(parents=True)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    # Listed before the stop: the root, and then, depth first, two folders and the one in each.
    assert started(should_stop=should_stop).emitter.watches == 1 + 50 + 2
