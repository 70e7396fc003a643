"""What is measured: real Lightning checkpoints of a given size, made once, and trees of copies of them."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


BLOCK_BYTES = 4096  # of the file system


class Size(NamedTuple):
    """A checkpoint to be made."""

    name: str
    bytes: int
    parameters: int  # tensors of the model; AdamW keeps three more for each, and each is a record

    @property
    def records(self) -> int:
        return 4 * self.parameters


SMALL = Size("1 MB", 1_000_000, 37)
MEDIUM = Size("100 MB", 100_000_000, 75)
LARGE = Size("2 GB", 2_000_000_000, 250)


def make_checkpoint(folder: Path, size: Size) -> Path:
    """Train a model of that size for a step with AdamW, let ``ModelCheckpoint`` save it, and give the file."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Layers(lightning.LightningModule):
        def __init__(self, count: int, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder = torch.nn.ParameterList(torch.zeros(width) for _ in range(count))

        def training_step(self, batch: Any, _: int) -> Any:
            return 0 * sum((parameter.sum() for parameter in self.encoder), batch.sum())

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val/hmean", batch.sum())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    saver = ModelCheckpoint(dirpath=folder / size.name.replace(" ", ""), monitor="val/hmean", mode="max")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, callbacks=[saver], enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=str(folder), num_sanity_val_steps=0,
        )  # fmt: skip
        data = torch.utils.data.DataLoader(torch.ones(1, 1))
        trainer.fit(Layers(size.parameters, size.bytes // (12 * size.parameters)), data, data)
    return folder / os.path.relpath(saver.best_model_path, folder)


def make_tree(root: Path, checkpoint: Path, count: int, *, experiments: int = 0) -> list[Path]:
    """Copy a checkpoint to *count* places as training jobs leave them, spread over *experiments* folders.

    The weights of ours are zeros: the copies are sparse, and take next to no room on the disk.
    """
    experiments = experiments or max(1, count // 20)
    paths = []
    with checkpoint.open("rb") as source:
        blocks = _blocks_with_data(source)
    size = checkpoint.stat().st_size
    for number in range(count):
        folder = root / f"experiment_{number % experiments:05}" / "checkpoints"
        if number < experiments:
            folder.mkdir(parents=True)
        path = folder / f"epoch={number // experiments}-step={number}.ckpt"
        with path.open("wb") as file:
            for offset, data in blocks:
                file.seek(offset)
                file.write(data)
            file.truncate(size)
        paths.append(path)
    return paths


def _blocks_with_data(file: BinaryIO) -> list[tuple[int, bytes]]:
    """Give the blocks of a file that are not zeros, with their offsets."""
    blocks: list[tuple[int, bytes]] = []
    offset = 0
    while block := file.read(BLOCK_BYTES):
        if block.count(0) < len(block):
            blocks.append((offset, block))
        offset += len(block)
    return blocks
