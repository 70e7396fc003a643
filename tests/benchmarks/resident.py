"""Targets 8 and 10: what the daemon costs while nothing happens: CPU time, wakeups, memory.

The real daemon, started anew on a tree that is indexed, as after a reboot: real files, or its first pass would take the
entries out. The window of CPU time and wakeups begins right after one of its passes, which come about once a minute,
and ends right after the next. The worker process, which lives from the first checkpoint that is read on, stands apart.

Measured elsewhere with 2,000 runs, all processes of each: ``aim up`` 699 MB, ``mlflow server`` 1,076 MB.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.benchmarks.inputs import make_tree
from tests.benchmarks.measure import figure_of, pause, read_status
from tests.benchmarks.report import Row, at_most
from tests.process import COMMAND, Daemon, encoded, put, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PASS_INTERVAL_S = 60.0  # the default; the daemon varies it by a quarter
WINDOW_MAX_S = 2 * PASS_INTERVAL_S
SMALL_WINDOW_S = 1.0


class _Used(NamedTuple):
    """What all threads of a process have used so far."""

    moment: float
    cpu_s: float
    switches: int  # of context: each wakeup is one, and so is each loss of the core to somebody else


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    root = scratch / "outputs"
    root.mkdir()
    sample = put(scratch / "sample.ckpt", encoded(3))
    rows: list[Row] = []
    indexed = 0
    for count in (0, 20, 60) if is_small else (0, 10_000, 50_000, 100_000):
        if count > indexed:
            make_tree(root / f"from_{indexed}", sample, count - indexed)
            subprocess.run([COMMAND, "rebuild", str(root), "--workers", "2", "-q"], capture_output=True, check=True)
            indexed = count
        with Daemon(root, f"--scan-interval={1.0 if is_small else PASS_INTERVAL_S}", "--log-format=json") as daemon:
            if count in (60, 50_000):
                rows += _at_rest(daemon, count, is_small=is_small)
            else:
                rows.append(_memory(daemon, count, sample))
    return rows


def _at_rest(daemon: Daemon, count: int, *, is_small: bool) -> Iterator[Row]:
    _wait_for_a_pass(daemon)
    before = _used(daemon.process.pid)
    if is_small:
        pause(SMALL_WINDOW_S)
    else:
        _wait_for_a_pass(daemon)
    after = _used(daemon.process.pid)
    passes = daemon.events("pass_finished")
    seconds = after.moment - before.moment
    share = (after.cpu_s - before.cpu_s) / seconds
    pass_s = passes[-1]["seconds"]
    note = f"in {seconds:.0f} s, with one pass of {1000 * pass_s:.0f} ms"
    yield Row(
        8, f"at rest, {count:,} entries, share of a core", figure_of([100 * share], "%"),
        promises=[at_most(0.5, "% of a core", 100 * share)], n=count, note=note,
    )  # fmt: skip
    switches = (after.switches - before.switches) / seconds
    yield Row(8, f"at rest, {count:,} entries, context switches", figure_of([switches], "a second"), n=count, note=note)


def _memory(daemon: Daemon, count: int, sample: Path) -> Row:
    """Measure after the first pass and one checkpoint read: everything is there that ever will be."""
    put(daemon.root / "one" / "checkpoints" / f"more_{count}.ckpt", sample.read_bytes())
    daemon.sync()
    status = read_status(daemon.process.pid)
    workers = {
        f"worker process {i}" if i else "worker process": figure_of([read_status(pid)["VmRSS"]], "B")
        for i, pid in enumerate(_children(daemon.process.pid))
    }
    limit = 60 + count / 1000  # MB: 60, and 1 kB an entry
    return Row(
        8, f"memory, {count:,} entries", figure_of([status["VmRSS"]], "B"), peers=workers,
        promises=[at_most(limit, "MB", status["VmRSS"] / 1e6)], series="memory of the daemon" if count else None,
        n=count, note=f"{status['VmHWM'] / 1e6:.0f} MB at most",
    )  # fmt: skip


def _wait_for_a_pass(daemon: Daemon) -> None:
    passes = len(daemon.events("pass_finished"))
    wait_for(lambda: len(daemon.events("pass_finished")) > passes, timeout_s=WINDOW_MAX_S)


def _used(pid: int) -> _Used:
    cpu_ns, switches = 0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            switches += sum(
                int(line.split()[1]) for line in (task / "status").read_text().splitlines() if "ctxt_switches" in line
            )
    return _Used(time.monotonic(), cpu_ns / 1e9, switches)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted({int(child) for task in tasks for child in (task / "children").read_text().split()})
