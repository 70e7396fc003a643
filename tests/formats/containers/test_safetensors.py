"""Limits and counts of safetensors' header; what its own library says is compared in ``test_formats``."""

from __future__ import annotations

import io

import pytest
import safetensors.torch
import torch

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.frameworks import weights as module


@pytest.mark.parametrize(("count", "listed", "warnings"), [(2, 2, 0), (3, 2, 1)])
def test_tensors_beyond_the_limit_are_counted_and_not_listed(
    count: int, listed: int, warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TENSORS_MAX", 2)
    data = safetensors.torch.save({f"w{i}": torch.ones(2, 3) for i in range(count)})
    facts = read_facts(io.BytesIO(data))
    assert (facts.problem, facts.parameters, facts.role, facts.dtypes) == (
        None,
        6 * count,
        "model",
        {"float32": 6 * count},
    )
    assert (len(facts.tensors or ()), len(facts.warnings)) == (listed, warnings)


@pytest.mark.parametrize(
    ("metadata", "epoch", "step"),
    [
        ({"ss_epoch": "3", "ss_steps": "120", "ss_num_epochs": "10"}, 3, 120),
        ({"epoch": "-1", "step": "7"}, -1, 7),
        ({"epoch": "three", "global_step": "1e3"}, None, None),
        ({"step": "9" * 18}, None, 10**18 - 1),
        ({"step": "9" * 19}, None, None),
    ],
)
def test_counts_are_read_from_text(metadata: dict[str, str], epoch: int | None, step: int | None) -> None:
    facts = read_facts(io.BytesIO(safetensors.torch.save({"w": torch.ones(1)}, metadata)))
    assert (facts.epoch, facts.global_step, facts.file_metadata) == (epoch, step, metadata)
