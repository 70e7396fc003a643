"""What a client that was away can be told, and when it has to load everything again."""

from __future__ import annotations

import msgspec
import pytest

from ckpt_indexer.index import changes
from ckpt_indexer.index.changes import ChangeFeed
from ckpt_indexer.index.columns import Table
from ckpt_indexer.paths import Key


def table(generation: int, *keys: str) -> Table:
    return Table(generation=generation, entries=[(Key(key), msgspec.Raw(b"{}")) for key in sorted(keys)])


def feed_of(*steps: list[str]) -> tuple[ChangeFeed, Table]:
    """Build a feed that begins at generation 1; each step changes these keys."""
    feed, old = ChangeFeed(), Table()
    new = table(1, "a")
    feed.add(old, new, [Key("a")], is_first=True)
    for keys in steps:
        old, new = new, table(new.generation + 1, "a", "b")
        feed.add(old, new, [*map(Key, keys)], is_first=False)
    return feed, new


def test_a_delta_names_what_changed_since_and_what_went() -> None:
    feed, newest = feed_of(["a"], ["b", "gone"])
    assert feed.since(3, newest) == (newest, [], [])
    assert feed.since(2, newest) == (newest, ["b"], ["gone"])
    assert feed.since(1, newest) == (newest, ["a", "b"], ["gone"])


@pytest.mark.parametrize("generation", [0, 4])
def test_a_generation_before_the_first_or_after_the_last_is_not_known(generation: int) -> None:
    feed, newest = feed_of(["a"], ["b"])
    assert feed.since(generation, newest) is None


def test_the_oldest_changes_are_dropped_by_number_and_by_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "CHANGES_MAX", 2)
    feed, newest = feed_of(["a"], ["b"], ["a"], ["b"])
    assert [feed.since(n, newest) is not None for n in range(6)] == [False, False, False, True, True, True]
    monkeypatch.setattr(changes, "CHANGES_MAX", 1000)
    monkeypatch.setattr(changes, "FEED_KEYS_MAX", 3)
    feed, newest = feed_of(["a", "b"], ["a"], ["b"])
    assert [feed.since(n, newest) is not None for n in range(5)] == [False, False, True, True, True]


def test_too_much_at_once_begins_again_and_so_does_another_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "CHANGED_KEYS_MAX", 1)
    feed, newest = feed_of(["a"], ["a", "b"])
    assert (feed.since(2, newest), feed.since(3, newest), feed.epoch) == (None, (newest, [], []), 0)
    older = table(2, "a")
    feed.add(newest, older, [Key("a")], is_first=False)
    assert (feed.since(1, older), feed.epoch) == (None, 1)
