"""What older readers take: values in their ranges, what is not known left out or filled in, and told as such."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from ckpt_indexer.metadata.fit import fit
from ckpt_indexer.metadata.schema import (
    Checkpointing,
    Decoder,
    Document,
    IndexerPart,
    Loss,
    Metrics,
    Model,
    Training,
)
from ckpt_indexer.metadata.sidecar import encode_sidecar, parse_sidecar
from tests.older_reader import OlderSidecar


def document(**parts: Any) -> Document:
    indexer = IndexerPart(version="0", fingerprint=(1, 2, 3))
    return Document(
        checkpoint_path="a/b.ckpt", exp_name="a", created_at="2026-11-21T10:30:00", indexer=indexer, **parts
    )


def written(made: Document, **options: bool) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(encode_sidecar(made, **options))
    return content


def test_what_is_not_known_is_filled_in_named_and_taken_for_unknown_again() -> None:
    content = written(document())
    assert content["training"] == {"epoch": 0, "global_step": 0, "training_phase": "training", "max_epochs": None}
    assert content["checkpointing"] == {"monitor": "unknown", "mode": "min"}
    assert content["model"]["encoder"] == {"model_name": "unknown"}
    assert content["indexer"]["filled"] == [
        *("training.epoch", "training.global_step", "checkpointing.monitor", "checkpointing.mode"),
    ]
    OlderSidecar.model_validate(content)
    assert parse_sidecar(content) == document()


def test_an_epoch_of_zero_that_is_known_stays_known() -> None:
    known = document(training=Training(epoch=0, global_step=4))
    content = written(known)
    assert content["indexer"]["filled"] == ["checkpointing.monitor", "checkpointing.mode"]
    assert parse_sidecar(content).training.epoch == 0


def test_without_filling_what_is_not_known_is_left_out() -> None:
    content = written(document(), fill=False)
    assert content["training"] == {"training_phase": "training", "max_epochs": None}
    assert content["checkpointing"] == {}
    assert parse_sidecar(content) == document()


@pytest.mark.parametrize(
    ("phase", "expected"),
    [("train", "training"), ("fine-tune", "finetuning"), ("Validation", "validation"), ("stage 2", "training")],
)
def test_a_training_phase_is_one_of_three_words(phase: str, expected: str) -> None:
    fitted = fit(document(training=Training(training_phase=phase)))
    assert fitted.training.training_phase == expected
    assert fitted.indexer is not None
    assert bool(fitted.indexer.warnings) == (phase == "stage 2")


def test_a_metric_outside_its_fields_range_is_kept_elsewhere() -> None:
    fitted = fit(document(metrics=Metrics(hmean=89.2, precision=math.nan, recall=0.5, validation_loss=-1.5)))
    assert (fitted.metrics.hmean, fitted.metrics.precision, fitted.metrics.recall) == (None, None, 0.5)
    assert fitted.metrics.validation_loss is None
    extra = fitted.metrics.additional_metrics
    assert (extra["hmean"], extra["validation_loss"], math.isnan(extra["precision"])) == (89.2, -1.5, True)
    OlderSidecar.model_validate(written(fitted))


def test_params_are_flat_and_a_losses_are_numbers() -> None:
    nested = {"k": 50, "post": {"thresh": 0.2, "poly": True, "names": ["x"]}, "mode": "fast", "none": None}
    fitted = fit(document(model=Model(decoder=Decoder(params=nested), loss=Loss(params=nested))))
    assert fitted.model.decoder.params == {"k": 50, "mode": "fast", "post.thresh": 0.2, "post.poly": True}
    assert fitted.model.loss.params == {"k": 50, "post.thresh": 0.2}
    OlderSidecar.model_validate(written(fitted))


def test_numbers_that_those_readers_refuse_are_unknown() -> None:
    fitted = fit(document(training=Training(epoch=-1, max_epochs=-1), model=Model(decoder=Decoder(inner_channels=0))))
    assert (fitted.training.epoch, fitted.training.max_epochs, fitted.model.decoder.inner_channels) == (None,) * 3


def test_a_link_as_last_is_a_last() -> None:
    assert Checkpointing.model_validate({"save_last": "link"}).save_last is True
