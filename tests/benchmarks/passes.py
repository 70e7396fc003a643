"""Target 6: a pass over a tree in which nothing changed, which the daemon makes once a minute.

The floor lists the same folders and stats the same files, and throws away what it sees.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from watchdog.utils.dirsnapshot import DirectorySnapshot

from ckpt_indexer import paths
from ckpt_indexer.passes.reconcile import reconcile
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.paths import RelPath
from tests.benchmarks.measure import side_by_side
from tests.benchmarks.report import Row, at_most

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckpt_indexer.model import Stamp
    from ckpt_indexer.paths import Key

PER_EXPERIMENT = 5  # checkpoints, in two folders: the experiment's and its "checkpoints"
FULL = 50_000  # checkpoints of the target: 20,000 folders


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    return [
        _pass(scratch / str(n), n, 1 if is_small else 15)
        for n in ((200,) if is_small else (1_000, 10_000, FULL, 100_000))
    ]


def _pass(root: Path, count: int, rounds: int) -> Row:
    _make_tree(root, count)
    # From an earlier look, as the daemon's: equal to what is found, but not the same objects.
    known: dict[Key, Stamp | None] = {key: found.stamp for key, found in scan(str(root)).found.items()}
    assert len(known) == count

    def ours() -> None:
        snapshot = scan(str(root))
        assert reconcile(snapshot, known) == ({}, [], {})
        assert len(snapshot.found) == count

    cases: dict[str, Callable[[], object]] = {
        "ours": ours,
        "floor": lambda: _floor(str(root)),
        "find -printf": lambda: _find(str(root)),
        "watchdog's DirectorySnapshot": lambda: DirectorySnapshot(str(root)),
    }
    figures = side_by_side(cases, rounds)
    ours_, floor = figures.pop("ours"), figures.pop("floor")
    return Row(
        6,
        f"a pass over {count:,} unchanged checkpoints",
        ours_,
        floor,
        figures,
        [at_most(1.5, "× floor", ours_.median / floor.median)],
        series="a pass over everything",
        n=count,
        note=f"{2 * count // PER_EXPERIMENT:,} folders, warm",
    )


def _make_tree(root: Path, count: int) -> None:
    """Make checkpoints with sidecars; empty ones, because a pass opens no file."""
    for number in range(count // PER_EXPERIMENT):
        folder = root / f"experiment_{number:05}" / "checkpoints"
        folder.mkdir(parents=True)
        for epoch in range(PER_EXPERIMENT):
            path = folder / f"epoch={epoch}-step={100 * epoch}.ckpt"
            path.touch()
            path.with_name(paths.sidecar_path(RelPath(path.name))).touch()


def _floor(root: str) -> None:
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)


def _find(root: str) -> None:
    subprocess.run(["find", root, "-printf", "%s %T@ %i %p\\n"], check=True, stdout=subprocess.DEVNULL)
