"""``ckpt-indexer validate``: checkpoints' health."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from ckpt_indexer.actions.validate import Validate, apply, plan
from ckpt_indexer.cli.options import json_option, note, print_json, print_table, quiet_option
from ckpt_indexer.cli.progress import progress_bar
from ckpt_indexer.errors import EXIT_FINDINGS, EXIT_OK
from ckpt_indexer.health.check import finding
from ckpt_indexer.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.actions.validate import Validation
    from ckpt_indexer.model import Level

RATE_MIN = 64e3  # bytes a second; slower, a large file would not be done in a week
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)B?(?:/s)?")
_FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


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
    paths = paths or (os.environ.get("CKPT_INDEXER_ROOT", "outputs"),)
    planned = plan(Validate(paths=paths, level=level, max_age_s=max_age, rate=rate))
    is_watched = sys.stderr.isatty() and not (as_json or quiet)
    with _stopping_in_order(), progress_bar("checking", show=is_watched, in_bytes=planned.is_in_bytes) as report:
        found = apply(planned, on_progress=report, on_unkept=_note_unkept)
    if junit is not None:
        from ckpt_indexer.cli.junit import junit_xml

        with open(junit, "wb") as file:
            file.write(junit_xml(found.results, found.seconds))
    _print(found, as_json=as_json, quiet=quiet)
    return EXIT_FINDINGS if found.bad else EXIT_OK


def _print(found: Validation, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json({"ok": not found.bad, "results": found.results})
    elif quiet:
        for result in found.bad:
            click.echo(printable(result.path))
    else:
        rows = [(printable(r.path), r.status, printable(finding(r))) for r in found.results]
        print_table(("checkpoint", "status", "finding"), rows)
        note(f"{len(found.results)} checkpoints, {len(found.bad)} with problems")


def _note_unkept(reason: str) -> None:
    note(f"results are not kept in the index: {printable(reason)}")


@contextlib.contextmanager
def _stopping_in_order() -> Iterator[None]:
    """Make SIGTERM end the run as Ctrl-C does: what was found is kept."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
