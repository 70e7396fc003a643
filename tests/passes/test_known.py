"""What is known of each key: as it was loaded and as it was recorded, and what makes it count no more."""

from __future__ import annotations

from typing import Any

import pytest

from ckpt_indexer.metadata.entry import stamp_of
from ckpt_indexer.model import RULES, Monitor, Problem
from ckpt_indexer.passes.known import Cause, Known
from ckpt_indexer.paths import Key
from tests.index.entries import entry as any_entry

LAST = Key("e/checkpoints/last.ckpt")
BEST = Monitor("val/hmean", "max", 0.892)


def entry(key: str, **fields: Any) -> Any:
    return any_entry(key, **{"rules": RULES, **fields})


def saved(name: str, score: Monitor | None = None, **more: Any) -> Any:
    facts: dict[str, Any] = {"experiment": "e", "weights_id": "w", "global_step": 8, **more}
    return entry(f"e/checkpoints/{name}.ckpt", monitor=score, **facts)


EVERYTHING = [
    entry("ok.ckpt", config_path="config.yaml", config_fingerprint=(1, 2, 3), wandb_run_id="r1"),
    entry("also.ckpt", config_path="config.yaml", config_fingerprint=(1, 2, 3), fingerprint=(9, 9, 9)),
    entry("bad.ckpt", status="corrupt", problem=Problem.of("record-missing"), wandb_run_id="r1"),
    entry("old.ckpt", rules=RULES - 1),
    entry("a/last.ckpt", link_target="a/best.ckpt"),
    entry("a/lost.ckpt", status="unreadable", link_target="../b/c.ckpt", problem=Problem.of("link-dangling")),
]


@pytest.mark.parametrize("how", ["loaded", "recorded"])
def test_it_is_the_same_whether_it_was_loaded_or_recorded(how: str) -> None:
    known = Known()
    if how == "loaded":
        known.load(iter(EVERYTHING))
    else:
        for each in EVERYTHING:
            known.record(each)
    assert known.stamps == {each.path: stamp_of(each) for each in EVERYTHING}
    assert known.statuses == {"bad.ckpt": "corrupt", "a/lost.ckpt": "unreadable"}
    assert known.links == {"a/last.ckpt": "a/best.ckpt", "a/lost.ckpt": "b/c.ckpt"}
    assert known.counts_by_status() == {"corrupt": 1, "ok": 4, "unreadable": 1}
    assert known.keys_with_inode({9}) == ["also.ckpt"]
    assert (known.has_renewals, known.pop_renewals(9)) == (True, ["old.ckpt"])
    assert known.invalidate_run("r1") == ["ok.ckpt", "bad.ckpt"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("a/e.ckpt", "truncated"),
        ("a/e.ckpt", "container-damaged"),
        ("a/e.ckpt", "not-a-file"),
        ("e.ckpt", "link-dangling"),
        ("../a/e.ckpt", "link-dangling"),
        ("e.ckpt", "link-loop"),
    ],
)
def test_a_link_leads_to_its_target_whether_its_text_or_the_targets_key_is_known(target: str, code: str) -> None:
    known = Known()
    problem = Problem.of(code)
    known.record(entry("a/last.ckpt", link_target=target, status=problem.status, problem=problem))
    assert known.links == {"a/last.ckpt": "a/e.ckpt"}


def test_what_the_checkpoints_of_a_run_have_in_common_is_in_memory_once() -> None:
    known = Known()
    known.load(any_entry(f"{i}.ckpt", config_path=f"{'c' * 5}.yaml", config_fingerprint=(1, 2, 3)) for i in range(3))
    assert len({id(stamp.config) for stamp in known.stamps.values() if stamp is not None}) == 1


def test_loading_replaces_all_that_was_known() -> None:
    known = Known()
    known.load(iter([*EVERYTHING, saved("best", BEST)]))
    known.load(iter([entry("ok.ckpt"), saved("last")]))
    assert set(known.stamps) == {"ok.ckpt", "e/checkpoints/last.ckpt"}
    assert (known.statuses, known.links, known.has_renewals, known.invalidate_run("r1")) == ({}, {}, False, [])
    assert known.twin_score(LAST) is None


def test_a_new_entry_replaces_what_the_old_one_said() -> None:
    known = Known()
    known.load(iter(EVERYTHING))
    for each in EVERYTHING:
        known.record(entry(each.path))
    assert (known.statuses, known.links, known.has_renewals, known.invalidate_run("r1")) == ({}, {}, False, [])
    assert known.counts_by_status() == {"ok": 6}


def test_what_is_gone_leaves_nothing() -> None:
    known = Known()
    known.load(iter(EVERYTHING))
    for each in EVERYTHING:
        known.distrust_sidecar(each.path)
        known.forget(each.path)
    assert (known.stamps, known.counts_by_status(), known.has_renewals, known.links) == ({}, {}, False, {})
    assert not any(known.pop_distrust(each.path) for each in EVERYTHING)


@pytest.mark.parametrize("reason", Cause)
def test_an_invalid_stamp_counts_no_more_and_some_reasons_outdate_the_sidecar_too(reason: Cause) -> None:
    known = Known()
    known.load(iter(EVERYTHING))
    known.invalidate(Key("ok.ckpt"), reason)
    assert [key for key, stamp in known.stamps.items() if stamp is None] == ["ok.ckpt"]
    is_outdated = reason in (Cause.RUN, Cause.SHARD, Cause.TWIN)
    assert [known.pop_distrust(Key("ok.ckpt")), known.pop_distrust(Key("ok.ckpt"))] == [is_outdated, False]


def test_renewals_come_a_few_at_a_time_and_once() -> None:
    known = Known()
    known.load(entry(f"{i}.ckpt", rules=RULES - 1) for i in range(5))
    assert [known.pop_renewals(2), known.pop_renewals(2)] == [["0.ckpt", "1.ckpt"], ["2.ckpt", "3.ckpt"]]
    assert [key for key, stamp in known.stamps.items() if stamp is None] == [f"{i}.ckpt" for i in range(4)]
    assert (known.pop_renewals(2), known.pop_renewals(2), known.has_renewals) == (["4.ckpt"], [], False)


def test_a_twin_whose_score_became_known_is_scanned_again() -> None:
    known = Known()
    known.record(saved("last"))
    assert not known.has_rescans
    known.record(saved("best", BEST))
    assert (known.has_rescans, known.pop_rescans()) == (True, {"e/checkpoints/last.ckpt"})
    assert (known.has_rescans, known.stamps[LAST]) == (False, None)
    assert known.pop_distrust(LAST)
    assert known.twin_score(LAST) == (BEST, "e/checkpoints/best.ckpt")


def test_a_twin_that_is_stale_in_the_index_is_invalid_when_it_is_loaded() -> None:
    known = Known()
    known.load(iter([saved("last"), saved("best", BEST)]))
    assert (known.stamps[LAST], known.pop_rescans()) == (None, {"e/checkpoints/last.ckpt"})
    assert known.pop_distrust(LAST)


def test_what_is_invalid_stays_so_when_the_index_is_loaded_until_it_is_read() -> None:
    known = Known()
    known.load(iter([saved("last"), entry("gone.ckpt")]))
    for key in ("e/checkpoints/last.ckpt", "gone.ckpt", "new.ckpt"):
        known.invalidate(Key(key), Cause.RUN)
    known.load(iter([saved("last")]))
    assert known.stamps == {"e/checkpoints/last.ckpt": None}
    known.record(saved("last"))
    known.load(iter([saved("last")]))
    assert known.stamps == {"e/checkpoints/last.ckpt": stamp_of(saved("last"))}


def test_a_reading_that_began_before_the_twins_score_was_known_does_not_count() -> None:
    known = Known()
    known.load(iter([saved("last"), saved("best")]))
    known.record(saved("best", BEST))
    known.record(saved("last"))  # read at the same time as best
    assert (known.stamps[LAST], known.pop_rescans()) == (None, {"e/checkpoints/last.ckpt"})
