"""How torch's writer lays an archive out, byte for byte: from what a record is to every byte written around it.

The writer is deterministic. Name, CRC, sizes, method and place of each record decide all of the local headers, the
padding, the data descriptors, the central directory and the tail: nothing in them is free, so nothing in them can
change unseen. Pure functions; they hold for every torch version since the format exists (1.6).

Sources: caffe2/serialize/inline_container.cc (padding), third_party/miniz (``mz_zip_writer_add_mem_ex_v2``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

ALIGNMENT = 64  # where a record's data starts, unless the record .storage_alignment says otherwise
STORED, DEFLATED = 0, 8  # torch deflates the code in TorchScript archives, and nothing else
LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
DESCRIPTOR = struct.Struct("<4s3L")
DESCRIPTOR64 = struct.Struct("<4sL2Q")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")
TAIL_BYTES = END64.size + LOCATOR.size + END.size  # 98, of every torch archive
LOCAL_SIGNATURE, ENTRY_SIGNATURE, DESCRIPTOR_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
PADDING = b"FB"  # the tag of the extra field that aligns the data
_FULL = 0xFFFFFFFF  # what stands in a 32-bit field whose value is in the zip64 extra field
_UTF8, _DESCRIBED = 0x0800, 0x0008  # general purpose flags


class Item(NamedTuple):
    """One record: all that decides the bytes written for it, but for the padding's length."""

    name: bytes  # as written, with the archive's root folder
    crc: int  # of the content; 0 where torch was told to compute none
    packed: int  # bytes in the file
    size: int  # bytes of the content
    method: int
    start: int  # where its local header is

    @property
    def is_wide(self) -> bool:
        """Whether it needs a zip64 extra field, and with it the longer descriptor."""
        return self.size >= _FULL or self.start >= _FULL


def local_header(item: Item, extra_size: int) -> bytes:
    """Write what stands in front of the padding; *extra_size* counts the padding with its tag."""
    flags = _UTF8 | (_DESCRIBED if item.size else 0)
    wide = _zip64(item, 0)  # the packed size is not known yet when torch writes this
    needed = 20 if item.method == DEFLATED else 0
    total = len(wide) + extra_size
    fixed = LOCAL.pack(LOCAL_SIGNATURE, needed, flags, item.method, 0, 0, 0, 0, 0, len(item.name), total & 0xFFFF)
    return fixed + item.name + wide


def padding(extra_size: int) -> bytes:
    """Write the extra field that moves the data to its alignment."""
    whole = struct.pack("<2sH", PADDING, (extra_size - 4) & 0xFFFF) + b"Z" * (extra_size - 4)
    return whole[:extra_size]  # fewer than the tag's 4 bytes are damage, and are compared as such


def padding_size(item: Item, alignment: int) -> int:
    """Count the bytes of the padding with its tag."""
    return 4 + -(item.start + len(local_header(item, 4)) + 4) % alignment


def descriptor(item: Item) -> bytes:
    """Write what stands behind the data."""
    if not item.size:
        return b""
    kind = DESCRIPTOR64 if item.is_wide else DESCRIPTOR
    return kind.pack(DESCRIPTOR_SIGNATURE, item.crc, item.packed, item.size)


def entry(item: Item) -> bytes:
    """Write the record's entry in the central directory."""
    flags = _UTF8 | (_DESCRIBED if item.size else 0)
    wide = _zip64(item, item.packed)
    packed, size, start = min(item.packed, _FULL), min(item.size, _FULL), min(item.start, _FULL)
    needed = 20 if item.method == DEFLATED else 0
    fixed = ENTRY.pack(
        ENTRY_SIGNATURE, 0, needed, flags, item.method, 0, 0, item.crc, packed, size,
        len(item.name), len(wide), 0, 0, 0, 0, start,
    )  # fmt: skip
    return fixed + item.name + wide


def tail(offset: int, size: int, count: int) -> bytes:
    """Write the archive's end: the directory is at *offset* and has *size* bytes and *count* entries."""
    end64 = END64.pack(b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, offset)
    locator = LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    few = min(count, 0xFFFF)
    return end64 + locator + END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, _FULL), min(offset, _FULL), 0)


def parse_directory(data: bytes) -> list[Item] | None:
    """Read a central directory; ``None`` where a byte of it is not what torch would write for what it says."""
    items = []
    position = 0
    while position < len(data):
        item = parse_entry(data, position)
        if item is None:
            return None
        items.append(item)
        position += ENTRY.size + len(item.name) + len(_zip64(item, item.packed))
    return items


def parse_entry(data: bytes, position: int) -> Item | None:
    """Read one entry of a central directory, ``None`` where torch would write it otherwise."""
    if position + ENTRY.size > len(data):
        return None
    _, _, _, _, method, _, _, crc, packed, size, name_size, extra_size, *_, start = ENTRY.unpack_from(data, position)
    name_end = position + ENTRY.size + name_size
    name = data[position + ENTRY.size : name_end]
    extra = data[name_end : name_end + extra_size]
    values = iter([v[0] for v in struct.iter_unpack("<Q", extra[4 : 4 + (len(extra) - 4) // 8 * 8])] if extra else ())
    size = next(values, size) if size == _FULL else size
    packed = next(values, packed) if packed == _FULL else packed
    start = next(values, start) if start == _FULL else start
    item = Item(name, crc, packed, size, method, start)
    is_exact = method in (STORED, DEFLATED) and (method == DEFLATED or packed == size) and bool(size or not crc)
    written = entry(item)
    return item if is_exact and data[position : position + len(written)] == written else None


def data_start(item: Item, alignment: int) -> int:
    """Return the place of a record's first byte."""
    return item.start + len(local_header(item, 4)) + padding_size(item, alignment)


def is_chain(items: Iterable[Item], end: int, alignment: int) -> bool:
    """Return whether each record starts where the one before it ends, the first at 0, and the last ends at *end*."""
    position = 0
    for item in items:
        if item.start != position:
            return False
        position = data_start(item, alignment) + item.packed + len(descriptor(item))
    return position == end


def _zip64(item: Item, packed: int) -> bytes:
    if not item.is_wide:
        return b""
    values = [item.size, packed] if item.size >= _FULL else []
    values += [item.start] if item.start >= _FULL else []
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)
