"""When the index may be written again: at once after a quiet time, and over time for a tenth of it.

A write rewrites the whole index. So its seconds are paid from an account that fills with ``SHARE`` of the time, up to
``CREDIT_MAX_S``: the first few of a burst, such as a job's ``best.ckpt`` and ``last.ckpt``, cost nobody a wait, and
thousands at once cost few writes. A fixed gap after each write, the simpler way, made the second of two wait for a
quarter of a second where the first was written within milliseconds.
"""

from __future__ import annotations

SHARE = 0.1  # of the time, at most, is spent writing, up to some 100,000 checkpoints
COST_MIN_S = 0.03  # what each write counts as at least: three a second, day in, day out
COST_BUSY_S = 0.08  # … and while more is on its way, for it will be outdated at once: one in 0.8 s in a long burst
CREDIT_MAX_S = 0.1  # of writing, saved up while nothing happens
WAIT_MAX_S = 0.9  # a consumer is never more than a second behind, however long a write takes


class Pace:
    """The account; moments are of any clock that does not jump."""

    def __init__(self, now: float) -> None:
        self._credit_s = CREDIT_MAX_S
        self._at = now

    def spend(self, now: float, seconds: float, *, is_busy: bool) -> None:
        """Pay for a write that has just ended; *is_busy* says that there is more to come."""
        earned = self._credit_s + (now - self._at) * SHARE
        self._credit_s = max(
            min(earned, CREDIT_MAX_S) - max(seconds, COST_BUSY_S if is_busy else COST_MIN_S), -WAIT_MAX_S * SHARE
        )
        self._at = now

    def due(self) -> float:
        """Give the moment from which on the next write may begin."""
        return self._at + max(0.0, -self._credit_s) / SHARE
