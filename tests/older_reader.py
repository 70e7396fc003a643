"""What the older readers of sidecars demand of schema 1.0: each rule once, as a model that refuses what they refuse.

Written from their rules, not from our schema: it is the judge of what we write. Unknown fields are ignored, as they do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from ckpt_indexer.metadata.sidecar import END, HEAD

LOOKED_AT_MAX = 40  # sidecars of one test

Count = Annotated[StrictInt, Field(ge=0)]
Size = Annotated[StrictInt, Field(ge=1)]
Number = StrictInt | StrictFloat
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Progress(BaseModel):
    epoch: Count
    global_step: Count
    training_phase: Literal["training", "validation", "finetuning"] = "training"
    max_epochs: Size | None = None


class Backbone(BaseModel):
    model_name: StrictStr
    pretrained: StrictBool = True
    frozen: StrictBool = False


class Middle(BaseModel):
    name: StrictStr
    in_channels: list[StrictInt] = []
    inner_channels: Size | None = None
    output_channels: Size | None = None
    params: dict[str, Number | StrictBool | StrictStr] = {}


class Top(BaseModel):
    name: StrictStr
    in_channels: Size | None = None
    params: dict[str, Number | StrictBool | StrictStr] = {}


class Objective(BaseModel):
    name: StrictStr
    params: dict[str, Number] = {}


class Network(BaseModel):
    architecture: StrictStr
    encoder: Backbone
    decoder: Middle
    head: Top
    loss: Objective


class Quality(BaseModel):
    precision: Share | None = None
    recall: Share | None = None
    hmean: Share | None = None
    validation_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    additional_metrics: dict[str, float] = {}


class Selection(BaseModel):
    monitor: StrictStr
    mode: Literal["min", "max"]
    save_top_k: Annotated[StrictInt, Field(ge=-1)] = 1
    save_last: StrictBool = True


class OlderSidecar(BaseModel):
    schema_version: Literal["1.0"]
    checkpoint_path: StrictStr
    exp_name: StrictStr
    created_at: Annotated[StrictStr, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?$")]
    training: Progress
    model: Network
    metrics: Quality
    checkpointing: Selection
    hydra_config_path: StrictStr | None = None
    wandb_run_id: StrictStr | None = None


def refusal(path: Path) -> str | None:
    """Return why an older reader does not take the sidecar at *path*, ``None`` where it does."""
    try:
        OlderSidecar.model_validate(yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader))
    except ValidationError as error:
        return f"{path.name}: {error}"
    return None


def refusals_below(folder: Path) -> list[str]:
    """Return why older readers refuse sidecars of ours below *folder*: whole ones, of the first so many."""
    found: list[str] = []
    looked_at = 0
    # os.walk: a test may leave folders that cannot be listed, and paths that are too long.
    paths = (Path(f, name) for f, _, names in os.walk(folder) for name in names if name.endswith(".metadata.yaml"))
    for path in paths:
        if looked_at == LOOKED_AT_MAX:
            break
        data = _bytes_of(path)
        if data.startswith(HEAD) and data.endswith(END) and b"\n  rules: " in data and b"\0" not in data:
            looked_at += 1
            reason = refusal(path)
            found += [reason] if reason is not None else []
    return found


def _bytes_of(path: Any) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""
