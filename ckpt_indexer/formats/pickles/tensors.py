"""From the stand-ins of tensors and storages to names, shapes, dtypes and counts.

Pure functions over what ``unpickle`` gives. Nothing in there is trusted: a size may be text, a stride negative, a
storage's key ``../../etc/passwd``; what is not plausible is no tensor (``None``).
Sources: torch/_utils.py (argument orders), torch/storage.py (storage types), torch/serialization.py (persistent ids).
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt_indexer.errors import FormatProblem
from ckpt_indexer.formats.pickles.unpickle import (
    Called,
    Inert,
    ParameterRef,
    TensorRef,
    TypedTensorRef,
    bytes_of,
    unpickle,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

VALUE_BYTES_MAX = 16  # a 0-d tensor's storage; one shared with others may be larger
DIMENSIONS_MAX = 64  # torch's own limit on a tensor's dimensions
ELEMENTS_MAX = 1 << 62  # beyond any address space: a lie

DTYPE_OF_STORAGE = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
ITEM_BYTES = {
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "complex64": 8,
    "complex128": 16,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "qint32": 4,
    "complex32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "uint16": 2,
}  # fmt: skip - every other dtype takes one byte an element
NUMPY_DTYPES = {
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
    "b1": "bool",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
}  # fmt: skip - numpy's code of a type -> torch's name
_STORAGES = {name: (dtype, ITEM_BYTES.get(dtype, 1)) for name, dtype in DTYPE_OF_STORAGE.items()}


class Storage(msgspec.Struct, frozen=True, gc=False):
    """A block of tensor data: where tensors that share memory point to."""

    key: str  # names the record data/<key>
    dtype: str
    numel: int  # elements; bytes where the storage is untyped
    size_bytes: int
    view_offset: int = 0  # elements; where the part of it begins that torch 0.1 to 0.3 gave a tensor as its storage
    data: bytes | None = None  # its first bytes, where the pickle itself holds them


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor without its data; ``storage`` is None where the file holds none (meta) or several (sparse)."""

    shape: tuple[int, ...]
    dtype: str
    numel: int
    storage: Storage | None
    offset: int = 0  # elements into the storage


def parse_storage(persistent_id: Any) -> Storage | None:
    """Read ``("storage", storage type, key, location, numel)``; a sixth part describes a view of it.

    In a plain pickle a call of ``torch.storage._load_from_bytes`` stands in its place.
    """
    if isinstance(persistent_id, Inert):
        return _parse_inner(persistent_id)
    if not isinstance(persistent_id, tuple) or len(persistent_id) < 5:
        return None
    if len(persistent_id) == 5:
        (tag, kind, key, _, numel), view_offset = persistent_id, 0
    else:
        tag, kind, key, _, numel, view = persistent_id[:6]
        view_offset = view[1] if isinstance(view, tuple) and len(view) == 3 else 0
    if tag != "storage" or not isinstance(kind, type) or not issubclass(kind, Inert):
        return None
    dtype, item_bytes = _STORAGES.get(kind.qualname, (None, 0))
    if dtype is None or not isinstance(key, str) or not _is_count(numel) or not _is_count(view_offset):
        return None
    return Storage(key, dtype, numel, numel * item_bytes, view_offset)


def plain_storage(persistent_id: Any) -> tuple[str, int] | None:
    """Return key and bytes of a storage that is described as torch does it now; as ``parse_storage``, but quick."""
    try:
        tag, kind, key, _, numel = persistent_id
        size: int = numel * _STORAGES[kind.qualname][1]
        is_plain = tag == "storage" and type(key) is str and type(numel) is int and isinstance(kind, type)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    return (key, size) if is_plain and 0 <= size <= ELEMENTS_MAX else None


def storage_of(persistent_id: Any) -> Storage:
    """Read a persistent id of a file of torch's own.

    Raises:
        FormatProblem: it describes no storage.

    """
    storage = parse_storage(persistent_id)
    if storage is not None:
        return storage
    if isinstance(persistent_id, str) and persistent_id.startswith("('storage', "):  # protocol 0 writes it as text
        raise FormatProblem("format-unsupported", "it was saved with pickle_protocol=0, which torch cannot load either")
    raise FormatProblem("pickle-damaged", "a tensor's storage is not described as torch does it")


def holds_storage(sizes: Mapping[str, int], persistent_id: Any) -> bool:
    """Return whether the records of an archive, by name, certainly hold this storage: asked first of each.

    A quick ``parse_storage``; where it says no, that one knows why.
    """
    try:
        tag, kind, key, _, numel = persistent_id
        needed = numel * _STORAGES[kind.qualname][1]
        is_plain = tag == "storage" and type(numel) is int and isinstance(kind, type)
        return is_plain and 0 <= needed <= sizes["data/" + key]
    except (TypeError, ValueError, KeyError, AttributeError):
        return False


def _parse_inner(call: Inert) -> Storage | None:
    """Read the storage that is the whole content of a legacy file, given as bytes."""
    data = bytes_of(call.args[0]) if type(call).qualname == "_load_from_bytes" and call.args else None
    if data is None:
        return None
    stream = io.BytesIO(data)
    try:
        roots = [unpickle(stream).root for _ in range(5)]  # magic number, protocol, system, object, keys
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - of nearly any type, says its contract
        return None
    storage = parse_storage(roots[3]) if isinstance(roots[3], tuple) else None
    start = stream.tell() + 8  # behind the number of its elements
    if storage is None or len(data) < start + storage.size_bytes:
        return None
    # Each such call makes a storage of its own, whatever key was given to it: memory is shared by sharing the object.
    data = data[start : start + min(storage.size_bytes, VALUE_BYTES_MAX)]
    return msgspec.structs.replace(storage, key=f"object {id(call)}", data=data)


def parse_tensor(value: Any) -> Tensor | None:
    """Read any stand-in of a tensor, ``None`` for everything else."""
    if type(value) is not TensorRef:
        value = innermost(value)
        if isinstance(value, Inert):
            return _parse_special(value)
    if type(value) is TensorRef:
        storage = parse_storage(value.storage)
        return None if storage is None else _tensor(value.size, storage.dtype, storage, value.offset)
    if type(value) is TypedTensorRef:
        storage, dtype = parse_storage(value.storage), dtype_name(value.dtype)
        return None if storage is None or dtype is None else _tensor(value.size, dtype, storage, value.offset)
    return None


def innermost(value: Any) -> Any:
    """Unwrap parameters and tensor subclasses down to the stand-in of the tensor itself."""
    for _ in range(4):  # a parameter of a tensor subclass of a tensor; deeper is no tensor of torch's
        if type(value) is ParameterRef:
            value = value.data
        elif isinstance(value, Inert):
            unwrapped = _unwrapped(value)
            if unwrapped is None:
                return value
            value = unwrapped
        else:
            return value
    return None if isinstance(value, Inert) else value


def _tensor(size: Any, dtype: str, storage: Storage | None, offset: Any = 0) -> Tensor | None:
    shape = shape_of(size)
    if shape is None or not _is_count(offset):
        return None
    numel = math.prod(shape)
    if numel > ELEMENTS_MAX:
        return None
    return Tensor(shape, dtype, numel, storage, offset + (storage.view_offset if storage is not None else 0))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= ELEMENTS_MAX


def shape_of(size: Any) -> tuple[int, ...] | None:
    if isinstance(size, Inert) and size.args:  # torch.Size((2, 3))
        size = size.args[0]
    if not isinstance(size, tuple | list) or len(size) > DIMENSIONS_MAX:
        return None
    for count in size:  # as _is_count, which would be called for every dimension of every tensor
        if type(count) is not int or not 0 <= count <= ELEMENTS_MAX:
            return None
    return tuple(size)


def dtype_name(value: Any) -> str | None:
    if isinstance(value, type) and issubclass(value, Inert) and value.module == "torch" and value.qualname.isascii():
        return value.qualname
    return None


def _unwrapped(value: Inert) -> Any:
    """Return the tensor inside a tensor subclass (``_rebuild_from_type_v2(function, type, args, state)``)."""
    name, args = type(value).qualname, value.args
    if not name.startswith("_rebuild_from_type") or len(args) < 3:
        return None
    inner, arguments = args[0], args[2]
    if not isinstance(inner, type) or not isinstance(arguments, tuple):
        return None
    # Only stand-ins are called, here and nowhere else: they are ours and store what they are given.
    if inner in (TensorRef, TypedTensorRef, ParameterRef) or (issubclass(inner, Inert) and inner is not Called):
        try:
            return inner(*arguments)
        except TypeError:
            return None
    return None


def _parse_special(value: Inert) -> Tensor | None:
    """Read the rebuild functions of torch/_utils.py that name shape and dtype themselves, and older ways to pickle."""
    name, args = type(value).qualname, value.args
    if name in ("Parameter", "Variable") and args:  # torch 0.1 to 0.3; (data, …)
        return parse_tensor(args[0])
    if name.endswith("Tensor") and isinstance(value.state, tuple) and len(value.state) == 4:  # torch 0.1
        return parse_tensor(TensorRef(*value.state))
    if name == "_rebuild_device_tensor_from_cpu_tensor" and args:
        return parse_tensor(args[0])
    if name in ("_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor", "_rebuild_mlc_tensor") and len(args) >= 2:
        array, dtype = parse_array(args[0]), dtype_name(args[1])
        return None if array is None or dtype is None else msgspec.structs.replace(array, dtype=dtype)
    if name == "_rebuild_qtensor" and len(args) >= 4:
        storage = parse_storage(args[0])
        return None if storage is None else _tensor(args[2], storage.dtype, storage, args[1])
    if name == "_rebuild_nested_tensor" and args:
        return parse_tensor(args[0])  # the ragged parts, one after the other
    if name == "_rebuild_meta_tensor_no_storage" and len(args) >= 2:
        dtype = dtype_name(args[0])
        return None if dtype is None else _tensor(args[1], dtype, None)
    if name == "_rebuild_wrapper_subclass" and len(args) >= 3:
        dtype = dtype_name(args[1])
        return None if dtype is None else _tensor(args[2], dtype, None)
    if name == "_rebuild_sparse_tensor" and len(args) >= 2 and isinstance(args[1], tuple) and len(args[1]) >= 3:
        # (indices, values, size, …) in COO, (compressed indices, plain indices, values, size) in CSR and its like
        at = 2 if len(args[1]) > 3 and parse_tensor(args[1][2]) is not None else 1
        values = parse_tensor(args[1][at])
        return None if values is None else _tensor(args[1][at + 1], values.dtype, None)
    return None


def parse_array(value: Any) -> Tensor | None:
    """Read the stand-in of a numpy array as a tensor without a storage, ``None`` for everything else."""
    if not isinstance(value, Inert):
        return None
    name, state = type(value).qualname, value.state
    if name == "_reconstruct" and isinstance(state, tuple) and len(state) == 5:
        shape, dtype = state[1], numpy_dtype(state[2])
    elif name == "_frombuffer" and len(value.args) == 4:
        dtype, shape = numpy_dtype(value.args[1]), value.args[2]
    else:
        return None
    known = NUMPY_DTYPES.get(dtype[1:]) if dtype else None
    return None if known is None else _tensor(shape, known, None)


def numpy_dtype(value: Any) -> str | None:
    """Read ``dtype('f8', False, True)`` and its byte order: ``'<f8'``."""
    if not isinstance(value, Inert) or not value.args or not isinstance(value.args[0], str):
        return None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    return f"{order if order in ('<', '>') else '<'}{value.args[0]}"[:20]
