"""``python -m ckpt_indexer.generate``: ``ckpt-indexer generate`` under the flags of an older script.

Parses and calls, no more; exit codes are those of ``ckpt_indexer.errors``.
"""

from __future__ import annotations

from typing import Any

import click

from ckpt_indexer.cli import Command, main


@click.command("generate", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--outputs-dir", "root", default="outputs", show_default=True, help="The folder with the checkpoints.")
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Processes [default: CPUs, at most 8].")
@click.option("--progress", "show_progress", is_flag=True, help="Show a bar, on a file too.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@click.option("--verbose", is_flag=True, help="Name each checkpoint.")
def command(root: str, *, verbose: bool, **flags: Any) -> None:
    """Write the sidecars that are missing below a folder of outputs, and their index."""
    from ckpt_indexer.cli.rebuild import run

    run(root, suffixes=None, force=False, as_json=False, quiet=False, missing_only=True, verbose=verbose, **flags)


if __name__ == "__main__":
    main(command=command, prog_name="python -m ckpt_indexer.generate")
