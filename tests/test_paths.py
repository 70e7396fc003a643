"""Path rules: a key is valid text for every path there can be, and the path comes back."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer import paths
from ckpt_indexer.paths import (
    Key,
    RelPath,
    ancestors,
    is_below,
    is_temporary,
    place_of,
    sidecar_path,
    subject_of,
    to_key,
    to_path,
)

_PIECES = st.sampled_from([b"\\", b"x", b"\\xff", b"\xff", b"\\\\", b"/", b"\xc3\xa9", b"\xc3", b"\xed\xb2\x80", b"\n"])
_BYTES = st.binary(max_size=30) | st.lists(_PIECES, max_size=12).map(b"".join)


@given(_BYTES)
def test_every_path_comes_back_from_its_key(path: bytes) -> None:
    key = to_key(RelPath(os.fsdecode(path)))
    assert os.fsencode(to_path(key)) == path
    assert key.encode("utf-8").decode("utf-8") == key


@given(_BYTES, _BYTES)
def test_two_paths_never_have_one_key(a: bytes, b: bytes) -> None:
    assert (to_key(RelPath(os.fsdecode(a))) == to_key(RelPath(os.fsdecode(b)))) == (a == b)


@given(_BYTES)
def test_a_key_keeps_the_folders(path: bytes) -> None:
    assert to_key(RelPath(os.fsdecode(path))).count("/") == path.count(b"/")


@given(_BYTES)
def test_any_valid_name_stands_for_itself_but_for_backslashes(path: bytes) -> None:
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        return
    assert to_key(RelPath(os.fsdecode(path))) == text.replace("\\", "\\\\")


_NAME = st.sampled_from(["checkpoints", "a", "epoch=2-val", "b.ckpt", ".hydra", "x y", "ü"])


@given(st.lists(_NAME, max_size=5), st.sampled_from(["x.ckpt", ".ckpt", "-rf.ckpt", "checkpoints.ckpt"]))
def test_the_path_rule_leads_back_to_the_checkpoint(folders: list[str], name: str) -> None:
    key = "/".join([*folders, name])
    place = place_of(Key(key))
    assert posixpath.normpath(posixpath.join(place.experiment, "checkpoints", place.name)) == key


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("x.ckpt", (".", "../x.ckpt")),
        ("checkpoints/x.ckpt", (".", "x.ckpt")),
        ("a/x.ckpt", ("a", "../x.ckpt")),
        ("a/b/checkpoints/x.ckpt", ("a/b", "x.ckpt")),
        ("a/checkpoints/epoch=2-val/hmean=0.7188.ckpt", ("a", "epoch=2-val/hmean=0.7188.ckpt")),
        ("a/checkpoints/b/checkpoints/x.ckpt", ("a/checkpoints/b", "x.ckpt")),
        ("checkpoints.ckpt", (".", "../checkpoints.ckpt")),
    ],
)
def test_a_checkpoint_has_its_place(key: Key, place: tuple[str, str]) -> None:
    assert place_of(key) == place


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("x.ckpt", "x.ckpt"),
        ("a/x.ckpt.metadata.yaml", "a/x.ckpt"),
        ("a/s.ckpt/__0_0.distcp", "a/s.ckpt"),
        ("a/s.ckpt/checkpoint/mp_rank_00_model_states.pt", "a/s.ckpt"),
        ("a/.hydra/config.yaml", "a"),
        (".hydra/config.yaml", ""),
        ("a/config.yaml", "a"),
        ("config.yaml", ""),
        ("a/notes.txt", None),
        ("a/x.ckpt.tmp", None),
        ("a/x.metadata.yaml", None),
        ("a/hydra/other.yaml", None),
        (paths.INDEX_NAME, None),
        (paths.LOCK_NAME, None),
    ],
)
def test_a_path_names_what_to_look_at(path: RelPath, subject: str | None) -> None:
    assert subject_of(path) == subject


def test_our_temporary_names_are_known_and_no_checkpoint_is_one() -> None:
    assert is_temporary(".ckpt-indexer-123-abc.tmp")
    assert not is_temporary(".ckpt-indexer-123-abc")
    assert not is_temporary("x.tmp")
    assert not is_temporary(sidecar_path(RelPath("x.ckpt")))


@given(st.lists(_NAME, min_size=1, max_size=5).map("/".join))
def test_a_path_is_below_each_of_its_ancestors(path: RelPath) -> None:
    found = ancestors(path)
    assert len(found) == path.count("/") + 1
    assert all(is_below(path, folder) for folder in found)
    assert not any(is_below(folder, path) for folder in found)
    assert not is_below(f"{path}-more", path)
