"""Which format the bytes are, and the one entry point that turns a file into facts: ``read_facts``.

Owns the first look at a file; each format's own module does the rest. Promises that any bytes give ``Facts``, with a
problem where they are no readable checkpoint, and never an exception.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, BinaryIO

from ckpt_indexer.formats import checkpoint
from ckpt_indexer.formats.facts import Facts, FormatProblem
from ckpt_indexer.formats.tensors import Tensor, parse_storage
from ckpt_indexer.formats.torch_zip import Archive
from ckpt_indexer.formats.unpickle import unpickle
from ckpt_indexer.model import Format, Problem

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckpt_indexer.formats.plain import Fetch

HEAD_BYTES = 512
SCORE_BYTES_MAX = 16  # a 0-d tensor's record; a storage shared with others may be larger
FETCHES_MAX = 256  # tensors read by value; a checkpoint with save_top_k=50 has about 55
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py: MAGIC_NUMBER, pickled

_FOREIGN: list[tuple[bytes, str]] = [
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"GGUF", "a GGUF model"),
]
_STRUCT_CODES = {
    "float64": "d",
    "float32": "f",
    "float16": "e",
    "int64": "q",
    "int32": "i",
    "int16": "h",
    "int8": "b",
    "uint8": "B",
    "bool": "?",
}  # fmt: skip - dtypes a score can have -> struct code; bfloat16 is read by hand


def read_facts(file: BinaryIO) -> Facts:
    """Read everything that the header of a checkpoint says; tensors stay unread.

    *file* is seekable and unbuffered; two reads and one for each score are made, whatever its size.
    """
    facts = Facts()
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        facts.format = identify(head, size)
        if facts.format != "torch-zip":
            raise FormatProblem("format-unsupported", f"{facts.format} files are not read yet")
        _read_archive(file, size, facts)
    except FormatProblem as error:
        facts.problem = error.problem
        facts.format = error.format or facts.format
    except OSError as error:
        facts.problem = Problem.of("io-error", error.strerror or error)
    except MemoryError:
        raise  # the process has to go: its heap is full of what the file made
    except Exception as error:  # noqa: BLE001 - unpickling raises nearly anything; the worker reports, never dies
        facts.problem = Problem.of("pickle-damaged", f"{type(error).__name__}: {error}")
    return facts


def identify(head: bytes, size_bytes: int) -> Format:
    """Tell the format from the file's first bytes.

    Raises:
        FormatProblem: it is none of them; the message says what it is instead.

    """
    if size_bytes == 0:
        raise FormatProblem("empty", "the file has no bytes (yet)")
    if head[:4] == b"PK\x03\x04":
        return "torch-zip"
    if head.startswith(LEGACY_MAGIC):
        return "torch-legacy"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size_bytes:
        return "safetensors"
    if not head.strip(b"\x00"):
        raise FormatProblem("zero-filled", "the file starts with zeros: it is not written yet, or was lost")
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            raise FormatProblem("not-a-checkpoint", f"this is {name}, not a checkpoint")
    if head[257:262] == b"ustar" or (head[:8] == b"sys_info" and head[8:9] == b"\x00"):
        raise FormatProblem("format-unsupported", "a tar archive, as torch 0.1 wrote them")
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise FormatProblem("not-a-checkpoint", "this is an HTML page (a failed download?), not a checkpoint")
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if size_bytes < 4 and b"PK\x03\x04".startswith(head):
        raise FormatProblem("truncated", "the file has less than four bytes")
    raise FormatProblem("not-a-checkpoint", "this is no format that torch writes")


def identify_folder(names: Collection[str]) -> Format:
    """Tell the format of a checkpoint that is a folder from the names in it."""
    if "meta.pt" in names or ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return "sharded-dcp"
    if "zero_to_fp32.py" in names or "latest" in names or any(name.endswith("_states.pt") for name in names):
        return "sharded-deepspeed"
    return "unknown"


def _read_archive(file: BinaryIO, size: int, facts: Facts) -> None:
    archive = Archive(file, size)
    if "data.pkl" not in archive.records:
        facts.format = "unknown"
        kind = "a numpy archive (npz)" if any(n.endswith(".npy") for n in archive.records) else "a zip archive"
        raise FormatProblem("not-a-checkpoint", f"this is {kind} without data.pkl, not a checkpoint")
    if "constants.pkl" in archive.records:
        facts.format = "torchscript"
        raise FormatProblem("format-unsupported", "torchscript files are not read yet")
    facts.content_id = archive.content_id()
    pickled = unpickle(archive.read("data.pkl"))
    checkpoint.describe(pickled.root, facts, _fetcher(archive))
    _check_storages(pickled.storages, archive)


def _check_storages(persistent_ids: list[object], archive: Archive) -> None:
    """Hold every storage that the pickle names against the record that should hold it."""
    for persistent_id in persistent_ids:
        storage = parse_storage(persistent_id)
        if storage is None:
            raise FormatProblem("pickle-damaged", "a tensor's storage is not described as torch does it")
        record = archive.records.get(f"data/{storage.key}")
        if record is None:
            if storage.size_bytes == 0:
                continue
            raise FormatProblem("record-missing", f"the tensor data data/{storage.key} is missing")
        if record.size_bytes < storage.size_bytes:
            raise FormatProblem(
                "record-short",
                f"data/{storage.key} has {record.size_bytes} bytes where its tensor needs {storage.size_bytes}",
            )


def _fetcher(archive: Archive) -> Fetch:
    """Make the function that reads a one-element tensor's value from its record."""
    left = FETCHES_MAX
    order: str | None = None

    def fetch(tensor: Tensor) -> float | int | bool | None:
        nonlocal left, order
        storage = tensor.storage
        if storage is None or storage.size_bytes > SCORE_BYTES_MAX or left <= 0:
            return None
        left -= 1
        try:
            if order is None:
                big = "byteorder" in archive.records and archive.read("byteorder") == b"big"
                order = ">" if big else "<"
            data = archive.read(f"data/{storage.key}")
        except FormatProblem:
            return None
        return _decode(data, tensor.dtype, tensor.offset, order)

    return fetch


def _decode(data: bytes, dtype: str, offset: int, order: str) -> float | int | bool | None:
    if dtype == "bfloat16":  # the upper half of a float32
        raw = data[2 * offset : 2 * offset + 2]
        if len(raw) < 2:
            return None
        padded = b"\x00\x00" + raw if order == "<" else raw + b"\x00\x00"
        return float(struct.unpack(f"{order}f", padded)[0])
    code = _STRUCT_CODES.get(dtype)
    if code is None:
        return None
    value: float | int | bool | None = None
    with contextlib.suppress(struct.error):
        value = struct.unpack_from(f"{order}{code}", data, offset * struct.calcsize(code))[0]
    return value
