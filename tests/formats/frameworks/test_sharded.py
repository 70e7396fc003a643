"""The index of a model's shards: what it says, and what it cannot be made to say."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from ckpt_indexer.formats.facts import ShardIndex
from ckpt_indexer.formats.frameworks.sharded import (
    SHARDS_MAX,
    index_names_of,
    may_be_short,
    problem_of_shards,
    read_index,
    shards_of_set,
)
from ckpt_indexer.model import Problem

INDEX = ShardIndex(["a", "b", "c"], 100)


def read(document: Any) -> ShardIndex:
    return read_index(io.BytesIO(document if isinstance(document, bytes) else json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model-00001-of-00004.safetensors", "model.safetensors.index.json"),
        ("pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"),
        ("diffusion_pytorch_model-00001-of-00003.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
        ("a-b-00001-of-00003-00001-of-00002.pt", "a-b-00001-of-00003.pt.index.json"),
    ],
)
def test_a_shards_name_says_what_its_index_is_called(name: str, index: str) -> None:
    assert index_names_of(name)[0] == index


@pytest.mark.parametrize("name", ["model.safetensors", "model-1-of-4.safetensors", "model-00001-of-00004", "-of-.bin"])
def test_other_names_have_none(name: str) -> None:
    assert (index_names_of(name), shards_of_set(name)) == ((), [])


def test_a_count_that_no_model_has_names_no_shards() -> None:
    assert shards_of_set("m-00001-of-99999.bin") == []
    assert len(shards_of_set(f"m-00001-of-{SHARDS_MAX:05}.bin")) == SHARDS_MAX


def test_the_files_and_the_bytes_are_read() -> None:
    document = {"metadata": {"total_size": 7, "more": [1]}, "weight_map": {"w": "b.bin", "v": "a.bin", "u": "b.bin"}}
    assert read(document) == ShardIndex(["a.bin", "b.bin"], 7)
    assert read({"weight_map": {"w": "a.bin"}}) == ShardIndex(["a.bin"])
    assert read({"metadata": {"total_size": "7"}, "weight_map": {}}) == ShardIndex([])


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[" * 100_000,
        {},
        [1],
        {"weight_map": {"w": 1}},
        {"weight_map": {"w": "../a.bin"}},
        {"weight_map": {"w": "/a.bin"}},
        {"weight_map": {"w": "a\nb"}},
        {"weight_map": {str(i): str(i) for i in range(SHARDS_MAX + 1)}},
    ],
    ids=repr,
)
def test_what_is_no_index_says_why(document: Any) -> None:
    found = read(document)
    assert (found.files, bool(found.error)) == ([], True)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"a": 50, "b": 40, "c": 30}, None),
        ({"a": 50, "c": 30}, Problem("record-missing", "the shard b is missing")),
        ({"c": 30, "other": 1}, Problem("record-missing", "the shard a is missing, and 1 more of 3")),
        ({"a": 50, "b": 0, "c": 30}, Problem("truncated", "the shard b has no bytes (yet)")),
    ],
)
def test_what_is_not_there_is_named(sizes: dict[str, int], problem: Problem | None) -> None:
    assert problem_of_shards(INDEX, sizes) == problem


def test_fewer_bytes_than_the_tensors_have_are_a_reason_to_look() -> None:
    assert may_be_short(INDEX, {"a": 50, "b": 40, "c": 9})
    assert not may_be_short(INDEX, {"a": 50, "b": 40, "c": 10, "other": -5})
    assert not may_be_short(ShardIndex(["a"]), {"a": 0})
