"""Configurations as people write them: what is found in them, and that nothing is made up where it is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_indexer.metadata.config import checkpointing_part, find_int, model_part
from ckpt_indexer.metadata.schema import Checkpointing, Decoder, Encoder, Head, Loss, Model

COMPONENTS: dict[str, Any] = {  # names and sizes stated in full
    "model": {
        "architecture_name": "dbnet",
        "encoder": {"model_name": "mobilenetv3_small_050", "pretrained": True, "frozen": False},
        "decoder": {"name": "unet", "in_channels": [16, 24], "inner_channels": 64, "output_channels": 32, "k": 4},
        "head": {"name": "db_head", "in_channels": 32, "params": {"smooth": True}},
        "loss": {"name": "db_loss", "negative_ratio": 3.0},
    }
}
TARGETS: dict[str, Any] = {  # Hydra's instantiate, the network inside a Lightning module, the loss beside it
    "model": {
        "_target_": "ocr.lit.LitModule",
        "net": {
            "_target_": "ocr.models.OCRModel",
            "encoder": {"_target_": "timm.create_model", "model_name": "${backbone}", "pretrained": False},
            "decoder": {"_target_": "ocr.decoders.UNet", "in_channels": 8},
        },
    },
    "criterion": {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1},
}
SMP: dict[str, Any] = {  # segmentation_models_pytorch: everything flat
    "model": {"name": "Unet", "encoder_name": "resnet34", "encoder_weights": "imagenet", "freeze_encoder": True},
    "loss": "dice",
}
FLAT: dict[str, Any] = {"arch": "resnet50", "backbone": "resnet50", "pretrained": True, "lr": 0.1}
SCRATCH: dict[str, Any] = {"model": {"name": "Unet", "encoder_name": "resnet34", "encoder_weights": None}}
NAME_ONLY: dict[str, Any] = {"model": "vit_b_16"}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (
            COMPONENTS,
            Model(
                architecture="dbnet",
                encoder=Encoder(model_name="mobilenetv3_small_050", pretrained=True, frozen=False),
                decoder=Decoder(
                    name="unet", in_channels=[16, 24], inner_channels=64, output_channels=32, params={"k": 4}
                ),
                head=Head(name="db_head", in_channels=32, params={"smooth": True}),
                loss=Loss(name="db_loss", params={"negative_ratio": 3.0}),
            ),
        ),
        (
            TARGETS,
            Model(
                architecture="ocr_model",
                decoder=Decoder(name="unet", in_channels=[8]),
                loss=Loss(name="cross_entropy_loss", params={"label_smoothing": 0.1}),
            ),
        ),
        (
            SMP,
            Model(
                architecture="Unet",
                encoder=Encoder(model_name="resnet34", pretrained=True, frozen=True),
                loss=Loss(name="dice"),
            ),
        ),
        (FLAT, Model(architecture="resnet50", encoder=Encoder(model_name="resnet50", pretrained=True))),
        (SCRATCH, Model(architecture="Unet", encoder=Encoder(model_name="resnet34", pretrained=False))),
        (NAME_ONLY, Model(architecture="vit_b_16")),
        ({}, Model()),
        ({"model": {"_target_": "${model_class}"}}, Model()),
        ({"model": {"hidden": 3}, "loss": 5}, Model()),
        ({"model": None, "encoder": ["x"]}, Model()),
    ],
    ids=["components", "targets", "smp", "flat", "scratch", "name", "empty", "interpolated", "nameless", "wrong types"],
)
def test_the_model_of_a_configuration_is_read(config: dict[str, Any], model: Model) -> None:
    assert model_part(config) == model


CALLBACK: dict[str, Any] = {"monitor": "val/hmean", "mode": "max", "save_top_k": 3, "save_last": True}
CALLBACKS = [{"_target_": "x.EarlyStopping", "monitor": "y"}, {"_target_": "x.ModelCheckpoint", **CALLBACK}]
WRONG: dict[str, Any] = {"monitor": 1, "mode": "${mode}", "save_top_k": "3", "save_last": "no"}
READ = Checkpointing(monitor="val/hmean", mode="max", save_top_k=3, save_last=True)
TARGET = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"callbacks": {"model_checkpoint": CALLBACK}}, READ),
        ({"callbacks": {"best": {"_target_": TARGET, **CALLBACK}, "stop": {"monitor": "other"}}}, READ),
        ({"trainer": {"callbacks": CALLBACKS}}, READ),
        (
            {"callbacks": {"model_checkpoint": {**CALLBACK, "save_last": "link"}}},
            READ,
        ),
        ({"callbacks": {"model_checkpoint": WRONG}}, Checkpointing()),
        ({"callbacks": {"early_stopping": CALLBACK}}, Checkpointing()),
        ({"callbacks": None, "trainer": 3}, Checkpointing()),
        ({}, Checkpointing()),
    ],
    ids=["by key", "by target", "list", "link", "wrong types", "another callback", "nonsense", "empty"],
)
def test_the_checkpoint_callback_of_a_configuration_is_read(config: dict[str, Any], expected: Checkpointing) -> None:
    assert checkpointing_part(config) == expected


def test_a_flag_is_no_integer() -> None:
    assert find_int({"trainer": {"max_epochs": True}, "max_epochs": 25}, "trainer.max_epochs", "max_epochs") == 25


PRESETS: dict[str, Any] = {
    "models": {
        "a": {
            "architectures": {"name": "dbnet"},
            "component_overrides": {"decoder": "${presets.decoder}", "loss": "${losses.${chosen}}"},
            "encoder": "${presets.encoder}",
        }
    },
    "model": "${models.a}",
    "presets": {"decoder": {"name": "fpn", "inner_channels": "${width}"}, "encoder": {"model_name": "${model.size}"}},
    "losses": {"dice": {"name": "dice_loss", "k": "${width}"}},
    "chosen": "dice",
    "width": 64,
    "callbacks": "${presets_of.callbacks}",
    "presets_of": {"callbacks": {"model_checkpoint": "${presets_of.saving}"}, "saving": CALLBACK},
}


def test_a_reference_to_a_node_is_that_node() -> None:
    config = {**PRESETS, "models": {"a": {**PRESETS["models"]["a"], "size": "resnet18"}}}
    assert model_part(config) == Model(
        architecture="dbnet",
        encoder=Encoder(model_name="resnet18"),
        decoder=Decoder(name="fpn", inner_channels=64),
        loss=Loss(name="dice_loss", params={"k": 64}),
    )
    assert checkpointing_part(config) == READ
    assert model_part({"model": "${deep.er.b}", "deep": {"er": "${others}"}, "others": {"b": {"name": "x"}}}) == Model(
        architecture="x"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"model": "${model}"},
        {"model": "${a.b}", "a": "${a}"},
        {"model": "${a.b.c}", "a": {"b": "${a.b}"}},
        {"model": "${a.b}", "a": "${b.a}", "b": "${a.b}"},
        {"model": {"net": "${model}", "model": "${model}", "decoder": "${model}", "encoder": {"model": "${model}"}}},
        {"model": "${" + "a." * 50_000 + "a}", "a": "${a}"},
    ],
    ids=["itself", "through", "deeper", "two", "many", "long"],
)
def test_references_in_a_circle_end(config: dict[str, Any]) -> None:
    assert model_part(config) == Model()


_WORDS = st.sampled_from(
    [
        *("model", "net", "network", "encoder", "backbone", "decoder", "head", "loss", "criterion", "name", "arch"),
        *("model_name", "encoder_name", "_target_", "in_channels", "inner_channels", "params", "pretrained", "frozen"),
        *("callbacks", "model_checkpoint", "monitor", "mode", "save_top_k", "save_last", "trainer", "encoder_weights"),
    ]
)
_REFERENCES = st.lists(_WORDS, min_size=1, max_size=3).map(lambda words: f"${{{'.'.join(words)}}}")
_SCALARS = _REFERENCES | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _WORDS
_CONFIGS = st.dictionaries(
    _WORDS,
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5),
        max_leaves=25,
    ),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_CONFIGS)
def test_no_shape_of_a_configuration_raises(config: dict[str, Any]) -> None:
    assert isinstance(model_part(config), Model)
    assert isinstance(checkpointing_part(config), Checkpointing)
