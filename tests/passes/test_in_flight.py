"""Tasks and their outcomes: never two of one key, never more than may be, and none that was outdated meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.passes.in_flight import InFlight
from ckpt_indexer.paths import Key
from tests.passes.doubles import Held, Inline

if TYPE_CHECKING:
    import concurrent.futures as cf


def make(executor: cf.Executor, count_max: int = 2, *, is_owner: bool = False) -> InFlight[str, str]:
    return InFlight(executor, count_max, is_owner=is_owner)


def start_all(in_flight: InFlight[str, str]) -> list[Key]:
    started = []
    while (task := in_flight.pop_next()) is not None:
        in_flight.submit(task[0], str.upper, task[1])
        started.append(task[0])
    return started


def outcomes(in_flight: InFlight[str, str]) -> dict[str, str]:
    return {key: future.result() for key, future in in_flight.wait(0)}


def test_tasks_begin_in_their_order_and_no_more_than_may_be() -> None:
    held = Held()
    in_flight = make(held)
    in_flight.waiting.update({Key("a"): "one", Key("b"): "two", Key("c"): "three"})
    assert (start_all(in_flight), in_flight.keys, [*in_flight.waiting]) == (["a", "b"], {"a", "b"}, ["c"])
    held.do(1)
    assert (outcomes(in_flight), in_flight.keys) == ({"b": "TWO"}, {"a"})
    assert start_all(in_flight) == ["c"]
    held.do()
    held.do()
    assert not in_flight.is_idle
    assert outcomes(in_flight) == {"a": "ONE", "c": "THREE"}
    assert in_flight.is_idle


def test_a_key_that_is_being_examined_waits_and_the_next_one_does_not() -> None:
    held = Held()
    in_flight = make(held, 3)
    in_flight.waiting.update({Key("a"): "one"})
    start_all(in_flight)
    in_flight.waiting.update({Key("a"): "again", Key("b"): "two"})
    assert (start_all(in_flight), [*in_flight.waiting]) == (["b"], ["a"])
    held.do()
    assert outcomes(in_flight) == {"a": "ONE"}
    assert start_all(in_flight) == ["a"]


def test_what_was_outdated_meanwhile_is_dropped_once() -> None:
    held = Held()
    in_flight = make(held)
    in_flight.waiting.update({Key("a"): "one", Key("b"): "two", Key("c"): "three"})
    start_all(in_flight)
    in_flight.outdate([Key("a"), Key("c"), Key("elsewhere")])  # only the first is being examined
    held.do()
    held.do()
    assert outcomes(in_flight) == {"b": "TWO"}
    in_flight.waiting.update({Key("a"): "anew"})
    start_all(in_flight)
    held.do()
    held.do()
    assert outcomes(in_flight) == {"c": "THREE", "a": "ANEW"}


def test_an_outcome_may_be_an_error() -> None:
    in_flight = make(Inline())
    in_flight.submit(Key("a"), {}.__getitem__, "missing")
    ((key, future),) = in_flight.wait(None)
    assert key == "a"
    with pytest.raises(KeyError, match="missing"):
        future.result()


def test_waiting_for_nothing_returns_at_once() -> None:
    assert make(Inline()).wait(None) == []


@pytest.mark.parametrize("is_owner", [False, True])
def test_closing_cancels_what_has_not_begun_and_ends_only_an_executor_of_its_own(*, is_owner: bool) -> None:
    held = Held()
    in_flight = make(held, is_owner=is_owner)
    in_flight.waiting.update({Key("a"): "one"})
    start_all(in_flight)
    ((future, _),) = held.calls
    in_flight.close()
    assert (future.cancelled(), held.is_shut) == (True, is_owner)
