"""``ckpt-indexer list``: the index as a table. The cheapest command: one file read, no daemon, no settings."""

from __future__ import annotations

from typing import Any

import click

from ckpt_indexer.cli.options import (
    json_option,
    note,
    print_json,
    print_table,
    quiet_option,
    root_argument,
    size_text,
)
from ckpt_indexer.index.query import Query, parse_columns, parse_filter, parse_order, select, value_of
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.printable import printable

_COLUMNS = "path,status,epoch,global_step,monitor.name,score,encoder,parameters,size_bytes,mtime"


@click.command("list")
@root_argument
@click.option("--sort", "order", default="path", show_default=True, metavar="FIELD[:asc|desc]", help="Sort by a field.")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="EXPR", help="For example 'metrics.hmean>=0.9'; repeatable."
)
@click.option("--columns", default=_COLUMNS, metavar="FIELD,…", help="Fields to print.")
@click.option("--limit", type=click.IntRange(min=0), default=None, help="Print at most so many.")
@json_option
@quiet_option
def command(
    root: str, order: str, filters: tuple[str, ...], columns: str, limit: int | None, as_json: bool, quiet: bool
) -> None:
    """List the checkpoints in the index of ROOT; exit 10 if there is no index.

    Fields are those of an entry (`help index-and-sidecar`), metrics.NAME, or a metric's bare name. Filters know >= <=
    > < = != and ~ (contains); sizes may be written 1.5GB. What is not known is sorted last.
    """
    query = Query(parse_order(order), tuple(map(parse_filter, filters)))
    fields = parse_columns(columns)
    index = read_index(root)
    chosen = select(index.entries.values(), query)
    shown = chosen if limit is None else chosen[:limit]
    if as_json:
        print_json({"generation": index.generation, "total": len(chosen), "checkpoints": shown})
        return
    if quiet:
        for entry in shown:
            click.echo(printable(entry.path))
        return
    rows = ([_cell(field, value_of(entry, field)) for field in fields] for entry in shown)
    numeric = frozenset(i for i, field in enumerate(fields) if field in _NUMERIC or field.startswith("metrics."))
    print_table(fields, rows, right=numeric)
    if len(shown) < len(chosen):
        note(f"{len(shown)} of {len(chosen)} checkpoints")


_NUMERIC = ("epoch", "global_step", "score", "parameters", "size_bytes", "monitor.value")


def _cell(field: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if field in ("size_bytes", "size"):
        return size_text(value)
    return printable(value)
