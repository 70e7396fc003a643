"""``ckpt-indexer rebuild``: index and sidecars from the disk, without a daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ckpt_indexer.actions.rebuild import Rebuild, apply, plan
from ckpt_indexer.cli.options import json_option, note, note_unseen, print_json, quiet_option, root_argument
from ckpt_indexer.cli.progress import progress_bar
from ckpt_indexer.printable import printable
from ckpt_indexer.settings import ENVIRONMENT_PREFIX, environment_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_indexer.actions.rebuild import Outcome
    from ckpt_indexer.paths import Key

BROKEN_SHOWN_MAX = 20
ENDINGS_SHOWN_MAX = 8


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
    settings = environment_settings({"suffixes": suffixes})
    request = Rebuild(root=root, missing_only=missing_only, force=force, workers=workers, settings=settings)
    is_watched = sys.stderr.isatty() and not (as_json or quiet)
    if dry_run:
        outcome = plan(request)
    else:
        with progress_bar("reading", show=is_watched if show_progress is None else show_progress) as report:
            outcome = apply(request, on_progress=report)
        note_unseen(outcome.unseen)
    if as_json:
        print_json(_summary(outcome))
        return
    _note_broken(outcome.broken)
    if outcome.total == 0:
        note(printable(_what_else(outcome, root)))
    if quiet or verbose:
        for key in outcome.written:
            click.echo(printable(key))
    if not quiet:
        click.echo(_sentence(outcome, "to be written" if dry_run else "written"))


def _summary(outcome: Outcome) -> dict[str, Any]:
    """Return the shape of ``--json``; ``skipped`` is the older name of ``up_to_date``."""
    return {
        "total": outcome.total,
        "good": outcome.good,
        "broken": len(outcome.broken),
        "unread": outcome.unread,
        "written": len(outcome.written),
        "up_to_date": outcome.up_to_date,
        "skipped": outcome.up_to_date,
        "failed": len(outcome.failed),
        "other_files": outcome.others,
        "seconds": outcome.seconds,
    }


def _sentence(outcome: Outcome, verb: str) -> str:
    unread = f", {outcome.unread} not read yet" if outcome.unread else ""
    return (
        f"{outcome.total} checkpoints: {outcome.good} good, {len(outcome.broken)} broken{unread}; "
        f"{len(outcome.written)} {verb}, {outcome.up_to_date} up to date, in {outcome.seconds:.2f} s"
    )


def _what_else(outcome: Outcome, root: str) -> str:
    """Describe what stands where no checkpoint is, and how it would be seen."""
    start = f"nothing below {root} ends in {' or '.join(outcome.suffixes)}"
    if not outcome.others:
        return f"{start}, and there are no other files"
    listed = [f"{count} {ending}" for ending, count in outcome.others.items()]
    files = ", ".join(listed[:ENDINGS_SHOWN_MAX]) + ("…" if len(listed) > ENDINGS_SHOWN_MAX else "")
    if not outcome.suffixes_to_try:
        return f"{start}; other files there: {files}"
    count = sum(outcome.others[ending] for ending in outcome.suffixes_to_try)
    return f"{start}; other files there: {files}; --suffixes {','.join(outcome.suffixes_to_try)} would see {count}"


def _note_broken(broken: Mapping[Key, str]) -> None:
    for key, message in list(broken.items())[:BROKEN_SHOWN_MAX]:
        note(f"{printable(key)}: {printable(message)}")
    if len(broken) > BROKEN_SHOWN_MAX:
        note(f"… and {len(broken) - BROKEN_SHOWN_MAX} more")
