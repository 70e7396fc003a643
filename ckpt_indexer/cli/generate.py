"""``ckpt-indexer generate``: the sidecars that are missing."""

from __future__ import annotations

import click

from ckpt_indexer.cli.rebuild import rebuild_options, run


@click.command("generate")
@rebuild_options
def command(root: str, workers: int | None, dry_run: bool, force: bool, as_json: bool, quiet: bool) -> None:
    """Write the sidecars that are missing below ROOT, and their entries; leave everything else alone."""
    run(root, workers=workers, dry_run=dry_run, force=force, as_json=as_json, quiet=quiet, missing_only=True)
