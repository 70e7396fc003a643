"""``ckpt-indexer status``: how daemon and index are."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ckpt_indexer import daemon_state
from ckpt_indexer.cli.options import json_option, print_json, root_argument
from ckpt_indexer.errors import IndexMissing
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.printable import printable
from ckpt_indexer.tree.local import check_root


@click.command("status")
@root_argument
@json_option
def command(root: str, as_json: bool) -> None:
    """Show whether a daemon keeps the index of ROOT, whether it can keep its promise, and what the index holds.

    The state is starting, ok, degraded (with reasons and cures), polling, or stopped. Exit 10 if there is no index.
    """
    check_root(root)
    answer = describe(root)
    if as_json:
        print_json(answer)
        return
    pid, is_alive = answer["daemon"]["pid"], answer["daemon"]["alive"]
    daemon = "not running" if not is_alive else "running" if pid is None else f"pid {pid}"
    click.echo(f"state:       {answer['state']} (daemon: {daemon})")
    for reason in answer["reasons"]:
        click.echo(f"  {printable(reason['message'])}; {printable(reason['cure'])}")
    click.echo(f"generation:  {answer['generation']}")
    click.echo(f"last pass:   {answer['last_pass'] or '-'}")
    counts = ", ".join(f"{count} {status}" for status, count in answer["counts"].items())
    click.echo(f"checkpoints: {counts or 'none'}")
    click.echo(f"sidecars:    {100 * answer['sidecar_coverage']:.1f} % of the ok checkpoints")
    click.echo(f"watching:    {answer['overflows']} overflows, {answer['rebuilds']} rebuilds")


def describe(root: str) -> dict[str, Any]:
    """Return what is known of the daemon and what the index holds, in one record.

    Raises:
        IndexMissing: there is no index, and no daemon that is about to make one.

    """
    daemon = daemon_state.describe(root)
    try:
        index = read_index(root)
    except IndexMissing:
        if not daemon.is_alive:
            raise
        entries, generation = [], 0
    else:
        entries, generation = list(index.entries.values()), index.generation
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.status] = counts.get(entry.status, 0) + 1
    covered = sum(entry.status == "ok" and entry.metadata_file is not None for entry in entries)
    return {
        "state": daemon.state,
        "reasons": msgspec.to_builtins(daemon.reasons),
        "daemon": {"pid": daemon.pid, "alive": daemon.is_alive},
        "generation": generation,
        "last_pass": daemon.last_pass,
        "counts": dict(sorted(counts.items())),
        "sidecar_coverage": round(covered / counts["ok"], 4) if counts.get("ok") else 1.0,
        "overflows": daemon.overflows,
        "rebuilds": daemon.rebuilds,
        "watches": daemon.watches,
        "index_writes": daemon.index_writes,
    }
