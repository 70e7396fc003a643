"""Targets 3 and 10: the best of all checkpoints by a metric, on the command line and in a process that asks again.

The floor decodes the same file with msgspec into the two fields without which there is no such list, ``path`` and
``metrics``, and sorts by the metric; on the command line a bare interpreter does that and prints the first 20. The file
that changes is what a training job makes of it while a page polls: one checkpoint new, one gone, one overwritten.

MLflow and Aim are not installed for this. Measured elsewhere, 2,000 runs listed and sorted by a metric: MLflow's
``search_runs`` 0.98 to 1.35 s, Aim's ``query_runs`` 0.38 to 0.64 s; ``mlflow runs list`` 2.8 s, ``aim runs ls`` 0.75 s.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.index import reader
from ckpt_indexer.index.query import Query, parse_order, select
from ckpt_indexer.index.store import Store
from ckpt_indexer.model import Entry, Monitor
from ckpt_indexer.paths import INDEX_NAME, SIDECAR_SUFFIX, Key, place_of
from tests.benchmarks.measure import Figure, side_by_side
from tests.benchmarks.report import Row, at_least, at_most
from tests.process import COMMAND, encoded, put
from tests.process import run as run_command

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER = "metrics.val/hmean:desc"
SHOWN = 20
YAML_MAX = 10_000  # sidecars: it takes a second for every thousand

_FLOOR = f"""
import sys, msgspec
Entry = msgspec.defstruct("Entry", [("path", str), ("metrics", dict[str, float])], gc=False)
Document = msgspec.defstruct("Document", [("entries", dict[str, Entry])])
with open(sys.argv[1], "rb") as file:
    entries = msgspec.json.decode(file.read(), type=Document).entries.values()
for entry in sorted(entries, key=lambda entry: entry.metrics["val/hmean"], reverse=True)[:{SHOWN}]:
    print(entry.path, entry.metrics["val/hmean"], sep="\\t")
"""


class _Minimal(msgspec.Struct, gc=False):
    path: str
    metrics: dict[str, float]


class _MinimalDocument(msgspec.Struct):
    entries: dict[str, _Minimal]


_minimal_decoder = msgspec.json.Decoder(_MinimalDocument)


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    sidecar = _real_sidecar(scratch / "sample")
    rows = []
    for count in (50, 200) if is_small else (2_000, 10_000, 100_000):
        root = scratch / str(count)
        entries = [_entry(number) for number in range(count)]
        rows += _measure(root, entries, sidecar if count <= YAML_MAX else None, 1 if is_small else 15)
    return rows


def _measure(root: Path, entries: list[Entry], sidecar: str | None, rounds: int) -> list[Row]:
    n = len(entries)
    index = root / INDEX_NAME
    versions = _two_versions(root, entries)

    def change() -> None:
        os.link(next(versions), root / "new")  # nothing is written: the disk is to be quiet
        (root / "new").replace(index)

    def first() -> None:
        reader._cache.clear()
        _ours(root)

    change()
    _ours(root)
    api = side_by_side({"ours": lambda: _ours(root), "floor": lambda: _floor(index)}, rounds, before=change)
    ours, floor = api["ours"], api["floor"]
    promises = [at_most(1.3, "× floor", ours.median / floor.median)]
    peers: dict[str, Figure] = {}
    if sidecar is not None:
        for entry in entries:
            put(root / (entry.path + SIDECAR_SUFFIX), sidecar.format(entry.metrics["val/hmean"]).encode())
        peers = side_by_side({"rglob + YAML": lambda: _with_yaml(root)}, min(rounds, 3))
        promises.append(at_least(50, "× faster than YAML", peers["rglob + YAML"].median / ours.median))
    firsts = side_by_side({"ours": first, "floor": lambda: _floor(index)}, min(rounds, 7))
    same = side_by_side({"ours": lambda: _ours(root)}, rounds)["ours"]
    command = side_by_side(_commands(root), rounds)
    limit = [at_most(100, "ms", 1000 * command["ours"].median)] if n <= 2_000 else []
    ratio = f"{firsts['ours'].median / firsts['floor'].median:.3g} × floor: every field of every entry is decoded, once"
    return [
        Row(3, f"list {n:,}, index changed", ours, floor, peers, promises, "list in a process", n),
        Row(3, f"list {n:,}, first read of a process", firsts["ours"], firsts["floor"], n=n, note=ratio),
        Row(3, f"list {n:,}, index unchanged", same, n=n),
        Row(
            3, f"list {n:,}, command line", command["ours"], command["floor"], promises=limit,
            series="list on the command line", n=n,
        ),
    ]  # fmt: skip


def _ours(root: Path) -> list[Entry]:
    return select(read_index(root).entries.values(), Query(parse_order(ORDER)))


def _floor(index: Path) -> list[_Minimal]:
    with index.open("rb") as file:
        entries = _minimal_decoder.decode(file.read()).entries.values()
    return sorted(entries, key=lambda entry: entry.metrics["val/hmean"], reverse=True)


def _with_yaml(root: Path) -> object:
    documents = [yaml.load(path.read_bytes(), yaml.CSafeLoader) for path in root.rglob(f"*{SIDECAR_SUFFIX}")]
    return sorted(documents, key=lambda document: document["metrics"]["hmean"], reverse=True)


def _commands(root: Path) -> dict[str, Callable[[], object]]:
    def process(*command: str) -> Callable[[], object]:
        def call() -> None:
            done = subprocess.run(command, capture_output=True, check=True)
            assert done.stdout.count(b"\n") >= SHOWN

        return call

    return {
        "ours": process(COMMAND, "list", str(root), "--sort", ORDER, "--limit", str(SHOWN)),
        "floor": process(sys.executable, "-c", _FLOOR, str(root / INDEX_NAME)),
    }


def _two_versions(root: Path, entries: list[Entry]) -> itertools.cycle[Path]:
    """Write the index as it was, and after one checkpoint was overwritten, one removed and one made."""
    root.mkdir()
    store = Store(str(root))
    store.commit(entries)
    before, after = root / "before", root / "after"
    os.link(root / INDEX_NAME, before)
    middle = len(entries) // 2
    overwritten = msgspec.structs.replace(entries[middle], metrics={"val/hmean": 0.5})
    store.commit([overwritten, _entry(len(entries))], [entries[middle - 1].path])
    os.link(root / INDEX_NAME, after)
    return itertools.cycle([before, after])


def _entry(number: int) -> Entry:
    """Make an entry with all that a run under Hydra leaves."""
    chance = random.Random(number)
    experiment, hmean = f"experiment_{number // 20:05}", chance.random()
    key = f"{experiment}/checkpoints/epoch={number % 20}-step={100 * number}-hmean={hmean:.4f}.ckpt"
    place = place_of(Key(key))
    names = ("val/precision", "val/recall", "val/loss", "train/loss")
    return Entry(
        path=Key(key), experiment=place.experiment, name=place.name, size_bytes=97_600_000,
        mtime="2026-11-21T10:30:00.000000Z", fingerprint=(97_600_000, 1_760_881_010_323_967_000 + number, number),
        format="torch-zip", epoch=number % 20, global_step=100 * number,
        metrics={"val/hmean": hmean, **{name: chance.random() for name in names}},
        monitor=Monitor("val/hmean", "max", hmean), architecture="ocrmodel", encoder="mobilenetv3_small_050",
        parameters=8_100_000, lightning_version="2.5.5", metadata_file=Key(key + SIDECAR_SUFFIX),
        metadata_source="checkpoint", metadata_fingerprint=(2_000, 1_760_881_011_000_000_000 + number, number),
        config_path=Key(f"{experiment}/.hydra/config.yaml"),
        config_fingerprint=(3_000, 1_760_881_000_000_000_000, number),
        content_id=f"{chance.getrandbits(128):032x}",
    )  # fmt: skip


def _real_sidecar(root: Path) -> str:
    """Let the indexer write a sidecar; gives its text, to be filled with the metric."""
    path = put(root / "experiment" / "checkpoints" / "best.ckpt", encoded(3))
    assert run_command("rebuild", root).returncode == 0
    text = Path(f"{path}{SIDECAR_SUFFIX}").read_text().replace("{", "{{").replace("}", "}}")
    assert "\n  hmean: null\n" in text
    return text.replace("\n  hmean: null\n", "\n  hmean: {:.4f}\n")
