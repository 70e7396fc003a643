"""Which parts of a checkpoint are a model's weights, and what they are: names, shapes, dtypes, how many.

Promises: what is counted was understood whole. A tensor in a form that is not read here makes the count unknown
(``None``, with a warning), and 0 is said of a state dict that is really empty alone. Pure.

Where weights stand (``find_models``), in this order:

1. under keys that say so (``vocabulary``), also one level below them (chgnet), as a whole module or a list;
2. under any other key, where the names in it are those of parameters (``conv1.weight``);
3. the root itself, if nearly all its values are tensors.

Several models in one file are listed one by one, each counted by itself. An average of a model beside the model itself
(EMA, SWA, a teacher with the student's names) is a copy and no second model.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer.formats.facts import NO_STATE_DICT, Facts, ModelFacts, TensorFacts
from ckpt_indexer.formats.pickles.modules import state_dict_of_module
from ckpt_indexer.formats.pickles.plain import text
from ckpt_indexer.formats.pickles.tensors import (
    ELEMENTS_MAX,
    ITEM_BYTES,
    Storage,
    Tensor,
    parse_array,
    parse_tensor,
    plain_storage,
    shape_of,
)
from ckpt_indexer.formats.pickles.unpickle import Inert, ParameterRef, StateMap, TensorRef, TypedTensorRef
from ckpt_indexer.formats.vocabulary import (
    AVERAGE_WORDS,
    COPY_WORDS,
    DATA_WORDS,
    DOUBTFUL_WORDS,
    MODEL_KEYS,
    MODEL_WORDS,
    NO_MODEL_WORDS,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TENSORS_MAX = 200_000  # listed by name; the largest real state dicts have some 10,000
_FIRST_ONLY = f"only the first {TENSORS_MAX} tensors are listed"
DTYPES_MAX = 50  # of one checkpoint; each is repeated in the index
MODELS_MAX = 1_000  # in one file
DEPTH_MAX = 8  # of dicts in dicts with tensors in them
KEY_MAX = 200  # characters of a key that is looked at
SEARCHED_MAX = 500_000  # values of one file that are looked at in search of weights
LOOKED_INTO_MAX = 1_000  # values of an object that is no tensor, in search of one
EMPTY_KEYS = ("state_dict", "model_state_dict", "model")  # an empty dict under one is an empty state dict
PARAMETERS_MIN = 8  # tensors of parameters' names in a root, whatever else is there, are a model
NEARLY_ALL = 0.9  # of the root's values, for the root to be a state dict
_NO_PARTS = frozenset(("state", "dict", "model", "module", "net", "network", "weights", "params", "student"))
_REFS = (TensorRef, TypedTensorRef, ParameterRef)
_PARAMETER_ENDS = (".weight", ".bias", "_weight", "_bias", ".running_mean", ".weight_g")


class StateDict(NamedTuple):
    """One model's state dict."""

    name: str  # the key it stands under, "" for the root itself
    weights: dict[Any, Any]


def as_dict(value: Any) -> dict[Any, Any] | None:
    """See a dict, or an object that stands for a subclass of one, as a dict with the keys that are text."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert) and value.pairs:
        return {key: item for key, item in value.pairs if isinstance(key, str)}
    return None


# --- where they stand ---


def find_models(root: dict[Any, Any]) -> list[StateDict] | None:
    """Find the models in a checkpoint's root, without the copies; ``None`` where there is none."""
    lightning = as_dict(root.get("state_dict"))
    if lightning is not None and "pytorch-lightning_version" in root:
        return [StateDict("state_dict", lightning)]
    if _is_state_dict(root):
        return [StateDict("", root)]
    search = _Search()
    found = search.homes(root) or search.homes(as_dict(root.get("state")) or {})
    if not found:
        empty = next((key for key in EMPTY_KEYS if isinstance(root.get(key), dict) and not root[key]), None)
        if empty is not None:
            return [StateDict(empty, {})]
        return None
    return _without_copies(found)


def find_state_dict(root: dict[Any, Any]) -> dict[Any, Any] | None:
    """Return all weights of a checkpoint's root as one state dict, as ``Facts.tensors`` names them."""
    models = find_models(root)
    return None if models is None else joined(models)


def joined(models: list[StateDict]) -> dict[Any, Any]:
    """Return the models' state dicts as one: of several, each name begins with its model's."""
    if len(models) == 1:
        return models[0].weights
    return {f"{model.name}.{name}": value for model in models for name, value in dict.items(model.weights)}


def _is_no_model(key: str) -> bool:
    return key == "state" or _is_training_state(key) or not NO_MODEL_WORDS.isdisjoint(words_of(key))


def _is_training_state(key: str) -> bool:
    """Return whether what stands under a key is another object's, also inside a model."""
    return len(key) > KEY_MAX or any(word.startswith(("optim", "sched")) for word in words_of(key))


def _is_home(key: str) -> bool:
    words = words_of(key)
    is_named = key in MODEL_KEYS or words[-2:] == ("state", "dict") or not MODEL_WORDS.isdisjoint(words)
    return is_named and DOUBTFUL_WORDS.isdisjoint(words)


class _Search:
    """The search for state dicts in one file: each container is looked into once, and not more than so many values."""

    def __init__(self) -> None:
        self._left = SEARCHED_MAX
        self._known: dict[int, dict[Any, Any] | None] = {}  # by the container's id; the file's graph keeps it alive

    def homes(self, mapping: dict[Any, Any]) -> list[StateDict]:
        """Find the models under the keys of *mapping*."""
        found: list[StateDict] = []
        for key, value in dict.items(mapping):
            if type(value) in _REFS or not isinstance(value, dict | list | tuple | Inert) or not isinstance(key, str):
                continue
            if len(found) == MODELS_MAX or len(key) > KEY_MAX or _is_no_model(key):
                continue
            weights = self._weights_in(value)
            if weights and (_is_home(key) or any(map(is_parameter_name, dict.keys(weights)))):
                found.append(StateDict(text(key), weights))
        return found

    def _weights_in(self, value: Any, depth: int = 0) -> dict[Any, Any] | None:
        """Return the state dict that *value* is or holds; ``None`` where it holds no tensor, or is an optimizer's."""
        if id(value) not in self._known:
            self._known[id(value)] = None  # while it is looked into: a cycle ends here
            self._known[id(value)] = self._look_into(value, depth)
        return self._known[id(value)]

    def _look_into(self, value: Any, depth: int) -> dict[Any, Any] | None:
        module = state_dict_of_module(value)
        if module is not None:
            return module
        if isinstance(value, list | tuple):
            if value and all(map(_is_tensor, value)):
                return {str(i): each for i, each in enumerate(value)}
            if not all(isinstance(each, dict | Inert) for each in value):
                return None
            value = {str(i): each for i, each in enumerate(value)}  # a list of state dicts
        mapping = as_dict(value)
        if mapping is None or "param_groups" in mapping or depth == DEPTH_MAX or self._left <= 0:
            return None
        self._left -= len(mapping)
        if any(_is_tensor(each) or self._holds_tensor(each) for each in dict.values(mapping) if not _is_plain(each)):
            return mapping
        for key in MODEL_KEYS:
            if key in mapping and (inner := self._weights_in(mapping[key], depth + 1)):
                return inner
        parts = {
            key: inner
            for key, each in dict.items(mapping)
            if isinstance(key, str) and not _is_training_state(key) and (inner := self._weights_in(each, depth + 1))
        }
        if len(parts) == 1:
            return next(iter(parts.values()))
        names = ((f"{key}.{name}", each) for key, inner in parts.items() for name, each in dict.items(inner))
        return dict(islice(names, TENSORS_MAX + 1)) or None

    def _holds_tensor(self, value: Any) -> bool:
        looked_into, found = _tensor_below(value, min(self._left, LOOKED_INTO_MAX))
        self._left -= looked_into
        return found


def _is_state_dict(root: dict[Any, Any]) -> bool:
    """Return whether the root is a state dict: nearly all its values are weights, or most, under parameters' names."""
    if not any(map(_is_tensor, dict.values(root))):  # asked first: nearly no root has a tensor
        return False
    names = [name for name, value in dict.items(root) if _is_tensor(value) or _is_packed(value)]
    with_names = [name for name in names if is_parameter_name(name)]
    if len(names) == len(root) and not any(map(_is_data, names)):
        tensors = [parse_tensor(value) or parse_array(value) for value in dict.values(root)]
        if type(root) is StateMap or all(each is None or _is_floating(each.dtype) for each in tensors):
            return True
    return any(_ends_as_parameter(name) for name in with_names) and (
        len(names) >= NEARLY_ALL * len(root) or 2 * len(with_names) > len(root) or len(with_names) >= PARAMETERS_MIN
    )


def _is_data(name: Any) -> bool:
    return isinstance(name, str) and (_is_no_model(name) or not DATA_WORDS.isdisjoint(words_of(name)))


def _is_floating(dtype: str) -> bool:
    return "float" in dtype or dtype.startswith(("complex", "qint", "quint"))


def _is_packed(value: Any) -> bool:
    """Return whether a value is one of a state dict's that is no tensor itself: packed weights, a module's state."""
    return isinstance(value, tuple | Inert) and holds_tensor(value)


def is_parameter_name(name: Any) -> bool:
    """Return whether a tensor of this name is a model's.

    >>> [is_parameter_name(name) for name in ("conv1.weight", "bias", "0.scale", "features", "rng_state", 3)]
    [True, True, True, False, False, False]
    """
    return isinstance(name, str) and (_ends_as_parameter(name) or "." in name)


def _ends_as_parameter(name: str) -> bool:
    return name.endswith(_PARAMETER_ENDS) or name in ("weight", "bias")


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, Inert):
        return type(value) in _REFS
    return parse_tensor(value) is not None or parse_array(value) is not None


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | bytes | dict)


def _without_copies(models: list[StateDict]) -> list[StateDict]:
    """Leave out averages beside what they are averages of, unless nothing else is there."""
    originals = [model for model in models if COPY_WORDS.isdisjoint(words_of(model.name))]
    general = next((model for model in originals if model.name in MODEL_KEYS), None)
    if general is not None:  # what has all its names is the same model, or one number for each of its parameters
        originals = [model for model in originals if model is general or not _same_names(model, general)]
        models = [model for model in models if model is general or not _same_names(model, general)]
    kept: list[StateDict] = []
    for model in models:
        if model in originals or not any(_is_copy(model, each) for each in originals or kept):
            kept.append(model)
    return kept


def _is_copy(model: StateDict, other: StateDict) -> bool:
    """Return whether a model that may be a copy is one of *other*: of the same part, and an average or of its names."""
    one, two = _part_of(model), _part_of(other)
    is_average = not AVERAGE_WORDS.isdisjoint(words_of(model.name)) and AVERAGE_WORDS.isdisjoint(words_of(other.name))
    return (not one or not two or one == two) and (is_average or _same_names(model, other))


def _part_of(model: StateDict) -> tuple[str, ...]:
    """Return which part of a model this is by its key: ``ema_encoder_state_dict`` is the encoder."""
    return tuple(word for word in words_of(model.name) if word not in COPY_WORDS and word not in _NO_PARTS)


def _same_names(a: StateDict, b: StateDict) -> bool:
    return a is not b and _bare_names(a) == _bare_names(b)


def _bare_names(model: StateDict) -> set[str]:
    return {str(name).removeprefix("module.").removeprefix("_orig_mod.") for name in model.weights}


# --- what they are ---


class _Listed(NamedTuple):
    """One model's tensors."""

    names: list[str]
    tensors: list[Tensor]
    unread: list[str]  # what holds tensors in a form that is not read here


def describe_weights(
    models: list[StateDict] | None,
    facts: Facts,
    partitioned: dict[str, tuple[str, tuple[int, ...]]],
    weigh: Callable[[list[str], list[Tensor]], str | None],
) -> None:
    """Fill *facts* with the models' tensors and counts."""
    if models is None:
        facts.warnings.append(NO_STATE_DICT)
        return
    listed = [(model, _list(model, partitioned)) for model in models]
    names = [f"{model.name}.{name}" if len(listed) > 1 else name for model, each in listed for name in each.names]
    tensors = [tensor for _, each in listed for tensor in each.tensors]
    unread = [what for _, each in listed for what in each.unread]
    if len(names) > TENSORS_MAX:
        facts.warnings.append(_FIRST_ONLY)
    facts.tensors = [TensorFacts(n, t.shape, t.dtype) for n, t in zip(names[:TENSORS_MAX], tensors, strict=False)]
    facts.weights_id = weigh(names, tensors) if names and not unread and len(names) <= TENSORS_MAX else None
    if unread:
        facts.warnings.append(
            f"{len(unread)} of its tensors cannot be read ({', '.join(sorted(set(unread))[:3])}): "
            "how many parameters there are is not known"
        )
    elif tensors or not any(model.weights for model in models):
        _count(listed, facts)
    else:
        facts.warnings.append("the state dict holds no tensor")


def _count(listed: list[tuple[StateDict, _Listed]], facts: Facts) -> None:
    counts = [count_elements(each.tensors) for _, each in listed]
    total: dict[str, int] = {}
    for count in counts:
        for dtype, elements in count.items():
            total[dtype] = total.get(dtype, 0) + elements
    _fill_counts(total, facts)
    if len(listed) > 1:
        facts.models = [
            ModelFacts(model.name, len(each.names), sum(count.values()))
            for (model, each), count in zip(listed, counts, strict=True)
        ]
        facts.warnings.append(f"parameters is the sum of its models: {', '.join(m.name for m in facts.models)}"[:300])


def _list(model: StateDict, partitioned: dict[str, tuple[str, tuple[int, ...]]]) -> _Listed:
    listed = _Listed([], [], [])
    for name, value in dict.items(model.weights):
        if len(listed.names) > TENSORS_MAX:
            break
        written = text(name) if isinstance(name, str) else str(name)[:100]
        tensor = parse_tensor(value)
        if tensor is None:
            _list_other(written, value, listed)
            continue
        if tensor.numel == 0 and isinstance(name, str) and name in partitioned:
            key, shape = partitioned[name]
            size = (numel := math.prod(shape)) * ITEM_BYTES.get(tensor.dtype, 1)
            tensor = Tensor(shape, tensor.dtype, numel, Storage(f"elsewhere {key}", tensor.dtype, numel, size))
        listed.names.append(written)
        listed.tensors.append(tensor)
    return listed


def _list_other(name: str, value: Any, listed: _Listed, depth: int = 0) -> None:
    """List what is in a value that is no tensor itself: packed weights are a tuple of two."""
    if value is None or isinstance(value, bool | int | float | str | bytes | type):
        return
    tensor = parse_tensor(value) or parse_array(value)
    if tensor is not None:
        listed.names.append(name)
        listed.tensors.append(tensor)
    elif isinstance(value, list | tuple | dict) and depth < DEPTH_MAX:
        for key, each in dict.items(value) if isinstance(value, dict) else enumerate(value):
            _list_other(f"{name}.{text(str(key))}", each, listed, depth + 1)
    elif type(value) in _REFS or holds_tensor(value):
        listed.unread.append(
            "no shape, or no storage, that a tensor can have" if type(value) in _REFS else _kind(value)
        )


def _kind(value: Any) -> str:
    return text(type(value).full_name())[:100] if isinstance(value, Inert) else type(value).__name__


def holds_tensor(value: Any) -> bool:
    """Return whether an object, or a container, has a tensor somewhere in it."""
    return _tensor_below(value, LOOKED_INTO_MAX)[1]


def _tensor_below(value: Any, most: int) -> tuple[int, bool]:
    """Return how many values were looked at, at most so many, and whether one was a tensor."""
    waiting, count = [value], 0
    while waiting and count < most:
        count += 1
        each = waiting.pop()
        if type(each) in _REFS:
            return count, True
        if isinstance(each, Inert):
            waiting += [*each.args, each.state, *each.items, *(item for _, item in each.pairs)]
        elif isinstance(each, dict):
            waiting += dict.values(each)
        elif isinstance(each, list | tuple):
            waiting += each
    return count, False


def partitioned_of(mapping: dict[Any, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Find the parameters whose elements lie elsewhere: DeepSpeed's ZeRO-3 leaves empty ones in their place.

    Returns for each name its shape and the name that holds its elements, which tied weights share. Source:
    deepspeed/runtime/engine.py, ``_save_checkpoint``: a dict for each group of the optimiser's, one for what is frozen.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key in ("param_shapes", "frozen_param_shapes"):
        value = mapping.get(key)
        for group in value if isinstance(value, list) else [value]:
            for name, size in dict.items(group) if isinstance(group, dict) else ():
                shape = shape_of(size)
                if isinstance(name, str) and shape is not None and math.prod(shape) <= ELEMENTS_MAX:
                    found[name] = (name, shape)
    tied = mapping.get("shared_params")
    for name, other in dict.items(tied) if isinstance(tied, dict) else ():
        if isinstance(name, str) and isinstance(other, str) and other in found:
            found[name] = found[other]
    return found


def count_elements(tensors: list[Tensor]) -> dict[str, int]:
    """Count elements by dtype, those of a storage that several tensors share only once.

    Tied weights are one storage under two names: the same part of it counts once. Different parts add up, to no more
    than the storage holds; parts that overlap otherwise, which no model has, are counted up to that.
    """
    counts: dict[str, int] = {}
    whole: dict[str, Tensor] = {}  # by storage: a tensor that is all of it, as nearly all are
    parts: dict[tuple[str, int, int], Tensor] = {}
    for tensor in tensors:
        storage = tensor.storage
        if storage is None:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel
        elif tensor.numel == storage.numel and tensor.dtype == storage.dtype:
            whole[storage.key] = tensor
        else:
            parts[storage.key, tensor.offset, tensor.numel] = tensor
    by_storage: dict[tuple[str, str], int] = {}
    for (key, _, numel), tensor in parts.items():
        if key not in whole and tensor.storage is not None:
            elements = tensor.storage.size_bytes // ITEM_BYTES.get(tensor.dtype, 1)
            by_storage[key, tensor.dtype] = min(by_storage.get((key, tensor.dtype), 0) + numel, elements)
    for dtype, numel in (*((t.dtype, t.numel) for t in whole.values()), *((k[1], n) for k, n in by_storage.items())):
        counts[dtype] = counts.get(dtype, 0) + numel
    return counts


def describe_plain_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...]]], facts: Facts, unread: int = 0) -> None:
    """Fill in tensors that share no memory, given the name, dtype and shape of each, and their counts.

    *unread* is how many more there are that cannot be read.
    """
    facts.tensors = []
    total: dict[str, int] = {}
    is_cut = False
    for name, dtype, shape in tensors:
        total[dtype] = total.get(dtype, 0) + math.prod(shape)
        if is_cut := len(facts.tensors) == TENSORS_MAX:
            continue
        facts.tensors.append(TensorFacts(text(name), shape, dtype))
    if is_cut:
        facts.warnings.append(_FIRST_ONLY)
    if unread:
        facts.warnings.append(f"{unread} of its tensors cannot be read: how many parameters there are is not known")
        return
    _fill_counts(total, facts)


def _fill_counts(total: dict[str, int], facts: Facts) -> None:
    if sum(total.values()) > ELEMENTS_MAX or len(total) > DTYPES_MAX:
        facts.warnings.append("the sizes or dtypes of its tensors are implausible")
        return
    facts.parameters, facts.dtypes, facts.weights_bytes = sum(total.values()), total, bytes_of_elements(total)


def bytes_of_elements(counts: dict[str, int]) -> int:
    """Return how many bytes so many elements of each dtype take in memory."""
    return sum(count * ITEM_BYTES.get(dtype, 1) for dtype, count in counts.items())


def optimizer_bytes(value: Any) -> int:
    """Return how many bytes the storages of an optimizer's tensors have, however its state is nested."""
    sizes: dict[str, int] = {}
    waiting, left = [value], 5 * TENSORS_MAX
    while waiting and left > 0:
        each = waiting.pop()
        left -= 1
        kind = type(each)
        if kind is TensorRef and (known := plain_storage(each.storage)) is not None:  # nearly all: 0.5 us each
            sizes[known[0]] = known[1]
        elif isinstance(each, dict):
            waiting += dict.values(each)
        elif kind is list or kind is tuple:
            waiting += each
        elif isinstance(each, (Inert, *_REFS)):
            tensor = parse_tensor(each)
            if tensor is not None and tensor.storage is not None:
                sizes[tensor.storage.key] = tensor.storage.size_bytes
    return sum(sizes.values())
