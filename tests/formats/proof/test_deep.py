"""Reading every byte: each flipped bit is found and its place named, and what is left of a broken file is told."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import pickle
import random
import struct
import threading
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckpt_indexer.errors import FormatProblem
from ckpt_indexer.formats.proof import torch_layout
from ckpt_indexer.formats.proof.deep import read_deep
from ckpt_indexer.formats.proof.nonfinite import BLOCK_BYTES, count
from ckpt_indexer.formats.proof.pieces import BUFFERS, DIGEST_BYTES, PIECE_BYTES, STEP_BYTES, Pieces
from ckpt_indexer.model import Problem
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.sandbox.requests import MEMORY_MAX, READ_CHECKPOINT, READ_DEEP, cpu_seconds
from tests import samples

if TYPE_CHECKING:
    from ckpt_indexer.formats.facts import DeepFacts

FLIPS = 1000
LARGE = ("zip64", "many-records")  # of 5 GB, and of 70,000 records
REGIONS = ("local header", "padding", "data.pkl", "tensor data", "record", "descriptor", "central directory", "tail")


def deep(data: bytes, path: Path) -> DeepFacts:
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        return read_deep(file)


def deep_at(path: Path) -> DeepFacts:
    with path.open("rb", buffering=0) as file:
        return read_deep(file)


def item_sizes(path: Path) -> list[int]:
    with zipfile.ZipFile(path) as archive:
        return [info.file_size for info in archive.infolist()]


def checkpoint(layers: int = 20) -> dict[str, Any]:
    """Make a checkpoint with 2 tensors a layer, and as many of an optimizer."""
    generator = torch.Generator().manual_seed(0)
    state = {f"layer{i}.weight": torch.randn(16, 16, generator=generator) for i in range(layers)}
    state |= {f"layer{i}.bias": torch.randn(16, generator=generator) for i in range(layers)}
    optimizer = [{"state": {i: {"exp_avg": torch.zeros(16)} for i in range(layers)}}]
    return samples.lightning_like(state_dict=state, optimizer_states=optimizer)


@pytest.fixture(scope="module")
def good() -> bytes:
    return samples.saved(checkpoint())


def region_of_each_byte(data: bytes) -> list[str]:
    """Say of every byte of an intact archive what it belongs to, by ``zipfile``'s account and the specification."""
    regions = [""] * len(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        directory = archive.start_dir
        for info in archive.infolist():
            name_size, extra_size = struct.unpack_from("<2H", data, info.header_offset + 26)
            name = info.filename.partition("/")[2]
            content = "data.pkl" if name == "data.pkl" else "tensor data" if name.startswith("data/") else "record"
            sizes = {
                "local header": 30 + name_size,
                "padding": extra_size,
                content: info.compress_size,
                "descriptor": 16 if info.file_size else 0,
            }
            position = info.header_offset
            for region, size in sizes.items():
                regions[position : position + size] = [region] * size
                position += size
    regions[directory:-98] = ["central directory"] * (len(data) - 98 - directory)
    regions[-98:] = ["tail"] * 98
    return regions


def flips_in(data: bytes, count: int) -> list[tuple[str, int, int]]:
    """Choose bits, as many in each region: (region, byte, bit)."""
    chance = random.Random(4)
    by_region: dict[str, list[int]] = {region: [] for region in REGIONS}
    for position, region in enumerate(region_of_each_byte(data)):
        by_region[region].append(position)
    return [
        (region, chance.choice(by_region[region]), chance.randrange(8))
        for i in range(count)
        for region in [REGIONS[i % len(REGIONS)]]
    ]


def named(good: bytes, flips: list[tuple[str, int, int]], path: Path) -> collections.Counter[tuple[str, str | None]]:
    """Flip one bit after the other; counts (region, region that was named)."""
    path.write_bytes(good)
    found: collections.Counter[tuple[str, str | None]] = collections.Counter()
    with path.open("r+b", buffering=0) as file:
        for region, position, bit in flips:
            file.seek(position)
            file.write(bytes([good[position] ^ 1 << bit]))
            facts = read_deep(file)
            found[region, facts.damages[0].region if facts.problem is not None else None] += 1
            file.seek(position)
            file.write(good[position : position + 1])
    return found


def test_a_thousand_flipped_bits_in_every_region_are_all_found_and_their_regions_named(
    good: bytes, tmp_path: Path
) -> None:
    assert "" not in region_of_each_byte(good)
    assert len(good) > 30_000
    found = named(good, flips_in(good, FLIPS), tmp_path / "x.ckpt")
    assert found == {(region, region): FLIPS // len(REGIONS) for region in REGIONS}


@pytest.mark.soak
@pytest.mark.parametrize("name", ["path", "aligned", "old-records", "score-float32"])
def test_every_single_bit_of_a_file_is_found(name: str, zips: dict[str, Path], tmp_path: Path) -> None:
    data = zips[name].read_bytes()
    flips = [(region, i, bit) for i, region in enumerate(region_of_each_byte(data)) for bit in range(8)]
    found = named(data, flips, tmp_path / "x.ckpt")
    assert {pair for pair in found if pair[0] != pair[1]} == set()
    assert found.total() == 8 * len(data)


def test_bits_that_torch_loads_without_a_word_are_found(good: bytes, tmp_path: Path) -> None:
    start = region_of_each_byte(good).index("tensor data")
    flipped = bytearray(good)
    flipped[start] ^= 1
    torch.load(io.BytesIO(flipped), weights_only=True)
    problem = deep(bytes(flipped), tmp_path / "x.ckpt").problem
    assert problem is not None
    assert (problem.code, problem.message[:35]) == (
        "checksum-mismatch",
        f"tensor data of data/0, byte {start}: it"[:35],
    )


# --- good files ---


def test_every_sample_that_torch_writes_is_good(zips: dict[str, Path]) -> None:
    problems = {name: deep_at(path).problem for name, path in zips.items() if name not in LARGE}
    assert {name: problem for name, problem in problems.items() if problem is not None} == {}


@pytest.mark.soak
@pytest.mark.parametrize("name", ["zip64", "many-records"])
def test_an_archive_beyond_the_first_formats_limits_is_good(name: str, zips: dict[str, Path]) -> None:
    facts = deep_at(zips[name])
    assert (facts.problem, facts.nan) == (None, 0)


def test_every_published_archive_is_good(corpus: Path) -> None:
    files = [path for path in corpus.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"PK\x03\x04"]
    facts = {path.name: deep_at(path) for path in files}
    assert len(facts) >= 9
    assert {name: each.problem for name, each in facts.items() if each.problem is not None} == {}
    # Of an archive that torch.save wrote no byte is without proof; TorchScript's code is compressed.
    assert {Path(name).suffix for name, each in facts.items() if each.unproven_bytes} == {".jit"}


def test_the_layout_is_what_torch_writes_byte_for_byte(zips: dict[str, Path]) -> None:
    for name in ("path", "aligned", "kinds-of-tensor", "holes", "without-checksums", "ünïcode"):
        data = zips[name].read_bytes()
        size, offset = torch_layout.END64.unpack_from(data, len(data) - 98)[-2:]
        items = torch_layout.parse_directory(data[offset : offset + size])
        assert items is not None
        alignment = 4096 if name == "aligned" else 64
        rebuilt = bytearray()
        for item in items:
            padding = torch_layout.padding_size(item, alignment)
            rebuilt += torch_layout.local_header(item, padding) + torch_layout.padding(padding)
            rebuilt += data[len(rebuilt) : len(rebuilt) + item.packed] + torch_layout.descriptor(item)
        rebuilt += b"".join(map(torch_layout.entry, items)) + torch_layout.tail(offset, size, len(items))
        assert rebuilt == data


def test_an_archive_that_something_else_wrote_is_checked_by_its_checksums(good: bytes, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in samples.records_of(good).items():
            archive.writestr(f"again/{name}", data)
    facts = deep(stream.getvalue(), tmp_path / "x.ckpt")
    assert (facts.problem, facts.digest is not None, facts.unproven_bytes > 0) == (None, True, True)
    flipped = bytearray(stream.getvalue())
    at = flipped.index(samples.records_of(good)["data/3"])
    flipped[at] ^= 4
    damaged = deep(bytes(flipped), tmp_path / "x.ckpt")
    assert [(d.region, d.record, d.code) for d in damaged.damages] == [("tensor data", "data/3", "checksum-mismatch")]
    assert damaged.digest != facts.digest


def test_bytes_without_a_checksum_are_counted_and_get_a_digest(zips: dict[str, Path], tmp_path: Path) -> None:
    path = zips["without-checksums"]
    facts = deep_at(path)
    assert (facts.problem, facts.unproven_bytes) == (None, sum(item_sizes(path)))
    data = bytearray(path.read_bytes())
    data[region_of_each_byte(bytes(data)).index("tensor data")] ^= 1
    assert deep(bytes(data), tmp_path / "x.ckpt").problem is None
    assert deep_at(tmp_path / "x.ckpt").digest != facts.digest


def without_checksums() -> dict[str, bytes]:
    """Make a file of each format that has no checksums, whose last byte is data."""
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    return {
        "legacy": samples.saved(samples.lightning_like(), _use_new_zipfile_serialization=False),
        "safetensors": struct.pack("<Q", len(header)) + header + bytes(8),
        "pickle": pickle.dumps(["x"]) + b"more",
    }


@pytest.mark.parametrize("name", ["legacy", "safetensors", "pickle"])
def test_formats_without_checksums_give_a_digest_of_all_their_bytes(name: str, tmp_path: Path) -> None:
    data = without_checksums()[name]
    facts = deep(data, tmp_path / "x.ckpt")
    assert (facts.problem, facts.unproven_bytes) == (None, len(data))
    digests = {facts.digest}
    for at in (0, len(data) // 2, len(data) - 1):
        digests.add(deep(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], tmp_path / "x.ckpt").digest)
    assert len(digests - {None}) == (4 if name != "safetensors" else 2)  # its header is broken by the first two


def script() -> bytes:
    """Make a TorchScript archive, whose code is compressed."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are not gone
        torch.jit.save(torch.jit.script(torch.nn.Linear(40, 5)), stream)
    return stream.getvalue()


def test_compressed_code_is_checked_by_what_it_says_and_has_a_digest_for_the_rest(tmp_path: Path) -> None:
    data = script()
    facts = deep(data, tmp_path / "x.ckpt")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
    packed = [info for info in infos if info.compress_type]
    assert len(packed) >= 2
    assert (facts.problem, facts.unproven_bytes) == (None, sum(info.compress_size for info in packed))
    flips = [(region, at, bit) for region, at, bit in flips_in(data, 800) if region != "record"]
    found = named(data, flips, tmp_path / "x.ckpt")
    assert set(found) == {(region, region) for region in REGIONS if region != "record"}
    # A stream may change and give the same text: then the text is what was written, and the digest is another.
    (tmp_path / "x.ckpt").write_bytes(data)
    regions = region_of_each_byte(data)
    for at in range(regions.index("record"), len(data), 97):
        if regions[at] == "record":
            changed = deep(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :], tmp_path / "x.ckpt")
            assert changed.problem is not None or changed.digest != facts.digest


# --- what is left of a broken file ---


def test_a_cut_file_tells_which_tensors_are_left(good: bytes, tmp_path: Path) -> None:
    cut = region_of_each_byte(good).index("central directory") // 2
    facts = deep(good[:cut], tmp_path / "x.ckpt")
    assert facts.problem is not None
    assert facts.problem.code == "truncated"
    readable = facts.readable
    assert readable is not None
    assert readable.tensors_total == 60
    whole = torch.load(io.BytesIO(good), weights_only=True)["state_dict"]
    lost = [name for name in readable.lost if name in whole]
    assert lost
    for name in lost:
        assert whole[name].numpy().tobytes() not in good[: cut - 16]
    for name in whole.keys() - set(lost):
        assert whole[name].numpy().tobytes() in good[:cut]


@pytest.mark.parametrize("end", [1, 22, 98, 99, 500])
def test_every_tensor_of_a_file_without_its_last_bytes_is_found(good: bytes, end: int, tmp_path: Path) -> None:
    facts = deep(good[:-end], tmp_path / "x.ckpt")
    assert facts.problem is not None
    assert facts.problem.code == "truncated"
    assert facts.readable is not None
    assert (facts.readable.tensors, facts.readable.tensors_total, facts.readable.lost) == (60, 60, [])


def test_a_damaged_tensor_is_lost_by_name_and_the_others_are_not(good: bytes, tmp_path: Path) -> None:
    state = torch.load(io.BytesIO(good), weights_only=True)["state_dict"]
    data = bytearray(good)
    for name in ("layer7.weight", "layer3.bias"):
        data[data.index(state[name].numpy().tobytes())] ^= 0x10
    facts = deep(bytes(data), tmp_path / "x.ckpt")
    assert facts.readable is not None
    assert (facts.readable.tensors, facts.readable.tensors_total) == (58, 60)
    assert set(facts.readable.lost) == {"layer7.weight", "layer3.bias"}
    assert len(facts.damages) == 2


def test_a_lost_pickle_leaves_records_without_names(good: bytes, tmp_path: Path) -> None:
    data = bytearray(good)
    data[region_of_each_byte(good).index("data.pkl") + 100] ^= 1
    facts = deep(bytes(data), tmp_path / "x.ckpt")
    assert facts.readable is not None
    assert (facts.readable.tensors, facts.readable.records_total - facts.readable.records) == (None, 1)


def test_zeros_in_the_middle_of_a_file_cost_the_records_that_lie_there(good: bytes, tmp_path: Path) -> None:
    regions = region_of_each_byte(good)
    data = bytearray(good)
    first = regions.index("tensor data", 20_000)
    data[first : first + 4096] = bytes(4096)
    facts = deep(bytes(data), tmp_path / "x.ckpt")
    assert facts.readable is not None
    assert 0 < 60 - (facts.readable.tensors or 0) <= 1 + 4096 // 192
    assert {damage.region for damage in facts.damages} >= {"tensor data", "local header", "descriptor"}


def test_records_behind_a_hole_are_found_without_a_directory_too(good: bytes, tmp_path: Path) -> None:
    first = region_of_each_byte(good).index("tensor data", 10_000)
    data = bytearray(good[:-98])
    data[first : first + 2000] = bytes(2000)
    facts = deep(bytes(data), tmp_path / "x.ckpt")
    state = torch.load(io.BytesIO(good), weights_only=True)["state_dict"]
    assert facts.readable is not None
    lost = {name for name in facts.readable.lost if name in state}
    for name, tensor in state.items():
        assert (tensor.numpy().tobytes() in data) == (name not in lost), name
    assert 0 < len(lost) < 10


def test_whatever_happens_to_a_file_it_is_found_and_the_check_ends(tmp_path: Path) -> None:
    good = samples.saved(checkpoint(4))
    chance = random.Random(7)
    unfound = []
    for i in range(1000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data) - 1)
            end = min(at + chance.choice((1, 2, 4, 16, 64, 512, 4096)), len(data) - 1)
            other = chance.randrange(len(data))
            changed = (bytes(end - at), b"", chance.randbytes(end - at), data[other : other + end - at], data[:at])
            data[at:end] = chance.choice(changed)
        if data != good and deep(bytes(data), tmp_path / "x.ckpt").problem is None:
            unfound.append(i)
    assert unfound == []


def test_a_record_that_is_shorter_than_its_tensor_is_a_damage(tmp_path: Path) -> None:
    records = samples.records_of(samples.saved({"state_dict": {"w": torch.full((4, 4), float("nan"))}}))
    records["data/0"] = records["data/0"][:-3]
    facts = deep(samples.archive_bytes(records), tmp_path / "x.ckpt")
    assert [(d.record, d.code) for d in facts.damages] == [("data/0", "record-short")]
    assert facts.readable is not None
    assert facts.readable.lost == ["w"]


def test_a_tensor_that_reaches_beyond_its_storage_is_a_damage(tmp_path: Path) -> None:
    records = samples.records_of(samples.saved({"state_dict": {"w": torch.zeros(4, 4)}}))
    pickled = records["data.pkl"]
    assert pickled.count(b"K\x04K\x04\x86") == 1
    records["data.pkl"] = pickled.replace(b"K\x04K\x04\x86", b"K\x05K\x04\x86")
    facts = deep(samples.archive_bytes(records), tmp_path / "x.ckpt")
    assert [(d.code, d.message) for d in facts.damages] == [("record-short", "the tensor w reaches beyond its storage")]


# --- NaN and infinity ---

FLOATS = [
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
    *("complex32", "float8_e4m3fnuz", "float8_e5m2fnuz"),
]


def every_pattern(dtype: torch.dtype, numel: int) -> torch.Tensor:
    """Make random bytes into a tensor, with many exponents of all ones."""
    chance = random.Random(1)
    size = torch.zeros(0, dtype=dtype).element_size()
    data = bytearray(chance.randbytes(numel * size))
    for i in range(0, len(data), 3 * size):
        data[i : i + size] = bytes(chance.choice((0x00, 0x7F, 0x80, 0x7C, 0xF0, 0xFF)) for _ in range(size))
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype)


def judged(tensor: torch.Tensor) -> tuple[int, int]:
    """Count as torch does."""
    if tensor.is_complex():
        parts = torch.view_as_real(tensor.to(torch.complex128))
        return int(parts.isnan().any(-1).sum()), int(parts.isinf().any(-1).sum())
    wide = tensor.to(torch.float64)
    return int(wide.isnan().sum()), int(wide.isinf().sum())


@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinity_are_counted_as_torch_counts_them(name: str, tmp_path: Path) -> None:
    tensor = every_pattern(getattr(torch, name), 5000)
    torch.save({"state_dict": {"w": tensor}}, tmp_path / "x.ckpt")
    facts = deep_at(tmp_path / "x.ckpt")
    assert (facts.nan, facts.inf) == judged(tensor)
    assert facts.nan > 0
    assert [(each.name, each.nan, each.inf) for each in facts.nonfinite] == [("w", facts.nan, facts.inf)]


@pytest.mark.parametrize("name", [name for name in FLOATS if "complex" not in name])
def test_one_of_either_sign_among_finite_numbers_is_counted_and_the_largest_of_these_are_not(name: str) -> None:
    dtype = getattr(torch, name)
    ends = [0.0, torch.finfo(dtype).max, torch.finfo(dtype).min]
    finite = torch.tensor(ends * 100, dtype=torch.float64).to(dtype)
    assert count(finite.view(torch.uint8).numpy().tobytes(), name) == judged(finite) == (0, 0)
    for value in ("nan", "-nan", "inf", "-inf"):
        tensor = finite.to(torch.float64)
        tensor[7] = torch.tensor(float(value), dtype=torch.float64)
        odd = tensor.to(dtype)
        assert count(odd.view(torch.uint8).numpy().tobytes(), name) == judged(odd), value


def test_views_are_counted_by_their_own_elements(tmp_path: Path) -> None:
    storage = torch.zeros(100, 100)
    storage[3, 50] = float("nan")
    storage[4, 51] = float("inf")
    views = {
        "all": storage, "tied": storage, "transposed": storage.t(), "head": storage[:3], "row": storage[3],
        "column": storage[:, 50], "gaps": storage[::2, 1::2], "expanded": storage[3:4].expand(7, 100),
        "scalar": storage[4, 51], "empty": storage[:0],
    }  # fmt: skip
    torch.save({"state_dict": views}, tmp_path / "x.ckpt")
    facts = deep_at(tmp_path / "x.ckpt")
    expected = {name: judged(view) for name, view in views.items() if view.is_floating_point()}
    assert {each.name: (each.nan, each.inf) for each in facts.nonfinite} == {
        name: counts for name, counts in expected.items() if counts != (0, 0)
    }
    assert facts.uncounted == 0


@pytest.mark.parametrize("form", ["legacy", "pickle", "sparse", "unknown form"])
def test_what_could_not_be_looked_at_is_counted(form: str, tmp_path: Path) -> None:
    weights = {"w": torch.full((3,), float("nan")), "n": torch.ones(2, dtype=torch.int64)}
    path = tmp_path / "x.ckpt"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": weights}))
    elif form == "sparse":
        torch.save({"state_dict": {"w": torch.eye(3).to_sparse()}}, path)
    elif form == "unknown form":
        torch.save({"state_dict": {"n": weights["n"], "w": Unknown()}}, path)
    else:
        torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=False)
    facts = deep_at(path)
    assert (facts.problem, facts.nan, facts.uncounted) == (None, 0, 1)


def test_a_legacy_file_whose_tensor_reaches_beyond_its_storage_is_refused_as_by_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(4, 5)}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    strides = b"K\x05K\x01\x86"
    assert data.count(strides) == 1
    path.write_bytes(data.replace(strides, b"K\x05K\x09\x86"))
    with pytest.raises(RuntimeError, match="wrong byte size"):
        torch.load(path)
    problem = deep_at(path).problem
    assert problem == Problem.of("pickle-damaged", "file, byte 0: the tensor w reaches beyond its storage")


class Unknown:
    """A tensor of a kind that a later torch may have."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_something, (1,)


def _rebuild_something(_: int) -> Unknown:
    return Unknown()


def test_a_big_endian_checkpoint_is_counted_alike(tmp_path: Path) -> None:
    tensor = every_pattern(torch.float32, 999)
    torch.save({"state_dict": {"w": tensor}}, tmp_path / "little.ckpt")
    samples.big_endian(tmp_path / "little.ckpt", tmp_path / "x.ckpt")
    facts = deep_at(tmp_path / "x.ckpt")
    assert (facts.nan, facts.inf) == judged(tensor)


def test_an_optimizers_and_a_callbacks_infinity_is_not_the_weights(tmp_path: Path) -> None:
    torch.save(samples.monitored(torch.tensor(float("inf"))), tmp_path / "x.ckpt")
    facts = deep_at(tmp_path / "x.ckpt")
    assert (facts.nan, facts.inf) == (0, 0)


def test_counts_do_not_depend_on_where_the_pieces_end(tmp_path: Path) -> None:
    tensor = every_pattern(torch.complex128, (2 * PIECE_BYTES + 3 * BLOCK_BYTES) // 16 + 1)
    torch.save({"state_dict": {"a": torch.ones(3), "w": tensor}}, tmp_path / "x.ckpt")
    facts = deep_at(tmp_path / "x.ckpt")
    assert (facts.problem, facts.nan, facts.inf) == (None, *judged(tensor))


def test_safetensors_are_counted_by_their_header(tmp_path: Path) -> None:
    tensor = every_pattern(torch.bfloat16, 1001)
    entries = {
        "a": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]},
        "w": {"dtype": "BF16", "shape": [1001], "data_offsets": [3, 2005]},
    }
    header = json.dumps(entries).encode()
    data = struct.pack("<Q", len(header)) + header + b"\xff\xff\xff" + tensor.view(torch.uint8).numpy().tobytes()
    facts = deep(data, tmp_path / "x.ckpt")
    assert (facts.nan, facts.inf) == judged(tensor)


def test_a_type_is_counted_in_whole_elements_only() -> None:
    assert count(b"\x00\x7e" * 3, "float16") == (3, 0)
    assert count(b"\x7e\x00" * 3, "float16", is_big_endian=True) == (3, 0)


# --- reading ---


class Trickle(io.FileIO):
    """A file that gives a few bytes at a time."""

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[:7])


def test_a_file_that_comes_in_drops_gives_the_same(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(good)
    with Trickle(str(path)) as file:
        assert read_deep(file) == deep_at(path)
    with Trickle(str(path)) as file, Pieces(file, len(good), with_digest=False) as pieces:
        assert pieces.exactly(1000) + pieces.exactly(len(good) - 1000) == good


@pytest.mark.parametrize("size", [1000, BUFFERS * PIECE_BYTES + 1000])
def test_a_file_that_shrinks_while_it_is_read_is_unsettled(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(bytes(size - 1))
    with (
        path.open("rb", buffering=0) as file,
        Pieces(file, size, with_digest=False) as pieces,
        pytest.raises(FormatProblem, match="shorter"),
    ):
        pieces.skip_to(size)


def test_more_than_the_file_has_is_never_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(bytes(PIECE_BYTES + 1))
    with path.open("rb", buffering=0) as file, Pieces(file, PIECE_BYTES + 1, with_digest=False) as pieces:
        pieces.skip_to(PIECE_BYTES + 1)
        with pytest.raises(FormatProblem, match="shorter"):
            pieces.exactly(1)


@pytest.mark.parametrize("first", [1, 15, 16, 17, PIECE_BYTES - 1])
def test_pieces_are_the_files_bytes_wherever_a_record_begins(first: int, tmp_path: Path) -> None:
    data = random.Random(2).randbytes((BUFFERS + 1) * PIECE_BYTES + 33)
    path = tmp_path / "x.ckpt"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file, Pieces(file, len(data), with_digest=True) as pieces:
        assert pieces.exactly(first) == data[:first]
        found = [bytes(piece) for piece in pieces.take(len(data) - first)]
        assert b"".join(found) == data[first:]
        assert {len(piece) % STEP_BYTES for piece in found[:-1]} == {0}
        assert pieces.digest() == hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def test_a_reading_that_is_given_up_leaves_no_thread_and_no_reader_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(bytes(2 * BUFFERS * PIECE_BYTES))
    threads = threading.active_count()
    with path.open("rb", buffering=0) as file:
        with Pieces(file, path.stat().st_size, with_digest=False) as pieces:
            pieces.exactly(1)
        assert threading.active_count() == threads
        assert file.tell() <= (BUFFERS + 1) * PIECE_BYTES


def test_a_disk_that_fails_in_the_middle_is_told_by_its_own_words(tmp_path: Path) -> None:
    class Failing(io.FileIO):
        def readinto(self, buffer: Any, /) -> int:
            if self.tell() >= 2 * PIECE_BYTES:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    path = tmp_path / "x.ckpt"
    path.write_bytes(b"x" * (2 * BUFFERS * PIECE_BYTES))
    with Failing(str(path)) as file:
        problem = read_deep(file).problem
    assert problem is not None
    assert (problem.code, problem.message) == ("io-error", "Input/output error")


def test_the_worker_reads_deep_and_shows_how_far_it_is(good: bytes, tmp_path: Path, reader: Reader) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(good)
    seen: list[int] = []
    with path.open("rb") as file:
        facts = reader.read_deep(file.fileno(), on_progress=seen.append)
    assert facts == deep_at(path)
    assert seen[-1] == len(good)


def test_what_was_read_is_in_memory_neither_before_nor_after(tmp_path: Path, reader: Reader) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(3 << 20)}}, path)
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())

        def is_in_memory(offset: int) -> bool:
            try:
                return os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT) == 1
            except BlockingIOError:
                return False

        places = range(0, path.stat().st_size, 1 << 20)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if any(map(is_in_memory, places)):
            pytest.skip("a file system that is memory")
        file.read()
        assert any(map(is_in_memory, places))
        assert reader.read_deep(file.fileno()).problem is None
        assert not any(map(is_in_memory, places))


def test_a_rate_bounds_the_reading(tmp_path: Path, reader: Reader) -> None:
    import time

    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1 << 16)}}, path)
    started = time.monotonic()
    with path.open("rb") as file:
        assert reader.read_deep(file.fileno(), rate=512e3).problem is None
    # 262 kB at 512 kB/s: the first of three steps is free.
    assert time.monotonic() - started > 0.2


def test_a_deep_reading_may_take_time_by_its_size_and_a_header_may_not() -> None:
    assert cpu_seconds(READ_CHECKPOINT.code, 1 << 40) == cpu_seconds(READ_CHECKPOINT.code, 0)
    assert cpu_seconds(READ_DEEP.code, 100 << 30) > 1000


def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with torch.serialization.skip_data():
        torch.save({"state_dict": {"w": torch.empty(MEMORY_MAX, dtype=torch.uint8)}}, path)  # a hole
    with Reader() as own, path.open("rb") as file:
        facts = own.read_deep(file.fileno())
        assert own._process is not None
        peak = Path(f"/proc/{own._process.pid}/status").read_text().partition("VmPeak:")[2].split()[0]
    assert facts.problem is None
    assert int(peak) << 10 < MEMORY_MAX
