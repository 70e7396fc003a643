"""What names of files say, in the spellings of the programs that write them; what could be two things is neither."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.metadata import names
from ckpt_indexer.metadata.names import lone_numbers, parse_name, reconcile

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING = (None, None)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("epoch-09_step-000040.ckpt", (9, 40)),
        ("epoch=3.ckpt", (3, None)),
        ("epoch3.pt", (3, None)),
        ("epoch_12.pth", (12, None)),
        ("EPOCH_7.pt", (7, None)),
        ("CKPT+epoch_3", (3, None)),  # speechbrain
        ("mymodel_epoch=3_val_loss=0.30.ckpt", (3, None)),
        ("seed=42-epoch=1-step=8.ckpt", (1, 8)),
        ("checkpoint_final_iteration=10.ckpt", (None, 10)),
        ("iter_4000.pth", (None, 4000)),
        ("step_1000.pt", (None, 1000)),
        ("step1000.pt", (None, 1000)),
        ("step-10", (None, 10)),
        ("iter_0000100", (None, 100)),
        ("iter_0000100/mp_rank_00/model_optim_rng.pt", (None, 100)),
        ("global_step100", (None, 100)),
        ("run/global_step100/mp_rank_00_model_states.pt", (None, 100)),
        ("out/checkpoint-500", (None, 500)),
        ("out/checkpoint-500/model.safetensors", (None, 500)),
        ("out/checkpoint-500/epoch=3.ckpt", (3, None)),
        ("ep1-ba100-rank0.pt", (1, 100)),
        ("checkpoint3.pt", (3, None)),
        ("checkpoint0080.pth", (80, None)),
        ("checkpoint_3_1000.pt", (3, 1000)),
        ("model_0009999.pth", (None, 9999)),
        ("ckpt.02-1.95.pt", (2, None)),
        ("best_acc_epoch_1.pth", (1, None)),
        ("best_coco_bbox_mAP_iter_4000.pth", (None, 4000)),
        ("max_epochs=100-epoch=3.ckpt", (3, None)),
        ("dreambooth-step-00500.safetensors", (None, 500)),
        # Ambiguous, or something else.
        ("3-16.ckpt", NOTHING),
        ("checkpoint-9.pth", NOTHING),  # of Transformers a step, of MAE an epoch
        ("checkpoint_2_val_acc=0.7000.pt", NOTHING),
        ("checkpoint_20251011_004442.pt", NOTHING),
        ("checkpoint_2025_10.pt", NOTHING),
        ("model_1000.pt", NOTHING),
        ("epoch_1_epoch_2.pt", NOTHING),
        ("epoch=2.5.pt", NOTHING),
        ("resnet50_200epochs.pth", NOTHING),
        ("epochs=100.pt", NOTHING),
        ("warmup_steps_500.pt", NOTHING),
        ("timestep_5.pt", NOTHING),
        ("ep_1000.pt", NOTHING),  # an episode, perhaps
        ("checkpoint-500/last/best/model.pt", NOTHING),
        # The word before belongs to the counter, or may.
        ("ddim_steps_50.pt", NOTHING),
        ("sample_steps=50.ckpt", NOTHING),
        ("inference_steps-20.pt", NOTHING),
        ("rollout_steps_128.pt", NOTHING),
        ("unroll_steps_5.pt", NOTHING),
        ("accum_step=4.ckpt", NOTHING),
        ("decay_step=10.ckpt", NOTHING),
        ("k_step_10.pt", NOTHING),
        ("two_step_3.pt", NOTHING),
        ("sdxl_lightning_step_4.safetensors", NOTHING),
        ("turbo_steps_4.safetensors", NOTHING),
        ("distilled_step_4.safetensors", NOTHING),
        ("adv_steps=10.pt", NOTHING),
        ("pgd_iter_10.pt", NOTHING),
        ("attack_iters_10.pt", NOTHING),
        ("raft_iters_12.pth", NOTHING),
        ("gru_iters=22.pth", NOTHING),
        ("resume_from_step_1000.pt", NOTHING),
        ("from_checkpoint_step_1000.pt", NOTHING),
        ("lr_decay_epoch_30.pt", NOTHING),
        ("drop_epoch=30.pt", NOTHING),
        ("swa-start-epoch=5.ckpt", NOTHING),
        ("mixup_off_epoch=15.pt", NOTHING),
        ("unfreeze_epoch_5.pt", NOTHING),
        ("pretrain_epoch=5.pt", NOTHING),
        ("pretrain_epoch_5.pt", NOTHING),
        ("max_train_steps=500.pt", NOTHING),
        ("train_steps=500.pt", NOTHING),
        ("unet_steps_50.pt", NOTHING),
        ("lcm-lora-step=4.safetensors", NOTHING),
        ("horizon-step=5.pt", NOTHING),
        ("swa-epoch=5.ckpt", NOTHING),
        ("ddim50_steps_20.pt", NOTHING),
        ("refine_iters=3-epoch=2.ckpt", (2, None)),
        ("accum_steps=4-step=100.ckpt", (None, 100)),
        ("freeze_epoch=5-epoch=9.ckpt", (9, None)),
        ("ddim_steps=50_epoch=3.ckpt", (3, None)),
        # The plain one is surer than that of the best or of the last one.
        ("best_epoch=5-epoch=9.ckpt", (9, None)),
        ("best_epoch_5_epoch_9.pt", (9, None)),
        # Names of experiments and of models.
        ("mymodel_epoch=3.ckpt", (3, None)),
        ("sample-mnist-epoch=02-val_loss=0.32.ckpt", (2, None)),  # Lightning's documentation
        ("netG_epoch_24.pth", (24, None)),
        ("resnet18_epoch_3.pth", (3, None)),
        ("exp_global_step=5.ckpt", (None, 5)),
        ("train_step=5.ckpt", (None, 5)),
        ("latest_step_9.pt", (None, 9)),
        ("opt=adam_epoch=3.ckpt", (3, None)),
        ("loss_nan_epoch_3.pt", (3, None)),
        ("epoch.3.pt", (3, None)),
        ("epoch 3.pt", (3, None)),
        ("ep003-loss0.051-val_loss0.062.pth", (3, None)),
        ("ep-3.pt", NOTHING),
        ("rl_model_50000_steps.zip", (None, 50000)),
        ("checkpoint_500_steps.pt", (None, 500)),
        ("diffusion_50_steps.pt", NOTHING),
    ],
)
def test_epoch_and_step_are_read_in_the_usual_spellings(name: str, counts: tuple[int | None, int | None]) -> None:
    assert parse_name(name)[:2] == counts


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("mymodel_epoch=3_val_loss=0.30.ckpt", {"val_loss": 0.3}),
        ("lr=0.01-bs=32-epoch=1-val_loss=0.500.ckpt", {"val_loss": 0.5}),
        ("best_checkpoint_2_val_acc=0.9000.ckpt", {"val_acc": 0.9}),
        ("net_key_metric=0.8123.pt", {"key_metric": 0.8123}),
        ("megatron--val_loss=6.17-step=10-consumed_samples=80.0-last.ckpt", {"val_loss": 6.17}),
        ("model_epoch_3_loss_0.2345.pth", {"loss": 0.2345}),
        ("top_5_acc=0.91.pt", {"top_5_acc": 0.91}),
        ("fold=3-epoch=1.ckpt", {}),
        ("fold=3-seed=0.5-lr=0.001-rank=1-version=2-date=20250101.ckpt", {}),
        ("last_best_acc=0.9.pt", {}),
        ("ckpt.02-1.95.pt", {}),
        ("ema_0.9999_010000.pt", {}),
        ("dropout-0.25_alpha-0.75.pt", {}),
        # Settings, and counts of what the file was made of.
        ("precision=16.ckpt", {}),
        ("precision=16-epoch=3.ckpt", {}),
        ("recall_k=10.pt", {}),
        ("per=2.pt", {}),
        ("val_set=3-epoch=1.ckpt", {}),
        ("val_set=0.5-epoch=1.ckpt", {}),
        ("test_speaker=12-epoch=1.ckpt", {}),
        ("test_subject=5-acc=0.70.ckpt", {"acc": 0.7}),
        ("lambda_loss=10.pt", {}),
        ("lambda_loss=0.5.pt", {}),
        ("lambda-loss=0.5.pt", {}),
        ("lambda-loss-0.50-epoch-3.pt", {}),
        ("w_loss=0.3.pt", {}),
        ("w-loss=0.3.pt", {}),
        ("num_losses=2.pt", {}),
        ("target_acc=0.90.pt", {}),
        ("label_error=0.1.pt", {}),
        ("kl_0.01_beta_vae.pt", {}),
        ("kl=0.01-epoch=3.pt", {}),
        ("snr=5.0.pt", {}),
        ("dice_0.50-bce_0.50.pt", {}),  # weights of a loss: nothing says that they were measured
        ("acc_0.9123.pth", {"acc": 0.9123}),
        ("precision=0.81-epoch=3.ckpt", {"precision": 0.81}),
        ("val_loss=2.ckpt", {}),
    ],
)
def test_a_number_is_a_metrics_only_by_its_name(name: str, metrics: dict[str, float]) -> None:
    assert parse_name(name).metrics == metrics


def test_a_name_that_the_checkpoint_or_its_run_has_is_a_metrics() -> None:
    assert parse_name("epoch=1-NDS=0.51.ckpt").metrics == {}
    assert parse_name("epoch=1-NDS=0.51.ckpt", {"NDS"}).metrics == {"NDS": 0.51}
    assert parse_name("mymodel_pts_nds=0.51.ckpt", {"pts_nds"}).metrics == {"pts_nds": 0.51}
    assert parse_name("best-nds-0.5100.ckpt", {"val/nds"}).metrics == {"nds": 0.51}
    assert parse_name("focal_loss-2.00.ckpt", {"loss"}).metrics == {}
    assert parse_name("epoch=1-val_acc_epoch=1.ckpt", {"val_acc_epoch"})[:3] == (1, None, {"val_acc_epoch": 1.0})
    # What a run logs is not only metrics.
    assert parse_name("lr=0.01-seed=3-epoch=1.ckpt", {"lr", "seed", "epoch"})[:3] == (1, None, {})
    assert parse_name("lr-0.0100_beta-0.90.ckpt", {"lr", "optimizer/beta"}).metrics == {}


def test_a_number_before_a_score_is_an_epoch_or_a_step() -> None:
    assert [parse_name(f"{name}_val_acc=0.7.pt").lone for name in ("checkpoint_2", "a_model_30", "resnet_50", "x")] == [
        2, 30, None, None,
    ]  # fmt: skip


def test_a_metric_may_be_named_without_a_value() -> None:
    names = ("acc_epoch_1", "coco_bbox_mAP_iter_40", "model_epoch_2")
    assert [parse_name(f"best_{name}.pth").monitor for name in names] == ["acc", "coco_bbox_mAP", None]
    assert parse_name("best_coco_bbox_mAP_iter_40.pth", {"coco/bbox_mAP"}).monitor == "coco/bbox_mAP"
    assert [parse_name(f"best_{name}_iter_3.pth").monitor for name in ("val_set", "lambda_loss")] == [None, None]


def test_nan_is_a_number_of_a_metric() -> None:
    assert math.isnan(parse_name("epoch=1-val_loss=nan.ckpt").metrics["val_loss"])
    assert math.isnan(parse_name("best-hmean-nan.ckpt").metrics["hmean"])


def test_lone_numbers_are_whole_and_have_no_name() -> None:
    assert lone_numbers("run_7/03-16_v1_lr0.1_val=4.ckpt") == {3, 16}


def test_of_the_thousands_of_metrics_that_a_run_has_only_those_in_the_name_are_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def counted(real: Callable[[str], Any]) -> Callable[[str], Any]:
        return lambda name: (asked.append(name), real(name))[1]  # type: ignore[func-returns-value]

    for place, name in ((names, "words_of"), (names, "is_setting_name"), (re, "escape")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    known = {f"layer_{i}/grad_norm" for i in range(3_000)} | {"val/foo_bar", "foo_bar", "NDS"}
    found = parse_name("net-foo_bar=0.25-epoch=3-NDS-0.75.ckpt", known)
    assert (found.epoch, found.metrics) == (3, {"foo_bar": 0.25, "NDS": 0.75})
    assert set(asked) <= {"val/foo_bar", "foo_bar", "NDS", "epoch"}


@pytest.mark.parametrize(
    ("name", "own", "left", "warning"),
    [
        ("epoch=3-val_loss=0.12.pt", {"val_loss": 0.12345}, {"val_loss": 0.12345}, None),
        ("epoch=3-val_loss=0.12.pt", {"val_loss": 0.1299}, {"val_loss": 0.1299}, None),  # cut off, not rounded
        ("epoch=3-val_loss=0.12.pt", {"val/loss": 0.12345, "train/loss": 0.3}, {"val/loss": 0.12345}, None),
        ("best_hmean-0.8920.pt", {"val/hmean": 0.89204}, {"val/hmean": 0.89204}, None),
        ("epoch=3-val_loss=0.12.pt", {"acc": 0.5}, {"val_loss": 0.12}, None),
        ("epoch=3-val_loss=nan.pt", {"val_loss": math.inf}, {"val_loss": math.inf}, None),
        ("model_acc=0.9.pt", {"acc": 0.75}, {}, "acc 0.9 of its name was not used: the checkpoint or its run has 0.75"),
        ("acc=0.9000.pt", {"acc": 0.95}, {}, "acc 0.9 of its name was not used: the checkpoint or its run has 0.95"),
    ],
)
def test_the_exact_number_wins_over_the_names(
    name: str, own: dict[str, float], left: dict[str, float], warning: str | None
) -> None:
    named, warnings = reconcile(parse_name(name, own), Facts(), own)
    assert (named.metrics, warnings) == (left, [] if warning is None else [warning])


@pytest.mark.parametrize(
    ("facts", "is_used"),
    [
        (Facts(epoch=3, global_step=30), False),
        (Facts(epoch=5, global_step=30), False),
        (Facts(epoch=3), False),
        (Facts(), True),
        (Facts(epoch=5, global_step=50), True),
        (Facts(epoch=6, global_step=51), True),  # counted from 1
        (Facts(epoch=5, global_step=25, batches=50), True),  # the name counts batches
        (Facts(global_step=50), True),
    ],
)
def test_a_name_of_another_epoch_or_step_is_not_used(facts: Facts, is_used: bool) -> None:
    named = parse_name("epoch=5-step=50-val_loss=0.5.ckpt")
    left, warnings = reconcile(named, facts, {})
    assert (left.epoch, left.metrics) == ((5, {"val_loss": 0.5}) if is_used else (None, {}))
    assert [text.partition(",")[0] for text in warnings] == (
        [] if is_used else ["no number of its name was used: it says epoch 5"]
    )
