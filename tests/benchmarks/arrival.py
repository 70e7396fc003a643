"""Target 4: from the end of a training job's save until the index on disk has the checkpoint.

A job saves now and then, at a random phase; the consumer waits for the index to be replaced, and reads it. The floor is
a process that blocks in inotify, reads the checkpoint as the floor of target 1 does, and replaces the index by the same
bytes as safely as the store; the peers do that too, and differ in how they learn of the file.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import pickle
import random
import select
import struct
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
import watchfiles
from watchdog.observers.inotify_c import InotifyConstants, inotify_add_watch, inotify_init

from ckpt_indexer import paths, read_index
from ckpt_indexer.paths import RelPath
from tests.benchmarks.inputs import make_tree
from tests.benchmarks.measure import figure_of, pause
from tests.benchmarks.reading import read_floor
from tests.benchmarks.report import Promise, Row, at_most
from tests.process import COMMAND, TIMEOUT_S, Daemon, encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POLL_S = 1.0  # between two walks of the polling peer
TENSOR = 250_000  # elements of what is saved: 1 MB, a few milliseconds to write
JOB = "experiment_00000/checkpoints"  # where the job saves
_EVENT = struct.Struct("iIII")
_FORK = mp.get_context("fork")  # the watchers are at work at once, and import nothing


class Plan(NamedTuple):
    """How one size is measured."""

    entries: int
    rounds: int  # each starts every watcher anew, so that no one has the quiet moments for itself
    saves: int  # a round, seen by us
    other_saves: int  # a round, seen by the floor and by each peer
    pause_s: tuple[float, float]  # between two saves
    p99_s: float  # the target


SMALL = (Plan(20, 1, 2, 1, (0.05, 0.1), 0.05),)
FULL = (
    Plan(100, 3, 34, 6, (0.3, 0.9), 0.05),
    Plan(10_000, 3, 34, 6, (0.3, 0.9), 0.05),
    Plan(100_000, 1, 20, 6, (1.0, 2.0), 1.0),
)


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    return [_arrival(scratch / str(plan.entries), plan) for plan in (SMALL if is_small else FULL)]


def _arrival(root: Path, plan: Plan) -> Row:
    root.mkdir()
    checkpoint = root.with_suffix(".template")
    checkpoint.write_bytes(encoded(1))
    make_tree(root, checkpoint, plan.entries)
    subprocess.run([COMMAND, "rebuild", str(root), "--workers", "2", "-q"], check=True, stdout=subprocess.DEVNULL)
    seconds: dict[str, list[float]] = {}
    peers: dict[str, Callable[[str], Iterator[str]]] = {
        "floor": _saves_by_inotify,
        "watchfiles": _saves_by_watchfiles,
        "polling each second": _saves_by_polling,
    }
    chance = random.Random(plan.entries)
    for _ in range(plan.rounds):
        with Daemon(root):
            seconds.setdefault("ours", []).extend(_measure(root, plan.saves, plan.pause_s, chance, is_ours=True))
        for name, saves in peers.items():
            with _indexing(root, saves):
                more = _measure(root, plan.other_saves, (0.1, 0.4), chance, is_ours=False)
            seconds.setdefault(name, []).extend(more)
    figures = {name: figure_of(values) for name, values in seconds.items()}
    ours, floor = figures.pop("ours"), figures.pop("floor")
    return Row(
        4,
        f"a save until it is in an index of {plan.entries:,}",
        ours,
        floor,
        figures,
        [*_p99(ours.p99, plan.p99_s), at_most(3, "× floor", ours.median / floor.median)],
        series="a save until it is in the index",
        n=plan.entries,
        note=f"{ours.count} saves; the index has {(root / paths.INDEX_NAME).stat().st_size / 1e6:.3g} MB",
    )


def _p99(value_s: float | None, limit_s: float) -> list[Promise]:
    return [] if value_s is None else [at_most(limit_s * 1e3, "ms at the 99th percentile", value_s * 1e3)]


def _measure(
    root: Path, saves: int, pause_s: tuple[float, float], chance: random.Random, *, is_ours: bool
) -> list[float]:
    """Save that often, and give the seconds from each save's end until the index that has it was in place."""
    seconds, saved = [], []
    content = {"epoch": 2, "global_step": 100, "state_dict": {"w": torch.zeros(TENSOR)}}
    with _Inotify(str(root), InotifyConstants.IN_MOVED_TO) as replaced:
        for number in range(saves):
            pause(chance.uniform(*pause_s))
            replaced.drain()
            path = root / JOB / f"save-{os.getpid()}-{number}.ckpt"
            torch.save(content, path)
            closed = time.perf_counter()
            while True:
                moment = replaced.wait_for(paths.INDEX_NAME)
                if not is_ours or _is_readable(root, path):
                    break
            seconds.append(moment - closed)
            saved.append(path)
    for path in saved:  # the next daemon's first pass takes them out of the index
        path.unlink()
        path.with_name(paths.sidecar_path(RelPath(path.name))).unlink(missing_ok=True)
    return seconds


def _is_readable(root: Path, path: Path) -> bool:
    """Say whether the index has the checkpoint, and has all of it: one that is being written may stand there, too."""
    entry = read_index(root).entries.get(paths.to_key(RelPath(str(path.relative_to(root)))))
    return entry is not None and entry.status == "ok"


@contextlib.contextmanager
def _indexing(root: Path, saves: Callable[[str], Iterator[str]]) -> Iterator[None]:
    """Run a process that replaces the index for each save it sees."""
    ready = _FORK.Event()

    def work() -> None:
        data = (root / paths.INDEX_NAME).read_bytes()
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for path in saves(str(root)):
            if not path:
                ready.set()
                continue
            _read_whole(root / path)
            _replace_index(folder, data)

    process = _FORK.Process(target=work, daemon=True)
    process.start()
    assert ready.wait(TIMEOUT_S)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _read_whole(path: Path) -> None:
    """Read a checkpoint; one that a peer saw before it was whole, again and again, as none in use would."""
    while True:
        try:
            read_floor(path)
        except (EOFError, pickle.UnpicklingError):
            pause(0.001)
        else:
            return


def _replace_index(folder: int, data: bytes) -> None:
    temporary = f"{paths.TEMPORARY_PREFIX}{os.getpid()}{paths.TEMPORARY_SUFFIX}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=folder)
    assert os.write(fd, data) == len(data)
    os.fsync(fd)
    os.close(fd)
    os.replace(temporary, paths.INDEX_NAME, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _saves_by_inotify(root: str) -> Iterator[str]:
    """Give each save's path, relative to the root, as it is seen; but first, once watching, the empty one."""
    with _Inotify(f"{root}/{JOB}", InotifyConstants.IN_CLOSE_WRITE) as closed:
        yield ""
        while True:
            for name in closed.read():
                yield f"{JOB}/{name}"


def _saves_by_watchfiles(root: str) -> Iterator[str]:
    # It says nothing of when it has begun to watch, but that it waited in vain.
    for changes in watchfiles.watch(root, rust_timeout=1_000, yield_on_timeout=True, raise_interrupt=False):
        if not changes:
            yield ""
        for path in {path for _, path in changes if path.endswith(paths.SUFFIXES)}:
            yield os.path.relpath(path, root)


def _saves_by_polling(root: str) -> Iterator[str]:
    seen = _walk(root)
    yield ""
    while True:
        pause(POLL_S)
        now = _walk(root)
        yield from (os.path.relpath(path, root) for path in sorted(now - seen))
        seen = now


def _walk(root: str) -> set[str]:
    found, waiting = set(), [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name.endswith(paths.SUFFIXES):
                    found.add(entry.path)
    return found


class _Inotify:
    """The kernel's events about one folder's files, read without anything in between."""

    def __init__(self, folder: str, mask: int) -> None:
        self._fd = inotify_init()
        assert inotify_add_watch(self._fd, os.fsencode(folder), mask) >= 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self) -> list[str]:
        """Wait for events, and give the names they are about."""
        data, names, position = os.read(self._fd, 64 << 10), [], 0
        while position < len(data):
            *_, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            names.append(os.fsdecode(data[position - length : position].rstrip(b"\0")))
        return names

    def wait_for(self, name: str) -> float:
        """Give the moment at which the name was told of."""
        while select.select([self._fd], [], [], TIMEOUT_S)[0]:
            moment = time.perf_counter()
            if name in self.read():
                return moment
        raise AssertionError(f"no {name} within {TIMEOUT_S} s")

    def drain(self) -> None:
        """Forget what was not read yet."""
        while select.select([self._fd], [], [], 0)[0]:
            self.read()
