"""Inert objects as a person would write them: each row of the head's table, and the budget to the last node."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import decimal
import enum
import pathlib
import pickle
from typing import Any

import pytest

from ckpt_indexer.formats.pickles import plain as module
from ckpt_indexer.formats.pickles.plain import CUT, Plainer
from ckpt_indexer.formats.pickles.unpickle import unpickle
from tests.formats.frameworks.reading import facts_of


def plain(value: Any, protocol: int = 2, **limits: int) -> Any:
    """Pickle *value*, read it without its classes, and write it plainly."""
    import io

    return Plainer(lambda _: None, **limits).plain(unpickle(io.BytesIO(pickle.dumps(value, protocol))).root)


class Mode(enum.Enum):
    """A choice."""

    FAST = "fast"


class Names(list[str]):
    """A list of a class of its own."""


class Table(dict[str, int]):
    """A dict of a class of its own."""


class Both(dict[str, int]):
    """A dict with attributes."""

    def __init__(self, **pairs: int) -> None:
        super().__init__(pairs)
        self.note = "kept"


@dataclasses.dataclass
class Settings:
    """An object with a state."""

    lr: float = 0.5
    mode: Mode = Mode.FAST


class Made:
    """An object that is made by a call with two arguments, and has a state that is no dict."""

    def __reduce__(self) -> Any:
        return Made, (1, 2), [3]

    def __init__(self, *_: int) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (argparse.Namespace(lr=0.5, layers=[1, 2]), {"lr": 0.5, "layers": [1, 2]}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (Table(a=1), {"a": 1}),
        (Names(["a"]), ["a"]),
        (Mode.FAST, "fast"),
        (decimal.Decimal("1.5"), "1.5"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (Settings(), {"_class_": f"{__name__}.Settings", "lr": 0.5, "mode": "fast"}),
        (Made(), {"_class_": f"{__name__}.Made", "args": [1, 2], "state": [3]}),
        ({1, 2}, [1, 2]),
        (Mode, f"{__name__}.Mode"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_is_written_as_a_person_would(value: Any, written: Any) -> None:
    assert plain(value) == written


def test_a_dict_with_attributes_keeps_its_pairs() -> None:
    assert plain(Both(a=1)) == {"a": 1}


def test_omegaconfs_containers_are_what_they_hold() -> None:
    from omegaconf import OmegaConf

    written = {"a": {"b": [1, "${x}"]}, "n": None}
    assert facts_of({"hparams": OmegaConf.create(written)}).hyper_parameters == written


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_budget_is_counted_to_the_last_node(count: int) -> None:
    # One for the list itself; what does not fit any more is one mark.
    assert plain([7] * count, nodes_max=3) == [7] * min(count, 2) + [CUT] * (count > 2)


def test_the_text_is_counted_to_the_last_character() -> None:
    assert plain(["ab", "cd"], text_max=4) == ["ab", "cd"]
    assert plain(["ab", "cde"], text_max=4) == ["ab", CUT]
    assert plain("x" * module.TEXT_MAX) == "x" * module.TEXT_MAX
    assert plain("x" * (module.TEXT_MAX + 1)) == "x" * (module.TEXT_MAX - 1) + CUT


@pytest.mark.parametrize(("bits", "is_number"), [(62, True), (63, True), (64, False)])
def test_an_integer_that_readers_refuse_is_text(bits: int, is_number: bool) -> None:
    value = (1 << bits) - 1
    assert plain(value) == (value if is_number else hex(value))
