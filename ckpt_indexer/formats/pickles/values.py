"""Single numbers out of tensor data: the scores of a checkpoint are tensors of one element.

The data stays where it is but for these: a format gives a function that reads one storage, and everything else is here.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from ckpt_indexer.formats.pickles.tensors import VALUE_BYTES_MAX, Tensor

if TYPE_CHECKING:
    from ckpt_indexer.formats.pickles.tensors import Storage

Fetch = Callable[[Tensor], float | int | bool | None]  # returns a one-element tensor's value
FETCHES_MAX = 256  # tensors read by value; a checkpoint with save_top_k=50 has about 55
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


def value_reader(read_storage: Callable[[Storage], bytes | None], is_big_endian: Callable[[], bool]) -> Fetch:
    """Make the function that gives a one-element tensor's value, ``None`` where it cannot be had cheaply."""
    left = FETCHES_MAX
    order = None

    def fetch(tensor: Tensor) -> float | int | bool | None:
        nonlocal left, order
        storage = tensor.storage
        if storage is None or storage.size_bytes > VALUE_BYTES_MAX or left <= 0:
            return None
        left -= 1
        data = read_storage(storage)
        if data is None:
            return None
        order = order or (">" if is_big_endian() else "<")
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
