"""Entries for the tests of the index."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ckpt_indexer.model import PROBLEMS, Entry, Monitor, Problem
from ckpt_indexer.paths import Key, place_of


def entry(key: str, **fields: Any) -> Entry:
    """Make an entry of a checkpoint at *key* that differs from the usual one in *fields*."""
    place = place_of(Key(key))
    usual: dict[str, Any] = {
        "path": key,
        "experiment": place.experiment,
        "name": place.name,
        "size_bytes": 10,
        "mtime": "2026-11-21T10:30:00.000000Z",
        "fingerprint": (10, 1, 2),
        "metadata_file": f"{key}.metadata.yaml",
    }
    return Entry(**(usual | fields))


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.sampled_from(
    ["NaN", "Infinity", "-Infinity"]
)  # fmt: skip
_part = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=6).filter(
    lambda part: part not in (".", "..")
)
keys = st.lists(st.just("checkpoints") | _part, max_size=4).flatmap(
    lambda folders: _part.map(lambda name: "/".join([*folders, f"{name}.ckpt"]))
)
problems = st.builds(Problem, st.sampled_from(sorted(PROBLEMS)), _text)
monitors = st.builds(Monitor, _text, st.sampled_from([None, "min", "max"]), st.none() | _number)
entries = st.builds(
    lambda key, fields: entry(key, **fields),
    keys,
    st.fixed_dictionaries(
        {},
        optional={
            "status": st.sampled_from(["ok", "incomplete", "corrupt", "unsupported", "unreadable"]),
            "problem": st.none() | problems,
            "monitor": st.none() | monitors,
            "metrics": st.dictionaries(_text, _number, max_size=3),
            "epoch": st.none() | st.integers(0, 2**63 - 1),
            "architecture": st.none() | _text,
            "size_bytes": st.integers(0, 2**63 - 1),
            "metadata_file": st.none() | _text,
        },
    ),
)
