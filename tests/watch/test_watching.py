"""What inotify does not tell, and what keeps it from telling: threads that die, events that never come, folders nobody
may read, things that are no files, file systems behind which others write. All on the real daemon; where the kernel has
to misbehave, strace makes it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer import read_index
from tests.process import Daemon, encoded, index_equals_disk, put, status_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.model import Entry

HEARTBEATS = {"WATCHDOG_USEC": "6000000"}  # a self-test every 2 s, which has 1 s; each is a heartbeat
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices and mount")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the kernel misbehave here")


@pytest.fixture(scope="module")
def sample() -> bytes:
    return encoded(3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    root.mkdir()
    return root


@pytest.fixture
def unmounted(root: Path) -> Iterator[Path]:
    """Give a folder to mount something on."""
    yield root
    subprocess.run(["umount", "-l", root], check=False, capture_output=True)
    assert str(root) not in Path("/proc/self/mounts").read_text()


def codes_of(root: Path) -> tuple[str, list[str]]:
    status = status_of(root)
    return status["state"], [reason["code"] for reason in status["reasons"]]


def problems(entries: dict[str, Entry]) -> dict[str, tuple[str, str | None]]:
    codes = {key: entry.problem.code if entry.problem is not None else None for key, entry in entries.items()}
    return {key: (entries[key].status, code) for key, code in sorted(codes.items())}


def epoch_of(root: Path, key: str) -> int | None:
    return read_index(root).entries[key].epoch


@contextlib.contextmanager
def injected(daemon: Daemon, fault: str) -> Iterator[None]:
    """Make the emitter's next read of the kernel's events go wrong; only its thread is traced, not its successor's."""
    tasks = {int(task.name) for task in Path(f"/proc/{daemon.process.pid}/task").iterdir()}
    emitter = min(tasks - {daemon.process.pid})  # the first that was started; the other one reads checkpoints
    command = [
        "strace",
        "-p",
        str(emitter),
        "-P",
        "anon_inode:inotify",
        "-e",
        "trace=read",
        "-e",
        f"inject=read:{fault}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            print(tracer.stderr.read())


@needs_strace
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("error=EIO", "inotify: Input/output error"),
        ("retval=1", "dead thread"),  # one byte, which is no event: an error that nobody foresaw
    ],
)
def test_a_thread_that_dies_is_replaced_and_nothing_is_missed(
    root: Path, sample: bytes, fault: str, reason: str
) -> None:
    with Daemon(root) as daemon:
        with injected(daemon, fault):
            put(root / "a.ckpt", sample)
            put(root / "r/b.ckpt", sample)
            wait_for(lambda: status_of(root)["rebuilds"])
        assert problems(daemon.sync()) == {"a.ckpt": ("ok", None), "r/b.ckpt": ("ok", None)}
        put(root / "r/c.ckpt", sample)
        assert sorted(daemon.sync()) == ["a.ckpt", "r/b.ckpt", "r/c.ckpt"]
        status = status_of(root)
        assert (status["rebuilds"], status["overflows"], status["state"]) == (1, 0, "ok")
        assert [line["reason"] for line in daemon.events("watch_lost")] == [reason]
        assert daemon.process.poll() is None


@needs_strace
def test_a_kernel_that_takes_watches_and_never_tells_is_found_out_and_polled(root: Path, sample: bytes) -> None:
    # As on file systems and in sandboxes whose inotify is a stub. The seccomp filter keeps all other calls at speed.
    prefix = ("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "-e", "trace=inotify_add_watch")
    inject = ("-e", "inject=inotify_add_watch:retval=1")
    with Daemon(root, "--scan-interval", "3600", prefix=(*prefix, *inject), env=HEARTBEATS) as daemon:
        put(root / "r/a.ckpt", sample)
        wait_for(lambda: codes_of(root) == ("polling", ["blind"]))
        put(root / "r/b.ckpt", sample)
        assert problems(daemon.sync()) == {"r/a.ckpt": ("ok", None), "r/b.ckpt": ("ok", None)}
        # Watching was started anew once, in case that helps.
        assert [line["reason"] for line in daemon.events("watch_lost")] == ["self-test"]
        assert [line["code"] for line in daemon.events("degraded")] == ["blind"]
        daemon.wait_notified("WATCHDOG=1")  # no test ever came through: a pass did it


@pytest.fixture
def bound_by_permissions() -> tuple[str, ...]:
    """Give a prefix for a command that permissions stop, whoever runs it."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@pytest.fixture
def locked_up(root: Path, sample: bytes) -> Iterator[Path]:
    """Give a folder with a checkpoint; readable again when the test is over."""
    put(root / "shut/a.ckpt", sample)
    put(root / "open/b.ckpt", sample)
    yield root / "shut"
    (root / "shut").chmod(0o755)


BOTH = {"open/b.ckpt": ("ok", None), "shut/a.ckpt": ("ok", None)}


def test_a_folder_that_becomes_unreadable_keeps_its_entries_and_is_followed_again(
    root: Path, sample: bytes, locked_up: Path, bound_by_permissions: tuple[str, ...]
) -> None:
    with Daemon(root, "--scan-interval", "1", prefix=bound_by_permissions) as daemon:
        assert problems(daemon.sync()) == BOTH
        put(locked_up / "late.ckpt", sample)
        daemon.sync()
        locked_up.chmod(0)
        wait_for(lambda: codes_of(root) == ("degraded", ["unreadable"]))
        (reason,) = status_of(root)["reasons"]
        assert re.fullmatch(r"shut(/late\.ckpt)? cannot be looked at: Permission denied", reason["message"])
        assert reason["cure"]
        passes = len(daemon.events("pass_finished"))
        wait_for(lambda: len(daemon.events("pass_finished")) > passes)
        assert sorted(daemon.sync()) == ["open/b.ckpt", "shut/a.ckpt", "shut/late.ckpt"]
        locked_up.chmod(0o755)
        (locked_up / "late.ckpt").unlink()
        wait_for(lambda: codes_of(root) == ("ok", []))
        assert problems(daemon.sync()) == BOTH
        assert index_equals_disk(root)


def test_a_folder_that_was_unreadable_from_the_start_is_seen_as_soon_as_it_is_readable(
    root: Path, locked_up: Path, bound_by_permissions: tuple[str, ...]
) -> None:
    locked_up.chmod(0)
    with Daemon(root, "--scan-interval", "1", prefix=bound_by_permissions) as daemon:
        assert codes_of(root) == ("degraded", ["unreadable"])
        assert sorted(daemon.sync()) == ["open/b.ckpt"]
        locked_up.chmod(0o755)
        assert problems(daemon.sync()) == BOTH
        wait_for(lambda: codes_of(root) == ("ok", []))


def test_a_file_that_nobody_may_read_says_so_until_it_is_readable(
    root: Path, sample: bytes, bound_by_permissions: tuple[str, ...]
) -> None:
    path = put(root / "a.ckpt", sample)
    path.chmod(0)
    with Daemon(root, prefix=bound_by_permissions) as daemon:
        assert problems(daemon.sync()) == {"a.ckpt": ("unreadable", "permission-denied")}
        path.chmod(0o644)
        assert problems(daemon.sync()) == {"a.ckpt": ("ok", None)}


@needs_root
def test_pipes_sockets_and_devices_are_named_for_what_they_are_and_never_opened(root: Path, sample: bytes) -> None:
    kinds = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK, "zero": stat.S_IFCHR, "disk": stat.S_IFBLK}

    def make(folder: Path) -> set[str]:
        folder.mkdir()
        for name, kind in kinds.items():
            os.mknod(folder / f"{name}.ckpt", kind | 0o600, os.makedev(1, 5) if name == "zero" else 0)
            (folder / f"to-{name}.ckpt").symlink_to(f"{name}.ckpt")
        put(folder / "good.ckpt", sample)
        return {f"{folder.name}/{prefix}{name}.ckpt" for name in kinds for prefix in ("", "to-")}

    expected = make(root / "before")
    with Daemon(root) as daemon:
        expected |= make(root / "later")
        entries = problems(daemon.sync())
        assert {key for key, value in entries.items() if value == ("unreadable", "not-a-file")} == expected
        assert {key for key, value in entries.items() if value == ("ok", None)} == {
            "before/good.ckpt",
            "later/good.ckpt",
        }
        assert entries.keys() - expected == {"before/good.ckpt", "later/good.ckpt"}
        assert index_equals_disk(root)


def test_links_to_folders_that_go_round_in_circles_lead_nowhere(root: Path, sample: bytes) -> None:
    put(root / "r/a.ckpt", sample)
    with Daemon(root) as daemon:
        (root / "r/up").symlink_to("..")
        (root / "r/self").symlink_to("self")
        (root / "r/here").symlink_to(".")
        (root / "s").mkdir()
        (root / "s/to-r").symlink_to("../r")
        (root / "r/to-s").symlink_to("../s")
        (root / "r/parent.ckpt").symlink_to("../r")
        (root / "top.ckpt").symlink_to(".")
        put(root / "s/b.ckpt", sample)
        entries = problems(daemon.sync())
        assert entries == {
            "r/a.ckpt": ("ok", None),
            "r/parent.ckpt": ("unreadable", "link-loop"),
            "s/b.ckpt": ("ok", None),
            "top.ckpt": ("unreadable", "link-outside"),
        }
        generation = read_index(root).generation
        for _ in range(10):  # a link to the folder that its own sidecar would be in
            daemon.sync()
        assert read_index(root).generation == generation
        assert index_equals_disk(root)


def test_a_daemon_at_rest_reads_and_writes_nothing(root: Path, sample: bytes) -> None:
    environment = {**HEARTBEATS, "CKPT_INDEXER_LOG_LEVEL": "debug"}
    with Daemon(root, "--scan-interval", "1", env=environment) as daemon:
        for i in range(50):
            put(root / f"r{i % 5}/checkpoints/{i}.ckpt", sample)
        put(root / "cut.ckpt", sample[:-50]).unlink()
        daemon.sync()
        wait_for(lambda: len(daemon.events("pass_finished")) > 2)
        at_rest = {name: len(daemon.events(name)) for name in ("checkpoint_indexed", "index_written")}
        generation = read_index(root).generation
        passes = len(daemon.events("pass_finished"))
        wait_for(lambda: len(daemon.events("pass_finished")) > passes + 2)
        assert {name: len(daemon.events(name)) for name in at_rest} == at_rest
        assert [line["to_read"] for line in daemon.events("pass_finished")[passes:]][1:] == [0, 0]
        assert read_index(root).generation == generation
        assert daemon.events("watch_lost") == []


def test_what_is_written_without_an_event_is_found_by_the_next_pass(root: Path, tmp_path: Path) -> None:
    mapped, cut, linked = (put(root / f"{name}.ckpt", encoded(1)) for name in ("mapped", "cut", "linked"))
    os.link(linked, tmp_path / "outside")
    with Daemon(root, "--scan-interval", "1") as daemon:
        assert {entry.epoch for entry in daemon.sync().values()} == {1}
        changed = encoded(2)
        with mapped.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        with memory:  # the file is closed: what follows is no event
            memory[:] = changed
        wait_for(lambda: epoch_of(root, "mapped.ckpt") == 2)
        os.truncate(cut, len(changed) // 2)
        wait_for(lambda: read_index(root).entries["cut.ckpt"].status == "incomplete")
        (tmp_path / "outside").write_bytes(changed)
        wait_for(lambda: epoch_of(root, "linked.ckpt") == 2)
        assert daemon.events("watch_lost") == []
        assert index_equals_disk(root)


@needs_root
@pytest.mark.skipif(shutil.which("bindfs") is None, reason="bindfs is a file system behind which others can write")
def test_behind_a_network_file_system_passes_find_what_others_write(
    unmounted: Path, tmp_path: Path, sample: bytes
) -> None:
    root, behind = unmounted, tmp_path / "behind"
    behind.mkdir()
    if subprocess.run(["bindfs", behind, root], capture_output=True, check=False).returncode != 0:
        pytest.skip("FUSE is not to be had here")
    with Daemon(root) as daemon:
        assert codes_of(root) == ("polling", ["network"])
        (reason,) = status_of(root)["reasons"]
        assert "fuse" in reason["message"]
        put(root / "ours.ckpt", sample)
        assert sorted(daemon.sync()) == ["ours.ckpt"]
        put(behind / "r/theirs.ckpt", sample)
        wait_for(lambda: sorted(read_index(root).entries) == ["ours.ckpt", "r/theirs.ckpt"])
        assert (daemon.events("watch_lost"), daemon.events("turn_failed")) == ([], [])
        assert daemon.stop() == 0
