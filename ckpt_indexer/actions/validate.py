"""Check checkpoints for damage, and keep the results in the indexes that are there: what ``validate`` does.

``plan`` finds the checkpoints, recalls results that still hold and orders the rest: first what was never checked so
thoroughly, then the oldest results. ``apply`` checks in that order; what was found by then is kept, whatever ends it.
Knows neither a terminal nor signals; what one check is, ``health.check`` says.
"""

from __future__ import annotations

import importlib.util
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.errors import RootUnusable, TorchMissing
from ckpt_indexer.health.check import (
    LEVELS,
    Candidate,
    Checked,
    Proof,
    check,
    is_proven,
    nearest_good,
    now_text,
    recalled,
)
from ckpt_indexer.health.results import Ledger
from ckpt_indexer.model import Health, Level, Problem
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.paths import Key, RelPath
from ckpt_indexer.sandbox.owner import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.passes.scan import Found

COMMIT_INTERVAL_S = 3.0  # a run that is interrupted has lost at most this much


@dataclass(frozen=True, kw_only=True)
class Validate:
    """What is asked for."""

    paths: tuple[str, ...]  # checkpoints, or folders of them
    level: Level = "quick"
    max_age_s: float | None = None  # results of this level that are not older are recalled; None: nothing is
    rate: float = 0.0  # bytes a second to read at most; 0: no limit


class Target(NamedTuple):
    """A checkpoint to check."""

    root: str
    key: Key
    found: Found
    shown: str  # as reached from the argument


@dataclass(frozen=True)
class ValidationPlan:
    """What is to be checked, and what need not be."""

    request: Validate
    targets: tuple[Target, ...]  # in the order of the arguments
    todo: tuple[Target, ...]  # in the order of reading
    recalled: dict[str, Checked]  # path as shown -> the earlier result

    @property
    def is_in_bytes(self) -> bool:
        """Whether the work is measured in bytes; checkpoints, where only headers are read."""
        return self.request.level != "quick"

    @property
    def total(self) -> int:
        """How much work there is."""
        return sum(map(self.work_of, self.todo))

    def work_of(self, target: Target) -> int:
        """Return how much of it one checkpoint is."""
        return target.found.stamp.fingerprint[0] if self.is_in_bytes else 1


@dataclass(frozen=True)
class Validation:
    """What was found; both lists are in the order of the arguments."""

    results: list[Checked]
    seconds: list[float]  # that each took

    @property
    def bad(self) -> list[Checked]:
        """The results with a problem."""
        return [result for result in self.results if result.status != "ok"]


def plan(request: Validate) -> ValidationPlan:
    """Find the checkpoints and decide what has to be read; read none, and write nothing.

    Raises:
        RootUnusable: one of the paths is not there.
        TorchMissing: the level is ``load``, and there is no torch to load with.

    """
    if request.level == "load" and importlib.util.find_spec("torch") is None:
        raise TorchMissing
    ledgers = _Ledgers()
    targets: dict[str, Target] = {}
    for path in request.paths:
        if not os.path.lexists(path):
            raise RootUnusable(root=path, reason="there is no such file or folder")
        for target in _targets_at(path, ledgers):
            targets.setdefault(target.shown, target)
    since = None if request.max_age_s is None else now_text(before_s=request.max_age_s)
    held, todo = {}, []
    for target in targets.values():
        previous = ledgers.previous(target)
        if since is not None and previous is not None and is_proven(previous, request.level, since):
            held[target.shown] = recalled(previous)
        else:
            todo.append((_rank(previous, request.level), target.shown))
    return ValidationPlan(request, tuple(targets.values()), tuple(targets[shown] for _, shown in sorted(todo)), held)


def apply(
    plan: ValidationPlan,
    *,
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
    on_unkept: Callable[[str], object] = lambda _reason: None,
) -> Validation:
    """Check what is planned; *on_progress* is told how much of ``plan.total`` is done, in its unit.

    An index that cannot be written costs no check: *on_unkept* is told why results are not kept, also where the run is
    interrupted.
    """
    run = _Run(plan, on_progress)
    try:
        with Reader() as reader:
            run.check_all(reader)
    finally:
        for reason in run.commit():
            on_unkept(reason)
    return run.validation()


class _Ledgers(dict[str, Ledger]):
    """The results that are kept, by root; opened when first asked for."""

    def __missing__(self, root: str) -> Ledger:
        self[root] = Ledger(root)
        return self[root]

    def previous(self, target: Target) -> Health | None:
        """Return what is known of these very bytes."""
        return self[target.root].health_of(target.key, target.found.stamp.fingerprint)


class _Run:
    """One run over a plan."""

    def __init__(self, plan: ValidationPlan, on_progress: Callable[[int, int], object]) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._total = plan.total
        self._finished = 0
        self._ledgers = _Ledgers()
        self._done: dict[str, tuple[Checked, float]] = {}  # path as shown -> the result, and the seconds it took
        self._proofs: dict[tuple[str, Key], Proof] = {}  # by root and key

    def check_all(self, reader: Reader) -> None:
        for target in self._plan.targets:
            if (held := self._plan.recalled.get(target.shown)) is not None:
                self._done[target.shown] = (held, 0.0)
        committed = time.monotonic()
        for target in self._plan.todo:
            started = time.monotonic()
            proof = self._proof_of(target, reader)
            self._proofs[target.root, target.key] = proof
            if proof.fingerprint is not None:
                self._ledgers[target.root].put(target.key, proof.fingerprint, proof.health)
            self._done[target.shown] = (proof.checked, time.monotonic() - started)
            self._finished += self._plan.work_of(target)
            self._report(0)
            if time.monotonic() - committed > COMMIT_INTERVAL_S:
                self.commit()
                committed = time.monotonic()

    def commit(self) -> list[str]:
        """Keep what was found so far; return why some of it cannot be kept."""
        for ledger in self._ledgers.values():
            ledger.commit()
        return [ledger.trouble for ledger in self._ledgers.values() if ledger.trouble is not None]

    def validation(self) -> Validation:
        results = [self._result(target) for target in self._plan.targets]
        return Validation(results, [self._done[target.shown][1] for target in self._plan.targets])

    def _result(self, target: Target) -> Checked:
        """Complete a result: its path, what stands beside the checkpoint, and what to go on from instead."""
        checked, _ = self._done[target.shown]
        warnings = list(checked.warnings)
        if target.found.stamp.sidecar is None:
            warnings.append("there is no sidecar")
        neighbour = checked.neighbour
        if checked.problem is not None:
            mine = self._candidate(target.root, target.key, target.found)
            neighbour = nearest_good(mine, self._candidates(target.root))
        return msgspec.structs.replace(checked, path=target.shown, warnings=warnings, neighbour=neighbour)

    def _proof_of(self, target: Target, reader: Reader) -> Proof:
        root, key, found, _ = target
        fingerprint = found.stamp.fingerprint
        if found.problem is not None:
            problem = Problem.of(*found.problem)
            health = Health(level="quick", checked_at=now_text(), status=problem.status, problem=problem)
            return Proof(recalled(health), health, fingerprint)
        path = found.path_to_read(key)
        place = (root, paths.to_key(path))
        if place not in self._proofs:  # else a link's target that was checked just now
            self._proofs[place] = check(
                root,
                path,
                reader,
                self._plan.request.level,
                fingerprint=fingerprint,
                is_folder=found.is_folder,
                name=paths.to_path(key),
                previous=self._ledgers.previous(target),
                rate=self._plan.request.rate,
                on_progress=self._report,
            )
        return self._proofs[place]

    def _report(self, offset: int) -> None:
        """Report how far the run is, with *offset* bytes of the file at hand."""
        self._on_progress(self._finished + (offset if self._plan.is_in_bytes else 0), self._total)

    def _candidates(self, root: str) -> Iterator[Candidate]:
        """Iterate over every checkpoint of a root: those that were checked now, and those that the index knows."""
        now = {target.key: target.found for target in self._plan.targets if target.root == root}
        for key, found in now.items():
            yield self._candidate(root, key, found)
        for known, entry in self._ledgers[root].entries.items():
            if known not in now:
                yield Candidate(
                    Key(known), entry.experiment, entry.fingerprint, entry.epoch, entry.global_step, entry.content_id,
                    entry.status == "ok" and (entry.health is None or entry.health.status == "ok"),
                    None if entry.health is None else entry.health.good_at,
                )  # fmt: skip

    def _candidate(self, root: str, key: Key, found: Found) -> Candidate:
        entry = self._ledgers[root].entries.get(key)
        proof = self._proofs.get((root, key))
        known = [each for each in (proof, entry) if each is not None and each.epoch is not None]
        health = proof.health if proof is not None else entry.health if entry is not None else None
        return Candidate(
            key, paths.place_of(key).experiment, found.stamp.fingerprint,
            known[0].epoch if known else None, known[0].global_step if known else None,
            None if entry is None else entry.content_id,
            health is not None and health.status == "ok", None if health is None else health.good_at,
        )  # fmt: skip


def _targets_at(path: str, ledgers: _Ledgers) -> Iterator[Target]:
    """Find the checkpoint at *path*, or every one below it."""
    name = os.path.basename(os.path.normpath(path))
    real = os.path.join(os.path.realpath(os.path.dirname(os.path.normpath(path)) or "."), name)
    root = _root_above(os.path.dirname(real))
    # A file that is named is checked, whatever its name ends in.
    is_one = not os.path.isdir(path) or paths.is_checkpoint(name, ledgers[root].suffixes)
    if not is_one:
        real = os.path.realpath(path)
        root = _root_above(real)
    inside = os.path.relpath(real, root)
    place = paths.ROOT if inside == "." else RelPath(inside)
    suffixes = (name,) if is_one else ledgers[root].suffixes
    for key, each in scan(root, (place,), suffixes).found.items():
        inside = os.path.relpath(paths.to_path(key), place) if place else paths.to_path(key)
        shown = path if is_one else os.path.normpath(os.path.join(path, inside))
        yield Target(root, key, each, paths.to_text(shown))


def _root_above(folder: str) -> str:
    """Find the outputs root that *folder* belongs to, by its index or its lock; without one, the folder itself."""
    nearest = folder
    while nearest != "/":
        if any(os.path.exists(os.path.join(nearest, name)) for name in (paths.INDEX_NAME, paths.LOCK_NAME)):
            return nearest
        nearest = os.path.dirname(nearest)
    return folder


def _rank(previous: Health | None, level: Level) -> str:
    """Order what was never checked so thoroughly first, then the oldest results."""
    if previous is None or LEVELS.index(previous.level) < LEVELS.index(level):
        return ""
    return previous.checked_at
