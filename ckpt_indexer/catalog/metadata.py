"""Sidecars of schema 1.0 as older readers take them, by whatever name they stand beside a checkpoint.

What is read is foreign: it is parsed in the worker process with its limits, and what does not validate costs a warning.
"""

from __future__ import annotations

import atexit
import datetime as dt
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ckpt_indexer.catalog.files import metadata_paths
from ckpt_indexer.errors import reason_of
from ckpt_indexer.formats.facts import YAML_MAX
from ckpt_indexer.metadata.block_yaml import encode_block
from ckpt_indexer.metadata.fit import write_absent
from ckpt_indexer.paths import ROOT, SIDECAR_SUFFIX, RelPath
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.tree.local import opened_file, opened_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt_indexer.metadata.schema import Document

log = logging.getLogger("ckpt_indexer.catalog")


def _is_moment(value: str) -> str:
    dt.datetime.fromisoformat(value)
    return value


Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = int | float | bool | str


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class TrainingInfo(_Part):
    """How far training had come."""

    epoch: Count
    global_step: Count
    training_phase: Literal["training", "validation", "finetuning"] = "training"
    max_epochs: Size | None = None


class EncoderInfo(_Part):
    """The backbone."""

    model_name: str
    pretrained: bool = True
    frozen: bool = False


class DecoderInfo(_Part):
    """What stands between encoder and head."""

    name: str
    in_channels: list[int] = []
    inner_channels: Size | None = None
    output_channels: Size | None = None
    params: dict[str, Value] = {}


class HeadInfo(_Part):
    """What makes the prediction."""

    name: str
    in_channels: Size | None = None
    params: dict[str, Value] = {}


class LossInfo(_Part):
    """What was minimised."""

    name: str
    params: dict[str, int | float] = {}


class ModelInfo(_Part):
    """What was trained."""

    architecture: str
    encoder: EncoderInfo
    decoder: DecoderInfo
    head: HeadInfo
    loss: LossInfo


class MetricsInfo(_Part):
    """How good this very checkpoint is."""

    precision: Share | None = None
    recall: Share | None = None
    hmean: Share | None = None
    validation_loss: Annotated[float, Field(ge=0)] | None = None
    additional_metrics: dict[str, float] = {}


class CheckpointingInfo(_Part):
    """What the checkpoint was saved for."""

    monitor: str
    mode: Literal["min", "max"]
    save_top_k: Annotated[int, Field(ge=-1)] = 1
    save_last: bool = True


class CheckpointMetadataV1(_Part):
    """A sidecar of schema 1.0; fields that it does not know are ignored."""

    schema_version: Literal["1.0"]
    checkpoint_path: str
    exp_name: str
    created_at: Annotated[str, AfterValidator(_is_moment)]  # ISO 8601
    training: TrainingInfo
    model: ModelInfo
    metrics: MetricsInfo
    checkpointing: CheckpointingInfo
    hydra_config_path: str | None = None
    wandb_run_id: str | None = None


def metadata_of(document: Document) -> CheckpointMetadataV1:
    """Build it from a document of ours, whatever readers insist on filled in.

    Raises:
        ValidationError: that is not enough.

    """
    content = document.model_dump()
    write_absent(content, fill=True)
    return CheckpointMetadataV1.model_validate(content)


def load_metadata(checkpoint_path: str | os.PathLike[str]) -> CheckpointMetadataV1 | None:
    """Read a checkpoint's sidecar: the first that validates of the names it may have, else ``None``."""
    metadata, errors = find_metadata(checkpoint_path)
    for error in errors:
        log.warning("a metadata file is not used: %s", error)
    return metadata


def load_metadata_batch(
    checkpoint_paths: Iterable[str | os.PathLike[str]],
) -> dict[Path, CheckpointMetadataV1 | None]:
    """Read the sidecars of several checkpoints."""
    return {Path(path): load_metadata(path) for path in checkpoint_paths}


def find_metadata(checkpoint_path: str | os.PathLike[str]) -> tuple[CheckpointMetadataV1 | None, list[str]]:
    """Read a checkpoint's sidecar, and say of each file that was tried before it what is wrong with it."""
    errors: list[str] = []
    for path in metadata_paths(checkpoint_path):
        content, error = _read_mapping(path)
        if content is not None:
            try:
                return CheckpointMetadataV1.model_validate(content), errors
            except ValidationError as invalid:
                faults = invalid.errors(include_input=False, include_url=False)
                error = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults[:5])
        if error is not None:
            errors.append(f"{path.name}: {error}")
    return None, errors


def save_metadata(metadata: CheckpointMetadataV1, checkpoint_path: str | os.PathLike[str]) -> Path:
    """Write the sidecar of a checkpoint, whole or not at all, and return its path; what is ``None`` is left out."""
    path = Path(os.fspath(checkpoint_path) + SIDECAR_SUFFIX)
    content = encode_block(metadata.model_dump(exclude_none=True)).encode()
    with opened_folder(path.parent, ROOT) as folder:
        replace_file(folder, path.name, content)
    return path


def load_config(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read a configuration, YAML or JSON; ``None`` where it is missing, broken or no mapping."""
    return read_config(Path(path))


def read_config(path: Path) -> dict[str, Any] | None:
    """Read a configuration; what is wrong with it is a warning."""
    content, error = _read_mapping(path)
    if error is not None:
        log.warning("a configuration is not used: %s: %s", path.name, error)
    return content


def _read_mapping(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read a file that may hold a mapping; without either answer there is no such file."""
    try:
        with opened_file(path.parent, RelPath(path.name)) as descriptor:
            document, error = _parse_json(descriptor) if path.suffix == ".json" else _shared.read_yaml(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as failed:
        return None, reason_of(failed)
    if error is None and not isinstance(document, dict):
        error = "it is no mapping"
    return (document, None) if error is None else (None, error)


def _parse_json(descriptor: int) -> tuple[Any, str | None]:
    data = os.pread(descriptor, YAML_MAX + 1, 0)
    if len(data) > YAML_MAX:
        return None, f"it has more than {YAML_MAX} bytes"
    try:
        return msgspec.json.decode(data), None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, f"not JSON: {error}"


class _SharedReader:
    """One worker process for all YAML that this program reads; starting one for each file would take 50 ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._pid = 0
        atexit.register(self.close)

    def read_yaml(self, descriptor: int) -> tuple[Any, str | None]:
        with self._lock:
            if self._reader is None or self._pid != os.getpid():  # after a fork it is the parent's
                self._reader, self._pid = Reader(), os.getpid()
            facts = self._reader.read_yaml(descriptor)
        return facts.document, facts.error

    def close(self) -> None:
        """End the process, if it is ours."""
        if self._reader is not None and self._pid == os.getpid():
            self._reader.close()
            self._reader = None


_shared = _SharedReader()
