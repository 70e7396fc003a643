"""The self-test's moments, on a clock that stands where the test puts it."""

from __future__ import annotations

import pytest

from ckpt_indexer.paths import RelPath
from ckpt_indexer.watch.events.self_test import TIMEOUT_S, SelfTest

NEVER_S = float("inf")


def test_nothing_is_tested_before_it_is_asked_for() -> None:
    test = SelfTest(30.0)
    assert (test.due_s, test.is_due(1e9), test.has_failed(1e9)) == (NEVER_S, False, False)


def test_a_test_that_passes_is_repeated_an_interval_later() -> None:
    test = SelfTest(30.0)
    test.request(100.0)
    assert (test.is_due(99.9), test.is_due(100.0)) == (False, True)
    test.report_begun(100.0, RelPath("cookie"))
    assert (test.cookie, test.due_s, test.is_due(200.0)) == ("cookie", 100.0 + TIMEOUT_S, False)
    test.report_passed(101.0)
    assert (test.cookie, test.due_s, test.has_failed(130.9)) == (None, 131.0, False)


def test_the_second_failure_in_a_row_means_that_events_cannot_be_relied_on() -> None:
    test = SelfTest(30.0)
    for begun_s, is_blind in ((0.0, False), (40.0, True)):
        test.report_begun(begun_s, RelPath("cookie"))
        assert not test.has_failed(begun_s + TIMEOUT_S - 0.1)
        assert test.has_failed(begun_s + TIMEOUT_S)
        assert test.report_failed(begun_s + TIMEOUT_S) is is_blind
        assert (test.cookie, test.due_s) == (None, begun_s + TIMEOUT_S + 30.0)


def test_a_test_that_passes_forgives_the_failure_before_it() -> None:
    test = SelfTest(30.0)
    test.report_failed(0.0)
    test.report_passed(1.0)
    assert test.report_failed(2.0) is False


def test_without_room_for_the_cookie_it_is_tried_again_an_interval_later() -> None:
    test = SelfTest(30.0)
    test.request(0.0)
    test.report_begun(0.0, None)
    assert (test.cookie, test.due_s, test.is_due(30.0), test.has_failed(1e9)) == (None, 30.0, True, False)


def test_a_request_makes_the_test_under_way_count_no_more() -> None:
    test = SelfTest(30.0)
    test.report_begun(0.0, RelPath("cookie"))
    test.request(5.0)
    assert (test.cookie, test.due_s, test.has_failed(1e9)) == (None, 5.0, False)


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(30.0, 10.0), (6.0, 3.0)])
def test_a_short_interval_has_a_short_timeout(interval_s: float, timeout_s: float) -> None:
    test = SelfTest(interval_s)
    test.report_begun(0.0, RelPath("cookie"))
    assert test.due_s == timeout_s
