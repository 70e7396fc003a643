"""``ckpt-indexer status``: how daemon and index are."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ckpt_indexer.cli.options import json_option, print_json, root_argument
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.errors import IndexMissing
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.printable import printable
from ckpt_indexer.tree.local import check_root
from ckpt_indexer.watch.state import DaemonState, Reason, read_state


@click.command("status")
@root_argument
@json_option
def command(root: str, as_json: bool) -> None:
    """Show whether a daemon keeps the index of ROOT, whether it can keep its promise, and what the index holds.

    The state is ok, degraded (with reasons and cures), polling, or stopped. Exit 10 if there is no index.
    """
    check_root(root)
    answer = describe(root)
    if as_json:
        print_json(answer)
        return
    daemon = f"pid {answer['daemon']['pid']}" if answer["daemon"]["alive"] else "not running"
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
    """Put the daemon's account and the index's content together.

    Raises:
        IndexMissing: there is no index, and no daemon that is about to make one.

    """
    alive, told = is_daemon_alive(root), read_state(root)
    if told is None:
        told = DaemonState()
        if alive:
            cure = "make room, or make the root writable; a daemon that is just starting needs a moment"
            told = DaemonState("degraded", [Reason("state-unwritable", "the daemon's state cannot be read", cure)])
    try:
        index = read_index(root)
    except IndexMissing:
        if not alive:
            raise
        entries, generation = [], 0
    else:
        entries, generation = list(index.entries.values()), index.generation
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.status] = counts.get(entry.status, 0) + 1
    covered = sum(entry.status == "ok" and entry.metadata_file is not None for entry in entries)
    return {
        "state": told.state if alive else "stopped",
        "reasons": msgspec.to_builtins(told.reasons) if alive else [],
        "daemon": {"pid": told.pid if alive else None, "alive": alive},
        "generation": generation,
        "last_pass": told.last_pass,
        "counts": dict(sorted(counts.items())),
        "sidecar_coverage": round(covered / counts["ok"], 4) if counts.get("ok") else 1.0,
        "overflows": told.overflows,
        "rebuilds": told.rebuilds,
        "watches": told.watches,
        "index_writes": told.index_writes,
    }
