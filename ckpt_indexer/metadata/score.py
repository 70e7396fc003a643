"""A checkpoint's own score: which metric it was selected by, and what it reached. Never another checkpoint's.

A Lightning checkpoint carries the scores of several checkpoints and the paths, on the training machine, that they were
saved to. Which of them is about this file follows from its name alone; the sources, in this order:

1. ``best_k_models``, under this file's name (or its link target's). Folders count, from the right: the name
   ``epoch=2-val/hmean=0.71.ckpt`` makes one, and ``hmean=0.71.ckpt`` alone may exist twice.
2. ``current_score``, if this file is the monitor's own ``last`` *and* the top-k checkpoint that score belongs to was
   saved at the same step. ``last`` may be newer than the last top-k checkpoint: the score is then another file's.
3. metrics that user code left in the checkpoint.
4. the number in the file's name (``names``), rounded as it is.
5. where none of these knows it: the score of a *twin*, the same save under another name (``compose`` is told of it).

A file saved outside the monitor's own save (``on_exception.ckpt``, ``trainer.save_checkpoint``) appears in none.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.metadata.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckpt_indexer.formats.facts import Facts, MonitorState


class Score(NamedTuple):
    """The monitor of a checkpoint and what this very checkpoint reached."""

    monitor: str | None = None
    mode: str | None = None
    value: float | None = None
    state: MonitorState | None = None  # the callback that saved the file


def find_score(names: Iterable[str], facts: Facts, metrics: Mapping[str, float]) -> Score:
    """Find the score of the checkpoint called *names* (its key, and its target's if it is a link).

    *metrics* are those known to be this checkpoint's own, by name.
    """
    names = list(names)
    for state in facts.monitors:
        for name in names:
            value = _own_score(name, state.best_k_models)
            if value is None and _is_last(name, state):
                value = _last_score(state, facts)
            if value is not None:
                return Score(state.monitor, state.mode, value, state)
    saver = _saver(names, facts.monitors)
    if saver is None:
        return Score()
    return Score(saver.monitor, saver.mode, None if saver.monitor is None else metrics.get(saver.monitor), saver)


def _parts_in_common(a: str, b: str) -> int:
    pairs = zip(reversed(a.split("/")), reversed(b.replace("\\", "/").split("/")), strict=False)
    count = 0
    for x, y in pairs:
        if x != y:
            break
        count += 1
    return count


def _own_score(name: str, scores: Mapping[str, float]) -> float | None:
    """Find the path that ends like *name*, the longest match; ambiguous matches with different scores are none."""
    common = {path: _parts_in_common(name, path) for path in scores}
    longest = max(common.values(), default=0)
    found = {scores[path] for path, count in common.items() if count == longest} if longest else set()
    return found.pop() if len(found) == 1 else None


def _is_last(name: str, state: MonitorState) -> bool:
    last = state.last_model_path
    return last is not None and posixpath.basename(name) == posixpath.basename(last.replace("\\", "/"))


def _last_score(state: MonitorState, facts: Facts) -> float | None:
    """Return ``current_score`` if it belongs to the step at which this file was saved."""
    for path, score in state.best_k_models.items():
        if score != state.current_score:
            continue
        named = parse_name(path)
        if named.step is not None:
            same = named.step == facts.global_step
        else:  # the name tells the epoch only: enough if this epoch was validated once
            same = named.epoch is not None and named.epoch == facts.epoch and facts.validations_in_epoch == 1
        if same:
            return score
    return None


def _saver(names: list[str], states: list[MonitorState]) -> MonitorState | None:
    """Name the callback that most likely belongs to the file: the one that names it, else the first with a monitor."""
    bases = {posixpath.basename(name) for name in names}
    for state in states:
        known = [state.last_model_path, state.best_model_path, *state.best_k_models]
        if any(posixpath.basename(path.replace("\\", "/")) in bases for path in known if path):
            return state
    return next((state for state in states if state.monitor is not None), states[0] if states else None)
