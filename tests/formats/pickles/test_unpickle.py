"""Nothing that a pickle asks for is done: no import, no call, no change of what later pickles meet."""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_indexer.formats.pickles.plain import DEPTH_MAX, NODES_MAX, Plainer
from ckpt_indexer.formats.pickles.unpickle import (
    GLOBALS_MAX,
    NAME_MAX,
    Inert,
    ParameterRef,
    StateMap,
    TensorRef,
    TypedTensorRef,
    Unpickled,
    inert_class,
)
from ckpt_indexer.formats.pickles.unpickle import unpickle as unpickle_stream
from tests.formats import hostile


def unpickle(data: bytes) -> Unpickled:
    return unpickle_stream(io.BytesIO(data))


CALLS = sorted(hostile.calls(Path("canary")))


@pytest.mark.parametrize("title", CALLS)
def test_nothing_is_called(title: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    modules = set(sys.modules)
    unpickle_or_refuse(hostile.calls(canary)[title])
    assert not canary.exists()
    assert set(sys.modules) == modules


@pytest.mark.parametrize("title", ["GLOBAL REDUCE", "STACK_GLOBAL REDUCE", "INST", "OBJ", "eval"])
def test_the_same_pickle_calls_where_pickles_are_trusted(title: str, tmp_path: Path) -> None:
    """The canary is one: without this, the test above might hold because of a typing error."""
    canary = tmp_path / "canary"
    made = pickle.loads(hostile.calls(canary)[title])
    if hasattr(made, "close"):
        made.close()
    assert canary.exists()


def unpickle_or_refuse(data: bytes) -> Any:
    """Give the pickle's object, or the exception."""
    try:
        return unpickle(data).root
    except Exception as error:  # noqa: BLE001 - of any type, says its contract
        return error


@pytest.mark.parametrize("code", [1, 200, 70_000])
def test_an_extension_code_gives_no_class(code: int) -> None:
    """EXT opcodes name classes by the process's own registry, which C code looks up past ``find_class``."""
    opcode = {1: b"\x82\x01", 200: b"\x83\xc8\x00", 70_000: b"\x84\x70\x11\x01\x00"}[code]
    copyreg.add_extension("subprocess", "Popen", code)
    try:
        root = unpickle_or_refuse(b"\x80\x02" + opcode + b".")
    finally:
        copyreg.remove_extension("subprocess", "Popen", code)
    assert root is inert_class("subprocess", "Popen")


@pytest.mark.parametrize("title", sorted(hostile.changes()))
def test_no_stand_in_can_be_changed_for_the_next_file(title: str) -> None:
    kinds = (StateMap, TensorRef, TypedTensorRef, ParameterRef, Inert, inert_class("some", "Class"))
    before = [dict(vars(kind)) for kind in kinds]
    unpickle_or_refuse(hostile.changes()[title])
    assert [dict(vars(kind)) for kind in kinds] == before


def test_an_attribute_set_on_one_object_stays_on_it() -> None:
    build = b"N}" + hostile.text("state") + b"K\x05s\x86b"
    first = unpickle(hostile.PROTO + hostile.name("some", "Class") + b")R" + build + b".").root
    second = unpickle(hostile.PROTO + hostile.name("some", "Class") + b")R.").root
    assert (first.state, second.state) == ((None, {"state": 5}), None)


def test_names_are_limited_in_number() -> None:
    def named(count: int) -> bytes:
        return b"\x80\x02(" + b"".join(hostile.name("m", f"C{i}") for i in range(count)) + b"l."

    assert len(unpickle(named(GLOBALS_MAX)).globals) == GLOBALS_MAX
    with pytest.raises(pickle.UnpicklingError, match="more than 1000 classes"):
        unpickle(named(GLOBALS_MAX + 1))
    with pytest.raises(pickle.UnpicklingError, match="more than 1000 classes"):
        unpickle(named(200_000))


def test_names_are_limited_in_length() -> None:
    with pytest.raises(pickle.UnpicklingError, match="100001 characters"):
        unpickle(b"\x80\x02" + hostile.name("m" * 100_000, "C") + b".")
    longest = unpickle(b"\x80\x02" + hostile.name("m" * (NAME_MAX - 1), "C") + b".").root
    assert longest.full_name() == "m" * (NAME_MAX - 1) + ".C"


@pytest.mark.parametrize("kind", ["lists", "tuples", "dicts", "objects", "parameters", "states"])
def test_what_is_nested_without_end_is_cut(kind: str) -> None:
    root = unpickle(hostile.nested(kind, 100_000)).root
    plain = Plainer(lambda _: None).plain(root)
    assert depth(plain) <= 2 * DEPTH_MAX + 1  # an object's level is written as two: itself and its list of arguments


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0)


def test_what_contains_itself_is_cut() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    mapping: dict[str, Any] = {"loop": loop}
    mapping["self"] = mapping
    root = unpickle(pickle.dumps(mapping, 2)).root
    assert Plainer(lambda _: None).plain(root) == {"loop": [1, "…"], "self": "…"}


def test_what_shares_its_parts_is_spelled_out_to_a_limit() -> None:
    level: list[Any] = ["laugh"]
    for _ in range(30):
        level = [level, level]
    plain = Plainer(lambda _: None).plain(unpickle(pickle.dumps(level, 2)).root)
    assert nodes(plain) <= NODES_MAX + DEPTH_MAX * 3


def nodes(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(nodes, inner))


_keys = st.text(max_size=5)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=20,
)


@given(_plain, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_out_as_it_is_by_every_protocol(value: Any, protocol: int) -> None:
    assert Plainer(lambda _: None).plain(unpickle(pickle.dumps(value, protocol)).root) == value


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_an_exception(data: bytes) -> None:
    if b"r" not in data and b"\x8e" not in data and b"B" not in data and b"T" not in data:  # sizes of gigabytes: worker
        unpickle_or_refuse(data)
