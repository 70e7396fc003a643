"""Entries as CSV, a piece at a time, safe to open in a spreadsheet.

A text that begins with ``= + - @``, a tab or a carriage return gets a leading apostrophe: a spreadsheet would take it
for a formula, and names on disk are anybody's. Pure.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from ckpt_indexer.index import codec
from ckpt_indexer.index.columns import MetricNames
from ckpt_indexer.index.query import value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import msgspec

    from ckpt_indexer.index.columns import Table
    from ckpt_indexer.model import Entry

PIECE_ROWS = 500  # encoded at once
METRICS_MAX = 200  # columns; each name is anybody's
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_COLUMNS = (
    "path", "experiment", "name", "status", "epoch", "global_step", "monitor.name", "monitor.mode", "monitor.value",
    "architecture", "encoder", "parameters", "format", "size_bytes", "mtime", "lightning_version", "wandb_run_id",
    "content_id", "problem.code", "problem.message",
)  # fmt: skip


def metric_columns(table: Table) -> list[str]:
    """Return the names of the metrics that any of the entries has."""
    names = {name for names in set(table.column(MetricNames())) for name in names}
    return sorted(names)[:METRICS_MAX]


def encode_head(metrics: Sequence[str]) -> bytes:
    """Write the line of the columns' names."""
    return _lines([[*_COLUMNS, *(_safe(f"metrics.{name}") for name in metrics)]])


def encode_rows(raws: Iterable[msgspec.Raw], metrics: Sequence[str]) -> bytes:
    """Write a line for each encoded entry."""
    return _lines([_cells(codec.decode_entry(raw), metrics) for raw in raws])


def _cells(entry: Entry, metrics: Sequence[str]) -> list[Any]:
    values = [_safe(value_of(entry, field)) for field in _COLUMNS]
    return [*values, *(entry.metrics.get(name) for name in metrics)]  # the text -Infinity is a number


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _lines(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
