"""``ckpt-indexer verify``: the index against the disk."""

from __future__ import annotations

from typing import Any

import click

from ckpt_indexer.cli.options import json_option, note, print_json, quiet_option, root_argument
from ckpt_indexer.errors import EXIT_FINDINGS, EXIT_OK
from ckpt_indexer.passes.survey import survey
from ckpt_indexer.printable import printable
from ckpt_indexer.tree.local import check_root

_MEANINGS = {
    "missing": "on disk, not in the index",
    "extra": "in the index, not on disk",
    "stale": "changed since it was indexed",
}


@click.command("verify")
@root_argument
@json_option
@quiet_option
def command(root: str, as_json: bool, quiet: bool) -> int:
    """Compare the index of ROOT with the disk; exit 3 if they differ, 10 if there is no index.

    Reads no checkpoint: `validate` does.
    """
    check_root(root)
    surveyed = survey(root, must_exist=True)
    findings: dict[str, list[str]] = {
        "missing": sorted(key for key in surveyed.plan.read if key not in surveyed.entries),
        "extra": sorted(surveyed.plan.remove),
        "stale": sorted(key for key in surveyed.plan.read if key in surveyed.entries),
    }
    count = sum(map(len, findings.values()))
    if as_json:
        answer: dict[str, Any] = {"ok": count == 0, **findings}
        print_json(answer)
    else:
        for path, reason in surveyed.unseen.items():
            note(f"not looked at: {printable(path)}: {printable(reason)}")
        for kind, keys in findings.items():
            for key in keys:
                click.echo(printable(key) if quiet else f"{kind}\t{printable(key)}\t{_MEANINGS[kind]}")
        if not quiet:
            note(f"{len(surveyed.found)} checkpoints on disk, {count} differences")
    return EXIT_FINDINGS if count else EXIT_OK
