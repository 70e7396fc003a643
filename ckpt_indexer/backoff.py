"""When to try again what has failed: after a delay that grows with each failure in a row.

Pure: moments are of any clock that does not jump, given as arguments. It promises that ``due_s`` lies at most *last_s*
after the last failure. It knows nothing of what is tried, and adds no jitter: each user here is alone with its disk.
"""

from __future__ import annotations


class Backoff:
    """The delays of one thing that is tried again and again; one thread uses it.

    >>> backoff = Backoff(1.0, 5.0)
    >>> [backoff.failed(100.0), backoff.failed(101.0), backoff.failed(103.0), backoff.failed(107.0)]
    [101.0, 103.0, 107.0, 112.0]
    >>> backoff.succeeded()
    >>> (backoff.due_s, backoff.failures, backoff.failed(200.0))
    (-inf, 0, 201.0)
    """

    def __init__(self, first_s: float, last_s: float, factor: float = 2.0) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._factor = factor
        self._delay_s = first_s  # after the next failure
        self.failures = 0  # in a row
        self.due_s = float("-inf")  # the moment of the next attempt; at once while nothing has failed

    def failed(self, now_s: float) -> float:
        """Record a failure at *now_s* and return the moment of the next attempt."""
        self.failures += 1
        self.due_s = now_s + self._delay_s
        self._delay_s = min(self._delay_s * self._factor, self._last_s)
        return self.due_s

    def succeeded(self) -> None:
        """Record a success: the next failure costs the first delay again."""
        self.failures = 0
        self._delay_s = self._first_s
        self.due_s = float("-inf")
