"""The first look at a file: what a few bytes may become, and what they are."""

from __future__ import annotations

import io
import pickle
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.model import Problem
from tests.formats import made_files

if TYPE_CHECKING:
    from ckpt_indexer.formats.facts import Facts


def read(data: bytes) -> Facts:
    return read_facts(io.BytesIO(data))


@pytest.mark.parametrize(
    "text",
    [
        *("0", "8", "7\n", "100", "end", "true", "{", "{}", "\n", " ", "é", "epoch: 3\n", "P:", "PKG 1.0"),
        "# yamllint disable\nWER: 3.21\nend-of-epoch: true\nunixtime: 1700000000.5\n",
        "{" * 600,
    ],
)
def test_a_text_is_no_checkpoint_however_short(text: str) -> None:
    assert read(text.encode()).problem == Problem("not-a-checkpoint", "this is a text, not a checkpoint")


@pytest.mark.parametrize("order", ["utf-16", "utf-16-be"])
def test_a_text_in_utf_16_is_one(order: str) -> None:
    mark = "" if order == "utf-16" else "\ufeff"
    assert read((mark + "1").encode(order)).problem == Problem("not-a-checkpoint", "this is a text, not a checkpoint")


def test_a_text_whose_last_character_is_cut_by_the_first_look_is_one() -> None:
    assert read(b"x" + "é".encode() * 400).problem == Problem("not-a-checkpoint", "this is a text, not a checkpoint")


BEGINNINGS = {
    "torch-zip": b"PK\x03\x04",
    "torch-legacy": b"\x80\x02\x8a\nl\xfc\x9cF",
    "torch-legacy of protocol 0": b"L119547037146038801333356",
    "a tar of torch 0.1": b"sys_info",
    "pickle": b"\x80\x04\x95",
    "safetensors": struct.pack("<Q", 0x9818),
    "a large safetensors": struct.pack("<Q", 90 << 20),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_first_bytes_of_a_checkpoint_are_incomplete(name: str) -> None:
    data = BEGINNINGS[name]
    wrong = {n: p for n in range(1, len(data) + 1) if (p := read(data[:n]).problem) is None or p.status != "incomplete"}
    assert wrong == {}


@pytest.mark.parametrize("size", range(4, 9))
def test_a_length_that_safetensors_refuses_is_no_beginning(size: int) -> None:
    problem = read(b"\x01\x02\x03\x07\x01\x02\x03\x07"[:size]).problem
    assert problem == Problem("not-a-checkpoint", "this is no format that torch writes")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("is_zip", [False, True])
def test_what_torch_saved_by_any_protocol_is_no_damage(protocol: int, is_zip: bool) -> None:
    plain, state_dict = {"epoch": 3, "rates": [0.1]}, {"epoch": 3, "state_dict": torch.nn.Linear(3, 2).state_dict()}
    for content in (plain, state_dict):
        data = _saved(content, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
        facts = read(data)
        assert facts.format == ("torch-zip" if is_zip else "torch-legacy")
        if protocol == 0 and content is state_dict:
            with pytest.raises(AssertionError, match="saved_id must be a tuple"):
                torch.load(io.BytesIO(data), weights_only=False)
            assert facts.problem is not None
            assert facts.problem.code == "format-unsupported"
        else:
            assert torch.load(io.BytesIO(data), weights_only=False)["epoch"] == 3
            assert (facts.problem, facts.epoch) == (None, 3)


def _saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_any_protocol_is_read(protocol: int) -> None:
    facts = read(pickle.dumps({"epoch": 3, "rates": [0.1]}, protocol))
    assert (facts.format, facts.problem, facts.epoch) == ("pickle", None, 3)


def test_a_length_word_that_comes_to_the_same_bytes_in_torchs_arithmetic_is_no_damage() -> None:
    data = bytearray(made_files.legacy({"epoch": 3, "state_dict": {"w": torch.ones(3, 2)}}))
    data[data.rindex(struct.pack("<q", 6)) + 7] = 0x80
    assert torch.load(io.BytesIO(bytes(data)), weights_only=False)["epoch"] == 3
    assert read(bytes(data)).problem is None


@pytest.mark.parametrize("change", [-1, 1, 1 << 40])
def test_a_legacy_storage_with_another_length_word_is_refused_as_torch_does(change: int) -> None:
    data = bytearray(made_files.legacy({"epoch": 3, "state_dict": {"w": torch.ones(3, 2), "b": torch.ones(2)}}))
    position = data.rindex(struct.pack("<q", 6))
    struct.pack_into("<q", data, position, 6 + change)
    with pytest.raises(RuntimeError, match="wrong byte size"):
        torch.load(io.BytesIO(bytes(data)), weights_only=False)
    facts = read(bytes(data))
    assert facts.problem is not None
    assert (facts.problem.code, facts.format) == ("container-damaged", "torch-legacy")
    assert facts.problem.message.endswith(f"says that it has {6 + change} elements, not 6")
