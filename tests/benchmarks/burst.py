"""Target 5: thousands of checkpoints at once, under a running daemon.

They are moved into its root as one folder, so that all of them are there at the same moment; the clock stops when the
last one is in the index. The floor is, for each, the least for reading it and one write of its sidecar's bytes, by one
core; ours works in two processes. Compared is the CPU time of both: how long either takes depends on who else works.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from ckpt_indexer import read_index
from tests.benchmarks.inputs import SMALL, make_checkpoint, make_tree
from tests.benchmarks.measure import cpu_seconds_of, figure_of
from tests.benchmarks.reading import read_floor
from tests.benchmarks.report import Row, at_least, at_most
from tests.process import Daemon

if TYPE_CHECKING:
    from pathlib import Path

SIDECAR_BYTES = 3000  # as one of ours has


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    checkpoint = make_checkpoint(scratch, SMALL)
    return [
        _burst(scratch, checkpoint, count, rounds)
        for count, rounds in (((20, 1),) if is_small else ((1_000, 3), (10_000, 1)))
    ]


def _burst(scratch: Path, checkpoint: Path, count: int, rounds: int) -> Row:
    seconds, cpu, least, writes, missing = [], [], [], 0, 0
    for _ in range(rounds):
        root, outside = scratch / "outputs", scratch / "outside"
        root.mkdir()
        paths = make_tree(outside, checkpoint, count)
        first = _floor(paths)
        with Daemon(root) as daemon:
            generation, before = _generation(root), cpu_seconds_of(daemon.process.pid)
            started = time.perf_counter()
            outside.rename(root / "moved")
            entries = daemon.sync()
            seconds.append(time.perf_counter() - started)
            cpu.append(cpu_seconds_of(daemon.process.pid) - before)
            writes = max(writes, _generation(root) - generation)
            missing += count - sum(entry.status == "ok" for entry in entries.values())
        # Before and after: whoever comes first finds the files' pages in nobody's cache.
        least.append((first + _floor([root / "moved" / path.relative_to(outside) for path in paths])) / 2)
        shutil.rmtree(root)
    ours, floor = figure_of(seconds), figure_of(least)
    promises = [
        at_least(0.6, "of the floor's rate per core", floor.median / figure_of(cpu).median),
        at_most(50, "index writes", writes),
        at_most(0, "lost", missing),
    ]
    note = f"CPU time of both processes {figure_of(cpu).median:.2f} s"
    return Row(5, f"burst of {count:,} checkpoints", ours, floor, {}, promises, "burst", count, note)


def _generation(root: Path) -> int:
    return read_index(root).generation


def _floor(paths: list[Path]) -> float:
    document = bytes(SIDECAR_BYTES)
    started = time.process_time()
    for path in paths:
        read_floor(path)
        sidecar, temporary = path.with_name(path.name + ".floor"), path.with_name("sidecar.tmp")
        temporary.write_bytes(document)
        temporary.replace(sidecar)
    seconds = time.process_time() - started
    for path in paths:
        path.with_name(path.name + ".floor").unlink()
    return seconds
