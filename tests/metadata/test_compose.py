"""The tiers together: which one gives what, that equal inputs give equal bytes, and that nobody's facts are lost."""

from __future__ import annotations

import copy
import math
from typing import Any

import msgspec
import pytest

from ckpt_indexer import __version__
from ckpt_indexer.formats.facts import Facts, MonitorState, TensorFacts
from ckpt_indexer.metadata.compose import Config, compose, overlay
from ckpt_indexer.metadata.entry import bare_entry, entry_of
from ckpt_indexer.metadata.schema import Checkpointing, Document, Encoder, Metrics, Model, Training
from ckpt_indexer.metadata.sidecar import encode_sidecar, parse_sidecar
from ckpt_indexer.model import RULES, Entry, Monitor, Problem
from ckpt_indexer.paths import Key
from tests.metadata.test_backbones import sample

KEY = Key("ocr/b/checkpoints/epoch=2-step=12.ckpt")
FINGERPRINT = (1000, 1_700_000_000_123_456_789, 42)
CONFIG = Config(
    path="ocr/b/.hydra/config.yaml",
    content={
        "exp_name": "ocr_training_b",
        "trainer": {"max_epochs": 25},
        "model": {"name": "dbnet", "encoder": {"model_name": "${backbone}"}},
        "callbacks": {"model_checkpoint": {"monitor": "val/hmean", "mode": "max", "save_top_k": 3, "save_last": True}},
    },
    fingerprint=(1, 2, 3),
)


def facts() -> Facts:
    return Facts(
        format="torch-zip",
        content_id="c0ffee",
        epoch=2,
        global_step=12,
        lightning_version="2.6.6",
        monitors=[MonitorState(monitor="val/hmean", mode="max", best_k_models={f"/train/{KEY}": 0.75})],
        hyper_parameters={"lr": 0.1, "backbone": "resnet18"},
        metrics={"cleval_metrics": {"precision": 0.5, "recall": 0.25}},
        tensors=[TensorFacts("encoder.weight", (3, 4), "float32")],
        parameters=12,
        has_optimizer=True,
    )


def composed(**changes: Any) -> Document:
    arguments: dict[str, Any] = {
        "key": KEY, "link_target": None, "fingerprint": FINGERPRINT, "facts": facts(), "config": CONFIG,
    }  # fmt: skip
    return compose(**(arguments | changes))


def test_header_and_configuration_become_one_document() -> None:
    document = composed()
    assert document.model_dump(exclude={"indexer"}) == Document(
        checkpoint_path=KEY,
        exp_name="ocr_training_b",
        created_at="2023-11-14T22:13:20.123456",
        training=Training(epoch=2, global_step=12, max_epochs=25),
        model=Model(architecture="dbnet", encoder=Encoder(model_name="resnet18")),
        metrics=Metrics(precision=0.5, recall=0.25, hmean=0.75, additional_metrics={"val/hmean": 0.75}),
        checkpointing=Checkpointing(monitor="val/hmean", mode="max", save_top_k=3, save_last=True),
        hydra_config_path="ocr/b/.hydra/config.yaml",
    ).model_dump(exclude={"indexer"})
    assert document.indexer is not None
    assert document.indexer.sources == {
        "training": "checkpoint",
        "exp_name": "config",
        "metrics": "checkpoint",
        "model": "config",
        "hydra_config_path": "config",
        "checkpointing": "checkpoint",
    }


def test_without_a_configuration_the_header_and_the_path_speak() -> None:
    document = composed(config=None)
    assert (document.exp_name, document.model.encoder.model_name, document.hydra_config_path) == ("b", "resnet18", None)
    assert document.indexer is not None
    assert (document.indexer.sources["exp_name"], document.indexer.sources["model"]) == ("path", "checkpoint")


def test_the_same_inputs_give_the_same_bytes_and_are_not_changed() -> None:
    given, config = facts(), copy.deepcopy(CONFIG)
    first = encode_sidecar(composed(facts=given, config=config))
    assert encode_sidecar(composed(facts=given, config=config)) == first
    assert (given, config) == (facts(), CONFIG)


def test_the_settings_of_another_monitor_are_not_this_ones() -> None:
    other = facts()
    other.monitors[0].monitor = "val/recall"
    assert composed(facts=other).checkpointing == Checkpointing(monitor="val/recall", mode="max")


def test_a_broken_checkpoint_has_what_its_configuration_says() -> None:
    problem = Problem.of("truncated", "cut")
    document = composed(facts=Facts(problem=problem))
    entry = entry_of(document, KEY, FINGERPRINT, None)
    assert (entry.status, entry.problem, entry.architecture, entry.metadata_source) == (
        "incomplete", problem, "dbnet", "config",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "field"),
    [("val/hmean", "hmean"), ("val_f1", "hmean"), ("valid/precision", "precision"), ("val_loss", "validation_loss")],
)
def test_a_metric_by_a_usual_name_has_its_field(metric: str, field: str) -> None:
    found = composed(facts=Facts(metrics={"m": {metric: 0.5}})).metrics
    assert found == Metrics(**{field: 0.5}, additional_metrics={metric: 0.5})


def test_a_training_metric_is_not_taken_for_one_of_validation() -> None:
    found = composed(facts=Facts(metrics={"m": {"loss": 0.5, "train/hmean": 0.9}})).metrics
    assert found == Metrics(additional_metrics={"loss": 0.5, "train/hmean": 0.9})


def test_a_sidecar_that_something_else_wrote_wins_where_it_knows_something() -> None:
    written = Document(
        checkpoint_path="somewhere/else.ckpt",
        exp_name="theirs",
        created_at="2025-01-01T00:00:00",
        training=Training(epoch=3, training_phase="finetuning"),
        model=Model(encoder=Encoder(model_name="theirs", pretrained=True)),
        metrics=Metrics(recall=0.9, additional_metrics={"f2": 0.8}),
        wandb_run_id="abc",
    )
    merged = overlay(composed(), written)
    assert merged.checkpoint_path == KEY
    assert merged.training == Training(epoch=3, global_step=12, training_phase="finetuning", max_epochs=25)
    assert merged.model == Model(architecture="dbnet", encoder=Encoder(model_name="theirs", pretrained=True))
    assert merged.metrics == Metrics(
        precision=0.5, recall=0.9, hmean=0.75, additional_metrics={"val/hmean": 0.75, "f2": 0.8}
    )
    assert (merged.exp_name, merged.wandb_run_id) == ("theirs", "abc")
    assert merged.indexer is not None
    assert (merged.indexer.source, merged.indexer.parameters) == ("sidecar", 12)
    assert merged.indexer.sources == {
        "training": "sidecar",
        "exp_name": "sidecar",
        "metrics": "sidecar",
        "model": "sidecar",
        "hydra_config_path": "config",
        "checkpointing": "checkpoint",
        "wandb_run_id": "sidecar",
    }


def test_the_entry_says_what_the_document_says() -> None:
    assert entry_of(composed(), KEY, FINGERPRINT, None) == Entry(
        path=Key(KEY),
        experiment="ocr/b",
        name="epoch=2-step=12.ckpt",
        size_bytes=1000,
        mtime="2023-11-14T22:13:20.123456Z",
        fingerprint=FINGERPRINT,
        format="torch-zip",
        epoch=2,
        global_step=12,
        metrics={"precision": 0.5, "recall": 0.25, "hmean": 0.75, "val/hmean": 0.75},
        monitor=Monitor("val/hmean", "max", 0.75),
        architecture="dbnet",
        encoder="resnet18",
        exp_name="ocr_training_b",
        rules=RULES,
        parameters=12,
        lightning_version="2.6.6",
        metadata_source="checkpoint",
        content_id="c0ffee",
    )


def test_the_sidecar_alone_gives_the_same_entry() -> None:
    from ckpt_indexer.formats.plain_yaml import parse_yaml

    document = composed()
    before = document.model_copy(deep=True)
    read = parse_sidecar(parse_yaml(encode_sidecar(document)))
    first = entry_of(document, KEY, FINGERPRINT, None)
    assert entry_of(read, KEY, FINGERPRINT, None) == first
    assert entry_of(document, KEY, FINGERPRINT, None) == first
    assert document == before


def test_numbers_that_json_cannot_hold_are_text_in_the_entry() -> None:
    strange = facts()
    strange.monitors[0].best_k_models = {f"/train/{KEY}": math.inf}
    strange.metrics = {"m": {"recall": math.nan}}
    entry = entry_of(composed(facts=strange), KEY, FINGERPRINT, None)
    assert entry.metrics == {"recall": "NaN", "hmean": "Infinity", "val/hmean": "Infinity"}
    assert entry.monitor == Monitor("val/hmean", "max", "Infinity")
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry


def test_a_score_that_is_not_known_is_null() -> None:
    unscored = facts()
    unscored.monitors[0].best_k_models = {}
    assert entry_of(composed(facts=unscored), KEY, FINGERPRINT, None).monitor == Monitor("val/hmean", "max", None)


def test_a_bare_entry_knows_its_place_only() -> None:
    problem = Problem.of("link-dangling", "it leads nowhere")
    assert bare_entry(Key("a/last.ckpt"), (0, 0, 0), "a/gone.ckpt", problem) == Entry(
        path=Key("a/last.ckpt"),
        experiment="a",
        name="../last.ckpt",
        size_bytes=0,
        mtime="1970-01-01T00:00:00.000000Z",
        fingerprint=(0, 0, 0),
        status="unreadable",
        problem=problem,
        link_target="a/gone.ckpt",
        rules=RULES,
    )


def test_the_document_names_the_version_that_made_it() -> None:
    document = composed()
    assert document.indexer is not None
    assert document.indexer.version == __version__


def test_an_encoder_that_nobody_names_is_the_one_its_tensors_tell() -> None:
    tensors = [TensorFacts(f"net.encoder.{name}", shape, "float32") for name, shape in sample("timm resnet34d").items()]
    told = "resnet34d|resnetaa34d"
    unnamed = composed(facts=Facts(tensors=tensors), config=None)
    assert (unnamed.model.architecture, unnamed.model.encoder.model_name) == (told, told)
    assert unnamed.indexer is not None
    assert unnamed.indexer.sources["model"] == "checkpoint"
    half = composed(facts=Facts(tensors=tensors, hyper_parameters={"arch": "dbnet"}), config=None)
    assert (half.model.architecture, half.model.encoder.model_name) == ("dbnet", told)
    named = composed(facts=Facts(tensors=tensors, hyper_parameters={"backbone": "resnet18"}))
    assert (named.model.architecture, named.model.encoder.model_name) == ("dbnet", "resnet18")


@pytest.mark.parametrize(
    ("role", "path", "content", "architecture"),
    [
        ("model", "run/config.json", {"architectures": ["BertModel"]}, "BertModel"),
        ("model", "run/config.json", {"name": "my-app", "model": "web"}, "unknown"),
        ("model", "run/config.yaml", {"model": {"name": "web"}}, "web"),
        ("training-state", "run/config.yaml", {"model": {"name": "web"}, "trainer": {"max_epochs": 5}}, "unknown"),
        ("other", "run/config.json", {"architectures": ["BertModel"]}, "unknown"),
    ],
)
def test_a_configuration_describes_models_and_is_one(
    role: Any, path: str, content: dict[str, Any], architecture: str
) -> None:
    document = compose(
        key=Key("run/a.pt"),
        link_target=None,
        fingerprint=(1, 2, 3),
        facts=Facts(role=role),
        config=Config(path, content, (4, 5, 6)),
    )
    assert (document.model.architecture, document.training.max_epochs) == (architecture, None)
    assert (document.hydra_config_path is None) == (architecture == "unknown")
    assert document.indexer is not None
    assert document.indexer.config_fingerprint == (4, 5, 6)  # used or not: when it changes, so may what is said


@pytest.mark.parametrize(
    ("name", "groups", "monitor"),
    [
        ("epoch=3-val_loss=0.12.pt", {"": {"val_loss": 0.12345}}, Monitor("val_loss", None, 0.12345)),
        ("best_val_acc=0.91.pt", {"metrics": {"val_acc": 0.91234}}, Monitor("val_acc", None, 0.91234)),
        ("model_acc=0.9.pt", {"": {"acc": 0.8}}, None),
    ],
)
def test_what_the_file_says_wins_over_its_name(
    name: str, groups: dict[str, dict[str, float]], monitor: Monitor | None
) -> None:
    entry = entry_of(composed(key=Key(name), facts=Facts(metrics=groups), config=None), Key(name), FINGERPRINT, None)
    ((own,),) = (group.items() for group in groups.values())
    assert entry.metrics.items() - {("validation_loss", own[1])} == {own}
    assert entry.monitor == monitor


def test_a_name_that_contradicts_the_file_is_not_used_and_says_so() -> None:
    document = composed(key=Key("epoch=5-step=50-val_loss=0.5.ckpt"), facts=Facts(epoch=3, global_step=30), config=None)
    assert document.indexer is not None
    assert (document.training.epoch, document.training.global_step) == (3, 30)
    assert (document.metrics, document.checkpointing.monitor) == (Metrics(), None)
    assert document.indexer.warnings == [
        "no number of its name was used: it says epoch 5, step 50, the checkpoint epoch 3, step 30"
    ]


@pytest.mark.parametrize(
    ("groups", "metrics"),
    [
        (
            {
                "train_metrics": {"loss": 0.9, "acc": 0.1},
                "val_metrics": {"loss": 0.5, "acc": 0.2},
                "test_metrics": {"acc": 0.3},
            },
            {"train/loss": 0.9, "val/loss": 0.5, "train/acc": 0.1, "val/acc": 0.2, "test/acc": 0.3},
        ),
        ({"cleval_metrics": {"f2": 0.5}, "val_metrics": {"acc": 0.2}}, {"f2": 0.5, "acc": 0.2}),
        ({"a_metrics": {"acc": 0.2}, "b_metrics": {"acc": 0.2}}, {"acc": 0.2}),
        ({"": {"acc": 0.1}, "valMetrics": {"acc": 0.2}}, {"acc": 0.1, "val/acc": 0.2}),
        ({"metrics": {"acc": 0.1}, "results": {"acc": 0.2}}, {"metrics/acc": 0.1, "results/acc": 0.2}),
        ({"val_metrics": {"acc": 0.1}, "val_results": {"acc": 0.2}}, {"val_metrics/acc": 0.1, "val_results/acc": 0.2}),
    ],
)
def test_metrics_that_differ_between_groups_have_their_groups_name(
    groups: dict[str, dict[str, float]], metrics: dict[str, float]
) -> None:
    found = entry_of(composed(key=Key("m.pt"), facts=Facts(metrics=groups), config=None), KEY, FINGERPRINT, None)
    assert {name: value for name, value in found.metrics.items() if name != "validation_loss"} == metrics


@pytest.mark.parametrize("name", ["step", "epoch", "trainer/global_step"])
def test_a_monitor_that_counts_is_no_metric(name: str) -> None:
    saved = Facts(
        epoch=2,
        global_step=12,
        monitors=[MonitorState(monitor=name, mode="max", best_k_models={f"/train/{KEY}": 12.0})],
    )
    entry = entry_of(composed(facts=saved, config=None), KEY, FINGERPRINT, None)
    assert (entry.metrics, entry.monitor) == ({}, Monitor(name, "max", 12))
