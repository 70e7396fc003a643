"""Bringing a document into the form that the readers of schema 1.0 take, without losing what it says.

Those readers have their own rules: words and ranges that a field may have, and fields that may be absent but not null.
``fit`` is for values: what does not fit its field is kept where it does. ``write_absent`` and ``read_absent`` are for
what is not known: left out where a reader has a default, filled in where it insists on a value, and named in
``indexer.filled``, by which we know it again for what it is. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ckpt_indexer.metadata.schema import UNKNOWN, Document

if TYPE_CHECKING:
    from collections.abc import Callable

# Where a reader insists on a value: what is filled in.
FILLED: dict[str, Any] = {
    "training.epoch": 0,
    "training.global_step": 0,
    "checkpointing.monitor": UNKNOWN,
    "checkpointing.mode": "min",
}
# Where a reader has a default of its own, and refuses null.
LEFT_OUT = ("model.encoder.pretrained", "model.encoder.frozen", "checkpointing.save_top_k", "checkpointing.save_last")
PHASES = {
    "training": "training", "train": "training", "fit": "training", "pretraining": "training",
    "validation": "validation", "validate": "validation", "valid": "validation", "val": "validation",
    "finetuning": "finetuning", "finetune": "finetuning", "fine-tuning": "finetuning", "fine_tuning": "finetuning",
    "fine-tune": "finetuning", "fine_tune": "finetuning",
}  # fmt: skip
PARAMS_MAX = 50  # of a part of the model
DEPTH_MAX = 12  # of params in params


def fit(document: Document) -> Document:
    """Move what does not fit its field to where it does; *document* itself is changed and returned."""
    training, metrics, model = document.training, document.metrics, document.model
    phase = PHASES.get(training.training_phase.strip().lower())
    if phase is None and document.indexer is not None:
        warning = f"the training phase {training.training_phase[:40]!r} is none that the schema has"
        document.indexer.warnings = [*document.indexer.warnings, warning][:20]
    training.training_phase = phase or "training"
    if training.max_epochs is not None and training.max_epochs < 1:  # Lightning's -1: no limit
        training.max_epochs = None
    for count in ("epoch", "global_step"):
        value = getattr(training, count)
        if value is not None and value < 0:  # a loop that has not begun says -1
            setattr(training, count, None)
            if document.indexer is not None:
                setattr(document.indexer, count, value)
    for name, highest in (("precision", 1.0), ("recall", 1.0), ("hmean", 1.0), ("validation_loss", math.inf)):
        value = getattr(metrics, name)
        if value is not None and not (0 <= value <= highest and math.isfinite(value)):
            setattr(metrics, name, None)
            metrics.additional_metrics.setdefault(name, value)
    model.decoder.params = flat(model.decoder.params)
    model.head.params = flat(model.head.params)
    model.loss.params = numbers(model.loss.params)
    for part, names in ((model.decoder, ("inner_channels", "output_channels")), (model.head, ("in_channels",))):
        for name in names:
            value = getattr(part, name)
            if value is not None and value < 1:
                setattr(part, name, None)
    return document


def flat(params: dict[str, Any], meaning: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
    """Return the numbers, flags and texts of *params* under dotted names; lists and what is not known are left out.

    *meaning* gives what a value that is written stands for.

    >>> flat({"k": 3, "post": {"thresh": 0.2, "box": [1]}, "none": None})
    {'k': 3, 'post.thresh': 0.2}
    """
    found: dict[str, Any] = {}
    waiting = [("", params, 0)]
    while waiting:
        prefix, mapping, depth = waiting.pop(0)
        for key, written in mapping.items():
            value = meaning(written)
            if isinstance(value, dict) and depth < DEPTH_MAX and len(waiting) < PARAMS_MAX:
                waiting.append((f"{prefix}{key}.", value, depth + 1))
            elif isinstance(value, bool | int | float | str) and len(found) < PARAMS_MAX:
                found[f"{prefix}{key}"] = value
    return found


def numbers(params: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of *params*, which flags are not."""
    return {name: value for name, value in flat(params).items() if type(value) in (int, float)}


def write_absent(content: dict[str, Any], *, fill: bool) -> None:
    """Leave out of *content*, a dumped document, what is not known; fill in what readers insist on."""
    for path in LEFT_OUT:
        section, name = _place(content, path)
        if section.get(name) is None:
            section.pop(name, None)
    filled = []
    for path, value in FILLED.items():
        section, name = _place(content, path)
        if section.get(name) is not None:
            continue
        if fill and content.get("indexer") is not None:  # elsewhere nothing could say that it was filled in
            section[name] = value
            filled.append(path)
        else:
            section.pop(name, None)
    if (indexer := content.get("indexer")) is not None:
        indexer["filled"] = filled


def read_absent(document: Document) -> Document:
    """Make what was filled in for readers' sake unknown again; *document* itself is changed and returned."""
    if document.indexer is not None:
        for path in document.indexer.filled:
            section, _, name = path.partition(".")
            if path in FILLED:
                setattr(getattr(document, section), name, None)
        document.indexer.filled = []
    return document


def _place(content: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *sections, name = path.split(".")
    for section in sections:
        content = content[section]
    return content, name
