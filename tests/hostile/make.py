"""Every hostile or broken input, by name, and how it may end.

A ``Case`` puts one checkpoint at a path and says which (status, problem code) it may end with: usually one; several
where the limits of the process decide which of them is met first. ``DOCUMENTS`` are YAML texts for sidecars and
configurations, ``SIDECARS`` and ``CONFIGS`` what may stand in the place of one, ``INDEXES`` what may stand in the place
of the index. Crashers that fuzzing found are cases like the others.

Every payload that could run creates ``CANARY``.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ckpt_indexer.formats.frameworks.weights import TENSORS_MAX
from tests.hostile import pickles as p
from tests.hostile.pickles import (
    archive,
    built,
    called,
    checkpoint,
    listed,
    mapped,
    named,
    pickled,
    text,
    tupled,
    value,
)

Outcome = tuple[str, str | None]
Build = Callable[[Path], None]

CANARY = Path(tempfile.gettempdir()) / f"hostile-canary-{os.getpid()}"
COMMAND = f"touch {CANARY}"

OK: Outcome = ("ok", None)
DAMAGED: Outcome = ("corrupt", "pickle-damaged")
CONTAINER: Outcome = ("corrupt", "container-damaged")
CHECKSUM: Outcome = ("corrupt", "checksum-mismatch")
TRUNCATED: Outcome = ("incomplete", "truncated")
MEMORY: Outcome = ("unreadable", "memory-limit")
TIME: Outcome = ("unreadable", "time-limit")
LIMIT: Outcome = ("unreadable", "limit-exceeded")
UNSUPPORTED: Outcome = ("unsupported", "format-unsupported")
FOREIGN: Outcome = ("unsupported", "not-a-checkpoint")
NO_FILE: Outcome = ("unreadable", "not-a-file")
OUTSIDE: Outcome = ("unreadable", "link-outside")
LOOP: Outcome = ("unreadable", "link-loop")
DANGLING: Outcome = ("unreadable", "link-dangling")


class Case(NamedTuple):
    """One hostile checkpoint."""

    build: Build
    outcomes: frozenset[Outcome]
    is_file: bool = True  # a regular file, whose bytes a reader can be given

    def data(self, folder: Path) -> Path:
        path = folder / "case.ckpt"
        self.build(path)
        return path


CASES: dict[str, Case] = {}


def add(name: str, make: Callable[[], bytes], *outcomes: Outcome) -> None:
    """Add a file's content."""

    def build(path: Path) -> None:
        path.write_bytes(make())

    assert name not in CASES, name
    CASES[name] = Case(build, frozenset(outcomes))


def place(name: str, build: Build, *outcomes: Outcome, is_file: bool = False) -> None:
    """Add something that is more than bytes."""
    assert name not in CASES, name
    CASES[name] = Case(build, frozenset(outcomes), is_file)


def add_pickle(name: str, make: Callable[[], bytes], *outcomes: Outcome, bare: bool = True) -> None:
    """Add a whole pickle as the data.pkl of an archive, by itself, and as the object of a legacy file."""
    add(f"zip-{name}", lambda: archive(make()), *outcomes)
    if bare:
        add(f"bare-{name}", make, *outcomes, TRUNCATED)
        add(f"legacy-{name}", lambda: p.legacy(make()), *outcomes, TRUNCATED)


# --- pickles that carry code ------------------------------------------------------------------------------------------
_SYSTEM = named("os", "system")
_TOUCH = text(COMMAND)
_PYTHON = text(f"open({str(CANARY)!r}, 'w')")
_RUNS = called(_SYSTEM, _TOUCH)

CODE: dict[str, bytes] = {
    "reduce": _RUNS,
    "reduce-posix": called(named("posix", "system"), _TOUCH),
    "reduce-eval": called(named("builtins", "eval"), _PYTHON),
    "reduce-exec-python2": called(named("__builtin__", "eval"), _PYTHON),
    "reduce-popen": called(named("subprocess", "Popen"), listed(text("touch"), text(str(CANARY)))),
    "reduce-open": called(named("io", "open"), text(str(CANARY)), text("w")),
    "reduce-getattr": called(called(named("builtins", "getattr"), named("os", "path"), text("os")), _TOUCH),
    "reduce-import": called(
        called(named("builtins", "getattr"), called(named("builtins", "__import__"), text("os")), text("system")),
        _TOUCH,
    ),
    "reduce-partial": called(called(named("functools", "partial"), _SYSTEM, _TOUCH)),
    "reduce-map": called(named("builtins", "list"), called(named("builtins", "map"), _SYSTEM, listed(_TOUCH))),
    "reduce-nested-pickle": called(named("pickle", "loads"), value(pickled(_RUNS))),
    "reduce-torch-load": called(named("torch", "load"), text("/dev/zero")),
    "reduce-graph-module": called(
        named("torch.fx.graph_module", "reduce_graph_module"),
        mapped({"_code": text(f"import os\nos.system({COMMAND!r})\ndef forward(self): pass")}),
        text(f"import os; os.system({COMMAND!r})"),
    ),
    "reduce-subclass-function": called(
        named("torch._tensor", "_rebuild_from_type_v2"),
        _SYSTEM,
        named("torch", "Tensor"),
        tupled(_TOUCH),
        p.EMPTY_DICT,
    ),
    "reduce-code-object": called(
        named("types", "FunctionType"), called(named("marshal", "loads"), value(b"\xe3")), p.EMPTY_DICT
    ),
    "inst": b"(" + _TOUCH + b"ios\nsystem\n",
    "obj": b"(" + _SYSTEM + _TOUCH + b"o",
    "newobj": named("subprocess", "Popen") + tupled(listed(text("touch"), text(str(CANARY)))) + b"\x81",
    "newobj-ex": named("subprocess", "Popen")
    + p.EMPTY_TUPLE
    + mapped({"args": listed(text("touch"), text(str(CANARY)))})
    + b"\x92",
    "stack-global-dotted": called(p.stack_named("os", "path.os.system"), _TOUCH),
    "build-setstate": built(called(named("torch.nn.modules.module", "Module")), mapped({"__setstate__": _SYSTEM}))
    + _TOUCH
    + b"b",
    "build-reduce-hook": built(named("os", "system"), _TOUCH),
    "append-hook": built(called(named("a", "B")), mapped({"append": _SYSTEM})) + _TOUCH + b"a",
    "appends-hook": built(called(named("a", "B")), mapped({"extend": _SYSTEM})) + b"(" + _TOUCH + b"e",
    "setitem-hook": built(called(named("a", "B")), mapped({"__setitem__": _SYSTEM})) + _TOUCH + p.NONE + b"s",
    "additems-hook": built(called(named("a", "B")), mapped({"add": _SYSTEM})) + b"(" + _TOUCH + b"\x90",
    "call-of-a-call": called(called(_SYSTEM, _TOUCH), _TOUCH),
    "extension-1": b"\x82\x01",
    "extension-2": b"\x83\x01\x00",
    "extension-4": b"\x84\x01\x00\x00\x00",
    "persistent-id": _RUNS + b"Q",
    "persistent-id-text": b"P" + COMMAND.encode() + b"\n",
    "reconstructor": called(named("copyreg", "_reconstructor"), _SYSTEM, named("builtins", "object"), _TOUCH),
    "omegaconf-oc-env": built(
        called(named("omegaconf.dictconfig", "DictConfig")),
        mapped({"_content": mapped({"x": _RUNS}), "_metadata": p.NONE, "_parent": p.NONE}),
    ),
}

# A file must not change the stand-ins for the next file.
_STAND_INS = {
    "inert": named("any", "Thing"),
    "ordered-dict": named("collections", "OrderedDict"),
    "tensor": named("torch._utils", "_rebuild_tensor_v2"),
    "typed-tensor": named("torch._utils", "_rebuild_tensor_v3"),
    "parameter": named("torch._utils", "_rebuild_parameter"),
}
_PATCH = mapped({"__defaults__": value((1,)), "__call__": p.NONE, "items": p.NONE, "__new__": p.NONE, "args": p.NONE})
POISON: dict[str, bytes] = {}
for _name, _class in _STAND_INS.items():
    POISON[f"build-dict-on-{_name}-class"] = built(_class, _PATCH)
    POISON[f"build-slots-on-{_name}-class"] = built(_class, tupled(p.NONE, _PATCH))
    POISON[f"build-both-on-{_name}-class"] = built(_class, tupled(_PATCH, _PATCH))
    POISON[f"build-dict-on-{_name}"] = built(_class + p.EMPTY_TUPLE + b"\x81", _PATCH)
    POISON[f"build-slots-on-{_name}"] = built(called(_class), tupled(p.NONE, _PATCH))
for _name, _attribute in (("class", "__class__"), ("dict", "__dict__"), ("struct", "__struct_fields__")):
    POISON[f"build-{_name}-of-tensor"] = built(p.tensor(), tupled(p.NONE, mapped({_attribute: named("a", "B")})))

for _name, _fragment in (CODE | POISON).items():
    # persistent ids are checked against the archive; they can never be a storage here
    add_pickle(_name, functools.partial(pickled, _fragment, 4), OK, DAMAGED)
for _key in ("epoch", "state_dict", "callbacks", "hyper_parameters", "loops", "optimizer_states", "anything"):
    add(f"code-in-{_key}", functools.partial(checkpoint, **{_key: _RUNS}), OK)
add("code-as-a-key", lambda: archive(pickled(mapped([(_RUNS, value(1)), (text("epoch"), value(1))]))), OK)
add("code-in-storage-key", lambda: checkpoint(state_dict=mapped({"w": p.tensor(key=_RUNS)})), DAMAGED)
add("code-in-storage-type", lambda: checkpoint(state_dict=mapped({"w": p.tensor(kind=_RUNS)})), DAMAGED)


# --- memory and time --------------------------------------------------------------------------------------------------
def _with(key: str, fragment: bytes) -> bytes:
    return checkpoint(**{key: fragment})


def _deep_lists(depth: int) -> bytes:
    return pickled(b"]" * depth + b"a" * (depth - 1))


def _long_put(index: int) -> bytes:
    return pickled(p.NONE + b"r" + struct.pack("<I", index))


def _laughs(levels: int, *, as_tuple: bool = False) -> bytes:
    """Nested lists of two references each: 2**levels leaves."""
    parts = [p.EMPTY_LIST + b"q\x00"]
    for level in range(1, levels):
        get = b"h" + bytes([level - 1])
        body = get + get + b"\x86" if as_tuple else b"](" + get + get + b"e"
        parts.append(body + b"q" + bytes([level]) + b"0")
    parts[0] += b"0"
    return b"".join(parts) + b"h" + bytes([levels - 1])


def _many_callbacks() -> bytes:
    states = {f"ModelCheckpoint{{'monitor': 'm{i}'}}": value({"best_model_score": i}) for i in range(100_000)}
    return checkpoint(callbacks=mapped(states))


def _wide_shapes() -> bytes:
    """As many tensors as are listed, each of 64 huge dimensions, written once."""
    size = value((1 << 62,) * 63 + (0,))
    first = p.tensor(size=size) + b"q\x01"
    more = b"".join(text(f"w{i}") + b"h\x01" for i in range(TENSORS_MAX - 1))
    return checkpoint(state_dict=b"}(" + text("w") + first + more + b"u")


def _long_paths(prefix: str) -> bytes:
    """5,000 scores whose paths are slow to search for numbers; all are candidates for the score of ``case.ckpt``."""
    scores = {f"{prefix}{i:04d}-" + "a" * 980: 0.5 for i in range(5000)}
    state = {"monitor": "m", "current_score": 0.5, "last_model_path": "/t/case.ckpt", "best_k_models": scores}
    return checkpoint(callbacks=value({"ModelCheckpoint{'monitor': 'm'}": state}))


for _slot in (0x7FFFFF, 0x3FFFFFF, 0xFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF):
    add_pickle(f"memo-put-{_slot:x}", functools.partial(_long_put, _slot), OK, MEMORY, DAMAGED)
add_pickle("memo-put-text", lambda: pickled(b"Np99999999999\n"), OK, MEMORY, DAMAGED)
add_pickle("memo-get-absent", lambda: pickled(b"h\x07"), DAMAGED)
add_pickle("memo-long-get-absent", lambda: pickled(b"j\xff\xff\xff\xff"), DAMAGED)
add_pickle("memo-get-negative", lambda: pickled(b"g-1\n"), DAMAGED)
for _name, _bytes in {
    "frame": b"\x95" + struct.pack("<Q", 1 << 60) + b"N",
    "frame-huge": b"\x95" + b"\xff" * 8 + b"N",
    "bytearray8": b"\x96" + struct.pack("<Q", 1 << 40),
    "bytearray8-huge": b"\x96" + b"\xff" * 8,
    "binbytes8": b"\x8e" + struct.pack("<Q", 1 << 34),
    "binunicode8": b"\x8d" + struct.pack("<Q", 1 << 62),
    "binbytes": b"B\xff\xff\xff\xff",
    "binunicode": b"X\xff\xff\xff\xff",
    "binstring": b"T\xff\xff\xff\x7f",
    "long4": b"\x8b\xff\xff\xff\x7f",
    "long4-negative": b"\x8b\xff\xff\xff\xff",
    "long1": b"\x8a\xff",
    "buffer": b"\x97",
    "buffer-readonly": b"N\x98",
}.items():
    add_pickle(f"size-lie-{_name}", functools.partial(pickled, _bytes, 5), OK, DAMAGED, MEMORY)
add_pickle("ten-million-lists", lambda: pickled(b"](" + b"]" * 10_000_000 + b"e"), MEMORY, TIME, bare=False)
add_pickle("two-million-dicts", lambda: pickled(b"](" + b"}" * 2_000_000 + b"e"), OK, MEMORY, TIME, bare=False)
add_pickle("million-marks", lambda: pickled(b"(" * 1_000_000 + b"N"), DAMAGED, OK, MEMORY)
add_pickle(
    "many-globals", lambda: pickled(b"](" + b"".join(named("m", f"C{i}") for i in range(200_000)) + b"e"), DAMAGED
)
add_pickle("global-long-name", lambda: pickled(named("m" * 100_000, "x")), DAMAGED)
add_pickle("global-long-dotted-name", lambda: pickled(p.stack_named("m", "a." * 50_000), 4), DAMAGED)
add_pickle("global-empty-name", lambda: pickled(p.stack_named("", ""), 4), OK)
add_pickle("global-surrogate-name", lambda: pickled(p.stack_named("\udcff", "\ud800\x1b[2J"), 4), OK)
add_pickle("global-no-text", lambda: pickled(b"NN\x93", 4), DAMAGED)
for _depth in (100_000, 1_000_000):
    add_pickle(f"lists-{_depth}-deep", functools.partial(_deep_lists, _depth), OK, MEMORY, DAMAGED)
add_pickle("tuples-deep", lambda: pickled(b")" + b"\x85" * 100_000), OK)
add_pickle("dicts-deep", lambda: pickled(b"}N" * 100_000 + b"N" + b"s" * 100_000), OK, DAMAGED)
for _key in ("epoch", "callbacks", "state_dict", "hyper_parameters", "loops", "datamodule_hyper_parameters", "metrics"):
    add(f"deep-{_key}", functools.partial(_with, _key, b"}(" + (text("x") + b"}(") * 50_000 + b"u" * 50_001), OK)
    add(f"laughs-{_key}", functools.partial(_with, _key, _laughs(40)), OK)
    add(f"cycle-{_key}", functools.partial(_with, _key, b"}q\x63" + text(_key) + b"hcs"), OK)
add("laughs-tuple-as-key", lambda: archive(pickled(b"}" + _laughs(45, as_tuple=True) + b"Ns")), DAMAGED, TIME)
add(
    "laughs-tuple-as-tensor-name",
    lambda: checkpoint(state_dict=mapped([(b")q\x00" + b"0h\x00h\x00\x86" + b"q\x00" * 30, p.tensor())])),
    OK,
)
add("cycle-object", lambda: checkpoint(hyper_parameters=named("a", "B") + b")R" + b"q\x07h\x07b"), OK)
add("cycle-list-root", lambda: archive(pickled(b"]q\x01h\x01a")), OK)
add(
    "cycle-set",
    lambda: checkpoint(hyper_parameters=mapped({"s": called(named("__builtin__", "set"), b"]q\x09h\x09a")})),
    OK,
)
add(
    "tensor-of-tensor-deep",
    lambda: checkpoint(
        state_dict=mapped(
            {
                "w": b"".join([named("torch._utils", "_rebuild_nested_tensor") + b"("] * 20_000)
                + p.tensor()
                + b"tR" * 20_000
            }
        )
    ),
    OK,
    DAMAGED,
)
add(
    "parameter-of-parameter-deep",
    lambda: checkpoint(
        state_dict=mapped(
            {"w": b"".join([named("torch._utils", "_rebuild_parameter") + b"("] * 20_000) + p.tensor() + b"tR" * 20_000}
        )
    ),
    OK,
    DAMAGED,
)
add("callbacks-100000", _many_callbacks, OK)
add("tensors-with-huge-shapes", _wide_shapes, OK, LIMIT, MEMORY, TIME)
add(
    "tensors-with-long-names",
    lambda: checkpoint(
        state_dict=b"}("
        + text("w")
        + p.tensor()
        + b"q\x01"
        + b"".join(text(f"{i:06d}" + "n" * 394) + b"h\x01" for i in range(TENSORS_MAX))
        + b"u"
    ),
    OK,
    LIMIT,
    MEMORY,
    TIME,
)
add("score-paths-slow-to-search", lambda: _long_paths("e"), OK)
add("score-paths-of-dashes", lambda: _long_paths("epoch=1-" * 60), OK)
add("score-paths-of-folders", lambda: _long_paths("epoch=1-a/" * 90), OK)
add(
    "metrics-not-numbers",
    lambda: checkpoint(
        **{
            f"m{i}": b"}("
            + b"".join(text(f"n{j}") + (_laughs(40) + b"q\x64" if (i, j) == (0, 0) else b"hd") for j in range(900))
            + b"u"
            for i in range(50)
        }
    ),
    OK,
    TIME,
)
add(
    "state-keys-of-parentheses",
    lambda: checkpoint(
        callbacks=mapped(
            {
                "A{" + "(" * 3900 + "}": p.EMPTY_DICT,
                "B{" + "-" * 3900 + "1}": p.EMPTY_DICT,
                "C{'a': '\\d', 'b': 0x1for 2}": p.EMPTY_DICT,
                "D{'a': 9**9**9}": p.EMPTY_DICT,
                "E{1: 1" + "+1j" * 900 + "}": p.EMPTY_DICT,
                "F{'\\ud800': '\\udcff'}": p.EMPTY_DICT,
                "G" * 100_000: p.EMPTY_DICT,
            }
        )
    ),
    OK,
)


# --- wrong types in every known key -----------------------------------------------------------------------------------
WRONG: dict[str, bytes] = {
    "none": p.NONE,
    "true": p.TRUE,
    "negative": value(-1),
    "huge": p.integer(10**5000),
    "2-to-63": value(1 << 63),
    "float": value(1.5),
    "nan": value(float("nan")),
    "text": text("three"),
    "bytes": b"C\x03\x00\xff\x1b",
    "bytearray": b"\x96" + struct.pack("<Q", 2) + b"ab",
    "memoryview": b"\x96" + struct.pack("<Q", 2) + b"ab\x98",
    "list": value([1]),
    "dict-of-int": value({1: 2, None: 3, (1,): 4}),
    "set": value({1, 2}),
    "frozensets": value({frozenset({1}), frozenset({2})}),
    "object": called(named("a", "B"), value(1)),
    "class": named("a", "B"),
    "tensor": p.tensor(),
    "tensor-ref": called(named("torch._utils", "_rebuild_tensor_v2"), p.NONE, p.NONE, p.NONE, p.NONE),
    "ordered-dict-of-junk": called(named("collections", "OrderedDict"), value([1, 2])),
}
KNOWN_KEYS = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "callbacks",
    "hyper_parameters",
    "loops",
    "optimizer_states",
    "lr_schedulers",
    "datamodule_hyper_parameters",
    "hparams_name",
    "cleval_metrics",
)
for _name, _fragment in WRONG.items():
    add(f"every-key-{_name}", functools.partial(checkpoint, **dict.fromkeys(KNOWN_KEYS, _fragment)), OK, DAMAGED)
    add(
        f"hparam-{_name}",
        functools.partial(_with, "hyper_parameters", mapped({"x": _fragment, "y": listed(_fragment)})),
        OK,
        DAMAGED,
    )
    add(f"root-{_name}", functools.partial(archive, pickled(_fragment, 5)), OK, DAMAGED)
add(
    "loops-huge-progress",
    lambda: checkpoint(
        loops=mapped(
            {
                "fit_loop": mapped(
                    {
                        "epoch_loop.val_loop.batch_progress": mapped(
                            {"total": mapped({"ready": p.integer(10**5000)}), "current": mapped({"ready": value(1)})}
                        )
                    }
                )
            }
        )
    ),
    OK,
)
add(
    "loops-wrong-progress",
    lambda: checkpoint(
        loops=value(
            {"fit_loop": {"epoch_loop.val_loop.batch_progress": {"total": {"ready": "x"}, "current": {"ready": 0}}}}
        )
    ),
    OK,
)
add("epoch-beyond-64-bits", lambda: checkpoint(epoch=p.integer(1 << 64)), OK)
add(
    "callbacks-of-weird-states",
    lambda: checkpoint(
        callbacks=mapped(
            {
                "ModelCheckpoint{'monitor': 1, 'mode': 'sideways', 'save_top_k': 'x', 'save_last': 3}": value(
                    {"best_model_path": 1, "best_k_models": [1], "current_score": "x", "monitor": ["m"], "dirpath": {}}
                ),
                "ModelCheckpoint": value([1]),
                "": p.NONE,
                "{}": value({"best_model_path": ""}),
                "ModelCheckpoint{'monitor': '\x1b[2J', 'mode': 'max'}": value(
                    {"best_model_score": float("inf"), "best_k_models": {"case.ckpt": float("nan")}}
                ),
            }
        )
    ),
    OK,
)
add(
    "values-that-control-terminals",
    lambda: checkpoint(
        **{"pytorch-lightning_version": text("\x1b]0;x\x07\x9b31m\u2028\x00\udcff")},
        hyper_parameters=mapped(
            {
                "a\x1b[2J\x00": text("\u202e\u2028\x85\x9b\x7f\ufffe\U0001f389"),
                "<<": text("no"),
                "1:30": text("1:30"),
                "\udcff": text("\ud800"),
                "!!python/object:os.system": text("&a *a"),
                "=": text("="),
                "y": text("~"),
                "---": text("...\n---\n"),
                "\ufeff": text("\ufeff"),
            }
        ),
        state_dict=mapped({"\x1b[31m\x9b\udcff": p.tensor()}),
        cleval_metrics=mapped({"val/\x1b[2J\x9b": value(0.5), "\udcff": value(float("nan"))}),
    ),
    OK,
)
add(
    "names-of-numpy-types",
    lambda: checkpoint(
        hyper_parameters=mapped(
            {
                "scalar": called(
                    named("numpy", "scalar"),
                    built(called(named("numpy", "dtype"), text("\udcff")), value((3, "\x1b"))),
                    value(b""),
                ),
                "array": built(
                    called(named("numpy", "_reconstruct")),
                    tupled(
                        value(1), value((1, 2)), called(named("numpy", "dtype"), text("\ud800\x9b")), p.NONE, p.NONE
                    ),
                ),
                "large": called(
                    named("numpy", "scalar"), called(named("numpy", "dtype"), text("u8")), value(b"\xff" * 8)
                ),
                "order": called(
                    named("numpy", "scalar"),
                    built(called(named("numpy", "dtype"), text("f8")), tupled(p.NONE, listed())),
                    value(b"x"),
                ),
            }
        )
    ),
    OK,
)
add(
    "dates-that-are-none",
    lambda: checkpoint(
        hyper_parameters=mapped(
            {
                "zone": called(
                    named("datetime", "datetime"),
                    value(b"\x07\xea\x0b\x15\x0a\x1e\x00\x00\x00\x00"),
                    called(named("datetime", "timezone")),
                ),
                "zone-huge": called(
                    named("datetime", "time"),
                    value(b"\x01\x02\x03\x00\x00\x00"),
                    called(named("datetime", "timezone"), called(named("datetime", "timedelta"), value(10**12))),
                ),
                "month": called(named("datetime", "date"), value(b"\xff\xff\xff\xff")),
                "none": called(named("datetime", "date")),
                "span": called(named("datetime", "timedelta"), p.integer(10**400)),
                "span-nan": called(named("datetime", "timedelta"), value(float("nan"))),
                "complex": called(named("builtins", "complex"), p.integer(10**400), value(1)),
                "path": called(named("pathlib", "PosixPath"), *[text("..")] * 10, value(5), text("\udcff")),
                "set": called(named("__builtin__", "set"), text("no list")),
                "counter": called(named("collections", "Counter"), value(5)),
                "partial": built(called(named("functools", "partial")), value((1, 2, 3, 4))),
                "namespace": built(called(named("argparse", "Namespace")), value([1])),
                "getattr": called(named("builtins", "getattr")),
                "encode": called(named("_codecs", "encode"), value(5)),
            }
        )
    ),
    OK,
)
add(
    "hparams-beyond-a-sidecar-in-keys",
    lambda: checkpoint(hyper_parameters=value({f"{i:04d}" + "k" * 990: i for i in range(4900)})),
    OK,
)
add(
    "hparams-beyond-a-sidecar-in-escapes",
    lambda: checkpoint(hyper_parameters=value({f"k{i}": "\U0001f389" * 990 for i in range(400)})),
    OK,
)
add(
    "hparams-beyond-a-sidecar-in-components",
    lambda: checkpoint(
        hyper_parameters=value(
            {"model": {name: {f"p{i}": "\x01" * 990 for i in range(45)} for name in ("decoder", "head", "loss")}}
        )
    ),
    OK,
)
add(
    "metrics-beyond-a-sidecar",
    lambda: checkpoint(cleval_metrics=value({f"{i:03d}" + "\U0001f389" * 990: 0.5 for i in range(900)})),
    OK,
)
add(
    "callbacks-beyond-a-sidecar",
    lambda: checkpoint(
        callbacks=mapped(
            {
                f"ModelCheckpoint{{'monitor': '{i}" + "\U0001f389" * 3900 + "'}": value({"best_model_path": "x"})
                for i in range(40)
            }
        )
    ),
    OK,
)
add("tensor-name-huge-integer", lambda: checkpoint(state_dict=mapped([(p.integer(10**5000), p.tensor())])), OK, DAMAGED)
add("callback-key-object", lambda: checkpoint(callbacks=mapped([(value((1,)), p.NONE), (named("a", "B"), p.NONE)])), OK)


# --- storages that lie ------------------------------------------------------------------------------------------------
MISSING: Outcome = ("corrupt", "record-missing")
SHORT: Outcome = ("corrupt", "record-short")


def _storage(**lie: bytes) -> Callable[[], bytes]:
    return lambda: checkpoint(state_dict=mapped({"layer.weight": p.tensor(**lie)}))


add("storage-2-to-60", _storage(numel=value(1 << 60)), SHORT)
add("storage-2-to-70", _storage(numel=value(1 << 70)), DAMAGED)
add("storage-negative", _storage(numel=value(-6)), DAMAGED)
add("storage-numel-text", _storage(numel=text("6")), DAMAGED)
add("storage-numel-true", _storage(numel=p.TRUE), DAMAGED)
add("storage-key-outside", _storage(key=text("../../etc/passwd")), MISSING)
add("storage-key-absolute", _storage(key=text("/etc/passwd")), MISSING)
add("storage-key-long", _storage(key=text("\x1b[2J\udcff" * 100_000)), MISSING)
add("storage-key-number", _storage(key=value(0)), DAMAGED)
add("storage-key-is-the-pickle", _storage(key=text("../data.pkl")), MISSING)
add("storage-missing", _storage(key=text("1")), MISSING)
add("storage-one-short", _storage(numel=value(7)), SHORT)
add("storage-type-unknown", _storage(kind=named("torch", "NoStorage")), DAMAGED)
add("storage-list-id", lambda: checkpoint(x=listed(value(1)) + b"Q"), DAMAGED)
add("storage-empty-id", lambda: checkpoint(x=p.EMPTY_TUPLE + b"Q"), DAMAGED)
add("tensor-size-negative", _storage(size=value((-1, 3))), OK)
add("tensor-size-text", _storage(size=text("2x3")), OK)
add("tensor-size-overflow", _storage(size=value((1 << 40, 1 << 40))), OK)
add("tensor-size-million-dimensions", _storage(size=value((1,) * 1_000_000)), OK)
add("tensor-offset-outside", _storage(offset=value(1 << 61)), OK)
add(
    "tensor-stride-absent",
    lambda: checkpoint(state_dict=mapped({"w": called(named("torch._utils", "_rebuild_tensor_v2"))})),
    DAMAGED,
)
add(
    "tensor-dtype-that-controls",
    lambda: checkpoint(
        state_dict=mapped(
            {
                "w": called(
                    named("torch._utils", "_rebuild_meta_tensor_no_storage"),
                    p.stack_named("torch", "\x1b[2J\x07"),
                    value((1,)),
                )
            }
        )
    ),
    OK,
)


# --- archives that lie ------------------------------------------------------------------------------------------------
def _good() -> bytes:
    return checkpoint()


def _part(end: int) -> bytes:
    return _good()[:end]


def _patched(offset: int, form: str, *values: int, data: bytes | None = None) -> bytes:
    """Overwrite fields at *offset* (negative: from the end)."""
    image = bytearray(_good() if data is None else data)
    struct.pack_into(form, image, len(image) + offset if offset < 0 else offset, *values)
    return bytes(image)


def _directory_start(data: bytes) -> int:
    return int(struct.unpack("<I", data[-6:-2])[0])


def _entry_patched(offset: int, form: str, *values: int) -> bytes:
    data = _good()
    return _patched(_directory_start(data) + offset, form, *values, data=data)


def _with_zip64_tail(**lies: int) -> bytes:
    """Give the archive the tail that torch writes, with some fields wrong."""
    data = _good()
    body, start = data[:-22], _directory_start(data)
    fields = {"size": 44, "count": 3, "total": 3, "length": len(body) - start, "offset": start, "at": len(body)} | lies
    end64 = struct.pack(
        "<4sQ2H2L4Q",
        b"PK\x06\x06",
        fields["size"],
        45,
        45,
        0,
        0,
        fields["count"],
        fields["total"],
        fields["length"],
        fields["offset"],
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, fields["at"], 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return body + end64 + locator + end


def _deflated(size: int) -> bytes:
    """A data.pkl that is a deflate bomb."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = (
        packer.compress(b"\x80\x02")
        + b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20))
        + packer.flush()
    )
    name = b"archive/data.pkl"
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 1, len(body), size + 2, len(name), 0) + name + body
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 1, len(body), size + 2, len(name), 0, 0, 0, 0, 0, 0
    )
    return local + entry + name + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry + name), len(local), 0)


def _many_entries(count: int) -> bytes:
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 8, 0) + b"a/000000"
    entry = struct.Struct("<4s6H3L5H2L")
    directory = b"".join(
        entry.pack(b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0) + b"a/%06x" % i
        for i in range(count)
    )
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), len(local))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(local) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return local + directory + end64 + locator + end


def _renamed(name: str) -> bytes:
    pickle_bytes = pickled(mapped(p.good_parts()))
    return p.zipped([(name, pickle_bytes), ("archive/data/0", bytes(24))])


def _overlapping() -> bytes:
    """Two entries that share one record's bytes."""
    data = _good()
    start = _directory_start(data)
    return _patched(start + 46 + len("archive/data.pkl") + 42, "<L", 0, data=data)


def _duplicated() -> bytes:
    inner = pickled(mapped(p.good_parts()))
    data = p.zipped([("archive/data.pkl", inner), ("archive/dbta.pkl", pickled(_RUNS)), ("archive/data/0", bytes(24))])
    return data.replace(b"archive/dbta.pkl", b"archive/data.pkl")


def _shifted(front: bytes) -> bytes:
    """An archive behind other bytes, its offsets corrected: a proper zip that does not start at the front."""
    data = _good()
    image = bytearray(front + data)
    position = len(front) + _directory_start(data)
    while image[position : position + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<3H", image, position + 28)
        struct.pack_into("<L", image, position + 42, struct.unpack_from("<L", image, position + 42)[0] + len(front))
        position += 46 + name + extra + comment
    struct.pack_into("<L", image, len(image) - 6, len(front) + _directory_start(data))
    return bytes(image)


def _with_comment(comment: bytes) -> bytes:
    data = _good()
    return data[:-2] + struct.pack("<H", len(comment)) + comment


add("zip-directory-size-larger", lambda: _patched(-10, "<L", 1 << 30), CONTAINER)
add("zip-directory-size-zero", lambda: _patched(-10, "<L", 0), CONTAINER)
add("zip-directory-offset-zero", lambda: _patched(-6, "<L", 0), CONTAINER)
add("zip-directory-offset-huge", lambda: _patched(-6, "<L", 0xFFFFFFFF), CONTAINER)
add("zip-directory-both-shifted", lambda: _patched(-10, "<2L", 1, len(_good()) - 23), CONTAINER)
add("zip-directory-is-all", lambda: _patched(-10, "<2L", len(_good()) - 22, 0), CONTAINER)
add("zip-count-more", lambda: _patched(-14, "<2H", 9, 9), CONTAINER)
add("zip-count-none", lambda: _patched(-14, "<2H", 0, 0), CONTAINER)
add("zip64-good", _with_zip64_tail, OK)
for _field, _lie in (
    ("length", (1 << 64) - 1),
    ("offset", (1 << 64) - 1),
    ("total", (1 << 64) - 1),
    ("at", (1 << 64) - 1),
):
    add(f"zip64-{_field}-huge", functools.partial(_with_zip64_tail, **{_field: _lie}), CONTAINER, LIMIT)
add("zip64-size-lies", lambda: _with_zip64_tail(size=1 << 60), OK, CONTAINER)
add("zip64-wraps-around", lambda: _with_zip64_tail(length=(1 << 64) - 4, offset=len(_good())), CONTAINER)
add(
    "zip64-locator-alone",
    lambda: b"PK\x03\x04" + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + b"PK\x05\x06" + bytes(18),
    CONTAINER,
)
for _name, _offset, _form, _value in (
    ("crc", 16, "<L", 0x12345678),
    ("crc-none", 16, "<L", 0),
    ("sizes-huge", 20, "<2L", 0xFFFFFFFF),
    ("sizes-zero", 20, "<2L", 0),
    ("sizes-differ", 20, "<L", 5),
    ("name-length", 28, "<H", 0xFFFF),
    ("extra-length", 30, "<H", 0xFFFF),
    ("offset", 42, "<L", 7),
    ("offset-huge", 42, "<L", 0xFFFFFFF0),
    ("offset-zip64-absent", 42, "<L", 0xFFFFFFFF),
    ("method", 10, "<H", 99),
    ("encrypted", 8, "<H", 1),
    ("signature", 0, "<L", 0),
):
    _values = (_value,) * (2 if "2L" in _form else 1)
    add(
        f"zip-entry-{_name}",
        functools.partial(_entry_patched, _offset, _form, *_values),
        OK,
        CONTAINER,
        CHECKSUM,
        DAMAGED,
        UNSUPPORTED,
    )
for _name, _offset, _form, _value in (
    ("signature", 0, "<L", 1),
    ("name-length", 26, "<H", 3),
    ("name-length-huge", 26, "<H", 0xFFFF),
    ("extra-length", 28, "<H", 500),
    ("encrypted", 6, "<H", 1),
    ("sizes", 18, "<L", 1 << 30),
    ("name", 30, "<L", 0),
):
    add(f"zip-local-{_name}", functools.partial(_patched, _offset, _form, _value), OK, CONTAINER, CHECKSUM, FOREIGN)
for _name in (
    "/data.pkl",
    "../data.pkl",
    "../../../../../../tmp/x/data.pkl",
    "data.pkl",
    "archive\\data.pkl",
    "a/b/data.pkl",
    "archive/data.pkl/",
    "archive/DATA.PKL",
    "C:/data.pkl",
    "\x1b[2J/data.pkl",
    "/etc/cron.d/data.pkl",
):
    add(
        f"zip-name-{_name.encode('unicode_escape').decode().replace('/', '_')}",
        functools.partial(_renamed, _name),
        OK,
        FOREIGN,
        MISSING,
    )
add(
    "zip-deflated",
    lambda: p.zipped([("archive/data.pkl", pickled(mapped(p.good_parts())))], zipfile.ZIP_DEFLATED),
    UNSUPPORTED,
)
add("zip-deflate-bomb", lambda: _deflated(1 << 28), LIMIT)
add("zip-deflate-bomb-smaller", lambda: _deflated(1 << 26), UNSUPPORTED)
add("zip-two-pickles", _duplicated, CONTAINER)
add("zip-twice", lambda: _good() + _good(), FOREIGN)
add("zip-behind-another", lambda: _shifted(_good()), OK, CONTAINER)
add("zip-behind-a-script", lambda: _shifted(b"#!/bin/sh\n" + COMMAND.encode() + b"\n"), FOREIGN)
add("zip-overlapping", _overlapping, OK, CONTAINER)
add("zip-comment", lambda: _with_comment(b"hello"), OK)
add("zip-comment-is-an-end", lambda: _with_comment(b"PK\x05\x06" + bytes(16) + b"\x00\x00"), TRUNCATED, CONTAINER)
add("zip-comment-is-a-tail", lambda: _with_comment(_good()[-300:]), TRUNCATED, CONTAINER)
add("zip-trailing-bytes", lambda: _good() + b"x", OK)
add("zip-trailing-zeros", lambda: _good() + bytes(4096), TRUNCATED)
add("zip-300000-entries", lambda: _many_entries(300_000), CONTAINER, FOREIGN, TIME, MEMORY)
add("zip-empty", lambda: p.zipped([]), FOREIGN, CONTAINER)
add("zip-empty-pickle", lambda: archive(b""), DAMAGED)
add("zip-junk-pickle", lambda: archive(b"\xff" * 1000), DAMAGED)
add("zip-pickle-unfinished", lambda: archive(pickled(mapped(p.good_parts()))[:-1]), DAMAGED)
add("zip-pickle-with-more-behind", lambda: archive(pickled(mapped(p.good_parts())) + pickled(_RUNS)), OK)
add(
    "zip-constants",
    lambda: archive(pickled(p.NONE), {"constants.pkl": pickled(_RUNS), "code/a.py": COMMAND.encode()}),
    OK,
)
add(
    "zip-byteorder-junk",
    lambda: archive(pickled(mapped(p.good_parts())), {"byteorder": b"\xff" * 99, "data/0": bytes(24)}),
    OK,
)
add("zip-start-only", lambda: b"PK\x03\x04", TRUNCATED, CONTAINER)
add("zip-end-only", lambda: b"PK\x05\x06" + bytes(18), FOREIGN)
for _cut in (1, 22, 23, 60, 98, 200):
    add(f"zip-cut-by-{_cut}", functools.partial(_part, -_cut), TRUNCATED, CONTAINER)
for _kept in (1, 2, 3, 4, 30, 64):
    add(f"zip-first-{_kept}", functools.partial(_part, _kept), TRUNCATED, CONTAINER, FOREIGN)


# --- other files ------------------------------------------------------------------------------------------------------
add("empty", lambda: b"", ("incomplete", "empty"))
add("zeros", lambda: bytes(100_000), ("incomplete", "zero-filled"))
add("hole-in-front", lambda: bytes(4096) + _good()[4096:] + b"x" * 4096, ("incomplete", "zero-filled"))
add("lfs-pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", FOREIGN)
add("html", lambda: b"\n<!DOCTYPE html><script>alert(1)</script>", FOREIGN)
add("gzip", lambda: b"\x1f\x8b" + bytes(100), FOREIGN)
add("npz", lambda: p.zipped([("a.npy", b"\x93NUMPY")]), FOREIGN)
add("escape-sequences", lambda: b"\x1b[2J\x1b]0;owned\x07" * 100, FOREIGN)
add("safetensors-header-lies", lambda: struct.pack("<Q", 1 << 62) + b"{" + b"x" * 100, FOREIGN)
add(
    "safetensors-laughs",
    lambda: struct.pack("<Q", 20_000) + b"{" + b'"a":[' * 4000 + b" " * 100,
    UNSUPPORTED,
    FOREIGN,
    DAMAGED,
    CONTAINER,
)
add("safetensors-junk", lambda: struct.pack("<Q", 50) + b"{" + b"\xff" * 100, UNSUPPORTED, FOREIGN, DAMAGED, CONTAINER)
add(
    "legacy-then-code",
    lambda: p.LEGACY_MAGIC + pickled(value(1001)) + pickled(_RUNS) * 3,
    DAMAGED,
)
add("legacy-cut", lambda: p.LEGACY_MAGIC, TRUNCATED)
add("tar", lambda: b"sys_info" + bytes(249) + b"ustar\x00" + bytes(1000), CONTAINER)
add("one-byte-of-a-pickle", lambda: b"\x80", TRUNCATED)
add("protocol-255", lambda: b"\x80\xff.", TRUNCATED)  # too short to be told from the start of something else
add("protocol-255-longer", lambda: b"\x80\xff" + b"." * 20, FOREIGN)
add("protocol-0-code", lambda: b"cos\nsystem\n(S'" + COMMAND.encode() + b"'\ntR.", FOREIGN)


# --- legacy files, tars, scripts and plain pickles that lie -----------------------------------------------------------
def deflated_archive(records: dict[str, bytes], methods: dict[str, int]) -> bytes:
    return p.zipped_each([(f"archive/{name}", data, methods.get(name, 0)) for name, data in records.items()])


def _legacy(**lie: bytes) -> bytes:
    """A legacy file of one tensor in storage 0, or one that lies."""
    states = mapped({"w": p.tensor(**lie)})
    return p.legacy(pickled(mapped({**p.good_parts(), "state_dict": states})), ["0"], struct.pack("<q6f", 6, *range(6)))


def _tar(name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE, linked: str = "", **more: str) -> bytes:
    """A member by its header only, with a size of its own saying, and the end of a tar."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.pax_headers = size_bytes, kind, linked, more
    return info.tobuf(tarfile.PAX_FORMAT if more else tarfile.GNU_FORMAT) + bytes(1024)


def _tar_member(name: str, data: bytes) -> bytes:
    return _tar(name, len(data))[:512] + data + bytes(-len(data) % 512)


def _script(code: bytes, size: int | None = None) -> bytes:
    """A TorchScript archive whose code is deflated."""
    state = built(p.stack_named("__torch__", "M") + b")\x81", mapped({"weight": p.tensor()}))
    records = {"data.pkl": pickled(state, 4), "constants.pkl": pickled(b")"), "code/__torch__.py": code}
    data = deflated_archive({**records, "data/0": bytes(24)}, {"code/__torch__.py": 8})
    if size is None:
        return data
    at = data.rindex(b"archive/code/__torch__.py") - 46 + 24
    return data[:at] + struct.pack("<L", size) + data[at + 4 :]


def _many_tensors() -> bytes:
    header = b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(1_000_000))
    return struct.pack("<Q", len(header) + 2) + b"{" + header + b"}"


def _inner(depth: int) -> bytes:
    """A storage by ``_load_from_bytes``, whose bytes hold another one, and so on."""
    data = b"N."
    for _ in range(depth):
        load = called(p.stack_named("torch.storage", "_load_from_bytes"), value(data))
        data = p.legacy(pickled(load, 4))
    return pickled(mapped({"state_dict": mapped({"w": p.tensor(persistent=value(data))})}), 4)


add("legacy-good", _legacy, OK)
add("legacy-storage-2-to-60", lambda: _legacy(numel=value(1 << 60)), TRUNCATED)
add("legacy-storage-2-to-62", lambda: _legacy(numel=value(1 << 62)), TRUNCATED)
add("legacy-storage-2-to-70", lambda: _legacy(numel=value(1 << 70)), DAMAGED)
add("legacy-storage-negative", lambda: _legacy(numel=value(-6)), DAMAGED)
add("legacy-storage-key-outside", lambda: _legacy(key=text("../../etc/passwd")), DAMAGED)
add("legacy-storage-code", lambda: _legacy(key=_RUNS), DAMAGED)
add("legacy-keys-100000", lambda: p.legacy(pickled(p.EMPTY_DICT), [str(i) for i in range(100_000)]), DAMAGED)
add("legacy-keys-of-lists", lambda: p.legacy(pickled(p.EMPTY_DICT), b"](" + b"]" * 1_000_000 + b"e"), DAMAGED, MEMORY)
add("legacy-keys-are-code", lambda: p.legacy(pickled(p.EMPTY_DICT), _RUNS), DAMAGED)
add("legacy-system-is-a-bomb", lambda: p.LEGACY_MAGIC + pickled(value(1001)) + _long_put(0xFFFFFFF), MEMORY, DAMAGED)
add("legacy-protocol-is-code", lambda: p.LEGACY_MAGIC + pickled(_RUNS), UNSUPPORTED)
add("tar-member-10-to-9", lambda: _tar("sys_info", 10**9), TRUNCATED)
add("tar-member-2-to-62", lambda: _tar("sys_info", 1 << 62), TRUNCATED)
add("tar-member-negative", lambda: _tar("sys_info", 0).replace(b"0" * 11, b"-0000000001", 1), CONTAINER)
add("tar-pax-size-text", lambda: _tar("sys_info", 0, size="x"), FOREIGN)  # tarfile takes it for 0
add("tar-pax-size-negative", lambda: _tar("sys_info", 0, size="-9999"), CONTAINER)
add("tar-pax-of-a-megabyte", lambda: _tar("sys_info", 0, comment="x" * (1 << 20)), FOREIGN)
add("tar-pax-header-of-a-gigabyte", lambda: _tar("sys_info", 1 << 30, tarfile.XHDTYPE), TRUNCATED, CONTAINER, MEMORY)
add(
    "tar-long-name-of-a-gigabyte",
    lambda: _tar("sys_info", 1 << 30, tarfile.GNUTYPE_LONGNAME),
    TRUNCATED,
    CONTAINER,
    MEMORY,
)
add("tar-links-in-a-circle", lambda: b"".join(
    _tar(name, 0, tarfile.SYMTYPE, other)[:512]
    for name, other in (("sys_info", "pickle"), ("pickle", "storages"), ("storages", "tensors"), ("tensors", "pickle"))
) + bytes(1024), CONTAINER)  # fmt: skip
add("tar-link-to-passwd", lambda: b"".join(
    _tar(name, 0, tarfile.LNKTYPE, "/etc/passwd")[:512] for name in ("sys_info", "pickle", "storages", "tensors")
) + bytes(1024), CONTAINER)  # fmt: skip
add("tar-of-many-members", lambda: _tar("sys_info", 0)[:512] * 100_000 + bytes(1024), FOREIGN, CONTAINER, TIME)
add(
    "tar-of-code",
    lambda: (
        b"".join(_tar_member(name, pickled(_RUNS)) for name in ("sys_info", "storages", "tensors", "pickle"))
        + bytes(1024)
    ),
    DAMAGED,
)
add("script-good", lambda: _script(b'class M(Module):\n  __parameters__ = ["weight", ]\n'), OK)
add("script-code-bomb", lambda: _script(bytes(300 << 20)), LIMIT)
add("script-code-bomb-that-lies", lambda: _script(bytes(300 << 20), 100), CONTAINER)
add("script-code-slow-to-search", lambda: _script(b"class M(Module):\n" + b"  \n" * 5_000_000), OK, TIME, MEMORY)
add("script-code-of-classes", lambda: _script(b"class M(Module):\n  __parameters__ = [" * 500_000), OK, TIME, MEMORY)
add("pickle-storage-none", lambda: _inner(0), OK)
add("pickle-storage-of-storages", lambda: _inner(50), OK)
add("pickle-storage-bomb", lambda: pickled(mapped({"state_dict": mapped({"w": p.tensor(
    persistent=value(_long_put(0xFFFFFFF))
)})}), 4), OK, MEMORY)  # fmt: skip
add(
    "safetensors-header-of-100-mb",
    lambda: struct.pack("<Q", 100 << 20) + b'{"a":' + b" " * ((100 << 20) - 6) + b"}",
    CONTAINER,
    MEMORY,
    TIME,
)
add("safetensors-million-tensors", _many_tensors, OK, MEMORY, TIME, LIMIT)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _preallocated(path: Path) -> None:
    path.write_bytes(_good())
    with path.open("r+b") as file:
        file.truncate(1 << 30)


def _sparse_pickle(path: Path) -> None:
    """An archive whose data.pkl is a gigabyte of nothing."""
    size = 1 << 30
    name = b"archive/data.pkl"
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, size, size, len(name), 0) + name
    entry = (
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, 0) + name
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local) + size, 0)
    with path.open("wb") as file:
        file.write(local)
        file.seek(size, os.SEEK_CUR)
        file.write(entry + end)


place("sparse-gigabyte", _sparse, ("incomplete", "zero-filled"), is_file=True)
place("preallocated-tail", _preallocated, TRUNCATED, is_file=True)
place("sparse-pickle", _sparse_pickle, LIMIT, is_file=True)


# --- what is no file --------------------------------------------------------------------------------------------------
def _link(target: str) -> Build:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    # Bound by a name relative to the folder: an address holds 107 bytes.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _through_folder_link(path: Path) -> None:
    folder = path.with_name("real")
    folder.mkdir()
    (folder / "target.bin").write_bytes(_good())
    path.with_name("way").symlink_to("real")
    path.symlink_to("way/target.bin")


def _loop(path: Path) -> None:
    path.symlink_to("other")
    path.with_name("other").symlink_to(path.name)


def _folder_of_many(path: Path) -> None:
    path.mkdir()
    for i in range(10_000):
        (path / f"{i}.distcp").touch()


def _folder_with_loop(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner/up").symlink_to("..")
    (path / "inner/inner.ckpt").symlink_to(path.name)
    (path / "meta.pt").symlink_to("/dev/zero")
    os.mkfifo(path / ".metadata")


def _folder_of_folders(path: Path) -> None:
    path.mkdir()
    (path / "x.ckpt").mkdir()
    (path / "x.ckpt/y.ckpt").write_bytes(_good())
    (path / "latest").write_text("../../../../etc")


def _folder_of_metadata(data: bytes) -> Build:
    def build(path: Path) -> None:
        path.mkdir()
        (path / ".metadata").write_bytes(data)

    return build


def _folder_of_shards(name: str, data: bytes | None = None, *, link: str | None = None) -> Build:
    """Metadata that says where the one tensor is."""
    module = "torch.distributed.checkpoint."
    info = built(p.stack_named(module + "filesystem", "_StorageInfo") + b")\x81",
                 value({"relative_path": name, "offset": 0, "length": 10}))  # fmt: skip
    index = built(p.stack_named(module + "metadata", "MetadataIndex") + b")\x81", value({"fqn": "w"}))
    state = mapped({"state_dict_metadata": p.EMPTY_DICT, "storage_data": b"}" + index + info + b"s"})
    metadata = pickled(built(p.stack_named(module + "metadata", "Metadata") + b")\x81", state), 4)

    def build(path: Path) -> None:
        path.mkdir()
        (path / ".metadata").write_bytes(metadata)
        if data is not None:
            (path / name).write_bytes(data)
        if link is not None:
            (path / name).symlink_to(link)

    return build


def _folder_of_deepspeed(latest: bytes, states: bytes | None = None) -> Build:
    def build(path: Path) -> None:
        (path / "checkpoint").mkdir(parents=True)
        (path / "latest").write_bytes(latest)
        if states is not None:
            (path / "checkpoint/mp_rank_00_model_states.pt").write_bytes(states)

    return build


place("link-to-dev-zero", _link("/dev/zero"), OUTSIDE)
place("link-to-dev-stdin", _link("/dev/fd/0"), OUTSIDE, DANGLING, NO_FILE, ("unreadable", "io-error"))
place("link-to-passwd", _link("/etc/passwd"), OUTSIDE)
place("link-to-passwd-relative", _link("../" * 40 + "etc/passwd"), OUTSIDE)
place("link-to-proc-mem", _link("/proc/self/mem"), OUTSIDE)
place("link-to-proc-environ", _link("/proc/self/environ"), OUTSIDE)
place("link-to-file-system", _link("/"), OUTSIDE)
place("link-to-itself", _link("case.ckpt"), LOOP)
place("link-cycle", _loop, LOOP)
place("link-dangling", _link("nowhere"), DANGLING)
place("link-with-escapes", _link("\x1b[2J\n\udcff\x9b"), DANGLING)
place("link-through-a-file", _link("/etc/passwd/x"), DANGLING)
place("link-very-long", _link("a/" * 2000 + "b"), DANGLING, ("unreadable", "io-error"))
place("link-to-its-folder", _link("."), LOOP)
place("link-through-folder-link", _through_folder_link, OK)
place("fifo", os.mkfifo, NO_FILE)
place("socket", _socket, NO_FILE)
if os.geteuid() == 0:
    place("device-zero", lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)), NO_FILE)
    place("device-disk", lambda path: os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 250)), NO_FILE)
place("folder-empty", lambda path: path.mkdir(), ("incomplete", "empty"))
place("folder-of-10000-files", _folder_of_many, TRUNCATED)
place("folder-with-link-cycle", _folder_with_loop, NO_FILE)
place("folder-of-folders", _folder_of_folders, MISSING)
place("folder-of-shards", _folder_of_shards("__0_0.distcp", bytes(10)), OK)
place("folder-naming-passwd", _folder_of_shards("/etc/passwd"), DAMAGED)
place("folder-naming-passwd-above", _folder_of_shards("../" * 20 + "etc/passwd"), DAMAGED)
place("folder-naming-itself", _folder_of_shards(".metadata"), OK, SHORT)
place("folder-naming-dev-zero", _folder_of_shards("zero", link="/dev/zero"), NO_FILE)
for _name in ("reduce", "newobj", "stack-global-dotted", "build-setstate"):
    place(f"folder-metadata-{_name}", _folder_of_metadata(pickled(CODE[_name], 4)), CONTAINER)
place("folder-metadata-bomb", _folder_of_metadata(_long_put(0xFFFFFFF)), MEMORY, DAMAGED, CONTAINER)
place("folder-metadata-lists", _folder_of_metadata(pickled(b"](" + b"]" * 10_000_000 + b"e")), MEMORY, TIME)
place("folder-metadata-deep", _folder_of_metadata(_deep_lists(100_000)), CONTAINER, MEMORY, DAMAGED)
place("folder-latest-outside", _folder_of_deepspeed(b"../../../../../../etc"), MISSING)
place("folder-latest-huge", _folder_of_deepspeed(b"a" * 10_000_000), MISSING)
place("folder-states-bomb", _folder_of_deepspeed(b"checkpoint", archive(_long_put(0xFFFFFFF))), MEMORY, DAMAGED, OK)
place("folder-states-code", _folder_of_deepspeed(b"checkpoint", archive(pickled(_RUNS))), OK)

# --- names of good checkpoints ----------------------------------------------------------------------------------------
NAMES = (
    b".ckpt",
    b"-rf.ckpt",
    b"new\nline.ckpt",
    b"\x1b[2J\x1b]0;t\x07.ckpt",
    b"\xff\xfe.ckpt",
    b"back\\slash.ckpt",
    b"tab\t.ckpt",
    b"trailing .ckpt",
    b"\xc2\x9b31m.ckpt",
    "é.ckpt".encode(),
    "e\u0301.ckpt".encode(),
    "\u202egpj.ckpt".encode(),
    "\u2028.ckpt".encode(),
    "\U0001f389.ckpt".encode(),
    b"$(touch x).ckpt",
    b"%s%n{0}.ckpt",
    b"a" * 250 + b".ckpt",
    b"\\x41.ckpt",
    b"\x7f.ckpt",
    b"'\";--.ckpt",
    b"epoch=9" * 34 + b".ckpt",
    b"*?[.ckpt",
    b"..ckpt",
    b"x.ckpt.ckpt",
)


# --- YAML -------------------------------------------------------------------------------------------------------------
def _yaml_laughs() -> bytes:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    return "\n".join(lines).encode()


def _yaml_merges() -> bytes:
    lines = ["a0: &a0 {k0: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: 1}}" for i in range(1, 40)]
    return "\n".join(lines).encode()


DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "scalar": b"just text",
    "number": b"42",
    "list": b"[1, 2]",
    "binary": b"\x00\xff\xfe\x80" * 100,
    "utf-16": "a: 1".encode("utf-16"),
    "nul": b"a: \x00",
    "tab": b"a:\n\t- b",
    "unclosed": b"a: [1, 2",
    "several-documents": b"a: 1\n---\nb: 2\n",
    "laughs": _yaml_laughs(),
    "merge-laughs": _yaml_merges(),
    "merge-itself": b"a: &a {<<: *a, b: 1}",
    "anchor-of-itself": b"&a [*a]",
    "anchor-in-its-mapping": b"&a {b: *a}",
    "anchor-twice": b"a: &x 1\nb: &x 2\nc: *x",
    "anchor-absent": b"a: *nobody",
    "deep-flow-lists": b"[" * 100_000 + b"]" * 100_000,
    "deep-flow-mappings": b"{a: " * 50_000 + b"}" * 50_000,
    "deep-unclosed": b"[" * 500_000,
    "deep-block": b"".join(b" " * i + b"a:\n" for i in range(1000)),
    "deep-sequences": b"- " * 100_000 + b"x",
    "too-large": b"a: " + b"x" * (1 << 20),
    "many-keys": b"".join(b"k%d: 1\n" % i for i in range(60_000)),
    "python-apply": f"!!python/object/apply:os.system ['{COMMAND}']".encode(),
    "python-new": f"!!python/object/new:os.system ['{COMMAND}']".encode(),
    "python-name": b"a: !!python/name:os.system ''",
    "python-module": b"a: !!python/module:os ''",
    "tag-unknown": b"a: !nothing {x: 1}",
    "tag-bool": b"a: !!bool maybe",
    "tag-int": b"a: !!int ''",
    "tag-int-text": b"a: !!int x",
    "tag-float": b"a: !!float ''",
    "tag-null": b"a: !!null x",
    "tag-timestamp": b"a: !!timestamp never",
    "tag-binary": b"a: !!binary '=='",
    "tag-binary-utf8": "a: !!binary é".encode(),
    "tag-set": b"!!set {a, b}",
    "tag-omap": b"!!omap [a: 1, b: 2]",
    "tag-pairs": b"!!pairs [a: 1]",
    "tag-wrong-node": b"a: !!map [1]\nb: !!seq {a: 1}\nc: !!str [1]",
    "value-key": b"=: 1\na: =",
    "dates": b"a: 2001-12-14t21:59:43.10-05:00\nb: 2001-12-14\n"
    b"c: 0001-01-01T00:00:00+23:59\nd: 9999-12-31T23:59:59-23:59",
    "date-invalid": b"a: 2001-99-99",
    "date-overflow": b"a: 0001-01-01T00:00:00+23:59\nb: 9999-12-31T23:59:59-23:59",
    "int-long": b"a: " + b"9" * 100_000,
    "int-hex-long": b"a: 0x" + b"f" * 500_000,
    "int-sexagesimal": b"a: 1" + b":59" * 100_000,
    "int-underscores": b"a: 0x_\nb: 1_\nc: 0b_",
    "float-long": b"a: 1." + b"0" * 100_000 + b"e+999999999",
    "floats": b"a: .inf\nb: -.inf\nc: .nan\nd: 1:30.5",
    "keys": b"1: a\nnull: b\n2001-01-01: c\n1.5: d\ntrue: e\n? [1, 2]\n: f",
    "key-mapping": b"? {a: 1}\n: b",
    "key-long": b"? " + b"k" * 500_000 + b"\n: 1",
    "directive": b"%YAML 9.9\n---\na: 1",
    "directive-tag": b"%TAG ! tag:yaml.org,2002:python/object/apply:\n---\n!os.system ['x']",
    "escapes": b'a: "\\x1b[2J\\0\\u2028\\x9b\\uD800"\nb: "\\x1b]0;x\\x07"',
    "keys-with-escapes": b'"\\x1b[2J\\n": "\\x9b"\ntraining: {"\\x1b": 1}\nmodel: {encoder: "\\x1b[31m"}',
    "html": b"<html></html>",
}

SLOW_DOCUMENTS = frozenset(
    {"merge-laughs", "int-sexagesimal", "deep-flow-lists", "deep-flow-mappings", "deep-unclosed"}
)

_SIDECAR = "schema_version: '1.0'\ncheckpoint_path: x\nexp_name: e\ncreated_at: '2026-01-01T00:00:00'\n"
_SIDECAR_FIELDS = (
    "schema_version",
    "checkpoint_path",
    "exp_name",
    "created_at",
    "training",
    "training.epoch",
    "training.global_step",
    "training.training_phase",
    "training.max_epochs",
    "model",
    "model.architecture",
    "model.encoder",
    "model.encoder.model_name",
    "model.encoder.pretrained",
    "model.decoder",
    "model.decoder.in_channels",
    "model.decoder.params",
    "model.head",
    "model.loss",
    "metrics",
    "metrics.hmean",
    "metrics.additional_metrics",
    "checkpointing",
    "checkpointing.monitor",
    "checkpointing.mode",
    "checkpointing.save_top_k",
    "checkpointing.save_last",
    "hydra_config_path",
    "wandb_run_id",
    "indexer",
    "indexer.fingerprint",
)
_WRONG_YAML = (
    "3",
    "'text'",
    "[1]",
    "{a: [b]}",
    "true",
    "null",
    ".nan",
    "'1000000000000000000000000000000'",
    "1000000000000000000000000000000",
    "-1",
    "2001-01-01",
    "1.0e+300",
    '"\\e[2J\\x9b"',
)


def _nested(field: str, written: str) -> str:
    """Write ``a.b: value`` as flow YAML."""
    *outer, last = field.split(".")
    text_ = f"{last}: {written}"
    for name in reversed(outer):
        text_ = f"{name}: {{{text_}}}"
    return text_


def sidecar_with(field: str, written: str) -> bytes:
    lines = [line for line in _SIDECAR.splitlines() if not line.startswith(f"{field}:")]
    return "\n".join([*lines, _nested(field, written)]).encode()


WRONG_SIDECARS: dict[str, bytes] = {
    f"{field}-{i}": sidecar_with(field, written) for field in _SIDECAR_FIELDS for i, written in enumerate(_WRONG_YAML)
}


def forged_sidecar(key: str, path: Path, **fields: str) -> bytes:
    """Write a sidecar that claims to be ours and current, with some of what only we write made up."""
    status = path.stat()
    indexer = {
        "version": "'9.9'",
        "fingerprint": f"[{status.st_size}, {status.st_mtime_ns}, {status.st_ino}]",
        "format": "torch-zip",
    } | fields
    inner = ", ".join(f"{name}: {written}" for name, written in indexer.items())
    return (
        _SIDECAR.replace("checkpoint_path: x", f"checkpoint_path: {json.dumps(key)}") + f"indexer: {{{inner}}}\n"
    ).encode()


FORGED: dict[str, dict[str, str]] = {
    "problem-unknown": {"problem": "{code: from-the-future, message: m}"},
    "problem-long": {"problem": '{code: truncated, message: "' + "\\e[2J" * 190 + '"}'},
    "parameters-huge": {"parameters": "'1000000000000000000000000000000'"},
    "parameters-negative": {"parameters": "-5"},
    "monitor-nan": {"monitor_value": ".nan"},
    "warnings-escapes": {"warnings": '["\\e[2J"]'},
    "callbacks-deep": {"callbacks": "[" + "{a: " * 25 + "1" + "}" * 25 + "]"},
    "content-id-text": {"content_id": '"\\e[2J"'},
    "lightning-version": {"lightning_version": '"\\e[2J\\x9b"'},
}


# --- the index --------------------------------------------------------------------------------------------------------
def _index(**changes: object) -> bytes:
    document = {"version": "1.0", "last_updated": "", "generation": 1, "checkpoints": {}, "entries": {}} | changes
    return json.dumps(document).encode()


ENTRY = {
    "path": "a.ckpt",
    "experiment": ".",
    "name": "../a.ckpt",
    "size_bytes": 1,
    "mtime": "",
    "fingerprint": [1, 1, 1],
}
_ENTRY_LIES: dict[str, object] = {
    "path": "b.ckpt",
    "experiment": 3,
    "name": None,
    "size_bytes": "x",
    "mtime": [],
    "fingerprint": [1],
    "format": "new",
    "status": "fine",
    "problem": {"code": "from-the-future", "message": "m"},
    "epoch": "three",
    "metrics": {"a": "b"},
    "monitor": [],
    "parameters": 10**30,
    "link_target": "../../etc/passwd",
    "metadata_file": "/etc/passwd",
    "config_path": "/etc/passwd",
    "generation": 10**30,
    "size": 1,
}

INDEXES: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(1000),
    "null": b"null",
    "list": b"[]",
    "text": b"not JSON",
    "cut": _index(entries={"a.ckpt": ENTRY})[:-30],
    "binary": b"\xff\xfe\x00" * 100,
    "bom": b"\xef\xbb\xbf" + _index(),
    "no-version": b"{}",
    "version-number": _index(version=1),
    "deep": b"[" * 1_000_000,
    "deep-extra": b'{"version":"1.0","entries":{},"x":' + b"[" * 900 + b"]" * 900 + b"}",
    "generation-text": _index(generation="x"),
    "generation-huge": _index(generation=10**30),
    "generation-2-to-64": _index(generation=(1 << 64) - 1),
    "generation-2-to-63": _index(generation=(1 << 63) - 1),
    "generation-negative": _index(generation=-(1 << 63)),
    "entries-list": _index(entries=[]),
    "entries-of-lists": _index(entries={"a.ckpt": [], "b.ckpt": 1, "": None}),
    "entries-unknown-fields": _index(
        entries={"a.ckpt": {**ENTRY, "from_the_future": {"x": [1]}}}, from_the_future={"x": 1}
    ),
    "extra-not-utf-8": b'{"version":"1.0","entries":{},"x":"\xff\xfe"}',
    "extra-key-not-utf-8": b'{"version":"1.0","entries":{},"\xff":1}',
    "extra-surrogates": b'{"version":"1.0","entries":{},"x":"\\ud800"}',
    "extra-controls": b'{"version":"1.0","entries":{},"x":"\xc2\x9b\x7f\\u001b"}',
    "extra-number-huge": b'{"version":"1.0","entries":{},"x":1e99999}',
    "entry-extra-not-utf-8": _index(entries={"a.ckpt": {**ENTRY, "x": "?"}}).replace(b'"?"', b'"\xff"'),
    "key-absolute": _index(entries={"/etc/a.ckpt": {**ENTRY, "path": "/etc/a.ckpt"}}),
    "key-above": _index(entries={"../../a.ckpt": {**ENTRY, "path": "../../a.ckpt"}}),
    "key-empty": _index(entries={"": {**ENTRY, "path": ""}}),
    "key-slashes": _index(entries={"//": {**ENTRY, "path": "//"}, "a//b.ckpt": {**ENTRY, "path": "a//b.ckpt"}}),
    "key-nul": _index(entries={"\x00.ckpt": {**ENTRY, "path": "\x00.ckpt"}}),
    "key-escapes": _index(entries={"\x1b[2J.ckpt": {**ENTRY, "path": "\x1b[2J.ckpt"}}),
    "key-surrogate": _index(entries={"\\xff\\x80.ckpt": {**ENTRY, "path": "\\xff\\x80.ckpt"}}),
    "link-absolute": _index(entries={"good.ckpt": {**ENTRY, "path": "good.ckpt", "link_target": "/etc/passwd"}}),
    "link-incomplete": _index(
        entries={"/x.ckpt": {**ENTRY, "path": "/x.ckpt", "link_target": "//", "status": "incomplete"}}
    ),
    "checkpoints-wrong": _index(checkpoints=[1, 2]),
    "twice": b'{"version":"1.0","entries":{"a":1},"entries":{}}',
    "large": _index(x="y" * 20_000_000),
    "many": _index(entries={f"{i}.ckpt": {**ENTRY, "path": f"{i}.ckpt"} for i in range(20_000)}),
} | {
    f"entry-{field}": _index(
        entries={"a.ckpt": {**ENTRY, field: lie}, "good.ckpt": {**ENTRY, "path": "good.ckpt", field: lie}}
    )
    for field, lie in _ENTRY_LIES.items()
}


def good_file() -> bytes:
    """The checkpoint that must be read as ever after each of them."""
    return _good()
