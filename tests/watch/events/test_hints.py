"""Hints: a bounded set that loses nothing, by folder first and then by everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_indexer.paths import RelPath, is_below
from ckpt_indexer.watch.events import hints as module
from ckpt_indexer.watch.events.hints import EVERYTHING, FOLDER_MAX, HINTS_MAX, Hints, is_cookie

COOKIES = {".checkpoint_index.cookie-1", ".checkpoint_index.cookie-2"}


def test_too_many_hints_collapse_into_everything_and_cookies_survive_it() -> None:
    hints = Hints()
    hints.add(RelPath(".checkpoint_index.cookie-1"))
    for i in range(3 * HINTS_MAX):
        hints.add(RelPath(f"{i}.ckpt"))
    hints.add(RelPath(".checkpoint_index.cookie-2"))
    assert hints.drain(0) == {EVERYTHING, *COOKIES}
    assert hints.drain(0) == set()


def test_too_many_hints_of_one_folder_collapse_into_that_folder() -> None:
    hints = Hints()
    hints.add(RelPath("b/other.ckpt"))
    for i in range(3 * HINTS_MAX):
        hints.add(RelPath(f"a/run/{i}.ckpt"))
    assert hints.drain(0) == {"a/run", "b/other.ckpt"}


def test_many_folders_with_a_few_hints_each_collapse_into_everything() -> None:
    hints = Hints()
    for i in range(HINTS_MAX + 1):
        hints.add(RelPath(f"{i // (FOLDER_MAX - 1)}/{i}.ckpt"))
    assert hints.drain(0) == {EVERYTHING}


def test_as_many_as_there_is_room_for_stay_as_they_are() -> None:
    hints, paths = Hints(), {f"a/{i}.ckpt" for i in range(HINTS_MAX)}
    for path in paths:
        hints.add(RelPath(path))
    assert hints.drain(0) == paths


def test_everything_covers_what_comes_before_and_after_it() -> None:
    hints = Hints()
    for path in ("a", EVERYTHING, "b", "c/d", *COOKIES):
        hints.add(RelPath(path))
    assert hints.drain(0) == {EVERYTHING, *COOKIES}


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "a/b", "a/c", "a/b/d", "e/f", "e/g", "x", *COOKIES]), max_size=40))
def test_whatever_collapses_every_path_is_covered_and_every_cookie_is_there(paths: list[RelPath]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HINTS_MAX", 4)
        patch.setattr(module, "FOLDER_MAX", 2)
        hints = Hints()
        for path in paths:
            hints.add(path)
        drained = hints.drain(0)
    assert {path for path in paths if is_cookie(path)} == set(filter(is_cookie, drained))
    places = [place for place in drained if not is_cookie(place)]
    lost = [path for path in paths if not is_cookie(path) and not any(is_below(path, place) for place in places)]
    assert (lost, len(places) <= 4) == ([], True)


def test_an_interrupt_wakes_the_next_drain_at_once() -> None:
    hints = Hints()
    hints.interrupt()
    assert hints.drain(60) == set()


def test_an_interrupt_ends_a_pause_and_is_left_for_the_next_drain() -> None:
    hints = Hints()
    hints.add(RelPath("a"))
    hints.interrupt()
    hints.pause(60)
    assert hints.drain(0) == {"a"}
    hints.interrupt()
    hints.pause(60)
    assert hints.drain(60) == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".checkpoint_index.cookie-12-ab", True),
        (".checkpoint_index.cookie-test-7", True),
        (".checkpoint_index.cookie-", False),
        (".checkpoint_index.cookie-1/x", False),
        ("a/.checkpoint_index.cookie-1", False),
        ("a.ckpt", False),
    ],
)
def test_a_cookie_is_known_by_its_name(name: RelPath, expected: bool) -> None:
    assert is_cookie(name) is expected
