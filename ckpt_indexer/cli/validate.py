"""``ckpt-indexer validate``: checkpoints' health."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import click
import msgspec

from ckpt_indexer import paths
from ckpt_indexer.cli.options import json_option, note, print_json, print_table, quiet_option
from ckpt_indexer.errors import EXIT_FINDINGS, EXIT_OK, RootUnusable, TorchMissing
from ckpt_indexer.health.check import (
    LEVELS,
    Candidate,
    Checked,
    Proof,
    check,
    finding,
    is_proven,
    nearest_good,
    now_text,
    recalled,
)
from ckpt_indexer.health.results import Ledger
from ckpt_indexer.model import Health, Level, Problem
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.printable import printable
from ckpt_indexer.sandbox.owner import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.passes.scan import Found

COMMIT_INTERVAL_S = 3.0  # a run that is interrupted has lost at most this much
RATE_MIN = 64e3  # bytes a second; slower, a large file would not be done in a week
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)B?(?:/s)?")
_FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


class Target(NamedTuple):
    """A checkpoint to check."""

    root: str
    key: str
    found: Found
    shown: str  # as reached from the argument


def _duration(_: Any, __: Any, text: str | None) -> float | None:
    """Read ``30d``.

    >>> _duration(None, None, "1.5h")
    5400.0
    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter("a number and s, m, h, d or w, for example 30d")
    return float(match[1]) * _SECONDS[match[2]]


def _rate(_: Any, __: Any, text: str | None) -> float:
    """Read ``50M``; 0 is no limit.

    >>> _rate(None, None, "50M"), _rate(None, None, "1.5GB/s")
    (50000000.0, 1500000000.0)
    """
    if text is None:
        return 0.0
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]) * _FACTORS[match[2]] >= RATE_MIN:
        raise click.BadParameter("bytes a second, at least 64k, for example 50M")
    return float(match[1]) * _FACTORS[match[2]]


@click.command("validate")
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--deep", is_flag=True, help="Read every byte: checksums, every header, NaN and infinity in the weights.")
@click.option("--load", is_flag=True, help="And let torch load it, in a process of its own.")
@click.option(
    "--max-age",
    metavar="DURATION",
    callback=_duration,
    help="Take over results of this level that are not older (30d, 12h), instead of reading again.",
)
@click.option("--rate", metavar="BYTES/S", callback=_rate, help="With --deep, read no more than so much (50M).")
@click.option("--junit", type=click.Path(dir_okay=False), help="Write the results as JUnit XML, too.")
@json_option
@quiet_option
def command(
    paths: tuple[str, ...],
    deep: bool,
    load: bool,
    max_age: float | None,
    rate: float,
    junit: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Check checkpoints, or those below folders (default: $CKPT_INDEXER_ROOT or outputs); exit 3 on findings.

    Quick: reads headers. Container, pickle, state dict, and the records being there and long enough are checked; a
    missing sidecar or configuration is a warning. --deep reads every byte, those that were never or longest ago read
    so first; --load includes it. Where there is an index, results are kept in it.
    """
    level: Level = "load" if load else "deep" if deep else "quick"
    if load and importlib.util.find_spec("torch") is None:
        raise TorchMissing
    checkup = _Checkup(level, rate=rate)
    for path in paths or (os.environ.get("CKPT_INDEXER_ROOT", "outputs"),):
        if not os.path.lexists(path):
            raise RootUnusable(root=path, reason="there is no such file or folder")
        checkup.add(path)
    checkup.run(since=None if max_age is None else now_text(before_s=max_age),
                show_bar=sys.stderr.isatty() and not (as_json or quiet))  # fmt: skip
    results = checkup.results()
    bad = [result for result in results if result.status != "ok"]
    if junit is not None:
        from ckpt_indexer.cli.junit import junit_xml

        with open(junit, "wb") as file:
            file.write(junit_xml(results, checkup.seconds()))
    if as_json:
        print_json({"ok": not bad, "results": results})
    elif quiet:
        for result in bad:
            click.echo(printable(result.path))
    else:
        rows = [(printable(r.path), r.status, printable(finding(r))) for r in results]
        print_table(("checkpoint", "status", "finding"), rows)
        note(f"{len(results)} checkpoints, {len(bad)} with problems")
    return EXIT_FINDINGS if bad else EXIT_OK


class _Checkup:
    """One run over all targets."""

    def __init__(self, level: Level, *, rate: float) -> None:
        self._level = level
        self._rate = rate
        self._targets: list[Target] = []
        self._ledgers: dict[str, Ledger] = {}
        self._shown: dict[str, None] = {}  # in the order of the arguments
        self._done: dict[str, Checked] = {}  # by the path shown
        self._seconds: dict[str, float] = {}
        self._proofs: dict[tuple[str, str], Proof] = {}  # by root and key

    def add(self, path: str) -> None:
        """Take the checkpoint at *path*, or every one below it."""
        name = os.path.basename(os.path.normpath(path))
        real = os.path.join(os.path.realpath(os.path.dirname(os.path.normpath(path)) or "."), name)
        root = _root_above(os.path.dirname(real))
        # A file that is named is checked, whatever its name ends in.
        is_one = not os.path.isdir(path) or paths.is_checkpoint(name, self._ledger(root).suffixes)
        if not is_one:
            real = os.path.realpath(path)
            root = _root_above(real)
        place = os.path.relpath(real, root)
        place = "" if place == "." else place
        suffixes = (name,) if is_one else self._ledger(root).suffixes
        found = scan(root, (place,), suffixes).found
        for key, each in found.items():
            inside = os.path.relpath(paths.to_path(key), place) if place else paths.to_path(key)
            shown = paths.to_key(path if is_one else os.path.normpath(os.path.join(path, inside)))
            if shown not in self._shown:
                self._shown[shown] = None
                self._targets.append(Target(root, key, each, shown))

    def _ledger(self, root: str) -> Ledger:
        if root not in self._ledgers:
            self._ledgers[root] = Ledger(root)
        return self._ledgers[root]

    def run(self, *, since: str | None, show_bar: bool) -> None:
        """Check what has no result of the level since *since*; what was done is kept, whatever ends the run."""
        todo = []
        for target in self._targets:
            previous = self._previous(target)
            if since is not None and previous is not None and is_proven(previous, self._level, since):
                self._take(target, recalled(previous), 0.0)
            else:
                todo.append((self._rank(previous), target))
        todo.sort(key=lambda pair: (pair[0], pair[1].shown))
        try:
            with _stopping_in_order(), Reader() as reader, _Bar(todo, self._level, show=show_bar) as bar:
                committed = time.monotonic()
                for _, target in todo:
                    self._check(target, reader, bar)
                    if time.monotonic() - committed > COMMIT_INTERVAL_S:
                        self._commit()
                        committed = time.monotonic()
        finally:
            self._commit()
            for ledger in self._ledgers.values():
                if ledger.trouble is not None:
                    note(f"results are not kept in the index: {printable(ledger.trouble)}")

    def results(self) -> list[Checked]:
        """Give the results in the order of the arguments, those with a problem with their neighbours."""
        for target in self._targets:
            result = self._done[target.shown]
            if result.problem is not None:
                result.neighbour = nearest_good(self._candidate(target.root, target.key, target.found),
                                                self._candidates(target.root))  # fmt: skip
        return [self._done[shown] for shown in self._shown]

    def seconds(self) -> list[float]:
        """Give how long each result took."""
        return [self._seconds.get(shown, 0.0) for shown in self._shown]

    def _previous(self, target: Target) -> Health | None:
        return self._ledger(target.root).health_of(target.key, target.found.stamp.fingerprint)

    def _rank(self, previous: Health | None) -> str:
        """Order what was never checked so thoroughly first, then the oldest results."""
        if previous is None or LEVELS.index(previous.level) < LEVELS.index(self._level):
            return ""
        return previous.checked_at

    def _check(self, target: Target, reader: Reader, bar: _Bar) -> None:
        root, key, found, _ = target
        started = time.monotonic()
        if found.problem is not None:
            problem = Problem.of(*found.problem)
            health = Health(level="quick", checked_at=now_text(), status=problem.status, problem=problem)
            proof = Proof(recalled(health), health, found.stamp.fingerprint)
        else:
            path = found.path_to_read(key)
            same = self._proofs.get((root, paths.to_key(path)))  # a link's target that was checked just now
            proof = same or check(
                root,
                path,
                reader,
                self._level,
                fingerprint=found.stamp.fingerprint,
                is_folder=found.is_folder,
                previous=self._previous(target),
                rate=self._rate,
                on_progress=bar.at,
            )
            self._proofs[root, paths.to_key(path)] = proof
        self._proofs[root, key] = proof
        if proof.fingerprint is not None:
            self._ledger(root).put(key, proof.fingerprint, proof.health)
        self._take(target, proof.checked, time.monotonic() - started)
        bar.finished(target)

    def _take(self, target: Target, checked: Checked, seconds: float) -> None:
        warnings = list(checked.warnings)
        if target.found.stamp.sidecar is None:
            warnings.append("there is no sidecar")
        if target.found.stamp.config is None:
            warnings.append("there is no configuration (.hydra/config.yaml or config.yaml) above it")
        self._done[target.shown] = msgspec.structs.replace(checked, path=target.shown, warnings=warnings)
        self._seconds[target.shown] = seconds

    def _commit(self) -> None:
        for ledger in self._ledgers.values():
            ledger.commit()

    def _candidates(self, root: str) -> Iterator[Candidate]:
        """Give every checkpoint of a root: those that were checked now, and those that the index knows."""
        now = {target.key: target.found for target in self._targets if target.root == root}
        for key, found in now.items():
            yield self._candidate(root, key, found)
        for key, entry in self._ledger(root).entries.items():
            if key not in now:
                yield Candidate(
                    key, entry.experiment, entry.fingerprint, entry.epoch, entry.global_step, entry.content_id,
                    entry.status == "ok" and (entry.health is None or entry.health.status == "ok"),
                    None if entry.health is None else entry.health.good_at,
                )  # fmt: skip

    def _candidate(self, root: str, key: str, found: Found) -> Candidate:
        entry = self._ledger(root).entries.get(key)
        proof = self._proofs.get((root, key))
        known = [each for each in (proof, entry) if each is not None and each.epoch is not None]
        health = proof.health if proof is not None else entry.health if entry is not None else None
        return Candidate(
            key, paths.place_of(key).experiment, found.stamp.fingerprint,
            known[0].epoch if known else None, known[0].global_step if known else None,
            None if entry is None else entry.content_id,
            health is not None and health.status == "ok", None if health is None else health.good_at,
        )  # fmt: skip


def _root_above(folder: str) -> str:
    """Find the outputs root that *folder* belongs to, by its index or its lock; without one, the folder itself."""
    nearest = folder
    while nearest != "/":
        if any(os.path.exists(os.path.join(nearest, name)) for name in (paths.INDEX_NAME, paths.LOCK_NAME)):
            return nearest
        nearest = os.path.dirname(nearest)
    return folder


@contextlib.contextmanager
def _stopping_in_order() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: what was found is kept."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Bar:
    """A progress bar on a terminal: bytes where all are read, checkpoints where headers are."""

    def __init__(self, todo: list[tuple[str, Target]], level: Level, *, show: bool) -> None:
        self._is_in_bytes = level != "quick"
        self._total = sum(t.found.stamp.fingerprint[0] for _, t in todo) if self._is_in_bytes else len(todo)
        self._finished = 0
        self._show = show
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._show:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            size = (DownloadColumn(), TransferSpeedColumn()) if self._is_in_bytes else (MofNCompleteColumn(),)
            columns = (TextColumn("checking"), BarColumn(), *size, TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("checking", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, offset: int) -> None:
        """Show how far the file at hand is."""
        if self._bar is not None and self._is_in_bytes:
            self._bar.update(self._task, completed=self._finished + offset)

    def finished(self, target: Target) -> None:
        """Show that one is done."""
        self._finished += target.found.stamp.fingerprint[0] if self._is_in_bytes else 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._finished)
