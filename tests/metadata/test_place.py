"""The folder of a checkpoint against the one it was saved to, on a machine whose paths begin otherwise."""

from __future__ import annotations

import pytest

from ckpt_indexer.metadata.place import is_same_folder


@pytest.mark.parametrize(
    ("here", "there", "is_same"),
    [
        ("ocr/b/checkpoints", "/train/ocr/b/checkpoints", True),
        ("b/checkpoints", "C:\\train\\b\\checkpoints", True),
        ("outputs/1/checkpoints", "/srv/user/outputs/1/checkpoints", True),  # as far as the root shows
        ("outputs/1/checkpoints", "/srv/user/outputs/2/checkpoints", False),
        ("lightning_logs/version_0/checkpoints", "/a/lightning_logs/version_1/checkpoints", False),
        ("finetune/checkpoints", "/srv/base/checkpoints", False),
        ("finetune", "/srv/base", False),
        ("checkpoints", "/srv/base/checkpoints", None),
        ("", "/srv/base/checkpoints", None),
        ("archive/b/checkpoints", "/train/ocr/b/checkpoints", None),  # moved, or another project's "b"
        ("exp/checkpoints", "/workspace/checkpoints", None),  # a container's
        ("exp/release", "/srv/exp/checkpoints", None),  # moved within its run
        ("exp/fold_1", "/srv/exp/fold_0", False),
        ("exp/version_1/checkpoints", "/srv/exp/version_0/checkpoints", False),
        ("ocr/finetune/checkpoints", "/srv/ocr/base/checkpoints", False),
    ],
)
def test_folders_are_compared_from_their_ends(here: str, there: str, is_same: bool | None) -> None:
    assert is_same_folder(here, there) is is_same
