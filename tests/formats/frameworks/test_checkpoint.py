"""Settings and names that a checkpoint holds beside its weights."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch

from tests.formats.frameworks.reading import facts_of, weights


@pytest.mark.parametrize(
    "key",
    ["args", "train_args", "config", "cfg", "opt", "hyperparameters", "model_args", "model_config", "dims", "params"],
)
def test_settings_are_hyper_parameters_wherever_they_stand(key: str) -> None:
    for settings in ({"lr": 0.5, "layers": 3}, argparse.Namespace(lr=0.5, layers=3)):
        facts = facts_of({"model_state_dict": weights(), key: settings})
        assert (facts.hyper_parameters, facts.metrics, facts.parameters) == ({"lr": 0.5, "layers": 3}, {}, 58)


def test_of_two_dicts_of_settings_the_first_wins() -> None:
    facts = facts_of({"model": weights(), "args": {"lr": 0.5}, "model_args": {"lr": 1.0, "dim": 3}})
    assert facts.hyper_parameters == {"lr": 0.5, "dim": 3}
    lightning = {"state_dict": weights(), "hyper_parameters": {"lr": 0.5}, "config": {"dim": 3}}
    assert facts_of(lightning).hyper_parameters == {"lr": 0.5}


def test_an_optimizers_state_is_no_setting() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    facts = facts_of({"net": weights(), "opt": optimizer.state_dict(), "params": None})
    assert (facts.hyper_parameters, facts.parameters) == (None, 58)


@pytest.mark.parametrize(
    ("root", "architecture"),
    [
        ({"arch": "resnet50"}, "resnet50"),
        ({"model_name": "vit_base_patch16_224.in1k"}, "vit_base_patch16_224.in1k"),
        ({"model": "resnet18", "weights": weights()}, "resnet18"),
        ({"arch": "/home/a/resnet.pt"}, None),
        ({"model": "models/best"}, None),
        ({"model_name": "last.ckpt"}, None),
    ],
)
def test_the_architecture_is_a_name_and_never_a_path(root: dict[str, Any], architecture: str | None) -> None:
    assert facts_of({"state_dict": weights(), **root}).architecture == architecture


def test_a_loss_that_is_an_object_is_its_classs_name() -> None:
    facts = facts_of({"state_dict": weights(), "loss": torch.nn.CrossEntropyLoss(), "criterion": torch.nn.MSELoss()})
    assert (facts.loss, facts.metrics) == ("CrossEntropyLoss", {})
