"""Bytes that were never written: incomplete where a checksum or a header proves it, told where nothing does."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from ckpt_indexer.formats.containers import holes
from ckpt_indexer.formats.containers.holes import Hole, find_holes
from ckpt_indexer.formats.containers.identify import read_facts

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_indexer.formats.facts import Facts

PIECE = 64 << 10  # larger than any file system's block
STATE_DICT = {"a": torch.ones(100_000), "zeros": torch.zeros(100_000), "b": torch.ones(100_000)}


@pytest.fixture(autouse=True)
def _needs_holes(tmp_path: Path) -> None:
    with (tmp_path / "probe").open("wb", buffering=0) as file:
        file.seek(10 * PIECE)
        file.write(b"x")
    with (tmp_path / "probe").open("rb", buffering=0) as file:
        if not find_holes(file, 10 * PIECE + 1):
            pytest.skip("this file system has no holes, or does not say where they are")


def saved(content: Any = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"epoch": 3, "state_dict": STATE_DICT} if content is None else content, buffer, **options)
    return buffer.getvalue()


def write_with_holes(path: Path, data: bytes, *missing: range) -> Path:
    """Write a file as a downloader does that has not fetched some pieces yet."""
    with path.open("wb") as file:
        for start in range(0, len(data), PIECE):
            if start // PIECE not in {piece for each in missing for piece in each}:
                file.seek(start)
                file.write(data[start : start + PIECE])
        file.truncate(len(data))
    return path


def read(path: Path) -> Facts:
    with path.open("rb", buffering=0) as file:
        return read_facts(file)


def code(path: Path) -> str | None:
    problem = read(path).problem
    return None if problem is None else problem.code


def test_where_nothing_was_written_is_found(tmp_path: Path) -> None:
    data = b"x" * (10 * PIECE)
    path = write_with_holes(tmp_path / "x", data, range(2, 4), range(7, 10))
    with path.open("rb", buffering=0) as file:
        assert find_holes(file, len(data)) == [Hole(2 * PIECE, 4 * PIECE), Hole(7 * PIECE, 10 * PIECE)]
        assert find_holes(io.BytesIO(data), len(data)) == []


@pytest.mark.parametrize("piece", range(1, 18))
def test_an_archive_with_a_piece_that_was_never_written_is_incomplete_unless_it_is_zeros(
    piece: int, tmp_path: Path
) -> None:
    data = saved()
    path = write_with_holes(tmp_path / "x.ckpt", data, range(piece, piece + 1))
    is_zeros = not any(data[piece * PIECE : (piece + 1) * PIECE])
    assert code(path) == (None if is_zeros else "zero-filled")
    facts = read(path)
    assert facts.epoch == 3
    if is_zeros:
        assert not any("never written" in warning for warning in facts.warnings)
    else:
        with contextlib.suppress(RuntimeError):  # nearly always it loads zeros
            assert torch.load(path)["epoch"] == 3
        assert facts.problem is not None
        assert facts.problem.message == f"{PIECE} bytes, from byte {piece * PIECE} on, were never written (yet)"


def test_an_archive_that_lacks_its_pickle_or_whole_records_is_incomplete(tmp_path: Path) -> None:
    assert code(write_with_holes(tmp_path / "pickle.ckpt", saved(), range(1))) == "zero-filled"
    assert code(write_with_holes(tmp_path / "records.ckpt", saved(), range(3, 17))) == "zero-filled"
    assert code(write_with_holes(tmp_path / "end.ckpt", saved(), range(10, 99))) == "truncated"


def test_what_is_only_reserved_is_not_written(tmp_path: Path) -> None:
    path, data = tmp_path / "x.ckpt", saved()
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, len(data))
        except OSError:
            pytest.skip("this file system reserves nothing")
        file.write(data[: 4 * PIECE])
        file.seek(8 * PIECE)
        file.write(data[8 * PIECE :])
    assert code(path) == "zero-filled"


@pytest.mark.parametrize("form", ["safetensors", "legacy"])
def test_where_there_is_no_checksum_a_hole_is_told(form: str, tmp_path: Path) -> None:
    data = safetensors.torch.save(STATE_DICT) if form == "safetensors" else saved(_use_new_zipfile_serialization=False)
    facts = read(write_with_holes(tmp_path / "x", data, range(2, 3)))
    told = f"{PIECE} bytes, from byte {2 * PIECE} on, were never written: they are a hole that reads as zeros"
    assert (facts.problem, facts.warnings[-1]) == (None, f"{told}, which may be right")
    damaged = read(write_with_holes(tmp_path / "y", data, range(1)))
    assert damaged.problem is not None
    assert damaged.problem.status == "incomplete"


def flipped(data: bytes, *places: int) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 0xFF
    return bytes(changed)


def zeros_in(data: bytes) -> range:
    """Return the pieces that are nothing but zeros."""
    pieces = [n for n in range(len(data) // PIECE) if not any(data[n * PIECE : (n + 1) * PIECE])]
    return range(pieces[0], pieces[-1] + 1)


def test_an_archive_that_is_damaged_elsewhere_than_in_its_holes_is_damaged(tmp_path: Path) -> None:
    data = saved()
    in_pickle, directory = data.index(b"state_dict"), data.index(b"PK\x01\x02")
    for damage in ((in_pickle, in_pickle + 3), (directory + 1,)):
        path = write_with_holes(tmp_path / "x.ckpt", flipped(data, *damage), zeros_in(data))
        problem = read(path).problem
        assert problem is not None
        assert (problem.status, problem.code != "zero-filled") == ("corrupt", True)


def test_an_archive_whose_directory_was_not_written_is_incomplete(tmp_path: Path) -> None:
    data = saved({f"w{number:05}": torch.ones(1) for number in range(3000)})
    directory = data.index(b"PK\x01\x02")
    piece = directory // PIECE + 1
    assert (piece + 1) * PIECE < len(data) - 100
    assert code(write_with_holes(tmp_path / "x.ckpt", data, range(piece, piece + 1))) == "zero-filled"


TENSORS = {name: torch.ones(PIECE) for name in "abc"}
IN_HOLES: dict[str, tuple[bytes, int]] = {  # a file, and the piece of it that is not written
    "a JSON header": (safetensors.torch.save(TENSORS, {"note": "x" * 4 * PIECE}), 2),
    "opcodes": (pickle.dumps([float(number) for number in range(50_000)], 2), 2),
    "a class's name": (b"\x80\x02]q\x00(c" + b"m" * 4 * PIECE + b"\nname\ne.", 2),
}


@pytest.mark.parametrize("what", IN_HOLES)
def test_what_is_damaged_because_it_was_not_written_is_incomplete(what: str, tmp_path: Path) -> None:
    data, piece = IN_HOLES[what]
    assert code(write_with_holes(tmp_path / "x", data, range(piece, piece + 1))) == "zero-filled"


def test_a_length_of_a_legacy_storage_that_was_not_written_makes_it_incomplete(tmp_path: Path) -> None:
    data = saved(TENSORS, _use_new_zipfile_serialization=False)
    piece = data.rindex(PIECE.to_bytes(8, "little")) // PIECE
    assert code(write_with_holes(tmp_path / "x", data, range(piece, piece + 1))) == "zero-filled"


@pytest.mark.parametrize("form", ["safetensors", "legacy", "pickle"])
def test_what_is_damaged_elsewhere_than_in_the_hole_is_corrupt(form: str, tmp_path: Path) -> None:
    data, damaged = {
        "safetensors": (safetensors.torch.save(TENSORS), 9),
        "legacy": (saved(TENSORS, _use_new_zipfile_serialization=False), 40),
        "pickle": (pickle.dumps([b"\0" * 4 * PIECE, 1.5], 4), -2),
    }[form]
    facts = read(write_with_holes(tmp_path / "x", flipped(data, damaged), range(2, 3)))
    assert facts.problem is not None
    assert (facts.problem.status, facts.warnings[-1].endswith("which may be right")) == ("corrupt", True)


def test_a_file_that_becomes_another_one_meanwhile_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "x.ckpt", saved()

    def overwritten(*_: object) -> list[Hole]:
        path.write_bytes(versions.pop())
        return [Hole(PIECE, 2 * PIECE)]

    monkeypatch.setattr("ckpt_indexer.formats.containers.identify.find_holes", overwritten)
    versions = [data[:-200], data[:1], b"", flipped(data, len(data) - 50), data[-98:]]
    while versions:
        path.write_bytes(data)
        assert read(path).epoch == 3


def test_data_that_torch_was_told_to_skip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with torch.serialization.skip_data():
        torch.save({"epoch": 3, "state_dict": STATE_DICT}, path)
    facts = read(path)
    assert facts.problem is None
    assert "were never written" in facts.warnings[-1]


def test_more_than_is_looked_through_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holes, "CHECK_MAX", 1000)
    facts = read(write_with_holes(tmp_path / "x.ckpt", saved(), range(2, 3)))
    assert facts.problem is None
    assert "were never written" in facts.warnings[-1]


def test_a_file_without_holes_is_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(saved())
    with path.open("rb", buffering=0) as file:
        counting = _Counting(file)
        assert find_holes(counting, path.stat().st_size) == []  # type: ignore[arg-type]
    assert counting.count == 1


class _Counting:
    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.count = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.count += 1
        return self._file.seek(offset, whence)
