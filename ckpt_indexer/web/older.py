"""Records in the shape of an older catalogue, for front ends that were written for it.

Owns what such a record holds: the union of the fields that the older backends gave, so that one route serves the
readers of each. A record is worked out of an entry alone and opens no file. Knows no HTTP: ``api`` has the routes,
``/checkpoints`` and ``/checkpoints/stream``. It is no second catalogue: what these records lack (metrics by any name,
problems, health) is in ``/api/checkpoints``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt_indexer.index import codec
from ckpt_indexer.index.query import parse_filter, parse_order
from ckpt_indexer.web.view import Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.model import Entry
    from ckpt_indexer.web.view import Rows, View

LIMIT_MAX = 1_000_000
QUERY = Query(parse_order("modified_time:desc"), (parse_filter("status=ok"),))  # newest first, usable ones only
UNKNOWN = "unknown"
EXPERIMENT_MAX = 23  # characters of an experiment that are shown whole; of a longer one the first 20 and "..."
_DOTS = "..."


class OlderRecord(msgspec.Struct, kw_only=True):
    """A usable checkpoint, as an older catalogue describes it."""

    display_name: str  # one line for a menu
    checkpoint_path: str  # relative to the folder that holds the root; written as a key is
    modified_at: str  # ISO 8601, UTC
    size_mb: float  # MiB, two decimals
    exp_name: str | None = None
    architecture: str = UNKNOWN
    backbone: str = UNKNOWN
    epoch: int | None = None
    global_step: int | None = None
    precision: float | None = None
    recall: float | None = None
    hmean: float | None = None


class OlderRecords(msgspec.Struct, frozen=True):
    """A column of a view: each entry's record, encoded. A new generation makes those of changed entries only."""

    folder: str  # the root's own name

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        folder = self.folder
        return lambda raw: encode_record(raw, folder)


def record_of(entry: Entry, folder: str) -> OlderRecord:
    """Build the record of an entry; *folder* is the name of the root's folder, which begins the path.

    A metric that is NaN or infinite counts as not known: strict JSON has no such numbers.
    """
    exp_name = entry.exp_name or entry.experiment.rpartition("/")[2]
    record = OlderRecord(
        display_name="",
        checkpoint_path=f"{folder}/{entry.path}" if folder else entry.path,  # no name: the root of the file system
        modified_at=entry.mtime,
        size_mb=round(entry.size_bytes / 2**20, 2),
        exp_name=None if exp_name == "." else exp_name,  # "." is what lies directly in the root
        architecture=entry.architecture or UNKNOWN,
        backbone=entry.encoder or UNKNOWN,
        epoch=entry.epoch,
        global_step=entry.global_step,
        precision=_finite(entry.metric("precision")),
        recall=_finite(entry.metric("recall")),
        hmean=_finite(entry.metric("hmean")),
    )
    record.display_name = display_name_of(record)
    return record


def display_name_of(record: OlderRecord) -> str:
    """Return the line for menus: what it is, then in parentheses how far and how good; unknown parts are left out.

    >>> display_name_of(OlderRecord(display_name="", checkpoint_path="outputs/ocr_training_b/checkpoints/best.ckpt",
    ...     modified_at="2025-10-19T13:36:50.000000Z", size_mb=1.0, exp_name="ocr_training_b", architecture="dbnet",
    ...     backbone="resnet18", epoch=18, hmean=0.892))
    'dbnet · resnet18 · ocr_training_b (ep18 • hmean 0.892 • 20251019_1336)'
    """
    parts = [part for part in (record.architecture, record.backbone) if part != UNKNOWN]
    if record.exp_name not in (None, UNKNOWN, *parts):
        parts.append(_shortened(str(record.exp_name)))
    name = " · ".join(parts) or record.checkpoint_path.rpartition("/")[2]
    numbers = (("hmean", record.hmean), ("prec", record.precision), ("rec", record.recall))
    day, _, time = record.modified_at.partition("T")
    details = [
        *([] if record.epoch is None else [f"ep{record.epoch}"]),
        *(f"{short} {value:.3f}" for short, value in numbers if value is not None),
        f"{day.replace('-', '')}_{time[:5].replace(':', '')}",
    ]
    return f"{name} ({' • '.join(details)})"


def encode_record(raw: msgspec.Raw, folder: str) -> bytes | None:
    """Write an encoded entry's record; ``None`` for a checkpoint that cannot be used."""
    entry = codec.decode_entry(raw)
    return msgspec.json.encode(record_of(entry, folder)) if entry.status == "ok" else None


def encode_list(view: View, rows: Rows, folder: str, limit: int | None) -> bytes:
    """Write the first *limit* records of a selection as one JSON list."""
    records = view.column(OlderRecords(folder))
    return b"[" + b",".join(records[row] for row in rows.rows[:limit]) + b"]"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _shortened(experiment: str) -> str:
    if len(experiment) <= EXPERIMENT_MAX:
        return experiment
    return experiment[: EXPERIMENT_MAX - len(_DOTS)] + _DOTS
