"""Which of what lies near a checkpoint is its own: every finding, and a base model in a real fine-tuning with wandb.

Run as a program, this file is the fine-tuning.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.catalog import build_catalog
from ckpt_indexer.formats.facts import Facts, LoggedRow, MonitorState, TensorFacts
from ckpt_indexer.metadata.belonging import Bearing, Finding, Near, Own, is_used, judge_nearby
from ckpt_indexer.model import Unused
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.paths import Key
from ckpt_indexer.trackers.wandb.run import Run
from tests.metadata.test_architecture import shapes_of
from tests.process import TIMEOUT_S, index_equals_disk

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry

KEY = "finetune/checkpoints/epoch=1-step=8.ckpt"
HERE, BASE = "/srv/finetune/checkpoints", "/srv/base/checkpoints"
INFINITY = float("inf")
HOUR_NS = 3600 * 10**9
NOW_NS = 1_700_000_000 * 10**9
ROWS = [
    LoggedRow(epoch, 4 * epoch + 3, {"val_loss": loss})
    for epoch, loss in enumerate((0.5, 0.66, 0.4))
]  # fmt: skip


def test_the_rule_is_the_table() -> None:
    used = {
        (): True,
        (Bearing.ALIKE,): True,
        (Bearing.YOUNGER,): False,
        (Bearing.YOUNGER, Bearing.ALIKE): True,
        (Bearing.UNLIKELY,): False,
        (Bearing.UNLIKELY, Bearing.ALIKE): False,
        (Bearing.CONTRADICTS,): False,
        (Bearing.CONTRADICTS, Bearing.ALIKE): False,
    }
    for bearings, is_own in used.items():
        assert is_used([Finding(each) for each in bearings]) is is_own, bearings
    for count in range(3):
        for bearings in itertools.combinations(Bearing, count):
            is_own = Bearing.CONTRADICTS not in bearings
            assert is_used([Finding(Bearing.PROVES), *map(Finding, bearings)]) is is_own


def saved(dirpath: str | None = HERE, *, loss: float | None = 0.66, monitor: str = "val_loss", **changes: Any) -> Facts:
    """Return what a checkpoint says that was saved at epoch 1, step 8."""
    best = {} if loss is None else {f"{dirpath or HERE}/epoch=1-step=8.ckpt": loss}
    state = MonitorState(monitor=monitor, mode="min", current_score=loss, best_k_models=best, dirpath=dirpath)
    facts: dict[str, Any] = {
        "epoch": 1, "global_step": 8, "batches": 8, "validations_in_epoch": 1, "lightning_version": "2.6.6",
        "monitors": [state],
    }  # fmt: skip
    return Facts(**(facts | changes))


def plain(**changes: Any) -> Facts:
    """Return what a checkpoint says that holds weights and little else."""
    return Facts(**changes)


def resnet(layers: int) -> list[TensorFacts]:
    """Return the tensors of a torchvision ResNet."""
    return [TensorFacts(name, shape, "float32") for name, shape in shapes_of(f"torchvision resnet{layers}").items()]


def _config(**changes: Any) -> dict[str, Any]:
    return {"exp_name": "finetune", "model": {"encoder_name": "resnet50", "arch": "FPN"}, **changes}


SAVER = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val_loss"}
CONFIGS: list[tuple[str, Facts, dict[str, Any], str | None]] = [
    # what the checkpoint says, the configuration, and a word of why it is not used
    ("silent", plain(), _config(), None),
    ("alike", plain(hyper_parameters={"encoder_name": "resnet50", "arch": "FPN"}), _config(), None),
    ("encoder", plain(hyper_parameters={"encoder_name": "resnet18"}), _config(), "resnet18"),
    ("under args", plain(hyper_parameters={"args": {"encoder_name": "resnet18"}}), _config(), "resnet18"),
    ("decorated", plain(hyper_parameters={"encoder_name": "tu-resnet50.a1_in1k"}), _config(), None),
    ("own word", plain(hyper_parameters={"backbone": "my_backbone"}), _config(), None),
    ("architecture", plain(hyper_parameters={"arch": "Unet"}), _config(), "arch Unet"),
    ("another key", plain(hyper_parameters={"model_name": "Unet"}), _config(), None),
    ("decoder", plain(hyper_parameters={"decoder_name": "a"}), _config(decoder_name="b"), "decoder a"),
    ("node", plain(hyper_parameters={"head": {"name": "a"}}), _config(model={"head": {"name": "b"}}), "head a"),
    ("class", plain(hyper_parameters={"decoder": "unet"}), _config(model={"decoder": {"_target_": "x.FPN"}}), None),
    ("longer", plain(hyper_parameters={"decoder": "fpn"}), _config(model={"decoder": {"name": "FPNDecoder"}}), None),
    ("named model", plain(architecture="Unet"), _config(), "arch Unet"),
    ("whole model", plain(hyper_parameters={"arch": "resnet18"}), {"model": {"_target_": "x.resnet50"}}, "resnet18"),
    ("monitor", saved(monitor="val_acc"), _config(callbacks=[SAVER]), "val_acc"),
    ("same monitor", saved(), _config(callbacks=[SAVER]), None),
    ("old Lightning", saved(monitor="val_acc", lightning_version="1.5.0"), _config(callbacks=[SAVER]), None),
    ("elsewhere", saved(BASE), _config(), BASE),
    ("renamed folder", saved("/srv/finetune_old/checkpoints"), _config(exp_name="finetune_old"), None),
    ("past its end", plain(epoch=9), _config(trainer={"max_epochs": 3}), "epoch 9"),
    ("at its end", plain(epoch=3), _config(trainer={"max_epochs": 3}), None),
    ("number", saved("/srv/20251019/checkpoints"), _config(exp_name=20251019), None),
    ("another model, same encoder", plain(hyper_parameters={"model_name": "Unet", "encoder_name": "resnet50"}),
     {"model_name": "FPN", "encoder_name": "resnet50"}, "model_name Unet"),
    ("decorated model", plain(hyper_parameters={"model_name": "tu-resnet50"}),
     {"encoder": {"model_name": "resnet50.a1_in1k"}}, None),
    ("model, encoder's model", plain(hyper_parameters={"model_name": "Unet", "encoder_name": "resnet50"}),
     {"model": {"encoder": {"model_name": "resnet50"}}}, None),
    ("renamed, encoder alike", saved(BASE, hyper_parameters={"encoder_name": "resnet50"}), _config(), None),
    ("renamed, tensors alike", saved(BASE, tensors=resnet(50)), _config(), None),
    ("renamed, architecture alike", saved(BASE, hyper_parameters={"arch": "MyNet"}), {"arch": "my_net"}, None),
    ("renamed, monitor alike", saved(BASE), _config(callbacks=[SAVER]), BASE),
    ("renamed, decoder alike", saved(BASE, hyper_parameters={"decoder": "fpn"}), {"decoder": "fpn"}, BASE),
    ("renamed, another monitor", saved(BASE, monitor="val_acc", hyper_parameters={"encoder_name": "resnet50"}),
     _config(callbacks=[SAVER]), "val_acc"),
    ("no limit", plain(epoch=9), _config(trainer={"max_epochs": -1}), None),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "config", "reason"), [row[1:] for row in CONFIGS], ids=[row[0] for row in CONFIGS])
def test_a_configuration_is_used_unless_the_checkpoint_says_otherwise(
    facts: Facts, config: dict[str, Any], reason: str | None
) -> None:
    found = judge_nearby(Own(KEY, facts, NOW_NS), Near("finetune/.hydra/config.yaml", config, NOW_NS), None)
    assert found.has_config is (reason is None)
    if reason is None:
        assert found.warnings == []
    else:
        (warning,) = found.warnings
        assert re.match(
            r"the configuration finetune/.hydra/config.yaml (contradicts the file and )?was not used: ", warning
        )
        assert reason in warning


def test_tensors_contradict_a_configuration_unless_they_are_a_bystanders() -> None:
    near = Near("finetune/config.yaml", _config(), NOW_NS)
    told = plain(tensors=[TensorFacts(f"encoder.{t.name}", t.shape, t.dtype) for t in resnet(18)])
    teacher = plain(tensors=[TensorFacts(f"teacher.{t.name}", t.shape, t.dtype) for t in resnet(18)])
    alike = plain(tensors=resnet(50))
    assert [judge_nearby(Own(KEY, facts, NOW_NS), near, None).has_config for facts in (told, teacher, alike)] == [
        False, True, True,
    ]  # fmt: skip


def test_only_the_number_of_epochs_is_dropped_where_the_folder_says_that_the_rest_is_right() -> None:
    near = Near("finetune/config.yaml", _config(trainer={"max_epochs": 3}), NOW_NS)
    found = judge_nearby(Own(KEY, saved(epoch=9), NOW_NS), near, None)
    assert (found.has_config, found.has_max_epochs, len(found.warnings)) == (True, False, 1)


def test_a_configuration_that_was_written_long_after_the_checkpoint_has_to_be_alike() -> None:
    near = Near("finetune/config.yaml", _config(), NOW_NS + HOUR_NS)
    alike = plain(hyper_parameters={"encoder_name": "resnet50"})
    assert [judge_nearby(Own(KEY, facts, NOW_NS), near, None).has_config for facts in (plain(), alike)] == [False, True]
    assert judge_nearby(Own(KEY, plain(), NOW_NS), near._replace(mtime_ns=NOW_NS + 60 * 10**9), None).has_config
    older = saved(BASE, hyper_parameters={"encoder_name": "resnet50"})  # a base model of the same encoder
    assert not judge_nearby(Own(KEY, older, NOW_NS), near, None).has_config


def test_one_difference_is_one_finding() -> None:
    near = Near("finetune/config.yaml", {"encoder": {"model_name": "resnet50"}, "arch": "resnet50"}, NOW_NS)
    for told in ({"model_name": "resnet18"}, {"arch": "resnet18"}):
        (warning,) = judge_nearby(Own(KEY, plain(hyper_parameters=told), NOW_NS), near, None).warnings
        assert warning.endswith(": its hyper-parameters say resnet18, the configuration resnet50")


def test_a_configuration_of_the_checkpoints_own_name_is_only_contradicted() -> None:
    near = Near("finetune/checkpoints/epoch=1-step=8.config.yaml", _config(), NOW_NS + HOUR_NS)
    assert judge_nearby(Own(KEY, saved(BASE), NOW_NS), near, None).has_config
    other = saved(BASE, hyper_parameters={"encoder_name": "resnet18"})
    assert not judge_nearby(Own(KEY, other, NOW_NS), near, None).has_config


NO_STEP = saved(
    global_step=6, batches=6,
    monitors=[MonitorState(monitor="val_loss", current_score=0.3, best_k_models={"/a/epoch=1-step=6.ckpt": 0.3})],
)  # fmt: skip
RUNS: list[tuple[str, Facts, dict[str, Any], str | None]] = [
    # what the checkpoint says, what else is known of the run, and a word of why it is not used
    ("silent", plain(), {}, None),
    ("weights alone", plain(epoch=1, global_step=8, lightning_version="2.6.6"), {}, None),
    ("weights of two optimizers", plain(epoch=1, global_step=16, lightning_version="2.6.6"), {}, None),
    ("weights of longer epochs", plain(epoch=1, global_step=200, lightning_version="2.6.6"), {}, "at step 200"),
    ("weights of another loop", plain(epoch=1), {}, "Lightning did not"),
    ("same value", saved(), {}, None),
    ("same value in float32", saved(loss=0.6600000262260437), {}, None),
    ("same value elsewhere", saved("/scratch/job/out"), {}, None),
    ("another value", saved(loss=0.11), {}, "0.11"),
    ("another value elsewhere", saved(BASE, loss=0.11), {}, "0.11"),
    ("elsewhere", saved(BASE, loss=None), {}, BASE),
    ("elsewhere under its id", saved("/srv/project/el1e2may/checkpoints", loss=None), {}, None),
    ("no such step", NO_STEP, {}, "nothing at its step"),
    ("another epoch at that step", saved(epoch=0, loss=None), {}, "epoch 0"),
    ("past its end", plain(epoch=40), {}, "epoch 40"),
    ("not flushed yet", plain(epoch=3, lightning_version="2.6.6"), {}, None),
    ("older", plain(), {"started_ns": NOW_NS + HOUR_NS}, "began after"),
    ("another encoder", plain(hyper_parameters={"backbone": "vit_b"}), {"config": {"backbone": "resnet18"}}, "vit_b"),
    ("another monitor", saved(monitor="val_acc"), {}, "never logged"),
    ("a logger's prefix", saved(), {"rows": [LoggedRow(1, 7, {"a-val_loss": 0.1}), LoggedRow(2, 11, {})]}, None),
    ("NaN", saved(loss=INFINITY), {"rows": [LoggedRow(1, 7, {"val_loss": math.nan})]}, None),
    ("another value in a folder of its id", saved("/srv/project/el1e2may/checkpoints", loss=0.11), {}, None),
    ("same value, another encoder", saved(hyper_parameters={"backbone": "vit_b"}), {"config": {"backbone": "resnet18"}},
     "vit_b"),
    ("one elsewhere", saved(BASE, loss=1.0), {"rows": [LoggedRow(1, 7, {"val_loss": 1.0})]}, BASE),
    ("zero elsewhere", saved(BASE, loss=0.0), {"rows": [LoggedRow(1, 7, {"val_loss": 0.0})]}, BASE),
    ("NaN elsewhere", saved(BASE, loss=INFINITY), {"rows": [LoggedRow(1, 7, {"val_loss": math.nan})]}, BASE),
    ("infinity elsewhere", saved(BASE, loss=INFINITY), {"rows": [LoggedRow(1, 7, {"val_loss": INFINITY})]}, BASE),
    ("one here", saved(loss=1.0), {"rows": [LoggedRow(1, 7, {"val_loss": 1.0})]}, None),
    ("other batches", saved(loss=0.11, batches=16), {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "run", "reason"), [row[1:] for row in RUNS], ids=[row[0] for row in RUNS])
def test_a_run_is_used_unless_the_checkpoint_says_otherwise(
    facts: Facts, run: dict[str, Any], reason: str | None
) -> None:
    given = Run(**{"id": "el1e2may", "rows": ROWS, "started_ns": NOW_NS - HOUR_NS, **run})
    found = judge_nearby(Own(KEY, facts, NOW_NS), None, given)
    assert found.has_run is (reason is None)
    if reason is None:
        assert found.warnings == []
    else:
        assert re.match(r"the run el1e2may (contradicts the file and )?was not used: ", found.warnings[0])
        assert reason in found.warnings[0]


@pytest.mark.parametrize(("name", "is_own"), [("0.66", True), ("0.7", True), ("0.11", False), ("0.640", False)])
def test_the_number_in_a_name_is_held_against_the_log(name: str, is_own: bool) -> None:
    weights = plain(epoch=1, global_step=8, lightning_version="2.6.6")
    run = Run(id="el1e2may", rows=ROWS, started_ns=NOW_NS - HOUR_NS)
    own = Own(f"finetune/checkpoints/epoch=1-val_loss={name}.ckpt", weights, NOW_NS)
    assert judge_nearby(own, None, run).has_run is is_own


def test_the_training_process_knows_the_run_best() -> None:
    run = Run(id="el1e2may", rows=ROWS, started_ns=NOW_NS - HOUR_NS)
    assert judge_nearby(Own(KEY, saved(loss=0.11), NOW_NS, "el1e2may"), None, run).has_run
    assert not judge_nearby(Own(KEY, saved(), NOW_NS, "k705v87j"), None, Run(id="el1e2may")).has_run
    other = saved("/srv/project/el1e2may/checkpoints", hyper_parameters={"backbone": "resnet18"})
    run.config = {"backbone": "resnet50"}
    for facts in (saved(), other):  # the same value at its step, and the folder
        found = judge_nearby(Own(KEY, facts, NOW_NS, "k705v87j"), None, run)
        assert not found.has_run
        assert found.warnings == [
            "the run el1e2may contradicts the file and was not used: the run that saved it is k705v87j"
        ]


def test_what_the_run_did_not_write_has_not_its_configuration_either() -> None:
    run = Run(id="el1e2may", rows=ROWS, started_ns=NOW_NS - HOUR_NS)
    near = Near("finetune/config.yaml", _config(), NOW_NS)
    found = judge_nearby(Own(KEY, saved(None, loss=0.11), NOW_NS), near, run)
    assert (found.has_config, found.has_run, len(found.warnings)) == (False, False, 2)
    found = judge_nearby(Own(KEY, plain(hyper_parameters={"encoder_name": "resnet18"}), NOW_NS), near, run)
    assert (found.has_config, found.has_run, len(found.warnings)) == (False, False, 2)
    proven = saved(hyper_parameters={"encoder_name": "resnet18"})
    found = judge_nearby(Own(KEY, proven, NOW_NS), near, run)
    assert (found.has_config, found.has_run, len(found.warnings)) == (False, True, 1)


# --- on the disk ---


def indexed(root: Path) -> dict[str, Entry]:
    """Index the tree twice; the second time must read nothing."""
    for _ in range(2):
        with Indexer(str(root)) as indexer:
            indexer.load()
            indexer.scan_and_plan()
            indexer.finish()
    return dict(read_index(str(root)).entries)


def warnings_of(root: Path, key: str) -> list[str]:
    found: list[str] = yaml.safe_load((root / f"{key}.metadata.yaml").read_bytes())["indexer"]["warnings"]
    return found


def test_the_first_of_two_runs_in_one_folder_is_what_it_says_itself(tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "exp/checkpoints"
    folder.mkdir(parents=True)
    for name, encoder in (("first", "resnet18"), ("second", "resnet50")):
        told = {"arch": "FPN", "encoder_name": encoder}
        torch.save(
            {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.6.0", "hyper_parameters": told,
             "state_dict": {"a": torch.zeros(3)}},
            folder / f"{name}.ckpt",
        )  # fmt: skip
    (tmp_path / "exp/.hydra").mkdir()
    settings = {"exp_name": "second", "model": {"encoder_name": "resnet50"}, "trainer": {"max_epochs": 9}}
    (tmp_path / "exp/.hydra/config.yaml").write_text(yaml.safe_dump(settings))
    entries = indexed(tmp_path)
    first, second = entries["exp/checkpoints/first.ckpt"], entries["exp/checkpoints/second.ckpt"]
    assert (first.encoder, first.exp_name) == ("resnet18", "exp")
    assert (second.encoder, second.exp_name) == ("resnet50", "second")
    config = Key("exp/.hydra/config.yaml")
    assert (first.config_path, first.unused, second.config_path, second.unused) == (None, Unused(config), config, None)
    (warning,) = warnings_of(tmp_path, "exp/checkpoints/first.ckpt")
    assert "resnet18" in warning
    assert index_equals_disk(tmp_path)


def test_what_is_contradicted_makes_no_sidecar_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_the_first_of_two_runs_in_one_folder_is_what_it_says_itself(tmp_path)
    (tmp_path / ".checkpoint_index.json").unlink()  # the sidecars alone have to be enough
    from ckpt_indexer.sandbox.owner import Reader

    read: list[int] = []
    monkeypatch.setattr(Reader, "read_checkpoint", lambda _, descriptor: read.append(descriptor))
    entries = indexed(tmp_path)
    assert read == []
    first, second = entries["exp/checkpoints/first.ckpt"], entries["exp/checkpoints/second.ckpt"]
    assert (first.encoder, first.config_path, second.config_path) == ("resnet18", None, "exp/.hydra/config.yaml")


def test_a_configuration_that_was_not_used_is_read_again_when_it_changes(tmp_path: Path) -> None:
    test_the_first_of_two_runs_in_one_folder_is_what_it_says_itself(tmp_path)
    settings = {"exp_name": "first", "model": {"encoder_name": "resnet18"}}
    (tmp_path / "exp/.hydra/config.yaml").write_text(yaml.safe_dump(settings))
    entries = indexed(tmp_path)
    first, second = entries["exp/checkpoints/first.ckpt"], entries["exp/checkpoints/second.ckpt"]
    assert (first.exp_name, first.config_path, first.unused) == ("first", "exp/.hydra/config.yaml", None)
    assert (second.exp_name, second.config_path) == ("exp", None)


@pytest.mark.parametrize("switch", ["1", "0"])
def test_a_catalogue_has_only_configurations_that_are_the_checkpoints_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    test_the_first_of_two_runs_in_one_folder_is_what_it_says_itself(tmp_path)
    monkeypatch.setenv("CHECKPOINT_CATALOG_USE_V2", switch)
    found = {each.checkpoint_path.name: each.config_path for each in build_catalog(tmp_path).entries}
    assert found == {"first.ckpt": None, "second.ckpt": tmp_path / "exp/.hydra/config.yaml"}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("wandb")
    root = tmp_path_factory.mktemp("finetuned")
    environment = {**os.environ, "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_MODE": "offline"}
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "XDG_CACHE_HOME"):
        environment[name] = str(tmp_path_factory.mktemp(name))
    command = [sys.executable, "-W", "ignore", "-m", "tests.metadata.test_belonging", str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


def test_a_base_model_that_was_copied_into_a_fine_tuning_has_nothing_of_it(finetuned: Any) -> None:
    root, told = finetuned
    entries = indexed(root)
    for epoch, loss in enumerate((0.5, 0.66)):
        entry = entries[f"finetune/checkpoints/epoch={epoch}.ckpt"]
        assert (entry.wandb_run_id, entry.exp_name) == (told["run"], "finetune")
        assert entry.monitor is not None
        assert entry.monitor.value == pytest.approx(loss)
    assert warnings_of(root, "finetune/checkpoints/epoch=1.ckpt") == []
    for name in ("pretrained", "epoch=1-v1", "weights"):
        key = f"finetune/checkpoints/{name}.ckpt"
        entry = entries[key]
        assert (entry.wandb_run_id, entry.metrics, entry.monitor and entry.monitor.value) == (None, {}, None), name
        assert (entry.config_path, entry.wandb_path) == (None, None)
        assert entry.unused is not None
        assert entry.unused.config == "finetune/config.yaml"
        assert told["run"] in str(entry.unused.run)
        subjects = [re.split(" contradicts | was not used", warning)[0] for warning in warnings_of(root, key)]
        assert subjects[-2:] == [
            "the configuration finetune/config.yaml", f"the run {told['run']}",
        ]  # fmt: skip
    assert index_equals_disk(root)


def train() -> None:
    import lightning
    import torch
    import wandb
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import WandbLogger

    from tests.samples import trainer_settings

    root = Path(sys.argv[1])

    class Module(lightning.LightningModule):
        def __init__(self, losses: tuple[float, ...]) -> None:
            super().__init__()
            self.losses = losses
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.layer(batch).square().mean()

        def validation_step(self, batch: torch.Tensor, _: int) -> None:
            self.log("val_loss", self.losses[self.current_epoch])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class CopyIn(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
            if trainer.current_epoch == 1:
                place = root / "finetune/checkpoints"
                shutil.copy(root / "base/checkpoints/epoch=1.ckpt", place / "pretrained.ckpt")
                shutil.copy(root / "base/checkpoints/epoch=1.ckpt", place / "epoch=1-v1.ckpt")
                torch.save({"epoch": 40, "state_dict": {"a": torch.zeros(2)}}, place / "weights.ckpt")

    def fit(name: str, losses: tuple[float, ...], logger: Any, callbacks: list[Any]) -> None:
        data = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2)
        saver = ModelCheckpoint(root / name / "checkpoints", monitor="val_loss", save_top_k=-1, filename="{epoch}")
        settings = trainer_settings(root / name) | {"max_epochs": 2, "logger": logger, "log_every_n_steps": 1}
        lightning.Trainer(**settings, callbacks=[saver, *callbacks]).fit(Module(losses), data, data)

    fit("base", (0.9, 0.11), False, [])
    (root / "finetune").mkdir()
    (root / "finetune/config.yaml").write_text("exp_name: finetune\ntrainer: {max_epochs: 2}\n")
    logger = WandbLogger(project="p", save_dir=root / "finetune", settings=wandb.Settings(x_disable_stats=True))
    fit("finetune", (0.5, 0.66), logger, [CopyIn()])
    wandb.finish()
    print()
    print(json.dumps({"run": logger.version}))


if __name__ == "__main__":
    train()
