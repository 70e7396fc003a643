"""Whether a pickle asks for more than there is: the lengths in it, read without building anything.

Asked only where unpickling ran out of memory. Python's unpickler makes room for what a pickle announces before it reads
that, and for as many remembered objects as the number of one says, so that one flipped bit can ask for terabytes.

Source: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

from typing import NamedTuple

STEPS_MAX = 500_000  # opcodes looked at, some 0.1 s
_FIXED = {  # opcode -> bytes of its argument
    **dict.fromkeys(b"(.012NQR)abdelost]u}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98", 0),
    **dict.fromkeys(b"KhqC\x80\x82\x8a\x8c", 1),
    **dict.fromkeys(b"M\x83", 2),
    **dict.fromkeys(b"Jj\x84", 4),
    **dict.fromkeys(b"G", 8),
}
_COUNTED = {  # opcode -> bytes of the length that comes first
    **dict.fromkeys(b"CU\x8a\x8c", 1),
    **dict.fromkeys(b"BTX\x8b", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
_LINES = {**dict.fromkeys(b"FILPSVg", 1), **dict.fromkeys(b"ci", 2)}  # opcode -> lines of text
_FRAME, _LONG_BINPUT, _PUT = 0x95, ord("r"), ord("p")


class _Step(NamedTuple):
    """One opcode: where the next one is, and how much it asks for."""

    end: int
    asked: int = 0


def asks_for_more(data: bytes, size_bytes: int) -> int | None:
    r"""Return the first length in the pickle that is larger than the file: than the *size_bytes* from its start on.

    *data* begins with the pickle. ``None`` where there is none, or it is not among the first ``STEPS_MAX`` opcodes.

    >>> asks_for_more(b"\x80\x04B\x00\x00\x00\x70abc.", 11)
    1879048192
    """
    position = 0
    for _ in range(STEPS_MAX):
        step = _step(data, position)
        if step is None:
            return None
        if step.asked > size_bytes:
            return step.asked
        position = step.end
    return None


def _step(data: bytes, at: int) -> _Step | None:
    """Read the opcode at *at*; ``None`` behind the last one, and where it is none."""
    if at >= len(data) or data[at] == ord("."):
        return None
    code, at = data[at], at + 1
    if (size := _COUNTED.get(code)) is not None:
        asked = int.from_bytes(data[at : at + size], "little")
        return _Step(at + size + asked, asked)
    if (size := _FIXED.get(code)) is not None:
        return _Step(at + size)
    if code == _FRAME:
        return _Step(at + 8, int.from_bytes(data[at : at + 8], "little"))
    if code == _LONG_BINPUT:
        return _Step(at + 4, int.from_bytes(data[at : at + 4], "little"))
    for _ in range(_LINES.get(code, code == _PUT)):
        end = data.find(b"\n", at)
        if end < 0:
            return None
        line, at = data[at:end], end + 1
    if code == _PUT:
        return _Step(at, int(line) if line.isdigit() and len(line) < 20 else 0)
    return _Step(at) if code in _LINES else None
