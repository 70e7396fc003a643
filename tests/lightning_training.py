"""A training run with our callback, as a program of its own.

``python -m tests.lightning_training fork|spawn|sharded FOLDER PACKAGE``: two processes, or one that writes folders;
PACKAGE is one of Lightning's names.
With Hydra's flags (``--config-dir``): its configuration's callbacks. The last line it prints is JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

pl: Any = importlib.import_module("pytorch_lightning" if "pytorch_lightning" in sys.argv else "lightning.pytorch")
_Module: Any = pl.LightningModule
_Callback: Any = pl.Callback


class Module(_Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def configure_model(self) -> None:
        """Do nothing: the strategy that shards wants it to be there."""

    def training_step(self, batch: torch.Tensor, _: int) -> Any:
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val/hmean", 0.5 + self.current_epoch / 8, sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SaveByHand(_Callback):
    """Saves on every rank before the epoch's loss is reduced over them; to reduce it alone is to wait for ever."""

    def __init__(self, ours: Any) -> None:
        self.ours = ours

    def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
        assert (self.ours._writer is not None) == (trainer.is_global_zero and trainer.current_epoch > 0)

    def on_train_epoch_end(self, trainer: Any, _: Any) -> None:
        folder = trainer.checkpoint_callback.dirpath
        trainer.save_checkpoint(os.path.join(folder, "weights.ckpt"), weights_only=True)
        trainer.save_checkpoint(os.path.join(folder, "whole.ckpt"))


def train(folder: Path, callbacks: list[Any], *, workers: int = 0, **settings: Any) -> None:
    warnings.simplefilter("ignore")
    saver = pl.callbacks.ModelCheckpoint(
        dirpath=folder / "checkpoints", monitor="val/hmean", mode="max", save_top_k=2, save_last=True
    )
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[saver, *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **settings,
    )
    loaders = (torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2, num_workers=n) for n in (workers, 0))
    trainer.fit(Module(), *loaders)


def main() -> None:
    from ckpt_indexer.lightning import MetadataCallback

    start, folder = sys.argv[1], Path(sys.argv[2])
    callback = MetadataCallback(outputs_dir=folder.parent)
    if start == "sharded":
        train(folder, [callback], strategy=pl.strategies.ModelParallelStrategy(1, 1), devices=1)
    else:
        train(folder, [callback, SaveByHand(callback)], strategy=f"ddp_{start}", devices=2)
    print(json.dumps([name for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules]))


def main_under_hydra() -> None:
    import hydra

    @hydra.main(version_base=None, config_path=None)
    def run(config: Any) -> None:
        folder = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
        callbacks = [hydra.utils.instantiate(callback) for callback in config.callbacks.values()]
        train(folder, callbacks, workers=1)
        print(json.dumps([str(folder), callbacks[0].outputs_dir]))

    run()


if __name__ == "__main__":
    main_under_hydra() if "--config-dir" in sys.argv else main()
