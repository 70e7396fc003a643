"""When to read again: kinds, waits, and what becomes due, on a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest

from ckpt_indexer.model import PROBLEMS, Problem
from ckpt_indexer.passes.retries import DELAYS_S, Kind, Retries, retry_kind
from ckpt_indexer.paths import Key
from tests.index.entries import entry

X = Key("x")


def with_problem(code: str) -> Any:
    problem = Problem.of(code)
    return entry("x.ckpt", status=problem.status, problem=problem)


WAITED_FOR: dict[str, Kind] = {
    "empty": "incomplete",
    "truncated": "incomplete",
    "zero-filled": "incomplete",
    "unsettled": "incomplete",
    "io-error": "unreadable",
    "permission-denied": "unreadable",
    "time-limit": "unreadable",
    "reader-crashed": "unreadable",
}


@pytest.mark.parametrize("code", [code for code, status in PROBLEMS.items() if status != "ok"])
def test_only_what_may_pass_is_waited_for(code: str) -> None:
    assert retry_kind(with_problem(code)) == WAITED_FOR.get(code)


def test_a_sidecar_is_waited_for_where_it_may_be_writable_later() -> None:
    assert retry_kind(entry("x.ckpt", metadata_problem=Problem.of("sidecar-unwritable"))) == "sidecar"
    assert retry_kind(entry("x.ckpt", metadata_problem=Problem.of("sidecar-invalid"))) is None
    assert retry_kind(entry("x.ckpt")) is None


@pytest.mark.parametrize("kind", sorted(DELAYS_S))
def test_waits_double_from_the_first_to_the_last(kind: Kind) -> None:
    first_s, last_s = DELAYS_S[kind]
    retries, waits = Retries(), []
    for _ in range(14):
        retries.plan(X, kind, 1000.0)
        waits.append(retries.due_s() - 1000.0)
    assert waits == [min(first_s * 2**n, last_s) for n in range(14)]


def test_nothing_is_due_before_its_time_and_everything_from_then_on() -> None:
    retries = Retries()
    assert (retries.due_s(), retries.pop_due(1e9)) == (float("inf"), [])
    retries.plan(Key("early"), "incomplete", 0.0)
    retries.plan(Key("late"), "unreadable", 0.0)
    assert (retries.due_s(), retries.pop_due(0.249)) == (0.25, [])
    assert retries.pop_due(0.25) == ["early"]
    assert retries.pop_due(5.0) == ["early", "late"]


def test_what_is_due_and_comes_to_nothing_is_due_again_after_the_same_wait() -> None:
    retries = Retries()
    retries.plan(X, "incomplete", 0.0)
    retries.plan(X, "incomplete", 0.25)  # 0.5 from here
    assert retries.pop_due(1.0) == ["x"]
    assert (retries.due_s(), retries.pop_due(1.5)) == (1.5, ["x"])
    retries.plan(X, "incomplete", 2.0)
    assert retries.due_s() == 3.0  # only now is it a second


def test_one_reading_once_has_a_wait_of_its_own() -> None:
    retries = Retries()
    retries.plan_once(X, 0.05, 10.0)
    assert (retries.due_s(), retries.pop_due(10.05), "x" in retries) == (10.05, ["x"], True)
    retries.drop(X)
    assert (retries.due_s(), "x" in retries) == (float("inf"), False)
    retries.plan_once(Key("now"), 0.0, 10.0)
    assert retries.pop_due(10.0) == ["now"]


def test_another_kind_begins_with_its_own_first_wait() -> None:
    retries = Retries()
    for _ in range(5):
        retries.plan(X, "unreadable", 0.0)
    retries.plan(X, "incomplete", 0.0)
    assert retries.due_s() == 0.25
    retries.plan_once(X, 1.0, 0.0)
    retries.plan(X, "incomplete", 0.0)
    assert retries.due_s() == 0.25


def test_what_is_read_once_soon_is_waited_for_and_nothing_else() -> None:
    retries = Retries()
    retries.plan(Key("being written"), "incomplete", 0.0)
    retries.plan_once(Key("its run is logged later"), 35.0, 0.0)
    assert retries.last_single_due_s(0.0, 2.0) == float("-inf")
    retries.plan_once(Key("soon"), 1.0, 0.0)
    retries.plan_once(Key("a little later"), 1.5, 0.0)
    assert retries.last_single_due_s(0.0, 2.0) == 1.5
