"""safetensors: a JSON header that says where each tensor lies, then the tensors.

    length of the header (uint64, little-endian) | header | tensors, without gaps

The header names every byte that follows, so it proves completeness. Source: the format's description in
github.com/huggingface/safetensors, README.md, and its Rust checks (``Metadata::validate``).
"""

from __future__ import annotations

import math
import re
import struct
from typing import IO, TYPE_CHECKING

import msgspec

from ckpt_indexer.errors import FormatProblem
from ckpt_indexer.formats.frameworks.weights import describe_plain_tensors
from ckpt_indexer.formats.pickles.plain import text
from ckpt_indexer.formats.pickles.tensors import DIMENSIONS_MAX, ELEMENTS_MAX
from ckpt_indexer.formats.vocabulary import EPOCH_PATHS, STEP_PATHS

if TYPE_CHECKING:
    from ckpt_indexer.formats.facts import Facts

HEADER_MAX = 100 << 20  # bytes; the library's own limit
METADATA_MAX = 200  # entries of ``__metadata__`` kept
DTYPE_MAX = 40  # characters of the name of a dtype that is not known here
LENGTH = struct.Struct("<Q")
# safetensors' name -> (torch's name, bits of an element)
DTYPES = {
    "BOOL": ("bool", 8), "U8": ("uint8", 8), "I8": ("int8", 8), "I16": ("int16", 16), "U16": ("uint16", 16),
    "I32": ("int32", 32), "U32": ("uint32", 32), "I64": ("int64", 64), "U64": ("uint64", 64), "F16": ("float16", 16),
    "BF16": ("bfloat16", 16), "F32": ("float32", 32), "F64": ("float64", 64), "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F4": ("float4_e2m1fn_x2", 4), "F6_E2M3": ("float6_e2m3", 6), "F6_E3M2": ("float6_e3m2", 6),
}  # fmt: skip


class TensorHeader(msgspec.Struct):
    """One tensor, as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]  # from the end of the header


def read_header(stream: IO[bytes], size_bytes: int) -> tuple[dict[str, TensorHeader], dict[str, str], int]:
    """Read and check the header: the tensors by name, ``__metadata__``, and the offset at which the data begins.

    Raises:
        FormatProblem: the header is cut short or contradicts itself or the file's length.

    """
    start = stream.read(LENGTH.size)
    if len(start) < LENGTH.size:
        raise FormatProblem("truncated", "the header's length is cut short")
    (length,) = LENGTH.unpack(start)
    if length > HEADER_MAX:
        raise FormatProblem("container-damaged", f"its header would have {length} bytes")
    data = stream.read(length)
    if len(data) < length:
        raise FormatProblem("truncated", f"the header has {len(data)} bytes of {length}")
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(raw.pop("__metadata__", msgspec.Raw(b"null")), type=dict[str, str] | None) or {}
        tensors = {name: msgspec.json.decode(each, type=TensorHeader) for name, each in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        at = data.find(0)  # no JSON has a zero
        place = LENGTH.size + at if at >= 0 else None
        raise FormatProblem("container-damaged", f"the header cannot be read: {error}", at=place) from None
    begin = LENGTH.size + length
    _check(tensors, begin, size_bytes)
    return tensors, metadata, begin


def _check(tensors: dict[str, TensorHeader], begin: int, size_bytes: int) -> None:
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        first, last = tensor.data_offsets
        if first != position or last < first:
            raise FormatProblem("container-damaged", f"the data of {name} is not where the one before it ends")
        if len(tensor.shape) > DIMENSIONS_MAX or not all(0 <= n <= ELEMENTS_MAX for n in tensor.shape):
            raise FormatProblem("container-damaged", f"{name} has a shape that no tensor has")
        _, bits = DTYPES.get(tensor.dtype, ("", 0))
        if bits and math.prod(tensor.shape) * bits != (last - first) * 8:
            raise FormatProblem("container-damaged", f"{name} has another size than its shape says")
        position = last
    if size_bytes < begin + position:
        raise FormatProblem("truncated", f"the file has {size_bytes} bytes of {begin + position}")
    if size_bytes > begin + position:
        raise FormatProblem("container-damaged", f"{size_bytes - begin - position} bytes follow the last tensor")


def describe_safetensors(stream: IO[bytes], size_bytes: int, facts: Facts) -> None:
    """Fill *facts* from the header; raises as ``read_header``."""
    tensors, metadata, _ = read_header(stream, size_bytes)
    facts.role = "model" if tensors else "other"
    describe_plain_tensors(((name, _dtype(tensor), tensor.shape) for name, tensor in tensors.items()), facts)
    if facts.weights_bytes is not None:
        facts.weights_bytes = sum(each.data_offsets[1] - each.data_offsets[0] for each in tensors.values())
    unknown = next((tensor.dtype for tensor in tensors.values() if tensor.dtype not in DTYPES), None)
    if unknown is not None:
        facts.warnings.append(f"the size of a {text(unknown)[:DTYPE_MAX]} is not known here and was not checked")
    kept = list(metadata.items())[:METADATA_MAX]
    facts.file_metadata = {text(key): text(value) for key, value in kept}
    facts.epoch = _count(metadata, EPOCH_PATHS)
    facts.global_step = _count(metadata, STEP_PATHS)


def _dtype(tensor: TensorHeader) -> str:
    """Return torch's name of a tensor's dtype."""
    known = DTYPES.get(tensor.dtype)
    return text(tensor.dtype.lower())[:DTYPE_MAX] if known is None else known[0]


def _count(metadata: dict[str, str], names: tuple[str, ...]) -> int | None:
    """Read a count from text: everything in ``__metadata__`` is text."""
    found = (metadata[name] for name in names if name in metadata)
    return next((int(text) for text in found if re.fullmatch(r"-?[0-9]{1,18}", text)), None)
