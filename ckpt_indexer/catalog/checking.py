"""Whether sidecars and checkpoints are what they should be; nothing is written, and torch stays out of the process."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ckpt_indexer.catalog.files import resolve_config_path
from ckpt_indexer.catalog.metadata import CheckpointMetadataV1, find_metadata, load_config
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.metadata.compose import Config, compose
from ckpt_indexer.metadata.schema import UNKNOWN
from ckpt_indexer.passes.folders import check_folder, problem_of
from ckpt_indexer.paths import RelPath, is_checkpoint, to_key
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.tree.local import opened_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

ERRORS_SHOWN_MAX = 20
MISSING = "missing"


@dataclass
class ValidationResult:
    """What became of one sidecar."""

    checkpoint_path: Path
    is_valid: bool
    metadata: CheckpointMetadataV1 | None = None
    error: str | None = None
    error_type: str | None = None  # "missing", "invalid", or the exception's name


@dataclass
class ValidationReport:
    """What became of several."""

    total: int = 0
    valid: int = 0
    invalid: int = 0
    missing: int = 0
    results: list[ValidationResult] = field(default_factory=list)
    errors_by_type: dict[str, int] = field(default_factory=dict)

    def success_rate(self) -> float:
        """Return the share of valid ones in percent."""
        return 100.0 * self.valid / self.total if self.total else 0.0

    def summary(self) -> str:
        """Return lines for people: the counts, and the first errors."""
        counts = f"{self.valid} valid, {self.invalid} invalid, {self.missing} without metadata"
        lines = [f"{self.total} checkpoints: {counts} ({self.success_rate():.1f} %)"]
        bad = [each for each in self.results if not each.is_valid]
        lines += [f"{each.checkpoint_path}: {each.error}" for each in bad[:ERRORS_SHOWN_MAX]]
        return "\n".join(lines)


class MetadataValidator:
    """Judges sidecars by schema 1.0, and by what a catalogue needs of them."""

    def __init__(self, schema_version: str = "1.0") -> None:
        self.schema_version = schema_version

    def validate_metadata(self, metadata: CheckpointMetadataV1 | Mapping[str, Any]) -> CheckpointMetadataV1:
        """Return the metadata where it is good.

        Raises:
            ValueError: it does not fit the schema, is of another version, or has no ``metrics.hmean``.

        """
        if not isinstance(metadata, CheckpointMetadataV1):
            metadata = CheckpointMetadataV1.model_validate(metadata)  # a ValidationError is a ValueError
        if metadata.schema_version != self.schema_version:
            raise ValueError(f"schema_version is {metadata.schema_version}, not {self.schema_version}")
        if metadata.metrics.hmean is None:
            raise ValueError("metrics.hmean is not known")
        return metadata

    def validate_batch(self, batch: Iterable[CheckpointMetadataV1 | Mapping[str, Any]]) -> list[ValidationResult]:
        """Return a result for each, in their order."""
        return [self._result(Path(_path_in(each)), each) for each in batch]

    def validate_checkpoint_file(self, checkpoint_path: str | os.PathLike[str]) -> ValidationResult:
        """Judge the sidecar of one checkpoint."""
        path = Path(checkpoint_path)
        if not path.exists():
            return ValidationResult(path, is_valid=False, error="there is no such checkpoint", error_type=MISSING)
        metadata, errors = find_metadata(path)
        if metadata is not None:
            return self._result(path, metadata)
        if errors:
            return ValidationResult(path, is_valid=False, error="; ".join(errors), error_type="invalid")
        return ValidationResult(path, is_valid=False, error="it has no metadata file", error_type=MISSING)

    def validate_directory(self, directory: str | os.PathLike[str]) -> ValidationReport:
        """Judge the sidecars of all checkpoints below a folder."""
        paths = (Path(f, name) for f, _, names in os.walk(directory) for name in names if is_checkpoint(name))
        return self.validate_checkpoint_list(sorted(paths))

    def validate_checkpoint_list(self, checkpoint_paths: Iterable[str | os.PathLike[str]]) -> ValidationReport:
        """Judge the sidecars of these checkpoints."""
        results = [self.validate_checkpoint_file(path) for path in checkpoint_paths]
        types = Counter(each.error_type for each in results if each.error_type is not None)
        valid = sum(each.is_valid for each in results)
        missing = types[MISSING]
        return ValidationReport(len(results), valid, len(results) - valid - missing, missing, results, dict(types))

    def _result(self, path: Path, metadata: CheckpointMetadataV1 | Mapping[str, Any]) -> ValidationResult:
        try:
            return ValidationResult(path, is_valid=True, metadata=self.validate_metadata(metadata))
        except ValueError as error:
            known = metadata if isinstance(metadata, CheckpointMetadataV1) else None
            kind = "invalid" if isinstance(error, ValidationError) else type(error).__name__
            return ValidationResult(path, is_valid=False, metadata=known, error=str(error), error_type=kind)


@dataclass
class CheckpointValidation:
    """What the quick check of one checkpoint found: its header, never every byte (``ckpt-indexer validate --deep``)."""

    is_valid: bool
    checkpoint_path: Path
    error_message: str | None = None
    warnings: list[str] = field(default_factory=list)
    can_load: bool = False  # as far as the header says
    has_state_dict: bool = False
    has_config: bool = False
    has_metadata: bool = False
    architecture_valid: bool = False  # whether it is known, from the configuration or the tensors


def validate_checkpoint(checkpoint_path: str | os.PathLike[str]) -> CheckpointValidation:
    """Check one checkpoint, a file or a folder; a path that leads nowhere is an answer, too."""
    path = Path(checkpoint_path).absolute()
    facts = _facts(path)
    if facts.problem is not None:
        return CheckpointValidation(
            is_valid=False, checkpoint_path=path, error_message=facts.problem.message, warnings=facts.warnings
        )
    config_path = resolve_config_path(path)
    content = None if config_path is None else load_config(config_path)
    config = None if content is None else Config(str(config_path), content, (0, 0, 0))
    document = compose(
        key=to_key(RelPath(str(path))), link_target=None, fingerprint=(0, 0, 0), facts=facts, config=config
    )
    metadata, errors = find_metadata(path)
    has_state_dict = facts.tensors is not None
    return CheckpointValidation(
        is_valid=has_state_dict,
        checkpoint_path=path,
        error_message=None if has_state_dict else "there is no state dict",
        warnings=[*facts.warnings, *errors],
        can_load=True,
        has_state_dict=has_state_dict,
        has_config=bool(content or facts.hyper_parameters),
        has_metadata=metadata is not None,
        architecture_valid=document.model.architecture != UNKNOWN,
    )


def _facts(path: Path) -> Facts:
    with Reader() as reader:
        try:
            real = path.resolve(strict=True)  # a link is as good as its target
            if real.is_dir():
                return check_folder(str(real.parent), RelPath(real.name), reader)
            with opened_file(real.parent, RelPath(real.name)) as descriptor:
                return reader.read_checkpoint(descriptor)
        except (OSError, RuntimeError) as error:  # the latter: a link that leads to itself
            return Facts(problem=problem_of(error if isinstance(error, OSError) else OSError(0, str(error))))


def _path_in(metadata: CheckpointMetadataV1 | Mapping[str, Any]) -> str:
    if isinstance(metadata, CheckpointMetadataV1):
        return metadata.checkpoint_path
    return str(metadata.get("checkpoint_path", ""))
