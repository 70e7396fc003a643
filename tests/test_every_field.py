"""A run that knows everything (Hydra, Lightning, an offline Weights & Biases run, our callback): nothing of it is lost.

Run as a program, this file is the training.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.paths import INDEX_NAME, LOCK_NAME, SIDECAR_SUFFIX
from tests.process import TIMEOUT_S, Daemon, index_equals_disk, run

CONFIG = """
exp_name: ocr_training_b
hydra: {run: {dir: outputs/2026-11-21/run}, job: {chdir: false}}
trainer: {max_epochs: 3}
model:
  name: ocrmodel
  encoder: {model_name: mobilenetv3_small_050, pretrained: true, frozen: false}
  decoder: {name: unet, in_channels: [16, 24], inner_channels: 32, output_channels: 64, bias: false}
  head: {name: db_head, in_channels: 64, k: 50}
  loss: {name: db_loss, negative_ratio: 3.0}
callbacks:
  model_checkpoint:
    _target_: lightning.pytorch.callbacks.ModelCheckpoint
    dirpath: ${hydra:runtime.output_dir}/checkpoints
    filename: "{epoch}-{step}"
    monitor: val/hmean
    mode: max
    save_top_k: 2
    save_last: true
  metadata: {_target_: ckpt_indexer.lightning.MetadataCallback, training_phase: finetuning}
"""
HMEAN = (0.5, 0.875, 0.25)


class Trained(NamedTuple):
    """What the training left, and the identifier of its Weights & Biases run."""

    root: Path
    run_id: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run, trained once, with the sidecars and the index that the callback wrote."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.yaml").write_text(CONFIG)
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        environment[name] = str(folder / name)
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_every_field"]
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "CONFIG_FOLDER": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return Trained(folder / "outputs", json.loads(done.stdout.splitlines()[-1])["run_id"])


OURS = (f"*{SIDECAR_SUFFIX}", INDEX_NAME, LOCK_NAME)  # what a training without sidecars would not have left


@pytest.mark.parametrize("by", ["callback", "daemon", "rebuild"])
def test_the_sidecar_of_a_run_that_knew_everything_has_every_field(trained: Trained, tmp_path: Path, by: str) -> None:
    root, run_id = tmp_path / "outputs", trained.run_id
    ignored = shutil.ignore_patterns(*(OURS if by != "callback" else ()))
    shutil.copytree(trained.root, root, symlinks=True, ignore=ignored)
    if by == "daemon":
        with Daemon(root) as daemon:
            daemon.sync()
    elif by == "rebuild":
        assert run("rebuild", root).returncode == 0
    if by != "callback":  # the run's log goes on after the last save; the callback does not
        assert index_equals_disk(root)
    key = "2026-11-21/run/checkpoints/epoch=1-step=4.ckpt"
    document = yaml.safe_load((root / f"{key}.metadata.yaml").read_text())
    indexer = document.pop("indexer")
    assert document.pop("created_at")
    assert document == {
        "schema_version": "1.0",
        "checkpoint_path": key,
        "exp_name": "ocr_training_b",
        "training": {"epoch": 1, "global_step": 4, "training_phase": "finetuning", "max_epochs": 3},
        "model": {
            "architecture": "ocrmodel",
            "encoder": {"model_name": "mobilenetv3_small_050", "pretrained": True, "frozen": False},
            "decoder": {
                "name": "unet",
                "in_channels": [16, 24],
                "inner_channels": 32,
                "output_channels": 64,
                "params": {"bias": False},
            },
            "head": {"name": "db_head", "in_channels": 64, "params": {"k": 50}},
            "loss": {"name": "db_loss", "params": {"negative_ratio": 3.0}},
        },
        "metrics": {
            "precision": 0.75,
            "recall": 0.625,
            "hmean": 0.875,
            "validation_loss": 0.5,
            "additional_metrics": pytest.approx(
                {"val/precision": 0.75, "val/recall": 0.625, "val/hmean": 0.875, "val/loss": 0.5, "train/loss": 1.0}
            ),
        },
        "checkpointing": {"monitor": "val/hmean", "mode": "max", "save_top_k": 2, "save_last": True},
        "hydra_config_path": "2026-11-21/run/.hydra/config.yaml",
        "wandb_run_id": run_id,
    }
    assert indexer["source"] == "embedded"
    assert indexer["sources"] == {
        "training": "embedded",
        "exp_name": "config",
        "metrics": "embedded",
        "model": "config",
        "hydra_config_path": "config",
        "wandb_run_id": "embedded",
        "checkpointing": "embedded",
        "run_best": "checkpoint",
    }
    indexer.pop("wandb_fingerprint")  # the run's log may not have been begun on disk when the callback looked
    assert [name for name, value in indexer.items() if value is None] == [
        "other_fingerprint", "problem", "twin", "epoch", "global_step", "datamodule_hyper_parameters",
    ]  # fmt: skip
    entry = read_index(root).entries[key]
    assert (entry.monitor and entry.monitor.value, entry.wandb_run_id) == (0.875, run_id)


def train() -> None:
    import hydra
    import lightning
    import torch
    from lightning.pytorch.loggers import WandbLogger

    class Module(lightning.LightningModule):
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            self.log("train/loss", 1.0)
            return self.layer(batch).square().mean()

        def validation_step(self, *_: Any) -> None:
            hmean = HMEAN[self.current_epoch]
            self.log_dict({"val/hmean": hmean, "val/precision": 0.75, "val/recall": 0.625, "val/loss": 0.5})

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    @hydra.main(version_base=None, config_path=os.environ["CONFIG_FOLDER"], config_name="config")
    def main(config: Any) -> None:
        folder = hydra.core.hydra_config.HydraConfig.get().runtime.output_dir
        logger = WandbLogger(project="ocr", save_dir=folder)
        trainer = lightning.Trainer(
            max_epochs=config.trainer.max_epochs,
            accelerator="cpu",
            callbacks=[hydra.utils.instantiate(each) for each in config.callbacks.values()],
            logger=logger,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = torch.utils.data.DataLoader(torch.randn(4, 2), batch_size=2)
        trainer.fit(Module(), data, data)
        run_id = logger.experiment.id
        logger.experiment.finish()
        print(json.dumps({"run_id": run_id}))

    main()


if __name__ == "__main__":
    train()
