"""What torch wrote before 1.6: pickles followed by raw storages; and in 0.1 a tar archive of the same parts.

    magic | protocol 1001 | system | object | keys of the storages      five pickles, one behind the other
    number of elements (int64), elements                                once for each key, in that order

Neither has a checksum or a mark at its end. The pickles announce how long the file has to be, and in front of each
storage its length stands once more: the only proofs of completeness there are. The elements are little-endian whatever
machine wrote them.
Sources: torch/serialization.py, ``_legacy_save`` and ``legacy_load``; torch/csrc/serialization.cpp.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer.errors import FormatProblem
from ckpt_indexer.formats.pickles.plain import text
from ckpt_indexer.formats.pickles.tensors import DIMENSIONS_MAX, VALUE_BYTES_MAX, Storage, parse_storage, storage_of
from ckpt_indexer.formats.pickles.unpickle import TensorRef, Unpickled, unpickle

if TYPE_CHECKING:
    import io

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES_MAX = 1_000_000
MEMBERS_MAX = 16  # of a tar; it has four
KEY_MAX = 40  # characters of a storage's key in a message
_COUNT = struct.Struct("<q")

ReadStorage = Callable[[Storage], bytes | None]


class Legacy(NamedTuple):
    """A legacy file that agrees with its own account."""

    pickled: Unpickled
    read_storage: ReadStorage
    trailing_bytes: int  # that follow the last tensor; torch does not read them


def read_legacy(stream: io.BufferedReader, size_bytes: int) -> Legacy:
    """Read the object of a legacy file, and give what reads its storages; *stream* is behind the magic number.

    Raises:
        FormatProblem: the file is shorter than its own account, or its storages are not what the pickle says.
        Exception: as ``unpickle``.

    """
    protocol = unpickle(stream).root
    if type(protocol) is not int or protocol != PROTOCOL:
        shown = protocol if type(protocol) is int and protocol < 1 << 32 else "?"
        raise FormatProblem("format-unsupported", f"legacy protocol {shown}; torch only knows {PROTOCOL}")
    unpickle(stream)  # the sizes of integers and the byte order of the machine, which decide nothing
    pickled = unpickle(stream, _resolve)
    pickled.storages = [each for each in pickled.storages if not _is_module(each)]
    keys = unpickle(stream).root
    storages: dict[str, Storage] = {}
    for persistent_id in pickled.storages:
        storage = storage_of(persistent_id)
        storages.setdefault(storage.key, storage)  # again for each view of it
    if not isinstance(keys, list) or len(keys) > STORAGES_MAX:
        raise FormatProblem("pickle-damaged", "there is no list of the storages that follow")
    places: dict[str, int] = {}
    position = stream.tell()
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in places:
            raise FormatProblem("pickle-damaged", "its list of storages names one that no tensor has, or one twice")
        places[key] = position + _COUNT.size
        position += _COUNT.size + storages[key].size_bytes
    if size_bytes < position:
        raise FormatProblem("truncated", f"the file has {size_bytes} bytes of {position}")
    if places.keys() != storages.keys():
        raise FormatProblem("record-missing", "its list of storages lacks one that a tensor needs")
    _check_lengths(stream, places, storages)

    def read_storage(storage: Storage) -> bytes | None:
        stream.seek(places[storage.key])
        return stream.read(min(storage.size_bytes, VALUE_BYTES_MAX))

    return Legacy(pickled, read_storage, size_bytes - position)


def _check_lengths(stream: io.BufferedReader, places: dict[str, int], storages: dict[str, Storage]) -> None:
    """Hold each storage against the number of elements in front of it, as torch does when it loads the file.

    One short read each, past the buffer: filled anew for every storage, that would read most of the file.
    """
    raw = stream.raw
    buffered_to = raw.tell()
    for key, place in places.items():
        raw.seek(place - _COUNT.size, 0)
        found = raw.read(_COUNT.size) or b""
        if len(found) < _COUNT.size:
            raise FormatProblem("unsettled", "it became shorter while it was read")
        (count,) = _COUNT.unpack(found)
        numel, size = storages[key].numel, storages[key].size_bytes
        if count != numel and (not numel or count * (size // numel) % (1 << 64) != size):  # as torch multiplies
            message = f"the storage {text(key)[:KEY_MAX]} says that it has {count} elements, not {numel}"
            raise FormatProblem("container-damaged", message, at=place - _COUNT.size)
    raw.seek(buffered_to, 0)  # where the buffer believes it to be


def read_tar(stream: IO[bytes], size_bytes: int) -> tuple[Unpickled, ReadStorage]:
    """Read the object of a tar file of torch 0.1, as ``read_legacy`` does.

    Raises:
        FormatProblem: a member is missing or cut short.
        Exception: as ``unpickle``, or of ``tarfile``.

    """
    with _opened_tar(stream) as tar:
        members: dict[str, tarfile.TarInfo] = {}
        end = 0
        while len(members) < MEMBERS_MAX and (member := _next_member(tar)) is not None:
            members[member.name] = member
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if member.size < 0:
                raise FormatProblem("container-damaged", f"the member {member.name} has {member.size} bytes")
            if end > size_bytes:
                raise FormatProblem("truncated", f"the archive is cut short in {member.name}")
        stream.seek(end)
        if len(stream.read(2 * tarfile.BLOCKSIZE)) < 2 * tarfile.BLOCKSIZE:
            raise FormatProblem("truncated", "the archive has no end: it is cut short, or still being written")
        missing = {"pickle", "storages", "tensors"} - members.keys()
        if len(missing) == 3:
            raise FormatProblem("not-a-checkpoint", "this is a tar archive, not a checkpoint", format="unknown")
        if missing:
            raise FormatProblem(
                "record-missing", f"a checkpoint of torch 0.1 without its member {min(missing)}", at=end
            )

        def opened(name: str) -> IO[bytes]:
            file = tar.extractfile(members[name]) if members[name].isreg() else None  # a link would be followed
            if file is None:
                raise FormatProblem("container-damaged", f"the member {name} is no file")
            return file

        with opened("storages") as file:
            storages, read_from = _tar_storages(file, members["storages"])
        with opened("tensors") as file:
            tensors = _tar_tensors(file, storages)
        with opened("pickle") as file:
            pickled = unpickle(file, lambda persistent_id: _tar_object(persistent_id, tensors, storages))
    pickled.storages = list(storages.values())

    def read_storage(storage: Storage) -> bytes | None:
        stream.seek(read_from[storage.key])
        return stream.read(min(storage.size_bytes, VALUE_BYTES_MAX))

    return pickled, read_storage


def _opened_tar(stream: IO[bytes]) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except tarfile.ReadError as error:
        raise _tar_problem(error) from None


def _next_member(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except tarfile.ReadError as error:
        raise _tar_problem(error) from None


def _tar_problem(error: tarfile.ReadError) -> FormatProblem:
    code = "truncated" if "unexpected end" in str(error) or "truncated" in str(error) else "container-damaged"
    return FormatProblem(code, f"the archive's headers are damaged: {error}")


def _tar_storages(stream: IO[bytes], member: tarfile.TarInfo) -> tuple[dict[Any, Any], dict[str, int]]:
    """Read the member ``storages``: a count, then for each its description, its length and its data; then views.

    Gives the persistent ids that 1.5 would have written, by the keys of 0.1, and where in the file each storage is.
    """
    storages: dict[Any, Any] = {}
    places: dict[str, int] = {}
    for _ in range(_counted(unpickle(stream).root)):
        described = unpickle(stream).root
        if not isinstance(described, tuple) or len(described) != 3:
            raise FormatProblem("pickle-damaged", "a storage is not described as torch 0.1 did it")
        key, location, kind = described
        (numel,) = _COUNT.unpack(stream.read(_COUNT.size))
        storage = parse_storage(persistent_id := ("storage", kind, str(key), location, numel))
        if storage is None:
            raise FormatProblem("pickle-damaged", "a storage is not described as torch 0.1 did it")
        storages[key] = persistent_id
        places[storage.key] = member.offset_data + stream.tell()
        if storage.size_bytes > member.size - stream.tell():
            raise FormatProblem("record-short", f"the storage {storage.key} runs past its member")
        stream.seek(storage.size_bytes, 1)
    views = unpickle(stream).root
    for target, root, offset, numel in views if isinstance(views, list) else ():
        persistent_id = (*storages[root][:5], (str(target), offset, numel))
        if parse_storage(persistent_id) is None:
            raise FormatProblem("pickle-damaged", "a view of a storage is not described as torch 0.1 did it")
        storages[target] = persistent_id
    return storages, places


def _tar_tensors(stream: IO[bytes], storages: dict[Any, Any]) -> dict[Any, TensorRef]:
    """Read the member ``tensors``: a count, then for each its key and storage, and its geometry in binary."""
    tensors: dict[Any, TensorRef] = {}
    for _ in range(_counted(unpickle(stream).root)):
        key, storage_key, _ = unpickle(stream).root
        (dimensions,) = struct.unpack("<i4x", stream.read(8))
        if not 0 <= dimensions <= DIMENSIONS_MAX:
            raise FormatProblem("pickle-damaged", "a tensor has more dimensions than torch allows")
        numbers = struct.unpack(f"<{2 * dimensions + 1}q", stream.read(8 * (2 * dimensions + 1)))
        size, stride = numbers[:dimensions], numbers[dimensions:-1]
        tensors[key] = TensorRef(storages[storage_key], numbers[-1], size, stride)
    return tensors


def _tar_object(persistent_id: Any, tensors: dict[Any, TensorRef], storages: dict[Any, Any]) -> Any:
    if isinstance(persistent_id, tuple):
        return persistent_id[0]  # a module's class, with its source
    key = int(persistent_id)
    return tensors[key] if key in tensors else storages[key]


def _counted(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= STORAGES_MAX:
        raise FormatProblem("pickle-damaged", "a count is none")
    return value


def _is_module(persistent_id: Any) -> bool:
    return isinstance(persistent_id, tuple) and persistent_id[:1] == ("module",)


def _resolve(persistent_id: Any) -> Any:
    """Return a module's class for what stands for it: torch stored its source beside it."""
    return persistent_id[1] if _is_module(persistent_id) and len(persistent_id) > 1 else persistent_id
