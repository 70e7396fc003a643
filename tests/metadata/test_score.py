"""A checkpoint's score against what its training reached when it was saved: the run remembers, the files are read."""

from __future__ import annotations

import math
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.facts import Facts, MonitorState, RunBestFacts
from ckpt_indexer.metadata.compose import compose
from ckpt_indexer.metadata.names import parse_name
from ckpt_indexer.metadata.schema import Metrics
from ckpt_indexer.metadata.score import Score, find_score
from ckpt_indexer.paths import Key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.samples import Run


class Told(NamedTuple):
    monitor: str | None
    mode: str | None
    value: float | None


def read(path: Path) -> Facts:
    with path.open("rb", buffering=0) as file:
        return read_facts(file)


def told(path: Path, root: Path, *, name: str | None = None) -> Told:
    """Say which score the checkpoint at *path* gets, as if it were called *name*."""
    key = name or path.relative_to(root).as_posix()
    target = path.resolve().relative_to(root.resolve()).as_posix() if path.is_symlink() else None
    document = compose(key=Key(key), link_target=target, fingerprint=(1, 1, 1), facts=read(path), config=None)
    assert document.indexer is not None
    part = document.checkpointing
    return Told(part.monitor, part.mode, document.indexer.monitor_value)


def scores(run: Run) -> dict[str, float | None]:
    folder = run.folder / "checkpoints"
    found = {}
    for path in run.checkpoints:
        value = told(path, run.folder.parent).value
        found[path.relative_to(folder).as_posix()] = None if value is None else round(value, 4)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "ema",
        "exception",
        "halves",
        "interrupted",
        "metrics",
        "named",
        "plain",
        "several",
        "swa",
        "unmonitored",
        "weights",
    ],
)
def test_no_checkpoint_of_a_real_run_has_a_score_that_its_step_did_not_reach(name: str, runs: dict[str, Run]) -> None:
    run = runs[name]
    for path in run.checkpoints:
        monitor, _, value = told(path, run.folder.parent)
        if value is None:
            continue
        reached = run.score_at(read(path).global_step or 0)
        assert reached is not None, path
        assert value == pytest.approx({"val/hmean": reached, "val_loss": 1 - reached}[monitor or ""], abs=1e-4), path


def test_the_score_of_a_top_checkpoint_is_its_own_and_that_of_last_too(runs: dict[str, Run]) -> None:
    assert scores(runs["plain"]) == {
        "epoch=1-step=8.ckpt": 0.5,
        "epoch=2-step=12.ckpt": 0.3,
        "epoch=3-step=16.ckpt": 0.9,
        "last.ckpt": 0.9,  # Lightning saved none for epoch 4, whose 0.2 came in no top three
    }


def test_last_has_no_score_where_it_is_newer_than_the_last_top_checkpoint(runs: dict[str, Run]) -> None:
    last = read(runs["exception"].folder / "checkpoints" / "last.ckpt")
    assert (last.global_step, round(last.monitors[0].current_score or 0, 4)) == (14, 0.3)  # that of step 12
    assert scores(runs["exception"]) == {
        "epoch=0-step=4.ckpt": 0.1,
        "epoch=1-step=8.ckpt": 0.5,
        "epoch=2-step=12.ckpt": 0.3,
        "epoch=3-step=14.ckpt": None,
        "last.ckpt": None,
    }


def test_monitor_and_mode_are_told_without_a_score_too(runs: dict[str, Run]) -> None:
    run = runs["exception"]
    assert told(run.folder / "checkpoints" / "last.ckpt", run.folder.parent) == ("val/hmean", "max", None)


def test_a_link_has_the_score_of_its_target(runs: dict[str, Run]) -> None:
    run = runs["named"]
    last = run.folder / "checkpoints" / "last.ckpt"
    assert last.is_symlink()
    found = scores(run)
    assert found == {
        "epoch=1-val/hmean=0.5000.ckpt": 0.5,
        "epoch=2-val/hmean=0.3000.ckpt": 0.3,
        "epoch=3-val/hmean=0.9000.ckpt": 0.9,
        "last.ckpt": found[PurePosixPath(os.readlink(last)).as_posix()],
    }


def test_a_file_saved_outside_the_monitors_own_save_has_no_score(runs: dict[str, Run]) -> None:
    assert scores(runs["interrupted"]) == {
        "epoch=0-step=4.ckpt": 0.1,
        "epoch=1-step=8.ckpt": 0.5,
        "epoch=2-step=12.ckpt": 0.3,
        "last.ckpt": 0.3,  # saved with the last of the top three, and nothing after
        "manual.ckpt": None,
        "on_exception.ckpt": None,
    }


def test_last_is_not_confused_by_several_validations_in_one_epoch(runs: dict[str, Run]) -> None:
    # 0.5, 0.4 | 0.2, 0.8 | 0.1, 0.3: the names tell the epoch only.
    assert scores(runs["halves"]) == {"epoch=0.ckpt": 0.5, "epoch=1.ckpt": 0.8, "last.ckpt": None}


def test_each_of_several_monitors_scores_its_own_files(runs: dict[str, Run]) -> None:
    run = runs["several"]
    found = {path.name: told(path, run.folder.parent) for path in run.checkpoints}
    assert {name: (t.monitor, t.mode, t.value and round(t.value, 4)) for name, t in found.items()} == {
        "best.ckpt": ("val/hmean", "max", 0.9),
        "loss-epoch=3.ckpt": ("val_loss", "min", 0.1),
        "last.ckpt": ("val/hmean", "max", None),
    }


def test_weights_alone_have_the_number_of_their_name(runs: dict[str, Run]) -> None:
    run = runs["weights"]
    assert {told(path, run.folder.parent) for path in run.checkpoints} == {
        ("val/hmean", None, 0.5),
        ("val/hmean", None, 0.3),
        ("val/hmean", None, 0.9),
    }


def test_without_a_monitor_there_is_no_score(runs: dict[str, Run]) -> None:
    run = runs["unmonitored"]
    assert {told(path, run.folder.parent) for path in run.checkpoints} == {(None, None, None)}


def test_a_renamed_file_has_the_metrics_it_carries_else_no_score(runs: dict[str, Run]) -> None:
    plain = runs["plain"].folder / "checkpoints" / "epoch=3-step=16.ckpt"
    assert told(plain, plain.parents[2], name="plain/checkpoints/best.ckpt") == ("val/hmean", "max", None)
    metrics = runs["metrics"].checkpoints[0]
    assert told(metrics, metrics.parents[2], name="x/best.ckpt") == ("val/hmean", "max", 0.5)
    named = "x/checkpoints/epoch=3-val/hmean=0.91.ckpt"
    assert told(plain, plain.parents[2], name=named) == ("val/hmean", "max", 0.91)


def test_metrics_that_user_code_left_are_the_checkpoints_own(runs: dict[str, Run]) -> None:
    path = runs["metrics"].checkpoints[0]
    document = compose(key=Key("a/x.ckpt"), link_target=None, fingerprint=(1, 1, 1), facts=read(path), config=None)
    assert (document.metrics.precision, document.metrics.recall, document.metrics.hmean) == (0.25, 0.75, 0.5)


def state(**more: object) -> MonitorState:
    return MonitorState(monitor="val/hmean", mode="max", **more)  # type: ignore[arg-type]


def test_one_name_in_two_folders_is_told_apart_by_the_folder() -> None:
    best = {"/m/checkpoints/epoch=1-val/hmean=0.7.ckpt": 0.71, "/m/checkpoints/epoch=2-val/hmean=0.7.ckpt": 0.72}
    monitor = state(best_k_models=best)
    first, second = (Facts(monitors=[monitor], epoch=epoch, validations_in_epoch=1) for epoch in (1, 2))
    assert find_score(["r/checkpoints/epoch=1-val/hmean=0.7.ckpt"], first, {}) == ("val/hmean", "max", 0.71, monitor)
    assert find_score(["r/checkpoints/epoch=2-val/hmean=0.7.ckpt"], second, {}) == ("val/hmean", "max", 0.72, monitor)
    # Moved out of its folder, it could be either.
    assert find_score(["hmean=0.7.ckpt"], first, {}).value is None


def test_paths_of_a_windows_machine_are_understood() -> None:
    monitor = state(
        best_k_models={"C:\\train\\checkpoints\\a.ckpt": 0.4}, last_model_path="C:\\train\\last.ckpt",
        dirpath="C:\\train\\checkpoints",
    )  # fmt: skip
    assert find_score(["train/checkpoints/a.ckpt"], Facts(monitors=[monitor]), {}).value == 0.4


# What one file says: where it was saved, when, and what it is listed as; then where it stands, and whose score that is.
_BEST = "/srv/base/checkpoints/epoch=1-step=8.ckpt"


@pytest.mark.parametrize(
    ("key", "changes", "value"),
    [
        ("base/checkpoints/epoch=1-step=8.ckpt", {}, 0.5),
        ("base/checkpoints/epoch=1-step=8.ckpt", {"global_step": 10}, None),  # saved by hand under the same name
        ("other/checkpoints/epoch=1-step=8.ckpt", {"global_step": 10}, None),
        ("renamed/checkpoints/epoch=1-step=8.ckpt", {}, 0.5),
        ("base/checkpoints/epoch=1-step=8.ckpt", {"current_score": 0.7}, None),  # a later save has another score
        ("base/checkpoints/best.ckpt", {"path": "/srv/base/checkpoints/best.ckpt"}, 0.5),
        ("other/checkpoints/best.ckpt", {"path": "/srv/base/checkpoints/best.ckpt"}, None),
        ("checkpoints/best.ckpt", {"path": "/srv/base/checkpoints/best.ckpt"}, None),  # whose checkpoints?
        ("other/checkpoints/epoch=1.ckpt", {"path": "/srv/base/checkpoints/epoch=1.ckpt"}, 0.5),
        ("other/checkpoints/epoch=1.ckpt", {"path": "/srv/base/checkpoints/epoch=1.ckpt", "validations": 2}, None),
        ("base/checkpoints/epoch=1-step=8.ckpt", {"global_step": 9, "epoch": 2, "version": "1.5.10"}, 0.5),
        ("moved/checkpoints/epoch=1-step=8.ckpt", {"global_step": 9, "epoch": 2, "version": "1.5.10"}, 0.5),
        ("base/checkpoints/epoch=1-step=8.ckpt", {"global_step": 9, "epoch": 2}, None),
        ("other/checkpoints/1-8.ckpt", {"path": "/srv/base/checkpoints/1-8.ckpt"}, 0.5),
        ("other/checkpoints/1-9.ckpt", {"path": "/srv/base/checkpoints/1-9.ckpt"}, None),
    ],
)
def test_a_listed_score_is_the_files_where_folder_and_step_agree(
    key: str, changes: dict[str, Any], value: float | None
) -> None:
    path = changes.get("path", _BEST)
    facts = Facts(
        epoch=changes.get("epoch", 1),
        global_step=changes.get("global_step", 8),
        lightning_version=changes.get("version", "2.6.6"),
        validations_in_epoch=changes.get("validations", 1),
        monitors=[
            state(
                best_k_models={path: 0.5}, current_score=changes.get("current_score", 0.5),
                dirpath="/srv/base/checkpoints",
            )
        ],
    )  # fmt: skip
    assert find_score([key], facts, {}).value == value


def test_a_file_saved_by_hand_under_the_name_of_another_folders_top_file_has_no_score(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Callback

    from tests.samples import saver, train

    class SaveByHand(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 10:
                trainer.save_checkpoint(tmp_path / "b/checkpoints/epoch=1-hmean=0.5000.ckpt")

    settings = {"filename": "epoch={epoch}-hmean={val/hmean:.4f}", "auto_insert_metric_name": False}
    train(tmp_path / "a", [saver(tmp_path / "a", **settings), SaveByHand()], max_epochs=3)
    own, by_hand = (tmp_path / f"{run}/checkpoints/epoch=1-hmean=0.5000.ckpt" for run in "ab")
    assert [told(path, tmp_path) for path in (own, by_hand)] == [("val/hmean", "max", 0.5), ("val/hmean", "max", None)]
    key = by_hand.relative_to(tmp_path).as_posix()
    document = compose(key=Key(key), link_target=None, fingerprint=(1, 1, 1), facts=read(by_hand), config=None)
    assert document.metrics == Metrics()
    assert document.indexer is not None
    (warning,) = document.indexer.warnings
    assert warning.startswith("the score 0.5 of ")
    assert warning.endswith("a/checkpoints/epoch=1-hmean=0.5000.ckpt was not used: that is another save")


@pytest.mark.parametrize(
    ("key", "best", "value"),
    [
        ("out/checkpoint-8", RunBestFacts("eval_acc", 0.9, "max", "/m/out/checkpoint-8"), 0.9),
        ("moved/checkpoint-8", RunBestFacts("eval_acc", 0.9, "max", "/m/out/checkpoint-8"), 0.9),
        ("out/checkpoint-8", RunBestFacts("eval_acc", 0.9, "max", "/m/out/checkpoint-4"), None),
        ("out/best.ckpt", RunBestFacts("eval_acc", 0.9, "max", "/m/out/best.ckpt"), 0.9),
        ("in/best.ckpt", RunBestFacts("eval_acc", 0.9, "max", "/m/out/best.ckpt"), None),
        ("out/best.ckpt", RunBestFacts(None, 0.9, None, "/m/out/best.ckpt"), None),
        ("out/best.ckpt", RunBestFacts("best_acc", 0.9, None, None), None),
    ],
)
def test_the_runs_best_is_the_files_own_only_if_its_path_is(key: str, best: RunBestFacts, value: float | None) -> None:
    assert find_score([key], Facts(epoch=1, global_step=8, run_best=best), {}).value == value


@pytest.mark.parametrize(
    ("name", "facts", "counts"),
    [
        ("checkpoint_2_val_acc=0.7.pt", Facts(global_step=6), (2, 6)),
        ("checkpoint_6_val_acc=0.7.pt", Facts(global_step=6), (None, 6)),
        ("checkpoint_4_val_acc=0.7.pt", Facts(global_step=6), (None, 6)),
        ("checkpoint_2_val_acc=0.7.pt", Facts(), (None, None)),
        ("checkpoint_2_val_acc=0.7.pt", Facts(epoch=3, global_step=6), (3, 6)),
        ("epoch_2.pt", Facts(epoch=3), (3, None)),
    ],
)
def test_what_the_file_counts_wins_and_tells_what_a_name_counts(name: str, facts: Facts, counts: Any) -> None:
    document = compose(key=Key(name), link_target=None, fingerprint=(1, 1, 1), facts=facts, config=None)
    assert (document.training.epoch, document.training.global_step) == counts


def test_a_name_alone_gives_a_monitor_where_it_says_so() -> None:
    def monitor(name: str, **facts: Any) -> tuple[str | None, float | None]:
        document = compose(key=Key(name), link_target=None, fingerprint=(1, 1, 1), facts=Facts(**facts), config=None)
        assert document.indexer is not None
        return document.checkpointing.monitor, document.indexer.monitor_value

    assert monitor("checkpoint_2_val_acc=0.7000.pt") == ("val_acc", 0.7)
    assert monitor("fold=3-lr=0.5-epoch=1.pt") == (None, None)
    assert monitor("ckpt.02-1.95.pt") == (None, None)
    assert monitor("best_acc_epoch_1.pth") == ("acc", None)
    assert monitor("best_acc_epoch_1.pth", metrics={"metrics": {"acc": 0.5}}) == ("acc", 0.5)


def test_a_score_that_was_nan_is_nan(tmp_path: Path) -> None:
    from tests.samples import Tiny, saver, train

    run = train(
        tmp_path / "r",
        [saver(tmp_path / "r", filename="{epoch}-{val/hmean:.2f}", save_top_k=-1, save_last=True)],
        model=Tiny((0.5, math.nan)),
        max_epochs=2,
    )
    found = {path.name: told(path, tmp_path).value for path in run.checkpoints}
    assert found.pop("hmean=0.50.ckpt") == 0.5
    assert [name for name, value in found.items() if value is not None and math.isnan(value)] == [
        "hmean=nan.ckpt", "last.ckpt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "filename",
    [
        "epoch-{epoch:02d}_step-{step:06d}",
        "{epoch:02d}-{step}",
        "ep{epoch}_it{step}",
        "e{epoch}",
        "{epoch}_{val/hmean}",
    ],
)
def test_last_has_the_score_of_its_step_however_the_step_is_spelled(tmp_path: Path, filename: str) -> None:
    from tests.samples import saver, train

    run = train(
        tmp_path / "r",
        [saver(tmp_path / "r", filename=filename, auto_insert_metric_name=False, save_last=True)],
        max_epochs=4,
    )
    known = {"ep{epoch}_it{step}": None, "e{epoch}": None, "{epoch}_{val/hmean}": None}
    value = told(run.folder / "checkpoints" / "last.ckpt", tmp_path).value
    assert value == pytest.approx(known.get(filename, 0.9))


def test_last_has_the_score_if_its_step_is_that_of_the_top_checkpoint() -> None:
    monitor = state(best_k_models={"/m/epoch=1-step=8.ckpt": 0.5}, current_score=0.5, last_model_path="/m/last.ckpt")
    assert find_score(["last.ckpt"], Facts(monitors=[monitor], global_step=8), {}).value == 0.5
    assert find_score(["last.ckpt"], Facts(monitors=[monitor], global_step=12), {}).value is None


def test_a_file_without_monitors_has_no_score() -> None:
    assert find_score(["a.ckpt"], Facts(), {"val/hmean": 1.0}) == Score()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("epoch=2-val/hmean=0.7188.ckpt", {"val/hmean": 0.7188}),
        ("r/checkpoints/best-epoch=0-val_loss=0.87-v1.ckpt", {"val_loss": 0.87}),
        ("epoch=1-val/loss=-0.5-val/hmean=1e-05.ckpt", {"val/loss": -0.5, "val/hmean": 1e-5}),
        ("epoch=0-val_loss=inf.ckpt", {"val_loss": float("inf")}),
        ("3-32.ckpt", {}),
        ("last.ckpt", {}),
        ("epoch=2-step=30.ckpt", {}),
        ("lr=0.1/checkpoints/last.ckpt", {}),
        ("lr=0.1-seed=3/last.ckpt", {}),
        ("fold=3-seed=0.1-lr=0.001-bs=16.ckpt", {}),
        ("epoch-03_step-000103_hmean-0.8920.ckpt", {"hmean": 0.892}),
        ("best-hmean-0.8920.ckpt", {"hmean": 0.892}),
        ("best_val_loss-0.1234.ckpt", {"val_loss": 0.1234}),
        ("x/epoch_epoch=01-step_step=0546-loss_val/loss=1.6217.ckpt", {"val/loss": 1.6217}),
        ("last_20251011_004442.ckpt", {}),
        ("best-v1.ckpt", {}),
        ("unet-1.5-lr-0.001.ckpt", {}),
        ("focal_loss-2.00-epoch-4.ckpt", {}),
        ("db_loss-1.0_resnet.ckpt", {}),
        ("iou-0.5_best.ckpt", {}),
        ("epoch=1-loss=1.5e+02.ckpt", {"loss": 150.0}),
        ("acc-12.ckpt", {}),
        ("epoch=3/hmean=0.5.ckpt", {"hmean": 0.5}),
        ("hmean=.ckpt", {}),
        ("=0.5.ckpt", {}),
        ("a=1.2.3.ckpt", {}),
    ],
)
def test_the_numbers_of_a_name_are_read(name: str, numbers: dict[str, float]) -> None:
    assert parse_name(name).metrics == numbers


@pytest.mark.parametrize(
    ("name", "epoch", "step"),
    [
        ("epoch-03_step-000103.ckpt", 3, 103),
        ("epoch-03_step-000103_hmean-0.8920.ckpt", 3, 103),
        ("x/epoch_epoch=01-step_step=0546-loss_val/loss=1.6217.ckpt", 1, 546),
        ("resnet18_bs12_epoch_epoch=0_step_step=13.ckpt", 0, 13),
        ("epoch=2-step=30-v1.ckpt", 2, 30),
        ("checkpoint_epoch=2.ckpt", 2, None),
        ("last_20251011_004442.ckpt", None, None),
        ("best.ckpt", None, None),
        ("resnet18_bs12.ckpt", None, None),
    ],
)
def test_epoch_and_step_of_a_name_are_read(name: str, epoch: int | None, step: int | None) -> None:
    assert parse_name(name)[:2] == (epoch, step)


def test_a_file_that_says_nothing_has_the_epoch_step_and_score_of_its_name() -> None:
    key = "x/checkpoints/epoch-03_step-000103_hmean-0.8920.ckpt"
    document = compose(key=Key(key), link_target=None, fingerprint=(1, 1, 1), facts=Facts(), config=None)
    assert document.indexer is not None
    assert (document.training.epoch, document.training.global_step, document.metrics.hmean) == (3, 103, 0.892)
    assert (document.checkpointing.monitor, document.indexer.monitor_value) == ("hmean", 0.892)
    assert document.indexer.sources["training"] == "name"


def test_a_name_has_the_last_part_of_its_monitor() -> None:
    facts = Facts(epoch=3, monitors=[state()])
    document = compose(
        key=Key("x/best-hmean-0.8920.ckpt"), link_target=None, fingerprint=(1, 1, 1), facts=facts, config=None
    )
    assert document.indexer is not None
    assert (document.checkpointing.monitor, document.indexer.monitor_value) == ("val/hmean", 0.892)
    assert document.indexer.sources["metrics"] == "name"
