"""What follows from the evidence of one checkpoint: its entry, and what becomes of its sidecar. Pure.

Owns the rules by which a sidecar is ours, another program's or nobody's, and the table of what is done with each.
Promises: a sidecar that something else wrote is never replaced while it is newer than the checkpoint, nor ever if it
cannot be read; one of ours is written beside checkpoints that can be used or named (``ok``, ``unsupported``) only.
Knows neither disk nor clock; ``act`` carries out what it decides.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer import paths
from ckpt_indexer.formats.frameworks.sharded import index_names_of
from ckpt_indexer.metadata.compose import compose, overlay
from ckpt_indexer.metadata.entry import bare_entry, entry_of, write_stamp
from ckpt_indexer.model import RULES, Problem
from ckpt_indexer.passes.evidence import SECOND_NS
from ckpt_indexer.paths import Key, RelPath
from ckpt_indexer.trackers.wandb.run import FLUSH_S

if TYPE_CHECKING:
    from ckpt_indexer.metadata.schema import Document
    from ckpt_indexer.model import Entry, Fingerprint, Status, TwinScore
    from ckpt_indexer.passes.evidence import Evidence

# A file written within one tick of the file system's clock can change again without changing its fingerprint.
RACY_NS = 20_000_000
LOOK_AGAIN_S = 0.05
COARSE_S = (2 * SECOND_NS + RACY_NS) / 1e9  # the longest that a stamp of whole seconds leaves in doubt
RUN_LOG_NS = int((FLUSH_S + 5) * 1e9)


class SidecarOwner(enum.Enum):
    """Whose the sidecar is that stands under the checkpoint's own name."""

    ABSENT = enum.auto()  # nobody's: nothing is there, or what a power cut left of one of ours
    INVALID = enum.auto()  # unknown: it cannot be read, and may be another program's
    STALE = enum.auto()  # ours, but it says something else than what would be written now
    CURRENT = enum.auto()  # ours, and it says what would be written now
    FOREIGN = enum.auto()  # another program's, not older than the checkpoint: it knows better
    OUTDATED = enum.auto()  # another program's, about what the checkpoint was before


class Action(enum.Enum):
    """What becomes of the sidecar."""

    IGNORE = enum.auto()  # it stays, if there is one; it is not the entry's
    KEEP = enum.auto()  # it stays, and the entry names it
    WRITE = enum.auto()
    REMOVE = enum.auto()


_IGNORE, _KEEP, _WRITE, _REMOVE = Action
_STATUSES: tuple[Status, ...] = (
                             "ok",    "unsupported", "corrupt", "incomplete", "unreadable",
)  # fmt: skip
_ACTIONS: dict[SidecarOwner, tuple[Action, ...]] = {
    SidecarOwner.ABSENT:    (_WRITE,  _WRITE,        _IGNORE,   _IGNORE,      _IGNORE),
    SidecarOwner.INVALID:   (_IGNORE, _IGNORE,       _IGNORE,   _IGNORE,      _IGNORE),
    SidecarOwner.STALE:     (_WRITE,  _WRITE,        _REMOVE,   _IGNORE,      _IGNORE),
    SidecarOwner.CURRENT:   (_KEEP,   _KEEP,         _KEEP,     _KEEP,        _KEEP),
    SidecarOwner.FOREIGN:   (_KEEP,   _KEEP,         _KEEP,     _KEEP,        _KEEP),
    SidecarOwner.OUTDATED:  (_WRITE,  _WRITE,        _IGNORE,   _IGNORE,      _IGNORE),
}  # fmt: skip


class SidecarSettings(NamedTuple):
    """What the user wants of sidecars: the settings ``sidecars``, ``sidecar_fill`` and ``sidecar_names``."""

    is_written: bool = True
    is_filled: bool = True
    has_both_names: bool = False


class SecondName(NamedTuple):
    """Where the sidecar is to be written a second time."""

    path: RelPath
    replaces: Fingerprint | None  # what stood there when it was read; ``None``: nothing


class Verdict(NamedTuple):
    """What is to be done about one checkpoint."""

    entry: Entry
    action: Action = Action.IGNORE
    document: Document | None = None  # what is to be written
    second: SecondName | None = None  # where else, if it is written
    look_again_s: float | None = None  # read it again after so long, whatever its stamp says
    is_gone: bool = False  # it vanished meanwhile; the entry says nothing


def judge(evidence: Evidence, settings: SidecarSettings, twin: TwinScore | None = None) -> Verdict:
    """Decide what the checkpoint's entry is, and what becomes of its sidecar.

    *twin* is the score of another checkpoint that is the same save.
    """
    stamp = evidence.stamp
    problem = evidence.problem
    if problem is None and evidence.fingerprint_after != stamp.fingerprint:
        problem = Problem.of("unsettled", "it changed while it was read")
    if problem is not None:
        entry = bare_entry(evidence.key, stamp.fingerprint, stamp.link_target, problem)
        write_stamp(entry, stamp, unused=("config", "wandb"))
        return Verdict(entry, is_gone=evidence.is_gone)
    document = document_of(evidence, twin)
    entry = entry_of(document, evidence.key, stamp.fingerprint, stamp.link_target)
    assert document.indexer is not None
    unused = {*document.indexer.unused} if evidence.run is not None else {*document.indexer.unused, "wandb"}
    write_stamp(entry, stamp, unused=unused)
    entry.metadata_problem = evidence.sidecar.problem
    action = action_for(owner_of(evidence, document), entry.status, settings)
    if action is Action.KEEP:
        entry.metadata_file = paths.to_key(paths.sidecar_path(paths.to_path(evidence.key)))
    second = second_name(evidence) if action is Action.WRITE and settings.has_both_names else None
    return Verdict(entry, action, document, second, look_again_after_s(evidence))


def action_for(owner: SidecarOwner, status: Status, settings: SidecarSettings) -> Action:
    """Return what the table says; where sidecars are not to be written, none is written nor removed."""
    action = _ACTIONS[owner][_STATUSES.index(status)]
    return Action.IGNORE if action in (_WRITE, _REMOVE) and not settings.is_written else action


def owner_of(evidence: Evidence, document: Document | None = None) -> SidecarOwner:
    """Return whose the sidecar is; *document* is what would be written now, as far as that is known."""
    written, stamp = evidence.sidecar.document, evidence.stamp
    if evidence.sidecar.problem is not None:
        return SidecarOwner.INVALID
    if written is None:
        return SidecarOwner.ABSENT
    if written.indexer is None:
        is_older = stamp.sidecar is not None and stamp.sidecar[1] < stamp.fingerprint[1]
        return SidecarOwner.OUTDATED if is_older else SidecarOwner.FOREIGN
    return SidecarOwner.CURRENT if written == document else SidecarOwner.STALE


def is_enough(evidence: Evidence) -> bool:
    """Return whether the sidecar is ours and was made from what is there now: then it says what the checkpoint says.

    Of one of several shards it cannot say whether the others are still there.
    """
    written, stamp = evidence.sidecar.document, evidence.stamp
    if (
        index_names_of(_name(evidence.key))
        or written is None
        or written.indexer is None
        or written.indexer.rules < RULES
    ):
        return False
    made = written.indexer
    other, _ = _other_document(evidence)
    return (
        written.checkpoint_path,
        made.fingerprint,
        made.config_fingerprint,
        made.wandb_fingerprint,
        made.other_fingerprint,
    ) == (
        evidence.key,
        stamp.fingerprint,
        None if evidence.config is None else evidence.config.fingerprint,
        None if evidence.run is None else evidence.run.fingerprint,
        None if other is None or stamp.other is None else stamp.other.fingerprint,
    )


def document_of(evidence: Evidence, twin: TwinScore | None) -> Document:
    """Build the checkpoint's document, or return its sidecar's where that was enough."""
    written, stamp = evidence.sidecar.document, evidence.stamp
    if evidence.facts is None:
        assert written is not None
        return written
    document = compose(
        key=evidence.key,
        link_target=stamp.link_target,
        fingerprint=stamp.fingerprint,
        facts=evidence.facts,
        config=evidence.config,
        run=evidence.run,
        twin=twin,
    )
    assert document.indexer is not None
    other, warning = _other_document(evidence)
    if warning is not None:
        document.indexer.warnings = [*document.indexer.warnings, warning]
    if evidence.run is None and stamp.run is not None:
        warning = f"the run {_name(stamp.run[0])} was not used: it began later, or when it began is not known"
        document.indexer.warnings = [*document.indexer.warnings, warning]
    if written is not None and owner_of(evidence) is SidecarOwner.FOREIGN:
        if _is_of_another_save(written, evidence):
            warning = f"its sidecar was not used: it is about {_subject(written)[:100]!r}, saved at another step"
            document.indexer.warnings = [*document.indexer.warnings, warning]
            return document
        return overlay(document, written)
    if other is not None and stamp.other is not None:
        document = overlay(document, other)
        assert document.indexer is not None
        document.indexer.other_fingerprint = stamp.other.fingerprint
    return document


def second_name(evidence: Evidence) -> SecondName | None:
    """Return where the sidecar is written a second time; nowhere if another program's stands there, or it is shared."""
    path = paths.to_path(evidence.key)
    second = paths.other_sidecar_paths(path, (*paths.KNOWN_SUFFIXES, *paths.SUFFIXES))[0]
    found, written = evidence.stamp.other, evidence.other.document
    if found is None:
        return SecondName(second, None)
    if found.path != paths.to_key(second) or found.is_shared or written is None:
        return None
    is_ours = written.indexer is not None and written.checkpoint_path == evidence.key
    is_outdated = _subject(written) == _name(path) and found.fingerprint[1] < evidence.stamp.fingerprint[1]
    return SecondName(second, evidence.other.fingerprint) if is_ours or is_outdated else None


def look_again_after_s(evidence: Evidence) -> float | None:
    """Return after how many seconds the checkpoint may say something else although no fingerprint changed."""
    stamp = evidence.stamp
    age_ns = evidence.read_at_ns - stamp.fingerprint[1]
    if 0 <= age_ns < RACY_NS and stamp.fingerprint[1] % SECOND_NS:
        return LOOK_AGAIN_S
    config = None if stamp.config is None else stamp.config[1]
    other = None if stamp.other is None else stamp.other.fingerprint
    left_ns = max(_coarse_left_ns(each, evidence.read_at_ns) for each in (stamp.fingerprint, config, other))
    if left_ns:
        return left_ns / 1e9
    if evidence.run is not None and 0 <= age_ns < RUN_LOG_NS:
        return RUN_LOG_NS / 1e9  # what was logged with it may not be in the run's log yet
    return None


def _coarse_left_ns(fingerprint: Fingerprint | None, now_ns: int) -> int:
    """Return for how long a file can still change without changing its fingerprint, where only seconds are stamped.

    That is so on ext4 with inodes of 128 bytes and on some network file systems; FAT stamps even seconds only. A whole
    second may be chance, or a time that somebody set: then it costs one reading more. A time in the future says
    nothing, as everywhere.
    """
    if fingerprint is None or fingerprint[1] % SECOND_NS:
        return 0
    tick_ns = SECOND_NS if fingerprint[1] // SECOND_NS % 2 else 2 * SECOND_NS
    age_ns = now_ns - fingerprint[1]
    return tick_ns + RACY_NS - age_ns if 0 <= age_ns < tick_ns + RACY_NS else 0


def _other_document(evidence: Evidence) -> tuple[Document | None, str | None]:
    """Return the other program's sidecar if it counts; else a warning where it could have been expected to.

    One that we wrote is no evidence, nor is one that is older than the checkpoint; one that may be about another
    checkpoint counts only if it names this one.
    """
    found, document = evidence.stamp.other, evidence.other.document
    if found is None:
        return None, None
    name = _name(found.path)  # as a key: a warning is written, and a name on disk may be no text
    if evidence.other.problem is not None:
        return None, f"{name} beside it was not used: {evidence.other.problem.message}"
    if document is None or document.indexer is not None:
        return None, None
    subject = _subject(document)
    is_named = subject == _name(paths.to_path(evidence.key))
    if not is_named and (found.is_shared or subject.endswith(paths.KNOWN_SUFFIXES)):
        return None, f"{name} beside it was not used: it is about {subject[:100]!r}, as far as it says"
    return (None if found.fingerprint[1] < evidence.stamp.fingerprint[1] else document), None


def _is_of_another_save(written: Document, evidence: Evidence) -> bool:
    """Return whether a sidecar names another checkpoint *and* another step: after a renaming it has the same.

    Epochs say less: some programs count them from one.
    """
    step = None if evidence.facts is None else evidence.facts.global_step
    subject = _subject(written)
    is_another = subject != _name(paths.to_path(evidence.key)) and subject.endswith(paths.KNOWN_SUFFIXES)
    return is_another and None not in (step, written.training.global_step) and step != written.training.global_step


def _subject(document: Document) -> str:
    """Return the name of the checkpoint that a sidecar says it is about, whatever machine wrote it."""
    if document.indexer is not None:
        return _name(paths.to_path(Key(document.checkpoint_path)))
    return _name(document.checkpoint_path.replace("\\", "/"))


def _name(path: str) -> str:
    return path.rpartition("/")[2]
