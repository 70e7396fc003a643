"""Unpickling without running anything: every class and function a file names becomes an inert stand-in.

Owns the stand-ins and promises: no module is imported, no attribute of a module is fetched, no callable of the file is
called. What a pickle can reach are only the types of this file, and they cannot be changed by it: their metaclass
refuses attribute assignment (a BUILD opcode aimed at a class would otherwise change it for every later file), and
they are types implemented in C wherever a checkpoint uses them in numbers.

What comes out is a graph of ``dict``, ``list``, ``tuple``, numbers, text, ``StateMap``, ``TensorRef``,
``ParameterRef`` and ``Inert``. It may be cyclic, 100,000 levels deep, and of any type at any place: whoever walks it
bounds the walk. Memory and time are bounded by the process it runs in (``worker``).

Formats: CPython's Lib/pickletools.py; torch's argument orders: torch/_utils.py.
"""

from __future__ import annotations

import functools
import io
import pickle
from typing import IO, TYPE_CHECKING, Any, Self

import msgspec

from ckpt_indexer.formats.pickles.lengths import asks_for_more

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SCAN_MAX = 32 << 20  # bytes of a pickle that are looked through after it ran out of memory
GLOBALS_MAX = 1000  # distinct classes and functions a file may name; the most in real files is 45
NAME_MAX = 500  # characters of "module.name"; torch itself takes minutes over a 100 kB one


class _FrozenType(type):
    """The metaclass of what pickles can reach: its classes keep the attributes they were made with."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError(f"{cls.__name__} is inert")

    def __delattr__(cls, name: str) -> None:
        raise TypeError(f"{cls.__name__} is inert")


class _FrozenStructType(msgspec.StructMeta):
    """The same for structs."""

    def __setattr__(cls, name: str, value: object) -> None:  # noqa: N805 - a metaclass's method
        raise TypeError(f"{cls.__name__} is inert")

    def __delattr__(cls, name: str) -> None:  # noqa: N805
        raise TypeError(f"{cls.__name__} is inert")


class TensorRef(msgspec.Struct, eq=False, metaclass=_FrozenStructType):
    """A tensor that was not built: the arguments of ``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``.

    Equal to itself only, as a tensor is: it can be a dict's key.
    """

    storage: Any  # a persistent id: ("storage", storage type, key, location, numel)
    offset: Any
    size: Any
    stride: Any
    requires_grad: Any = False
    hooks: Any = None
    metadata: Any = None


class TypedTensorRef(msgspec.Struct, eq=False, metaclass=_FrozenStructType):
    """``torch._utils._rebuild_tensor_v3``: as above, over an untyped storage, whose numel counts bytes."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    requires_grad: Any
    hooks: Any
    dtype: Any
    metadata: Any = None


class ParameterRef(msgspec.Struct, eq=False, metaclass=_FrozenStructType):
    """``torch._utils._rebuild_parameter`` and ``_rebuild_parameter_with_state``: a tensor inside a parameter."""

    data: Any
    requires_grad: Any = True
    hooks: Any = None
    state: Any = None


class StateMap(dict[Any, Any], metaclass=_FrozenType):
    """A ``collections.OrderedDict``: a dict that may carry a state (a state dict's ``_metadata``)."""

    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        self.state = state


class Inert(metaclass=_FrozenType):
    """An object of a class, or a result of a function, that the file names; a subclass per name.

    The class itself stands for the name where it is used as a value.
    """

    __slots__ = ("args", "items", "kwargs", "pairs", "state")
    module = ""
    qualname = ""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Any
    items: list[Any]  # what the pickle appended
    pairs: list[tuple[Any, Any]]  # what it set by key; keys may be unhashable

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = object.__new__(cls)
        self.args = args
        self.kwargs = kwargs
        self.state = None
        self.items = []
        self.pairs = []
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        self.items.append(item)

    add = append

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    update = extend

    def __setitem__(self, key: object, value: object) -> None:
        self.pairs.append((key, value))

    def __call__(self, *args: Any) -> Inert:
        """Stand in for the call of an object: a bound method fetched by ``getattr``, a partial."""
        return Called(self, *args)

    @classmethod
    def full_name(cls) -> str:
        return f"{cls.module}.{cls.qualname}" if cls.module else cls.qualname


class Called(Inert):
    """The result of calling an inert object: ``args`` is that object, then the arguments."""

    __slots__ = ()


_KNOWN: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): StateMap,
    ("torch._utils", "_rebuild_tensor"): TensorRef,
    ("torch._utils", "_rebuild_tensor_v2"): TensorRef,
    ("torch._utils", "_rebuild_tensor_v3"): TypedTensorRef,
    ("torch._utils", "_rebuild_parameter"): ParameterRef,
    ("torch._utils", "_rebuild_parameter_with_state"): ParameterRef,
}


@functools.lru_cache(maxsize=GLOBALS_MAX)  # making a class takes 15 µs; the frozen ones can be shared between files
def inert_class(module: str, name: str) -> type:
    """Return the stand-in for ``module.name``."""
    known = _KNOWN.get((module, name))
    if known is not None:
        return known
    if len(module) + len(name) > NAME_MAX:
        kind = "characters, among them '\\x00'" if "\0" in module + name else "characters"
        raise pickle.UnpicklingError(f"a global's name has {len(module) + len(name)} {kind}")
    return _FrozenType("Inert", (Inert,), {"__slots__": (), "module": module, "qualname": name})


def _resolver(found: list[Any], resolve: Callable[[Any], Any] | None) -> Generator[Any, Any, None]:
    """Yield what each persistent id that is sent stands for, and add the id to *found*.

    A generator, because to resume one costs a third of a call, and a checkpoint has a thousand.
    """
    value = None
    while True:
        persistent_id = yield value
        found.append(persistent_id)
        value = persistent_id if resolve is None else resolve(persistent_id)


class _InertUnpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.globals: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.globals.add((module, name))
        if len(self.globals) > GLOBALS_MAX:
            raise pickle.UnpicklingError(f"more than {GLOBALS_MAX} classes and functions are named")
        return inert_class(module, name)


class Unpickled(msgspec.Struct):
    """A pickle's content."""

    root: Any
    storages: list[Any]  # the persistent ids in the order of appearance, shared ones again each time
    globals: set[tuple[str, str]]


def unpickle(stream: IO[bytes], resolve: Callable[[Any], Any] | None = None) -> Unpickled:
    """Read one pickle (protocols 0 to 5) from where *stream* is, and leave it behind the pickle's end.

    *resolve* says what a persistent id stands for; by default, itself.

    Raises:
        Exception: of nearly any type, MemoryError and RecursionError included; the bytes are not a usable pickle.

    """
    unpickler = _InertUnpickler(stream)
    storages: list[Any] = []
    resolver = _resolver(storages, resolve)
    next(resolver)
    unpickler.persistent_load = resolver.send  # type: ignore[method-assign]
    start = stream.tell()
    try:
        root = unpickler.load()
    except MemoryError:
        del unpickler, storages, resolver  # and what was built so far
        if (asked := _asked_beyond(stream, start)) is not None:
            raise pickle.UnpicklingError(f"it asks for {asked} bytes or objects, more than the file has") from None
        raise
    return Unpickled(root=root, storages=storages, globals=unpickler.globals)


def _asked_beyond(stream: IO[bytes], start: int) -> int | None:
    """Return what the pickle at *start* asks for that *stream* does not have: a damaged one, and no large one."""
    size = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)
    return asks_for_more(stream.read(SCAN_MAX), size)


def bytes_of(value: Any) -> bytes | None:
    """Return bytes, also as protocol 2 writes them: ``_codecs.encode(text, 'latin1')``; ``None`` if it is no bytes."""
    if isinstance(value, Inert) and type(value).qualname == "encode" and value.args:
        value = value.args[0]
        return value.encode("latin1", "replace") if isinstance(value, str) else None
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def is_cut_short(error: Exception) -> bool:
    """Return whether unpickling failed because the bytes ended."""
    return isinstance(error, EOFError) or (isinstance(error, pickle.UnpicklingError) and "truncated" in str(error))


def is_at_zeros(error: Exception) -> bool:
    """Return whether unpickling failed because there were zeros: no opcode is zero, and no name has any."""
    return isinstance(error, pickle.UnpicklingError) and r"'\x00'" in str(error)
