"""Counting NaN and infinity in tensors while their bytes stream by, from bit patterns.

A number is not finite where all bits of its exponent are set; it is infinite if its mantissa is zero, and NaN
otherwise. That needs no arithmetic, so no type has to be known to numpy, and for the other byte order it is enough to
swap the masks. Weights are finite nearly always, so a block is asked first whether that is so, by its two largest
integers; only one that is not is counted. Only this module imports numpy, and only the worker process imports this
module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BLOCK_BYTES = 256 << 10  # worked on at a time: stays in the processor's cache
STEP_BYTES = 16  # the largest element, complex128; pieces begin and end at multiples of it
GATHER_MAX = 64 << 20  # bytes of a tensor that is spread over its storage and read for itself

_Masks = tuple[str, int, int]  # unsigned type, exponent bits, mantissa bits
_FLOAT: dict[str, _Masks] = {
    "float64": ("u8", 0x7FF << 52, (1 << 52) - 1),
    "float32": ("u4", 0xFF << 23, (1 << 23) - 1),
    "bfloat16": ("u2", 0xFF << 7, (1 << 7) - 1),
    "float16": ("u2", 0x1F << 10, (1 << 10) - 1),
    "float8_e5m2": ("u1", 0x7C, 0x03),
}
_COMPLEX = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
_NAN_BYTES = {  # types without infinities: the bytes that are NaN
    "float8_e4m3fn": (0x7F, 0xFF),
    "float8_e4m3fnuz": (0x80,),
    "float8_e5m2fnuz": (0x80,),
    "float8_e8m0fnu": (0xFF,),
}
ITEM_BYTES = (
    {name: int(masks[0][1]) for name, masks in _FLOAT.items()}
    | {name: 2 * int(_FLOAT[part][0][1]) for name, part in _COMPLEX.items()}
    | dict.fromkeys(_NAN_BYTES, 1)
)  # of the types that can hold NaN or infinity; all others are not counted


class Count(NamedTuple):
    """Elements that are not finite; a complex one may be both."""

    nan: int
    inf: int


class Span(NamedTuple):
    """Where a tensor's elements lie in a record."""

    start: int  # bytes
    size: int
    dtype: str


def count(data: memoryview | bytes, dtype: str, *, is_big_endian: bool = False) -> Count:
    """Count in *data*, a whole number of elements of *dtype*.

    >>> import struct
    >>> count(struct.pack("<4f", 1, float("nan"), float("-inf"), 0), "float32")
    Count(nan=1, inf=1)
    """
    nan = inf = 0
    for at in range(0, len(data), BLOCK_BYTES):
        block = np.frombuffer(data[at : at + BLOCK_BYTES], np.uint8)
        if dtype in _NAN_BYTES:
            nan += sum(int(np.count_nonzero(block == value)) for value in _NAN_BYTES[dtype])
            continue
        part = _COMPLEX.get(dtype, dtype)
        kind, exponent, mantissa = (np.dtype(_FLOAT[part][0]), *_FLOAT[part][1:])
        if is_big_endian:
            exponent, mantissa = (int.from_bytes(m.to_bytes(kind.itemsize, "little")) for m in (exponent, mantissa))
        bits = block.view(kind)
        if not is_big_endian and _is_finite(bits, exponent):
            continue
        mask = kind.type(exponent)
        strange = (bits & mask) == mask
        is_inf = strange & ((bits & kind.type(mantissa)) == 0)
        is_nan = strange & ~is_inf
        if dtype in _COMPLEX:
            is_inf, is_nan = is_inf.reshape(-1, 2).any(axis=1), is_nan.reshape(-1, 2).any(axis=1)
        nan += int(np.count_nonzero(is_nan))
        inf += int(np.count_nonzero(is_inf))
    return Count(nan, inf)


def _is_finite(bits: np.ndarray[Any, Any], exponent: int) -> bool:
    """Return whether no element has all bits of its exponent set.

    Read as integers those that have are the largest of their sign: as signed ones those without a sign bit, as unsigned
    ones those with it. Two maxima take half the time of masks, whose results have to be written to memory.
    """
    sign = 1 << (8 * bits.itemsize - 1)
    return bool(bits.view(f"i{bits.itemsize}").max() < exponent and bits.max() < (sign | exponent))


def count_strided(
    data: bytes, dtype: str, shape: Sequence[int], strides: Sequence[int], *, is_big_endian: bool = False
) -> Count:
    """Count in the elements of a tensor that starts at the first byte of *data*; *strides* are in elements."""
    item = ITEM_BYTES[dtype]
    cells = np.frombuffer(data, f"V{item}")
    view = np.lib.stride_tricks.as_strided(cells, shape, [item * stride for stride in strides], writeable=False)
    return count(view.tobytes(), dtype, is_big_endian=is_big_endian)


class Counter:
    """Counts in each of some spans of one record, which arrives in order and in pieces."""

    def __init__(self, spans: Iterable[Span], *, is_big_endian: bool = False) -> None:
        self.counts: dict[Span, Count] = {}
        self._waiting = sorted(set(spans), reverse=True)  # the next one last
        self._open: list[Span] = []
        self._is_big_endian = is_big_endian

    def feed(self, piece: memoryview, at: int) -> None:
        """Count in *piece*, which begins *at* bytes into the record, a multiple of ``STEP_BYTES``."""
        end = at + len(piece)
        while self._waiting and self._waiting[-1].start < end:
            self._open.append(self._waiting.pop())
        still_open = []
        for span in self._open:
            stop = span.start + span.size
            part = piece[max(0, span.start - at) : min(end, stop) - at]
            part = part[: len(part) - len(part) % ITEM_BYTES[span.dtype]]  # torn only where the record is too short
            found = count(part, span.dtype, is_big_endian=self._is_big_endian)
            if found.nan or found.inf:
                before = self.counts.get(span, Count(0, 0))
                self.counts[span] = Count(before.nan + found.nan, before.inf + found.inf)
            if stop > end:
                still_open.append(span)
        self._open = still_open
