"""A tree that the real indexer indexed, with the names that people and attackers give."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient

from ckpt_indexer.web import create_app
from tests.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("tests.web.serving")

HOSTILE = (
    b"line\nbreak.ckpt",
    b"\x1b[2Jescape.ckpt",
    b"<script>alert(1)<",
    b"\xff\xfe.ckpt",
    b"..dots.ckpt",
    b"=1+1.ckpt",
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments with scores and hyper-parameters, a broken checkpoint, and names that nobody should give."""
    import torch

    root = tmp_path_factory.mktemp("web") / "outputs"
    for experiment, rates in (("alpha", (0.5, 0.9, 0.7)), ("beta", (0.8, 0.6))):
        folder = root / experiment / "checkpoints"
        folder.mkdir(parents=True)
        for epoch, hmean in enumerate(rates):
            content = {
                "epoch": epoch,
                "global_step": 10 * epoch,
                "state_dict": {"w": torch.zeros(2, 3)},
                "hyper_parameters": {"lr": hmean / 100, "optimizer": {"name": "adam", "betas": [0.9, 0.99]}},
                "cleval_metrics": {"hmean": hmean, "recall": 1.0},
            }
            torch.save(content, folder / f"e{epoch}.ckpt")
    good = (root / "alpha/checkpoints/e0.ckpt").read_bytes()
    (root / "beta/checkpoints/cut.ckpt").write_bytes(good[:-10])
    hostile = Path(str(root)) / "hostile"
    (hostile / "<script>alert(1)<").mkdir(parents=True)
    for name in HOSTILE:
        path = hostile.joinpath(name.decode("utf-8", "surrogateescape"))
        (path / "script>.ckpt" if path.is_dir() else path).write_bytes(good)
    assert run("rebuild", root).returncode == 0
    return root


@pytest.fixture
def tree(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it for tests that change things."""
    root = tmp_path / "outputs"
    shutil.copytree(prepared, root)
    assert run("rebuild", root).returncode == 0
    return root


@pytest.fixture
def client(prepared: Path) -> Iterator[TestClient]:
    """The whole application, called in this process."""
    with TestClient(create_app(prepared), base_url="http://localhost") as client:
        yield client
