"""An index that is followed says the same as one that is read anew, whatever happened in between."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ckpt_indexer.index.follow import FollowedIndex
from ckpt_indexer.index.query import Query, parse_filter, parse_order
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import Key
from tests.index.entries import entry

if TYPE_CHECKING:
    from pathlib import Path


def test_the_feed_and_a_fresh_reader_tell_the_same_whatever_happens(tmp_path: Path) -> None:
    chance = random.Random(4)
    store = Store(str(tmp_path))
    store.commit([entry("first.ckpt")])
    followed = FollowedIndex(str(tmp_path))
    followed.refresh()
    known = {key: bytes(raw) for key, raw in zip(followed.table.keys, followed.table.raws, strict=True)}
    seen = followed.table.generation
    for step in range(60):
        keys = chance.sample([Key(f"{n}.ckpt") for n in range(8)], 3)
        store.commit([entry(key, epoch=step) for key in keys[:2]], keys[2:])
        if chance.random() < 0.5:
            continue
        followed.refresh()
        if chance.random() < 0.5:
            continue
        delta = followed.since(seen)
        assert delta is not None
        known = {key: raw for key, raw in known.items() if key not in delta.removed}
        known |= {key: bytes(raw) for key in delta.changed if (raw := delta.table.get(key)) is not None}
        seen = delta.table.generation
        fresh = FollowedIndex(str(tmp_path))
        fresh.refresh()
        newest = {key: bytes(raw) for key, raw in zip(followed.table.keys, followed.table.raws, strict=True)}
        assert known == newest
    followed.refresh()
    fresh = FollowedIndex(str(tmp_path))
    fresh.refresh()
    assert (fresh.table.keys, list(map(bytes, fresh.table.raws))) == (
        followed.table.keys, list(map(bytes, followed.table.raws))
    )  # fmt: skip


def test_columns_taken_over_are_those_of_a_fresh_reader(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry(f"{n}.ckpt", epoch=n, metrics={"m": n / 7}) for n in range(50)])
    followed = FollowedIndex(str(tmp_path))
    followed.refresh()
    queries = [
        Query(parse_order("m:desc"), (parse_filter("epoch>5"),), "1"),
        Query(parse_order("epoch")),
        Query(parse_order("nothing")),
    ]
    for query in queries:
        followed.table.select(query)
    store.commit([entry("9.ckpt", epoch=100), entry("x.ckpt", metrics={"m": 1})], [Key("11.ckpt"), Key("0.ckpt")])
    followed.refresh()
    fresh = FollowedIndex(str(tmp_path))
    fresh.refresh()
    for query in queries:
        assert followed.table.rows_if_known(query) == fresh.table.select(query)
