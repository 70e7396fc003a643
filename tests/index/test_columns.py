"""Columns answer as entries do: one query engine, whichever way the index is held."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.index.columns import ROWS_MAX, FieldOf, Table
from ckpt_indexer.index.query import Filter, Order, Query, select
from tests.index import entries
from tests.index.entries import entry

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry

FIELDS = st.sampled_from(["path", "epoch", "size", "architecture", "score", "problem", "status", "metrics.a", "other"])
QUERIES = st.builds(
    Query,
    st.builds(Order, FIELDS, st.booleans()),
    st.lists(
        st.builds(Filter, FIELDS, st.sampled_from([">=", "<", "=", "!=", "~"]), st.sampled_from(["1", "ok", "null"])),
        max_size=2,
    ).map(tuple),
    st.sampled_from(["", "A", "ok"]),
)


def table_of(listed: list[Entry]) -> Table:
    return Table(entries=sorted((each.path, msgspec.Raw(msgspec.json.encode(each))) for each in listed))


@given(st.lists(entries.entries, max_size=8, unique_by=lambda each: each.path), QUERIES)
def test_a_table_and_a_list_of_entries_choose_the_same_in_the_same_order(listed: list[Entry], query: Query) -> None:
    table = table_of(listed)
    chosen = [table.keys[row] for row in table.select(query).rows]
    assert chosen == [each.path for each in select(listed, query)]


def test_the_selections_used_last_are_kept_and_carried_over() -> None:
    old = table_of([entry("a.ckpt", epoch=1)])
    queries = [Query(Order(f"m{n}", is_descending=False)) for n in range(ROWS_MAX + 1)]
    for query in queries:
        old.select(query)
    old.select(queries[2])  # in use again
    assert old.rows_if_known(queries[0]) is None
    new = table_of([entry("a.ckpt", epoch=2)])
    new.carry_over(old, [-1])
    known = [n for n, query in enumerate(queries) if new.rows_if_known(query) is not None]
    assert all(old.rows_if_known(query) is not None for query in queries[1:])  # whoever still reads it finds them
    assert known == [2, ROWS_MAX - 2, ROWS_MAX - 1, ROWS_MAX]


def test_an_empty_column_is_computed_once() -> None:
    table = Table()
    assert table.column(FieldOf("epoch")) is table.column(FieldOf("epoch"))


def test_threads_that_ask_at_once_get_the_same_answers() -> None:
    table = table_of([entry(f"{n}.ckpt", epoch=n) for n in range(50)])
    barrier, wrong = threading.Barrier(4), []

    def ask() -> None:
        barrier.wait()
        for n in range(200):
            query = Query(filters=(Filter("epoch", "<", str(n % 60)),))
            if len(table.select(query).rows) != min(n % 60, 50):
                wrong.append(n)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
