"""Sidecars whose checkpoint is gone: removed if this project wrote them; those that it did not are read only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.paths import Key


class Orphans:
    """Which orphans are not ours, so that no pass reads them again as long as they stay the same."""

    def __init__(self, remove_if_ours: Callable[[Key], bool]) -> None:
        """*remove_if_ours* is given a checkpoint's key, and returns whether its sidecar is settled."""
        self._remove_if_ours = remove_if_ours
        self._foreign: set[tuple[Key, Fingerprint]] = set()

    def remove(self, orphans: Mapping[Key, Fingerprint]) -> None:
        """Remove those of *orphans* (by the key that the checkpoint would have) that are ours."""
        for orphan in orphans.items() - self._foreign:
            if not self._remove_if_ours(orphan[0]):
                self._foreign.add(orphan)
