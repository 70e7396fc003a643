"""A disk and a kernel that fail for a while: errors injected by strace into the real daemon's system calls.

Attaching strace begins a fault and detaching it ends it; the daemon itself is the one that users run. Of each fault is
asked: readers never see anything torn, no entry and no sidecar of a checkpoint that is there goes, the daemon lives and
says what is wrong, and when the fault is over it gets the index right by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.cli.status import describe
from ckpt_indexer.paths import (
    DAEMON_LOCK_NAME,
    DAEMON_STATE_NAME,
    INDEX_NAME,
    LOCK_NAME,
    RelPath,
    is_temporary,
    sidecar_path,
)
from ckpt_indexer.tree.local import fingerprint_of
from tests.process import Daemon, index_equals_disk, put, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON_S = 20.0  # passes come every second, and pauses between attempts grow from a fraction of one
STRACE = ("strace", "-f", "-qq")
OLD = RelPath("r1/checkpoints/old.ckpt")  # stands before every fault
CONFIG = "r1/.hydra/config.yaml"


def is_traced(pid: int) -> bool:
    statuses = [status.read_text() for status in Path(f"/proc/{pid}/task").glob("*/status")]
    return bool(statuses) and all("TracerPid:\t0\n" not in status for status in statuses)


def family_of(pid: int) -> list[int]:
    """Name a process and its children: strace follows only those that are born later."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [pid, *children]


def injecting(syscall: str, error: str, when: str = "", paths: tuple[str, ...] = ()) -> list[str]:
    """Give strace's arguments: this call fails with this error, for these paths only if there are any."""
    inject = f"inject={syscall}:error={error}" + (f":when={when}" if when else "")
    return ["-e", f"trace={syscall}", "-e", inject, *(word for path in paths for word in ("-P", path))]


@contextlib.contextmanager
def injected(pid: int, log: Path, arguments: list[str]) -> Iterator[Callable[[], int]]:
    """Let system calls of a process and its children fail; gives how many did so far."""
    pids = family_of(pid)
    command = [*STRACE, "-o", str(log), *arguments, *(word for p in pids for word in ("-p", str(p)))]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        try:
            wait_for(lambda: strace.poll() is not None or all(map(is_traced, pids)), timeout_s=10)
            assert strace.poll() is None, strace.stderr and strace.stderr.read()
            yield lambda: log.read_text().count("(INJECTED)")
        finally:
            strace.terminate()  # detaches
            try:
                strace.wait(10)
            finally:
                strace.kill()


@pytest.fixture(scope="module", autouse=True)
def _needs_strace(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which(STRACE[0]) is None:
        pytest.skip("strace is not installed")
    log = tmp_path_factory.mktemp("strace") / "log"
    with subprocess.Popen(["sleep", "60"]) as somebody:
        try:
            with injected(somebody.pid, log, injecting("fsync", "EIO")):
                pass
        except AssertionError as error:
            pytest.skip(f"processes cannot be traced here: {error}")
        finally:
            somebody.kill()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.zeros(4, 5)}}, path)
    return path.read_bytes()


def fill(root: Path, sample: bytes) -> None:
    """Put some of everything into a new root."""
    for name in (OLD, "r1/checkpoints/quiet.ckpt", "r2/checkpoints/quiet.ckpt", "top.ckpt"):
        put(root / name, sample)
    (root / "r2/checkpoints/last.ckpt").symlink_to("quiet.ckpt")
    put(root / CONFIG, b"exp_name: faulty\n")
    foreign = {"checkpoint_path": "top.ckpt", "exp_name": "theirs", "created_at": "2099-01-01T00:00:00.000000"}
    put(root / "top.ckpt.metadata.yaml", json.dumps(foreign).encode())


class Watched:
    """A root and its daemon."""

    def __init__(self, root: Path, daemon: Daemon, sample: bytes) -> None:
        self.root = root
        self.daemon = daemon
        self.sample = sample
        self.logged = 0  # lines of the log that belong to earlier faults

    def has_logged(self, *events: str) -> bool:
        """Say whether the log has one of these events since the last fault."""
        return any(line["event"] in events for line in self.daemon.log()[self.logged :])

    def provoke(self, name: str) -> None:
        """Make the daemon stat, open, read and write: something new, something changed. Passes come by themselves."""
        os.utime(self.root / OLD)
        put(self.root / "r1/checkpoints" / name, self.sample)

    def reasons(self) -> set[str]:
        """Give the reasons that `status` gives."""
        return {reason["code"] for reason in describe(str(self.root))["reasons"]}

    def is_well(self) -> bool:
        """Say whether daemon and index claim that all is right, and every checkpoint is ok in the index."""
        status = describe(str(self.root))
        problems = {p.code for e in read_index(self.root).entries.values() if (p := e.metadata_problem) is not None}
        # A sidecar that could not be written is tried again after seconds; a test of its own waits for that.
        return (status["state"], [*status["counts"]], problems - {"sidecar-unwritable"}) == ("ok", ["ok"], set())

    def get_well(self) -> None:
        """Wait until all is right again; fails with what is not."""
        try:
            wait_for(self.is_well, timeout_s=SOON_S)
        except AssertionError:
            problems = [(e.path, e.problem, e.metadata_problem) for e in read_index(self.root).entries.values()]
            raise AssertionError(f"{describe(str(self.root))} {problems} {self.daemon.log_text()[-3000:]}") from None

    def is_right(self) -> bool:
        self.daemon.sync()
        return index_equals_disk(self.root)

    def temporaries(self) -> list[str]:
        return [path.name for path in self.root.rglob("*") if is_temporary(path.name)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, sample: bytes) -> Iterator[Watched]:
    """One daemon for all faults: what one of them leaves behind, the next one meets."""
    root = tmp_path_factory.mktemp("faults") / "outputs"
    fill(root, sample)
    with Daemon(root, "--scan-interval", "1") as daemon:
        yield Watched(root, daemon, sample)


class Witness(threading.Thread):
    """Reads index and sidecars over and over, as consumers do, and keeps what must never be seen.

    Whatever has an entry or a sidecar when it begins has to have one until it ends.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._keys = set(read_index(root).entries)
        self._sidecars = [path for key in self._keys if (path := root / sidecar_path(RelPath(key))).exists()]
        self._seen: dict[Path, Any] = {}
        self._end = threading.Event()
        self.looks = 0
        self.faults: set[str] = set()

    def run(self) -> None:
        while not self._end.wait(0.002):
            self._look()
            self.looks += 1

    def _look(self) -> None:
        try:
            lost = self._keys - json.loads((self._root / INDEX_NAME).read_bytes())["entries"].keys()
            self.faults |= {f"no entry of {key}" for key in lost}
        except (OSError, ValueError) as error:
            self.faults.add(f"the index: {error!r}")
        for path in self._sidecars:
            try:
                seen = fingerprint_of(path.stat())
                if self._seen.get(path) != seen:
                    assert "checkpoint_path" in yaml.load(path.read_bytes(), yaml.CSafeLoader)
                self._seen[path] = seen
            except (OSError, AssertionError, TypeError, yaml.YAMLError) as error:
                self.faults.add(f"{path.relative_to(self._root)}: {error!r}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


class Fault(NamedTuple):
    """A system call that fails, for which paths, and how that is to be known while it lasts."""

    syscall: str
    said: Callable[[Watched], bool]
    paths: tuple[str, ...] = ()  # below the root; or as the call names them, after "="


def because(*codes: str) -> Callable[[Watched], bool]:
    """Expect one of these reasons in the status."""
    return lambda watched: not watched.reasons().isdisjoint(codes)


def entry_says(attribute: str, code: str) -> Callable[[Watched], bool]:
    """Expect a problem in the entry of the checkpoint that is concerned."""

    def said(watched: Watched) -> bool:
        problem = getattr(read_index(watched.root).entries[OLD], attribute)
        return problem is not None and problem.code == code

    return said


def watching_is_lost(watched: Watched) -> bool:
    return watched.has_logged("watch_lost")


FAULTS = {
    # Of every file, the log and the daemon's own account among them: its absence is what `status` tells.
    "write": Fault("write", because("state-unwritable")),
    "rename": Fault("?renameat,renameat2", because("state-unwritable")),
    "fsync": Fault("fsync", because("index-unwritable")),
    # Then nothing can be written that would say so, nor removed that says otherwise.
    "open the root": Fault("openat", lambda watched: watched.has_logged("commit_failed", "turn_failed"), (".",)),
    "open the index": Fault("openat", because("index-unwritable", "error"), (INDEX_NAME, f"={INDEX_NAME}")),
    "open the lock": Fault("openat", because("index-unwritable", "error"), (LOCK_NAME, f"={LOCK_NAME}")),
    "lock": Fault("flock", because("index-unwritable", "error")),
    "stat the root": Fault("?newfstatat,statx", because("error"), (".",)),
    "stat a checkpoint": Fault("?newfstatat,statx", because("unreadable"), (OLD,)),
    "stat a configuration": Fault("?newfstatat,statx", because("unreadable"), (CONFIG,)),
    "stat everything": Fault("?newfstatat,statx", because("error", "state-unwritable")),
    "list the root": Fault("getdents64", because("unreadable"), (".",)),
    "list a folder": Fault("getdents64", because("unreadable"), ("r1/checkpoints",)),
    "open a checkpoint": Fault("openat", entry_says("problem", "io-error"), (OLD, f"={Path(OLD).name}")),
    "read a checkpoint": Fault("read", entry_says("problem", "io-error"), (OLD,)),
    "read a sidecar": Fault("read", entry_says("metadata_problem", "io-error"), (sidecar_path(OLD),)),
    "read the events": Fault("read", watching_is_lost, ("=anon_inode:inotify",)),
}  # fmt: skip
RETRIED_LATE = ("open a checkpoint", "read a checkpoint")  # after 5 s, for which one test waits
ESTALE = ("open the index", "lock", "stat the root", "stat a checkpoint", "list a folder")
ENOSPC = ("write", "fsync")


def begin(watched: Watched, tmp_path: Path, name: str, error: str, when: str = "") -> Any:
    """Begin the fault; it is over when the context is left."""
    fault = FAULTS[name]
    paths = tuple(p[1:] if p.startswith("=") else str(watched.root / p) for p in fault.paths)
    arguments = injecting(fault.syscall, error, when, paths)
    return injected(watched.daemon.process.pid, tmp_path / "strace", arguments)


@pytest.mark.parametrize(
    ("name", "error"),
    [*((name, "EIO") for name in FAULTS), *((n, "ESTALE") for n in ESTALE), *((n, "ENOSPC") for n in ENOSPC)],
)
def test_an_error_that_lasts_costs_no_entry_is_told_and_got_over(
    watched: Watched, tmp_path: Path, name: str, error: str
) -> None:
    watched.get_well()
    watched.logged = len(watched.daemon.log())
    with Witness(watched.root) as witness:
        with begin(watched, tmp_path, name, error) as injections:
            watched.provoke(f"{name} {error}.ckpt")
            wait_for(injections)
            wait_for(lambda: FAULTS[name].said(watched), timeout_s=SOON_S)
        if name in RETRIED_LATE:
            os.utime(watched.root / OLD)
        watched.get_well()
        wait_for(lambda: not watched.temporaries())
        assert watched.is_right()
    assert (witness.faults, witness.looks > 0) == (set(), True)
    assert watched.daemon.process.poll() is None
    assert f"r1/checkpoints/{name} {error}.ckpt" in read_index(watched.root).entries


# Python itself tries these again when a signal interrupts them (PEP 475), every other time here; the others we do.
TRIED_AGAIN = ("write", "fsync", "open the index", "open the lock", "lock", "read a checkpoint", "read the events")
NOT_TRIED_AGAIN = ("rename", "stat everything", "list a folder")


@pytest.mark.parametrize(
    ("name", "when"), [*((name, "1+2") for name in TRIED_AGAIN), *((name, "1..3") for name in NOT_TRIED_AGAIN)]
)
def test_calls_that_are_interrupted_cost_nothing(watched: Watched, tmp_path: Path, name: str, when: str) -> None:
    watched.get_well()
    watched.logged = len(watched.daemon.log())
    key = f"r1/checkpoints/{name} EINTR.ckpt"
    with Witness(watched.root) as witness:
        with begin(watched, tmp_path, name, "EINTR", when) as injections:
            watched.provoke(Path(key).name)
            wait_for(injections)
            wait_for(lambda: key in read_index(watched.root).entries, timeout_s=SOON_S)
        watched.get_well()
        assert watched.is_right()
    assert (witness.faults, witness.looks > 0, watched.temporaries()) == (set(), True, [])
    if name in TRIED_AGAIN:
        assert not watched.has_logged("commit_failed", "turn_failed", "degraded", "watch_lost")


def test_what_failed_alone_is_tried_again_alone(watched: Watched, tmp_path: Path) -> None:
    """A sidecar that could not be put in its place, and a checkpoint that could not be opened: without an event."""
    watched.get_well()
    key = "r1/checkpoints/alone.ckpt"
    failed = len(watched.daemon.events("commit_failed"))
    with begin(watched, tmp_path, "rename", "EIO"):
        put(watched.root / key, watched.sample)
        wait_for(lambda: watched.reasons() == {"state-unwritable"})
        # The state is written with each pass: only a commit that failed says that the checkpoint was read meanwhile.
        wait_for(lambda: len(watched.daemon.events("commit_failed")) > failed)
    wait_for(lambda: (entry := read_index(watched.root).entries.get(key)) and entry.metadata_problem)
    with begin(watched, tmp_path, "open a checkpoint", "EIO"):
        os.utime(watched.root / OLD)
        wait_for(lambda: FAULTS["open a checkpoint"].said(watched))
    wait_for((watched.root / sidecar_path(RelPath(key))).exists, timeout_s=SOON_S)
    watched.get_well()
    assert watched.is_right()
    entries = read_index(watched.root).entries
    assert [(entries[k].problem, entries[k].metadata_problem) for k in (key, OLD)] == [(None, None)] * 2


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, sample: bytes) -> Path:
    root = tmp_path_factory.mktemp("indexed") / "outputs"
    fill(root, sample)
    assert run("rebuild", root, "-q").returncode == 0
    return root


@pytest.fixture
def root(tmp_path: Path, indexed: Path) -> Path:
    """A root of one's own that was indexed before."""
    return shutil.copytree(indexed, tmp_path / "outputs", symlinks=True)


def under_fault(tmp_path: Path, *arguments: str) -> tuple[str, ...]:
    """Give what to start a daemon with; strace is then no parent of it, and signals reach the daemon."""
    return (*STRACE, "-I", "2", "-D", "-o", str(tmp_path / "strace"), *arguments)


def end_fault(daemon: Daemon) -> None:
    status = Path(f"/proc/{daemon.process.pid}/status")
    tracer = int(status.read_text().partition("TracerPid:")[2].split()[0])
    os.kill(tracer, signal.SIGTERM)
    wait_for(lambda: "TracerPid:\t0\n" in status.read_text(), timeout_s=SOON_S)


@pytest.mark.parametrize(
    ("syscall", "error"),
    [("?inotify_init,inotify_init1", "EMFILE"), ("inotify_add_watch", "ENOSPC")],
)
def test_a_daemon_that_gets_no_events_when_it_starts_passes_and_watches_when_it_can(
    root: Path, tmp_path: Path, sample: bytes, syscall: str, error: str
) -> None:
    prefix = under_fault(tmp_path, *injecting(syscall, error))
    with Witness(root) as witness, Daemon(root, "--scan-interval", "1", prefix=prefix) as daemon:
        status = describe(str(root))
        assert (status["state"], [reason["code"] for reason in status["reasons"]]) == ("polling", ["watch-failed"])
        put(root / "r1/checkpoints/new.ckpt", sample)
        wait_for(lambda: "r1/checkpoints/new.ckpt" in read_index(root).entries, timeout_s=SOON_S)
        end_fault(daemon)
        wait_for(lambda: describe(str(root))["state"] == "ok", timeout_s=SOON_S)
        put(root / "r1/checkpoints/newer.ckpt", sample)
        assert "r1/checkpoints/newer.ckpt" in daemon.sync()
        assert index_equals_disk(root)
    assert witness.faults == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (injecting("inotify_add_watch", "EIO"), os.strerror(errno.EIO)),
        (injecting("openat", "EIO", paths=(DAEMON_LOCK_NAME,)), os.strerror(errno.EIO)),
        (injecting("flock", "ENOLCK"), os.strerror(errno.ENOLCK)),
    ],
    ids=["watch", "lock file", "no locks"],
)
def test_a_daemon_that_cannot_begin_says_why_and_leaves_all_as_it_was(
    root: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    def content() -> dict[str, bytes]:
        ours = (DAEMON_LOCK_NAME, DAEMON_STATE_NAME)
        return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name not in ours}

    before = content()
    with Daemon(root, wait_ready=False, prefix=under_fault(tmp_path, *arguments)) as daemon:
        assert (daemon.process.wait(SOON_S), said in daemon.log_text()) == (1, True)
    assert content() == before


def test_an_index_that_cannot_be_opened_when_the_daemon_starts_is_waited_for(root: Path, tmp_path: Path) -> None:
    prefix = under_fault(tmp_path, *injecting("openat", "EIO", paths=(INDEX_NAME,)))
    with Witness(root) as witness, Daemon(root, wait_ready=False, prefix=prefix) as daemon:
        wait_for(lambda: [r["code"] for r in describe(str(root))["reasons"]] == ["error"], timeout_s=SOON_S)
        end_fault(daemon)
        daemon.wait_notified("READY=1")
        wait_for(lambda: describe(str(root))["state"] == "ok", timeout_s=SOON_S)
        assert index_equals_disk(root)
    assert (witness.faults, witness.looks > 0) == (set(), True)
    assert [path.name for path in root.glob(f"{INDEX_NAME}.*")] == []
