"""``ckpt-indexer validate``: checkpoints' health."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ckpt_indexer import layout
from ckpt_indexer.cli.options import json_option, note, print_json, print_table, printable, quiet_option
from ckpt_indexer.errors import EXIT_FINDINGS, EXIT_OK, RootUnusable
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.formats.reader import Reader
from ckpt_indexer.health import Health, check_file, check_folder
from ckpt_indexer.model import Problem
from ckpt_indexer.watch.scan import scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.watch.scan import Found


@click.command("validate")
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@json_option
@quiet_option
def command(paths: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Check checkpoints, or those below folders (default: $CKPT_INDEXER_ROOT or outputs); exit 3 on findings.

    Quick: reads headers. Container, pickle, state dict, and the records being there and long enough are checked; a
    missing sidecar or configuration is a warning.
    """
    results = []
    for path in paths or (os.environ.get("CKPT_INDEXER_ROOT", "outputs"),):
        if not os.path.lexists(path):
            raise RootUnusable(root=path, reason="there is no such file or folder")
        results += list(check_tree(path))
    bad = [result for result in results if result.status != "ok"]
    if as_json:
        print_json({"ok": not bad, "results": results})
    elif quiet:
        for result in bad:
            click.echo(printable(result.path))
    else:
        rows = [
            (printable(r.path), r.status, printable(r.problem.message if r.problem else "; ".join(r.warnings)))
            for r in results
        ]
        print_table(("checkpoint", "status", "finding"), rows)
        note(f"{len(results)} checkpoints, {len(bad)} with problems")
    return EXIT_FINDINGS if bad else EXIT_OK


def check_tree(path: str) -> Iterator[Health]:
    """Check the checkpoint at *path*, or every one below it."""
    is_one = layout.is_checkpoint(os.path.basename(os.path.normpath(path))) or not os.path.isdir(path)
    root = _root_above(os.path.dirname(path) or ".") if is_one else path
    place = os.path.relpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)), root)
    found = scan(root, (place if is_one else "",)).found
    if is_one and not found:
        problem = Problem.of("not-a-checkpoint", "its name does not end in .ckpt")
        yield Health(layout.to_key(path), problem.status, problem)
    with Reader() as reader:
        for key, each in found.items():
            shown = layout.to_key(path if is_one else os.path.normpath(os.path.join(path, layout.to_path(key))))
            yield _check(root, key, each, shown, reader)


def _root_above(folder: str) -> str:
    """Find the outputs root that *folder* belongs to, by its index or its lock; without one, the folder itself."""
    folder = nearest = os.path.realpath(folder)
    while nearest != "/":
        if any(os.path.exists(os.path.join(nearest, name)) for name in (layout.INDEX_NAME, layout.LOCK_NAME)):
            return nearest
        nearest = os.path.dirname(nearest)
    return folder


def _check(root: str, key: str, found: Found, shown: str, reader: Reader) -> Health:
    path = found.path_to_read(key)
    if found.problem is not None:
        facts = Facts(problem=Problem.of(*found.problem))
    else:
        facts = check_folder(root, path) if found.is_folder else check_file(root, path, reader)
    warnings = list(facts.warnings)
    if found.stamp.sidecar is None:
        warnings.append("there is no sidecar")
    if found.stamp.config is None:
        warnings.append("there is no configuration (.hydra/config.yaml or config.yaml) above it")
    return Health(shown, "ok" if facts.problem is None else facts.problem.status, facts.problem, warnings)
