"""Which format the bytes are, and the one entry point that turns a file into facts: ``read_facts``.

Owns the first look at a file; each format's own module does the rest. Promises that any bytes give ``Facts``, with a
problem where they are no readable checkpoint, and never an exception.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import struct
from typing import TYPE_CHECKING, BinaryIO

from ckpt_indexer.errors import FormatProblem, reason_of
from ckpt_indexer.formats.containers.holes import Hole, find_holes, is_archive_written
from ckpt_indexer.formats.containers.safetensors import HEADER_MAX, describe_safetensors
from ckpt_indexer.formats.containers.torch_legacy import MAGIC_NUMBER, read_legacy, read_tar
from ckpt_indexer.formats.containers.torch_zip import Archive, is_other_archive
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.formats.frameworks import checkpoint, sharded
from ckpt_indexer.formats.pickles.modules import state_dict_of_script
from ckpt_indexer.formats.pickles.tensors import holds_storage, storage_of
from ckpt_indexer.formats.pickles.unpickle import is_at_zeros, is_cut_short, unpickle
from ckpt_indexer.formats.pickles.values import value_reader
from ckpt_indexer.model import Format, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.formats.pickles.tensors import Storage

HEAD_BYTES = 512
BUFFER_BYTES = 256 << 10
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py: MAGIC_NUMBER, pickled
LEGACY_MAGIC_TEXT = b"L119547037146038801333356L\n."  # the same by pickle's protocols 0 and 1

_PROTOCOL = b"\x80\x02M\xe9\x03."  # what follows it, pickled
_TAR_START = b"sys_info\x00"  # the name of the first member that torch 0.1 wrote
# Plain pickles of protocols 0 and 1 have no magic: as they start for what may hold weights, a dict, a list, an object.
_OLD_PICKLES = (b"(dp0\n", b"(lp0\n", b"ccopy_reg\n", b"ccollections\nOrderedDict\n", b"}q\x00(", b"]q\x00(")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # as Windows begins a text; no header of safetensors has an odd length
_FOREIGN: list[tuple[bytes, str]] = [
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"GGUF", "a GGUF model"),
]


def read_facts(file: BinaryIO) -> Facts:
    """Read everything that the header of a checkpoint says; tensors stay unread, whatever the file's size.

    *file* is seekable and unbuffered. Of an archive its two ends are read and each number that is a score or a count;
    of a legacy file also the length of each storage; a plain pickle is read whole. Where bytes were never written, the
    records that these are in are read, up to ``holes.CHECK_MAX``.
    """
    facts = Facts()
    error = _read_into(facts, file)
    try:
        _heed_holes(file, facts, error)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110 - the file changed since it was read, and its fingerprint says so
        pass
    return facts


def _heed_holes(file: BinaryIO, facts: Facts, error: Exception | None) -> None:
    """Add what follows from bytes that were never written: what is damaged there is not written yet."""
    size = file.seek(0, os.SEEK_END)
    holes = find_holes(file, size)
    if not holes or (facts.problem is not None and facts.problem.status != "corrupt"):
        return
    count = sum(hole.end - hole.start for hole in holes)
    message = f"{count} bytes, from byte {holes[0].start} on, were never written"
    if facts.format in ("torch-zip", "torchscript"):
        is_written = is_archive_written(file, size, holes)
    else:
        is_written = False if _is_in_hole(error, holes) else None
    if is_written is False:
        facts.problem = Problem.of("zero-filled", f"{message} (yet)")
    elif is_written is None:
        facts.warnings.append(f"{message}: they are a hole that reads as zeros, which may be right")


def _is_in_hole(error: Exception | None, holes: list[Hole]) -> bool:
    """Return whether what is damaged in a file that is no archive is where nothing was written."""
    if isinstance(error, FormatProblem):
        return error.at is not None and any(hole.start <= error.at < hole.end for hole in holes)
    return error is not None and is_at_zeros(error)


def _read_into(facts: Facts, file: BinaryIO) -> Exception | None:
    """Fill *facts*, its problem too; return the error that became the problem."""
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        facts.format = identify(head, size)
        file.seek(0)
        if facts.format == "torch-zip":
            _read_archive(file, head, size, facts)
        else:
            with buffered(file) as stream:
                _READERS[facts.format](stream, size, facts)
    except FormatProblem as error:
        facts.problem = error.problem
        facts.format = error.format or facts.format
        return error
    except OSError as error:
        facts.problem = Problem.of("io-error", reason_of(error))
        return error
    except MemoryError:
        raise  # the process has to go: its heap is full of what the file made
    except Exception as error:  # noqa: BLE001 - unpickling raises nearly anything; the worker reports, never dies
        # In an archive the pickle has an end of its own; elsewhere it ends where the file does.
        code = "truncated" if facts.format in _ENDING_WITH_THE_FILE and is_cut_short(error) else "pickle-damaged"
        facts.problem = Problem.of(code, f"{type(error).__name__}: {error}")
        return error
    return None


def identify(head: bytes, size_bytes: int) -> Format:
    """Return the format that follows from the file's first bytes.

    Raises:
        FormatProblem: it is none of them; the message says what it is instead.

    """
    if size_bytes == 0:
        raise FormatProblem("empty", "the file has no bytes (yet)")
    if head[:4] == b"PK\x03\x04":
        return "torch-zip"
    if head.startswith((LEGACY_MAGIC, LEGACY_MAGIC_TEXT)):
        return "torch-legacy"
    # Whether the header it announces is there is not asked: the file may still be growing.
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= HEADER_MAX:
        return "safetensors"
    if not head.strip(b"\x00"):
        raise FormatProblem("zero-filled", "the file starts with zeros: it is not written yet, or was lost")
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            raise FormatProblem("not-a-checkpoint", f"this is {name}, not a checkpoint")
    if head[257:262] == b"ustar" or head.startswith(_TAR_START):
        return "torch-legacy"  # as torch 0.1 wrote it
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise FormatProblem("not-a-checkpoint", "this is an HTML page (a failed download?), not a checkpoint")
    if (head[:1] == b"\x80" and head[1:2] <= b"\x05") or head.startswith(_OLD_PICKLES):
        return "pickle"
    if _may_become_one(head):
        raise FormatProblem("truncated", f"the file has only {size_bytes} bytes (yet)")
    what = "a text, not a checkpoint" if _is_text(head) else "no format that torch writes"
    raise FormatProblem("not-a-checkpoint", f"this is {what}")


def _may_become_one(head: bytes) -> bool:
    """Return whether these few bytes may be all that is written so far of a checkpoint.

    Up to three bytes of text could be the first of a safetensors file's length, too. They count as text: whoever writes
    that length writes its eight bytes at once, and a counter or a flag of such a size stays as it is.

    >>> _may_become_one(b"PK"), _may_become_one(bytes([0x98, 2])), _may_become_one(b"12")
    (True, True, False)
    """
    if any(start.startswith(head) for start in (b"PK\x03\x04", LEGACY_MAGIC_TEXT, _TAR_START)):
        return True
    return len(head) <= 8 and int.from_bytes(head, "little") <= HEADER_MAX and not _is_text(head)


def _is_text(head: bytes) -> bool:
    """Return whether a file that starts so is a text: in UTF-8, without control characters, or in UTF-16."""
    try:
        decoded = codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut
    except UnicodeDecodeError:
        return head.startswith(_UTF_16)
    return bool(decoded) and all(character.isprintable() or character in "\t\n\r\f" for character in decoded)


def _read_archive(file: BinaryIO, head: bytes, size: int, facts: Facts) -> None:
    try:
        archive = Archive(file, size)
    except FormatProblem:
        if is_other_archive(head):
            raise FormatProblem(
                "not-a-checkpoint", "this is a zip archive, not a checkpoint", format="unknown"
            ) from None
        raise
    if "data.pkl" not in archive.sizes:
        facts.format = "unknown"
        kind = "a numpy archive (npz)" if any(n.endswith(".npy") for n in archive.sizes) else "a zip archive"
        raise FormatProblem("not-a-checkpoint", f"this is {kind} without data.pkl, not a checkpoint")
    if archive.trailing_bytes:
        facts.warnings.append(f"{archive.trailing_bytes} bytes follow the archive")
    facts.content_id = archive.content_id()
    pickled = unpickle(io.BytesIO(archive.read("data.pkl")))
    state_dict = None
    if "constants.pkl" in archive.sizes:
        facts.format = "torchscript"
        state_dict = state_dict_of_script(pickled.root, lambda module: _source(archive, module))
    fetch = value_reader(lambda storage: _storage(archive, storage), lambda: _is_big_endian(archive))
    checkpoint.describe(pickled.root, facts, fetch, state_dict, weigh=archive.weights_id)
    _check_storages(pickled.storages, archive)


def _storage(archive: Archive, storage: Storage) -> bytes | None:
    try:
        return archive.read(f"data/{storage.key}")
    except FormatProblem:
        return None  # told where every storage is held against its record


def _is_big_endian(archive: Archive) -> bool:
    return "byteorder" in archive.sizes and archive.read("byteorder") == b"big"


def _source(archive: Archive, module: str) -> str | None:
    name = f"code/{module.replace('.', '/')}.py"
    return archive.read(name, inflate=True).decode("utf-8", "replace") if name in archive.sizes else None


def _check_storages(persistent_ids: list[object], archive: Archive) -> None:
    """Hold every storage that the pickle names against the record that should hold it."""
    for persistent_id in persistent_ids:
        if holds_storage(archive.sizes, persistent_id):
            continue
        storage = storage_of(persistent_id)
        size = archive.sizes.get(f"data/{storage.key}")
        if size is None:
            if storage.size_bytes == 0:
                continue
            raise FormatProblem("record-missing", f"the tensor data data/{storage.key} is missing")
        if size < storage.size_bytes:
            message = f"data/{storage.key} has {size} bytes where its tensor needs {storage.size_bytes}"
            raise FormatProblem("record-short", message)


@contextlib.contextmanager
def buffered(file: BinaryIO) -> Iterator[io.BufferedReader]:
    """Read *file* ahead in blocks; it stays open."""
    stream: io.BufferedReader = io.BufferedReader(file, BUFFER_BYTES)  # type: ignore[arg-type]
    try:
        yield stream
    finally:
        stream.detach()


def _read_legacy(stream: io.BufferedReader, size: int, facts: Facts) -> None:
    if stream.peek().startswith((LEGACY_MAGIC, LEGACY_MAGIC_TEXT)):
        unpickle(stream)  # the magic number
        _describe_legacy(stream, size, facts)
    else:
        pickled, read_storage = read_tar(stream, size)
        checkpoint.describe(pickled.root, facts, value_reader(read_storage, lambda: False))


def _describe_legacy(stream: io.BufferedReader, size: int, facts: Facts) -> None:
    """Fill *facts* from what follows the magic number."""
    legacy = read_legacy(stream, size)
    checkpoint.describe(legacy.pickled.root, facts, value_reader(legacy.read_storage, lambda: False))
    if legacy.trailing_bytes:
        facts.warnings.append(f"{legacy.trailing_bytes} bytes follow the last tensor")


def _read_pickle(stream: io.BufferedReader, size: int, facts: Facts) -> None:
    root = unpickle(stream).root
    rest = size - stream.tell()
    if type(root) is int and root == MAGIC_NUMBER:  # by a protocol of pickle's that torch does not choose by itself
        facts.format = "torch-legacy"
        _describe_legacy(stream, size, facts)
        return
    if stream.peek(len(_PROTOCOL)).startswith(_PROTOCOL):
        facts.format = "torch-legacy"
        raise FormatProblem("container-damaged", "its magic number is not torch's")
    if sharded.is_dcp_metadata(root):
        facts.format = "sharded-dcp"
        sharded.describe_dcp(root, facts)
    else:
        checkpoint.describe(root, facts, value_reader(lambda storage: storage.data, lambda: False))
    if rest:
        facts.warnings.append(f"{rest} bytes follow the pickle")


_ENDING_WITH_THE_FILE = ("torch-legacy", "pickle", "sharded-dcp")
_READERS: dict[Format, Callable[[io.BufferedReader, int, Facts], None]] = {
    "torch-legacy": _read_legacy,
    "safetensors": describe_safetensors,
    "pickle": _read_pickle,
}
