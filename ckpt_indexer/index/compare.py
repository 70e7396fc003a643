"""A few checkpoints side by side: one row for each thing that is known of one of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckpt_indexer.model import Entry

COMPARED_MIN, COMPARED_MAX = 2, 8  # more columns than a screen has
ROWS_MAX = 5000  # hyper-parameters may be any document
DEPTH_MAX = 16
_GROUPS = {
    "checkpoint": ("experiment", "name", "status", "format", "size_bytes", "mtime", "content_id", "link_target"),
    "training": ("epoch", "global_step", "lightning_version", "config_path", "wandb_run_id"),
    "model": ("architecture", "encoder", "parameters"),
}
_MODEL_PARTS = ("encoder", "decoder", "head", "loss")


class Row(msgspec.Struct):
    """One thing that is compared; ``null`` where it is not known."""

    group: str  # checkpoint, metrics, training, model, hyper_parameters
    name: str
    values: list[Any]
    differs: bool


def compare(
    entries: Sequence[Entry], documents: Sequence[Mapping[str, Any] | None], *, only_differences: bool
) -> list[Row]:
    """Return a row for each thing known of entries and their sidecars' documents."""
    columns = [dict(_facts(entry, document or {})) for entry, document in zip(entries, documents, strict=True)]
    order = {group: place for place, group in enumerate(("checkpoint", "metrics", "training", "model"))}
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for group, name in sorted(names, key=lambda pair: order.get(pair[0], len(order))):  # stable: names as they come
        values = [column.get((group, name)) for column in columns]
        differs = any(value != values[0] for value in values[1:])
        is_known = any(value is not None for value in values)
        if is_known and (differs or not only_differences):
            rows.append(Row(group, name, values, differs))
    return rows[:ROWS_MAX]


def flatten(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Iterate over a nested document's leaves by dotted names; lists are leaves.

    >>> list(flatten({"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "seed": 1}))
    [('optimizer.lr', 0.1), ('optimizer.betas', [0.9, 0.99]), ('seed', 1)]
    """
    if isinstance(value, dict) and value and depth < DEPTH_MAX:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif name:
        yield name, value


def _facts(entry: Entry, document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    for group, fields in _GROUPS.items():
        for field in fields:
            yield (group, field), getattr(entry, field)
    if entry.monitor is not None:
        for field in ("name", "mode", "value"):
            yield ("training", f"monitor.{field}"), getattr(entry.monitor, field)
    for metric, number in sorted(entry.metrics.items()):
        yield ("metrics", metric), number
    for part, fields in (
        ("training", ("training_phase", "max_epochs")),
        ("checkpointing", ("save_top_k", "save_last")),
    ):
        known = _part(document, part)
        for field in fields:
            yield ("training", field), known.get(field)
    model = _part(document, "model")
    for part in _MODEL_PARTS:
        for name, value in flatten(model.get(part), part):
            yield ("model", name), None if value in ("unknown", [], {}) else value
    indexer = _part(document, "indexer")
    for part in ("hyper_parameters", "datamodule_hyper_parameters"):
        prefix = "" if part == "hyper_parameters" else "datamodule"
        for name, value in flatten(indexer.get(part), prefix):
            yield ("hyper_parameters", name), value


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a document that anybody may have written; empty where it is none."""
    part = document.get(name)
    return part if isinstance(part, dict) else {}
