"""The benchmarks work: at a small size each gives its rows, the JSON and the plots. No time is asserted."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.measure import Figure, figure_of, side_by_side
from tests.benchmarks.report import Row, at_least, at_most, table, text_of, write_plots

if TYPE_CHECKING:
    from pathlib import Path

MINUTES = 10  # a small run takes less than one, on a machine that does nothing else
TARGETS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12}  # 10 is measured with 3 and 8


def test_a_small_run_of_all_gives_a_table_json_and_plots(tmp_path: Path) -> None:
    folder = str(tmp_path)
    # One process for all of them: importing torch and Lightning takes longer than most.
    command = [
        *(sys.executable, "-m", "tests.benchmarks", *BENCHMARKS),
        *("--small", "--output", folder, "--scratch", folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "benchmarks.json").read_text())
    assert re.findall(r"^(\w+): \d+ s$", done.stderr, re.MULTILINE) == list(BENCHMARKS)
    assert {row["number"] for row in document["rows"]} == TARGETS
    assert list(tmp_path.glob("*.png"))
    assert len(done.stdout.splitlines()) == 2 + len(document["rows"])
    for row in document["rows"]:
        for figure in (row["ours"], *filter(None, [row["floor"]]), *row["peers"].values()):
            assert math.isfinite(figure["median"])
            assert figure["count"] > 0
        for promise in row["promises"]:
            limit, value = promise["limit"], promise["value"]
            assert promise["is_kept"] == (value <= limit if promise["is_upper"] else value >= limit)
    assert document["environment"]["cores"] > 0


def test_cases_take_turns_and_each_is_timed_once_a_round() -> None:
    calls: list[str] = []
    figures = side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4)
    assert "".join(calls) == "abbaabba"
    assert [figure.count for figure in figures.values()] == [4, 4]


def test_a_figure_is_the_median_with_the_half_around_it() -> None:
    figure = figure_of([float(n) for n in range(1, 101)])
    assert (figure.median, figure.low, figure.high, figure.p99) == (50.5, 25.25, 75.75, 100.0)
    assert text_of(Figure(0.00123, 0.0012, 0.0013, 9)) == "1.23 ms (1.20 to 1.30)"
    assert text_of(Figure(2e9, 2e9, 2e9, 1, "B/s")) == "2.00 GB/s"


def test_a_missed_target_is_marked_as_such() -> None:
    ours = figure_of([1.0])
    row = Row(1, "x", ours, None, {}, [at_most(2, "× floor", 3), at_least(2, "× faster", 3)])
    assert table([row]).splitlines()[2] == "| 1 | x | 1.00 s | – | – | 3 × floor (≤ 2, MISSED); 3 × faster (≥ 2) |"


def test_growth_is_drawn_one_plot_a_series(tmp_path: Path) -> None:
    rows = [Row(4, "x", figure_of([n / 1e3]), figure_of([n / 2e3]), series="a series", n=n) for n in (10, 100, 1000)]
    (path,) = write_plots(tmp_path, [*rows, Row(5, "y", figure_of([1.0]), series="alone", n=1)])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.name == "a-series.png"
