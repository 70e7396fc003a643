"""Pickles and torch archives put together byte by byte: what no ``pickle.dump`` would write.

A *fragment* is a run of opcodes that leaves one object on the stack; fragments nest. Sources: Lib/pickletools.py for
the opcodes, torch/_utils.py and torch/serialization.py for the shapes that torch writes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from typing import Any

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
NONE, TRUE, EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b"N", b"\x88", b")", b"]", b"}"


def value(plain: Any, protocol: int = 4) -> bytes:
    """Write plain data as a fragment."""
    dumped = pickletools.optimize(pickle.dumps(plain, protocol))
    head = 11 if dumped[2:3] == pickle.FRAME else 2
    return dumped[head:-1]


def text(characters: str) -> bytes:
    """Write text, surrogates included."""
    data = characters.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def named(module: str, name: str) -> bytes:
    """Name a class or function: GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def stack_named(module: str, name: str) -> bytes:
    """The same by STACK_GLOBAL, whose names may hold anything."""
    return text(module) + text(name) + b"\x93"


def tupled(*fragments: bytes) -> bytes:
    return b"(" + b"".join(fragments) + b"t"


def listed(*fragments: bytes) -> bytes:
    return b"](" + b"".join(fragments) + b"e"


def mapped(pairs: dict[str, bytes] | list[tuple[bytes, bytes]]) -> bytes:
    if isinstance(pairs, dict):
        pairs = [(text(key), fragment) for key, fragment in pairs.items()]
    return b"}(" + b"".join(key + fragment for key, fragment in pairs) + b"u"


def called(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + tupled(*arguments) + b"R"


def built(target: bytes, state: bytes) -> bytes:
    """BUILD."""
    return target + state + b"b"


def tensor(
    *,
    key: bytes | None = None,
    numel: bytes | None = None,
    size: bytes | None = None,
    kind: bytes | None = None,
    offset: bytes | None = None,
    persistent: bytes | None = None,
) -> bytes:
    """A tensor of 2 x 3 floats in storage 0, or one that lies."""
    storage = tupled(
        text("storage"),
        kind if kind is not None else named("torch", "FloatStorage"),
        key if key is not None else text("0"),
        text("cpu"),
        numel if numel is not None else value(6),
    )
    return called(
        named("torch._utils", "_rebuild_tensor_v2"),
        storage + b"Q" if persistent is None else inner_storage(persistent),
        offset if offset is not None else value(0),
        size if size is not None else value((2, 3)),
        value((3, 1)),
        b"\x89",
        called(named("collections", "OrderedDict")),
    )


def inner_storage(data: bytes) -> bytes:
    """A storage as a plain pickle has it: a call with the bytes of a legacy file."""
    return called(stack_named("torch.storage", "_load_from_bytes"), data)


def pickled(root: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + root + b"."


def good_parts() -> dict[str, bytes]:
    return {
        "epoch": value(3),
        "global_step": value(12),
        "pytorch-lightning_version": text("2.6.6"),
        "state_dict": mapped({"layer.weight": tensor()}),
        "hyper_parameters": value({"lr": 0.1, "model": {"encoder": {"model_name": "resnet18"}}}),
    }


def archive(data_pkl: bytes, records: dict[str, bytes] | None = None, *, root: str = "archive/") -> bytes:
    """Put a pickle and tensor data into a zip, as torch lays it out."""
    if records is None:
        records = {"data/0": struct.pack("<6f", *range(6)), "version": b"3\n"}
    return zipped([(f"{root}{name}", data) for name, data in {"data.pkl": data_pkl, **records}.items()])


def zipped_each(records: list[tuple[str, bytes, int]]) -> bytes:
    """Put records into a zip, each by its own method."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data, method in records:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


def legacy(pickle_bytes: bytes, keys: list[str] | bytes = b"]", data: bytes = b"") -> bytes:
    """Put a pickle into a legacy file: as its object, before the list of storages and their data."""
    listed_keys = keys if isinstance(keys, bytes) else value(keys)
    return LEGACY_MAGIC + pickled(value(1001)) + pickled(EMPTY_DICT) + pickle_bytes + pickled(listed_keys) + data


def zipped(records: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in records:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


def checkpoint(**fragments: bytes) -> bytes:
    """A checkpoint in which some keys hold something else: a torch zip."""
    return archive(pickled(mapped({**good_parts(), **fragments})))
