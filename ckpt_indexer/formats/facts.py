"""The records that reading a checkpoint gives, as they cross from the worker process to its owner."""

from __future__ import annotations

from typing import Any

import msgspec

from ckpt_indexer.model import Format, Problem


class FormatProblem(Exception):
    """Raised inside ``formats`` when the bytes are not a readable checkpoint; ``read_facts`` turns it into facts."""

    def __init__(self, code: str, message: str, *, format: Format | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.problem = Problem.of(code, message)
        self.format = format


class TensorFacts(msgspec.Struct, array_like=True):
    """One tensor of the state dict, without its data."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # torch's name without "torch.", for example "float32"


class MonitorState(msgspec.Struct):
    """What a ``ModelCheckpoint`` callback wrote about itself; paths are the training machine's."""

    monitor: str | None = None
    mode: str | None = None
    save_top_k: int | None = None
    save_last: bool | str | None = None
    current_score: float | None = None
    best_model_score: float | None = None
    best_model_path: str | None = None
    kth_best_model_path: str | None = None
    kth_value: float | None = None
    last_model_path: str | None = None
    dirpath: str | None = None
    best_k_models: dict[str, float] = {}  # path -> score


class CallbackFacts(msgspec.Struct):
    """One callback's saved state."""

    name: str  # class name, for example "EarlyStopping"
    parameters: dict[str, Any] = {}  # parsed from the state key
    state: Any = None  # plain data


class Facts(msgspec.Struct):
    """Everything a checkpoint says about itself, as far as it could be read."""

    format: Format = "unknown"
    problem: Problem | None = None
    content_id: str | None = None  # same content, same id, whatever the file or archive root is called
    epoch: int | None = None
    global_step: int | None = None
    lightning_version: str | None = None
    monitors: list[MonitorState] = []  # in the file's order
    callbacks: list[CallbackFacts] = []  # all of them, the monitors' too
    hyper_parameters: dict[str, Any] | None = None  # plain data
    datamodule_hyper_parameters: dict[str, Any] | None = None
    metrics: dict[str, dict[str, float]] = {}  # top-level key of the checkpoint -> name -> number
    tensors: list[TensorFacts] | None = None  # of the state dict; None where there is none
    parameters: int | None = None
    has_optimizer: bool = False
    validations_in_epoch: int | None = None  # up to this save, from the loops' progress
    warnings: list[str] = []  # known keys of a wrong type, and the like; the rest was read
