"""When to try again what failed: each wait longer than the last, up to a longest one.

Pure. A ``Backoff`` belongs to one thing that is tried; the caller says what time it is (of a clock that does not jump)
and does the trying.
"""

from __future__ import annotations


class Backoff:
    """The wait between two attempts, from *first_s* to *last_s*."""

    __slots__ = ("_factor", "_first_s", "_last_s", "delay_s", "due_s")

    def __init__(self, first_s: float, last_s: float, factor: float = 2.0) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._factor = factor
        self.delay_s = 0.0  # the last wait; 0 where nothing failed
        self.due_s = float("-inf")  # the moment from which on the next attempt may begin

    def failed(self, now_s: float) -> float:
        """Return the moment of the next attempt, after one that failed at *now_s*.

        >>> backoff = Backoff(1.0, 3.0)
        >>> [backoff.failed(10.0) for _ in range(4)]
        [11.0, 12.0, 13.0, 13.0]
        """
        self.delay_s = min(self.delay_s * self._factor or self._first_s, self._last_s)
        self.due_s = now_s + self.delay_s
        return self.due_s

    def succeeded(self) -> None:
        """Begin anew: the next attempt is due at once, and the wait after its failure is the first one again."""
        self.delay_s = 0.0
        self.due_s = float("-inf")
