"""What a damaged pickle asks for: told from a large one, without the memory that it asks for."""

from __future__ import annotations

import pickle
import pickletools
import struct
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.formats.containers.identify import LEGACY_MAGIC
from ckpt_indexer.formats.pickles.lengths import asks_for_more
from ckpt_indexer.sandbox.owner import Reader
from tests import samples
from tests.formats import hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HUGE = {
    "BINBYTES": b"B" + struct.pack("<I", 0xF0000000),
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 1 << 40),
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 33),
    "BINSTRING": b"T" + struct.pack("<i", 0x70000000),
    "BINUNICODE": b"X" + struct.pack("<I", 0xF0000000),
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 1 << 40),
    "LONG4": b"\x8b" + struct.pack("<i", 0x70000000),
    "FRAME": b"\x95" + struct.pack("<Q", 1 << 40),
    "LONG_BINPUT": b"Nr" + struct.pack("<I", 1 << 28),
    "PUT": b"Np99999999999\n",
}


def asking(name: str) -> bytes:
    """Return the pickle of a dict one of whose values asks for too much."""
    return b"\x80\x05}q\x00X\x05\x00\x00\x00epochq\x01" + HUGE[name] + b"abcdefghK\x03s."


@pytest.fixture
def own_reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("name", HUGE)
def test_what_asks_for_more_than_the_file_has_is_damaged(
    name: str, form: str, own_reader: Reader, tmp_path: Path
) -> None:
    pickled = asking(name)
    head = LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    data = {"zip": hostile.archive(pickled), "legacy": head + pickled + pickle.dumps([], 2), "plain": pickled}[form]
    for content, expected in ((data, "pickle-damaged"), (hostile.good(), None)):
        path = tmp_path / "x.ckpt"
        path.write_bytes(content)
        with path.open("rb") as file:
            problem = own_reader.read_checkpoint(file.fileno()).problem
        assert (None if problem is None else problem.code) == expected


@pytest.mark.parametrize("name", HUGE)
def test_the_number_that_is_too_large_is_found(name: str) -> None:
    data = asking(name)
    assert (asks_for_more(data, len(data)) or 0) > len(data)


@pytest.mark.parametrize("protocol", range(6))
def test_a_whole_pickle_asks_for_nothing_that_is_not_there(protocol: int) -> None:
    content = {**samples.lightning_like(), "text": "x" * 70_000, "bytes": bytes(70_000), "large": 1 << 3000}
    data = pickle.dumps([content, *map(str, range(1000))], protocol)
    assert asks_for_more(data, len(data)) is None


def test_every_opcode_is_known() -> None:
    arguments = {0: b"", 1: b"\x00", 2: b"\x00\x00", 4: bytes(4), 8: bytes(8), -1: b"1\n", -2: b"\x00", -3: bytes(4)}
    arguments |= {-4: bytes(4), -5: bytes(8)}
    huge = b"B" + struct.pack("<I", 1 << 31)
    for opcode in pickletools.opcodes:
        if opcode.name != "STOP":
            kind = opcode.arg
            argument = b"" if kind is None else b"1\n1\n" if "pair" in kind.name else arguments[kind.n]
            assert asks_for_more(opcode.code.encode("latin-1") + argument + huge, 100) == 1 << 31, opcode.name
