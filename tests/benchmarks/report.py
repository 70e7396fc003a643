"""What the benchmarks found, as a table for people, JSON for programs, and plots of how cost grows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from tests.benchmarks.measure import Figure

if TYPE_CHECKING:
    from pathlib import Path


class Promise(msgspec.Struct, frozen=True):
    """One target: a number that was measured, mostly a ratio, and the limit it is held against."""

    text: str  # "× floor", "× faster than torch mmap"
    value: float
    limit: float
    is_upper: bool  # whether the value has to stay below the limit, or above it

    @property
    def is_kept(self) -> bool:
        return self.value <= self.limit if self.is_upper else self.value >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.is_upper else "≥"
        return f"{self.value:.3g} {self.text} ({sign} {self.limit:g}{'' if self.is_kept else ', MISSED'})"


def at_most(limit: float, text: str, value: float) -> Promise:
    """Promise a value no larger than *limit*."""
    return Promise(text, value, limit, is_upper=True)


def at_least(limit: float, text: str, value: float) -> Promise:
    """Promise a value no smaller than *limit*."""
    return Promise(text, value, limit, is_upper=False)


class Row(msgspec.Struct):
    """One line of the table."""

    number: int  # of the target it belongs to
    what: str  # "read 2.0 GB, 1,016 records, warm"
    ours: Figure
    floor: Figure | None = None  # the least that this machine could do
    peers: dict[str, Figure] = {}  # what people use instead
    promises: list[Promise] = []
    series: str | None = None  # of a plot: rows of one series differ in ``n`` only
    n: int = 0  # entries, checkpoints: what the cost grows with
    note: str = ""  # what else has to be known to read the figures


def table(rows: list[Row]) -> str:
    """Write the rows as a Markdown table."""
    lines = ["| # | what | ours | floor | peers | result (target) |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (
            str(row.number),
            row.what,
            text_of(row.ours),
            "–" if row.floor is None else text_of(row.floor),
            ", ".join(f"{name} {text_of(figure)}" for name, figure in row.peers.items()) or "–",
            "; ".join([*map(str, row.promises), *([row.note] if row.note else [])]) or "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def text_of(figure: Figure) -> str:
    """Write a figure: the median, and the half of the rounds around it.

    >>> text_of(Figure(0.00123, 0.0012, 0.0013, 100))
    '1.23 ms (1.20 to 1.30)'
    """
    scale, unit = _UNITS.get(figure.unit, (1.0, figure.unit))
    if figure.unit == "s":
        scale, unit = next((u for u in _SECONDS if figure.median * u[0] < 1000), _SECONDS[-1])
    parts = [_three_digits(value * scale) for value in (figure.median, figure.low, figure.high)]
    return f"{parts[0]} {unit}" if figure.count < 2 else f"{parts[0]} {unit} ({parts[1]} to {parts[2]})"


_SECONDS = ((1e6, "µs"), (1e3, "ms"), (1.0, "s"))
_UNITS = {"B": (1e-6, "MB"), "B/s": (1e-9, "GB/s")}


def _three_digits(value: float) -> str:
    """Write three digits that count, without an exponent: 0.123, 1.23, 12.3, 123, 1,234."""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def write_json(path: Path, environment: dict[str, object], rows: list[Row]) -> None:
    """Write all figures: seconds, bytes, and what their unit says."""
    described = [
        {
            **msgspec.to_builtins(row),
            "promises": [{**msgspec.to_builtins(p), "is_kept": p.is_kept} for p in row.promises],
        }
        for row in rows
    ]
    document = msgspec.json.encode({"environment": environment, "rows": described})
    path.write_bytes(msgspec.json.format(document, indent=2) + b"\n")


def write_plots(folder: Path, rows: list[Row]) -> list[Path]:
    """Draw, for each series of two rows or more, how ours, the floor and the peers grow with n."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    paths = []
    for series in dict.fromkeys(row.series for row in rows if row.series):
        points = sorted((row for row in rows if row.series == series), key=lambda row: row.n)
        if len(points) < 2:
            continue
        figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        lines: dict[str, list[tuple[int, Figure]]] = {}
        for row in points:
            lines.setdefault("ckpt-indexer", []).append((row.n, row.ours))
            for name, value in {**({"floor": row.floor} if row.floor else {}), **row.peers}.items():
                lines.setdefault(name, []).append((row.n, value))
        for name, values in lines.items():
            xs, medians = [n for n, _ in values], [f.median for _, f in values]
            style = {"ckpt-indexer": "o-", "floor": "k--"}.get(name, "s:")
            axes.plot(xs, medians, style, label=name)
            axes.fill_between(xs, [f.low for _, f in values], [f.high for _, f in values], alpha=0.15)
        first = points[0]
        axes.plot(
            [row.n for row in points],
            [first.ours.median * row.n / first.n for row in points],
            color="0.8", zorder=0, label="linear",
        )  # fmt: skip
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="checkpoints",
            ylabel={"B": "bytes"}.get(first.ours.unit, first.ours.unit),
        )
        axes.set_title(series)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
        path = folder / (re.sub(r"\W+", "-", series) + ".png")
        figure.savefig(path, dpi=110)
        plt.close(figure)
        paths.append(path)
    return paths
