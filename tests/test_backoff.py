"""Back-off: delays grow with each failure in a row, never beyond the last, and a success starts them anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.backoff import Backoff


def test_what_has_not_failed_is_due_at_once() -> None:
    assert Backoff(1.0, 60.0).due_s == float("-inf")


def test_each_delay_is_twice_the_last_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.failed(0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert (backoff.failures, backoff.due_s) == (5, 3.0)


def test_a_success_starts_again_from_the_first_delay() -> None:
    backoff = Backoff(1.0, 60.0, factor=3.0)
    backoff.failed(0.0)
    assert backoff.failed(10.0) == 13.0
    backoff.succeeded()
    assert (backoff.failures, backoff.due_s, backoff.failed(20.0)) == (0, float("-inf"), 21.0)


@given(st.integers(1, 5_000))
def test_any_number_of_failures_is_a_number_and_within_the_bound(count: int) -> None:
    backoff = Backoff(0.2, 30.0)
    dues = [backoff.failed(0.0) for _ in range(count)]
    assert dues == sorted(dues)
    assert dues[-1] <= 30.0
