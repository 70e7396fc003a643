"""``ckpt-indexer verify``: the index against the disk."""

from __future__ import annotations

import click

from ckpt_indexer.actions.verify import verify
from ckpt_indexer.cli.options import json_option, note, note_unseen, print_json, quiet_option, root_argument
from ckpt_indexer.errors import EXIT_FINDINGS, EXIT_OK
from ckpt_indexer.printable import printable

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
    found = verify(root)
    findings: dict[str, list[str]] = {kind: getattr(found, kind) for kind in _MEANINGS}
    if as_json:
        print_json({"ok": found.differences == 0, **findings})
    else:
        note_unseen(found.unseen)
        for kind, keys in findings.items():
            for key in keys:
                click.echo(printable(key) if quiet else f"{kind}\t{printable(key)}\t{_MEANINGS[kind]}")
        if not quiet:
            note(f"{found.total} checkpoints on disk, {found.differences} differences")
    return EXIT_FINDINGS if found.differences else EXIT_OK
