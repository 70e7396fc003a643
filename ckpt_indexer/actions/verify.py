"""Compare the index of a root with its disk: what ``verify`` reports. Reads no checkpoint and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_indexer.passes.survey import survey
from ckpt_indexer.tree.local import check_root

if TYPE_CHECKING:
    from ckpt_indexer.paths import Key, RelPath


@dataclass(frozen=True)
class Verification:
    """Where index and disk differ; keys are sorted."""

    missing: list[Key]  # on disk, not in the index
    extra: list[Key]  # in the index, not on disk
    stale: list[Key]  # changed since it was indexed
    total: int  # checkpoints on disk
    unseen: dict[RelPath, str]  # path -> why it could not be scanned; nothing is said of what it holds

    @property
    def differences(self) -> int:
        """How many checkpoints differ."""
        return len(self.missing) + len(self.extra) + len(self.stale)


def verify(root: str) -> Verification:
    """Compare the index of *root* with the disk.

    Raises:
        IndexMissing: there is no index.
        RootUnusable: the root cannot be listed.

    """
    check_root(root)
    surveyed = survey(root, must_exist=True)
    return Verification(
        missing=sorted(key for key in surveyed.plan.read if key not in surveyed.entries),
        extra=sorted(surveyed.plan.remove),
        stale=sorted(key for key in surveyed.plan.read if key in surveyed.entries),
        total=len(surveyed.found),
        unseen=surveyed.unseen,
    )
