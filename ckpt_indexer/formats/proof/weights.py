"""Which bytes of which record are whose: the tensors of a checkpoint, seen from its archive.

From what ``unpickle`` gives: the names of the tensors of the weights (the state dict) and of all others, and where in
their storage's record their elements lie. Nothing in there is trusted, as in ``tensors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer.formats.facts import NonFinite
from ckpt_indexer.formats.frameworks.weights import find_state_dict
from ckpt_indexer.formats.pickles.modules import state_dict_of_module
from ckpt_indexer.formats.pickles.plain import text
from ckpt_indexer.formats.pickles.tensors import (
    ITEM_BYTES as TENSOR_ITEM_BYTES,
)
from ckpt_indexer.formats.pickles.tensors import Tensor, innermost, parse_storage, parse_tensor
from ckpt_indexer.formats.pickles.unpickle import Inert, TensorRef, TypedTensorRef
from ckpt_indexer.formats.proof.nonfinite import GATHER_MAX, ITEM_BYTES, Counter, Span, count_strided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckpt_indexer.formats.pickles.unpickle import Unpickled

NODES_MAX = 2_000_000  # objects looked at for tensors
NAME_MAX = 300  # characters
NONFINITE_MAX = 1000  # tensors listed by name
COVER_MAX = 8  # how often the tensors of one storage may cover it; tied weights cover it twice
_LEAVES = frozenset((int, float, str, bytes, bool, type(None)))


class Part(NamedTuple):
    """A tensor of the weights as a part of its record; its type can hold NaN or infinity."""

    name: str
    span: Span
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    @property
    def is_dense(self) -> bool:
        """Whether its elements are all those of its span, each once."""
        expected = 1
        for stride, size in sorted((s, n) for s, n in zip(self.strides, self.shape, strict=True) if n != 1):
            if stride != expected:
                return False
            expected *= size
        return True


class Weights:
    """The tensors of a checkpoint by record, and what was counted in those of the weights."""

    def __init__(self, pickled: Unpickled, *, is_big_endian: bool) -> None:
        self.storages = {s.key: s.size_bytes for s in map(parse_storage, pickled.storages) if s is not None}
        self.beyond: list[str] = []  # tensors that reach beyond their storage
        self.nonfinite: list[NonFinite] = []
        self.nan = self.inf = 0
        self.uncounted = 0
        self._root = pickled.root
        self._is_big_endian = is_big_endian
        self._parts: dict[str, list[Part]] = {}  # by record
        for name, value in _weights_of(pickled.root):
            self._place(name, value)

    def counter(self, record: str) -> Counter | None:
        """Return what counts in a record, ``None`` where nothing is to be counted."""
        parts = self._parts.get(record, ())
        spans = {part.span for part in parts}
        if not spans:
            return None
        if sum(span.size for span in spans) > COVER_MAX * self.storages.get(record.removeprefix("data/"), 0):
            self.uncounted += len(parts)
            return None
        return Counter(spans, is_big_endian=self._is_big_endian)

    def take_counts(self, record: str, counter: Counter, read: Callable[[int, int], bytes]) -> None:
        """Add up what *counter* found; *read* gives (offset, size) of the record again, for tensors with gaps."""
        for part in self._parts[record]:
            found = counter.counts.get(part.span)
            if found is None:
                continue
            if not part.is_dense:
                numel = 1
                for size in part.shape:
                    numel *= size
                if max(part.span.size, numel * ITEM_BYTES[part.span.dtype]) > GATHER_MAX:
                    self.uncounted += 1
                    continue
                data = read(part.span.start, part.span.size)
                found = count_strided(
                    data, part.span.dtype, part.shape, part.strides, is_big_endian=self._is_big_endian
                )
            if found.nan or found.inf:
                self.nan += found.nan
                self.inf += found.inf
                if len(self.nonfinite) < NONFINITE_MAX:
                    self.nonfinite.append(NonFinite(part.name, found.nan, found.inf))

    def names(self) -> Iterator[tuple[str, str]]:
        """Return (name, record) of every tensor that has data, those of the weights by their names there."""
        seen: set[int] = set()
        for name, value in _weights_of(self._root):
            seen.add(id(value))
            if (tensor := parse_tensor(value)) is not None and tensor.storage is not None:
                yield name, f"data/{tensor.storage.key}"
        for name, value, tensor in tensors_below(self._root):
            if id(value) not in seen and tensor.storage is not None:
                yield name, f"data/{tensor.storage.key}"

    def _place(self, name: str, value: Any) -> None:
        tensor, reference = parse_tensor(value), innermost(value)
        if tensor is None:
            self.uncounted += _is_unknown_tensor(value)
            return
        if not tensor.numel:
            return
        if tensor.storage is None or not isinstance(reference, TensorRef | TypedTensorRef):
            self.uncounted += tensor.dtype in ITEM_BYTES and _has_data(value)
            return
        strides = reference.stride
        if not isinstance(strides, tuple) or len(strides) != len(tensor.shape) or not all(map(_is_stride, strides)):
            self.uncounted += tensor.dtype in ITEM_BYTES
            return
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True)) + 1
        item = TENSOR_ITEM_BYTES.get(tensor.dtype, 1)
        if (tensor.offset + reach) * item > tensor.storage.size_bytes:
            self.beyond.append(name)
        elif tensor.dtype in ITEM_BYTES:
            span = Span(tensor.offset * item, reach * item, tensor.dtype)
            self._parts.setdefault(f"data/{tensor.storage.key}", []).append(Part(name, span, tensor.shape, strides))


def _weights_of(root: Any) -> Iterable[tuple[str, Any]]:
    """Return the weights' tensors by name: those of the state dict, of a module, or all there are."""
    state_dict = find_state_dict(root) if isinstance(root, dict) else state_dict_of_module(root)
    if state_dict is None:
        return ((name, value) for name, value, _ in tensors_below(root))
    named = dict.items(state_dict)
    return ((text(name if isinstance(name, str) else str(name))[:NAME_MAX], value) for name, value in named)


def tensors_below(root: Any) -> Iterator[tuple[str, Any, Tensor]]:
    """Find every tensor in a graph of stand-ins: (path, stand-in, tensor)."""
    waiting: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while waiting and len(seen) < NODES_MAX:
        path, value = waiting.pop()
        if type(value) in _LEAVES or id(value) in seen:
            continue
        seen.add(id(value))
        tensor = parse_tensor(value)
        if tensor is not None:
            yield path, value, tensor
            continue
        waiting += [
            (f"{path}.{text(str(key))[:NAME_MAX]}".lstrip(".")[:NAME_MAX] if key is not None else path, child)
            for key, child in reversed(_children(value))
        ]


def _children(value: Any) -> list[tuple[Any, Any]]:
    """Return what an object holds: (key, or ``None`` where it adds nothing to the path; value)."""
    if isinstance(value, dict):
        return [(key if isinstance(key, str | int) else "?", child) for key, child in dict.items(value)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, Inert):
        pairs = [(key if isinstance(key, str | int) else "?", child) for key, child in value.pairs]
        return [(None, value.args), (None, value.state), *enumerate(value.items), *pairs]
    return []


def _is_unknown_tensor(value: Any) -> bool:
    """Return whether this is a tensor or an array of a form that is not read here: torch and numpy name them so."""
    return isinstance(value, Inert) and type(value).qualname.rpartition(".")[2].startswith(("_rebuild", "_reconstruct"))


def _has_data(value: Any) -> bool:
    """Return whether a tensor without a storage of its own has several (sparse), and is not ``meta``."""
    return isinstance(value, Inert) and "sparse" in type(value).qualname


def _is_stride(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
