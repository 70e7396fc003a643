"""Target 1: the facts of one checkpoint.

The floor is the least that reading them can be: the file's two ends, the CRC of its pickle, and the C unpickler with
nothing but C callables for it to call, whose result nobody looks at.
"""

from __future__ import annotations

import collections
import io
import itertools
import operator
import os
import pickle
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import torch

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.containers.torch_zip import FRONT_BYTES, TAIL_BYTES
from ckpt_indexer.formats.pickles.unpickle import unpickle
from ckpt_indexer.sandbox.owner import Reader
from tests.benchmarks.inputs import LARGE, MEDIUM, SMALL, Size, make_checkpoint
from tests.benchmarks.measure import Figure, drop_cache, side_by_side
from tests.benchmarks.report import Promise, Row, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BYTES_MAX = 512 << 10  # read of a 2 GB file


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    rows = []
    for size in (SMALL,) if is_small else (SMALL, MEDIUM, LARGE):
        path = make_checkpoint(scratch, size)
        rows += [_warm(path, size, 2 if is_small else 60), _cold(path, size, 1 if is_small else 15)]
        path.unlink()
    return rows


def _warm(path: Path, size: Size, rounds: int) -> Row:
    with Reader() as reader:
        figures = side_by_side(_readers(path, reader), rounds)
    figures |= side_by_side({"torch.load": lambda: _load(path)}, min(rounds, 10))
    ours, floor = figures.pop("ours"), figures.pop("floor")
    promises = [
        at_most(1.4, "× floor", ours.median / floor.median),
        at_least(7, "× faster than torch mmap", figures["torch mmap"].median / ours.median),
    ]
    read = _bytes_read(path)
    if size is LARGE:
        promises += [_against_full(100, ours, figures), at_most(BYTES_MAX >> 10, "kB read", read / 1024)]
    return Row(1, f"read {size.name}, {size.records} records, warm", ours, floor, figures, promises)


def _cold(path: Path, size: Size, rounds: int) -> Row:
    cases = _readers(path)
    cases = {name: cases[name] for name in ("ours", "floor", "torch mmap")} | {"torch.load": lambda: _load(path)}
    figures = side_by_side(cases, rounds, before=lambda: drop_cache(path))
    ours, floor = figures.pop("ours"), figures.pop("floor")
    promises = [_against_full(500, ours, figures)] if size is LARGE else []
    return Row(1, f"read {size.name}, cold", ours, floor, figures, promises)


def _against_full(limit: float, ours: Figure, peers: dict[str, Figure]) -> Promise:
    return at_least(limit, "× faster than torch.load", peers["torch.load"].median / ours.median)


def _readers(path: Path, reader: Reader | None = None) -> dict[str, Callable[[], object]]:
    def ours() -> object:
        with path.open("rb", buffering=0) as file:
            facts = read_facts(file)
        assert facts.problem is None
        assert facts.monitors
        return facts

    def in_worker() -> object:
        assert reader is not None
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return reader.read_checkpoint(descriptor)
        finally:
            os.close(descriptor)

    return {
        "ours": ours,
        "floor": lambda: read_floor(path),
        **({} if reader is None else {"ours in a worker process": in_worker}),
        "zipfile + inert unpickler": lambda: _with_zipfile(path),
        "torch meta": lambda: _load(path, map_location="meta"),
        "torch mmap": lambda: _load(path, mmap=True),
        "torch mmap weights_only": lambda: _load(path, mmap=True, weights_only=True),
    }


def _load(path: Path, **options: Any) -> object:
    return torch.load(path, **{"weights_only": False, **options})


def _with_zipfile(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return unpickle(io.BytesIO(archive.read(name))).root


class _BareUnpickler(pickle.Unpickler):
    """Lets every call be made in C: what a tensor is built from is kept by ``itertools.chain``, unread."""

    def find_class(self, module: str, name: str) -> Any:
        return collections.OrderedDict if name == "OrderedDict" else itertools.chain


def read_floor(path: Path) -> object:
    """Do the least that reading a checkpoint can be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        front = os.pread(descriptor, FRONT_BYTES, 0)
        os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
    finally:
        os.close(descriptor)
    stream = io.BytesIO(front)
    stream.seek(_data_offset(front))
    unpickler = _BareUnpickler(stream)
    unpickler.persistent_load = operator.itemgetter(2)  # type: ignore[method-assign]
    root = unpickler.load()
    zlib.crc32(front[_data_offset(front) : stream.tell()])
    return root


def _data_offset(front: bytes) -> int:
    """Give the offset of the first record's data: behind its header, name and extra field (APPNOTE 4.3.7)."""
    return 30 + int.from_bytes(front[26:28], "little") + int.from_bytes(front[28:30], "little")


def _bytes_read(path: Path) -> int:
    """Count the bytes that one reading asks the system for."""

    def count() -> int:
        with open("/proc/self/io", encoding="ascii") as file:
            return int(file.readline().split()[1])

    with path.open("rb", buffering=0) as file:
        own = -count() + count()  # what looking costs
        before = count()
        read_facts(file)
        return count() - before - own
