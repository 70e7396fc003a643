"""Waits that grow, on a clock that stands where the test puts it."""

from __future__ import annotations

from ckpt_indexer.backoff import Backoff


def test_each_wait_is_longer_than_the_last_and_none_longer_than_the_longest() -> None:
    backoff = Backoff(0.25, 3.0, 3.0)
    assert [backoff.failed(100.0) for _ in range(5)] == [100.25, 100.75, 102.25, 103.0, 103.0]
    assert (backoff.due_s, backoff.delay_s) == (103.0, 3.0)


def test_after_a_success_the_waits_begin_anew() -> None:
    backoff = Backoff(1.0, 60.0)
    backoff.failed(5.0)
    backoff.failed(6.0)
    backoff.succeeded()
    assert (backoff.due_s, backoff.delay_s) == (float("-inf"), 0.0)
    assert backoff.failed(7.0) == 8.0


def test_a_thousand_failures_are_no_overflow() -> None:
    backoff = Backoff(1.0, 16.0)
    assert {backoff.failed(0.0) for _ in range(2_000)} == {1.0, 2.0, 4.0, 8.0, 16.0}


def test_what_never_failed_is_due() -> None:
    assert Backoff(1.0, 2.0).due_s < 0.0


def test_a_first_wait_of_nothing_is_due_at_once() -> None:
    assert [Backoff(0.0, 0.0).failed(3.0), Backoff(5.0, 2.0).failed(3.0)] == [3.0, 5.0]
