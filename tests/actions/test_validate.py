"""Checks from Python: a plan says what would be read and in which order, and what was found is a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.actions.rebuild import Rebuild
from ckpt_indexer.actions.rebuild import apply as rebuild
from ckpt_indexer.actions.validate import Validate, apply, plan
from ckpt_indexer.errors import RootUnusable, TorchMissing
from ckpt_indexer.paths import INDEX_NAME

if TYPE_CHECKING:
    from pathlib import Path


def names(shown: object) -> list[str]:
    return [str(each).rpartition("/")[2] for each in shown]  # type: ignore[attr-defined]


def test_a_plan_reads_nothing_and_says_how_much_there_is_to_read(tree: Path) -> None:
    planned = plan(Validate(paths=(str(tree),)))
    assert (planned.total, planned.is_in_bytes, planned.recalled) == (5, False, {})
    deep = plan(Validate(paths=(str(tree / "run/checkpoints/e0.ckpt"),), level="deep"))
    assert (deep.total, deep.is_in_bytes) == ((tree / "run/checkpoints/e0.ckpt").stat().st_size, True)
    assert not (tree / INDEX_NAME).exists()


def test_a_checkpoint_that_is_reached_twice_is_checked_once(tree: Path) -> None:
    planned = plan(Validate(paths=(str(tree), str(tree / "run/checkpoints/e1.ckpt"), str(tree / "run"))))
    assert len(planned.targets) == len(planned.todo) == 5


def test_results_are_in_the_order_of_the_arguments_and_kept_in_the_index(tree: Path) -> None:
    rebuild(Rebuild(root=str(tree), workers=1))
    folder = tree / "run/checkpoints"
    found = apply(plan(Validate(paths=(str(folder / "e2.ckpt"), str(folder / "cut.ckpt")), level="deep")))
    assert [(name, each.status) for name, each in zip(("e2", "cut"), found.results, strict=True)] == [
        ("e2", "ok"), ("cut", "incomplete")
    ]  # fmt: skip
    assert (names(each.path for each in found.bad), len(found.seconds)) == (["cut.ckpt"], 2)
    health = read_index(tree).entries["run/checkpoints/e2.ckpt"].health
    assert (health and health.level, health and health.status) == ("deep", "ok")


def test_what_holds_is_recalled_and_the_oldest_result_comes_first(tree: Path) -> None:
    rebuild(Rebuild(root=str(tree), workers=1))
    folder = tree / "run/checkpoints"
    for name in ("e2.ckpt", "e0.ckpt"):
        apply(plan(Validate(paths=(str(folder / name),), level="deep")))
    everything = Validate(paths=(str(tree),), level="deep")
    order = names(each.shown for each in plan(everything).todo)
    assert (order[-2:], sorted(order[:3])) == (["e2.ckpt", "e0.ckpt"], ["cut.ckpt", "e1.ckpt", "page.ckpt"])
    planned = plan(Validate(paths=(str(tree),), level="deep", max_age_s=3600))
    assert sorted(names(planned.recalled)) == ["e0.ckpt", "e2.ckpt"]
    assert len(apply(planned).results) == 5


def test_progress_ends_with_all_of_all_in_bytes(tree: Path) -> None:
    planned, told = plan(Validate(paths=(str(tree),), level="deep")), list[tuple[int, int]]()
    apply(planned, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (planned.total, planned.total)
    assert sorted(told) == told


def test_an_index_that_cannot_be_read_costs_no_check_and_is_told(tree: Path) -> None:
    (tree / INDEX_NAME).write_text('{"version": "2.0"}')
    told: list[str] = []
    found = apply(plan(Validate(paths=(str(tree),))), on_unkept=told.append)
    assert (len(found.results), len(told)) == (5, 1)
    assert "has version 2.0" in told[0]


def test_what_cannot_be_done_is_said_before_anything_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RootUnusable, match="there is no such file or folder"):
        plan(Validate(paths=(str(tree), str(tree / "missing"))))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TorchMissing):
        plan(Validate(paths=(str(tree),), level="load"))
