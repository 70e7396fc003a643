"""What a page shows of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckpt_indexer.catalog import CheckpointCatalog, CheckpointCatalogEntry, CheckpointInfo
from ckpt_indexer.catalog.records import sort_records

EXAMPLE: dict[str, Any] = {
    "architecture": "dbnet", "backbone": "resnet18", "exp_name": "ocr_training_b", "epochs": 18, "hmean": 0.892,
    "created_timestamp": "20251019_1336",
}  # fmt: skip


def entry(**fields: Any) -> CheckpointCatalogEntry:
    return CheckpointCatalogEntry(Path("/outputs/x/checkpoints/best.ckpt"), **fields)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        (EXAMPLE, "dbnet · resnet18 · ocr_training_b (ep18 • hmean 0.892 • 20251019_1336)"),
        (
            EXAMPLE | {"precision": 0.9, "recall": 0.8844},
            "dbnet · resnet18 · ocr_training_b (ep18 • hmean 0.892 • prec 0.900 • rec 0.884 • 20251019_1336)",
        ),
        ({"architecture": "dbnet", "exp_name": "dbnet", "epochs": 1}, "dbnet (ep1)"),
        ({"backbone": "resnet18", "exp_name": "resnet18"}, "resnet18"),
        ({"exp_name": "x" * 23}, "x" * 23),
        ({"exp_name": "x" * 24}, "x" * 20 + "..."),
        ({"architecture": "unknown", "backbone": "unknown", "exp_name": "unknown"}, "best.ckpt"),
    ],
)
def test_a_label_names_what_is_known(fields: dict[str, Any], label: str) -> None:
    assert entry(**fields).to_display_option() == label


def test_a_light_record_is_valid_and_has_both_labels() -> None:
    info = CheckpointInfo(Path("/x.ckpt"), **EXAMPLE)
    assert (info.is_valid, info.config_path, info.display_name) == (True, None, "")
    assert info.short_label() == "dbnet · resnet18 · ep18"
    assert info.to_display_option() == "dbnet · resnet18 · ocr_training_b (ep18 • hmean 0.892 • 20251019_1336)"


def test_records_stand_by_architecture_backbone_epoch_and_file_name() -> None:
    rows = [("b", "a", 1, "z"), ("a", "b", 1, "z"), ("a", "a", 10, "a"), ("a", "a", 2, "b"), ("a", "a", 2, "a")]
    records = [CheckpointCatalogEntry(Path("/", name), architecture=a, backbone=b, epochs=n) for a, b, n, name in rows]
    found = [(r.architecture, r.backbone, r.epochs, r.checkpoint_path.name) for r in sort_records(records)]
    assert found == sorted(rows)


def test_a_catalogues_coverage_is_the_share_with_metadata_in_percent() -> None:
    assert CheckpointCatalog([], 8, 2).metadata_coverage_percent == 25.0
    assert CheckpointCatalog().metadata_coverage_percent == 0.0
