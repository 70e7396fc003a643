"""Metrics, the run's best, counts: only what a name says, from what torch really saves."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import torch

from ckpt_indexer.formats.facts import RunBestFacts
from tests.formats.frameworks.reading import facts_of, weights

NO_METRICS: dict[str, Any] = {
    "class_to_idx": {"cat": 0, "dog": 1},
    "label2id": {"O": 0, "B-PER": 1},
    "vocab": {"the": 2, "loss": 3, "precision": 4},
    "char2idx": {"a": 0},
    "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
    "GradScaler": {"scale": 65536.0},
    "FSDPPrecision": {"scale": 65536.0, "growth_factor": 2.0},
    "sampler": {"epoch": 3, "consumed_samples": 5},
    "ema": {"decay": 0.999, "num_updates": 100},
    "dims": {"n_mels": 80, "n_vocab": 51865},
    "model_args": {"n_layer": 12, "dropout": 0.0},
    "args": {"lr": 0.1, "val_batch_size": 4},
    "eval_args": {"batch_size": 4},
    "val_loader": {"index": 4},
    "test_transforms": {"mean": 0.5},
    "MyDataModule": {"train_size": 0.8, "precision": 16.0},
    "class_weights": {"a": 0.1, "b": 0.9},
    "timing": {"train_s": 100.0},
    "early_stopping": {"counter": 2, "patience": 10},
    "loss_scale": 65536.0,
    "loss_weight": 0.5,
    "f1_threshold": 0.5,
    "val_batch_size": 32,
    "val_check_interval": 0.25,
    "seed": 42,
    "lr": 0.1,
    "precision_plugin": {"scale": 1.0},
    "history": {"loss": [1.0, 0.5]},
    "is_loss": True,
    "precision": 16,
    "val_percent": 0.1,
    "val_images": 500,
    "eval_start": 10,
    "target_kl": 0.01,
    "max_iou": 0.5,
    "min_score": 0.05,
    "val_loss_weight": 0.5,
    "num_losses": 2,
    "w_loss": 0.5,
    "lambda_loss": 10,
    "target_score": 0.5,
    "nms_iou": 0.5,
    "previous_loss": 0.5,
    "val_crop": 224,
    "test_speakers": 12,
    "scores": {"the": -3.25},
    "token_scores": {"acc": 0.5},
    "val_files": {"a": 1},
    "test": {"cat": 10},
    "loss": "cross_entropy",
}


@pytest.mark.parametrize("key", NO_METRICS)
def test_a_number_without_a_metrics_name_is_none(key: str) -> None:
    facts = facts_of({"state_dict": weights(), "epoch": 1, key: NO_METRICS[key]})
    assert (facts.metrics, facts.epoch, facts.parameters) == ({}, 1, 58)


@pytest.mark.parametrize(
    ("root", "metrics"),
    [
        ({"loss": 0.2, "val_loss": torch.tensor(0.5)}, {"": {"loss": 0.2, "val_loss": 0.5}}),
        ({"acc": torch.tensor([95.5]), "wer": np.float64(0.25)}, {"": {"acc": 95.5, "wer": 0.25}}),
        ({"metric": 72, "top1": 70.5, "mAP_0.5": 0.25}, {"": {"metric": 72.0, "top1": 70.5, "mAP_0.5": 0.25}}),
        ({"val_custom_thing": 0.5, "train_acc": 1.0}, {"": {"val_custom_thing": 0.5, "train_acc": 1.0}}),
        ({"cleval_metrics": {"hmean": 0.5, "recall": 0.25}}, {"cleval_metrics": {"hmean": 0.5, "recall": 0.25}}),
        ({"metrics": {"val": {"loss": 0.5}, "lr": 0.125, "epoch": 3, "n": 2}}, {"metrics": {"val/loss": 0.5}}),
        ({"metrics": {"val_loss_epoch": 0.5, "NDS": 0.25}}, {"metrics": {"val_loss_epoch": 0.5, "NDS": 0.25}}),
        ({"precision": 0.5, "recall": 0.25}, {"": {"precision": 0.5, "recall": 0.25}}),
        (
            {"metrics": {"f1": 0.5, "note": "good", "none": None, "matrix": torch.ones(2, 2), "ok": True}},
            {"metrics": {"f1": 0.5}},
        ),
        ({"valid": {"loss": 0.5}, "test_results": {"acc": 1}}, {"valid": {"loss": 0.5}, "test_results": {"acc": 1.0}}),
        ({"metrics": {"f1": 0.5, "best_f1": 0.75, "max_acc": 0.75}}, {"metrics": {"f1": 0.5}}),
        ({"results": {"best": {"acc": 0.75}, "acc": 0.5}}, {"results": {"acc": 0.5}}),
        ({"eval_scores": collections.defaultdict(float, x=0.5)}, {"eval_scores": {"x": 0.5}}),
    ],
)
def test_a_number_is_a_metric_where_its_name_says_so(root: dict[str, Any], metrics: dict[str, Any]) -> None:
    assert facts_of({"model_state_dict": weights(), **root}).metrics == metrics


@pytest.mark.parametrize(
    ("root", "best"),
    [
        ({"best_acc": torch.tensor(95.0)}, RunBestFacts("acc", 95.0)),
        ({"best_val_loss": 0.5, "best_model_path": "/train/a.pt"}, RunBestFacts("val_loss", 0.5, None, "/train/a.pt")),
        ({"best_fitness": np.array([0.5])}, RunBestFacts("fitness", 0.5)),
        ({"best": {"epoch": 3, "acc": 0.5}}, RunBestFacts("acc", 0.5)),
        ({"best_so_far": 0.25}, RunBestFacts(None, 0.25)),
        ({"val_loss_min": 0.25}, RunBestFacts("val_loss", 0.25)),
        ({"early_stopping": {"counter": 3, "best_score": 0.5}}, RunBestFacts("score", 0.5)),
        (
            {
                "checkpoint_callback_best_model_score": torch.tensor(0.5),
                "checkpoint_callback_best_model_path": "/a.ckpt",
            },
            RunBestFacts(None, 0.5, None, "/a.ckpt"),
        ),
        ({"best_epoch": 3, "best_params": {"lr": 0.1}, "max_steps": 5, "max_norm": 1.0}, None),
        ({"max_iou": 0.5, "max_kl": 0.01, "min_score": 0.1, "best_val_loss_epoch": 3}, None),
        ({"max_accuracy": 0.5}, RunBestFacts("accuracy", 0.5)),
        ({"peak_acc": 0.5}, RunBestFacts("acc", 0.5)),
        ({"checkpoint_callback_best": 0.5}, RunBestFacts(None, 0.5)),
    ],
)
def test_the_runs_best_is_nobodys_metric(root: dict[str, Any], best: RunBestFacts | None) -> None:
    facts = facts_of({"state_dict": weights(), **root})
    assert (facts.run_best, facts.metrics) == (best, {})


def test_lightnings_best_has_mode_and_path_although_its_key_holds_a_timedelta() -> None:
    key = "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'train_time_interval': datetime.timedelta(seconds=1)}"
    state = {"monitor": "val_loss", "best_model_score": torch.tensor(0.5), "best_model_path": "/a/b.ckpt"}
    facts = facts_of({"state_dict": weights(), "callbacks": {key: state}})
    assert facts.run_best == RunBestFacts("val_loss", 0.5, "min", "/a/b.ckpt")
    assert [(each.monitor, each.mode) for each in facts.monitors] == [("val_loss", "min")]
    assert facts.callbacks[0].parameters["train_time_interval"] == "datetime.timedelta(seconds=1)"


@pytest.mark.parametrize(
    ("root", "epoch", "step"),
    [
        ({"epoch": np.int64(4), "global_step": np.int64(100)}, 4, 100),
        ({"epoch": torch.tensor(4), "global_step": torch.tensor([100])}, 4, 100),
        ({"epoch": 3.0, "step": np.float32(7.0)}, 3, 7),
        ({"epoch": -1, "global_step": -1}, -1, -1),
        ({"epochs_completed": 3, "num_updates": 9}, 3, 9),
        ({"iter_num": 2000}, None, 2000),
        ({"meta": {"epoch": 1, "iter": 4}}, 1, 4),
        ({"trainer": {"epoch_length": 10, "iteration": 30, "max_epochs": 3}}, 3, 30),
        ({"extra_state": {"train_iterator": {"epoch": 3}, "num_updates": 7}}, 3, 7),
        ({"state": {"timestamp": {"Timestamp": {"epoch": 1, "batch": 100}}}}, 1, 100),
        ({"state": {"timestamp": {"epoch": 1, "batch": 100}}}, 1, 100),
        ({"epoch": 2, "total_steps": 9, "epochs": 90}, 2, 9),
        ({"epochs": 100, "total_steps": 1000, "trainer": {"epoch": 7, "global_step": 50}}, 7, 50),
        ({"epochs": 100, "lr": 0.1, "batch_size": 8}, None, None),
        ({"steps": 50, "sampler": "ddim"}, None, None),
        ({"epochs": 3, "steps": 7}, 3, 7),
        ({"scheduler": {"last_epoch": 5, "_step_count": 6}}, None, None),
        ({"epoch": None, "global_step": 0.5}, None, None),
        ({"epoch": True, "step": float("nan")}, None, None),
    ],
)
def test_counts_have_any_integer_type_and_stand_in_many_places(
    root: dict[str, Any], epoch: int | None, step: int | None
) -> None:
    facts = facts_of({"model": weights(), **root})
    assert (facts.epoch, facts.global_step) == (epoch, step)


def test_what_is_no_count_is_told_in_words() -> None:
    facts = facts_of({"model": weights(), "epoch": torch.ones(3), "global_step": "many"})
    assert facts.warnings == ["epoch is a tensor of 3 elements, not a count", "global_step is a text, not a count"]


def test_a_count_beside_random_states_counts_something_else() -> None:
    facts = facts_of({"step": 3, "random_state": (1, 2), "torch_manual_seed": torch.get_rng_state()})
    assert (facts.global_step, facts.role, facts.parameters) == (None, "training-state", None)
