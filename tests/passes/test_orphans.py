"""Sidecars without a checkpoint: each that is not ours is read once, as long as it stays the same."""

from __future__ import annotations

from ckpt_indexer.passes.orphans import Orphans
from ckpt_indexer.paths import Key


def test_what_is_not_ours_is_tried_again_only_when_it_changed() -> None:
    tried: list[str] = []

    def remove_if_ours(key: Key) -> bool:
        tried.append(key)
        return key == "ours.ckpt"

    orphans = Orphans(remove_if_ours)
    for fingerprint in ((1, 1, 1), (1, 1, 1), (1, 2, 1)):
        orphans.remove({Key("ours.ckpt"): fingerprint, Key("theirs.ckpt"): fingerprint})
    assert sorted(tried) == ["ours.ckpt"] * 3 + ["theirs.ckpt"] * 2
