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

import functools
import hashlib
import operator
import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ckpt_indexer.errors import FormatProblem

if TYPE_CHECKING:
    from ckpt_indexer.formats.pickles.tensors import Tensor

FRONT_BYTES = 256 << 10  # holds data.pkl of 95 of 98 real files whole
TAIL_BYTES = 64 << 10  # holds the directory of about 900 records
BLOCK_BYTES = 4 << 10  # in which torch looks for the archive's end
DIRECTORY_MAX = 64 << 20  # bytes; 70,000 records take 4.7 MB
RECORDS_MAX = 1_000_000
RECORD_READ_MAX = 128 << 20  # bytes of one record read into memory; real data.pkl reach 8 MB
RUN_MAX = 1_000  # directory entries read at once; looking further ahead would be in vain where runs are short
HEADER_BYTES = 192  # read with a record's data: its header and padding (to 64 bytes), mostly
STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")  # end of central directory
_LOCATOR = struct.Struct("<4sLQL")  # zip64 end of central directory locator
_END64 = struct.Struct("<4sQ2H2L4Q")  # zip64 end of central directory
_END_SIGNATURE = b"PK\x05\x06"
_NO_END = "the archive has no end: it is cut short, or still being written"
_ENTRY = struct.Struct("<4s24x3H12x")  # central directory: the lengths of what follows it (name, extra, comment)
_ROW = "<10xH4x3L14xL{}s{}s{}x"  # … and the rest of it: method, crc, packed size, size, offset, name, extra field
_ALIKE = (28, 29, 30, 31, 32, 33, 0, 1, 2, 3)  # the bytes of an entry that have to be equal: lengths, then signature
_LOCAL = struct.Struct("<4s22x2H")  # local header: lengths of name and extra field
# How the name of a record goes on behind the archive's root folder, in whatever torch writes.
_OWN_STARTS = (
    b"data", b"version", b"byteorder", b".format_version", b".storage_alignment", b".data/", b"constants", b"code/",
    b"extra/", b"tensors/", b"attributes", b"model.json",
)  # fmt: skip


class Record(NamedTuple):
    """One file of the archive, as the central directory describes it."""

    method: int
    crc: int  # CRC-32; 0 also where none was computed
    packed_bytes: int  # as it lies in the file; the same but for TorchScript's code
    size_bytes: int
    header_offset: int


def is_other_archive(head: bytes) -> bool:
    """Return whether the first record of a zip archive that starts with *head* has a name that torch never writes.

    >>> is_other_archive(_LOCAL.pack(b"PK", 8, 0) + b"a/readme"), is_other_archive(_LOCAL.pack(b"PK", 6, 0) + b"a/data")
    (True, False)
    """
    if len(head) < _LOCAL.size:
        return False
    _, name_size, _ = _LOCAL.unpack_from(head)
    name = head[_LOCAL.size : _LOCAL.size + name_size]
    _, slash, rest = name.partition(b"/")
    is_whole = len(name) == name_size
    return is_whole and not (slash and (not rest or rest.startswith(_OWN_STARTS)))


def is_skipped(trailing_bytes: int, size_bytes: int) -> bool:
    """Return whether torch finds the end of an archive that so many bytes of a file follow.

    It looks for it from the file's end backwards, for 64 KiB, in blocks that overlap by three bytes; one that would
    begin before the file does ends in an error. Source: miniz, ``mz_zip_reader_locate_header_sig``.
    """
    blocks_back = -(-max(0, trailing_bytes + _END.size - BLOCK_BYTES) // (BLOCK_BYTES - 3))
    is_in_file = blocks_back == 0 or size_bytes >= BLOCK_BYTES + (BLOCK_BYTES - 3) * blocks_back
    return 0 <= trailing_bytes <= TAIL_BYTES - _END.size and is_in_file


def directory_start(file: BinaryIO, size_bytes: int) -> int | None:
    """Return where the directory of a damaged archive begins by its last bytes; ``None`` where these do not say."""
    file.seek(max(0, size_bytes - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size or end[:4] != _END_SIGNATURE:
        return None
    _, _, _, _, _, directory_bytes, _, _ = _END.unpack(end)
    start: int = size_bytes - _END.size - _LOCATOR.size - _END64.size - directory_bytes
    return start if start >= 0 else None


class Archive:
    """An open archive: ``sizes``, in bytes, of its records by name without the archive's root folder.

    They are in the directory's order. Invariant: the tail, the directory and the file's length agree with each other,
    and no name occurs twice.
    """

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        """Read both ends of the file.

        Raises:
            FormatProblem: ``truncated`` where the end is missing, ``container-damaged`` where the parts disagree.

        """
        self._file = file
        self._size = size_bytes
        self.trailing_bytes = 0  # of the file, behind the archive: a comment, or what was appended
        self._held: list[tuple[int, bytes]] = []  # (offset, bytes) of what was read at the two ends
        self._held.append((0, self._read(0, min(size_bytes, FRONT_BYTES))))
        if size_bytes > FRONT_BYTES:
            self._held.append((size_bytes - TAIL_BYTES, self._read(size_bytes - TAIL_BYTES, TAIL_BYTES)))
        directory, count = self._directory()
        # By columns, and with as few steps a record as there can be: files have a thousand of them.
        rows = _rows(directory, count)
        columns: tuple[Any, ...] = tuple(zip(*rows, strict=True)) or ((),) * 7
        _, crcs, packed, sizes, offsets, full_names, _ = columns
        self._crcs: tuple[int, ...] = crcs
        self._names = _names_in_root(full_names)
        self.sizes = dict(zip(self._names, sizes, strict=True))
        self._rows = dict(zip(self._names, rows, strict=True))
        if len(self.sizes) != count:
            name, _ = Counter(self._names).most_common(1)[0]
            raise FormatProblem("container-damaged", f"two records are called {name}")
        if sizes != packed or max(map(operator.add, offsets, packed), default=0) > size_bytes:
            self._refuse_what_does_not_fit()

    def read(self, name: str, *, inflate: bool = False) -> bytes:
        """Read a record whole and, where the archive has a checksum of it, check it; *inflate* allows compression.

        Raises:
            FormatProblem: the record is missing, too large, compressed, cut short, or its checksum differs.

        """
        if name not in self.sizes:
            raise FormatProblem("record-missing", f"there is no record {name}")
        record = self._record(name)
        if record.size_bytes > RECORD_READ_MAX:
            raise FormatProblem("limit-exceeded", f"record {name} has {record.size_bytes} bytes")
        if record.method != STORED and not (inflate and record.method == DEFLATED):
            raise FormatProblem("format-unsupported", f"record {name} is compressed; torch never writes that")
        data = self._data_of(name, record)
        if record.method == DEFLATED:
            data = _inflated(data, record.size_bytes, name)
        if len(data) != record.size_bytes:
            raise FormatProblem("container-damaged", f"record {name} runs past the end of the file")
        if record.crc and zlib.crc32(data) != record.crc:
            raise FormatProblem("checksum-mismatch", f"record {name} is not what was written: its CRC-32 differs")
        return data

    @functools.cached_property
    def records(self) -> dict[str, Record]:
        """All records by name; where one or the sizes are enough, they are cheaper."""
        return {name: self._record(name) for name in self._rows}

    def _record(self, name: str) -> Record:
        return Record(*self._rows[name][:5])

    def content_id(self) -> str | None:
        """Hash the names, sizes and CRCs, the archive's root left out; ``None`` where a record has no checksum.

        The same content has the same id under any file name; two files with one id differ only by a CRC collision.
        """
        sizes, crcs = self.sizes.values(), self._crcs
        # One record without is enough: ``skip_data`` leaves the tensors', to be filled in later, without.
        if 0 in crcs and any(size and not crc for size, crc in zip(sizes, crcs, strict=True)):
            return None
        digest = hashlib.blake2b("\0".join(self._names).encode(), digest_size=16)
        digest.update(struct.pack(f"<{len(crcs)}Q{len(crcs)}L", *sizes, *crcs))
        return digest.hexdigest()

    def weights_id(self, names: list[str], tensors: list[Tensor]) -> str | None:
        """Hash the names of tensors, their places in their storages, and these records' sizes and CRCs.

        Equal ids, equal weights, whatever else two files hold; ``None`` where a tensor has no record with a checksum.
        """
        digest = hashlib.blake2b("\0".join(names).encode("utf-8", "replace"), digest_size=16)
        numbers: list[int] = []
        for tensor in tensors:
            row = None if tensor.storage is None else self._rows.get(f"data/{tensor.storage.key}")
            if row is None or (row[3] and not row[1]):
                return None
            numbers += (row[1], row[3], tensor.offset, tensor.numel)
        digest.update(struct.pack(f"<{len(numbers)}Q", *numbers))
        return digest.hexdigest()

    def _read(self, offset: int, size: int) -> bytes:
        for start, held in self._held:
            if start <= offset and offset + size <= start + len(held):
                return held[offset - start : offset - start + size]
        self._file.seek(offset)
        return self._file.read(size)

    def _directory(self) -> tuple[bytes, int]:
        """Find the central directory by the archive's tail; give its bytes and the number of its entries."""
        tail = self._held[-1][1][-TAIL_BYTES:]
        at = tail.rfind(_END_SIGNATURE)
        self.trailing_bytes = len(tail) - at - _END.size
        if at < 0 or not is_skipped(self.trailing_bytes, self._size):
            raise FormatProblem("truncated", _NO_END)
        *_, count, size, offset, _ = _END.unpack_from(tail, at)
        end = self._size - len(tail) + at
        locator = self._read(max(0, end - _LOCATOR.size), _LOCATOR.size)
        if locator[:4] == b"PK\x06\x07":
            _, _, end64_offset, _ = _LOCATOR.unpack(locator)
            end -= _LOCATOR.size + _END64.size
            if end < 0:
                raise self._untrue("the archive has no room for its tail")
            signature, *_, count, size, offset = _END64.unpack(self._read(end, _END64.size))
            self._refuse_several(end - offset - size)
            if end64_offset != end:
                raise self._untrue("the archive's tail is not where it says it is")
            if signature != b"PK\x06\x06":
                raise self._untrue("the archive's zip64 tail is damaged")
        if offset + size != end:
            self._refuse_several(end - offset - size)
            raise self._untrue("the archive's directory is not where its tail says it is")
        if size > DIRECTORY_MAX or count > RECORDS_MAX:
            raise FormatProblem("limit-exceeded", f"the archive's directory has {count} entries in {size} bytes")
        return self._read(offset, size), count

    def _refuse_several(self, start: int) -> None:
        """Refuse an archive that begins at *start*, right behind the end of another one: a shard has one for each."""
        before = self._read(start - _END.size, _END.size + 4) if _END.size < start < self._size else b""
        if before[:4] == _END_SIGNATURE and before[_END.size :] == b"PK\x03\x04":
            message = "these are several archives, one behind the other, as in the shards of a distributed checkpoint"
            raise FormatProblem("not-a-checkpoint", message, format="unknown")

    def _untrue(self, message: str) -> FormatProblem:
        """Return what is wrong where the tail contradicts the file: what only looks like a tail is none."""
        code, message = ("truncated", _NO_END) if self.trailing_bytes else ("container-damaged", message)
        return FormatProblem(code, message)

    def _refuse_what_does_not_fit(self) -> None:
        for name in self.sizes:
            record = self._record(name)
            is_odd = record.method == STORED and record.size_bytes != record.packed_bytes
            if is_odd or record.header_offset + record.packed_bytes > self._size:
                raise FormatProblem("container-damaged", f"record {name} does not fit in the file")

    def _data_of(self, name: str, record: Record) -> bytes:
        """Read a record as it lies in the file; fewer bytes where the file ends before it does."""
        # One read is enough for most: the header, its padding and the data lie together.
        begin = record.header_offset
        block = self._read(begin, min(HEADER_BYTES + record.packed_bytes, self._size - begin))
        if len(block) < _LOCAL.size or block[:4] != b"PK\x03\x04":
            raise FormatProblem("container-damaged", f"record {name} is not where the directory says it is")
        _, name_size, extra_size = _LOCAL.unpack_from(block)
        after_name = _LOCAL.size + name_size
        is_held = after_name <= len(block)
        written = block[_LOCAL.size : after_name] if is_held else self._read(begin + _LOCAL.size, name_size)
        if not written.decode("utf-8", "backslashreplace").endswith(name):
            raise FormatProblem("container-damaged", f"record {name} has another name in front of its data")
        start, end = after_name + extra_size, after_name + extra_size + record.packed_bytes
        return block[start:end] if end <= len(block) else self._read(begin + start, record.packed_bytes)


_Row = tuple[int, int, int, int, int, bytes, bytes]  # a ``Record``'s fields, its full name, its extra field


def _rows(directory: bytes, count: int) -> list[_Row]:
    """Read the central directory's entries."""
    rows: list[_Row] = []
    position = 0
    while position < len(directory):
        run, length = _rows_alike(directory, position)
        if not run:
            raise FormatProblem("container-damaged", f"entry {len(rows)} of the archive is damaged")
        rows += run
        position += length * len(run)
    if len(rows) != count:
        raise FormatProblem("container-damaged", f"the archive names {count} records and lists {len(rows)}")
    return rows


def _rows_alike(directory: bytes, position: int) -> tuple[list[_Row], int]:
    """Read the entries from *position* on that are as long as the first one; give their length, too.

    Torch numbers its records, so that long runs of entries differ in what is in them only, and one call reads a run.
    """
    if len(directory) - position < _ENTRY.size or directory[position : position + 4] != b"PK\x01\x02":
        return [], 0
    _, name_size, extra_size, comment_size = _ENTRY.unpack_from(directory, position)
    length = _ENTRY.size + name_size + extra_size + comment_size
    count = min((len(directory) - position) // length, RUN_MAX)
    for offset in _ALIKE:
        if count == 1:
            break
        column = directory[position + offset : position + count * length : length]
        count = len(column) - len(column.lstrip(column[:1]))
    run = memoryview(directory)[position : position + count * length]
    rows: list[_Row] = list(struct.iter_unpack(_ROW.format(name_size, extra_size, comment_size), run))
    return ([_with_zip64(row) for row in rows] if extra_size else rows), length


def _names_in_root(full_names: tuple[bytes, ...]) -> list[str]:
    """Return the names without the archive's root folder, which its first record has."""
    if not full_names:
        return []
    root = full_names[0].partition(b"/")[0] + b"/"
    joined = b"\0" + b"\0".join(full_names)
    names = joined.replace(b"\0" + root, b"\0")[1:].decode("utf-8", "backslashreplace").split("\0")
    if len(names) != len(full_names):
        raise FormatProblem("container-damaged", "the name of a record has a NUL in it")
    return names


def _inflated(data: bytes, size_bytes: int, name: str) -> bytes:
    """Decompress a record, to no more than it should have."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size_bytes + 1)
    except zlib.error as error:
        raise FormatProblem("container-damaged", f"record {name} cannot be decompressed: {error}") from None


def _with_zip64(row: _Row) -> _Row:
    """Replace the sizes that did not fit in 32 bits by those of the zip64 extra field (tag 0x0001)."""
    method, crc, packed, size, offset, name, extra = row
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
            return method, crc, wanted[1], wanted[0], wanted[2], name, extra
        position += 4 + length
    return row
