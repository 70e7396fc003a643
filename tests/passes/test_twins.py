"""Which entries are the same save, and whose score they have; that many copies of one file cost little."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from ckpt_indexer.model import Monitor, Twin
from ckpt_indexer.passes.twins import MEMBERS_MAX, Twins
from ckpt_indexer.paths import Key
from tests.index.entries import entry


def saved(name: str, score: Monitor | None = None, **more: Any) -> Any:
    made = entry(f"e/checkpoints/{name}.ckpt", monitor=score)
    facts: dict[str, Any] = {"experiment": "e", "weights_id": "w", "global_step": 8, "content_id": None, **more}
    return msgspec.structs.replace(made, **facts)


def taken_over(name: str, score: Monitor | None = None, whose: str = "e/checkpoints/best.ckpt") -> Any:
    return saved(name, score or BEST, twin=Twin(Key(whose)))


LAST = Key("e/checkpoints/last.ckpt")
BEST = Monitor("val/hmean", "max", 0.892)


def test_whoever_comes_first_the_one_that_lacks_a_score_is_named_once() -> None:
    for first, second in ((saved("best", BEST), saved("last")), (saved("last"), saved("best", BEST))):
        twins = Twins()
        assert twins.note(first) == []
        assert twins.note(second) == ["e/checkpoints/last.ckpt"]
        assert twins.score_for(LAST) == (BEST, "e/checkpoints/best.ckpt")
        assert twins.note(saved("last")) == []


def test_other_weights_steps_experiments_and_monitors_are_no_twins() -> None:
    twins = Twins()
    twins.note(saved("best", BEST))
    for other in ({"weights_id": "x"}, {"global_step": 9}, {"experiment": "f"}, {"status": "corrupt"}):
        assert twins.note(saved("last", **other)) == []
    assert twins.note(saved("last", Monitor("val_loss", "min", None))) == []
    assert twins.note(saved("last", Monitor("val/hmean", "max", None))) == ["e/checkpoints/last.ckpt"]


def test_twins_that_contradict_each_other_give_no_score_and_a_rounded_one_gives_way() -> None:
    twins = Twins()
    twins.note(saved("a", BEST))
    twins.note(saved("b", Monitor("val/hmean", "max", 0.89203)))
    assert twins.note(saved("last")) == ["e/checkpoints/last.ckpt"]
    assert twins.score_for(LAST) == (Monitor("val/hmean", "max", 0.89203), "e/checkpoints/b.ckpt")
    twins.note(saved("c", Monitor("val/hmean", "max", 0.5)))
    assert twins.score_for(LAST) is None


def test_what_is_gone_gives_no_score_and_takes_back_what_it_gave() -> None:
    twins = Twins()
    twins.note(saved("best", BEST))
    twins.note(saved("last"))
    assert twins.note(taken_over("last")) == []
    assert twins.forget(Key("e/checkpoints/best.ckpt")) == ["e/checkpoints/last.ckpt"]
    assert twins.score_for(LAST) is None


def test_a_score_that_was_taken_over_is_no_evidence() -> None:
    twins = Twins()
    assert twins.note(saved("best")) == []
    assert twins.note(taken_over("last")) == ["e/checkpoints/last.ckpt"]
    assert twins.score_for(Key("e/checkpoints/best.ckpt")) is None


def test_a_score_that_changes_is_taken_over_again() -> None:
    twins = Twins()
    twins.note(saved("best", BEST))
    twins.note(taken_over("last"))
    assert twins.note(saved("best", Monitor("val/hmean", "max", 0.95))) == ["e/checkpoints/last.ckpt"]


@pytest.mark.parametrize("order", [*itertools.permutations("abc")])
def test_what_a_checkpoint_gets_does_not_depend_on_who_came_first(order: tuple[str, ...]) -> None:
    twins = Twins()
    known = {"a": saved("a", BEST), "b": saved("b", Monitor("val_loss", "min", 0.3)), "c": saved("c")}
    waiting = [known[name] for name in order]
    while waiting:
        for key in twins.note(waiting.pop(0)):
            score = twins.score_for(key)
            waiting.append(saved("c") if score is None else taken_over("c", score.monitor, score.path))
    assert twins.score_for(Key("e/checkpoints/c.ckpt")) is None
    assert twins.stale() == []


def test_one_that_does_not_take_the_score_is_asked_once() -> None:
    twins = Twins()
    twins.note(saved("best", BEST))
    assert twins.note(saved("last")) == ["e/checkpoints/last.ckpt"]
    assert twins.note(saved("last")) == []


def test_of_thousands_of_copies_a_few_scores_are_remembered() -> None:
    twins = Twins()
    for number in range(2_000):
        assert twins.note(saved(str(number), BEST)) == []
    (group,) = twins._groups.values()
    assert len(group.scored) == MEMBERS_MAX
