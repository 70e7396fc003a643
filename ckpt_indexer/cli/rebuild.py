"""``ckpt-indexer rebuild``: index and sidecars from the disk, without a daemon."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from ckpt_indexer.cli.options import json_option, note, print_json, printable, quiet_option, root_argument
from ckpt_indexer.errors import RootUnusable
from ckpt_indexer.watch.daemon import check_root
from ckpt_indexer.watch.indexer import Indexer

COMMIT_INTERVAL_S = 1.0  # a run that is interrupted has lost at most this much
FAILURES_SHOWN_MAX = 20


def rebuild_options(function: Any) -> Any:
    """Add the flags that ``rebuild`` and ``generate`` share."""
    for option in (
        quiet_option,
        json_option,
        click.option("--force", is_flag=True, help="Read every checkpoint again, and write our sidecars anew."),
        click.option("--dry-run", "-n", is_flag=True, help="Say what would be done; write nothing."),
        click.option(
            "--workers", type=click.IntRange(1, 64), default=None, help="Processes [default: CPUs, at most 8]."
        ),
        root_argument,
    ):
        function = option(function)
    return function


@click.command("rebuild")
@rebuild_options
def command(root: str, workers: int | None, dry_run: bool, force: bool, as_json: bool, quiet: bool) -> None:
    """Bring the index of ROOT and its sidecars in line with the disk.

    Works beside a running daemon. What is current is skipped; --force reads everything again.
    """
    run(root, workers=workers, dry_run=dry_run, force=force, as_json=as_json, quiet=quiet, missing_only=False)


def run(
    root: str, *, workers: int | None, dry_run: bool, force: bool, as_json: bool, quiet: bool, missing_only: bool
) -> None:
    """Do the work of ``rebuild``, or of ``generate`` with *missing_only*."""
    check_root(root)
    started = time.monotonic()
    from os import cpu_count

    with Indexer(root, workers=workers or min(8, cpu_count() or 1), remove_orphans=not missing_only) as indexer:
        indexer.force = force
        if dry_run:
            _dry_run(root, force=force, missing_only=missing_only, as_json=as_json, quiet=quiet, started=started)
            return
        indexer.load()
        if force and not missing_only:
            indexer.known = dict.fromkeys(indexer.known)
        snapshot = indexer.look()
        if missing_only:
            _keep_missing(indexer, snapshot.found, force=force)
        if snapshot.unseen.get("") is not None:
            raise RootUnusable(root=root, reason=snapshot.unseen[""])
        todo = len(indexer.todo)
        failures: list[tuple[str, str]] = []
        written: list[str] = []
        before = dict(indexer.store.entries)
        _work(indexer, todo, failures, show=not (as_json or quiet))
        indexer.commit()
        written = [key for key, raw in indexer.store.entries.items() if before.get(key) != raw]
        total = len(snapshot.found)
        summary = {
            "total": total,
            "written": max(indexer.counts.written, len(written)),
            "skipped": total - max(indexer.counts.written, len(written)),
            "failed": indexer.counts.failed,
            "seconds": round(time.monotonic() - started, 3),
        }
        for path, reason in list(snapshot.unseen.items())[:FAILURES_SHOWN_MAX]:
            note(f"not looked at: {printable(path)}: {printable(reason)}")
        report(summary, written, failures, as_json=as_json, quiet=quiet)


def _keep_missing(indexer: Indexer, found: Any, *, force: bool) -> None:
    """Leave only the checkpoints without a sidecar to be read."""
    usable = {key: each for key, each in found.items() if each.problem is None and not each.is_folder}
    indexer.todo = {key: each for key, each in usable.items() if each.stamp.sidecar is None or force}


def _work(indexer: Indexer, todo: int, failures: list[tuple[str, str]], *, show: bool) -> None:
    """Read what is to be read, with a progress bar on a terminal, committing now and then."""

    def examined(key: str, result: Any) -> None:
        if result.entry.problem is not None:
            failures.append((key, result.entry.problem.message))

    indexer.progress = examined
    if not (show and sys.stderr.isatty()):
        while not indexer.is_idle:
            indexer.work(COMMIT_INTERVAL_S)
            indexer.commit()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=todo)
        committed = time.monotonic()
        while not indexer.is_idle:
            indexer.work(0.1)
            bar.update(task, completed=indexer.counts.examined)
            if time.monotonic() - committed > COMMIT_INTERVAL_S:
                indexer.commit()
                committed = time.monotonic()


def _dry_run(root: str, *, force: bool, missing_only: bool, as_json: bool, quiet: bool, started: float) -> None:
    from ckpt_indexer.watch.survey import survey

    surveyed = survey(root)
    keys = set(surveyed.found) if force else {*surveyed.plan.read}
    if missing_only:
        keys = {
            key
            for key, each in surveyed.found.items()
            if each.problem is None and not each.is_folder and (force or each.stamp.sidecar is None)
        }
    total = len(surveyed.found)
    summary = {
        "total": total,
        "written": len(keys),
        "skipped": total - len(keys),
        "failed": 0,
        "seconds": round(time.monotonic() - started, 3),
    }
    report(summary, sorted(keys), [], as_json=as_json, quiet=quiet, verb="would be written")


def report(
    summary: dict[str, Any],
    written: list[str],
    failures: list[tuple[str, str]],
    *,
    as_json: bool,
    quiet: bool,
    verb: str = "written",
) -> None:
    """Print the summary: JSON, keys, or a sentence with the success rate."""
    if as_json:
        print_json(summary)
        return
    for key, message in failures[:FAILURES_SHOWN_MAX]:
        note(f"{printable(key)}: {printable(message)}")
    if len(failures) > FAILURES_SHOWN_MAX:
        note(f"… and {len(failures) - FAILURES_SHOWN_MAX} more")
    if quiet:
        for key in written:
            click.echo(printable(key))
        return
    total, failed = summary["total"], summary["failed"]
    rate = 100 * (total - failed) / total if total else 100.0
    click.echo(
        f"{total} checkpoints: {summary['written']} {verb}, {summary['skipped']} skipped, {failed} failed "
        f"({rate:.1f} % good) in {summary['seconds']:.2f} s"
    )
