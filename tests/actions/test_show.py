"""One checkpoint, by any of its names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.actions.rebuild import Rebuild, apply
from ckpt_indexer.actions.show import show
from ckpt_indexer.errors import NotInIndex

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_is_found_by_key_by_path_and_from_here(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(Rebuild(root=str(tree), workers=1))
    key = "run/checkpoints/e1.ckpt"
    by_key = show(str(tree), key)
    assert (by_key.entry.path, by_key.metadata["training"]["epoch"]) == (key, 1)
    assert show(str(tree), str(tree / key)) == by_key
    monkeypatch.chdir(tree / "run")
    assert show(str(tree), "checkpoints/../checkpoints/e1.ckpt") == by_key


def test_a_sidecar_that_is_gone_is_none(tree: Path) -> None:
    apply(Rebuild(root=str(tree), workers=1))
    (tree / "run/checkpoints/e1.ckpt.metadata.yaml").unlink()
    assert show(str(tree), "run/checkpoints/e1.ckpt").metadata is None


def test_what_the_index_does_not_hold_is_named(tree: Path) -> None:
    apply(Rebuild(root=str(tree), workers=1))
    with pytest.raises(NotInIndex, match=r"none\.ckpt is not in the index of "):
        show(str(tree), "none.ckpt")
