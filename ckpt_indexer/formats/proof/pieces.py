"""A file read once from its first byte to its last, in pieces that stay small whatever the file is.

A thread reads while the pieces before are worked on: that takes as long as the slower of both, not as long as both
together. It is worth a thread where the disk is fast or the file in memory: copying a byte from there takes only twice
as long as checking it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, Self

from ckpt_indexer.errors import FormatProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 2 << 20  # read at once, a multiple of STEP_BYTES; three fit into the cache that two processors share
BUFFERS = 3  # one that is worked on, one that is ready, one that is read into
STEP_BYTES = 16  # pieces end at multiples of it, seen from the record's start: no element is torn
DIGEST_BYTES = 16


class Pieces:
    """Yields the file's bytes in order; a piece is valid until the next call. Used as a context.

    The file's own offset is moved by reading in order only, so that whoever shares the open file can see how far the
    reading is. Until the context ends, nobody else may move it, or close the file.
    """

    def __init__(self, file: BinaryIO, size_bytes: int, *, with_digest: bool) -> None:
        file.seek(0)
        self._file = file
        self._size = size_bytes
        self._free: SimpleQueue[bytearray | None] = SimpleQueue()
        self._read: SimpleQueue[bytearray | Exception] = SimpleQueue()
        for _ in range(min(BUFFERS, -(-size_bytes // PIECE_BYTES))):
            self._free.put(bytearray(STEP_BYTES + min(PIECE_BYTES, size_bytes)))
        self._thread = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)
        self._buffer = bytearray()
        self._start = self._end = 0  # what of the buffer is not given yet
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES) if with_digest else None
        self.position = 0

    def __enter__(self) -> Self:
        if self._size > PIECE_BYTES:
            self._thread.start()
        else:
            self._read_ahead()  # there is nothing to be ahead of
        return self

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
        if self._size > PIECE_BYTES:
            self._thread.join()

    def take(self, size: int) -> Iterator[memoryview]:
        """Return the next *size* bytes; all but the last piece have a multiple of ``STEP_BYTES``."""
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
        """Return the next *size* bytes as one."""
        return b"".join([bytes(piece) for piece in self.take(size)])  # each is overwritten by the next

    def skip_to(self, position: int) -> None:
        """Read on to *position*."""
        for _ in self.take(position - self.position):
            pass

    def digest(self) -> str | None:
        """Return the digest of what was read, if one was wanted."""
        return None if self._digest is None else self._digest.hexdigest()

    def _fill(self) -> None:
        """Go on to the next buffer, with what is left of the last one, less than ``STEP_BYTES``, in front of it."""
        held = self._buffer[self._start : self._end]
        left = self._size - self.position - len(held)
        found = self._read.get() if left else _shorter()
        if isinstance(found, Exception):
            raise found
        if self._buffer:
            self._free.put(self._buffer)
        self._buffer, self._start, self._end = found, STEP_BYTES - len(held), STEP_BYTES + min(PIECE_BYTES, left)
        found[self._start : STEP_BYTES] = held
        if self._digest is not None:
            with memoryview(found) as view:
                self._digest.update(view[STEP_BYTES : self._end])

    def _read_ahead(self) -> None:
        """Fill buffers until the file or the context ends; runs on the thread."""
        try:
            for position in range(0, self._size, PIECE_BYTES):
                buffer = self._free.get()
                if buffer is None:
                    return
                with memoryview(buffer) as view:
                    _read_whole(self._file, view[STEP_BYTES:][: self._size - position])
                self._read.put(buffer)
        except Exception as error:  # noqa: BLE001 - raised where the bytes are wanted
            self._read.put(error)


def _read_whole(file: BinaryIO, view: memoryview) -> None:
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise _shorter()
        view = view[count:]


def _shorter() -> FormatProblem:
    return FormatProblem("unsettled", "it became shorter while it was read")


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
