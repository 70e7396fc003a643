"""A file read once from its first byte to its last, in pieces that stay small whatever the file is."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO

from ckpt_indexer.formats.facts import FormatProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 4 << 20  # in memory at a time
STEP_BYTES = 16  # pieces end at multiples of it, seen from the record's start: no element is torn
DIGEST_BYTES = 16


class Pieces:
    """Gives the file's bytes in order; what is given is valid until the next call.

    The file's own offset is moved by reading in order only, so that whoever shares the open file can see how far the
    reading is.
    """

    def __init__(self, file: BinaryIO, size_bytes: int, *, with_digest: bool) -> None:
        file.seek(0)
        self._file = file
        self._left = size_bytes  # not read yet
        self._buffer = bytearray(min(PIECE_BYTES, max(size_bytes, 1)) + STEP_BYTES)
        self._start = self._end = 0  # what of the buffer is read and not given yet
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES) if with_digest else None
        self.position = 0

    def take(self, size: int) -> Iterator[memoryview]:
        """Give the next *size* bytes; all but the last piece have a multiple of ``STEP_BYTES``."""
        while size:
            held = self._end - self._start
            if held < min(size, STEP_BYTES):
                self._fill()
                continue
            usable = size if held >= size else held - held % STEP_BYTES
            self._start += usable
            self.position += usable
            size -= usable
            yield memoryview(self._buffer)[self._start - usable : self._start]

    def exactly(self, size: int) -> bytes:
        """Give the next *size* bytes as one."""
        return b"".join([bytes(piece) for piece in self.take(size)])  # each is overwritten by the next

    def skip_to(self, position: int) -> None:
        """Read on to *position*."""
        for _ in self.take(position - self.position):
            pass

    def digest(self) -> str | None:
        """Give the digest of what was read, if one was wanted."""
        return None if self._digest is None else self._digest.hexdigest()

    def _fill(self) -> None:
        held = self._end - self._start
        self._buffer[:held] = self._buffer[self._start : self._end]
        self._start, self._end = 0, held
        with memoryview(self._buffer) as view:
            room = min(len(view) - held, self._left)
            count = self._file.readinto(view[held : held + room]) if room else 0  # type: ignore[attr-defined]
            if not count:
                raise FormatProblem("unsettled", "it became shorter while it was read")
            if self._digest is not None:
                self._digest.update(view[held : held + count])
        self._end += count
        self._left -= count


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read without moving the file's offset; gives fewer bytes only at the file's end."""
    found = bytearray()
    while len(found) < size and (part := os.pread(file.fileno(), min(size - len(found), PIECE_BYTES), offset)):
        found += part
        offset += len(part)
    return bytes(found)


def read_on(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read as ``Pieces`` does: seen by whoever shares the file, and as fast as the file allows."""
    file.seek(offset)
    found = bytearray(size)
    held = 0
    with memoryview(found) as view:
        while held < size and (count := file.readinto(view[held:])):  # type: ignore[attr-defined]
            held += count
    return bytes(found[:held])
