"""The document on disk: what is written is what is read, field for field, and what is no document is told as such."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpt_indexer.errors import SidecarInvalid
from ckpt_indexer.formats.plain_yaml import parse_yaml
from ckpt_indexer.metadata.schema import (
    Checkpointing,
    Decoder,
    Document,
    Encoder,
    Head,
    IndexerPart,
    Loss,
    Metrics,
    Model,
    Training,
)
from ckpt_indexer.metadata.sidecar import END, HEAD, encode_sidecar, parse_sidecar

CONTRACT = """\
schema_version: '1.0'
checkpoint_path: ocr_training_b/checkpoints/best.ckpt
exp_name: ocr_training_b
created_at: '2025-10-19T13:36:50.323967'
training:
  epoch: 18
  global_step: 3895
  training_phase: training
  max_epochs: 25
model:
  architecture: ocrmodel
  encoder:
    model_name: mobilenetv3_small_050
    pretrained: true
    frozen: false
  decoder:
    name: unet
    in_channels: []
    inner_channels: null
    output_channels: null
    params: {}
  head:
    name: unknown
    in_channels: null
    params: {}
  loss:
    name: unknown
    params: {}
metrics:
  precision: 0.95
  recall: 0.95
  hmean: 0.95
  validation_loss: null
  additional_metrics: {}
checkpointing:
  monitor: val/hmean
  mode: max
  save_top_k: 3
  save_last: true
hydra_config_path: ocr_training_b/.hydra/config.yaml
wandb_run_id: null
"""
EXAMPLE = Document(
    checkpoint_path="ocr_training_b/checkpoints/best.ckpt",
    exp_name="ocr_training_b",
    created_at="2025-10-19T13:36:50.323967",
    training=Training(epoch=18, global_step=3895, max_epochs=25),
    model=Model(
        architecture="ocrmodel",
        encoder=Encoder(model_name="mobilenetv3_small_050", pretrained=True, frozen=False),
        decoder=Decoder(name="unet"),
    ),
    metrics=Metrics(precision=0.95, recall=0.95, hmean=0.95),
    checkpointing=Checkpointing(monitor="val/hmean", mode="max", save_top_k=3, save_last=True),
    hydra_config_path="ocr_training_b/.hydra/config.yaml",
)


def test_a_document_is_written_field_for_field_as_the_contract_says() -> None:
    assert encode_sidecar(EXAMPLE) == HEAD + CONTRACT.encode() + END
    assert HEAD.startswith(b"# ")


def test_the_contract_is_read() -> None:
    assert parse_sidecar(yaml.safe_load(CONTRACT)) == EXAMPLE


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_NUMBER = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53).map(float)
_COUNT = st.none() | st.integers(0, 2**62)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_PARAMS = st.dictionaries(_TEXT, _PLAIN, max_size=3)
_FLAG = st.none() | st.booleans()
_FINGERPRINT = st.tuples(*[st.integers(0, 2**62)] * 3)
_INDEXER = st.builds(
    IndexerPart,
    version=_TEXT,
    fingerprint=_FINGERPRINT,
    config_fingerprint=st.none() | _FINGERPRINT,
    monitor_value=st.none() | _NUMBER,
    parameters=_COUNT,
    hyper_parameters=st.none() | _PARAMS,
    callbacks=st.lists(_PARAMS, max_size=2),
    warnings=st.lists(_TEXT, max_size=2),
    sources=st.dictionaries(_TEXT, st.sampled_from(["config", "path"]), max_size=2),
)
_DOCUMENT = st.builds(
    Document,
    checkpoint_path=_TEXT,
    exp_name=_TEXT,
    created_at=_TEXT,
    training=st.builds(Training, epoch=_COUNT, global_step=_COUNT, training_phase=_TEXT, max_epochs=_COUNT),
    model=st.builds(
        Model,
        architecture=_TEXT,
        encoder=st.builds(Encoder, model_name=_TEXT, pretrained=_FLAG, frozen=_FLAG),
        decoder=st.builds(Decoder, name=_TEXT, in_channels=st.lists(st.integers(0, 9), max_size=3), params=_PARAMS),
        head=st.builds(Head, name=_TEXT, in_channels=_COUNT, params=_PARAMS),
        loss=st.builds(Loss, name=_TEXT, params=_PARAMS),
    ),
    metrics=st.builds(Metrics, precision=st.none() | _NUMBER, additional_metrics=st.dictionaries(_TEXT, _NUMBER)),
    checkpointing=st.builds(
        Checkpointing,
        monitor=st.none() | _TEXT,
        mode=st.sampled_from([None, "min", "max"]),
        save_last=st.sampled_from([None, True, False, "link"]),
    ),
    hydra_config_path=st.none() | _TEXT,
    wandb_run_id=st.none() | _TEXT,
    indexer=st.none() | _INDEXER,
)


def read_back(document: Document) -> None:
    encoded = encode_sidecar(document)
    assert parse_sidecar(parse_yaml(encoded)) == document
    assert encode_sidecar(parse_sidecar(parse_yaml(encoded))) == encoded


@settings(max_examples=50)
@given(_DOCUMENT)
@example(
    EXAMPLE.model_copy(
        update={"indexer": IndexerPart(version="1", fingerprint=(1, 2, 3), hyper_parameters={"x": math.inf})}
    )
)
def test_what_is_written_is_what_is_read(document: Document) -> None:
    read_back(document)


@pytest.mark.soak
@settings(max_examples=2_000)
@given(_DOCUMENT)
def test_soak_what_is_written_is_what_is_read(document: Document) -> None:
    read_back(document)


def test_a_number_that_is_none_stays_what_it_is() -> None:
    document = EXAMPLE.model_copy(update={"metrics": Metrics(hmean=math.nan, validation_loss=-math.inf)})
    read = parse_sidecar(parse_yaml(encode_sidecar(document))).metrics
    assert read.hmean is not None
    assert math.isnan(read.hmean)
    assert read.validation_loss == -math.inf


def changed(**fields: Any) -> dict[str, Any]:
    content: dict[str, Any] = copy.deepcopy(yaml.safe_load(CONTRACT))
    return content | fields


def test_a_newer_minor_version_is_read_and_what_it_adds_is_kept() -> None:
    content = changed(schema_version="1.7", novelty={"a": 1})
    content["training"]["tokens"] = 5
    document = parse_sidecar(content)
    assert document.training == Training(epoch=18, global_step=3895, max_epochs=25, tokens=5)  # type: ignore[call-arg]
    written = yaml.safe_load(encode_sidecar(document))
    assert (written["schema_version"], written["novelty"], written["training"]["tokens"]) == ("1.7", {"a": 1}, 5)


def test_an_unquoted_version_and_numeric_names_are_read() -> None:
    document = parse_sidecar(changed(schema_version=1.0, exp_name=2024, wandb_run_id=123))
    assert (document.schema_version, document.exp_name, document.wandb_run_id) == ("1.0", "2024", "123")


def test_the_fields_that_must_be_there_suffice() -> None:
    minimal = {"checkpoint_path": "a.ckpt", "exp_name": "a", "created_at": "2025-10-19"}
    assert parse_sidecar(minimal) == Document(checkpoint_path="a.ckpt", exp_name="a", created_at="2025-10-19")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "it is no mapping"),
        ([1], "it is no mapping"),
        (changed(schema_version="2.0"), "schema_version 2.0 is not 1.x"),
        (changed(training={"epoch": "three"}), "training.epoch: Input should be a valid integer"),
        (changed(metrics={"hmean": "good"}), "metrics.hmean: Input should be a valid number"),
        (changed(checkpointing={"mode": "best"}), "checkpointing.mode: Input should be 'min' or 'max'"),
        (changed(model=None), "model: Input should be a valid dictionary or instance of Model"),
        ({"exp_name": "a"}, "checkpoint_path: Field required; created_at: Field required"),
    ],
)
def test_a_document_that_is_none_says_what_is_wrong_with_it(content: Any, reason: str) -> None:
    with pytest.raises(SidecarInvalid) as raised:
        parse_sidecar(content)
    assert str(raised.value).startswith(f"the sidecar is not a valid document: {reason}")
