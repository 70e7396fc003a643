"""Block YAML written by hand: any reader reads what was written, and PyYAML would mostly write the same."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ckpt_indexer.metadata.block_yaml import KEY_MAX, encode_block

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.from_regex(r"[-+.:#0-9eEa-z ~'\"]{0,9}")
_SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
_DATA = st.recursive(
    _SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_TEXT, _DATA, max_size=6))
@example({})
@example({"a": {}, "b": [], "c": [[], [[1], {}], {"d": [{"e": [2]}]}]})
def test_every_reader_gives_what_was_written(content: dict[str, Any]) -> None:
    written = encode_block(content)
    assert yaml.load(written, yaml.CSafeLoader) == content
    assert yaml.load(written, yaml.SafeLoader) == content


_WORDS = "y N yes No ON off True FALSE null Null ~ = << - ? .inf .nan 1 1e5 0x1 1:30 2024-01-01"


@pytest.mark.parametrize("word", _WORDS.split())
def test_a_word_that_means_something_to_yaml_stays_a_text(word: str) -> None:
    assert yaml.load(encode_block({word: word}), yaml.SafeLoader) == {word: word}


@pytest.mark.parametrize(
    "text", ["a\nb", "\ttab", "\x00", "\x85", "\u2028", "\ufeffx", "é", "🎉", "a\x1b[2J", "--- a", "..."]
)
def test_a_text_that_needs_care_is_written_with_it(text: str) -> None:
    content = {"a": {text: [text, {text: text}]}}
    assert yaml.load(encode_block(content), yaml.CSafeLoader) == content
    assert encode_block({"a": text}).count("\n") == 1


def test_a_key_longer_than_yaml_takes_on_a_line_is_marked() -> None:
    content = {"k" * KEY_MAX: 1, "k" * (KEY_MAX + 1): {"a": ["é" * 2000, {"🎉" * 1000: []}]}}
    assert yaml.load(encode_block(content), yaml.SafeLoader) == content


def test_numbers_that_json_lacks_are_yamls() -> None:
    loaded = yaml.load(encode_block({"a": math.inf, "b": -math.inf, "c": math.nan}), yaml.SafeLoader)
    assert (loaded["a"], loaded["b"], math.isnan(loaded["c"])) == (math.inf, -math.inf, True)


@pytest.mark.parametrize("value", [{1: 2}, dt.date(2024, 1, 2), {"x"}, b"bytes"])
def test_what_is_not_plain_is_left_to_pyyaml(value: Any) -> None:
    content = {"a": [value]}
    assert yaml.load(encode_block(content), yaml.SafeLoader) == content


def test_an_ordinary_document_is_what_pyyaml_writes() -> None:
    content = {
        "schema_version": "1.0",
        "path": "a/epoch=2-val/x.ckpt",
        "metrics": {"val/hmean": 0.95, "lr": 1e-05, "count": -3, "nothing": None, "flag": True},
        "callbacks": [{"name": "ModelCheckpoint", "monitor": "val/hmean", "sizes": [1, [2, 3]]}, [], {}],
    }
    assert encode_block(content) == yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False)
