"""What the callback costs the training thread, save by save: ``python -m tests.benchmarks.lightning_callback``.

Small checkpoints are saved after each step, which is the worst case: there is next to nothing else to do, and the
callback's thread works all the time. The runs alternate, so that a busy machine is unfair to all of them alike.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from ckpt_indexer.lightning import MetadataCallback
from tests.samples import Tiny

SAVES = 400
ROUNDS = 5
NAMES = 20  # files, written over again and again


class SaveEachStep(Callback):
    """Saves after each step and takes the time of that, and from one step's end to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saves: list[float] = []
        self.steps: list[float] = []
        self._last = 0.0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        started = time.perf_counter()
        trainer.save_checkpoint(self.folder / "checkpoints" / f"{trainer.global_step % NAMES}.ckpt", weights_only=False)
        now = time.perf_counter()
        self.saves.append(now - started)
        if self._last:
            self.steps.append(now - self._last)
        self._last = now


def measure(root: Path, callbacks: list[Any]) -> SaveEachStep:
    timer = SaveEachStep(root / "exp")
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=str(root), callbacks=[*callbacks, timer],
    )  # fmt: skip
    trainer.fit(Tiny(), DataLoader(TensorDataset(torch.ones(SAVES, 4))))
    return timer


def main() -> None:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    kinds: dict[str, Any] = {
        "without": lambda _: [],
        "embedding": lambda root: [MetadataCallback(outputs_dir=root, generate_on_save=False)],
        "indexing": lambda root: [MetadataCallback(outputs_dir=root)],
    }
    saves: dict[str, list[float]] = {kind: [] for kind in kinds}
    steps: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, callbacks in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "exp").mkdir()
                timer = measure(Path(folder), callbacks(Path(folder)))
            saves[kind] += timer.saves
            steps[kind] += timer.steps
    sys.stdout.write("ms          save: median    p95   step: median    mean\n")
    for kind in kinds:
        numbers = (
            statistics.median(saves[kind]),
            statistics.quantiles(saves[kind], n=20)[-1],
            statistics.median(steps[kind]),
            statistics.mean(steps[kind]),
        )
        sys.stdout.write("{:<16}{:>8.3f}{:>7.3f}{:>15.3f}{:>8.3f}\n".format(kind, *(1e3 * n for n in numbers)))


if __name__ == "__main__":
    main()
