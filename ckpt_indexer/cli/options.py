"""What the commands share: their common arguments, and how they print."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ckpt_indexer.printable import printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckpt_indexer.paths import RelPath

UNSEEN_SHOWN_MAX = 20
root_argument = click.argument("root", required=False, envvar="CKPT_INDEXER_ROOT", default="outputs")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print keys only.")


def print_json(value: Any) -> None:
    """Print a record or plain data as JSON, indented for a terminal and on one line elsewhere."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    # JSON escapes only the controls below 0x20; a terminal follows those from 0x7F on, and bidirectional marks, too.
    click.echo(printable_json(data.decode()))


def note(message: str) -> None:
    """Print a message for people."""
    click.echo(message, err=True)


def note_unseen(unseen: Mapping[RelPath, str]) -> None:
    """Print which places could not be scanned, and why."""
    for path, reason in list(unseen.items())[:UNSEEN_SHOWN_MAX]:
        note(f"not scanned: {printable(path)}: {printable(reason)}")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Print a table: for people on a terminal, tab-separated for programs."""
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            click.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console(no_color="NO_COLOR" in os.environ or None).print(table)


def size_text(size_bytes: float) -> str:
    """Write a size for people.

    >>> size_text(999), size_text(97_600_000)
    ('999 B', '97.6 MB')
    """
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size_bytes /= 1000
        if size_bytes < 1000 or unit == "TB":
            break
    return f"{size_bytes:.3g} {unit}"
