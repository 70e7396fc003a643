"""``ckpt-indexer sync``: a barrier between a writer and the readers of the index."""

from __future__ import annotations

import click

from ckpt_indexer.actions.sync import sync
from ckpt_indexer.cli.options import json_option, print_json, root_argument


@click.command("sync")
@root_argument
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds.")
@json_option
def command(root: str, timeout_s: float, as_json: bool) -> None:
    """Return when all that was written below ROOT before this call is in its index; exit 1 if that takes too long.

    Without a daemon, ROOT is looked at here and now.
    """
    done = sync(root, timeout_s=timeout_s)
    if as_json:
        print_json({"ok": True, "daemon": done.had_daemon, "generation": done.generation, "seconds": done.seconds})
