"""Many folders, many files, many events at once, on the real daemon: right afterwards, at rest, and no larger.

Nothing here is timed against a clock: rest is a share of a window that the daemon's own heartbeats span, memory is held
against what it was before, and waiting against waiting without the disturbance.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ckpt_indexer import paths, read_index
from ckpt_indexer.actions.sync import wait_for_daemon
from tests.process import Daemon, encoded, index_equals_disk, overflow_queue, status_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

MEBIBYTE = 1 << 20
HEARTBEATS = {"WATCHDOG_USEC": "6000000"}  # a self-test every 2 s; each is a heartbeat
REST_S = 5.0  # the least window in which rest is looked for
WAIT_S = 180.0  # for 20,000 checkpoints; a busy machine reads some hundred a second


@pytest.fixture(scope="module")
def sample() -> bytes:
    return encoded(3)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root in memory where there is some: making and removing 60,000 files on a busy disk takes minutes."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        root = Path(folder) / "outputs"
        root.mkdir()
        yield root


def folders_below(root: Path, count: int) -> list[Path]:
    """Make folders as runs do, some hundred in each experiment."""
    folders = [root / f"e{i // 200}" / f"run{i}" for i in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def processes_of(daemon: Daemon) -> list[int]:
    """List the daemon and its readers."""
    readers: set[int] = set()
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            readers.update(map(int, (task / "children").read_text().split()))
    return [daemon.process.pid, *sorted(readers)]


def cpu_seconds(daemon: Daemon) -> float:
    """Sum up what the daemon and its readers have used, in user and kernel mode."""
    ticks = 0
    for pid in processes_of(daemon):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def share_at_rest(daemon: Daemon) -> float:
    """Give the share of one core that the daemon and its readers use between some of its heartbeats."""
    daemon.wait_notified("WATCHDOG=1")
    began, used = time.monotonic(), cpu_seconds(daemon)
    while time.monotonic() < began + REST_S:
        daemon.wait_notified("WATCHDOG=1")
    return (cpu_seconds(daemon) - used) / (time.monotonic() - began)


def memory(pid: int, field: str) -> int:
    """Read a process's memory in bytes: what it has (VmRSS), or the most it had (VmHWM)."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("folders", "files"),
    [
        (1_000, 1_000),
        pytest.param(1_000, 20_000, marks=pytest.mark.soak),
        pytest.param(20_000, 9_000, marks=pytest.mark.soak),
        pytest.param(20_000, 20_000, marks=pytest.mark.soak),
    ],
)
def test_after_an_overflow_every_file_is_indexed_and_the_daemon_comes_to_rest(
    root: Path, sample: bytes, folders: int, files: int
) -> None:
    runs = folders_below(root, folders)
    with Daemon(root, env=HEARTBEATS) as daemon:
        daemon.wait_notified("WATCHDOG=1")  # no self-test is under way
        daemon.process.send_signal(signal.SIGSTOP)
        for i, folder in zip(range(files), itertools.cycle(runs), strict=False):
            if i == files // 2:
                overflow_queue(root)  # what follows causes no event
            (folder / f"{i}.ckpt").write_bytes(sample)
        daemon.process.send_signal(signal.SIGCONT)
        assert wait_for_daemon(str(root), timeout_s=WAIT_S)
        entries = read_index(root).entries
        assert (len(entries), {entry.status for entry in entries.values()}) == (files, {"ok"})
        assert index_equals_disk(root)
        status = status_of(root)
        assert (status["overflows"], status["state"], status["reasons"]) == (1, "ok", [])
        assert status["rebuilds"] in (1, 2)
        lost = daemon.events("watch_lost")
        assert ([line["reason"] for line in lost].count("overflow"), len(lost)) == (1, status["rebuilds"])
        assert len(daemon.events("watch_restored")) == len(lost)
        writes = len(daemon.events("index_written"))

        share = share_at_rest(daemon)
        print(f"{share:.1%} of a core at rest, {status['rebuilds']} rebuilds, {writes} index writes")
        assert share < 0.1

        assert len(daemon.events("watch_lost")) == len(lost)
        assert len(daemon.events("index_written")) == writes
        assert read_index(root).generation == status["generation"]
        assert daemon.events("turn_failed") == []


@contextlib.contextmanager
def index_locked(root: Path) -> Iterator[None]:
    """Hold the index's lock as a slow writer would: the daemon's next commit waits for it."""
    with (root / paths.LOCK_NAME).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_120_000_events_while_the_daemon_is_held_up_take_no_memory(root: Path, sample: bytes) -> None:
    with Daemon(root) as daemon:
        (root / "first.ckpt").write_bytes(sample)
        daemon.sync()
        before = memory(daemon.process.pid, "VmRSS")
        with index_locked(root):
            (root / "second.ckpt").write_bytes(sample)
            wait_for((root / "second.ckpt.metadata.yaml").exists)  # read; now it waits to write the index
            for i in range(40_000):  # created, closed, deleted
                path = root / f"{i:0200}.ckpt"
                path.write_bytes(b"")
                path.unlink()
            for i in range(100):
                (root / f"{i}.ckpt").write_bytes(sample)
        assert len(daemon.sync()) == 102
        assert index_equals_disk(root)
        growth = memory(daemon.process.pid, "VmHWM") - before
        print(f"growth {growth / MEBIBYTE:.1f} MiB, {status_of(root)['rebuilds']} rebuilds")
        assert growth < 6 * MEBIBYTE  # all the names alone are 8 MB


class Resources(NamedTuple):
    """What the daemon and its readers hold."""

    resident: int  # bytes
    descriptors: int
    threads: int

    @classmethod
    def of(cls, daemon: Daemon) -> Resources:
        pids = processes_of(daemon)
        return cls(
            sum(memory(pid, "VmRSS") for pid in pids),
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
        )


@pytest.mark.parametrize("events", [6_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_files_that_come_change_and_go_leave_nothing_behind(root: Path, events: int) -> None:
    samples = [encoded(epoch) for epoch in range(3)]
    chance = random.Random(events)
    with Daemon(root) as daemon:
        quarters = []
        for _ in range(4):
            for i in range(events // 4):
                path = root / f"run{chance.randrange(5)}/checkpoints/{chance.randrange(20)}.ckpt"
                path.parent.mkdir(parents=True, exist_ok=True)
                if chance.random() < 0.3:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(chance.choice(samples))
                if i % 500 == 0:
                    daemon.sync()
            daemon.sync()
            assert index_equals_disk(root)
            quarters.append(Resources.of(daemon))
        for quarter in quarters:
            print(quarter)
        first, last = quarters[0], quarters[-1]
        assert last.resident - first.resident < 4 * MEBIBYTE
        # A few more are open while a checkpoint is read; a leak would have hundreds.
        assert max(quarter.descriptors for quarter in quarters) <= first.descriptors + 4
        assert {quarter.threads for quarter in quarters} == {first.threads}


def test_files_moved_away_hold_up_nobody(root: Path, sample: bytes) -> None:
    archive = root.parent / "archive"
    archive.mkdir()
    for i in range(1_000):
        (root / f"old{i}.ckpt").write_bytes(sample)

    def seconds_until_indexed(name: str) -> float:
        (root / name).write_bytes(sample)
        began = time.monotonic()
        assert daemon.sync()[name].status == "ok"
        return time.monotonic() - began

    with Daemon(root) as daemon:
        undisturbed = [seconds_until_indexed(f"before{i}.ckpt") for i in range(20)]
        disturbed = []
        for i in range(20):
            for n in range(50 * i, 50 * i + 50):
                (root / f"old{n}.ckpt").rename(archive / f"{n}.ckpt")
            disturbed.append(seconds_until_indexed(f"after{i}.ckpt"))
        assert len(read_index(root).entries) == 40
        assert index_equals_disk(root)
    ratio = statistics.median(disturbed) / statistics.median(undisturbed)
    print(f"undisturbed {statistics.median(undisturbed):.4f} s, {ratio:.2f} times that with moves")
    assert ratio < 20  # watchdog's own emitter waits 0.5 s for the other half of each move


def test_nested_folders_in_a_large_tree_are_no_news_for_the_log(root: Path, sample: bytes) -> None:
    folders_below(root, 20_000)
    with Daemon(root) as daemon:
        before = len(daemon.log_text())
        folder = root / "e7"
        for i in range(20):
            folder /= f"nested{i}"
            folder.mkdir()
        (folder / "deep.ckpt").write_bytes(sample)
        assert [entry.status for entry in daemon.sync().values()] == ["ok"]
        assert status_of(root)["watches"] > 20_000
        assert len(daemon.log_text()) - before < 10_000
