"""What a catalogue of checkpoints lists: the records of the older catalogues, made from entries of the index.

Pure: entries in, records out. Field names, defaults, order and labels are those that existing pages use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_indexer.model import utc_text
from ckpt_indexer.paths import to_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckpt_indexer.model import Entry

UNKNOWN = "unknown"
EXPERIMENT_MAX, EXPERIMENT_SHOWN = 23, 20  # characters of an experiment's name in a label


@dataclass
class CheckpointInfo:
    """One checkpoint as a page lists it."""

    checkpoint_path: Path  # absolute
    config_path: Path | None = None
    display_name: str = ""
    exp_name: str = UNKNOWN
    epochs: int | None = None
    created_timestamp: str | None = None  # YYYYmmdd_HHMM, UTC
    hmean: float | None = None
    architecture: str | None = None
    backbone: str | None = None
    monitor: str | None = None
    monitor_mode: str | None = None
    is_valid: bool = True

    def short_label(self) -> str:
        """Return what tells it apart within its experiment: architecture, backbone and epoch."""
        parts = [*_known(self.architecture, self.backbone), *([] if self.epochs is None else [f"ep{self.epochs}"])]
        return " · ".join(parts) or self.checkpoint_path.name

    def to_display_option(self) -> str:
        """Return the label of a select box."""
        return label_of(self)


@dataclass
class CheckpointCatalogEntry(CheckpointInfo):
    """One checkpoint with all that is known of its quality."""

    precision: float | None = None
    recall: float | None = None
    has_metadata: bool = False


@dataclass
class CheckpointCatalog:
    """The checkpoints below one folder."""

    entries: list[CheckpointCatalogEntry] = field(default_factory=list)
    total_count: int = 0
    metadata_available_count: int = 0
    catalog_build_time_seconds: float = 0.0
    outputs_dir: Path = Path("outputs")

    @property
    def metadata_coverage_percent(self) -> float:
        """The share of entries with a sidecar, 0 to 100."""
        return 100.0 * self.metadata_available_count / self.total_count if self.total_count else 0.0


def label_of(info: CheckpointInfo) -> str:
    """Return the line of a menu for *info*, as ``label_from`` makes it."""
    return label_from(vars(info), info.checkpoint_path.name)


def label_from(facts: Mapping[str, Any], name: str) -> str:
    """Return the known parts of ``architecture · backbone · experiment (epN • hmean … • prec … • rec … • time)``.

    The experiment stands there only where it is neither of the others; where none is known, *name* does. *facts* are
    the fields of a ``CheckpointInfo`` that these are.

    >>> known = {"exp_name": "ocr_b", "epochs": 18, "created_timestamp": "20251019_1336", "hmean": 0.892}
    >>> label_from({**known, "architecture": "dbnet", "backbone": "unknown"}, "best.ckpt")
    'dbnet · ocr_b (ep18 • hmean 0.892 • 20251019_1336)'
    """
    names = _known(facts["architecture"], facts["backbone"])
    experiment = facts["exp_name"]
    if experiment not in (*names, UNKNOWN, ""):
        is_long = len(experiment) > EXPERIMENT_MAX
        names.append(f"{experiment[:EXPERIMENT_SHOWN]}..." if is_long else experiment)
    details = [] if facts["epochs"] is None else [f"ep{facts['epochs']}"]
    numbers = (("hmean", facts["hmean"]), ("prec", facts.get("precision")), ("rec", facts.get("recall")))
    details += [f"{word} {value:.3f}" for word, value in numbers if value is not None]
    details += [facts["created_timestamp"]] if facts["created_timestamp"] else []
    text = " · ".join(names) or name
    return f"{text} ({' • '.join(details)})" if details else text


def sort_records(records: Iterable[CheckpointCatalogEntry]) -> list[CheckpointCatalogEntry]:
    """Return records by architecture, backbone, epoch and file name."""
    return sorted(
        records, key=lambda r: (r.architecture or "", r.backbone or "", r.epochs or 0, r.checkpoint_path.name)
    )


def facts_of(entry: Entry) -> dict[str, Any]:
    """Return what every older record says of an entry, wherever its file is: fields of a ``CheckpointCatalogEntry``."""
    experiment = entry.experiment.rpartition("/")[2]
    written = entry.mtime or utc_text(entry.fingerprint[1])  # these records need a time
    return {
        "exp_name": entry.exp_name or (experiment if experiment != "." else UNKNOWN),  # ".": directly in the root
        "epochs": entry.epoch,
        "created_timestamp": f"{written[:10].replace('-', '')}_{written[11:16].replace(':', '')}",
        "hmean": _number(entry, "hmean"),
        "architecture": entry.architecture or UNKNOWN,
        "backbone": entry.encoder or UNKNOWN,
        "precision": _number(entry, "precision"),
        "recall": _number(entry, "recall"),
    }


def record_of(entry: Entry, root: str) -> CheckpointCatalogEntry:
    """Return the record of one entry below the absolute *root*."""
    monitor, path, facts = entry.monitor, Path(root, to_path(entry.path)), facts_of(entry)
    return CheckpointCatalogEntry(
        checkpoint_path=path,
        config_path=None if entry.config_path is None else Path(root, to_path(entry.config_path)),
        display_name=label_from(facts, path.name),
        monitor=None if monitor is None else monitor.name,
        monitor_mode=None if monitor is None else monitor.mode,
        has_metadata=entry.metadata_file is not None,
        **facts,
    )


def _number(entry: Entry, name: str) -> float | None:
    value = entry.metric(name)
    return value if value is not None and math.isfinite(value) else None


def _known(*names: str | None) -> list[str]:
    return [name for name in names if name and name != UNKNOWN]
