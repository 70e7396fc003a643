"""Makes the picture of the README and the manual: ``python -m tests.manual.picture``.

Real checkpoints with the curves that a training has, the real daemon, the real server, and Debian's Chromium. The
picture has 256 colours at most, which keeps it small.
"""

from __future__ import annotations

import io
import math
import os
import random
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from tests.manual.pages import MANUAL
from tests.process import Daemon
from tests.web.browser import Visit, launched
from tests.web.serving import Server

WIDTH, HEIGHT = 1280, 720
RUNS = (
    ("ocr_resnet18", 0.905, 9),
    ("ocr_resnet34", 0.931, 12),
    ("ocr_mobilenet", 0.874, 8),
    ("ocr_resnet34_lr3", 0.918, 10),
)


def make_tree(root: Path) -> None:
    """Save what four runs keep: some epochs, their last one, and one file that was cut off."""
    chance = random.Random(7)
    now = time.time()
    for number, (name, goal, epochs) in enumerate(RUNS):
        folder = root / name / "checkpoints"
        folder.mkdir(parents=True)
        for epoch in range(1, epochs, 2):
            hmean = goal * (1 - math.exp(-epoch / 3)) + chance.uniform(-0.006, 0.006)
            save(folder / f"epoch={epoch:02d}-step={epoch * 850}.ckpt", name, epoch, hmean)
        save(folder / "last.ckpt", name, epochs, goal * (1 - math.exp(-epochs / 3)))
        for age, path in enumerate(sorted(folder.iterdir(), reverse=True)):
            ended = now - 5 * 3600 * (len(RUNS) - 1 - number) - 2400 * age - 300
            os.utime(path, (ended, ended))
    cut = root / "ocr_mobilenet" / "checkpoints" / "epoch=07-step=5950.ckpt"
    cut.write_bytes(cut.read_bytes()[:-2000])


def save(path: Path, name: str, epoch: int, hmean: float) -> None:
    monitored = torch.tensor(hmean, dtype=torch.float64)
    state = {"monitor": "val/hmean", "current_score": monitored, "best_k_models": {str(path): monitored}}
    width = 64 if "mobilenet" in name else 128
    content = {
        "epoch": epoch,
        "global_step": epoch * 850,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.layer{n}.weight": torch.randn(width, width) for n in range(6)},
        "hyper_parameters": {"architecture": "dbnet", "encoder": name.split("_")[1], "lr": 1e-3},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/hmean', 'mode': 'max'}": state},
        "cleval_metrics": {"precision": min(0.99, hmean + 0.02), "recall": hmean - 0.015, "hmean": hmean},
    }
    torch.save(content, path)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, launched() as browser:
        root = Path(scratch) / "outputs"
        make_tree(root)
        with Daemon(root), Server(root) as server, Visit(browser, f"http://127.0.0.1:{server.port}/") as visit:
            visit.wait_live().set_viewport_size({"width": WIDTH, "height": HEIGHT})
            visit.page.wait_for_timeout(500)
            data = visit.page.screenshot()
    picture = Image.open(io.BytesIO(data)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(MANUAL / "page.png", optimize=True)


if __name__ == "__main__":
    main()
