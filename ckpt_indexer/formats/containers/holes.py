"""Parts of a file that were never written: a download that is not finished, a disk that was full, a crash.

The file system reads them as zeros, and torch loads zeros. It also says where they are, which zeros that were written
are not: one question for a file without any. That alone proves nothing: ZFS stores written zeros so, sparse copies
(``rsync -S``, ``tar -S``) and ``torch.serialization.skip_data`` make holes, too. In an archive the records' checksums
decide (``is_archive_written``); in other formats a hole is only told, unless it is where the file is damaged.

Source: lseek(2), SEEK_HOLE; file systems without it say that all is data.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from typing import BinaryIO, NamedTuple

from ckpt_indexer.errors import FormatProblem
from ckpt_indexer.formats.containers.torch_zip import Archive, directory_start

HOLES_MAX = 100  # looked at, the first ones
CHECK_MAX = 64 << 20  # bytes of records that are held against their checksums, some 0.1 s


class Hole(NamedTuple):
    """A run of bytes that were never written."""

    start: int
    end: int


def find_holes(file: BinaryIO, size_bytes: int) -> list[Hole]:
    """Return the file's first holes; none where the file system does not say."""
    holes: list[Hole] = []
    position = 0
    try:
        while position < size_bytes and len(holes) < HOLES_MAX:
            start = file.seek(position, os.SEEK_HOLE)
            if start >= size_bytes:
                break
            position = _data_after(file, start, size_bytes)
            holes.append(Hole(start, position))
    except (OSError, ValueError, io.UnsupportedOperation):
        return []  # no file of a file system's
    return holes


def _data_after(file: BinaryIO, start: int, size_bytes: int) -> int:
    try:
        return file.seek(start, os.SEEK_DATA)
    except OSError:  # ENXIO: the hole reaches to the file's end
        return size_bytes


def is_archive_written(file: BinaryIO, size_bytes: int, holes: list[Hole]) -> bool | None:
    """Return whether the zeros in an archive's *holes* are what was written there; ``None``: nothing says.

    Raises:
        Exception: of nearly any type; the archive became another one while it was read.

    """
    try:
        archive = Archive(file, size_bytes)
    except FormatProblem:
        start = directory_start(file, size_bytes)
        return False if start is not None and any(hole.end > start for hole in holes) else None
    return _are_records_written(archive, holes)


def _are_records_written(archive: Archive, holes: list[Hole]) -> bool | None:
    starts = sorted((record.header_offset, name) for name, record in archive.records.items())
    touched = {name for hole in holes for name in _touched(starts, hole)}
    if any(hole.start <= archive.records[name].header_offset < hole.end for name in touched for hole in holes):
        return False  # a header is no zeros
    left, is_proven = CHECK_MAX, len(holes) < HOLES_MAX
    for name in sorted(touched, key=archive.sizes.__getitem__):
        left -= archive.sizes[name]
        if left < 0 or not archive.records[name].crc:
            is_proven = False
            continue
        try:
            archive.read(name, inflate=True)
        except FormatProblem as error:
            if error.code in ("checksum-mismatch", "container-damaged"):
                return False
            is_proven = False
    return True if is_proven else None


def _touched(starts: list[tuple[int, str]], hole: Hole) -> list[str]:
    """Return the records that a hole may be in, by where the records begin."""
    first = max(0, bisect_right(starts, (hole.start, "")) - 1)
    last = bisect_right(starts, (hole.end, ""))
    return [name for _, name in starts[first:last]]
