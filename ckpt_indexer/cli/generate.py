"""``ckpt-indexer generate``: the sidecars that are missing."""

from __future__ import annotations

from typing import Any

import click

from ckpt_indexer.cli.rebuild import rebuild_options, run


@click.command("generate")
@rebuild_options
def command(root: str, **flags: Any) -> None:
    """Write the sidecars that are missing below ROOT, and their entries; leave everything else alone."""
    run(root, missing_only=True, **flags)
