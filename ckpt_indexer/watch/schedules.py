"""When the daemon writes the index, scans the tree and reads an index that somebody else wrote: pure schedules.

Each schedule is told what happened (``report_...``) and says what is due (``due_s``). It owns moments and delays only:
it reads no clock, touches no file and logs nothing. Moments are seconds of any clock that does not jump; a moment of
``-inf`` means at once, of ``inf`` never. The loop that acts on them is ``session``.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

SHARE = 0.1  # of the time, at most, is spent writing, up to some 100,000 checkpoints
COST_MIN_S = 0.03  # what each write counts as at least: three a second, day in, day out
COST_BUSY_S = 0.08  # … and while more is on its way, for it will be outdated at once: one in 0.8 s in a long burst
CREDIT_MAX_S = 0.1  # of writing, saved up while nothing happens
WAIT_MAX_S = 0.9  # a consumer is never more than a second behind, however long a write takes

INCOMPLETE_DELAY_S = 0.5  # until the index says that a checkpoint is incomplete: most are whole by then
COMMIT_RETRY_FIRST_S, COMMIT_RETRY_LAST_S = 1.0, 16.0  # between attempts while the index cannot be written

POLL_INTERVAL_S = 5.0  # between passes where events cannot be relied on
POLL_SHARE = 0.05  # of the time, at most, is spent on those passes
UNSEEN_RETRY_FIRST_S, UNSEEN_RETRY_LAST_S = 1.0, 1024.0  # between passes while a folder cannot be read
JITTER = (0.75, 1.25)  # of the interval: daemons that were started together do not scan one disk together

RELOAD_MIN_S, RELOAD_MAX_S = 0.05, 0.5  # between two readings of an index that somebody else writes
OVERWRITE_LINE_S = 60.0  # between two lines about an index that is being overwritten


class Pace:
    """The time that may be spent writing: at once after a quiet time, and in the long run a tenth of it.

    A write rewrites the whole index. So its seconds are paid from an account that fills with ``SHARE`` of the time, up
    to ``CREDIT_MAX_S``: the first few of a burst, such as a job's ``best.ckpt`` and ``last.ckpt``, cost nobody a wait,
    and thousands at once cost few writes. A fixed gap after each write, the simpler way, made the second of two wait
    for a quarter of a second where the first was written within milliseconds.
    """

    def __init__(self, now_s: float) -> None:
        self._credit_s = CREDIT_MAX_S
        self._at_s = now_s

    def spend(self, now_s: float, seconds: float, *, is_busy: bool) -> None:
        """Pay for a write that has just ended; *is_busy* says that there is more to come."""
        earned = self._credit_s + (now_s - self._at_s) * SHARE
        self._credit_s = max(
            min(earned, CREDIT_MAX_S) - max(seconds, COST_BUSY_S if is_busy else COST_MIN_S), -WAIT_MAX_S * SHARE
        )
        self._at_s = now_s

    @property
    def due_s(self) -> float:
        """The moment from which on the next write may begin."""
        return self._at_s + max(0.0, -self._credit_s) / SHARE


class Unwritten(NamedTuple):
    """What of the index is not on disk yet."""

    is_dirty: bool  # there is something to write
    has_news: bool  # more than checkpoints that are still being written: a consumer may be waiting for it
    is_overwritten: bool  # an older index stands on disk: who reads it for the first time sees that one


class CommitSchedule:
    """When the index is written.

    | unwritten | due |
    |---|---|
    | nothing | never |
    | somebody overwrote the index | at once, or when a failed write is tried again |
    | news | the same, and not before ``Pace`` allows it |
    | incomplete checkpoints only | the same, and not before ``INCOMPLETE_DELAY_S`` have passed since the first |
    """

    def __init__(self, now_s: float) -> None:
        self._pace = Pace(now_s)
        self._retry = Backoff(COMMIT_RETRY_FIRST_S, COMMIT_RETRY_LAST_S)
        self._dirty_since_s: float | None = None
        self.failures = 0  # writes that failed in a row

    def report_unwritten(self, now_s: float, unwritten: Unwritten) -> None:
        """Record what is unwritten now: the delays count from the first time that there is something."""
        if not unwritten.is_dirty:
            self._dirty_since_s = None
        elif self._dirty_since_s is None:
            self._dirty_since_s = now_s

    @property
    def retry_due_s(self) -> float:
        """The moment from which on a write that failed may be tried again."""
        return self._retry.due_s

    def due_s(self, unwritten: Unwritten) -> float:
        """Return the moment from which on *unwritten* is to be written."""
        if not unwritten.is_dirty:
            return float("inf")
        if unwritten.is_overwritten:
            return self._retry.due_s
        due_s = max(self._pace.due_s, self._retry.due_s)
        if not unwritten.has_news and self._dirty_since_s is not None:
            due_s = max(due_s, self._dirty_since_s + INCOMPLETE_DELAY_S)
        return due_s

    def report_written(self, now_s: float, seconds: float, *, is_busy: bool) -> None:
        """Record a write that took *seconds*; *is_busy* as in ``Pace.spend``."""
        self.report_succeeded()
        self._pace.spend(now_s, seconds, is_busy=is_busy)

    def report_succeeded(self) -> None:
        """Record that nothing is left to write, also where nothing had to be written."""
        self._retry.succeeded()
        self.failures = 0
        self._dirty_since_s = None

    def report_failed(self, now_s: float) -> None:
        """Record a write that failed; what was to be written still is."""
        self._retry.failed(now_s)
        self.failures += 1


class PassSchedule:
    """When the whole tree is scanned: regularly, sooner where events cannot be relied on or something was unreadable.

    *jitter* returns the factor of each interval.
    """

    def __init__(self, interval_s: float, *, jitter: Callable[[], float] = lambda: random.uniform(*JITTER)) -> None:
        self.due_s = float("-inf")
        self._interval_s = interval_s
        self._jitter = jitter
        self._unseen = Backoff(UNSEEN_RETRY_FIRST_S, UNSEEN_RETRY_LAST_S)

    def report_pass(self, now_s: float, seconds: float, *, is_polling: bool, has_unseen: bool) -> None:
        """Record the end of a pass that took *seconds*; *has_unseen*: it could not look at everything."""
        interval_s = self._interval_s
        if is_polling:
            interval_s = min(interval_s, max(POLL_INTERVAL_S, seconds / POLL_SHARE))
        self.due_s = now_s + interval_s * self._jitter()
        if has_unseen:
            # No event tells that a disk works again. Ever later, because a folder may stay unreadable for good.
            self.due_s = min(self.due_s, self._unseen.failed(now_s))
        else:
            self._unseen.succeeded()

    def report_unseen(self, now_s: float) -> None:
        """Record that a scan of some places, not of the whole tree, could not look at everything."""
        if not self._unseen.delay_s:
            self._unseen.failed(now_s)
        self.due_s = min(self.due_s, self._unseen.due_s)


class ReloadSchedule:
    """When an index that somebody else writes is read, and when the log says that it is being overwritten.

    Paced, because a writer that writes all the time must not keep the daemon reading more than half of it.
    """

    def __init__(self) -> None:
        self.due_s = float("-inf")
        self._overwrites_reported = 0
        self._line_due_s = float("-inf")

    def report_read(self, now_s: float, seconds: float) -> None:
        """Record the end of a reading that took *seconds*."""
        pause_s = min(4 * seconds, max(RELOAD_MAX_S, seconds))
        self.due_s = now_s + max(RELOAD_MIN_S, pause_s)

    def drain_overwrites(self, now_s: float, total: int) -> int:
        """Return how many of *total* overwrites are to be reported now: at once, then once a minute."""
        count = total - self._overwrites_reported
        if not count or now_s < self._line_due_s:
            return 0
        self._overwrites_reported = total
        self._line_due_s = now_s + OVERWRITE_LINE_S
        return count
