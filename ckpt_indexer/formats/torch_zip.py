"""The zip archive that ``torch.save`` writes: where its records are, and whether they can be believed.

Owns the reading of the archive's two ends and of single records; knows nothing of what a record means. Cost: one read
at each end of the file, whatever lies between them.

    [local header, padding, data.pkl, descriptor] [local header, padding, data/0] … [central directory] [98-byte tail]

Python's ``zipfile`` is not used, for four measured reasons: it refuses every record of a file saved with
``set_crc32_options(False)``, takes the last of two records with one name where torch takes the first, repairs archives
that lie about their directory, and needs 8 µs a record. Here a contradiction is a problem, never repaired.

Sources: caffe2/serialize/inline_container.cc; APPNOTE.TXT 6.3.10 sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import BinaryIO, NamedTuple

from ckpt_indexer.formats.facts import FormatProblem

FRONT_BYTES = 256 << 10  # holds data.pkl of 95 of 98 real files whole
TAIL_BYTES = 64 << 10  # holds the directory of about 900 records
DIRECTORY_MAX = 64 << 20  # bytes; 70,000 records take 4.7 MB
RECORDS_MAX = 1_000_000
RECORD_READ_MAX = 128 << 20  # bytes of one record read into memory; real data.pkl reach 8 MB
STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")  # end of central directory
_LOCATOR = struct.Struct("<4sLQL")  # zip64 end of central directory locator
_END64 = struct.Struct("<4sQ2H2L4Q")  # zip64 end of central directory
_ENTRY = struct.Struct("<4s4xHH4x3L3H8xL")  # central directory: flags, method, crc, sizes, lengths, offset
_LOCAL = struct.Struct("<4s22x2H")  # local header: lengths of name and extra field


class Record(NamedTuple):
    """One file of the archive, as the central directory describes it."""

    crc: int  # CRC-32; 0 also where none was computed
    size_bytes: int
    header_offset: int
    method: int
    packed_bytes: int  # as it lies in the file; the same but for TorchScript's code


class Archive:
    """An open archive: ``records`` by name without the archive's root folder, in the directory's order.

    Invariant: the tail, the directory and the file's length agree with each other, and no name occurs twice.
    """

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        """Read both ends of the file.

        Raises:
            FormatProblem: ``truncated`` where the end is missing, ``container-damaged`` where the parts disagree.

        """
        self._file = file
        self._size = size_bytes
        self._held: list[tuple[int, bytes]] = []  # (offset, bytes) of what was read at the two ends
        self._held.append((0, self._read(0, min(size_bytes, FRONT_BYTES))))
        if size_bytes > FRONT_BYTES:
            self._held.append((size_bytes - TAIL_BYTES, self._read(size_bytes - TAIL_BYTES, TAIL_BYTES)))
        directory, count = self._directory()
        self.records = self._parse_directory(directory, count)

    def read(self, name: str, *, inflate: bool = False) -> bytes:
        """Read a record whole and, where the archive has a checksum of it, check it; *inflate* allows compression.

        Raises:
            FormatProblem: the record is missing, too large, compressed, cut short, or its checksum differs.

        """
        record = self.records.get(name)
        if record is None:
            raise FormatProblem("record-missing", f"there is no record {name}")
        if record.size_bytes > RECORD_READ_MAX:
            raise FormatProblem("limit-exceeded", f"record {name} has {record.size_bytes} bytes")
        if record.method != STORED and not (inflate and record.method == DEFLATED):
            raise FormatProblem("format-unsupported", f"record {name} is compressed; torch never writes that")
        data = self._read(self._data_offset(name, record), record.packed_bytes)
        if record.method == DEFLATED:
            data = _inflated(data, record.size_bytes, name)
        if len(data) != record.size_bytes:
            raise FormatProblem("container-damaged", f"record {name} runs past the end of the file")
        if record.crc and zlib.crc32(data) != record.crc:
            raise FormatProblem("checksum-mismatch", f"record {name} is not what was written: its CRC-32 differs")
        return data

    def content_id(self) -> str | None:
        """Hash the list of (name, size, CRC), the archive's root left out; ``None`` where a record has no checksum.

        The same content has the same id under any file name; two files with one id differ only by a CRC collision.
        """
        # One record without is enough: ``skip_data`` leaves the tensors', to be filled in later, without.
        if any(record.size_bytes and not record.crc for record in self.records.values()):
            return None
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\n".join([f"{n} {r.size_bytes} {r.crc}" for n, r in self.records.items()]).encode())
        return digest.hexdigest()

    def _read(self, offset: int, size: int) -> bytes:
        for start, held in self._held:
            if start <= offset and offset + size <= start + len(held):
                return held[offset - start : offset - start + size]
        self._file.seek(offset)
        return self._file.read(size)

    def _directory(self) -> tuple[bytes, int]:
        """Find the central directory by the file's tail; give its bytes and the number of its entries."""
        tail = self._held[-1][1][-_END.size - _LOCATOR.size - _END64.size :]
        if tail[-_END.size :][:4] != b"PK\x05\x06":
            raise FormatProblem("truncated", "the archive has no end: it is cut short, or still being written")
        *_, count, size, offset, comment = _END.unpack(tail[-_END.size :])
        end = self._size - _END.size
        locator = tail[-_END.size - _LOCATOR.size : -_END.size]
        if locator[:4] == b"PK\x06\x07":
            _, _, end64_offset, _ = _LOCATOR.unpack(locator)
            end = self._size - _END.size - _LOCATOR.size - _END64.size
            if end < 0 or end64_offset != end:
                raise FormatProblem("container-damaged", "the archive's tail is not where it says it is")
            signature, *_, count, size, offset = _END64.unpack(tail[: _END64.size])
            if signature != b"PK\x06\x06":
                raise FormatProblem("container-damaged", "the archive's zip64 tail is damaged")
        if comment or offset + size != end:
            raise FormatProblem("container-damaged", "the archive's directory is not where its tail says it is")
        if size > DIRECTORY_MAX or count > RECORDS_MAX:
            raise FormatProblem("limit-exceeded", f"the archive's directory has {count} entries in {size} bytes")
        return self._read(offset, size), count

    def _parse_directory(self, directory: bytes, count: int) -> dict[str, Record]:
        records: dict[str, Record] = {}
        unpack, fixed, position, end = _ENTRY.unpack_from, _ENTRY.size, 0, len(directory)
        root: bytes | None = None
        try:
            while position < end:
                signature, _, method, crc, packed, size, name_size, extra_size, comment_size, offset = unpack(
                    directory, position
                )
                if signature != b"PK\x01\x02":
                    raise FormatProblem("container-damaged", f"entry {len(records)} of the archive is damaged")
                name_start = position + fixed
                name = directory[name_start : name_start + name_size]
                position = name_start + name_size + extra_size + comment_size
                if size == 0xFFFFFFFF or packed == 0xFFFFFFFF or offset == 0xFFFFFFFF:
                    extra = directory[name_start + name_size : name_start + name_size + extra_size]
                    size, packed, offset = _zip64_sizes(extra, size, packed, offset)
                if root is None:
                    root = name.partition(b"/")[0] + b"/"
                key = name.removeprefix(root).decode("utf-8", "backslashreplace")
                if key in records:
                    raise FormatProblem("container-damaged", f"two records are called {key}")
                if (method == STORED and size != packed) or offset + packed > self._size:
                    raise FormatProblem("container-damaged", f"record {key} does not fit in the file")
                records[key] = Record(crc, size, offset, method, packed)
        except struct.error:
            raise FormatProblem("container-damaged", "the archive's directory is cut short") from None
        if len(records) != count or position != end:
            raise FormatProblem("container-damaged", f"the archive names {count} records and lists {len(records)}")
        return records

    def _data_offset(self, name: str, record: Record) -> int:
        # Most records need one read only: the header, its padding (64-byte alignment) and the data lie together.
        header = self._read(record.header_offset, _LOCAL.size)
        if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
            raise FormatProblem("container-damaged", f"record {name} is not where the directory says it is")
        _, name_size, extra_size = _LOCAL.unpack(header)
        start = record.header_offset + _LOCAL.size
        written = self._read(start, name_size)
        if not written.decode("utf-8", "backslashreplace").endswith(name):
            raise FormatProblem("container-damaged", f"record {name} has another name in front of its data")
        return int(start + name_size + extra_size)


def _inflated(data: bytes, size_bytes: int, name: str) -> bytes:
    """Decompress a record, to no more than it should have."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size_bytes + 1)
    except zlib.error as error:
        raise FormatProblem("container-damaged", f"record {name} cannot be decompressed: {error}") from None


def _zip64_sizes(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the sizes that did not fit in 32 bits by those of the zip64 extra field (tag 0x0001)."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, position)
        if tag == 1:
            values = [v[0] for v in struct.iter_unpack("<Q", extra[position + 4 : position + 4 + length // 8 * 8])]
            wanted = [size, packed, offset]
            for i, value in enumerate(wanted):
                if value == 0xFFFFFFFF:
                    if not values:
                        break
                    wanted[i] = values.pop(0)
            return wanted[0], wanted[1], wanted[2]
        position += 4 + length
    return size, packed, offset
