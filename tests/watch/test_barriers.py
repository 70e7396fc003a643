"""Barriers: open from the start, until the first pass is in the index; then while a cookie waits."""

from __future__ import annotations

from ckpt_indexer.paths import RelPath
from ckpt_indexer.watch.barriers import Barriers


def test_readiness_is_the_first_barrier() -> None:
    barriers = Barriers()
    assert (barriers.is_open, barriers.is_ready) == (True, False)
    assert barriers.release() == set()
    assert (barriers.is_open, barriers.is_ready) == (False, True)


def test_a_cookie_is_released_once() -> None:
    barriers = Barriers()
    barriers.release()
    barriers.add([RelPath("a"), RelPath("b")])
    barriers.add([RelPath("b")])
    assert barriers.is_open
    assert barriers.release() == {"a", "b"}
    assert (barriers.is_open, barriers.release()) == (False, set())


def test_a_cookie_that_comes_before_readiness_is_released_with_it() -> None:
    barriers = Barriers()
    barriers.add({RelPath("a")})
    assert (barriers.release(), barriers.is_ready) == ({"a"}, True)
