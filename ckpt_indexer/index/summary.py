"""What the index says as a whole: experiments, counts, the newest problems. Pure; each is computed once a table."""

from __future__ import annotations

from collections import Counter

import msgspec

from ckpt_indexer.index import codec
from ckpt_indexer.index.columns import FieldOf, Table
from ckpt_indexer.model import Mode, Monitor, Number, Problem
from ckpt_indexer.paths import Key

ERRORS_MAX = 20  # that health reports


class Best(msgspec.Struct):
    """The best checkpoint of an experiment by the metric that most of its checkpoints were selected by."""

    key: Key
    name: str  # of the metric
    mode: Mode
    value: Number


class Experiment(msgspec.Struct):
    """One experiment."""

    name: str
    checkpoints: int
    statuses: dict[str, int]
    size_bytes: int
    last_modified: str
    metrics: list[str]
    best: Best | None


class ErrorNote(msgspec.Struct):
    """A checkpoint's problem, or its sidecar's."""

    key: Key
    code: str
    message: str
    at: str  # when it was indexed so


class Counts(msgspec.Struct):
    """The index in numbers."""

    checkpoints: int
    statuses: dict[str, int]
    size_bytes: dict[str, int]  # by status
    coverage: float  # share of the ok checkpoints that have a sidecar
    experiments: int


class _Line(msgspec.Struct, gc=False):
    """What a summary needs of an entry."""

    path: Key
    experiment: str
    mtime: str | None
    size_bytes: int
    status: str = "ok"
    metrics: dict[str, Number] = {}
    monitor: Monitor | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


def count(table: Table) -> Counts:
    """Count entries by status."""
    statuses = table.column(FieldOf("status"))
    files = table.column(FieldOf("metadata_file"))
    sizes: Counter[str] = Counter()
    for status, size in zip(statuses, table.column(FieldOf("size_bytes")), strict=True):
        sizes[status] += size
    counts = Counter(statuses)
    covered = sum(status == "ok" and file is not None for status, file in zip(statuses, files, strict=True))
    return Counts(
        checkpoints=len(table),
        statuses=dict(sorted(counts.items())),
        size_bytes=dict(sorted(sizes.items())),
        coverage=round(covered / counts["ok"], 4) if counts["ok"] else 1.0,
        experiments=len(set(table.column(FieldOf("experiment")))),
    )


def recent_errors(table: Table) -> list[ErrorNote]:
    """Return the problems that came into the index last, the newest first."""
    statuses, problems = table.column(FieldOf("status")), table.column(FieldOf("metadata_problem"))
    times = table.column(FieldOf("indexed_at"))
    rows = [row for row, status in enumerate(statuses) if status != "ok" or problems[row] is not None]
    rows.sort(key=lambda row: (times[row] or "", table.keys[row]), reverse=True)
    notes = []
    for row in rows[:ERRORS_MAX]:
        entry = codec.decode_entry(table.raws[row])
        problem = entry.problem or entry.metadata_problem or Problem(entry.status, "")
        notes.append(ErrorNote(entry.path, problem.code, problem.message, entry.indexed_at))
    return notes


class _Group:
    """An experiment while its entries are gone through; entries themselves are not kept."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.size_bytes = 0
        self.last_modified = ""
        self.metrics: set[str] = set()
        self.scored: Counter[tuple[str, Mode]] = Counter()  # by metric and direction: other scores compare to nothing
        self.best: dict[tuple[str, Mode], tuple[float, Key, Number]] = {}

    def add(self, line: _Line) -> None:
        self.statuses[line.status] += 1
        self.size_bytes += line.size_bytes
        self.last_modified = max(self.last_modified, line.mtime or "")
        self.metrics.update(line.metrics)
        monitor = line.monitor
        if line.status != "ok" or monitor is None or monitor.mode is None or monitor.value in (None, "NaN"):
            return
        number = float(monitor.value)
        monitored = (monitor.name, monitor.mode)
        candidate = (number if monitor.mode == "min" else -number, line.path, monitor.value)
        self.scored[monitored] += 1
        if monitored not in self.best or candidate[:2] < self.best[monitored][:2]:
            self.best[monitored] = candidate

    def experiment(self, name: str) -> Experiment:
        best = None
        if self.scored:
            monitored = max(self.scored, key=lambda each: (self.scored[each], each))
            _, key, value = self.best[monitored]
            best = Best(key, *monitored, value)
        return Experiment(
            name, self.statuses.total(), dict(sorted(self.statuses.items())), self.size_bytes, self.last_modified,
            sorted(self.metrics), best,
        )  # fmt: skip


def experiments(table: Table) -> bytes:
    """Encode the answer that lists the experiments, by name."""
    groups: dict[str, _Group] = {}
    for raw in table.raws:
        line = _decode_line(raw)
        groups.setdefault(line.experiment, _Group()).add(line)
    listed = [group.experiment(name) for name, group in sorted(groups.items())]
    return msgspec.json.encode({"experiments": listed, "generation": table.generation})
