"""Who waits until everything that was written before some moment is in the index.

A *cookie* is a barrier: a file in the root that somebody (``sync``) puts there. When its event arrives, the events of
everything written before it have arrived; it is removed when all of that is in the index. The daemon's own readiness
is the first barrier: it is released when the first pass is in the index.

Pure: it holds paths, and knows no file, clock or event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt_indexer.paths import RelPath


class Barriers:
    """The barriers of one session; one thread uses it."""

    def __init__(self) -> None:
        self.is_ready = False  # whether the first barrier was released
        self._cookies: set[RelPath] = set()

    @property
    def is_open(self) -> bool:
        """Whether somebody waits."""
        return bool(self._cookies) or not self.is_ready

    def add(self, cookies: Iterable[RelPath]) -> None:
        """Add the cookies that have just been seen."""
        self._cookies.update(cookies)

    def release(self) -> set[RelPath]:
        """Release all barriers, because the index holds all that is known; return the cookies that are to go."""
        self.is_ready = True
        released, self._cookies = self._cookies, set()
        return released
