"""Passes from the outside: real trees and indexes, with a double that examines and a clock that stands.

When checkpoints are read again stands as scenarios in ``tests/scenarios``.
"""

from __future__ import annotations

import concurrent.futures as cf
import os
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ckpt_indexer import read_index
from ckpt_indexer.index import codec
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import Key, RelPath
from tests.index.entries import entry
from tests.passes.doubles import Clock, Examiner, Held, make_indexer

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_indexer.passes.indexer import Indexer


@pytest.fixture
def examiner() -> Examiner:
    return Examiner(Clock())


def put(root: Path, *keys: str, data: bytes = b"x") -> None:
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)


def index(indexer: Indexer) -> None:
    indexer.load()
    indexer.scan_and_plan()
    indexer.finish()


def keys_of(root: Path) -> list[str]:
    return sorted(read_index(root).entries)


@pytest.fixture
def linked(tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of three names of one file; since then one is gone and the file was rewritten in place."""
    put(tmp_path, "a.ckpt")
    os.link(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    os.link(tmp_path / "a.ckpt", tmp_path / "c.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        index(indexer)
    (tmp_path / "b.ckpt").unlink()
    put(tmp_path, "a.ckpt", data=b"more")
    examiner.reads.clear()
    return tmp_path


def test_a_pass_takes_out_what_is_gone_and_reads_what_changed_under_all_its_names(
    linked: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_indexer(monkeypatch, linked, examiner) as indexer:
        indexer.load()
        indexer.scan_and_plan({RelPath("a.ckpt")})
        indexer.finish()
    assert keys_of(linked) == ["a.ckpt", "c.ckpt"]
    assert [read.key for read in examiner.reads] == ["a.ckpt", "c.ckpt"]


def test_who_only_adds_takes_out_nothing_whichever_way_it_is_found_gone(
    linked: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_indexer(monkeypatch, linked, examiner, remove_entries=False) as indexer:
        index(indexer)
        indexer.scan_and_plan({RelPath("a.ckpt")})
        Store(str(linked)).commit([entry("b.ckpt", epoch=7)])  # contested, and not there
        indexer.finish()
    assert keys_of(linked) == ["a.ckpt", "b.ckpt", "c.ckpt"]
    assert read_index(linked).entries["a.ckpt"].size_bytes == 4


def test_a_selection_is_read_instead_of_what_was_planned(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.ckpt", "b.ckpt", "c.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        found = indexer.scan_and_plan().found
        assert sorted(indexer.todo) == ["a.ckpt", "b.ckpt", "c.ckpt"]
        indexer.replan({Key("b.ckpt"): found[Key("b.ckpt")]}, force=True)
        indexer.finish()
    assert [read[1:] for read in examiner.reads] == [("b.ckpt", True)]
    assert keys_of(tmp_path) == ["b.ckpt"]


def test_by_force_everything_is_read_again_and_no_sidecar_trusted_once(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.ckpt", "b.ckpt")
    outcomes: list[tuple[str, bool]] = []
    with make_indexer(
        monkeypatch, tmp_path, examiner, on_examined=lambda examined, new: outcomes.append((examined.entry.path, new))
    ) as indexer:
        index(indexer)
        put(tmp_path, "new.ckpt")
        indexer.scan_and_plan(force=True)
        indexer.finish()
        indexer.scan_and_plan()
        indexer.finish()
    assert sorted(read[1:] for read in examiner.reads) == [
        ("a.ckpt", False), ("a.ckpt", True), ("b.ckpt", False), ("b.ckpt", True), ("new.ckpt", True),
    ]  # fmt: skip
    assert sorted(outcomes) == [
        ("a.ckpt", False), ("a.ckpt", True), ("b.ckpt", False), ("b.ckpt", True), ("new.ckpt", True),
    ]  # fmt: skip


def test_what_is_not_written_yet_is_known_although_another_writer_came_first(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "kept.ckpt", "gone.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        index(indexer)
        put(tmp_path, "new.ckpt")
        (tmp_path / "gone.ckpt").unlink()
        indexer.scan_and_plan({RelPath("new.ckpt"), RelPath("gone.ckpt")})
        indexer.run_for()
        Store(str(tmp_path)).commit([entry("theirs.ckpt")])
        indexer.load()
        indexer.commit()
        assert keys_of(tmp_path) == ["kept.ckpt", "new.ckpt", "theirs.ckpt"]
        assert sorted(indexer.known.stamps) == ["kept.ckpt", "new.ckpt", "theirs.ckpt"]
        (tmp_path / "new.ckpt").unlink()
        indexer.scan_and_plan({RelPath("new.ckpt")})  # as an event would have it
        indexer.commit()
    assert keys_of(tmp_path) == ["kept.ckpt", "theirs.ckpt"]


def test_what_a_commit_had_to_read_is_known_at_once(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        index(indexer)
        put(tmp_path, "b.ckpt")
        indexer.scan_and_plan({RelPath("b.ckpt")})
        indexer.run_for()
        Store(str(tmp_path)).commit([entry("theirs.ckpt", status="corrupt")])
        indexer.commit()
        assert indexer.known.counts_by_status() == {"corrupt": 1, "ok": 2}
        assert indexer.load() is False


def test_an_entry_that_is_again_what_the_index_says_is_not_written(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        index(indexer)
        generation = indexer.store.generation
        for state in ("corrupt", "ok"):
            examiner.states["a.ckpt"] = state
            indexer.scan_and_plan(force=True)
            indexer.run_for()
            assert indexer.is_dirty is (state == "corrupt")
        assert (indexer.commit(), indexer.store.generation) == (None, generation)


def test_what_was_compared_when_it_was_found_is_not_compared_again_to_be_written(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.ckpt", "b.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        index(indexer)
        put(tmp_path, "a.ckpt", data=b"more")
        indexer.scan_and_plan()
        indexer.run_for()
        with monkeypatch.context() as patch:
            patch.setattr(codec, "decode_entry", lambda _: pytest.fail("decoded again"))
            committed = indexer.commit()
    assert committed is not None
    assert committed.keys == ["a.ckpt"]


def test_an_executor_that_is_lent_is_used_and_left(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *(f"{i}.ckpt" for i in range(5)))
    held = Held()
    with make_indexer(monkeypatch, tmp_path, examiner, executor=held, workers=1) as indexer:
        indexer.scan_and_plan()
        indexer.run_for(0)
        assert (len(held.calls), len(indexer.todo)) == (2, 3)
        held.do()
        indexer.run_for(0)
        assert (len(held.calls), len(indexer.todo), indexer.is_dirty) == (1, 3, True)
    assert not held.is_shut
    with (
        cf.ThreadPoolExecutor(2) as threads,
        make_indexer(monkeypatch, tmp_path, examiner, executor=threads) as indexer,
    ):
        index(indexer)
    assert len(keys_of(tmp_path)) == 5


def test_the_log_goes_where_it_is_told_and_a_defect_costs_one_entry(
    tmp_path: Path, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.ckpt", "b.ckpt")
    examiner.look_again_s = None  # type: ignore[assignment]  # a defect
    lines: list[dict[str, object]] = []

    def keep(_: object, method: str, event: Any) -> Any:
        lines.append({"level": method, **event})
        raise structlog.DropEvent

    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[keep], wrapper_class=structlog.BoundLogger)
    with make_indexer(monkeypatch, tmp_path, examiner, log=log) as indexer:
        index(indexer)
    entries = read_index(tmp_path).entries
    assert {key: each.problem and each.problem.code for key, each in entries.items()} == {
        "a.ckpt": "reader-crashed", "b.ckpt": "reader-crashed",
    }  # fmt: skip
    assert {(line["event"], line["key"]) for line in lines if line["event"] == "checkpoint_failed"} == {
        ("checkpoint_failed", "a.ckpt"), ("checkpoint_failed", "b.ckpt"),
    }  # fmt: skip


def test_what_was_read_within_its_stamps_second_is_doubtful_until_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    examiner = Examiner(clock)
    examiner.look_again_s["a.ckpt"] = 1.5
    put(tmp_path, "a.ckpt", "b.ckpt")
    with make_indexer(monkeypatch, tmp_path, examiner) as indexer:
        index(indexer)
        indexer.finish()
        assert indexer.doubtful_s() == 1.5
        clock.now_s = 1.5
        indexer.scan_and_plan(indexer.pop_due_retries())
        indexer.finish()
        assert indexer.doubtful_s() is None
    assert [read.key for read in examiner.reads if read.at_s == 1.5] == ["a.ckpt"]
