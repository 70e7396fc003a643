"""The pace of writing: the first few at once, a tenth of the time in the long run, never a second's wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.watch.schedules import COST_BUSY_S, COST_MIN_S, CREDIT_MAX_S, SHARE, WAIT_MAX_S, Pace


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
