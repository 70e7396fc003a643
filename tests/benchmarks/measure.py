"""How the benchmarks measure: what is to be compared runs side by side in one process, round by round.

A shared machine slows everything by turns. So every round runs each case once, starting with another one each time,
and what is compared are medians over the same rounds; the ratio of two medians is the result, a time alone is context.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = ("ckpt-indexer", "torch", "lightning", "msgspec", "isal", "watchdog", "pydantic", "PyYAML", "watchfiles")


class Figure(msgspec.Struct, frozen=True):
    """What was measured of one case, over all rounds."""

    median: float
    low: float  # the 25th percentile
    high: float  # the 75th percentile
    count: int  # rounds
    unit: str = "s"
    p99: float | None = None  # where there are 20 rounds or more


def figure_of(values: list[float], unit: str = "s") -> Figure:
    """Sum up one case's values."""
    low, high = (values[0], values[0]) if len(values) < 2 else statistics.quantiles(values, n=4)[::2]
    p99 = sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] if len(values) >= 20 else None
    return Figure(statistics.median(values), low, high, len(values), unit, p99)


def side_by_side(
    cases: dict[str, Callable[[], object]], rounds: int, *, before: Callable[[], object] | None = None
) -> dict[str, Figure]:
    """Time each case once a round; *before* runs, untimed, before each. What a case returns is thrown away.

    Garbage is collected between the cases and not within, as ``timeit`` does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    gc.freeze()  # what is loaded by now is not looked through again each time
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if before is not None:
                before()
            gc.collect()
            gc.disable()
            try:
                started = time.perf_counter()
                cases[name]()
                seconds[name].append(time.perf_counter() - started)
            finally:
                gc.enable()
    gc.unfreeze()
    return {name: figure_of(values) for name, values in seconds.items()}


def pause(seconds: float) -> None:
    """Let time pass: between two saves of a job, while a daemon is at rest, for a watcher that polls."""
    threading.Event().wait(seconds)


def drop_cache(path: Path) -> None:
    """Let go of what the system holds of a file in memory, so that the next read comes from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_status(pid: int) -> dict[str, int]:
    """Give what ``/proc`` counts of a process: memory in bytes, CPU time in ticks, context switches."""
    numbers: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            numbers[name] = int(value.split()[0]) << 10
        elif name.endswith("ctxt_switches"):
            numbers[name] = int(value)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    numbers["cpu_ticks"] = int(fields[11]) + int(fields[12])
    return numbers


def environment(scratch: Path) -> dict[str, object]:
    """Describe the machine as far as figures depend on it."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": _file_system_of(scratch),
        "load_average": os.getloadavg(),
        "packages": {name: _version_of(name) for name in _PACKAGES},
    }


def cpu_seconds_of(pid: int) -> float:
    """Give the CPU time that a process and its children have taken."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    ticks = sum(read_status(each)["cpu_ticks"] for each in (pid, *children))
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_system_of(path: Path) -> str:
    """Name the type of the file system that *path* is on: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(point), kind) for point, kind in mounts if f"{path.resolve()}/".startswith(point.rstrip("/") + "/")]
    return max(above)[1]


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
