"""Real training runs under the names that an older catalogue's callers use, made once a session."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.catalog import clear_global_cache
from tests.samples import AddMetrics, Tiny, saver, train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """
exp_name: {name}
model: {{architectures: dbnet, encoder: {{model_name: {encoder}}}}}
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: ``b`` with a resnet34, ``a`` with a resnet18; epochs 0 to 2 of each, and ``last.ckpt``."""
    root = tmp_path_factory.mktemp("trained") / "outputs"
    for name, encoder, scores in (("b", "resnet34", (0.125, 0.875, 0.25)), ("a", "resnet18", (0.25, 0.5, 0.375))):
        callback = saver(root / name, save_top_k=-1, filename="{epoch:02d}_{step:06d}", save_last=True)
        train(root / name, [callback, AddMetrics()], model=Tiny(scores), max_epochs=3)
        config = root / name / ".hydra" / "config.yaml"
        config.parent.mkdir()
        config.write_text(CONFIG.format(name=name, encoder=encoder))
    return root


@pytest.fixture
def outputs(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "outputs")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CHECKPOINT_CATALOG_USE_V2", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    clear_global_cache()
    yield
    clear_global_cache()
