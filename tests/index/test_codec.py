"""The index's bytes: exactly the contract, strictly JSON, and nothing of a newer version lost."""

from __future__ import annotations

import json
import posixpath
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.errors import IndexCorrupt, IndexTooNew
from ckpt_indexer.index.codec import (
    Index,
    decode_entry,
    decode_index,
    encode_entry,
    encode_listing,
    iter_encoded,
    same_content,
)
from ckpt_indexer.model import Entry, Monitor, Problem
from ckpt_indexer.paths import Key, place_of
from tests.index import entries
from tests.index.entries import entry

FIELDS = [
    *("path", "experiment", "name", "size_bytes", "mtime", "fingerprint", "format", "role"),
    *("status", "problem", "link_target"),
    *("exp_name", "epoch", "global_step", "metrics", "monitor", "twin", "run_best", "architecture", "encoder"),
    *(
        "parameters",
        "dtypes",
        "weights_bytes",
        "optimizer_bytes",
        "lightning_version",
        "metadata_file",
        "metadata_source",
        "metadata_problem",
        "metadata_fingerprint",
    ),
    *(
        "other_sidecar",
        "config_path",
        "config_fingerprint",
        "wandb_run_id",
        "wandb_path",
        "wandb_fingerprint",
        "unused",
    ),
    *("content_id", "weights_id", "rules", "health", "generation", "indexed_at"),
]


def encoded_index(index: Index, listings: dict[str, msgspec.Raw]) -> bytes:
    return b"".join(iter_encoded(index, listings))


def strict(data: bytes | msgspec.Raw) -> Any:
    """Read JSON as the standard has it, without NaN and infinities."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(bytes(data).decode("utf-8"), parse_constant=refuse)


def test_an_index_is_written_exactly_as_the_contract_says() -> None:
    first, second = entry("b/checkpoints/x.ckpt"), entry("a/y.ckpt", metadata_file=None)
    index = Index(
        generation=4711,
        last_updated="2026-11-21T10:30:00.123456Z",
        entries={e.path: encode_entry(e) for e in (first, second)},
    )
    listings = {
        e.experiment: encode_listing([e.name], [e.metadata_file is not None], str(e.mtime)) for e in (first, second)
    }
    data = encoded_index(index, listings)
    document = strict(data)
    assert list(document) == ["version", "last_updated", "generation", "checkpoints", "entries"]
    assert data.endswith(b"}\n")
    assert {key: document[key] for key in ("version", "last_updated", "generation", "checkpoints")} == {
        "version": "1.0",
        "last_updated": "2026-11-21T10:30:00.123456Z",
        "generation": 4711,
        "checkpoints": {
            "a": {"checkpoints": ["../y.ckpt"], "metadata_files": [], "last_modified": "2026-11-21T10:30:00.000000Z"},
            "b": {
                "checkpoints": ["x.ckpt"],
                "metadata_files": ["x.ckpt.metadata.yaml"],
                "last_modified": "2026-11-21T10:30:00.000000Z",
            },
        },
    }
    assert list(document["checkpoints"]) == ["a", "b"]
    assert [list(value) for value in document["entries"].values()] == [FIELDS, FIELDS]


def test_an_entry_is_written_field_for_field() -> None:
    full = entry(
        "a/x.ckpt",
        status="corrupt",
        problem=Problem("checksum-mismatch", "differs"),
        monitor=Monitor("val/hmean", "max", "NaN"),
        metrics={"hmean": 0.5},
    )
    assert strict(encode_entry(full)) == {
        **dict.fromkeys(FIELDS),
        "path": "a/x.ckpt",
        "experiment": "a",
        "name": "../x.ckpt",
        "size_bytes": 10,
        "mtime": "2026-11-21T10:30:00.000000Z",
        "fingerprint": [10, 1, 2],
        "format": "unknown",
        "status": "corrupt",
        "problem": {"code": "checksum-mismatch", "message": "differs"},
        "metrics": {"hmean": 0.5},
        "dtypes": {},
        "monitor": {"name": "val/hmean", "mode": "max", "value": "NaN"},
        "metadata_file": "a/x.ckpt.metadata.yaml",
        "rules": 1,
        "generation": 0,
        "indexed_at": "",
    }


@given(entries.entries)
def test_an_entry_that_is_written_is_read_the_same(of: Entry) -> None:
    raw = encode_entry(of)
    assert decode_entry(raw) == of
    assert strict(raw)["path"] == of.path


@given(entries.keys)
def test_the_path_rule_of_the_first_index_gives_the_key(key: Key) -> None:
    place = place_of(key)
    assert posixpath.normpath(posixpath.join(place.experiment, "checkpoints", place.name)) == key


@given(st.lists(entries.entries, max_size=6, unique_by=lambda e: e.path))
def test_an_index_that_is_written_is_read_the_same(all_entries: list[Entry]) -> None:
    index = Index(generation=3, last_updated="x", entries={e.path: encode_entry(e) for e in all_entries})
    data = encoded_index(index, {})
    strict(data)
    read = decode_index(data, "p")
    assert (read.generation, read.last_updated, read.extra) == (3, "x", {})
    assert {key: decode_entry(raw) for key, raw in read.entries.items()} == {e.path: e for e in all_entries}
    assert encoded_index(read, {}) == data


def test_what_a_newer_version_wrote_into_an_entry_is_kept() -> None:
    newer = json.dumps({**strict(encode_entry(entry("a/x.ckpt"))), "novelty": {"deep": [1]}}).encode()
    changed = entry("a/x.ckpt", epoch=5)
    written = strict(encode_entry(changed, msgspec.Raw(newer)))
    assert (written["epoch"], written["novelty"]) == (5, {"deep": [1]})
    assert decode_entry(newer) == entry("a/x.ckpt")


def test_what_a_newer_version_wrote_beside_the_entries_is_kept() -> None:
    data = b'{"version": "1.3", "entries": {}, "novelty": {"n": [1, 2]}, "checkpoints": {"old": 1}}'
    written = strict(encoded_index(decode_index(data, "p"), {}))
    assert (written["novelty"], written["checkpoints"], written["version"]) == ({"n": [1, 2]}, {}, "1.0")


def test_an_entry_is_the_same_whenever_it_was_indexed() -> None:
    old = entry("a/x.ckpt", generation=7, indexed_at="then")
    assert same_content(entry("a/x.ckpt", generation=9, indexed_at="now"), old)
    assert not same_content(entry("a/x.ckpt", epoch=1), old)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b'{"version": "1.0", "entries": {"a"', "truncated"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"{}", "it has no 'version'"),
        (b'{"version": 1}', "Expected `str`"),
        *((b'{"version": "%s"}' % v, "its version is") for v in (b"", b"0.9", b"1", b"x.1", b"9" * 5000 + b".0")),
        (b'{"version": "1.0", "entries": []}', "object"),
        (b'{"version": "1.0", "generation": "many"}', "Expected `int`"),
        (b"\xff\xfe", "codec can't decode"),
        (b'{"version": "1.0"} trailing', "trailing"),
        (b"\x00" * 100, "malformed"),
    ],
)
def test_what_is_no_index_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(IndexCorrupt) as raised:
        decode_index(data, "/r/index.json")
    assert str(raised.value).startswith("/r/index.json is not an index: ")
    assert reason in str(raised.value)


def test_a_newer_major_version_is_refused_by_name() -> None:
    with pytest.raises(IndexTooNew) as raised:
        decode_index(b'{"version": "2.0", "entries": "whatever"}', "p")
    assert raised.value.fields == {"path": "p", "version": "2.0", "supported": "1.x"}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_index_or_none(data: bytes) -> None:
    with pytest.raises((IndexCorrupt, IndexTooNew)):
        decode_index(data, "p")
