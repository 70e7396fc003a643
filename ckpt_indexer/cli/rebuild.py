"""``ckpt-indexer rebuild``: index and sidecars from the disk, without a daemon."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ckpt_indexer.cli.options import json_option, note, print_json, quiet_option, root_argument
from ckpt_indexer.errors import RootUnusable
from ckpt_indexer.log import configure_log
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.passes.survey import survey
from ckpt_indexer.printable import printable
from ckpt_indexer.settings import ENVIRONMENT_PREFIX, environment_settings
from ckpt_indexer.tree.local import check_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_indexer.passes.examine import Examined
    from ckpt_indexer.passes.scan import Found

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
        click.option(
            "--suffixes",
            envvar=f"{ENVIRONMENT_PREFIX}SUFFIXES",
            help="Names that end so are checkpoints (.ckpt,.pt) [default: the index's, else .ckpt].",
        ),
        root_argument,
    ):
        function = option(function)
    return function


@click.command("rebuild")
@rebuild_options
def command(root: str, **flags: Any) -> None:
    """Bring the index of ROOT and its sidecars in line with the disk.

    Works beside a running daemon. What is current is skipped; --force reads everything again.
    """
    run(root, missing_only=False, **flags)


def run(
    root: str,
    *,
    workers: int | None,
    suffixes: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    missing_only: bool,
    show_progress: bool | None = None,
    verbose: bool = False,
) -> None:
    """Do the work of ``rebuild``, or of ``generate`` with *missing_only*.

    *show_progress* says whether there is a bar; without it there is one on a terminal. *verbose* names what is written.
    """
    check_root(root)
    settings = environment_settings({"suffixes": suffixes})
    chosen = settings.suffixes
    configure_log("warning", "text", is_terminal=False)
    started = time.monotonic()
    workers = workers or min(8, os.cpu_count() or 1)
    # `generate` is for sidecars, whatever the settings say of the daemon's, and removes nothing.
    changes = {"sidecars": True, "remove_orphans": False, "remove_entries": False} if missing_only else {}
    tally = _Tally()
    with Indexer.of(root, settings, workers=workers, on_examined=tally.add, **changes) as indexer:
        if dry_run:
            _dry_run(
                root,
                suffixes=chosen,
                force=force,
                missing_only=missing_only,
                as_json=as_json,
                quiet=quiet,
                verbose=verbose,
                started=started,
            )
            return
        indexer.load()
        if not missing_only:
            indexer.pop_renewals(len(indexer.known.stamps))
        snapshot = indexer.scan_and_plan(force=force)
        if missing_only:
            indexer.replan(_to_generate(snapshot.found, indexer.known.statuses, force=force), force=force)
        if snapshot.unseen.get("") is not None:
            raise RootUnusable(root=root, reason=snapshot.unseen[""])
        is_watched = sys.stderr.isatty() and not (as_json or quiet)
        _work(indexer, tally, show_bar=is_watched if show_progress is None else show_progress)
        summary = _summary(len(snapshot.found), len(tally.written), len(tally.failures), started)
        for path, reason in list(snapshot.unseen.items())[:FAILURES_SHOWN_MAX]:
            note(f"not looked at: {printable(path)}: {printable(reason)}")
        _report(summary, [*tally.written], [*tally.failures.items()], as_json=as_json, quiet=quiet, verbose=verbose)


def _to_generate(found: Mapping[str, Found], statuses: Mapping[str, str], *, force: bool) -> dict[str, Found]:
    """Choose the checkpoints that should have a sidecar and have none; *statuses* are those in the index."""
    return {
        key: each
        for key, each in found.items()
        if each.problem is None
        and not each.is_folder
        and (each.stamp.sidecar is None or force)
        and statuses.get(key, "ok") in ("ok", "unsupported")
    }


class _Tally:
    """What came of the checkpoints that were read."""

    def __init__(self) -> None:
        self.examined = 0
        self.written: dict[str, None] = {}  # keys; one may be read twice, where its twin's score became known
        self.failures: dict[str, str] = {}  # key -> message

    def add(self, examined: Examined, is_written: bool) -> None:
        entry = examined.entry
        self.examined += 1
        if is_written:
            self.written[entry.path] = None
        if entry.problem is not None:
            self.failures[entry.path] = entry.problem.message


def _work(indexer: Indexer, tally: _Tally, *, show_bar: bool) -> None:
    """Read what is to be read, committing now and then, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not show_bar) as bar:
        task = bar.add_task("reading", total=len(indexer.todo))
        committed = time.monotonic()
        while not indexer.is_idle:
            indexer.run_for(0.1)
            bar.update(task, completed=tally.examined)
            if time.monotonic() - committed > COMMIT_INTERVAL_S:
                indexer.commit()
                committed = time.monotonic()
    indexer.finish()


def _dry_run(
    root: str,
    *,
    suffixes: tuple[str, ...] | None,
    force: bool,
    missing_only: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    started: float,
) -> None:
    surveyed = survey(root, suffixes=suffixes)
    keys = set(surveyed.found) if force else {*surveyed.plan.read}
    if missing_only:
        statuses = {key: entry.status for key, entry in surveyed.entries.items()}
        keys = set(_to_generate(surveyed.found, statuses, force=force))
    summary = _summary(len(surveyed.found), len(keys), 0, started)
    _report(summary, sorted(keys), [], as_json=as_json, quiet=quiet, verbose=verbose, verb="would be written")


def _summary(total: int, written: int, failed: int, started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    return {"total": total, "written": written, "skipped": total - written, "failed": failed, "seconds": seconds}


def _report(
    summary: dict[str, Any],
    written: list[str],
    failures: list[tuple[str, str]],
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
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
    if quiet or verbose:
        for key in written:
            click.echo(printable(key))
    if quiet:
        return
    total, failed = summary["total"], summary["failed"]
    rate = 100 * (total - failed) / total if total else 100.0
    click.echo(
        f"{total} checkpoints: {summary['written']} {verb}, {summary['skipped']} skipped, {failed} failed "
        f"({rate:.1f} % good) in {summary['seconds']:.2f} s"
    )
