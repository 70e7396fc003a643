"""The generated parts of the manual are what the code says now: click's help, the API's description, docstrings."""

from __future__ import annotations

import pytest

from ckpt_indexer.manual import TOPICS
from tests.manual.generate import PARTS, generate
from tests.manual.pages import GENERATED, PAGES


@pytest.mark.parametrize("topic", PARTS)
def test_a_generated_part_is_up_to_date(topic: str) -> None:
    assert PAGES[topic] == generate(topic), "run: python -m tests.manual.generate"


def test_no_other_page_has_a_generated_part() -> None:
    assert {topic for topic in TOPICS if GENERATED.search(PAGES[topic])} == set(PARTS)


def test_the_routes_that_are_described_by_hand_are_the_routes_there_are() -> None:
    head, generated = GENERATED.split(PAGES["http"])[0], GENERATED.findall(PAGES["http"])[0][1]
    described = {line.split("`")[1].partition("?")[0] for line in head.splitlines() if line.startswith("| `/")}
    routes = {line.split("`")[1].removeprefix("GET ") for line in generated.splitlines() if line.startswith("### `GET")}
    assert described == routes | {"/openapi.json"}
