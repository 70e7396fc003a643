"""What is not written yet: a key is put or removed, never both, and what is waited for is told apart."""

from __future__ import annotations

from ckpt_indexer.passes.changes import Changes
from ckpt_indexer.paths import Key
from tests.index.entries import entry


def test_a_key_is_put_or_removed_whichever_came_last() -> None:
    changes = Changes()
    changes.put(entry("x.ckpt"))
    changes.remove(Key("x.ckpt"))
    assert (changes.entries, changes.removed) == ({}, {"x.ckpt"})
    changes.put(entry("x.ckpt"))
    assert (changes.entries, changes.removed) == ({"x.ckpt": entry("x.ckpt")}, set())


def test_nobody_waits_for_what_is_being_written() -> None:
    changes = Changes()
    changes.put(entry("x.ckpt", status="incomplete"))
    assert (bool(changes), changes.has_news) == (True, False)
    changes.put(entry("y.ckpt", status="corrupt"))
    changes.put(entry("z.ckpt", status="incomplete"))
    assert changes.has_news
    changes.clear()
    assert (bool(changes), changes.has_news) == (False, False)
    changes.remove(Key("x.ckpt"))
    assert (bool(changes), changes.has_news) == (True, True)


def test_discarding_names_what_was_planned() -> None:
    changes = Changes()
    changes.put(entry("x.ckpt"))
    changes.put(entry("kept.ckpt"))
    changes.remove(Key("y.ckpt"))
    assert changes.discard({Key("x.ckpt"), Key("y.ckpt"), Key("elsewhere.ckpt")}) == {"x.ckpt", "y.ckpt"}
    assert ([*changes.entries], changes.removed) == (["kept.ckpt"], set())


def test_where_nothing_may_be_removed_what_is_gone_keeps_its_entry() -> None:
    changes = Changes(may_remove=False)
    changes.put(entry("x.ckpt"))
    changes.remove(Key("x.ckpt"))
    assert (bool(changes), changes.has_news) == (False, True)
    changes.clear()
    changes.remove(Key("y.ckpt"))
    assert (bool(changes), changes.has_news) == (False, False)
