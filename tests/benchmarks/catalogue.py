"""Targets 2 and 7: a catalogue of everything from a bare tree, by a process that starts with nothing.

The peer is the page that this project replaces: it walked the tree and loaded each checkpoint, in a process that had
torch imported. Its floor is reading alone: what ``reading`` measures as the least for one checkpoint, for each. Where
sidecars are there, the least is parsing each by libyaml.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import yaml

from ckpt_indexer.paths import INDEX_NAME, SIDECAR_SUFFIX
from tests.benchmarks.inputs import MEDIUM, SMALL, make_checkpoint, make_tree
from tests.benchmarks.measure import figure_of, side_by_side
from tests.benchmarks.reading import read_floor
from tests.benchmarks.report import Row, at_least, at_most
from tests.process import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORKERS = 2
_OLD_PAGE = """
import pathlib, sys, time, torch
started = time.perf_counter()
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.ckpt")):
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint["epoch"], checkpoint["global_step"]
print(time.perf_counter() - started)
"""


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    checkpoint = make_checkpoint(scratch, SMALL if is_small else MEDIUM)
    rows = [
        _from_bare(scratch, checkpoint, count, is_small=is_small) for count in ((3,) if is_small else (16, 60, 200))
    ]
    checkpoint = make_checkpoint(scratch / "small", SMALL)
    for count, rounds in ((20, 1),) if is_small else ((1_000, 3), (10_000, 2)):
        rows += _rebuilt(scratch, checkpoint, count, rounds)
    return rows


def _from_bare(scratch: Path, checkpoint: Path, count: int, *, is_small: bool) -> Row:
    root = scratch / "outputs"
    paths = make_tree(root, checkpoint, count, experiments=max(1, count // 10))
    figures = side_by_side({"ours": lambda: _rebuild(root)}, 1 if is_small else 5, before=lambda: _strip(root, paths))
    floor = side_by_side({"floor": lambda: [read_floor(path) for path in paths]}, 1 if is_small else 3)["floor"]
    loaded = [float(_output_of(sys.executable, "-c", _OLD_PAGE, str(root))) for _ in range(1 if is_small else 3)]
    page, ours = figure_of(loaded), figures["ours"]
    shutil.rmtree(root)
    promises = [at_least(100, "× faster than torch.load", page.median / ours.median)]
    if count == 60:
        promises.append(at_most(1, "s", ours.median))
    what = f"{count} bare checkpoints of {checkpoint.parent.name} to an index, cold process"
    return Row(2, what, ours, floor, {"torch.load of each (import torch not counted)": page}, promises)


def _rebuilt(scratch: Path, checkpoint: Path, count: int, rounds: int) -> list[Row]:
    root = scratch / "outputs"
    paths = make_tree(root, checkpoint, count)
    sidecars = [path.with_name(path.name + SIDECAR_SUFFIX) for path in paths]
    _rebuild(root)
    document = sidecars[0].read_bytes()

    def floor() -> None:
        for path, sidecar in zip(paths, sidecars, strict=True):
            read_floor(path)
            temporary = sidecar.with_suffix(".tmp")
            temporary.write_bytes(document)
            temporary.replace(sidecar)

    rows = []
    prepared: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "neither index nor sidecars": (lambda: _strip(root, paths), floor),
        "sidecars only": ((root / INDEX_NAME).unlink, lambda: [_parse(sidecar) for sidecar in sidecars]),
    }
    for what, (before, least) in prepared.items():
        seconds: dict[str, list[float]] = {"ours": [], "floor": []}
        for _ in range(rounds):
            seconds["floor"].append(_seconds(least) / WORKERS)
            before()
            seconds["ours"].append(_seconds(lambda: _rebuild(root)))
        ours, least_figure = figure_of(seconds["ours"]), figure_of(seconds["floor"])
        promises = [at_most(1.5, f"× floor by {WORKERS} workers", ours.median / least_figure.median)]
        rows.append(
            Row(
                7, f"rebuild {count:,} checkpoints, {what}", ours, least_figure, {}, promises, f"rebuild, {what}", count
            )
        )
    shutil.rmtree(root)
    return rows


def _rebuild(root: Path) -> None:
    subprocess.run([COMMAND, "rebuild", root, "--workers", str(WORKERS), "-q"], check=True, capture_output=True)


def _output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _strip(root: Path, paths: list[Path]) -> None:
    """Leave the checkpoints only."""
    (root / INDEX_NAME).unlink(missing_ok=True)
    for path in paths:
        path.with_name(path.name + SIDECAR_SUFFIX).unlink(missing_ok=True)


def _parse(sidecar: Path) -> object:
    return yaml.load(sidecar.read_bytes(), Loader=yaml.CSafeLoader)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
