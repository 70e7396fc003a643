"""The records: numbers that JSON cannot hold, messages that quote hostile files, and the doctests of all modules."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import pkgutil
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckpt_indexer
from ckpt_indexer.model import MESSAGE_MAX, PROBLEMS, Entry, Problem, Status, to_float, to_number
from ckpt_indexer.paths import Key

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(ckpt_indexer.__path__, "ckpt_indexer.")
    if not info.name.startswith("ckpt_indexer.web") and not info.name.endswith(".lightning")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 15


@given(st.floats())
def test_a_number_comes_back_from_what_json_holds(value: float) -> None:
    encoded = json.dumps(to_number(value), allow_nan=False)
    back = to_float(json.loads(encoded))
    assert back == value or (back is not None and math.isnan(back) and math.isnan(value))


@given(st.text())
def test_a_message_is_one_printable_bounded_line(text: str) -> None:
    message = Problem.of("empty", text).message
    assert message.isprintable()
    assert len(message) <= MESSAGE_MAX
    assert message.encode("utf-8").decode("utf-8") == message


def test_a_long_message_is_cut_and_says_so() -> None:
    assert Problem.of("empty", "x" * 10_000_000).message == "x" * (MESSAGE_MAX - 1) + "…"


def test_every_problem_means_a_status() -> None:
    assert set(PROBLEMS.values()) == set(get_args(Status))
    assert {Problem(code, "").status for code in PROBLEMS} == set(get_args(Status))


def test_an_entry_answers_for_a_metric_as_a_float() -> None:
    entry = Entry(
        path=Key("x"),
        experiment="",
        name="x",
        size_bytes=0,
        mtime="",
        fingerprint=(0, 0, 0),
        metrics={"a": "-Infinity"},
    )  # fmt: skip
    assert (entry.metric("a"), entry.metric("b")) == (-math.inf, None)


def test_an_entry_needs_its_place_and_fingerprint() -> None:
    with pytest.raises(msgspec.ValidationError, match="missing required field `fingerprint`"):
        msgspec.json.decode(b'{"path":"x","experiment":"","name":"x","size_bytes":1,"mtime":""}', type=Entry)
