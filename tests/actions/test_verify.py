"""Index against disk, from Python."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.actions.rebuild import Rebuild, apply
from ckpt_indexer.actions.verify import Verification, verify
from ckpt_indexer.errors import IndexMissing
from tests.process import encoded, put

if TYPE_CHECKING:
    from pathlib import Path


def test_each_difference_is_named_once(tree: Path) -> None:
    apply(Rebuild(root=str(tree), workers=1))
    assert verify(str(tree)) == Verification(missing=[], extra=[], stale=[], total=5, unseen={})
    folder = tree / "run/checkpoints"
    put(folder / "new.ckpt", encoded(1))
    (folder / "e1.ckpt").unlink()
    os.utime(folder / "e2.ckpt", ns=(1, 1))
    found = verify(str(tree))
    assert (found.missing, found.extra, found.stale) == (
        ["run/checkpoints/new.ckpt"], ["run/checkpoints/e1.ckpt"], ["run/checkpoints/e2.ckpt"]
    )  # fmt: skip
    assert (found.differences, found.total) == (3, 5)


def test_without_an_index_there_is_nothing_to_compare(tree: Path) -> None:
    with pytest.raises(IndexMissing):
        verify(str(tree))
