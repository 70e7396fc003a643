"""A rebuild counts the checkpoints on disk the same way whatever was done before, and a plan changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.actions.rebuild import Rebuild, apply, plan, run_pass
from ckpt_indexer.errors import RootUnusable
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.paths import INDEX_NAME, RelPath
from ckpt_indexer.settings import Settings
from tests.process import encoded, put

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from ckpt_indexer.actions.rebuild import Outcome
    from ckpt_indexer.passes.scan import Snapshot

FOLDER = "run/checkpoints"
BROKEN = [f"{FOLDER}/cut.ckpt", f"{FOLDER}/page.ckpt"]
ALL = sorted([*BROKEN, *(f"{FOLDER}/e{epoch}.ckpt" for epoch in range(3))])


def request(root: Path, *, missing_only: bool = False, force: bool = False) -> Rebuild:
    return Rebuild(root=str(root), workers=1, missing_only=missing_only, force=force)


def counts(outcome: Outcome) -> tuple[int, int, int, int, int, int]:
    return (
        outcome.total, outcome.good, len(outcome.broken), outcome.unread, len(outcome.written), outcome.up_to_date
    )  # fmt: skip


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_the_same_checkpoints_are_broken_the_second_time(tree: Path) -> None:
    first, second = apply(request(tree)), apply(request(tree))
    assert (counts(first), counts(second)) == ((5, 3, 2, 0, 5, 0), (5, 3, 2, 0, 0, 5))
    assert (list(first.broken), second.broken) == (BROKEN, first.broken)
    assert (first.written, first.failed, second.failed) == (ALL, BROKEN, BROKEN[:1])  # it may be whole by now


def test_the_reason_is_that_of_the_entry(tree: Path) -> None:
    outcome, entries = apply(request(tree)), read_index(tree).entries
    assert outcome.broken == {key: entries[key].problem.message for key in BROKEN}  # type: ignore[union-attr]


def test_a_plan_writes_nothing_and_says_what_is_not_known_yet(tree: Path) -> None:
    before = names(tree)
    assert counts(plan(request(tree))) == (5, 0, 0, 5, 5, 0)
    assert names(tree) == before
    apply(request(tree))
    put(tree / FOLDER / "e3.ckpt", encoded(3))
    os.utime(tree / FOLDER / "e0.ckpt", ns=(1, 1))
    before, index = names(tree), (tree / INDEX_NAME).read_bytes()
    outcome = plan(request(tree))
    assert (counts(outcome), outcome.written) == ((6, 2, 2, 2, 2, 4), [f"{FOLDER}/e0.ckpt", f"{FOLDER}/e3.ckpt"])
    assert counts(plan(request(tree, force=True)))[4] == 6
    assert (names(tree), (tree / INDEX_NAME).read_bytes()) == (before, index)


def test_only_missing_sidecars_are_written_and_nothing_is_removed(tree: Path) -> None:
    apply(request(tree))
    (tree / FOLDER / "e1.ckpt.metadata.yaml").unlink()
    (tree / FOLDER / "e2.ckpt").unlink()
    missing = request(tree, missing_only=True)
    assert plan(missing).written == [f"{FOLDER}/e1.ckpt"]
    outcome = apply(missing)
    assert (counts(outcome), outcome.written) == ((4, 2, 2, 0, 1, 3), [f"{FOLDER}/e1.ckpt"])
    assert f"{FOLDER}/e2.ckpt" in read_index(tree).entries


def test_what_was_never_read_is_neither_good_nor_broken(tree: Path) -> None:
    apply(request(tree))
    (tree / INDEX_NAME).unlink()
    (tree / FOLDER / "dangling.ckpt").symlink_to("nowhere.ckpt")
    outcome = apply(request(tree, missing_only=True))  # reads those without a sidecar: cut.ckpt only
    assert counts(outcome)[:4] == (6, 0, 2, 4)
    assert set(outcome.broken) == {f"{FOLDER}/cut.ckpt", f"{FOLDER}/dangling.ckpt"}


def test_progress_ends_with_all_of_all(tree: Path) -> None:
    told: list[tuple[int, int]] = []
    apply(request(tree), on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)


def test_a_run_that_is_interrupted_keeps_what_it_committed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_indexer.actions.rebuild.COMMIT_INTERVAL_S", -1.0)
    monkeypatch.setattr("ckpt_indexer.actions.rebuild.SLICE_S", 0.0)
    committed = []
    commit = Indexer.commit

    def noted(self: Indexer) -> object:
        committed.append(commit(self))
        if len(read_index(tree).entries) >= 2:
            raise KeyboardInterrupt
        return committed[-1]

    (tree / INDEX_NAME).unlink(missing_ok=True)
    run_pass(str(tree), Settings(), (RelPath(f"{FOLDER}/e0.ckpt"),))  # so that there is an index
    monkeypatch.setattr(Indexer, "commit", noted)
    with pytest.raises(KeyboardInterrupt):
        apply(request(tree))
    assert 2 <= len(read_index(tree).entries) <= 5


def test_what_was_read_too_early_is_read_once_more_before_the_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, slept, scanned = [0.7, 0.2], list[float](), list[object]()
    scan_and_plan = Indexer.scan_and_plan

    def noted(indexer: Indexer, places: Collection[RelPath] = (RelPath(""),), **options: Any) -> Snapshot:
        scanned.append(places)
        return scan_and_plan(indexer, places, **options)

    monkeypatch.setattr(Indexer, "doubtful_s", lambda _: waits.pop(0) if waits else None)
    monkeypatch.setattr(Indexer, "pop_due_retries", lambda _: {f"{FOLDER}/e0.ckpt"})
    monkeypatch.setattr(Indexer, "scan_and_plan", noted)
    monkeypatch.setattr("ckpt_indexer.actions.rebuild.time.sleep", slept.append)
    apply(request(tree))
    assert (slept, scanned) == ([0.7, 0.2], [("",), *[{f"{FOLDER}/e0.ckpt"}] * 2])


def test_a_pass_waits_for_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = [0.7]
    slept = list[float]()
    monkeypatch.setattr(Indexer, "doubtful_s", lambda _: waits.pop(0) if waits else None)
    monkeypatch.setattr("ckpt_indexer.actions.rebuild.time.sleep", slept.append)
    run_pass(str(tree), Settings())
    assert (slept, sorted(read_index(tree).entries)) == ([], ALL)


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for act in (plan, apply):
        with pytest.raises(RootUnusable, match="there is no such folder"):
            act(request(tmp_path / "missing"))


def test_a_pass_over_one_place_leaves_the_others_alone(tree: Path) -> None:
    run_pass(str(tree), Settings(), (RelPath(f"{FOLDER}/e0.ckpt"),))
    assert sorted(read_index(tree).entries) == [f"{FOLDER}/e0.ckpt"]
