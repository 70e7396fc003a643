"""What our training callback put into a checkpoint (tier 2): facts that only the training process knew.

Read field by field: a file may hold anything under the callback's key, and what fits is still used.
Writer: ``ckpt_indexer.lightning``; the key is ``formats.checkpoint.EMBEDDED_KEY``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

VERSION = 1


class EmbeddedMonitor(msgspec.Struct):
    """The metric that the checkpoint was saved for, with its value at that moment."""

    name: str
    mode: Literal["min", "max"] | None = None
    value: float | None = None


class EmbeddedCheckpointing(msgspec.Struct):
    """Settings of the callback that saved the checkpoint."""

    save_top_k: int | None = None
    save_last: bool | Literal["link"] | None = None


class Embedded(msgspec.Struct):
    """The callback's facts."""

    exp_name: str | None = None
    training_phase: str | None = None
    max_epochs: int | None = None
    metrics: dict[str, float] = {}
    monitor: EmbeddedMonitor | None = None
    checkpointing: EmbeddedCheckpointing | None = None
    wandb_run_id: str | None = None
    config_path: str | None = None  # relative to the outputs root


def parse_embedded(written: dict[str, Any] | None) -> Embedded | None:
    """Read the callback's dict; ``None`` where there is none, or one of a newer version.

    >>> parse_embedded({"version": 1, "max_epochs": 3, "metrics": "none"}).max_epochs
    3
    """
    if written is None or written.get("version") != VERSION:
        return None
    embedded = Embedded()
    for field in msgspec.structs.fields(Embedded):
        try:
            setattr(embedded, field.name, msgspec.convert(written[field.name], type=field.type))
        except (KeyError, msgspec.ValidationError):
            continue
    return embedded
