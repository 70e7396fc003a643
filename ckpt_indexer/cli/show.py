"""``ckpt-indexer show``: everything that is known of one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from ckpt_indexer.actions.show import show
from ckpt_indexer.cli.options import json_option, print_json
from ckpt_indexer.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("show")
@click.argument("checkpoint", metavar="CKPT")
@click.option("--root", envvar="CKPT_INDEXER_ROOT", default="outputs", show_default=True, help="The outputs root.")
@json_option
def command(checkpoint: str, root: str, as_json: bool) -> None:
    """Show one checkpoint: its entry in the index, and its sidecar's document.

    CKPT is a path, or a key as `list -q` prints it.
    """
    shown = show(root, checkpoint)
    entry: dict[str, Any] = msgspec.to_builtins(shown.entry)
    if as_json:
        print_json({**entry, "metadata": shown.metadata})
        return
    for line in _lines({"entry": entry, "metadata": shown.metadata}):
        click.echo(line)


def _lines(value: dict[Any, Any], indent: str = "") -> Iterator[str]:
    """Write nested data for people: one ``name: value`` a line."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{printable(key)}:"
            yield from _lines(item, indent + "  ")
        elif item is not None and item not in ({}, []):
            shown = ", ".join(map(str, item)) if isinstance(item, list) else item
            yield f"{indent}{printable(key)}: {printable(shown)}"
