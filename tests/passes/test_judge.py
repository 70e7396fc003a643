"""Every row of the judge's table, and the rules around it, with plain data: no file is opened here."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.metadata.compose import Config
from ckpt_indexer.metadata.entry import stamp_of
from ckpt_indexer.metadata.schema import Document, Metrics, Training
from ckpt_indexer.model import PROBLEMS, RULES, Monitor, OtherSidecar, Problem, Stamp, Status, TwinScore
from ckpt_indexer.passes.evidence import SECOND_NS, Evidence, Sidecar
from ckpt_indexer.passes.judge import (
    LOOK_AGAIN_S,
    RACY_NS,
    RUN_LOG_NS,
    Action,
    SecondName,
    SidecarOwner,
    SidecarSettings,
    Verdict,
    document_of,
    is_enough,
    judge,
    look_again_after_s,
    owner_of,
    second_name,
)
from ckpt_indexer.paths import Key, RelPath, to_key, to_path
from ckpt_indexer.trackers.wandb.run import Run

KEY = Key("exp/checkpoints/best.ckpt")
SIDECAR = f"{KEY}.metadata.yaml"
BESIDE_PATH = RelPath("exp/checkpoints/best.metadata.yaml")
BESIDE = to_key(BESIDE_PATH)
ODD_KEY, ODD_BESIDE = Key("exp/\\xff.ckpt"), Key("exp/\\xff.metadata.yaml")  # of a name that is no text
SECOND = 1_700_000_000  # an even one
NOW_NS = SECOND * SECOND_NS + 500_000_001
BEFORE, AFTER = (7, NOW_NS - 1, 3), (7, NOW_NS + 1, 3)  # of a sidecar: older and newer than the checkpoint
STATUSES: tuple[Status, ...] = get_args(Status)

# What the table has to say, written down a second time. "without": the setting ``sidecars`` is off.
EXPECTED = """
                    ok      unsupported  corrupt  incomplete  unreadable
ABSENT              WRITE   WRITE        IGNORE   IGNORE      IGNORE
ABSENT   without    IGNORE  IGNORE       IGNORE   IGNORE      IGNORE
INVALID             IGNORE  IGNORE       IGNORE   IGNORE      IGNORE
INVALID  without    IGNORE  IGNORE       IGNORE   IGNORE      IGNORE
STALE               WRITE   WRITE        REMOVE   IGNORE      IGNORE
STALE    without    IGNORE  IGNORE       IGNORE   IGNORE      IGNORE
CURRENT             KEEP    KEEP         KEEP     KEEP        KEEP
CURRENT  without    KEEP    KEEP         KEEP     KEEP        KEEP
FOREIGN             KEEP    KEEP         KEEP     KEEP        KEEP
FOREIGN  without    KEEP    KEEP         KEEP     KEEP        KEEP
OUTDATED            WRITE   WRITE        IGNORE   IGNORE      IGNORE
OUTDATED without    IGNORE  IGNORE       IGNORE   IGNORE      IGNORE
"""


def expected() -> dict[tuple[SidecarOwner, Status, bool], Action]:
    header, *rows = (line.split() for line in EXPECTED.strip().splitlines())
    return {
        (SidecarOwner[row[0]], status, "without" not in row): Action[word]  # type: ignore[misc]
        for row in rows
        for status, word in zip(header, row[-len(header) :], strict=True)
    }


def evidence(**changes: Any) -> Evidence:
    """Build what is known of a checkpoint that could be read and has nothing beside it."""
    fingerprint = (10, NOW_NS, 1)
    fields: dict[str, Any] = {
        "key": KEY,
        "stamp": Stamp(fingerprint),
        "read_at_ns": NOW_NS + 10**12,
        "fingerprint_after": fingerprint,
        "facts": Facts(format="torch-zip", epoch=3, global_step=30),
    }
    return Evidence(**{**fields, **changes})


def with_sidecar(document: Document | None, fingerprint: tuple[int, int, int] = AFTER, **changes: Any) -> Evidence:
    given = evidence(**changes)
    return replace(given, stamp=replace(given.stamp, sidecar=fingerprint), sidecar=Sidecar(document))


def with_other(
    document: Document | None, *, path: Key = BESIDE, fingerprint: Any = AFTER, is_shared: bool = False, **changes: Any
) -> Evidence:
    given = evidence(**changes)
    stamp = replace(given.stamp, other=OtherSidecar(path, fingerprint, is_shared))
    return replace(given, stamp=stamp, other=Sidecar(document, fingerprint=fingerprint))


def theirs(about: str = KEY, **changes: Any) -> Document:
    return Document(**{"checkpoint_path": about, "exp_name": "theirs", "created_at": "", **changes})


def ours(**changes: Any) -> Document:
    """Build the document that would be written for ``evidence(**changes)``."""
    return document_of(evidence(**changes), None)


def given_owner(owner: SidecarOwner, status: Status) -> Evidence:
    """Build evidence of a checkpoint of that status beside a sidecar of that owner."""
    code = next((code for code, means in PROBLEMS.items() if means == status != "ok"), None)
    facts = Facts(format="torch-zip", problem=None if code is None else Problem.of(code, "so"))
    if owner is SidecarOwner.CURRENT:
        return with_sidecar(ours(facts=facts), facts=None)
    if owner is SidecarOwner.STALE:
        return with_sidecar(ours(), facts=facts)
    if owner is SidecarOwner.INVALID:
        return replace(with_sidecar(None, facts=facts), sidecar=Sidecar(problem=Problem.of("sidecar-invalid", "x")))
    if owner is SidecarOwner.ABSENT:
        return evidence(facts=facts)
    return with_sidecar(theirs(), AFTER if owner is SidecarOwner.FOREIGN else BEFORE, facts=facts)


# --- the table ---


def test_the_expected_table_has_every_combination() -> None:
    assert expected().keys() == set(itertools.product(SidecarOwner, STATUSES, (True, False)))


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("owner", SidecarOwner)
def test_each_row_of_the_table(owner: SidecarOwner, status: Status, is_written: bool) -> None:
    given = given_owner(owner, status)
    verdict = judge(given, SidecarSettings(is_written=is_written))
    action = expected()[owner, status, is_written]
    assert (verdict.entry.status, verdict.action) == (status, action)
    assert verdict.entry.metadata_file == (SIDECAR if action is Action.KEEP else None)
    assert verdict.entry.metadata_problem == given.sidecar.problem
    assert stamp_of(verdict.entry) == given.stamp
    assert owner_of(given, verdict.document) is owner


@pytest.mark.parametrize("has_both_names", [True, False])
@pytest.mark.parametrize("owner", SidecarOwner)
def test_a_second_name_is_written_only_with_the_first(owner: SidecarOwner, has_both_names: bool) -> None:
    verdict = judge(given_owner(owner, "ok"), SidecarSettings(has_both_names=has_both_names))
    is_wanted = has_both_names and verdict.action is Action.WRITE
    assert verdict.second == (SecondName(BESIDE_PATH, None) if is_wanted else None)


def test_what_is_written_is_the_document_that_the_entry_was_made_from() -> None:
    verdict = judge(evidence(), SidecarSettings())
    assert verdict.document == ours()
    assert (verdict.entry.epoch, verdict.entry.global_step) == (3, 30)


# --- whose the sidecar is ---


def test_a_sidecar_as_old_as_the_checkpoint_is_about_it() -> None:
    assert owner_of(with_sidecar(theirs(), (7, NOW_NS, 3))) is SidecarOwner.FOREIGN
    assert owner_of(with_sidecar(theirs(), BEFORE)) is SidecarOwner.OUTDATED


def test_one_of_ours_that_says_what_would_be_written_is_current_although_it_was_read_again() -> None:
    assert judge(with_sidecar(ours()), SidecarSettings()).action is Action.KEEP
    assert judge(with_sidecar(ours(facts=Facts(epoch=4))), SidecarSettings()).action is Action.WRITE


def test_what_another_program_wrote_wins_and_what_is_outdated_says_nothing() -> None:
    written = theirs(metrics=Metrics(hmean=0.5))
    newer, older = (judge(with_sidecar(written, each), SidecarSettings()).entry for each in (AFTER, BEFORE))
    assert (newer.exp_name, newer.metrics, newer.epoch, newer.metadata_source) == (
        "theirs", {"hmean": 0.5}, 3, "sidecar",
    )  # fmt: skip
    assert (older.exp_name, older.metrics, older.metadata_source) == ("exp", {}, "checkpoint")


def test_what_another_program_wrote_about_another_save_is_kept_and_not_used() -> None:
    def judged(about: str, step: int) -> tuple[str | None, int]:
        written = theirs(about, training=Training(epoch=3, global_step=step))
        verdict = judge(with_sidecar(written), SidecarSettings())
        assert verdict.action is Action.KEEP
        document = document_of(with_sidecar(written), None)
        assert document.indexer is not None
        return verdict.entry.exp_name, len(document.indexer.warnings)

    assert judged("elsewhere/other.ckpt", 70) == ("exp", 1)
    assert judged("elsewhere/other.ckpt", 30) == ("theirs", 0)  # both were renamed
    assert judged(KEY, 70) == ("theirs", 0)  # it knows better


def test_a_run_that_was_found_and_cannot_have_written_the_checkpoint_is_named() -> None:
    given = evidence()
    given = replace(given, stamp=replace(given.stamp, run=("exp/wandb/run-20261121_070633-el1e2may", (4, 5, 6))))
    document = document_of(given, None)
    assert document.indexer is not None
    (warning,) = document.indexer.warnings
    assert warning.startswith("the run run-20261121_070633-el1e2may was not used: ")


def test_what_the_checkpoint_contradicts_leaves_its_sidecar_current() -> None:
    facts = Facts(format="torch-zip", epoch=3, hyper_parameters={"encoder_name": "resnet18"})
    config = replace(CONFIG, content={"encoder_name": "resnet50", "exp_name": "second"})
    given = evidence(facts=facts, config=config, run=RUN)
    made = document_of(given, None)
    assert (made.exp_name, made.wandb_run_id, made.model.encoder.model_name) == ("exp", None, "resnet18")
    assert is_enough(replace(given, sidecar=Sidecar(made), facts=None))


# --- whether the checkpoint has to be read ---

CONFIG = Config("exp/config.yaml", {}, (1, 2, 3))
RUN = Run(id="el1e2may", fingerprint=(4, 5, 6))


def test_a_sidecar_of_ours_is_enough_while_all_that_it_was_made_from_is_the_same() -> None:
    inputs: dict[str, Any] = {"config": CONFIG, "run": RUN}
    given = with_other(theirs(), **inputs)
    made = document_of(given, None)
    given = replace(given, sidecar=Sidecar(made), facts=None)
    assert made.indexer is not None
    assert made.indexer.other_fingerprint == AFTER
    assert is_enough(given)
    assert not is_enough(replace(given, key="exp/checkpoints/last.ckpt"))
    assert not is_enough(replace(given, stamp=replace(given.stamp, fingerprint=(11, NOW_NS, 1))))
    assert not is_enough(replace(given, config=replace(CONFIG, fingerprint=(9, 9, 9))))
    assert not is_enough(replace(given, config=None))
    assert not is_enough(replace(given, run=replace(RUN, fingerprint=(9, 9, 9))))
    assert not is_enough(replace(given, run=None))
    assert not is_enough(replace(given, other=Sidecar()))
    assert not is_enough(replace(given, stamp=replace(given.stamp, other=OtherSidecar(BESIDE, (8, NOW_NS + 2, 3)))))


@pytest.mark.parametrize(("rules", "enough"), [(RULES - 1, False), (RULES, True), (RULES + 1, True)])
def test_what_older_rules_made_is_not_enough(rules: int, enough: bool) -> None:
    made = ours()
    assert made.indexer is not None
    made.indexer.rules = rules
    assert is_enough(with_sidecar(made)) is enough


@pytest.mark.parametrize("sidecar", [Sidecar(), Sidecar(theirs()), Sidecar(problem=Problem.of("sidecar-invalid"))])
def test_what_is_not_ours_is_never_enough(sidecar: Sidecar) -> None:
    assert not is_enough(replace(with_sidecar(None), sidecar=sidecar))


# --- another program's sidecar, under its name ---


@pytest.mark.parametrize(
    ("about", "is_shared", "counts"),
    [
        (KEY, True, True),
        ("/home/a/best.ckpt", True, True),
        ("C:\\runs\\best.ckpt", True, True),
        ("exp/checkpoints/last.ckpt", False, False),  # it names another one
        ("exp/checkpoints/last.pt", False, False),
        ("exp/checkpoints/whatever", False, True),  # it names none, and there is only this one
        ("exp/checkpoints/whatever", True, False),
    ],
)
def test_a_sidecar_under_another_name_counts_if_it_is_about_this_checkpoint(
    about: str, is_shared: bool, counts: bool
) -> None:
    document = document_of(with_other(theirs(about), is_shared=is_shared), None)
    assert document.indexer is not None
    assert (document.exp_name, document.indexer.other_fingerprint) == (("theirs", AFTER) if counts else ("exp", None))
    name = about.replace("\\", "/").rpartition("/")[2]
    warning = f"best.metadata.yaml beside it was not used: it is about {name!r}, as far as it says"
    assert document.indexer.warnings == ([] if counts else [warning])


def test_one_that_cannot_be_read_or_is_ours_or_outdated_does_not_count() -> None:
    broken = replace(with_other(None), other=Sidecar(problem=Problem.of("sidecar-invalid", "no mapping")))
    lost = with_other(None)
    outdated = with_other(theirs(), fingerprint=BEFORE)
    for given, warnings in (
        (broken, ["best.metadata.yaml beside it was not used: no mapping"]),
        (lost, []),
        (with_other(ours()), []),
        (outdated, []),
    ):
        document = document_of(given, None)
        assert document.indexer is not None
        assert (document.exp_name, document.indexer.warnings) == ("exp", warnings)
        assert document.indexer.other_fingerprint is None
    assert document_of(with_other(theirs(), fingerprint=(7, NOW_NS, 3)), None).exp_name == "theirs"


def test_the_warning_about_a_name_that_is_no_text_can_be_written() -> None:
    given = with_other(None, path=ODD_BESIDE, key=ODD_KEY)
    document = document_of(replace(given, other=Sidecar(problem=Problem.of("sidecar-invalid", "no mapping"))), None)
    assert document.indexer is not None
    assert document.indexer.warnings == ["\\xff.metadata.yaml beside it was not used: no mapping"]


def test_where_two_programs_wrote_the_one_under_the_checkpoints_own_name_wins() -> None:
    given = with_other(theirs(exp_name="other"))
    given = replace(given, stamp=replace(given.stamp, sidecar=AFTER), sidecar=Sidecar(theirs(exp_name="own")))
    document = document_of(given, None)
    assert document.indexer is not None
    assert (document.exp_name, document.indexer.other_fingerprint) == ("own", None)
    given = replace(given, stamp=replace(given.stamp, sidecar=BEFORE))
    assert document_of(given, None).exp_name == "other"


# --- the second name ---


@pytest.mark.parametrize(
    ("given", "second"),
    [
        (evidence(), SecondName(BESIDE_PATH, None)),
        (with_other(ours()), SecondName(BESIDE_PATH, AFTER)),
        (with_other(ours(), is_shared=True), None),
        (with_other(ours(), path=Key("exp/checkpoints/best.metadata.json")), None),  # that one is believed
        (with_other(ours(key="exp/checkpoints/last.ckpt")), None),
        (with_other(theirs()), None),
        (with_other(theirs(), fingerprint=(7, NOW_NS, 3)), None),
        (
            with_other(theirs(), fingerprint=BEFORE),
            SecondName(BESIDE_PATH, BEFORE),
        ),  # about what the checkpoint was before
        (with_other(theirs("whatever"), fingerprint=BEFORE), None),
        (with_other(None), None),  # it cannot be read
        (
            with_other(ours(key="old/best.ckpt"), fingerprint=BEFORE),
            SecondName(BESIDE_PATH, BEFORE),
        ),  # its folder was moved
        (
            with_other(ours(key="old/\\xff.ckpt"), path=ODD_BESIDE, fingerprint=BEFORE, key=ODD_KEY),
            SecondName(to_path(ODD_BESIDE), BEFORE),
        ),
        (evidence(key="exp/model.bin"), SecondName(RelPath("exp/model.metadata.yaml"), None)),
        (evidence(key="exp/a\\xff.ckpt"), SecondName(RelPath("exp/a\udcff.metadata.yaml"), None)),
    ],
)
def test_the_second_name_is_used_where_nothing_or_ours_stands(given: Evidence, second: SecondName | None) -> None:
    assert second_name(given) == second


# --- a checkpoint that could not be read, or not in peace ---


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_could_not_be_opened_has_a_bare_entry_and_nothing_is_done(is_gone: bool) -> None:
    stamp = Stamp(
        (10, NOW_NS, 1), "target.ckpt", AFTER, (Key("config.yaml"), (1, 2, 3)), None, OtherSidecar(BESIDE, AFTER)
    )
    problem = Problem.of("permission-denied", "no")
    verdict = judge(Evidence(key=KEY, stamp=stamp, problem=problem, is_gone=is_gone), SidecarSettings())
    assert verdict == Verdict(verdict.entry, is_gone=is_gone)
    assert (verdict.entry.problem, verdict.entry.status, stamp_of(verdict.entry)) == (problem, "unreadable", stamp)


@pytest.mark.parametrize("owner", SidecarOwner)
def test_a_checkpoint_that_changed_while_it_was_read_is_unsettled_whatever_was_read(owner: SidecarOwner) -> None:
    given = replace(given_owner(owner, "ok"), fingerprint_after=(10, NOW_NS + 5, 1))
    verdict = judge(given, SidecarSettings())
    assert verdict == Verdict(verdict.entry)
    assert verdict.entry.problem == Problem.of("unsettled", "it changed while it was read")
    assert stamp_of(verdict.entry) == given.stamp


# --- when to read it again ---


@pytest.mark.parametrize(
    ("age_ns", "run", "seconds"),
    [
        (-1, None, None),
        (-1, RUN, None),  # a time in the future says nothing
        (0, None, LOOK_AGAIN_S),
        (RACY_NS - 1, RUN, LOOK_AGAIN_S),
        (RACY_NS, None, None),
        (RACY_NS, RUN, RUN_LOG_NS / 1e9),
        (RUN_LOG_NS - 1, RUN, RUN_LOG_NS / 1e9),
        (RUN_LOG_NS, RUN, None),
    ],
)
def test_a_young_checkpoint_is_read_again(age_ns: int, run: Run | None, seconds: float | None) -> None:
    given = evidence(read_at_ns=NOW_NS + age_ns, run=run)
    assert look_again_after_s(given) == seconds
    assert judge(given, SidecarSettings()).look_again_s == seconds


@pytest.mark.parametrize(
    ("second", "age_ns", "seconds"),
    [
        (SECOND, 0, 2.02),  # FAT stamps even seconds only
        (SECOND, 1_900_000_000, 0.12),
        (SECOND, 2_020_000_000, None),
        (SECOND + 1, 0, 1.02),
        (SECOND + 1, 1_010_000_000, 0.01),
        (SECOND + 1, 1_020_000_000, None),
        (SECOND, -1, None),
    ],
)
@pytest.mark.parametrize("what", ["checkpoint", "config", "other"])
def test_what_is_stamped_with_whole_seconds_is_read_again_when_its_second_is_over(
    what: str, second: int, age_ns: int, seconds: float | None
) -> None:
    coarse = (10, second * SECOND_NS, 1)
    old = (10, 1_600_000_000_500_000_000, 1)
    stamp = Stamp(
        coarse if what == "checkpoint" else old,
        config=(Key("config.yaml"), coarse if what == "config" else old),
        other=OtherSidecar(BESIDE, coarse if what == "other" else old),
    )
    given = evidence(stamp=stamp, read_at_ns=second * SECOND_NS + age_ns)
    assert look_again_after_s(given) == seconds


def test_the_score_of_a_twin_reaches_the_entry() -> None:
    twin = TwinScore(Monitor("val/hmean", "max", 0.9), Key("exp/checkpoints/epoch=3.ckpt"))
    entry = judge(evidence(), SidecarSettings(), twin).entry
    assert (entry.monitor, entry.twin and entry.twin.path) == (twin.monitor, twin.path)
    assert judge(evidence(), SidecarSettings()).entry.monitor is None
