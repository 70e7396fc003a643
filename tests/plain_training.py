"""A real training run, as a program: Hydra makes the run's folder, Lightning trains and saves.

After each epoch, and at the end, it prints one JSON line with what ``torch.load`` finds in every checkpoint below the
run's folder, then waits for a line on standard input before it goes on.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import hydra
import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

SCORES = [0.5, 0.7188, 0.25, 0.875, 0.0625, 0.9375]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(8, 4)
        self.head = torch.nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


class Module(lightning.LightningModule):
    def __init__(self, width: int, name: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = Net()

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.model(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val/hmean", torch.tensor(SCORES[self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Barrier(Callback):
    def on_train_epoch_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        if trainer.current_epoch:
            pause()

    def on_fit_end(self, *_: object) -> None:
        pause()


def pause() -> None:
    facts = {}
    for path in sorted(Path(os.environ["RUN_FOLDER"]).rglob("*.ckpt")):
        checkpoint = torch.load(path, weights_only=False)
        state = next(v for k, v in checkpoint["callbacks"].items() if k.startswith("ModelCheckpoint"))
        facts[str(path)] = {
            "epoch": checkpoint["epoch"],
            "global_step": checkpoint["global_step"],
            "monitor": state["monitor"],
            "score": state["current_score"].item(),
            "parameters": sum(t.numel() for t in checkpoint["state_dict"].values()),
        }
    print(json.dumps(facts), flush=True)
    sys.stdin.readline()


@hydra.main(version_base=None, config_path=None, config_name=None)
def main(config: object) -> None:
    warnings.simplefilter("ignore")
    folder = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    filename = os.environ.get("CHECKPOINT_NAME", "{epoch}-{val/hmean:.4f}")
    save_last = "link" if os.environ.get("SAVE_LAST") == "link" else True
    saver = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename=filename,
        monitor="val/hmean",
        mode="max",
        save_top_k=3,
        save_last=save_last,
    )
    trainer = lightning.Trainer(
        max_epochs=len(SCORES),
        accelerator="cpu",
        callbacks=[saver, Barrier()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.randn(16, 8), batch_size=4)
    trainer.fit(Module(width=8, name="tiny"), data, data)


if __name__ == "__main__":
    main()
