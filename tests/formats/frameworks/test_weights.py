"""Which tensors are the model's, how many parameters they are, and when that cannot be told."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from ckpt_indexer.formats.facts import ModelFacts
from tests.formats.frameworks.reading import facts_of, weights

MODEL = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
OPTIMIZER = torch.optim.Adam(MODEL.parameters())
MODEL(torch.ones(1, 4)).sum().backward()
OPTIMIZER.step()
ADAM_BYTES = 58 * 2 * 4 + 4 * 4  # two moments of each parameter, a step of each of four tensors


@pytest.mark.parametrize(
    "root",
    [
        weights(),
        {"net": weights(), "acc": torch.tensor(93.0), "epoch": 100},
        {"model_state": weights(), "loss": torch.tensor(0.5)},
        {"weights": weights(), "model": "resnet18"},
        {"params": weights()},
        {"params_ema": weights()},
        {"params": weights(), "params_ema": weights(1)},
        {"ema": weights(), "model": {}},
        {"model": weights(), "ema": {"decay": 0.9, "shadow": weights(1)}},
        {"model": weights(), "model_ema": list(weights(1).values())},
        {"state_dict": weights(), "state_dict_ema": weights(1), "epoch": 1},
        {"student": weights(), "teacher": weights(1), "dino_loss": {"center": torch.ones(1, 4)}},
        {"critic": weights(), "critic_target": weights(1)},
        {"state": {"model": weights(), "optimizers": {"Adam": OPTIMIZER.state_dict()}}, "rng": [1]},
        {"model": {"state_dict": weights(), "name": "x"}},
        {"some_unheard_of_name": weights(), "epoch": 1},
        {"encoder": weights(), "rng_state": torch.get_rng_state()},
        {"model": MODEL, "updates": 3},
        {"model": list(weights().values())},
        {"model": weights(), "model_state_dict": weights(1), "best_model": weights(2)},
        {"generator": weights(), "g_optim": OPTIMIZER.state_dict()},
        {"model": {name: value.numpy() for name, value in weights().items()}},
        [*MODEL.parameters()],
        {"models": [weights()], "epoch": 2},
        {**weights(), "epoch": 3, "note": "x"},
        {"model": weights(), "init_state_dict": weights(1), "grads": weights(2), "mask": weights(3)},
        {"model": weights(), "weight_decay": dict.fromkeys(weights(), torch.tensor(0.5))},
        {
            "model": {
                "language_model": {
                    "embedding": {"word_embeddings": {"weight": torch.ones(5, 2)}},
                    "encoder": {"a.weight": torch.ones(6, 4), "a.bias": torch.ones(12), "b.weight": torch.ones(12)},
                }
            }
        },
        {
            "state_dict_backbone": {"0.weight": torch.ones(6, 4), "0.bias": torch.ones(24)},
            "state_dict_softmax_fc": {"weight": torch.ones(10)},
        },
    ],
    ids=lambda root: "+".join(root) if isinstance(root, dict) else "list",
)
def test_one_model_is_found_wherever_it_stands(root: Any) -> None:
    facts = facts_of(root)
    assert (facts.role, facts.parameters, facts.dtypes) == ("model", 58, {"float32": 58})
    assert (facts.weights_bytes, sum(model.parameters for model in facts.models) in (0, 58)) == (232, True)


@pytest.mark.parametrize(
    ("root", "models"),
    [
        ({"modelA_state_dict": weights(), "modelB_state_dict": weights(1)}, ["modelA_state_dict", "modelB_state_dict"]),
        (
            {"generator": weights(), "discriminator": weights(1), "loss": torch.tensor(0.5)},
            ["generator", "discriminator"],
        ),
        ({"encoder": weights(), "decoder": weights(1)}, ["encoder", "decoder"]),
        ({"ema_encoder": weights(), "ema_decoder": weights(1)}, ["ema_encoder", "ema_decoder"]),
        ({"target_actor": weights(), "target_critic": weights(1)}, ["target_actor", "target_critic"]),
        ({"g": weights(), "d": weights(1), "g_ema": weights(2), "g_optim": OPTIMIZER.state_dict()}, ["g", "d"]),
    ],
    ids=lambda value: "",
)
def test_several_models_are_listed_and_their_sum_is_said(root: dict[str, Any], models: list[str]) -> None:
    facts = facts_of(root)
    assert facts.models == [ModelFacts(name, 4, 58) for name in models]
    assert (facts.parameters, facts.warnings) == (116, [f"parameters is the sum of its models: {', '.join(models)}"])
    assert [tensor.name for tensor in facts.tensors or ()][4] == f"{models[1]}.0.weight"


@pytest.mark.parametrize(
    ("root", "role"),
    [
        (OPTIMIZER.state_dict(), "training-state"),
        ({"optimizer": OPTIMIZER.state_dict(), "epoch": 3}, "training-state"),
        (torch.optim.lr_scheduler.StepLR(OPTIMIZER, 1).state_dict(), "training-state"),
        (
            {"python": (3, (1, 2), None), "numpy": ("MT19937", np.ones(3)), "cpu": torch.get_rng_state()},
            "training-state",
        ),
        ({"rng_state": torch.get_rng_state()}, "training-state"),
        ({"epoch": 5, "center": torch.ones(1, 64)}, "other"),
        ({"features": torch.ones(9, 4), "labels": torch.ones(9)}, "other"),
        ({"mean": torch.ones(3), "std": torch.ones(3)}, "other"),
        ({"latents": torch.ones(3)}, "other"),
        ([torch.ones(3), torch.ones(4)], "other"),
        ({"string_to_param": {"*": torch.ones(2, 8)}, "step": 500}, "other"),
        ({"criterion": {"weight": torch.ones(3)}, "lr": 0.1}, "other"),
        ({"word2idx": {"a": 0}}, "other"),
        ((torch.ones(9, 28, 28).byte(), torch.arange(9)), "other"),
        ({"images": torch.ones(9, 28, 28).byte(), "labels": torch.arange(9)}, "other"),
        ({"params": {}, "value": 0.5}, "other"),
        ({"mean": torch.ones(3), "names": ["a", "b"], "n": 3}, "other"),
        ("text", "other"),
        ({}, "other"),
    ],
    ids=lambda value: "",
)
def test_what_holds_no_weights_is_no_model(root: Any, role: str) -> None:
    facts = facts_of(root)
    assert (facts.role, facts.parameters, facts.tensors) == (role, None, None)
    assert facts.warnings[-1] == "there is no state dict"


def test_zero_is_said_of_an_empty_state_dict_alone() -> None:
    assert facts_of({"state_dict": {}, "pytorch-lightning_version": "2.6.6"}).parameters == 0
    without = facts_of({"state_dict": {"a": 3, "b": "x"}, "pytorch-lightning_version": "2.6.6"})
    assert (without.parameters, without.warnings) == (None, ["the state dict holds no tensor"])


def test_packed_weights_are_counted_and_what_is_not_understood_makes_the_count_unknown() -> None:
    packed = {"0.weight": torch.ones(3, 2), "fc._packed_params": (torch.ones(4, 3), None, [torch.ones(5)])}
    assert facts_of({"state_dict": packed}).parameters == 6 + 12 + 5
    opaque = facts_of({"state_dict": {"0.weight": torch.ones(3, 2), "1.state": Opaque(torch.ones(4))}})
    assert (opaque.parameters, opaque.dtypes, opaque.weights_id) == (None, {}, None)
    assert opaque.warnings == [
        f"1 of its tensors cannot be read ({__name__}.Opaque): how many parameters there are is not known"
    ]


class Opaque:
    """Something that holds a tensor in a way nobody knows."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


def test_a_dynamically_quantised_model_has_all_its_parameters() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 10), torch.nn.Linear(10, 8))
    with warnings.catch_warnings(action="ignore"):
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})
    facts = facts_of({"state_dict": quantised.state_dict()})
    in_weights = sum(p.numel() for p in model.parameters())
    assert facts.dtypes["qint8"] == 16 * 10 + 10 * 8
    assert facts.parameters == in_weights + 4  # and scale and zero point of two layers


def test_tensors_of_other_devices_are_counted() -> None:
    def rebuild(name: str, *args: Any) -> Any:
        return type("Made", (), {"__reduce__": lambda _: (getattr(torch._utils, name), args)})()

    array = rebuild("_rebuild_device_tensor_from_numpy", np.ones((3, 4), "float32"), torch.bfloat16, "cpu", False)
    tensor = rebuild("_rebuild_device_tensor_from_cpu_tensor", torch.ones(5), torch.float32, "cpu", False)
    assert facts_of({"state_dict": {"a": array, "b": tensor}}).dtypes == {"bfloat16": 12, "float32": 5}


def test_the_optimizers_bytes_are_those_of_its_tensors() -> None:
    facts = facts_of({"model": MODEL.state_dict(), "optimizer": OPTIMIZER.state_dict()})
    assert (facts.parameters, facts.has_optimizer, facts.optimizer_bytes) == (58, True, ADAM_BYTES)
    assert facts_of({"model": weights()}).optimizer_bytes is None


def test_dicts_that_are_shared_many_times_are_looked_into_once() -> None:
    nested: Any = weights()
    for _ in range(4):
        nested = dict.fromkeys((f"k{i}" for i in range(200)), nested)  # 1.6 billion ways
    facts = facts_of({"model": weights(1), "tree": nested})
    assert (facts.parameters, [model.name for model in facts.models]) == (116, ["model", "tree"])


def test_parts_of_a_model_that_look_like_a_home_do_not_hide_the_rest() -> None:
    packed = {f"l{i}.weight": torch.ones(2) for i in range(5)} | {"head.packed": [torch.ones(2)]}
    assert facts_of(packed).parameters == 12
    assert facts_of({**weights(), "extra_params": {"z": torch.ones(5)}}).parameters == 63
    embedded = {"embeddings": {"weight": torch.ones(5, 2)}, "encoder": weights()}
    assert [model.parameters for model in facts_of(embedded).models] == [10, 58]
    many = {f"model{i}": {f"{i}.weight": torch.ones(2)} for i in range(25)}
    assert facts_of(many).parameters == 50


def test_a_large_vocabulary_is_no_model_and_no_metric() -> None:
    facts = facts_of({"model": weights(), "vocab": {f"word{i}": i for i in range(50_000)}})
    assert (facts.parameters, facts.metrics) == (58, {})
