"""Filters and sort orders: what a person means by them, above all where a value is not known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.errors import QueryInvalid
from ckpt_indexer.index.query import (
    Filter,
    Order,
    Query,
    comparable,
    parse_columns,
    parse_filter,
    parse_order,
    select,
    value_of,
)
from ckpt_indexer.model import Entry, Monitor, Problem
from tests.index import entries
from tests.index.entries import entry

ENTRIES = [
    entry("a/checkpoints/x.ckpt", epoch=1, metrics={"hmean": 0.9, "val/loss": 0.1}, size_bytes=2_000_000),
    entry("a/checkpoints/y.ckpt", epoch=10, metrics={"hmean": 0.5}, monitor=Monitor("hmean", "max", 0.5)),
    entry("b/checkpoints/x.ckpt", epoch=2, metrics={"hmean": "NaN"}, monitor=Monitor("hmean", "max", "Infinity")),
    entry("b/checkpoints/z.ckpt", status="corrupt", problem=Problem("truncated", "cut short")),
]


def chosen(*filters: str, order: str = "path") -> list[str]:
    found = select(ENTRIES, Query(parse_order(order), tuple(map(parse_filter, filters))))
    return [e.path.replace("/checkpoints/", "/").removesuffix(".ckpt") for e in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.hmean>=0.9", ["a/x"]),
        ("metrics.hmean>0.4", ["a/x", "a/y"]),
        ("hmean <= 0.9", ["a/x", "a/y"]),
        ("metrics.val/loss<1", ["a/x"]),
        ("epoch=2", ["b/x"]),
        ("epoch==2.0", ["b/x"]),
        ("epoch>2", ["a/y"]),
        ("epoch!=2", ["a/x", "a/y", "b/z"]),
        ("epoch=null", ["b/z"]),
        ("epoch!=null", ["a/x", "a/y", "b/x"]),
        ("epoch=three", []),
        ("status=ok", ["a/x", "a/y", "b/x"]),
        ("status!=ok", ["b/z"]),
        ("experiment~A", ["a/x", "a/y"]),
        ("path ~ /X", ["a/x", "b/x"]),
        ("size>=1M", ["a/x"]),
        ("size_bytes<2MB", ["a/y", "b/x", "b/z"]),
        ("monitor.value>=0.5", ["a/y", "b/x"]),
        ("score<1", ["a/y"]),
        ("monitor.name=hmean", ["a/y", "b/x"]),
        ("problem.code=truncated", ["b/z"]),
        ("problem~SHORT", ["b/z"]),
        ("problem=null", ["a/x", "a/y", "b/x"]),
        ("architecture!=unet", ["a/x", "a/y", "b/x", "b/z"]),
        ("nonsense>1", []),
        ("modified_time>2026", ["a/x", "a/y", "b/x", "b/z"]),
    ],
)
def test_a_filter_chooses(text: str, expected: list[str]) -> None:
    assert chosen(text) == expected


def test_filters_are_joined_by_and() -> None:
    assert chosen("status=ok", "experiment=a", "epoch>5") == ["a/y"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("path:desc", ["b/z", "b/x", "a/y", "a/x"]),
        ("epoch", ["a/x", "b/x", "a/y", "b/z"]),
        ("epoch:desc", ["a/y", "b/x", "a/x", "b/z"]),
        ("metrics.hmean:asc", ["a/y", "a/x", "b/x", "b/z"]),
        ("metrics.hmean:desc", ["a/x", "a/y", "b/x", "b/z"]),
        ("score:desc", ["b/x", "a/y", "a/x", "b/z"]),
        ("name", ["a/x", "b/x", "a/y", "b/z"]),
        ("name:desc", ["b/z", "a/y", "a/x", "b/x"]),
        ("architecture", ["a/x", "a/y", "b/x", "b/z"]),
    ],
)
def test_an_order_sorts_with_the_unknown_last_in_both_directions(order: str, expected: list[str]) -> None:
    assert chosen(order=order) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epoch", "use FIELD OP VALUE, OP one of >= <= > < = != ~"),
        (">3", "use FIELD OP VALUE, OP one of >= <= > < = != ~"),
        ("", "use FIELD OP VALUE, OP one of >= <= > < = != ~"),
        ("monitor.nonsense=1", "there is no field 'monitor.nonsense'"),
        ("problem.x=1", "there is no field 'problem.x'"),
        ("metrics=1", "there is no field 'metrics'"),
        ("path.upper~x", "there is no field 'path.upper'"),
        ("epoch.real=1", "there is no field 'epoch.real'"),
        ("metrics.=1", "there is no field 'metrics.'"),
    ],
)
def test_a_filter_that_is_none_says_why(text: str, reason: str) -> None:
    with pytest.raises(QueryInvalid) as raised:
        parse_filter(text)
    assert raised.value.fields == {"what": "filter", "text": text, "reason": reason}


@pytest.mark.parametrize("text", ["epoch:up", "epoch:", ":desc", "", "monitor.x", "path.upper:asc"])
def test_an_order_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(QueryInvalid):
        parse_order(text)


def test_columns_are_fields_and_have_no_direction() -> None:
    assert parse_columns("path, metrics.val/hmean,,metrics.odd:desc,f1") == [
        "path", "metrics.val/hmean", "metrics.odd:desc", "f1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("path,epoch:desc", "epoch:desc", "a column has no direction: use epoch, and --sort"),
        ("hmean:asc", "hmean:asc", "a column has no direction: use hmean, and --sort"),
        ("monitor.x", "monitor.x", "there is no field 'monitor.x'"),
    ],
)
def test_a_column_that_is_none_says_why(text: str, column: str, reason: str) -> None:
    with pytest.raises(QueryInvalid) as raised:
        parse_columns(text)
    assert raised.value.fields == {"what": "column", "text": column, "reason": reason}


def test_values_of_different_kinds_are_compared_as_texts() -> None:
    assert comparable([10, "9", None, math.nan]) == ["10", "9", None, None]
    assert comparable([10, 9.5, None, True]) == [10, 9.5, None, True]


_FIELDS = st.sampled_from(
    [*Entry.__struct_fields__, "monitor.value", "monitor.name", "problem.code", "score", "size", "metrics.a"]
).filter(lambda field: field != "metrics")


@given(st.lists(entries.entries, max_size=6, unique_by=lambda e: e.path), _FIELDS, st.booleans())
def test_sorting_keeps_every_entry_and_puts_the_unknown_last(all_entries: list[Entry], field: str, down: bool) -> None:
    found = select(all_entries, Query(Order(field, down)))
    assert sorted(e.path for e in found) == sorted(e.path for e in all_entries)
    unknown = [is_unknown(value_of(e, field)) for e in found]
    assert unknown == sorted(unknown)
    other_way = select(list(reversed(all_entries)), Query(Order(field, down)))
    assert other_way == found


def is_unknown(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


@given(
    st.lists(entries.entries, max_size=6, unique_by=lambda e: e.path),
    _FIELDS,
    st.sampled_from([">=", "<=", ">", "<", "=", "~"]),
    st.text(max_size=6).map(str.strip),
)
def test_no_filter_but_unequal_chooses_what_is_not_known(
    all_entries: list[Entry], field: str, op: str, value: str
) -> None:
    if value in ("null", "none"):
        return
    found = select(all_entries, Query(filters=(parse_filter(f"{field}{op}.{value}"),)))
    assert not any(value_of(e, field) is None for e in found)


@pytest.mark.parametrize("name", ["\x1d", "\xa0", "\x85 x"])
def test_what_only_some_languages_take_for_space_is_a_name(name: str) -> None:
    """The same pattern stands in the API's description, and is read there by others."""
    assert parse_filter(f" {name} >1") == Filter(name, ">", "1")
