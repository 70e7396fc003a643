"""What the training callback embedded wins over everything but a sidecar, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from ckpt_indexer.metadata.compose import compose
from ckpt_indexer.metadata.embedded import Embedded, parse_embedded
from ckpt_indexer.metadata.entry import entry_of
from ckpt_indexer.model import Monitor
from ckpt_indexer.paths import Key
from tests.metadata.test_compose import CONFIG, FINGERPRINT, KEY, facts

WRITTEN: dict[str, Any] = {
    "version": 1,
    "exp_name": "told",
    "training_phase": "finetuning",
    "max_epochs": 7,
    "epoch": 2,
    "global_step": 12,
    "metrics": {"val/hmean": 0.9, "precision": 0.6, "train/loss": 1},
    "monitor": {"name": "val/loss", "mode": "min", "value": 0.125},
    "checkpointing": {"save_top_k": 5, "save_last": "link"},
    "wandb_run_id": "abc123",
    "config_path": "elsewhere/config.yaml",
}


def composed(written: Any, **changes: Any) -> Any:
    told = facts()
    told.embedded = written
    arguments: dict[str, Any] = {"key": KEY, "link_target": None, "fingerprint": FINGERPRINT, "config": CONFIG}
    return compose(**(arguments | changes), facts=told)


def test_the_callbacks_facts_win_over_header_and_configuration() -> None:
    document = composed(WRITTEN)
    assert (document.exp_name, document.wandb_run_id) == ("told", "abc123")
    assert (document.training.training_phase, document.training.max_epochs) == ("finetuning", 7)
    assert document.checkpointing.model_dump() == {
        "monitor": "val/loss", "mode": "min", "save_top_k": 5, "save_last": True,
    }  # fmt: skip
    assert (document.metrics.hmean, document.metrics.precision, document.metrics.recall) == (0.9, 0.6, 0.25)
    assert document.metrics.validation_loss == 0.125
    assert document.metrics.additional_metrics["train/loss"] == 1.0
    assert document.hydra_config_path == CONFIG.path  # what was found on this disk; the callback's is the trainer's
    assert document.indexer.source == "embedded"
    assert document.indexer.sources == {
        "training": "embedded",
        "exp_name": "embedded",
        "metrics": "embedded",
        "model": "config",
        "hydra_config_path": "config",
        "wandb_run_id": "embedded",
        "checkpointing": "embedded",
    }
    entry = entry_of(document, Key(KEY), FINGERPRINT, None)
    assert entry.monitor == Monitor("val/loss", "min", 0.125)
    assert (entry.metadata_source, entry.wandb_run_id) == ("embedded", "abc123")


def test_without_a_configuration_the_callbacks_path_of_it_is_given() -> None:
    document = composed(WRITTEN, config=None)
    assert document.hydra_config_path == "elsewhere/config.yaml"
    assert document.indexer.sources["hydra_config_path"] == "embedded"


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("version", "epoch", "global_step")])
@pytest.mark.parametrize("wrong", [3.5, ["x"], {"name": 3, "save_top_k": "x", "a": "b"}])
def test_a_field_of_a_wrong_type_costs_itself_only(name: str, wrong: Any) -> None:
    embedded = parse_embedded(WRITTEN | {name: wrong})
    assert embedded is not None
    assert getattr(embedded, name) == getattr(Embedded(), name)
    right = parse_embedded(WRITTEN)
    others = [n for n in Embedded.__struct_fields__ if n != name]
    assert [getattr(embedded, n) for n in others] == [getattr(right, n) for n in others]


@pytest.mark.parametrize("written", [None, {}, {"version": 2, "exp_name": "newer"}, {"version": "1"}])
def test_what_is_not_the_callbacks_is_not_taken_for_it(written: Any) -> None:
    assert parse_embedded(written) is None
    assert composed(written) == composed(None)
