"""Target 9: every byte of one checkpoint, as ``validate --deep`` reads it, in a worker process.

The floor is a plain read of the same file, into one buffer that stays in the processor's cache. The check lets go of
what the system holds of the file, before and behind itself, for it is to prove what is on the disk: done twice it is
cold twice. So from the disk both start cold, and the floor lets go behind itself, too, which is faster here. The
file in memory is on tmpfs, where there is nothing to let go of: that shows what checking costs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ckpt_indexer.sandbox.owner import Reader
from tests.benchmarks.inputs import LARGE, Size, make_checkpoint
from tests.benchmarks.measure import drop_cache, side_by_side
from tests.benchmarks.report import Row, at_least

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY = Path("/dev/shm")  # tmpfs
TWENTY = Size("20 MB", 20_000_000, 50)
BUFFER_BYTES = 512 << 10  # 128 kB to 4 MB are alike within the noise, 64 kB is slower
DROP_BYTES = 4 << 20  # let go of at once by the floor
PEERS = {"sha256sum": ("sha256sum",), "unzip -t": ("unzip", "-tqq")}
ROUNDS_OF_PEERS = 3  # they take seconds


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    rows = []
    rounds = 1 if is_small else 15
    for size in (TWENTY,) if is_small else (LARGE,):
        path = make_checkpoint(scratch, size)
        checkpoint = _filled(path)
        rows.append(_from_disk(path, size.name, rounds))
        if shutil.disk_usage(MEMORY).free > 2 * size.bytes:
            with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=MEMORY) as folder:
                rows += _in_memory(Path(folder) / "x.ckpt", checkpoint, size.name, rounds)
        path.unlink()
    return rows


def _filled(path: Path) -> dict[str, Any]:
    """Fill a checkpoint's weights and moments with random numbers, as a training would."""
    checkpoint: dict[str, Any] = torch.load(path, weights_only=False)
    moments = [each for state in checkpoint["optimizer_states"] for each in state["state"].values()]
    for tensors in (checkpoint["state_dict"], *moments):
        for tensor in tensors.values():
            tensor.normal_()
    torch.save(checkpoint, path)
    return checkpoint


def _from_disk(path: Path, name: str, rounds: int) -> Row:
    row = _row(path, f"{name} from the disk, cold", rounds, is_cold=True)
    row.note += "; both let go behind themselves"
    return row


def _in_memory(path: Path, checkpoint: dict[str, Any], name: str, rounds: int) -> list[Row]:
    torch.save(checkpoint, path)
    rows = [_row(path, f"{name} in memory, a third of it weights", rounds)]
    for dtype in (torch.float32, torch.bfloat16):
        torch.save({"state_dict": {name: each.to(dtype) for name, each in checkpoint["state_dict"].items()}}, path)
        size = f"{path.stat().st_size / 1e6:,.3g} MB"
        rows.append(_row(path, f"{size} in memory, all of it {str(dtype).removeprefix('torch.')} weights", rounds))
    return rows


def _row(path: Path, what: str, rounds: int, *, is_cold: bool = False) -> Row:
    size = path.stat().st_size
    before = (lambda: drop_cache(path)) if is_cold else (lambda: None)
    with Reader() as reader:

        def ours() -> None:
            with path.open("rb", buffering=0) as file:
                facts = reader.read_deep(file.fileno())
            assert (facts.problem, facts.unproven_bytes, facts.nan) == (None, 0, 0)

        ours()  # starts the process
        cases: dict[str, Callable[[], object]] = {"ours": ours, "floor": lambda: _read(path, is_dropping=is_cold)}
        if is_cold:
            cases["read and kept in memory"] = lambda: _read(path)
        figures = side_by_side(cases, rounds, before=before)
    peers = {name: _runner(path, command) for name, command in PEERS.items() if shutil.which(command[0])}
    figures |= side_by_side(peers, min(rounds, ROUNDS_OF_PEERS) if peers else 0, before=before)
    mine, floor = figures.pop("ours"), figures.pop("floor")
    ratio = floor.median / mine.median
    # Of a small file, reading the directory and the pickle first is most of the time.
    promises = [at_least(0.85, "× the rate of a plain read", ratio)] if size >= LARGE.bytes else []
    note = f"{size / mine.median / 1e9:.3g} GB/s, floor {size / floor.median / 1e9:.3g} GB/s"
    return Row(9, f"check {what}", mine, floor, figures, promises, note=note if promises else f"{note}: {ratio:.3g} ×")


def _runner(path: Path, command: tuple[str, ...]) -> Callable[[], object]:
    return lambda: subprocess.run([*command, path], check=True, stdout=subprocess.DEVNULL)


def _read(path: Path, *, is_dropping: bool = False) -> None:
    buffer = bytearray(BUFFER_BYTES)
    position = dropped = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            position += count
            if is_dropping and position >= dropped + DROP_BYTES:
                os.posix_fadvise(file.fileno(), dropped, position - dropped, os.POSIX_FADV_DONTNEED)
                dropped = position
