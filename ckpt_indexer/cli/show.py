"""``ckpt-indexer show``: everything that is known of one checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ckpt_indexer import paths
from ckpt_indexer.cli.options import json_option, print_json
from ckpt_indexer.errors import NotInIndex
from ckpt_indexer.index.reader import IndexView, read_index
from ckpt_indexer.printable import printable
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.tree.local import opened_file

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry


@click.command("show")
@click.argument("checkpoint", metavar="CKPT")
@click.option("--root", envvar="CKPT_INDEXER_ROOT", default="outputs", show_default=True, help="The outputs root.")
@json_option
def command(checkpoint: str, root: str, as_json: bool) -> None:
    """Show one checkpoint: its entry in the index, and its sidecar's document.

    CKPT is a path, or a key as `list -q` prints it.
    """
    index = read_index(root)
    entry = _find(index, checkpoint)
    document = _read_sidecar(index, entry)
    if as_json:
        print_json({**msgspec.to_builtins(entry), "metadata": document})
        return
    content: dict[str, Any] = {"entry": msgspec.to_builtins(entry), "metadata": document}
    for line in _lines(content):
        click.echo(line)


def _find(index: IndexView, checkpoint: str) -> Entry:
    """Look a checkpoint up by key, by a path relative to here, or by an absolute one."""
    root = os.path.realpath(index.root)
    full = os.path.join(os.path.realpath(os.path.dirname(checkpoint) or "."), os.path.basename(checkpoint))
    for key in (checkpoint, paths.to_key(os.path.relpath(full, root)), paths.to_key(os.path.normpath(checkpoint))):
        if key in index.entries:
            return index.entries[key]
    raise NotInIndex(key=checkpoint, root=index.root)


def _read_sidecar(index: IndexView, entry: Entry) -> Any:
    if entry.metadata_file is None:
        return None
    try:
        with opened_file(index.root, paths.to_path(entry.metadata_file)) as descriptor, Reader() as reader:
            return reader.read_yaml(descriptor).document
    except OSError:
        return None


def _lines(value: Any, indent: str = "") -> Any:
    """Print nested data for people: one ``name: value`` a line."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{printable(key)}:"
            yield from _lines(item, indent + "  ")
        elif item is not None and item not in ({}, []):
            shown = ", ".join(map(str, item)) if isinstance(item, list) else item
            yield f"{indent}{printable(key)}: {printable(shown)}"
