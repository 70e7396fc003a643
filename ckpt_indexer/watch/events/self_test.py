"""When watching is tested, and what a test's outcome means: pure.

The *self-test* is a cookie: a file in the root whose event has to come back in time. Moments are of a clock that does
not jump, given as arguments; who writes and removes the file is ``observer``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_indexer.paths import RelPath

TIMEOUT_S = 10.0  # half the interval where that is less: two failures, then a pass, within systemd's limit
FAILURES_MAX = 2  # in a row; then passes are relied on

_NEVER_S = float("inf")


class SelfTest:
    """The test under way, or the next one; one thread uses it."""

    def __init__(self, interval_s: float) -> None:
        self.cookie: RelPath | None = None  # of the test under way
        self._interval_s = interval_s
        self._timeout_s = min(TIMEOUT_S, interval_s / 2)
        self._next_s = _NEVER_S
        self._deadline_s = _NEVER_S
        self._failures = 0  # in a row

    @property
    def due_s(self) -> float:
        """The moment at which a test begins, or has failed."""
        return min(self._next_s, self._deadline_s)

    def request(self, now_s: float) -> None:
        """Start the next test at once; one that is under way counts no more."""
        self.cookie, self._deadline_s = None, _NEVER_S
        self._next_s = now_s

    def is_due(self, now_s: float) -> bool:
        """Return whether a test should begin."""
        return self.cookie is None and now_s >= self._next_s

    def report_begun(self, now_s: float, cookie: RelPath | None) -> None:
        """Record that a test has begun; without a *cookie*, for want of room, it is tried again an interval later."""
        self._next_s = now_s + self._interval_s
        if cookie is not None:
            self.cookie, self._deadline_s = cookie, now_s + self._timeout_s

    def has_failed(self, now_s: float) -> bool:
        """Return whether the event of the test under way is overdue."""
        return now_s >= self._deadline_s

    def report_failed(self, now_s: float) -> bool:
        """Record that; return whether events cannot be relied on any more."""
        self._failures += 1
        self.request(now_s + self._interval_s)
        return self._failures >= FAILURES_MAX

    def report_passed(self, now_s: float) -> None:
        """Record that the cookie's event has come."""
        self._failures = 0
        self.request(now_s + self._interval_s)
