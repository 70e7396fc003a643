"""One real checkpoint, damaged in every way that disks, copies and liars have: a problem each time, never a guess."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.containers.torch_zip import Archive
from ckpt_indexer.formats.proof.deep import read_deep
from ckpt_indexer.model import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_indexer.formats.facts import DeepFacts, Facts

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


@pytest.mark.parametrize("size", [1, 512, 4074, 4075, 9_000, 65_000, 69_600])
@pytest.mark.parametrize("is_large", [False, True])
def test_what_follows_the_end_is_told_and_no_damage_where_torch_skips_it(
    size: int, is_large: bool, good: bytes, zips: dict[str, Path]
) -> None:
    data = (zips["many-records"].read_bytes() if is_large else good) + bytes(size)
    facts, deep = read(data), deep_of(data)
    try:
        torch.load(io.BytesIO(data), weights_only=False)
    except (RuntimeError, ValueError):
        assert facts.problem is not None
        assert (facts.problem.code, deep.problem is None) == ("truncated", False)
    else:
        assert (facts.problem, facts.warnings[0]) == (None, f"{size} bytes follow the archive")
        assert (deep.problem, deep.unproven_bytes >= size, deep.digest is not None) == (None, True, True)


def deep_of(data: bytes) -> DeepFacts:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        return read_deep(file)


def test_a_comment_is_no_damage(good: bytes) -> None:
    commented = good[:-2] + b"\x05\x00hello"
    torch.load(io.BytesIO(commented), weights_only=False)
    assert code(commented) is None


def test_what_only_looks_like_an_end_is_none(good: bytes) -> None:
    assert code(good[: len(good) // 2] + b"PK\x05\x06" + bytes(18) + b"tensor data") == "truncated"


def test_several_archives_are_no_checkpoint(good: bytes, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = {"a": torch.ones(3), "b": torch.ones(5), "epoch": 3}
        torch.distributed.checkpoint.save(content, checkpoint_id=tmp_path, no_dist=True)
    (shard,) = tmp_path.glob("*.distcp")
    message = "these are several archives, one behind the other, as in the shards of a distributed checkpoint"
    for data in (shard.read_bytes(), good + good):
        facts = read(data)
        assert (facts.format, facts.problem) == ("unknown", Problem("not-a-checkpoint", message))
    assert code(shard.read_bytes()[:-1]) == "truncated"


def ordinary(**contents: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in contents.items():
            archive.writestr(name.rstrip("_"), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        ordinary(**{"a/readme.txt": "hello" * 50}),
        ordinary(**{"a/readme.txt": "hello" * 50})[:-30],
        ordinary(**{"a/readme.txt": "hello" * 50})[:100],
        ordinary(readme="hello", readme_="again"),  # one name twice
        ordinary(**{"arr_0.npy": "x" * 99})[:-1],
        ordinary(),
    ],
    ids=["whole", "without its end", "cut", "one name twice", "npz, cut", "empty"],
)
def test_an_ordinary_zip_is_no_checkpoint_whatever_is_wrong_with_it(data: bytes) -> None:
    facts = read(data)
    assert (facts.format, facts.problem and facts.problem.code) == ("unknown", "not-a-checkpoint")


def test_an_archive_of_torchs_that_was_packed_anew_and_cut_is_incomplete(records: dict[str, bytes]) -> None:
    names = [("archive/", ""), *((f"archive/{name}", "x") for name in records)]
    assert code(ordinary(**dict(names))[:-1]) == "truncated"


def test_zeros_in_place_of_the_end_are_incomplete(good: bytes) -> None:
    assert status(good[:-TAIL] + bytes(TAIL)) == "incomplete"
    assert status(good[: len(good) // 2] + bytes(len(good) - len(good) // 2)) == "incomplete"


@pytest.mark.parametrize("field", ["count", "size", "offset", "locator", "signature"])
def test_a_tail_that_lies_is_damaged(good: bytes, field: str) -> None:
    data = bytearray(good)
    end64 = len(data) - TAIL
    positions = {"count": end64 + 32, "size": end64 + 40, "offset": end64 + 48, "locator": end64 + 56 + 8}
    if field == "signature":
        data[end64] ^= 1
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
    assert counting.bytes_read < 800_000  # both ends twice: it has a hole


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
