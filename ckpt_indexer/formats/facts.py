"""The records that reading a checkpoint gives, as they cross from the worker process to its owner."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ckpt_indexer.model import Format, Mode, Problem, Role

NO_STATE_DICT = "there is no state dict"  # a warning


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
    best_model_path: str | None = None
    last_model_path: str | None = None
    best_k_models: dict[str, float] = {}  # path -> score
    dirpath: str | None = None  # the folder that it saves to


class RunBestFacts(msgspec.Struct, frozen=True):
    """The best of the run so far, as the checkpoint was told; nothing of the checkpoint itself."""

    name: str | None = None  # of the metric
    value: float | None = None
    mode: Mode | None = None
    path: str | None = None  # of the best checkpoint, on the training machine


class ModelFacts(msgspec.Struct, array_like=True):
    """One of several models in a checkpoint."""

    name: str  # the key it stands under
    tensors: int
    parameters: int


class CallbackFacts(msgspec.Struct):
    """One callback's saved state."""

    name: str  # class name, for example "EarlyStopping"
    parameters: dict[str, Any] = {}  # parsed from the state key
    state: Any = None  # plain data


class FilePart(msgspec.Struct):
    """A run of bytes in one of a folder's files."""

    name: str
    offset: int
    length: int


class Facts(msgspec.Struct):
    """Everything a checkpoint says about itself, as far as it could be read."""

    format: Format = "unknown"
    problem: Problem | None = None
    content_id: str | None = None  # same content, same id, whatever the file or archive root is called
    weights_id: str | None = None  # the same over the state dict's tensors alone
    epoch: int | None = None
    global_step: int | None = None
    lightning_version: str | None = None
    monitors: list[MonitorState] = []  # in the file's order
    callbacks: list[CallbackFacts] = []  # all of them, the monitors' too
    hyper_parameters: dict[str, Any] | None = None  # plain data
    datamodule_hyper_parameters: dict[str, Any] | None = None
    metrics: dict[str, dict[str, float]] = {}  # key of the checkpoint ("" for its root) -> name -> number
    run_best: RunBestFacts | None = None
    role: Role | None = None  # None where it could not be read
    architecture: str | None = None  # the name that the checkpoint gives to its model
    loss: str | None = None  # the class of a loss that was saved as an object
    tensors: list[TensorFacts] | None = None  # of the weights; None where there are none
    parameters: int | None = None  # elements, shared storage counted once; None where a tensor was not understood
    dtypes: dict[str, int] = {}  # torch's name of a dtype -> parameters
    weights_bytes: int | None = None  # in memory
    optimizer_bytes: int | None = None  # of the tensors in the optimizers' states; None where there are none
    models: list[ModelFacts] = []  # where there are several
    has_optimizer: bool = False
    batches: int | None = None  # trained so far, all epochs together, from the loops' progress
    validations_in_epoch: int | None = None  # up to this save, from the loops' progress
    file_metadata: dict[str, str] = {}  # safetensors' ``__metadata__``
    embedded: dict[str, Any] | None = None  # what our training callback put in
    value: int | float | str | None = None  # of a file that holds one value and nothing else
    files: dict[str, int] = {}  # of a folder: its files, and how many bytes each must have at least
    parts: dict[str, FilePart] = {}  # of a folder: where "epoch" and the like are stored
    needs_meta: bool = False  # of a folder: Lightning wrote it, and writes meta.pt after everything else
    world_size: int | None = None  # of a folder: how many ranks wrote it
    warnings: list[str] = []  # known keys of a wrong type, and the like; the rest was read


Region = Literal[
    "local header", "padding", "data.pkl", "tensor data", "record", "descriptor", "central directory", "tail", "file"
]


class Damage(msgspec.Struct):
    """One place of a file that is not what was written."""

    region: Region
    record: str | None  # the archive's record it belongs to, without the archive's root folder
    offset: int  # bytes from the file's start: where the region, or the first wrong byte if that is known, begins
    code: str  # of the problem that it is
    message: str

    def problem(self) -> Problem:
        """Return it as one line."""
        place = f"{self.region} of {self.record}" if self.record not in (None, self.region) else self.region
        return Problem.of(self.code, f"{place}, byte {self.offset}: {self.message}")


class NonFinite(msgspec.Struct):
    """A tensor of the weights that holds NaN or infinity."""

    name: str
    nan: int  # elements
    inf: int


class Readable(msgspec.Struct):
    """What a damaged file still gives, byte for byte as it was written."""

    records: int
    records_total: int  # those that are there and those that its pickle asks for
    tensors: int | None  # None where the pickle is lost, and with it the tensors' names
    tensors_total: int | None
    lost: list[str] = []  # the names of tensors that are not to be had, or not all of their bytes; bounded


class DeepFacts(msgspec.Struct):
    """What reading every byte of a checkpoint gives."""

    damages: list[Damage] = []  # the first ones
    problem: Problem | None = None  # the first damage, or why it could not be read to its end
    readable: Readable | None = None  # of a damaged archive
    digest: str | None = None  # of the whole file, where it has bytes that no checksum of its own covers
    unproven_bytes: int = 0  # as many
    nonfinite: list[NonFinite] = []  # tensors of the weights, the first ones
    nan: int = 0  # elements in all weights
    inf: int = 0
    uncounted: int = 0  # tensors of the weights in which NaN and infinity could not be counted


YAML_MAX = 1 << 20  # bytes that are read; a sidecar has 1-5 kB, a Hydra config 50 kB, composed ones of many groups 300


class YamlFacts(msgspec.Struct):
    """A YAML document, or why there is none."""

    document: Any = None
    error: str | None = None
    is_unread: bool = False  # the disk failed: the error says nothing about the document


class ShardIndex(msgspec.Struct):
    """What a ``*.index.json`` says of the shards beside it, or why it says nothing."""

    files: list[str] = []  # their names, sorted
    total_bytes: int | None = None  # of all tensors; older writers count some twice
    error: str | None = None


class LoggedRow(msgspec.Struct, array_like=True):
    """What was logged at once, under Lightning's count of steps."""

    epoch: int
    step: int  # "trainer/global_step": how many batches had stepped before the one that was just done
    metrics: dict[str, float]


class RunLog(msgspec.Struct):
    """A log's facts, as far as it could be read."""

    run_id: str | None = None
    entity: str | None = None
    project: str | None = None
    name: str | None = None  # for people; not unique
    started_ns: int | None = None  # since 1970
    config: dict[str, Any] = {}  # plain data
    rows: list[LoggedRow] = []  # those with an epoch and a step, in the file's order
    is_unread: bool = False  # the disk failed: this says nothing about the run
