"""The sidecar's document: what is known about one checkpoint, in the form that existing tools read.

Field names and their order are the contract; everything this project adds stands under ``indexer``. Unknown fields,
which a newer minor version may bring, are kept. Numbers that are not known are ``None``, names ``"unknown"``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ckpt_indexer.model import PROBLEMS, Fingerprint, Format, Role
from ckpt_indexer.paths import Key

SCHEMA_VERSION = "1.0"
UNKNOWN = "unknown"

Tier = Literal["sidecar", "embedded", "checkpoint", "config", "wandb"]
Nearby = Literal["config", "wandb"]  # tiers that are found by where they lie
Source = (
    Tier | Literal["path", "name", "twin"]
)  # of one part: also folders' names, the file's, and the same save beside it


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _known_code(code: str) -> str:
    if code not in PROBLEMS:
        raise ValueError("there is no such problem")
    return code


def _save_last(value: object) -> object:
    return True if value == "link" else value  # Lightning's: a link instead of a copy; readers take a flag only


Text = Annotated[str, BeforeValidator(_as_text)]  # YAML reads an unquoted 1.0 or 2024 as a number
Int = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]  # what every reader of the index takes


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Training(_Part):
    """How far training had come."""

    epoch: Int | None = None
    global_step: Int | None = None
    training_phase: Text = "training"
    max_epochs: Int | None = None


class Encoder(_Part):
    """The backbone."""

    model_name: Text = UNKNOWN
    pretrained: bool | None = None
    frozen: bool | None = None


class Decoder(_Part):
    """What stands between encoder and head."""

    name: Text = UNKNOWN
    in_channels: list[Int] = []
    inner_channels: Int | None = None
    output_channels: Int | None = None
    params: dict[str, Any] = {}


class Head(_Part):
    """What makes the prediction."""

    name: Text = UNKNOWN
    in_channels: Int | None = None
    params: dict[str, Any] = {}


class Loss(_Part):
    """What was minimised."""

    name: Text = UNKNOWN
    params: dict[str, Any] = {}


class Model(_Part):
    """What was trained."""

    architecture: Text = UNKNOWN
    encoder: Encoder = Field(default_factory=Encoder)
    decoder: Decoder = Field(default_factory=Decoder)
    head: Head = Field(default_factory=Head)
    loss: Loss = Field(default_factory=Loss)


class Metrics(_Part):
    """How good this very checkpoint is."""

    precision: float | None = None
    recall: float | None = None
    hmean: float | None = None
    validation_loss: float | None = None
    additional_metrics: dict[str, float] = {}


class Checkpointing(_Part):
    """What the checkpoint was saved for."""

    monitor: Text | None = None
    mode: Literal["min", "max"] | None = None
    save_top_k: Int | None = None
    save_last: Annotated[bool | None, BeforeValidator(_save_last)] = None


class DocumentProblem(_Part):
    """A problem of the checkpoint, as ``model.Problem``."""

    code: Annotated[str, AfterValidator(_known_code)]
    message: str


class TwinPart(_Part):
    """The checkpoint whose score this one has, as ``model.Twin``."""

    path: Key
    is_selected: bool = False


class RunBestPart(_Part):
    """The best of the run so far, as ``model.RunBest``."""

    name: Text | None = None
    value: float | None = None
    mode: Literal["min", "max"] | None = None
    path: str | None = None


class ModelPart(_Part):
    """One of several models in a checkpoint."""

    name: str
    tensors: Int
    parameters: Int


class IndexerPart(_Part):
    """What ckpt-indexer adds, and by which it knows a sidecar of its own."""

    version: Text  # of ckpt-indexer
    rules: Int = 1  # by which this was made; a document of older ones is made anew once
    fingerprint: Fingerprint  # of the checkpoint this was made from
    config_fingerprint: Fingerprint | None = None
    wandb_fingerprint: Fingerprint | None = None  # of the run
    unused: list[Nearby] = []  # found near it, and not its own
    other_fingerprint: Fingerprint | None = None  # of the other program's sidecar that it took over
    source: Tier = "checkpoint"  # the highest tier that gave something
    sources: dict[str, Source] = {}  # part of the document -> the tier that gave it
    format: Format = "torch-zip"
    problem: DocumentProblem | None = None
    monitor_value: float | None = None  # this very checkpoint's score
    twin: TwinPart | None = None  # whose score it is, where it is not this one's own
    lightning_version: Text | None = None
    role: Role | None = None
    epoch: Int | None = None  # where it is negative, which the readers of ``training`` refuse
    global_step: Int | None = None  # the same
    run_best: RunBestPart | None = None
    parameters: Int | None = None
    tensors: Int | None = None  # how many the weights have
    dtypes: dict[str, Int] = {}  # torch's name of a dtype -> parameters
    weights_bytes: Int | None = None
    models: list[ModelPart] = []  # where there are several: parameters is their sum
    has_optimizer: bool = False
    optimizer_bytes: Int | None = None
    content_id: str | None = None
    weights_id: str | None = None
    filled: list[str] = []  # fields whose values are not known, and only there because readers insist on one
    hyper_parameters: dict[str, Any] | None = None
    datamodule_hyper_parameters: dict[str, Any] | None = None
    callbacks: list[dict[str, Any]] = []
    file_metadata: dict[str, str] = {}  # safetensors' ``__metadata__``
    warnings: list[str] = []


class Document(_Part):
    """A sidecar's content."""

    schema_version: Text = SCHEMA_VERSION
    checkpoint_path: str  # the key
    exp_name: Text
    created_at: str  # ISO 8601 in UTC: when the checkpoint was written
    training: Training = Field(default_factory=Training)
    model: Model = Field(default_factory=Model)
    metrics: Metrics = Field(default_factory=Metrics)
    checkpointing: Checkpointing = Field(default_factory=Checkpointing)
    hydra_config_path: str | None = None
    wandb_run_id: Text | None = None
    indexer: IndexerPart | None = None  # absent in sidecars that something else wrote
