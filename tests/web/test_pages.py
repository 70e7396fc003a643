"""The parts without a server: examples in the documentation, places in an order."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import pkgutil
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer import web
from ckpt_indexer.index.columns import Position, Table
from ckpt_indexer.index.query import Order, Query, parse_filter, select
from ckpt_indexer.web.pages import TOKEN_PATTERN, encode_page, encode_token, parse_token, window_of
from tests.index.entries import entries, entry

MODULES = sorted(info.name for info in pkgutil.iter_modules(web.__path__, "ckpt_indexer.web."))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def table_of(listed: list[Any]) -> Table:
    by_key = {each.path: msgspec.Raw(msgspec.json.encode(each)) for each in listed}
    return Table(entries=sorted(by_key.items()))


_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.builds(Position, st.none() | _text | st.floats(allow_nan=False) | st.integers(), _text))
def test_a_token_gives_its_place_back(position: Position) -> None:
    token = encode_token(position)
    assert re.match(TOKEN_PATTERN, token)
    assert parse_token(token) == position


@given(st.from_regex(TOKEN_PATTERN))
def test_every_text_of_a_tokens_form_is_a_place(token: str) -> None:
    table = table_of([entry(f"{n}.ckpt", epoch=n or None, architecture=str(n)) for n in range(5)])
    for field in ("epoch", "architecture", "nothing"):
        query = Query(Order(field, is_descending=False))
        assert 0 <= window_of(table, query, table.select(query), page=1, page_size=2, token=token).start <= 5


@given(
    st.lists(entries, max_size=12),
    st.sampled_from(["path", "epoch", "size_bytes", "architecture", "monitor.value", "problem", "status"]),
    st.booleans(),
    st.sampled_from([(), ("epoch>5",), ("status!=ok", "architecture=null")]),
)
def test_pages_by_token_are_what_the_command_line_lists(
    listed: list[Any], field: str, is_descending: bool, filters: tuple[str, ...]
) -> None:
    listed = list({each.path: each for each in listed}.values())
    table, conditions = table_of(listed), tuple(parse_filter(text) for text in filters)
    query = Query(Order(field, is_descending), conditions)
    rows, token, found = table.select(query), None, []
    while True:
        window = window_of(table, query, rows, page=1, page_size=3, token=token)
        page = json.loads(encode_page(table, query, rows, window))
        found += [each["path"] for each in page["checkpoints"]]
        token = page["next"]
        if token is None:
            break
    assert found == [each.path for each in select(listed, query)]
    assert page["total_pages"] == math.ceil(len(found) / 3)
