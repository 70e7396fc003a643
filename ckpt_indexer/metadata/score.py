"""A checkpoint's own score: which metric it was selected by, and what it reached. Never another checkpoint's.

A Lightning checkpoint carries the scores of several checkpoints and the paths, on the training machine, that they were
saved to. Which of them is about this file follows from its name, its folder and its step; the sources, in this order:

1. ``best_k_models``, under this file's name (or its link target's), if it is the very save (``Claim``). A metric's
   slash makes a folder that is part of the name, and ``hmean=0.71.ckpt`` alone may exist twice.
2. ``current_score``, if this file is the monitor's own ``last`` *and* the top-k checkpoint that score belongs to was
   saved at the same step. ``last`` may be newer than the last top-k checkpoint: the score is then another file's.
3. metrics that user code left in the checkpoint.
4. the number in the file's name (``names``), rounded as it is.
5. where none of these knows it: the score of a *twin*, the same save under another name (``compose`` is told of it).

A file saved outside the monitor's own save (``on_exception.ckpt``, ``trainer.save_checkpoint``) appears in none.
Lightning stores infinity for a score that was NaN, while the name it gives says ``nan``: then it is NaN.
"""

from __future__ import annotations

import enum
import math
import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.metadata.names import last_part, lone_numbers, own_name, parse_name
from ckpt_indexer.metadata.place import is_same_folder, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckpt_indexer.formats.facts import Facts, MonitorState

_LAST = re.compile(r"last([-_.].*)?")


class Score(NamedTuple):
    """The monitor of a checkpoint and what this very checkpoint reached."""

    monitor: str | None = None
    mode: str | None = None
    value: float | None = None
    state: MonitorState | None = None  # the callback that saved the file


class Claim(enum.Enum):
    """Whether the checkpoint that a callback lists under a file's name is the file."""

    OWN = enum.auto()  # folder or step say so, and neither says otherwise
    OTHER = enum.auto()  # its step or its score is another one
    UNPROVEN = enum.auto()  # it stands elsewhere, or nothing says where, and the name has no step


class ListedSave(NamedTuple):
    """A checkpoint that a callback lists under a file's name."""

    path: str
    score: float
    state: MonitorState
    claim: Claim


def find_score(names: Iterable[str], facts: Facts, metrics: Mapping[str, float]) -> Score:
    """Find the score of the checkpoint called *names* (its key, and its target's if it is a link).

    *metrics* are those known to be this checkpoint's own, by name.
    """
    names = list(names)
    for state in facts.monitors:
        for name in names:
            value = _own_score(name, state, facts)
            if value is None and _is_last(name, state, facts.monitors):
                value = score_at_step(state, facts)
            if value is not None:
                return Score(state.monitor, state.mode, value, state)
    saver = _saver(names, facts.monitors)
    if saver is None:
        return _own_best(names, facts)
    return Score(saver.monitor, saver.mode, None if saver.monitor is None else metrics.get(saver.monitor), saver)


def listed_as(names: Iterable[str], facts: Facts) -> list[ListedSave]:
    """Return what the callbacks list under the checkpoint's *names*; each is judged whether it is this very save."""
    return [each for state in facts.monitors for name in names for each in _listed(name, state, facts)]


def score_at_step(state: MonitorState, facts: Facts) -> float | None:
    """Return ``current_score`` if it belongs to the step at which the checkpoint was saved."""
    for path, score in state.best_k_models.items():
        if score == state.current_score and is_same_step(path, facts):
            return _as_named(score, path, state)
    return None


def is_same_step(path: str, facts: Facts) -> bool | None:
    """Return whether *path*, a name that training gave, was saved when *facts* were; ``None``: it does not say.

    Lightning before 1.6 wrote epoch and step one higher into the file than into the name.
    """
    named = parse_name(path)
    is_old = _is_before_1_6(facts.lightning_version)

    def is_equal(written: int | None, counted: int | None) -> bool | None:
        if written is None or counted is None:
            return None
        return written == counted or (is_old and written == counted - 1)

    step, epoch = is_equal(named.step, facts.global_step), is_equal(named.epoch, facts.epoch)
    if step is not None:
        return step
    if epoch is False:
        return False
    if {facts.epoch, facts.global_step} <= lone_numbers(path) | {named.epoch} - {None}:
        return True
    # The name tells the epoch only: enough if this epoch was validated once.
    return True if epoch and facts.validations_in_epoch == 1 else None


def _is_before_1_6(version: str | None) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) < (1, 6)


def _own_score(name: str, state: MonitorState, facts: Facts) -> float | None:
    """Return the score that is listed for this very save; different ones are none."""
    own = [each for each in _listed(name, state, facts) if each.claim is Claim.OWN]
    scores = {each.score for each in own}
    return _as_named(own[0].score, own[0].path, state) if len(scores) == 1 else None


def _own_best(names: list[str], facts: Facts) -> Score:
    """Return the run's best score if the checkpoint that it is said of is this one."""
    best = facts.run_best
    if best is None or best.path is None or best.name is None or best.value is None:
        return Score()
    claims = {
        _claim(best.path, facts, is_here=is_here) for name in names for is_here in _folders(name, best.path, None)
    }
    return Score(best.name, best.mode, best.value) if claims == {Claim.OWN} else Score()


def _listed(name: str, state: MonitorState, facts: Facts) -> Iterator[ListedSave]:
    for path, score in state.best_k_models.items():
        # A callback sets its current score just before it saves: in the very save both are equal.
        is_current = state.current_score is None or score == state.current_score
        for is_here in _folders(name, path, state.dirpath):
            claim = _claim(path, facts, is_here=is_here) if is_current else Claim.OTHER
            yield ListedSave(path, score, state, claim)


def _folders(name: str, path: str, dirpath: str | None) -> list[bool | None]:
    """Return whether *name* stands in the folder of *path*, if the two end alike; nothing otherwise."""
    here, there = parts_of(name), parts_of(path)
    count = own_name(path.replace("\\", "/")).count("/") + 1  # of the parts that are the name
    if here[-count:] != there[-count:]:
        return []
    return [is_same_folder("/".join(here[:-count]), dirpath or "/".join(there[:-count]))]


def _claim(path: str, facts: Facts, *, is_here: bool | None) -> Claim:
    is_then = is_same_step(path, facts)
    if is_then is False:
        return Claim.OTHER
    return Claim.OWN if is_here or is_then else Claim.UNPROVEN


def _as_named(score: float, path: str, state: MonitorState) -> float:
    if not math.isinf(score) or state.monitor is None:
        return score
    written = parse_name(path, {state.monitor}).metrics
    in_name = written.get(state.monitor, written.get(last_part(state.monitor), score))
    return in_name if math.isnan(in_name) else score


def _is_last(name: str, state: MonitorState, states: list[MonitorState]) -> bool:
    """Return whether the file is this callback's ``last``: under its path, else by name, where no other has one."""
    last = state.last_model_path
    if last is not None and posixpath.basename(name) == posixpath.basename(last.replace("\\", "/")):
        return True
    is_only = last is not None or all(other.last_model_path is None for other in states)
    return is_only and _LAST.fullmatch(own_name(name)) is not None


def _saver(names: list[str], states: list[MonitorState]) -> MonitorState | None:
    """Name the callback that most likely belongs to the file: the one that names it, else the first with a monitor."""
    bases = {posixpath.basename(name) for name in names}
    for state in states:
        known = [state.last_model_path, state.best_model_path, *state.best_k_models]
        if any(posixpath.basename(path.replace("\\", "/")) in bases for path in known if path):
            return state
    return next((state for state in states if state.monitor is not None), states[0] if states else None)
