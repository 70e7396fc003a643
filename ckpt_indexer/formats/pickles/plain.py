"""From inert objects to what a person would write: text, numbers, lists and dicts, bounded.

One class, ``Plainer``, one instance a file: it carries the budget. Promises that what comes out is a tree (cycles are
cut) of at most ``NODES_MAX`` nodes, ``DEPTH_MAX`` levels and ``TEXT_MAX`` characters a text, of types that JSON, YAML
and msgpack all write: a lambda, an optimiser or a million strings in the hyper-parameters cost a marker, not a sidecar.

| in the pickle | comes out as |
|---|---|
| OmegaConf containers and nodes | dict, list, value; interpolations as their text |
| ``Namespace``, ``AttributeDict``, ``OrderedDict``, ``defaultdict`` | dict |
| ``Enum``, ``Decimal``, ``torch.device``, other one-argument values | the argument |
| ``Path`` | its text; ``datetime``, ``date``, ``time``: ISO 8601; ``timedelta``: ``1 day, 0:00:00`` |
| numpy scalar, 0-d tensor | number; small numpy array: list; larger ones and tensors: their shape and dtype |
| class, function, dtype | its dotted name |
| any other object | dict with ``_class_`` and its state |
"""

from __future__ import annotations

import datetime as dt
import math
import struct
from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.pickles.tensors import numpy_dtype, parse_tensor
from ckpt_indexer.formats.pickles.unpickle import Inert, ParameterRef, TensorRef, TypedTensorRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.formats.pickles.values import Fetch

NODES_MAX = 5_000  # a large Hydra config has about 500
DEPTH_MAX = 32
TEXT_MAX = 1_000  # characters of one text
TEXT_TOTAL_MAX = 200_000  # characters of all texts and keys, escapes spelled out: what a sidecar can hold
INT_BITS_MAX = 63  # what every JSON and msgpack reader takes; larger ones are written as text
ARRAY_MAX = 64  # elements of a numpy array worth writing out
CUT = "…"

_TENSORS = (TensorRef, TypedTensorRef, ParameterRef)
_NUMPY_CODES = {
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "b1": "?",
}  # fmt: skip - numpy type code -> struct code


class Plainer:
    """Turns one file's inert objects into plain data, within one budget."""

    def __init__(self, fetch: Fetch, *, nodes_max: int = NODES_MAX, text_max: int = TEXT_TOTAL_MAX) -> None:
        self.fetch = fetch
        self._nodes_left = nodes_max
        self._text_left = text_max
        self._open: set[int] = set()  # ids of the containers being walked: meeting one again is a cycle

    def plain(self, value: Any) -> Any:
        """Return *value* as plain data."""
        self._nodes_left -= 1
        if self._nodes_left < 0 or len(self._open) >= DEPTH_MAX:
            return CUT
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is int:
            return value if value.bit_length() <= INT_BITS_MAX else _large_int(value)
        if kind is str:
            return self._text(value)
        if kind is bytes or kind is bytearray or kind is memoryview:
            return text(bytes(value[:TEXT_MAX]).decode("latin1"))
        if id(value) in self._open:
            return CUT
        self._open.add(id(value))
        try:
            return self._container(value)
        finally:
            self._open.discard(id(value))

    def _text(self, value: str) -> str:
        shown = text(value)
        # Counted as it may have to be written: "\\U0001F389" takes ten characters where the text has one.
        self._text_left -= len(shown.encode("unicode_escape"))
        return shown if self._text_left >= 0 else CUT

    def mapping(self, value: Any) -> dict[str, Any] | None:
        """Return *value* as a plain dict, or ``None`` if it is nothing of that kind."""
        result = self.plain(value)
        return result if isinstance(result, dict) else None

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._pairs(dict.items(value))
        if isinstance(value, list | tuple):
            return self._list(value)
        if isinstance(value, set | frozenset):
            return self._set(value)
        if isinstance(value, dt.date | dt.time):  # YAML makes these
            return value.isoformat()
        if isinstance(value, _TENSORS):
            return self._tensor(value)
        if isinstance(value, Inert):
            return self._object(value)
        if isinstance(value, type):
            return text(value.full_name()) if issubclass(value, Inert) else value.__name__
        return text(repr(value))  # complex, and what later pickles may bring

    def _pairs(self, pairs: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if self._nodes_left <= 0 or self._text_left <= 0:
                result[CUT] = CUT
                break
            result[self._text(key) if type(key) is str else text(str(self.plain(key)))] = self.plain(value)
        return result

    def _set(self, items: Any) -> list[Any]:
        """Return a set's items in an order that is the same in every process, which that of hashes is not."""
        try:
            items = sorted(items)
        except TypeError:
            return sorted(self._list(items), key=str)
        return self._list(items)

    def _list(self, items: Any) -> list[Any]:
        result = []
        for item in items:
            if self._nodes_left <= 0:
                result.append(CUT)
                break
            result.append(self.plain(item))
        return result

    def _tensor(self, value: Any) -> Any:
        tensor = parse_tensor(value)
        if tensor is None:
            return "tensor(?)"
        number = self.fetch(tensor) if tensor.numel == 1 and not tensor.shape else None
        return f"tensor(shape={list(tensor.shape)}, dtype={tensor.dtype})" if number is None else number

    def _object(self, value: Inert) -> Any:
        cls = type(value)
        if (convert := _CONVERTERS.get(cls.qualname)) is not None:
            converted = convert(self, value)
            if converted is not NotImplemented:
                return converted
        if cls.module.startswith("omegaconf."):
            return self._omegaconf(value)
        if cls.qualname.startswith("_rebuild_"):
            return self._tensor(value)
        if value.pairs and not value.items:  # AttributeDict, defaultdict, Counter: dict subclasses
            return self._pairs(value.pairs)
        if value.items and not value.pairs:  # list and set subclasses
            return self._list(value.items)
        if value.state is None and len(value.args) == 1 and not value.kwargs:
            only = value.args[0]
            if isinstance(only, str | int | float | bool):  # Enum('fast'), Decimal('1.5'), device('cuda')
                return self.plain(only)
        result: dict[str, Any] = {"_class_": text(cls.full_name())}
        if value.args:
            result["args"] = self._list(value.args)
        if value.kwargs:
            result["kwargs"] = self.plain(value.kwargs)
        if value.state is not None:
            state = self.plain(value.state)
            result.update(state if isinstance(state, dict) else {"state": state})
        return result

    def _omegaconf(self, value: Inert) -> Any:
        """Read a DictConfig, ListConfig or node; their parents are cycles and are left out."""
        state = value.state
        if isinstance(state, dict):
            for name in ("_content", "_val"):
                if name in state:
                    return self.plain(state[name])
        return self._pairs(value.pairs) if value.pairs else self._list(value.items)

    def state(self, value: Inert) -> Any:
        return self._pairs(dict.items(value.state)) if isinstance(value.state, dict) else {}

    def path(self, value: Inert) -> Any:
        parts = [str(self.plain(part)) for part in value.args]
        if not parts:
            return "."
        return text(parts[0] + "/".join(parts[1:]) if parts[0].endswith(("/", "\\")) else "/".join(parts))

    def reconstructed(self, value: Inert) -> Any:
        """``copyreg._reconstructor(cls, base, state)``: an object as protocols 0 and 1 write it."""
        if not value.args or not (isinstance(value.args[0], type) and issubclass(value.args[0], Inert)):
            return NotImplemented
        made = value.args[0]()
        made.state = value.state
        made.pairs, made.items = value.pairs, value.items
        return self._object(made)

    def numpy_scalar(self, value: Inert) -> Any:
        if len(value.args) != 2:
            return NotImplemented
        dtype = numpy_dtype(value.args[0])
        numbers = _numpy_values(dtype, _raw_bytes(value.args[1]))
        return numbers[0] if numbers else text(f"{dtype or 'numpy'} scalar")

    def numpy_array(self, value: Inert) -> Any:
        state = value.state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple):
            return NotImplemented
        return self._array(numpy_dtype(state[2]), self._list(state[1]), _raw_bytes(state[4]))

    def numpy_buffer(self, value: Inert) -> Any:
        """``_frombuffer(data, dtype, shape, order)``: an array as protocol 5 writes it."""
        if len(value.args) != 4 or not isinstance(value.args[2], tuple):
            return NotImplemented
        data, dtype, shape, _ = value.args
        return self._array(numpy_dtype(dtype), self._list(shape), _raw_bytes(data))

    def _array(self, dtype: str | None, shape: list[Any], data: bytes) -> Any:
        numbers = _numpy_values(dtype, data) if len(shape) == 1 else None
        if numbers is not None and len(numbers) <= ARRAY_MAX:
            return numbers
        return text(f"ndarray(shape={shape}, dtype={dtype})")


def text(value: str) -> str:
    """Bound a text, and replace what UTF-8 cannot hold."""
    if len(value) > TEXT_MAX:
        value = value[: TEXT_MAX - 1] + CUT
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _large_int(value: int) -> str:
    return hex(value) if value.bit_length() <= 1024 else f"int of {value.bit_length()} bits"


def _raw_bytes(value: Any) -> bytes:
    """Read bytes as protocol 2 writes them: ``_codecs.encode(text, 'latin1')``."""
    if isinstance(value, Inert) and type(value).qualname == "encode" and value.args:
        value = value.args[0]
    if isinstance(value, str):
        return value.encode("latin1", "replace")
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


def _numpy_values(dtype: str | None, data: bytes) -> list[Any] | None:
    code = _NUMPY_CODES.get(dtype[1:]) if dtype else None
    if dtype is None or code is None:
        return None
    count, rest = divmod(len(data), struct.calcsize(code))
    if rest or count > ARRAY_MAX:
        return None
    return list(struct.unpack(f"{dtype[0]}{count}{code}", data))


def _date(kind: Callable[..., Any]) -> Callable[[Plainer, Inert], Any]:
    """Read a date or time from the packed bytes its ``__reduce__`` gives (Lib/_pydatetime.py)."""

    def convert(_: Plainer, value: Inert) -> Any:
        packed = _raw_bytes(value.args[0]) if value.args else b""
        try:
            return str(kind(packed, *map(_timezone, value.args[1:])).isoformat())
        except (TypeError, ValueError, OverflowError):
            return NotImplemented

    return convert


def _timezone(value: Any) -> dt.tzinfo:
    """Read ``timezone(timedelta(...))``; a named zone's offset would need a database."""
    if (
        isinstance(value, Inert)
        and type(value).qualname == "timezone"
        and value.args
        and isinstance(value.args[0], Inert)
    ):
        return dt.timezone(dt.timedelta(*value.args[0].args))
    raise TypeError("no fixed offset")


def _timedelta(_: Plainer, value: Inert) -> Any:
    try:
        return str(dt.timedelta(*value.args))
    except (TypeError, ValueError, OverflowError):
        return NotImplemented


def _complex(_: Plainer, value: Inert) -> Any:
    parts = value.args
    try:
        if len(parts) == 2 and all(isinstance(p, float | int) and math.isfinite(p) for p in parts):
            return str(complex(*parts))
    except OverflowError:  # an integer beyond every float
        pass
    return NotImplemented


def _bytes(_: Plainer, value: Inert) -> Any:
    return text(_raw_bytes(value)[:TEXT_MAX].decode("latin1"))


def _set(plainer: Plainer, value: Inert) -> Any:
    """``set([...])``, as protocols 0 to 3 write it, in the order that protocol 4's own opcodes come out in."""
    items = plainer.plain([*value.args[0], *value.items] if value.args and isinstance(value.args[0], list) else [])
    return sorted(items, key=lambda item: (str(type(item)), item) if isinstance(item, str | int) else (str(item),))


def _sequence(plainer: Plainer, value: Inert) -> Any:
    first = value.args[0] if value.args else ()
    return plainer.plain([*first, *value.items] if isinstance(first, list | tuple) else first)


def _attribute(plainer: Plainer, value: Inert) -> Any:
    """``getattr(torch._C._VariableFunctionsClass, 'relu')``: how functions implemented in C are pickled."""
    return text(".".join(str(plainer.plain(part)) for part in value.args))


def _partial(plainer: Plainer, value: Inert) -> Any:
    state = value.state
    if not isinstance(state, tuple) or len(state) < 3:
        return NotImplemented
    return {"_class_": "functools.partial", "func": plainer.plain(state[0]), "args": plainer.plain(state[1]),
            "keywords": plainer.plain(state[2])}  # fmt: skip


_CONVERTERS: dict[str, Callable[[Plainer, Inert], Any]] = {
    "Namespace": Plainer.state,
    "SimpleNamespace": Plainer.state,
    "PosixPath": Plainer.path,
    "WindowsPath": Plainer.path,
    "PurePosixPath": Plainer.path,
    "PureWindowsPath": Plainer.path,
    "_reconstructor": Plainer.reconstructed,
    "scalar": Plainer.numpy_scalar,
    "_reconstruct": Plainer.numpy_array,
    "_frombuffer": Plainer.numpy_buffer,
    "datetime": _date(dt.datetime),
    "date": _date(dt.date),
    "time": _date(dt.time),
    "timedelta": _timedelta,
    "complex": _complex,
    "encode": _bytes,
    "set": _set,
    "frozenset": _set,
    "Counter": _sequence,
    "Size": _sequence,
    "getattr": _attribute,
    "partial": _partial,
}
