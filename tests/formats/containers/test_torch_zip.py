"""One real checkpoint, damaged in every way that disks, copies and liars have: a problem each time, never a guess."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.containers.torch_zip import Archive
from ckpt_indexer.model import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_indexer.formats.facts import Facts

TAIL = 98  # zip64 end (56), its locator (20), end (22)


@pytest.fixture(scope="module")
def good(zips: dict[str, Path]) -> bytes:
    return zips["buffer"].read_bytes()


@pytest.fixture(scope="module")
def records(good: bytes) -> dict[str, bytes]:
    from tests import samples

    return samples.records_of(good)


def read(data: bytes) -> Facts:
    return read_facts(io.BytesIO(data))


def code(data: bytes) -> str | None:
    problem = read(data).problem
    return None if problem is None else problem.code


def status(data: bytes) -> str:
    problem = read(data).problem
    return "ok" if problem is None else problem.status


def boundaries(data: bytes) -> set[int]:
    """Find where one part of the archive ends and the next begins, and one byte to each side."""
    found = {0, 1, 2, 3, 4, len(data) - 1}
    for signature in (b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02", b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"):
        position = data.find(signature)
        while position >= 0:
            found |= {position - 1, position, position + 1, position + 4}
            position = data.find(signature, position + 1)
    archive = Archive(io.BytesIO(data), len(data))
    for record in archive.records.values():
        start = record.header_offset + 30 + sum(struct.unpack_from("<2H", data, record.header_offset + 26))
        found |= {start - 1, start, start + 1, start + record.size_bytes - 1, start + record.size_bytes}
    return {cut for cut in found if 0 <= cut < len(data)}


def test_a_file_cut_at_any_boundary_is_incomplete(good: bytes) -> None:
    cuts = boundaries(good)
    assert len(cuts) > 100
    assert {cut: status(good[:cut]) for cut in cuts} == dict.fromkeys(cuts, "incomplete")


def test_a_file_cut_anywhere_is_incomplete(good: bytes) -> None:
    cuts = random.Random(2).sample(range(len(good)), 200)
    assert {status(good[:cut]) for cut in cuts} == {"incomplete"}


def test_a_large_file_cut_anywhere_is_incomplete(zips: dict[str, Path]) -> None:
    data = zips["many-records"].read_bytes()
    cuts = [len(data) // 3, len(data) - TAIL - 5, *random.Random(2).sample(range(len(data)), 20)]
    assert {status(data[:cut]) for cut in cuts} == {"incomplete"}


def test_what_follows_the_end_is_not_overlooked(good: bytes) -> None:
    assert code(good + b"x") == "truncated"  # as if more were to come: the end is not at the end
    assert code(good + b"\n") == "truncated"
    assert code(good + good) == "container-damaged"  # two archives: torch refuses them too


def test_zeros_in_place_of_the_end_are_incomplete(good: bytes) -> None:
    assert status(good[:-TAIL] + bytes(TAIL)) == "incomplete"
    assert status(good[: len(good) // 2] + bytes(len(good) - len(good) // 2)) == "incomplete"


@pytest.mark.parametrize("field", ["count", "size", "offset", "locator", "signature", "comment"])
def test_a_tail_that_lies_is_damaged(good: bytes, field: str) -> None:
    data = bytearray(good)
    end64 = len(data) - TAIL
    positions = {"count": end64 + 32, "size": end64 + 40, "offset": end64 + 48, "locator": end64 + 56 + 8}
    if field == "signature":
        data[end64] ^= 1
    elif field == "comment":
        struct.pack_into("<H", data, len(data) - 2, 7)
    else:
        (value,) = struct.unpack_from("<Q", data, positions[field])
        struct.pack_into("<Q", data, positions[field], value + 1)
    assert code(bytes(data)) == "container-damaged"


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [
        (0, "<L", 0),
        (20, "<L", 1 << 30),
        (24, "<L", 1 << 30),
        (42, "<L", 1 << 30),
        (28, "<H", 60_000),
        (30, "<H", 60_000),
    ],
)
def test_a_directory_that_lies_is_damaged(good: bytes, offset: int, kind: str, value: int) -> None:
    data = bytearray(good)
    struct.pack_into(kind, data, data.index(b"PK\x01\x02") + offset, value)
    assert code(bytes(data)) == "container-damaged"


def test_a_record_that_is_not_where_the_directory_says_is_damaged(good: bytes) -> None:
    data = bytearray(good)
    struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 42, 64)
    assert read(bytes(data)).problem == Problem(
        "container-damaged", "record data.pkl is not where the directory says it is"
    )


def test_two_names_for_one_place_are_damaged(good: bytes) -> None:
    first = good.index(b"archive/data.pkl")
    assert code(good[:first] + b"archive/data.pkx" + good[first + 16 :]) == "container-damaged"


def test_a_huge_directory_is_refused_before_it_is_read(good: bytes) -> None:
    data = bytearray(good)
    end64 = len(data) - TAIL
    struct.pack_into("<Q", data, end64 + 32, 10_000_000)
    assert code(bytes(data)) == "limit-exceeded"


def test_every_flipped_bit_of_the_pickle_is_seen(good: bytes, records: dict[str, bytes]) -> None:
    start = good.index(records["data.pkl"])
    length = len(records["data.pkl"])
    bits = [*range(64), *random.Random(1).sample(range(length * 8), 200)]
    codes = set()
    for bit in bits:
        data = bytearray(good)
        data[start + bit // 8] ^= 1 << bit % 8
        codes.add(code(bytes(data)))
    assert codes == {"checksum-mismatch"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_change_of_bytes_raises(good: bytes, data: st.DataObject) -> None:
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    assert status(bytes(changed)) in {"ok", "corrupt", "unsupported", "incomplete", "unreadable"}


def test_a_second_record_of_one_name_is_damaged(records: dict[str, bytes]) -> None:
    from tests import samples

    twice = samples.archive_bytes({**records, "data.pkX": b"\x80\x02}."}).replace(b"data.pkX", b"data.pkl")
    assert read(twice).problem == Problem("container-damaged", "two records are called data.pkl")


def test_a_missing_tensor_is_told(records: dict[str, bytes]) -> None:
    from tests import samples

    facts = read(samples.archive_bytes({name: data for name, data in records.items() if name != "data/0"}))
    assert facts.problem == Problem("record-missing", "the tensor data data/0 is missing")
    assert facts.epoch == 3  # what could be read is kept


def test_a_tensor_cut_short_is_told(records: dict[str, bytes]) -> None:
    from tests import samples

    records = records | {"data/0": records["data/0"][:-1]}
    problem = Problem("record-short", "data/0 has 47 bytes where its tensor needs 48")
    assert read(samples.archive_bytes(records)).problem == problem


def test_a_compressed_pickle_is_not_unpacked(records: dict[str, bytes]) -> None:
    from tests import samples

    data = samples.archive_bytes(records, methods={"data.pkl": 8})
    assert code(data) == "format-unsupported"


def test_a_deflate_bomb_is_not_unpacked() -> None:
    from tests import samples

    data = samples.archive_bytes({"data.pkl": bytes(50 << 20)}, methods={"data.pkl": 8})
    assert len(data) < 100_000
    assert code(data) == "format-unsupported"


def test_an_archive_without_zip64_tail_is_read(records: dict[str, bytes]) -> None:
    from tests import samples

    facts = read(samples.archive_bytes(records, tail=False))
    assert (facts.problem, facts.epoch) == (None, 3)


def test_an_archive_without_a_pickle_is_no_checkpoint() -> None:
    from tests import samples

    data = samples.archive_bytes({"readme.txt": b"hello"})
    assert read(data).problem == Problem("not-a-checkpoint", "this is a zip archive without data.pkl, not a checkpoint")


def test_an_empty_pickle_is_damaged_and_does_not_run_on_into_the_next_bytes() -> None:
    from tests import samples

    assert code(samples.archive_bytes({"data.pkl": b""})) == "pickle-damaged"


def test_a_pickle_whose_checksum_is_right_but_whose_content_is_not_is_damaged() -> None:
    from tests import samples

    for pickled in (b"\x80\x02", b"garbage", b"\x80\x02}q\x00X\x05\x00\x00\x00epoch", b"\x80\x02K\x01K\x02R."):
        assert code(samples.archive_bytes({"data.pkl": pickled})) == "pickle-damaged"


def test_the_checksum_of_a_record_is_what_zlib_says(good: bytes, records: dict[str, bytes]) -> None:
    archive = Archive(io.BytesIO(good), len(good))
    assert {name: archive.read(name) for name in archive.records} == records
    assert {name: record.crc for name, record in archive.records.items()} == {
        name: zlib.crc32(data) for name, data in records.items()
    }


def test_reading_costs_the_same_whatever_the_tensors_weigh(zips: dict[str, Path]) -> None:
    path = zips["zip64"]
    assert path.stat().st_size > 5 << 30
    with path.open("rb", buffering=0) as file:
        counting = CountingFile(file)
        assert read_facts(counting).problem is None  # type: ignore[arg-type]
    assert counting.bytes_read < 400_000


class CountingFile:
    """A file that knows how many bytes were read from it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.bytes_read = 0
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.bytes_read += len(data)
        return data
