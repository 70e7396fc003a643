"""What the index says as a whole."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ckpt_indexer.index.columns import Table
from ckpt_indexer.index.summary import ERRORS_MAX, Counts, count, experiments, recent_errors
from ckpt_indexer.model import Entry, Mode, Monitor, Problem
from tests.index.entries import entry


def table_of(*listed: Entry) -> Table:
    return Table(generation=7, entries=sorted((each.path, msgspec.Raw(msgspec.json.encode(each))) for each in listed))


def scored(path: str, value: Any, *, mode: Mode = "max", **fields: Any) -> Entry:
    return entry(path, monitor=Monitor("f1", mode, value), **fields)


def test_counts_are_by_status_and_coverage_is_of_the_ok_ones() -> None:
    broken = entry("b/y.ckpt", status="corrupt", problem=Problem("truncated", ""), size_bytes=5)
    table = table_of(entry("a/x.ckpt", size_bytes=2), entry("a/y.ckpt", size_bytes=3, metadata_file=None), broken)
    assert count(table) == Counts(3, {"corrupt": 1, "ok": 2}, {"corrupt": 5, "ok": 5}, 0.5, 2)
    assert count(table_of()) == Counts(0, {}, {}, 1.0, 0)


def test_the_newest_problems_come_first_and_are_bounded() -> None:
    broken = [
        entry(f"{n:02}.ckpt", status="corrupt", problem=Problem("truncated", str(n)), indexed_at=f"2026-01-{n + 1:02}")
        for n in range(ERRORS_MAX + 3)
    ]
    sidecar = entry("s.ckpt", metadata_problem=Problem("sidecar-invalid", "odd"), indexed_at="2027")
    found = recent_errors(table_of(entry("good.ckpt"), sidecar, *broken))
    assert [each.key for each in found] == ["s.ckpt", *(each.path for each in broken[:3:-1])]
    assert (found[0].code, found[1].message) == ("sidecar-invalid", str(ERRORS_MAX + 2))


def best_of(*listed: Entry) -> dict[str, Any] | None:
    (experiment,) = json.loads(experiments(table_of(*listed)))["experiments"]
    best: dict[str, Any] | None = experiment["best"]
    return best


def test_the_best_is_by_the_metric_of_most_in_its_direction() -> None:
    few = entry("e/z.ckpt", monitor=Monitor("loss", "min", 0.0))
    assert best_of(scored("e/a.ckpt", 0.5), scored("e/b.ckpt", 0.9), few) == {
        "key": "e/b.ckpt", "name": "f1", "mode": "max", "value": 0.9
    }  # fmt: skip
    lowest = best_of(scored("e/a.ckpt", 0.5, mode="min"), scored("e/b.ckpt", "-Infinity", mode="min"))
    assert lowest is not None
    assert lowest["key"] == "e/b.ckpt"
    assert best_of(scored("e/b.ckpt", 0.9), scored("e/a.ckpt", 0.9)) == {
        "key": "e/a.ckpt", "name": "f1", "mode": "max", "value": 0.9
    }  # fmt: skip


def test_what_is_broken_or_has_no_number_is_never_the_best() -> None:
    broken = scored("e/c.ckpt", 1.0, status="corrupt", problem=Problem("truncated", ""))
    assert best_of(broken, scored("e/d.ckpt", "NaN"), scored("e/f.ckpt", None)) is None
