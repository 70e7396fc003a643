"""A tree with good and broken checkpoints, not indexed yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.process import encoded, put

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    for epoch in range(3):
        put(root / f"run/checkpoints/e{epoch}.ckpt", encoded(epoch))
    put(root / "run/checkpoints/cut.ckpt", encoded(0)[:-10])
    put(root / "run/checkpoints/page.ckpt", b"<html></html>")
    return root
