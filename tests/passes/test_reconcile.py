"""The decision: pure, so it is tested over every small world that hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer import paths
from ckpt_indexer.model import Stamp
from ckpt_indexer.passes.reconcile import FEW, Scope, places_linked_to, reconcile, siblings_to_read
from ckpt_indexer.passes.scan import Found, Snapshot
from ckpt_indexer.paths import Key, RelPath, to_key

KEYS = st.sampled_from(["a.ckpt", "x/a.ckpt", "x/b.ckpt", "x/y/a.ckpt", "xy/a.ckpt"]).map(Key)
STAMPS = st.builds(Stamp, st.tuples(st.integers(0, 2), st.integers(0, 2), st.just(1)))
KNOWN = st.dictionaries(KEYS, STAMPS | st.none())
FOUND = st.dictionaries(KEYS, st.builds(Found, STAMPS))
PLACES = st.sets(st.sampled_from(["", "x", "x/y", "a.ckpt", "x/b.ckpt"]), min_size=1)


def snapshot(found: dict[Key, Found], unseen: dict[RelPath, str] | None = None) -> Snapshot:
    return Snapshot(found, {}, unseen or {}, [], 1)


@given(KNOWN, FOUND)
def test_applying_a_plan_makes_the_next_one_empty(known: dict[Key, Stamp | None], found: dict[Key, Found]) -> None:
    plan = reconcile(snapshot(found), known)
    after = {key: stamp for key, stamp in known.items() if key not in plan.remove}
    after.update({key: each.stamp for key, each in plan.read.items()})
    assert after == {key: each.stamp for key, each in found.items()}
    assert reconcile(snapshot(found), after) == ({}, [], {})


@given(KNOWN, FOUND, PLACES)
def test_a_plan_never_goes_beyond_the_places_looked_at(
    known: dict[Key, Stamp | None], found: dict[Key, Found], places: set[RelPath]
) -> None:
    scope = Scope([to_key(place) for place in places])
    seen = {key: each for key, each in found.items() if scope.covers(key)}
    plan = reconcile(snapshot(seen), known, places)
    assert set(plan.read) <= set(seen)
    assert set(plan.remove) == {key for key in known if key not in seen and scope.covers(key)}


@given(KNOWN, FOUND)
def test_nothing_below_a_folder_that_could_not_be_looked_at_is_removed(
    known: dict[Key, Stamp | None], found: dict[Key, Found]
) -> None:
    plan = reconcile(snapshot(found, {RelPath("x"): "Input/output error"}), known)
    assert [key for key in plan.remove if key.startswith("x/")] == []


@pytest.mark.parametrize("others", [0, FEW], ids=["few places", "many places"])
@given(st.sets(st.sampled_from(["", "x", "x/y", "xy", "a.ckpt", "x/b.ckpt"])), KEYS)
def test_a_scope_covers_its_places_and_what_stands_below_them(others: int, places: set[RelPath], key: RelPath) -> None:
    more = {RelPath(f"other/{number}") for number in range(others + 1)}
    assert Scope(places | more).covers(key) == any(paths.is_below(key, place) for place in places)


def test_places_are_paths_and_entries_are_keys() -> None:
    stamp = Stamp((1, 1, 1))
    found = snapshot({}, {RelPath("\udcfe"): "Input/output error"})
    known: dict[Key, Stamp | None] = {Key("\\xff/a.ckpt"): stamp, Key("\\xfe/a.ckpt"): stamp}
    assert reconcile(found, known, [RelPath("\udcff"), RelPath("\udcfe")]).remove == ["\\xff/a.ckpt"]
    assert places_linked_to({RelPath("\udcff")}, {Key("l\\\\.ckpt"): Key("\\xff/a.ckpt")}) == {"\udcff", "l\\.ckpt"}


def test_an_entry_that_has_to_be_made_again_is_read_though_its_stamp_is_unknown() -> None:
    stamp = Stamp((1, 1, 1))
    assert reconcile(snapshot({Key("a.ckpt"): Found(stamp)}), {Key("a.ckpt"): None}).read == {"a.ckpt": Found(stamp)}


def test_links_into_a_place_are_looked_at_with_it() -> None:
    links = {Key("a/last.ckpt"): Key("a/e.ckpt"), Key("b/last.ckpt"): Key("b/e.ckpt")}
    assert places_linked_to({RelPath("b")}, links) == {"b", "b/last.ckpt"}


def test_the_rest_of_a_set_is_read_again_when_one_of_it_is_new_changed_or_gone() -> None:
    other = Key("a/x.bin")
    names = [Key(f"a/m-0000{number}-of-00003.bin") for number in (1, 2, 3)]
    stamps: dict[Key, Stamp | None] = {name: Stamp((1, 0, 0)) for name in (*names, other)}
    rest = set(names[1:])
    assert siblings_to_read({names[0]: Found(Stamp((2, 0, 0)))}, [], stamps) == rest
    assert siblings_to_read({}, [names[0]], stamps) == rest
    assert siblings_to_read({names[0]: Found(Stamp((1, 0, 0)))}, [], {name: stamps[name] for name in names[1:]}) == rest
    # Marked, or with another sidecar: no news.
    assert siblings_to_read({names[0]: Found(Stamp((1, 0, 0)))}, [], {**stamps, names[0]: None}) == set()
    assert siblings_to_read({names[0]: Found(Stamp((1, 0, 0)))}, [], stamps) == set()
    assert siblings_to_read({other: Found(Stamp((2, 0, 0)))}, [], stamps) == set()
    assert siblings_to_read({name: Found(Stamp((2, 0, 0))) for name in names}, [], stamps) == set()
