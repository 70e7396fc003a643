"""Which entries are the same save, and whose score they have; that many copies of one file cost little."""

from __future__ import annotations

from typing import Any

import msgspec

from ckpt_indexer.model import Monitor
from ckpt_indexer.watch.twins import SCORED_MAX, Twins
from tests.index.entries import entry


def saved(name: str, score: Monitor | None = None, **more: Any) -> Any:
    made = entry(f"e/checkpoints/{name}.ckpt", monitor=score)
    facts: dict[str, Any] = {"experiment": "e", "weights_id": "w", "global_step": 8, "content_id": None, **more}
    return msgspec.structs.replace(made, **facts)


BEST = Monitor("val/hmean", "max", 0.892)


def test_whoever_comes_first_the_one_that_lacks_a_score_is_named_once() -> None:
    for first, second in ((saved("best", BEST), saved("last")), (saved("last"), saved("best", BEST))):
        twins = Twins()
        assert twins.note(first) == []
        assert twins.note(second) == ["e/checkpoints/last.ckpt"]
        assert twins.score_for("e/checkpoints/last.ckpt") == BEST
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
    assert twins.score_for("e/checkpoints/last.ckpt") == Monitor("val/hmean", "max", 0.89203)
    twins.note(saved("c", Monitor("val/hmean", "max", 0.5)))
    assert twins.score_for("e/checkpoints/last.ckpt") is None


def test_what_is_gone_gives_no_score() -> None:
    twins = Twins()
    twins.note(saved("best", BEST))
    twins.forget("e/checkpoints/best.ckpt")
    assert twins.note(saved("last")) == []


def test_of_thousands_of_copies_a_few_scores_are_remembered() -> None:
    twins = Twins()
    for number in range(2_000):
        assert twins.note(saved(str(number), BEST)) == []
    (group,) = twins._groups.values()
    assert len(group.scored) == SCORED_MAX
