"""The checkup of one checkpoint, at one of three levels, and what is worth keeping of it.

    quick   the header: container, pickle, state dict, lengths (``health``)
    deep    and every byte: against the archive's own checksums, or against a digest taken before; NaN and infinity
    load    and torch itself, in a process of its own

A level includes those before it: a file that is damaged is not given to torch, and one that torch loads may well be
damaged. Knows neither which checkpoints there are nor where results are kept.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, get_args

import msgspec

from ckpt_indexer.errors import TorchMissing
from ckpt_indexer.formats.facts import Damage, DeepFacts, Facts, NonFinite, Readable
from ckpt_indexer.model import Health, Level, Problem, Status, utc_text
from ckpt_indexer.passes.beside import read_file
from ckpt_indexer.passes.folders import check_folder, problem_of
from ckpt_indexer.paths import Key, RelPath
from ckpt_indexer.sandbox.torch_load import Loaded, seconds_for
from ckpt_indexer.tree.local import fingerprint_of, opened_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.sandbox.owner import Reader

LEVELS: tuple[Level, ...] = get_args(Level)
LOADABLE = ("torch-zip", "torch-legacy")  # by ``torch.load`` with ``weights_only=True``
LOAD_WALL_BASE_S = 120.0  # more than the CPU time it may take: the disk has its part in it
TENSORS_SHOWN_MAX = 5  # in a line for people
REFUSAL_MAX = 160  # characters of torch's reason, which may be pages
_UNCOUNTED = "NaN and infinity were not counted in {} tensors of the weights"
_PROVEN: tuple[Status, ...] = ("ok", "corrupt")  # what does not change by itself while the fingerprint stays


class Neighbour(msgspec.Struct):
    """The checkpoint to go on from instead of a bad one."""

    path: Key
    epoch: int | None = None
    good_at: str | None = None  # when a deep check last found it good; None: only its header was read


class Checked(msgspec.Struct):
    """What the checkup of one checkpoint found."""

    path: str
    status: Status
    problem: Problem | None = None
    warnings: list[str] = []
    level: Level = "quick"  # what was really done
    checked_at: str = ""  # ISO 8601, UTC; in the past where an earlier result still holds
    good_at: str | None = None  # when a deep check last found these bytes good
    nan: int = 0
    inf: int = 0
    uncounted: int = 0  # tensors of the weights in which these two could not be counted
    nonfinite: list[NonFinite] = []  # tensors of the weights, the first ones
    damages: list[Damage] = []  # the first ones
    readable: Readable | None = None  # of a damaged archive
    neighbour: Neighbour | None = None  # of one with a problem


class Proof(NamedTuple):
    """A result and what only this run needs of it."""

    checked: Checked
    health: Health
    fingerprint: Fingerprint | None  # of what was checked; None where it changed meanwhile
    epoch: int | None = None
    global_step: int | None = None


def check(
    root: str,
    path: RelPath,
    reader: Reader,
    level: Level,
    *,
    fingerprint: Fingerprint,
    is_folder: bool,
    previous: Health | None,
    name: RelPath | None = None,
    rate: float = 0.0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Proof:
    """Check the checkpoint at *path* below *root*; *previous* is what is kept of the bytes with that *fingerprint*.

    *name* is the checkpoint's own path where *path* is a link's target.
    """
    done: Level = "quick"
    deep, read, warnings = DeepFacts(), fingerprint, list[str]()
    problem: Problem | None
    try:
        if is_folder:
            facts = check_folder(root, path, reader)
            if level != "quick":
                warnings.append("of a folder the headers are checked, not every byte")
            problem = facts.problem
        else:
            with opened_file(root, path) as descriptor:
                read = fingerprint_of(os.fstat(descriptor))
                previous = previous if read == fingerprint else None
                facts = read_file(root, path, descriptor, reader, name=name)
                problem = facts.problem
                if level != "quick" and _is_readable(problem):
                    deep = reader.read_deep(descriptor, rate=rate, on_progress=on_progress)
                    problem = _deep_problem(facts, deep, previous)
                    done = "deep"
                if level == "load" and problem is None:
                    problem, refusal = load(descriptor, facts)
                    warnings += [refusal] if refusal else []
                    done = "deep" if refusal else "load"
                if fingerprint_of(os.fstat(descriptor)) != read:
                    problem = Problem.of("unsettled", "it changed while it was read")
    except OSError as error:
        facts, problem = Facts(), problem_of(error)
    now = now_text()
    status: Status = "ok" if problem is None else problem.status
    health = _kept(Health(level=done, checked_at=now, status=status, problem=problem, nan=deep.nan, inf=deep.inf,
                          uncounted=deep.uncounted, digest=deep.digest), previous)  # fmt: skip
    checked = Checked("", status, problem, [*facts.warnings, *warnings, *_warnings(deep)], done, now,
                      health.good_at, deep.nan, deep.inf, deep.uncounted, deep.nonfinite, deep.damages,
                      deep.readable)  # fmt: skip
    if done == "quick" and problem is None and previous is not None and previous.status == "corrupt":
        checked = recalled(previous)  # what the header cannot tell is known: these bytes are bad
    is_settled = problem is None or problem.code != "unsettled"
    return Proof(checked, health, read if is_settled else None, facts.epoch, facts.global_step)


def recalled(health: Health) -> Checked:
    """Return an earlier result once more."""
    warnings = []
    if health.nan + health.inf:
        warnings.append(f"{health.nan} NaN and {health.inf} infinite elements in the weights")
    if health.uncounted:
        warnings.append(_UNCOUNTED.format(health.uncounted))
    return Checked("", health.status, health.problem, warnings, health.level, health.checked_at, health.good_at,
                   health.nan, health.inf, health.uncounted)  # fmt: skip


def is_proven(health: Health, level: Level, since: str) -> bool:
    """Return whether a result is still good enough: as thorough, not older, and no matter of chance."""
    is_thorough = LEVELS.index(health.level) >= LEVELS.index(level)
    return is_thorough and health.checked_at >= since and health.status in _PROVEN


def merged(new: Health, current: Health | None) -> Health:
    """Choose what to keep of the same bytes: a weaker check that found nothing does not replace a stronger one."""
    is_weaker = current is not None and LEVELS.index(new.level) < LEVELS.index(current.level)
    return current if current is not None and is_weaker and new.status == "ok" else new


def load(descriptor: int, facts: Facts) -> tuple[Problem | None, str | None]:
    """Load the file with torch; returns a problem, or why torch does not want to load it, or neither."""
    if facts.format not in LOADABLE:
        return None, f"torch.load does not read {facts.format} files"
    command = [sys.executable, "-P", "-m", "ckpt_indexer.sandbox.torch_load", str(descriptor)]
    wall_s = LOAD_WALL_BASE_S + 2 * seconds_for(os.fstat(descriptor).st_size)
    try:
        done = subprocess.run(  # noqa: S603 - a command of our own
            command, pass_fds=(descriptor,), stdin=subprocess.DEVNULL, capture_output=True, timeout=wall_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Problem.of("time-limit", f"torch took more than {wall_s:.0f} s to load it"), None
    if done.returncode == 1 and b"No module named 'torch'" in done.stderr:
        raise TorchMissing
    if done.returncode != 0:
        codes = {-signal.SIGXCPU: "time-limit", -signal.SIGKILL: "memory-limit"}  # the latter by the system
        code = codes.get(done.returncode, "load-failed")
        return Problem.of(code, f"the process in which torch loads it ended with {done.returncode}"), None
    answer = msgspec.json.decode(done.stdout, type=Loaded)
    if answer.is_out_of_memory:
        return Problem.of("memory-limit", "torch needs more than three times its size to load it"), None
    if answer.failed is not None:
        return Problem.of("load-failed", f"torch cannot load it: {answer.failed}"), None
    if answer.refused is not None:
        reason = " ".join(answer.refused.rpartition("WeightsUnpickler error:")[2].split())
        return None, Problem.of(
            "load-failed", f"torch refuses it with weights_only=True: {reason[:REFUSAL_MAX]}"
        ).message
    return None, None


def now_text(*, before_s: float = 0.0) -> str:
    """Return the time, or that of *before_s* seconds ago, as entries hold it."""
    return utc_text(time.time_ns() - int(before_s * 1e9))


def finding(checked: Checked) -> str:
    """Return in one line what was found."""
    parts = [checked.problem.message] if checked.problem else []
    readable = checked.readable
    if readable is not None and readable.tensors is not None:
        parts.append(f"{readable.tensors} of {readable.tensors_total} tensors can be read")
        if readable.lost:
            shown = readable.lost[:TENSORS_SHOWN_MAX]
            parts.append("lost: " + ", ".join(shown) + ("…" if len(readable.lost) > len(shown) else ""))
    elif readable is not None:
        parts.append(f"{readable.records} of {readable.records_total} records can be read, their names are lost")
    if checked.good_at is not None and checked.problem is not None:
        parts.append(f"last good {checked.good_at[:10]}")
    if checked.neighbour is not None:
        parts.append(f"nearest good one: {checked.neighbour.path}")
    return "; ".join([*parts, *checked.warnings])


def _is_readable(problem: Problem | None) -> bool:
    """Return whether a deep look can add anything."""
    if problem is None or problem.code == "not-a-checkpoint":  # perhaps one whose first bytes are damaged
        return True
    return problem.status in ("corrupt", "incomplete") and problem.code != "empty"


def _deep_problem(facts: Facts, deep: DeepFacts, previous: Health | None) -> Problem | None:
    """Choose between what the header and the bytes say: the latter name the place."""
    if facts.problem is not None and facts.problem.code == "zero-filled":
        return facts.problem  # it names the reason, and that it may pass
    if deep.damages and deep.problem is not None:
        return deep.problem
    if facts.problem is not None or deep.problem is not None:
        return facts.problem or deep.problem
    if previous is not None and previous.digest is not None and deep.digest not in (None, previous.digest):
        date = (previous.good_at or previous.checked_at)[:10]
        return Problem.of(
            "checksum-mismatch", f"its bytes are not those of {date}, though its size and time are the same"
        )
    return None


def _kept(new: Health, previous: Health | None) -> Health:
    """Add to a result what earlier ones of the same bytes said."""
    if new.level != "quick" and new.status == "ok":
        new.good_at = new.checked_at
    elif previous is not None:
        new.good_at = previous.good_at
    if previous is not None and previous.digest is not None:
        new.digest = previous.digest  # also when the bytes changed: the next check is to say so again
    return new


def _warnings(deep: DeepFacts) -> list[str]:
    warnings = []
    if deep.nan or deep.inf:
        shown = [f"{each.name} ({each.nan} NaN, {each.inf} infinite)" for each in deep.nonfinite[:TENSORS_SHOWN_MAX]]
        more = "…" if len(deep.nonfinite) > len(shown) else ""
        warnings.append(f"{deep.nan} NaN and {deep.inf} infinite elements in the weights: {', '.join(shown)}{more}")
    if deep.uncounted:
        warnings.append(_UNCOUNTED.format(deep.uncounted))
    return warnings


class Candidate(NamedTuple):
    """A checkpoint as far as choosing a neighbour goes."""

    key: Key
    experiment: str
    fingerprint: Fingerprint
    epoch: int | None
    global_step: int | None
    content_id: str | None
    is_good: bool
    good_at: str | None

    def age(self) -> tuple[int, int]:
        """Order checkpoints of one training run; those of unknown epoch by when they were written."""
        if self.epoch is None:
            return (self.fingerprint[1], 0)
        return (self.epoch, -1 if self.global_step is None else self.global_step)


def nearest_good(bad: Candidate, candidates: Iterable[Candidate]) -> Neighbour | None:
    """Find what to go on from instead: a copy of the same content, else the latest earlier one of the experiment."""
    twin: Candidate | None = None
    best: Candidate | None = None
    for each in candidates:
        # Another name of the same file is as bad.
        if not each.is_good or each.fingerprint[2] == bad.fingerprint[2]:
            continue
        if bad.content_id is not None and each.content_id == bad.content_id:
            twin = each
        elif each.experiment != bad.experiment or (each.epoch is None) != (bad.epoch is None):
            continue
        elif each.age() < bad.age() and (best is None or each.age() > best.age()):
            best = each
    chosen = twin or best
    return None if chosen is None else Neighbour(chosen.key, chosen.epoch, chosen.good_at)
