"""Every byte of a torch archive held against what must stand there; of a damaged one, what can still be read.

    1 ends     the tail and the directory: read, and compared with what torch's writer makes of what they say
    2 walk     only if they cannot be believed: from local header to local header, lengths from the descriptors
    3 tensors  what the pickle says of them: which bytes of which record, and whether these exist
    4 pass     the file in order: headers, padding, descriptors compared, contents by CRC-32, NaN and infinity counted
    5 ends     after a walk: directory and tail compared with what the records found would give

Where two places of a file contradict each other the third one decides which is named: a record's CRC stands in the
directory and in the descriptor and is computed, its place follows from its neighbours, its name from the pickle. So one
flipped bit is found wherever it is, and the region that is named is the one it is in. What is not covered is counted
(``unproven_bytes``): the contents of records without a CRC; deflated records (only TorchScript's code), where another
stream can give the same text; everything but contents and names in an archive that torch did not write.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from collections import Counter as Counted
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from isal.isal_zlib import crc32

from ckpt_indexer.errors import FormatProblem
from ckpt_indexer.formats.containers.torch_zip import (
    DIRECTORY_MAX,
    RECORD_READ_MAX,
    RECORDS_MAX,
    Archive,
    Record,
    is_skipped,
)
from ckpt_indexer.formats.facts import Damage, DeepFacts, Readable
from ckpt_indexer.formats.pickles.unpickle import unpickle
from ckpt_indexer.formats.proof import torch_layout
from ckpt_indexer.formats.proof.pieces import PIECE_BYTES, Pieces, read_at, read_on
from ckpt_indexer.formats.proof.torch_layout import Item
from ckpt_indexer.formats.proof.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.formats.facts import Region
    from ckpt_indexer.formats.proof.nonfinite import Counter

DAMAGES_MAX = 20
LOST_MAX = 100  # names of tensors
NAME_MAX = 4096  # bytes of a record's name; torch's are its number or a module's path
FIND_BYTES = 4 << 10  # read first where the end of a record is looked for; most are short
INFLATED_MAX = 64 << 20  # bytes of a deflated record, which is source text
_WRONG = "its bytes are not those that were written"
_DEBUG = ".debug_pkl"
_STATIC = (
    "data.pkl",
    "version",
    "byteorder",
    ".format_version",
    ".storage_alignment",
    ".data/serialization_id",
    "constants.pkl",
)


class RecordPlace(NamedTuple):
    """A record and where its parts are."""

    item: Item
    padding: int  # bytes, tag included; 0 where the writer was not torch

    @property
    def data(self) -> int:
        return self.item.start + len(torch_layout.local_header(self.item, self.padding)) + self.padding

    @property
    def end(self) -> int:
        return self.data + self.item.packed + len(torch_layout.descriptor(self.item))


class Ends(NamedTuple):
    """What the archive's two ends say."""

    items: list[Item]
    directory: int  # its offset


class ArchiveProof:
    """The check of one archive; ``run`` is called once."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._facts = DeepFacts()
        self._bad: set[str] = set()  # records whose contents are not what was written
        self._weights: Weights | None = None

    def run(self) -> DeepFacts:
        """Read it all.

        Raises:
            FormatProblem: it could not be read to its end.

        """
        ends = self._ends()
        if ends is None and self._is_foreign():
            self._run_foreign()
        else:
            self._run_torch(ends)
        facts = self._facts
        facts.problem = facts.damages[0].problem() if facts.damages else None
        return facts

    def _run_torch(self, ends: Ends | None) -> None:
        alignment = None if ends is None else self._alignment(ends)
        if ends is None or alignment is None:
            places = self._walk()
        else:
            places = [RecordPlace(item, torch_layout.padding_size(item, alignment)) for item in ends.items]
        self._read_weights(places)
        if alignment is not None:
            places = self._renamed(places)
        unproven = sum(p.item.packed for p in places if not p.item.crc or p.item.method == torch_layout.DEFLATED)
        with Pieces(self._file, self._size, with_digest=unproven > 0 or ends is None) as pieces:
            found = [self._check_record(place, pieces) for place in places]
            unproven += self._check_ends(found, pieces)
            pieces.skip_to(self._size)
        self._facts.unproven_bytes = unproven
        self._facts.digest = pieces.digest() if unproven else None
        self._summarise({_name(item) for item in found})

    def _run_foreign(self) -> None:
        """Check contents and names, in the order in which they lie in the file."""
        archive = Archive(self._file, self._size)
        places = sorted(self._foreign_place(name, record) for name, record in archive.records.items())
        with contextlib.suppress(FormatProblem):  # told where the record is checked
            is_big = "byteorder" in archive.records and archive.read("byteorder") == b"big"
            self._unpickle(archive.read("data.pkl"), 0, is_big_endian=is_big)
        with Pieces(self._file, self._size, with_digest=True) as pieces:
            proven = sum(self._check_foreign(*place, pieces) for place in places)
            pieces.skip_to(self._size)
        self._facts.unproven_bytes = self._size - proven
        self._facts.digest = pieces.digest()
        self._summarise(set(archive.records))

    def _check_foreign(self, at: int, name: str, item: Item, pieces: Pieces) -> int:
        """Check one record, whose data is *at*; gives how many of its bytes a checksum covers."""
        pieces.skip_to(max(at, pieces.position))  # records that overlap are no torch archive's
        if pieces.position != at:
            self._note("record", name, at, "container-damaged", "it overlaps the record before it")
            return 0
        counter = None if self._weights is None else self._weights.counter(name)
        crc, size = self._content(item, pieces, counter)
        if size != item.size or (item.crc and crc != item.crc):
            self._bad.add(name)
            self._note(_region(name), name, at, "checksum-mismatch", _WRONG)
        elif counter is not None and self._weights is not None:
            self._weights.take_counts(name, counter, self._reader(at))
        return item.packed if item.crc else 0

    def _foreign_place(self, name: str, record: Record) -> tuple[int, str, Item]:
        """Find where a record's data begins, by its local header."""
        header = read_at(self._file, record.header_offset, torch_layout.LOCAL.size)
        if header[:4] != torch_layout.LOCAL_SIGNATURE or len(header) < torch_layout.LOCAL.size:
            raise FormatProblem("container-damaged", f"record {name} is not where the directory says it is")
        *_, name_size, extra_size = torch_layout.LOCAL.unpack(header)
        start = record.header_offset + torch_layout.LOCAL.size
        written = read_at(self._file, start, name_size)
        if not written.decode("utf-8", "backslashreplace").endswith(name):
            raise FormatProblem("container-damaged", f"record {name} has another name in front of its data")
        item = Item(written, record.crc, record.packed_bytes, record.size_bytes, record.method, record.header_offset)
        return start + name_size + extra_size, name, item

    # --- the two ends ---

    def _ends(self) -> Ends | None:
        """Read tail and directory; ``None`` unless the directory is where the tail says and what torch writes."""
        tail = read_at(self._file, max(0, self._size - torch_layout.TAIL_BYTES), torch_layout.TAIL_BYTES)
        if len(tail) < torch_layout.TAIL_BYTES:
            return None
        *_, size64, offset64 = torch_layout.END64.unpack_from(tail)
        size, offset = torch_layout.END.unpack_from(tail, torch_layout.END64.size + torch_layout.LOCATOR.size)[5:7]
        for at, length in ((offset64, size64), (offset, size), (offset64, size), (offset, size64)):
            if at + length != self._size - torch_layout.TAIL_BYTES or length > DIRECTORY_MAX:
                continue
            items = torch_layout.parse_directory(read_at(self._file, at, length))
            names = [] if items is None else [_name(item) for item in items]
            if items and len(set(names)) == len(names) <= RECORDS_MAX and "data.pkl" in names:
                return Ends(items, at)
        return None

    def _alignment(self, ends: Ends) -> int | None:
        """Find the alignment with which each record starts where the one before it ends; ``None`` if there is none."""
        declared = next((item for item in ends.items if _name(item) == ".storage_alignment"), None)
        candidates = [torch_layout.ALIGNMENT, *(1 << n for n in range(16))]
        if declared is not None and declared.size < 20:
            text = read_at(self._file, torch_layout.data_start(declared, torch_layout.ALIGNMENT), declared.size)
            candidates.insert(0, int(text) if text.isdigit() and 0 < int(text) <= 1 << 15 else torch_layout.ALIGNMENT)
        for alignment in candidates:
            if torch_layout.is_chain(ends.items, ends.directory, alignment):
                return alignment
        return None

    def _is_foreign(self) -> bool:
        """Return whether another writer than torch made this archive: it is whole, and most of its entries differ."""
        try:
            archive = Archive(self._file, self._size)
        except FormatProblem:
            return False
        start = min((r.header_offset for r in archive.records.values()), default=0)
        alike = sum(
            read_at(self._file, record.header_offset + 4, 4) in (b"\0\0\x08\x08", b"\0\0\0\x08", b"\x14\0\x08\x08")
            for record in archive.records.values()
        )
        return start > 0 or 2 * alike < len(archive.records)

    def _check_ends(self, items: list[Item], pieces: Pieces) -> int:
        """Check directory and tail; return how many bytes follow that are not the archive's, if torch skips them."""
        directory = b"".join(map(torch_layout.entry, items))
        start = pieces.position
        tail = torch_layout.tail(start, len(directory), len(items))
        if start + len(directory) + len(tail) > self._size:
            self._note("file", None, start, "truncated", "from here on it is cut short")
            return 0
        actual = pieces.exactly(len(directory))
        if actual != directory:
            at = start + _first_difference(actual, directory)
            self._note("central directory", None, at, "container-damaged", "it is not what the records say")
        start = pieces.position
        actual = pieces.exactly(len(tail))
        if actual != tail:
            at = start + _first_difference(actual, tail)
            self._note("tail", None, at, "container-damaged", "it is not what the directory says")
        rest = self._size - pieces.position
        if not is_skipped(rest, self._size):
            self._note("file", None, pieces.position, "container-damaged", f"{rest} bytes follow the archive")
        return rest

    # --- records without a directory ---

    def _walk(self) -> list[RecordPlace]:
        """Find the records from the front."""
        places: list[RecordPlace] = []
        position: int | None = 0
        while position is not None and len(places) < RECORDS_MAX:
            place = self._place_at(position)
            if place is None:
                position = self._next_header(position)
                continue
            places.append(place)
            position = place.end
            if read_at(self._file, position, 4) == torch_layout.ENTRY_SIGNATURE:
                break
        return places

    def _next_header(self, position: int) -> int | None:
        """Find the next thing that may be a local header: a signature at a place that no descriptor belongs to."""
        return self._find(torch_layout.LOCAL_SIGNATURE, position + 1)

    def _place_at(self, start: int) -> RecordPlace | None:
        """Read the record whose local header is at *start*, ``None`` if there is none that is whole."""
        head = read_at(self._file, start, torch_layout.LOCAL.size)
        if len(head) < torch_layout.LOCAL.size:
            return None
        signature, _, flags, method, *_, name_size, extra_size = torch_layout.LOCAL.unpack(head)
        if (
            signature != torch_layout.LOCAL_SIGNATURE
            or name_size > NAME_MAX
            or method not in (torch_layout.STORED, torch_layout.DEFLATED)
        ):
            return None
        name = read_at(self._file, start + torch_layout.LOCAL.size, name_size)
        data = start + torch_layout.LOCAL.size + name_size + extra_size
        wide = read_at(self._file, start + torch_layout.LOCAL.size + name_size, 2) == b"\x01\x00"
        if not flags & 8:
            item = Item(name, 0, 0, 0, method, start)
        else:
            found = self._descriptor_after(data, method, wide=wide)
            if found is None:
                return None
            item = Item(name, *found, method, start)
        padding = data - start - len(torch_layout.local_header(item, 4))
        return RecordPlace(item, padding) if padding >= 0 else None

    def _descriptor_after(self, data: int, method: int, *, wide: bool) -> tuple[int, int, int] | None:
        """Find the descriptor that names the distance from *data* to itself: (CRC, packed size, size)."""
        kind = torch_layout.DESCRIPTOR64 if wide else torch_layout.DESCRIPTOR
        position = self._find(torch_layout.DESCRIPTOR_SIGNATURE, data)
        while position is not None:
            found = read_at(self._file, position, kind.size)
            if len(found) == kind.size:
                _, crc, packed, size = kind.unpack(found)
                if packed == position - data and (size == packed or method == torch_layout.DEFLATED):
                    return crc, packed, size
            position = self._find(torch_layout.DESCRIPTOR_SIGNATURE, position + 1)
        return None

    def _find(self, wanted: bytes, position: int) -> int | None:
        keep = len(wanted) - 1
        size = FIND_BYTES
        while len(block := read_on(self._file, position, size)) > keep:
            at = block.find(wanted)
            if at >= 0:
                return position + at
            position += len(block) - keep
            size = min(2 * size, PIECE_BYTES)
        return None

    # --- what the pickle says ---

    def _read_weights(self, places: list[RecordPlace]) -> None:
        """Unpickle ``data.pkl``, if it is what was written."""
        place = next((p for p in places if _name(p.item) == "data.pkl"), None)
        if place is None or place.item.method != torch_layout.STORED or place.item.size > RECORD_READ_MAX:
            return
        data = read_at(self._file, place.data, place.item.size)
        if len(data) < place.item.size or (place.item.crc and crc32(data) != place.item.crc):
            return
        order = next((p for p in places if _name(p.item) == "byteorder"), None)
        is_big = order is not None and read_at(self._file, order.data, order.item.size) == b"big"
        self._unpickle(data, place.data, is_big_endian=is_big)

    def _unpickle(self, data: bytes, offset: int, *, is_big_endian: bool) -> None:
        try:
            self._weights = Weights(unpickle(io.BytesIO(data)), is_big_endian=is_big_endian)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - unpickling raises nearly anything, and the rest can still be checked
            self._note("data.pkl", "data.pkl", offset, "pickle-damaged", f"{type(error).__name__}: {error}")

    def _renamed(self, places: list[RecordPlace]) -> list[RecordPlace]:
        """Return the records that nothing asks for the names in front of their data, where these are asked for."""
        roots = Counted(place.item.name.partition(b"/")[0] for place in places)
        root = roots.most_common(1)[0][0] + b"/"
        wanted = {*_STATIC, *self._asked_for()}
        # TorchScript's code comes in pairs, x.py and x.py.debug_pkl.
        for name in [_name(place.item) for place in places]:
            wanted.add(name.removesuffix(_DEBUG) if name.endswith(_DEBUG) else name + _DEBUG)
        given = []
        for place in places:
            item = place.item
            if not item.name.startswith(root) or _name(item) not in wanted:
                written = item._replace(name=read_at(self._file, item.start + torch_layout.LOCAL.size, len(item.name)))
                if written.name.startswith(root) and _name(written) in wanted:
                    item = written
            given.append(RecordPlace(item, place.padding))
        return given

    def _asked_for(self) -> set[str]:
        """Name the records that hold the tensors' data."""
        storages = {} if self._weights is None else self._weights.storages
        return {f"data/{key}" for key, size in storages.items() if size}

    # --- the pass over the file ---

    def _check_record(self, place: RecordPlace, pieces: Pieces) -> Item:
        """Check one record; gives it with the CRC that two of the three places agree on."""
        item = place.item
        name = _name(item)
        if pieces.position != item.start:
            at = pieces.position
            self._note("file", None, at, "container-damaged", f"{item.start - at} bytes belong to no record")
            pieces.skip_to(item.start)
        self._compare(pieces, torch_layout.local_header(item, place.padding), "local header", name)
        self._compare(pieces, torch_layout.padding(place.padding), "padding", name)
        counter = None if self._weights is None else self._weights.counter(name)
        start = pieces.position
        crc, size = self._content(item, pieces, counter)
        after_start = pieces.position
        after = pieces.exactly(len(torch_layout.descriptor(item)))
        # As the directory says; with the checksum or the length that the bytes give; with no checksum at all.
        for likely in (item, item._replace(crc=crc), item._replace(size=max(size, 0)), item._replace(crc=0)):
            if after == torch_layout.descriptor(likely):
                item = likely
                break
        if size != item.size or (item.crc and item.crc != crc):
            self._bad.add(name)
            self._note(_region(name), name, start, "checksum-mismatch", _WRONG)
        elif item.size < self._needed(name):
            self._bad.add(name)
            message = f"it has {item.size} bytes where its tensor needs {self._needed(name)}"
            self._note(_region(name), name, start, "record-short", message)
        elif counter is not None and self._weights is not None:
            self._weights.take_counts(name, counter, self._reader(start))
        expected = torch_layout.descriptor(item)
        if after != expected:
            at = after_start + _first_difference(after, expected)
            self._note("descriptor", name, at, "container-damaged", "it is not what the directory says")
        return item

    def _needed(self, name: str) -> int:
        """Count the bytes that the tensors of a record need."""
        return 0 if self._weights is None else self._weights.storages.get(name.removeprefix("data/"), 0)

    def _reader(self, start: int) -> Callable[[int, int], bytes]:
        return lambda offset, size: read_at(self._file, start + offset, size)

    def _content(self, item: Item, pieces: Pieces, counter: Counter | None) -> tuple[int, int]:
        """Read a record's content: its CRC, and its length, -1 where it has no end."""
        if item.method == torch_layout.DEFLATED:
            return _inflated(pieces.exactly(_bounded(item.packed)), item.size)
        crc = at = 0
        for piece in pieces.take(item.packed):
            crc = crc32(piece, crc)
            if counter is not None:
                counter.feed(piece, at)
            at += len(piece)
        return crc, at

    def _compare(self, pieces: Pieces, expected: bytes, region: Region, name: str) -> None:
        start = pieces.position
        actual = pieces.exactly(len(expected))
        if actual != expected:
            at = start + _first_difference(actual, expected)
            self._note(region, name, at, "container-damaged", "it is not what the rest of the file says")

    # --- what came of it ---

    def _note(self, region: Region, record: str | None, offset: int, code: str, message: str) -> None:
        if len(self._facts.damages) < DAMAGES_MAX:
            self._facts.damages.append(Damage(region, record, offset, code, message))

    def _summarise(self, present: set[str]) -> None:
        facts, weights = self._facts, self._weights
        absent = self._asked_for() - present
        for name in sorted(absent)[: DAMAGES_MAX if not facts.damages else 0]:
            self._note("record", name, 0, "record-missing", "it is not in the archive")
        if weights is not None:
            for name in weights.beyond:
                message = f"the tensor {name} reaches beyond its storage"
                self._note("data.pkl", "data.pkl", 0, "record-short", message)
            facts.nonfinite, facts.nan, facts.inf = weights.nonfinite, weights.nan, weights.inf
            facts.uncounted = weights.uncounted
        if not facts.damages:
            return
        facts.readable = readable = Readable(len(present - self._bad), len(present | absent), None, None)
        if weights is not None:
            gone = self._bad | absent
            named = list(weights.names())
            lost = [name for name, record in named if record in gone]
            readable.tensors, readable.tensors_total = len(named) - len(lost), len(named)
            readable.lost = lost[:LOST_MAX]


def _name(item: Item) -> str:
    """Return a record's name without the archive's root folder."""
    return item.name.partition(b"/")[2].decode("utf-8", "backslashreplace")


def _region(name: str) -> Region:
    return "data.pkl" if name == "data.pkl" else "tensor data" if name.startswith("data/") else "record"


def _first_difference(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _bounded(size: int) -> int:
    if size > INFLATED_MAX:
        raise FormatProblem("limit-exceeded", f"a compressed record has {size} bytes")
    return size


def _inflated(data: bytes, size: int) -> tuple[int, int]:
    """Inflate a record to little more than *size* bytes: its content's CRC and length, -1 if it has no end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = count = 0
    try:
        while data and not inflater.eof and count <= size + PIECE_BYTES:
            content = inflater.decompress(data, PIECE_BYTES)
            crc = crc32(content, crc)
            count += len(content)
            data = inflater.unconsumed_tail
    except zlib.error:
        return crc, -1
    return crc, count if inflater.eof and not inflater.unused_data else -1
