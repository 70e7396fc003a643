"""The schedules' bounds; what they do in time is shown by ``tests/scenarios``, kinds ``commits`` and ``passes``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.watch.schedules import (
    COST_BUSY_S,
    COST_MIN_S,
    CREDIT_MAX_S,
    SHARE,
    WAIT_MAX_S,
    CommitSchedule,
    Pace,
    PassSchedule,
    ReloadSchedule,
    Unwritten,
)


def test_after_a_quiet_time_a_few_writes_need_not_wait() -> None:
    pace = Pace(0.0)
    for _ in range(3):
        assert pace.due_s <= 100.0
        pace.spend(100.0, 0.005, is_busy=False)
    assert pace.due_s == 100.0


@pytest.mark.parametrize(("is_busy", "cost_s"), [(False, COST_MIN_S), (True, COST_BUSY_S)])
def test_a_long_time_of_changes_costs_so_many_writes_a_second(is_busy: bool, cost_s: float) -> None:
    pace, now, writes = Pace(0.0), 0.0, 0
    while now < 60:
        now = max(now, pace.due_s)
        pace.spend(now, 0.005, is_busy=is_busy)
        writes += 1
    assert writes == pytest.approx(60 * SHARE / cost_s, abs=5)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=50))
def test_nobody_waits_longer_than_the_bound(writes: list[tuple[float, float]]) -> None:
    pace, now = Pace(0.0), 0.0
    for pause, seconds in writes:
        now += pause + seconds
        pace.spend(now, seconds, is_busy=False)
        assert now <= pace.due_s <= now + WAIT_MAX_S * 1.001


@given(st.lists(st.floats(0.01, 0.09), min_size=5, max_size=60))
def test_writing_takes_its_share_of_the_time_and_what_was_saved_up(writes: list[float]) -> None:
    pace, now = Pace(0.0), 0.0
    for seconds in writes:
        now = max(now, pace.due_s) + seconds
        pace.spend(now, seconds, is_busy=False)
    assert sum(writes) <= now * SHARE + CREDIT_MAX_S + max(writes) + 1e-9


def test_an_index_that_somebody_else_writes_all_the_time_is_read_half_of_the_time_at_most() -> None:
    reloads = ReloadSchedule()
    assert reloads.due_s == float("-inf")
    due_s = {}
    for seconds in (0.001, 0.05, 0.2, 3.0):
        reloads.report_read(100.0, seconds)
        due_s[seconds] = reloads.due_s
    assert due_s == {0.001: 100.05, 0.05: 100.2, 0.2: 100.5, 3.0: 103.0}


def test_overwrites_are_reported_at_once_and_then_once_a_minute() -> None:
    reloads = ReloadSchedule()
    counts = [reloads.drain_overwrites(now_s, total) for now_s, total in ((0, 0), (1, 2), (2, 5), (60, 9), (61, 9))]
    assert counts == [0, 2, 0, 0, 7]
    assert reloads.drain_overwrites(500.0, 9) == 0


def test_a_write_that_had_nothing_to_write_is_a_success_and_costs_no_wait() -> None:
    commits, news = CommitSchedule(0.0), Unwritten(is_dirty=True, has_news=True, is_overwritten=False)
    commits.report_failed(100.0)
    assert (commits.failures, commits.due_s(news)) == (1, 101.0)
    commits.report_succeeded()
    assert (commits.failures, commits.due_s(news)) == (0, 0.0)


def test_the_intervals_of_daemons_that_start_together_differ() -> None:
    passes = PassSchedule(100.0)
    moments = set()
    for _ in range(50):
        passes.report_pass(0.0, 0.0, is_polling=False, has_unseen=False)
        moments.add(passes.due_s)
    assert len(moments) > 10
    assert 75.0 <= min(moments) <= max(moments) <= 125.0
