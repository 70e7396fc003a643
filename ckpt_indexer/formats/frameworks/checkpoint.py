"""What the keys of an unpickled checkpoint mean: a Lightning checkpoint first of all, other training loops' as far as
they use the same words.

Pure: an object graph in, ``Facts`` out. Every known key may be missing or hold anything; what does not fit is left out
and named in ``Facts.warnings``, and the rest is still read.
Source: lightning/pytorch/trainer/connectors/checkpoint_connector.py (keys), callbacks/model_checkpoint.py (states).
"""

from __future__ import annotations

import ast
import functools
import math
import re
from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.facts import NO_STATE_DICT, CallbackFacts, Facts, MonitorState, TensorFacts
from ckpt_indexer.formats.pickles.modules import state_dict_of_module
from ckpt_indexer.formats.pickles.plain import Plainer, text
from ckpt_indexer.formats.pickles.tensors import ELEMENTS_MAX, ITEM_BYTES, Storage, Tensor, parse_tensor, shape_of
from ckpt_indexer.formats.pickles.unpickle import Inert, ParameterRef, TensorRef, TypedTensorRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.formats.pickles.values import Fetch

TENSORS_MAX = 200_000  # listed by name; the largest real state dicts have some 10,000
CALLBACKS_MAX = 200
METRICS_MAX = 1_000  # numbers taken from the checkpoint's own dicts
METRIC_NAME_MAX = 200  # characters; each is repeated in the index
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module")  # Lightning; torch's tutorials; timm; DeepSpeed
OPTIMIZER_KEYS = ("optimizer_states", "optimizer_state_dict", "optimizer", "optimizers")
EPOCH_KEYS = ("epoch",)
STEP_KEYS = ("global_step", "step", "global_steps")
HYPER_PARAMETER_KEYS = ("hyper_parameters", "hparams")  # the second by Lightning before 0.9
EMBEDDED_KEY = "ckpt_indexer"  # what ``ckpt_indexer.lightning`` puts in
# Not metrics, although they hold numbers: what Lightning, torch and DeepSpeed write for themselves.
INTERNAL_KEYS = frozenset(
    (*STATE_DICT_KEYS, *OPTIMIZER_KEYS, *HYPER_PARAMETER_KEYS, EMBEDDED_KEY, "datamodule_hyper_parameters",
     "callbacks", "loops",
     "lr_schedulers", "lr_scheduler", "scheduler", "native_amp_scaling_state", "MixedPrecision", "hparams_name",
     "datamodule_hparams_name", "args", "config", "trainer_args", "training_history", "averaging_state",
     "current_model_state", "DDPStrategy", "ds_config", "checkpoint_parallel_dimensions")
)  # fmt: skip
_STATE_KEY = re.compile(r"^(\w+)(\{.*\})?$", re.DOTALL)
_STATE_KEY_MAX = 4_000  # characters; a real one has about 200


def describe(
    root: Any,
    facts: Facts,
    fetch: Fetch,
    state_dict: dict[str, Any] | None = None,
    *,
    weigh: Callable[[list[str], list[Tensor]], str | None] = lambda _names, _tensors: None,
) -> None:
    """Fill *facts* with what the checkpoint's root object says.

    *fetch* reads a one-element tensor's value; *state_dict* is given where the root does not hold it as torch does;
    *weigh* names the content of the state dict's tensors, where the file has checksums of them.
    """
    plainer = Plainer(fetch)
    mapping = _as_dict(root)
    if mapping is None:
        if state_dict is None and (state_dict := state_dict_of_module(root)) is None:
            facts.warnings.append(f"the checkpoint is no dict but {_kind(root)}")
        if isinstance(root, int | float | str) and not isinstance(root, bool):
            facts.value = plainer.plain(root)
        mapping = {}
    facts.epoch = _count(mapping, EPOCH_KEYS, facts)
    facts.global_step = _count(mapping, STEP_KEYS, facts)
    version = mapping.get("pytorch-lightning_version")
    facts.lightning_version = text(version)[:100] if isinstance(version, str) else None
    facts.has_optimizer = any(mapping.get(key) for key in OPTIMIZER_KEYS)
    partitioned = _partitioned(mapping)
    _describe_state_dict(find_state_dict(mapping) if state_dict is None else state_dict, facts, partitioned, weigh)
    facts.world_size = _count(mapping, ("dp_world_size",), facts)
    facts.embedded = plainer.mapping(mapping.get(EMBEDDED_KEY))
    facts.metrics = _metrics(mapping, fetch)
    _describe_callbacks(mapping.get("callbacks"), facts, plainer)
    for key in HYPER_PARAMETER_KEYS:
        if facts.hyper_parameters is None and key in mapping:
            facts.hyper_parameters = plainer.mapping(mapping[key])
    facts.datamodule_hyper_parameters = plainer.mapping(mapping.get("datamodule_hyper_parameters"))
    facts.batches = _progress(mapping, "epoch_loop.batch_progress").get("total")
    facts.validations_in_epoch = _validations_in_epoch(mapping)


def _as_dict(value: Any) -> dict[Any, Any] | None:
    """See a dict, or an object that stands for a subclass of one, as a dict with the keys that are text."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert) and value.pairs:
        return {key: item for key, item in value.pairs if isinstance(key, str)}
    return None


def _kind(value: Any) -> str:
    return text(type(value).full_name()) if isinstance(value, Inert) else type(value).__name__


def _count(mapping: dict[Any, Any], keys: tuple[str, ...], facts: Facts) -> int | None:
    for key in keys:
        if key in mapping:
            value = mapping[key]
            if type(value) is int and 0 <= value < 1 << 63:
                return value
            if value is not None:
                facts.warnings.append(f"{key} is {_kind(value)}, not a count")
    return None


def find_state_dict(mapping: dict[Any, Any]) -> dict[Any, Any] | None:
    """Find the model's weights: under a known key, one level below it (chgnet), or the root itself."""
    for key in STATE_DICT_KEYS:
        found = _as_dict(mapping.get(key))
        if found is None:
            if (whole := state_dict_of_module(mapping.get(key))) is not None:
                return whole
            continue
        if key == "state_dict" or _has_tensor(found):
            return found
        inner = _as_dict(found.get("state_dict"))
        if inner is not None and _has_tensor(inner):
            return inner
    return mapping if _has_tensor(mapping) else None


def _has_tensor(mapping: dict[Any, Any]) -> bool:
    return any(parse_tensor(value) is not None for value in dict.values(mapping))


def _describe_state_dict(
    state_dict: dict[Any, Any] | None,
    facts: Facts,
    partitioned: dict[str, tuple[str, tuple[int, ...]]],
    weigh: Callable[[list[str], list[Tensor]], str | None],
) -> None:
    if state_dict is None:
        facts.warnings.append(NO_STATE_DICT)
        return
    listed: list[TensorFacts] = []
    counted: list[Tensor] = []
    odd = 0
    for name, value in dict.items(state_dict):
        tensor = parse_tensor(value)
        if tensor is None:
            odd += isinstance(value, TensorRef | TypedTensorRef | ParameterRef)
            continue
        if len(listed) == TENSORS_MAX:
            facts.warnings.append(f"only the first {TENSORS_MAX} tensors are listed")
            break
        if tensor.numel == 0 and isinstance(name, str) and name in partitioned:
            key, shape = partitioned[name]
            size = (numel := math.prod(shape)) * ITEM_BYTES.get(tensor.dtype, 1)
            tensor = Tensor(shape, tensor.dtype, numel, Storage(f"elsewhere {key}", tensor.dtype, numel, size))
        listed.append(TensorFacts(text(name) if isinstance(name, str) else str(name)[:100], tensor.shape, tensor.dtype))
        counted.append(tensor)
    facts.tensors = listed
    facts.weights_id = weigh([tensor.name for tensor in listed], counted) if listed and not odd else None
    if odd:
        facts.warnings.append(f"{odd} of its tensors cannot be read: no shape, or no storage, that a tensor can have")
    parameters = count_parameters(counted)
    if parameters <= ELEMENTS_MAX:
        facts.parameters = parameters
    else:
        facts.warnings.append("the sizes of its tensors are implausible")


def _partitioned(mapping: dict[Any, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Find the parameters whose elements lie elsewhere: DeepSpeed's ZeRO-3 leaves empty ones in their place.

    Gives for each name its shape and the name that holds its elements, which tied weights share. Source:
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


def count_parameters(tensors: list[Tensor]) -> int:
    """Count elements, those of a storage that several tensors share only once.

    Tied weights are one storage under two names: the same part of it counts once. Different parts add up, to no more
    than the storage holds; parts that overlap otherwise, which no model has, are counted up to that.
    """
    total = 0
    parts: dict[tuple[str, int, int], Tensor] = {}
    for tensor in tensors:
        if tensor.storage is None:
            total += tensor.numel
        else:
            parts[tensor.storage.key, tensor.offset, tensor.numel] = tensor
    by_storage: dict[str, int] = {}
    for (key, _, numel), tensor in parts.items():
        assert tensor.storage is not None
        elements = tensor.storage.size_bytes // ITEM_BYTES.get(tensor.dtype, 1)
        by_storage[key] = min(by_storage.get(key, 0) + numel, elements)
    return total + sum(by_storage.values())


def _number(value: Any, fetch: Fetch) -> float | None:
    """Read a number: a Python one, a numpy scalar, or a one-element tensor's value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) or value.bit_length() < 1024 else None
    if isinstance(value, dict | list | tuple | str):
        return None
    plain = Plainer(fetch).plain(value)
    return float(plain) if isinstance(plain, int | float) and not isinstance(plain, bool) else None


def _metrics(mapping: dict[Any, Any], fetch: Fetch) -> dict[str, dict[str, float]]:
    """Collect the top-level dicts of numbers that user code left, such as ``cleval_metrics``."""
    found: dict[str, dict[str, float]] = {}
    left = METRICS_MAX
    for key, value in dict.items(mapping):
        if not isinstance(key, str) or key in INTERNAL_KEYS or not isinstance(value, dict) or len(value) > left:
            continue
        numbers = {text(n): _number(v, fetch) for n, v in dict.items(value) if _is_name(n)}
        kept = {name: number for name, number in numbers.items() if number is not None}
        if kept and len(kept) == len(value):
            found[text(key)] = kept
            left -= len(kept)
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= METRIC_NAME_MAX


def _describe_callbacks(value: Any, facts: Facts, plainer: Plainer) -> None:
    callbacks = _as_dict(value)
    if callbacks is None:
        if value is not None:
            facts.warnings.append(f"callbacks is {_kind(value)}, not a dict")
        return
    for key, state in list(dict.items(callbacks))[:CALLBACKS_MAX]:
        name, parameters = parse_state_key(key if isinstance(key, str) else _kind_of_class(key))
        plain = plainer.plain(state)
        facts.callbacks.append(CallbackFacts(name, parameters, plain))
        if isinstance(plain, dict) and ("best_model_path" in plain or "ModelCheckpoint" in name):  # or derived from it
            facts.monitors.append(_monitor_state(parameters, plain))


def _kind_of_class(key: Any) -> str:
    """Name a callback by its class: Lightning before 1.5 used the class itself as the key."""
    return text(key.qualname) if isinstance(key, type) and issubclass(key, Inert) else "?"


def parse_state_key(key: str) -> tuple[str, dict[str, Any]]:
    """Split a callback's state key into class name and parameters.

    >>> parse_state_key("ModelCheckpoint{'monitor': 'val/hmean', 'mode': 'max'}")
    ('ModelCheckpoint', {'monitor': 'val/hmean', 'mode': 'max'})
    >>> parse_state_key("EMA")
    ('EMA', {})
    """
    return _parsed_state_key(key) if len(key) <= _STATE_KEY_MAX else (text(key)[:200], {})


@functools.lru_cache(
    maxsize=256
)  # all checkpoints of a run have the same; parsing one is a tenth of a small file's time
def _parsed_state_key(key: str) -> tuple[str, dict[str, Any]]:
    match = _STATE_KEY.match(key)
    if match is None:
        return text(key)[:200], {}
    try:
        # Values such as timedelta(…) are no literals; then the parameters stay unknown, and the state has the monitor.
        parameters = ast.literal_eval(match[2]) if match[2] else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parameters = {}
    if not isinstance(parameters, dict):
        return match[1], {}
    # A literal such as '\\udcff' is text that UTF-8 cannot hold, even where the key could.
    cleaned = {text(str(k)): text(v) if isinstance(v, str) else v for k, v in parameters.items() if _is_scalar(v)}
    return match[1], cleaned


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _monitor_state(parameters: dict[str, Any], state: dict[str, Any]) -> MonitorState:
    def text_of(name: str) -> str | None:
        value = state.get(name, parameters.get(name))
        return value if isinstance(value, str) and value else None

    def number_of(name: str) -> float | None:
        value = state.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def parameter(name: str, *types: type) -> Any:
        value = parameters.get(name)
        return value if isinstance(value, types) else None

    best = state.get("best_k_models")
    scores = best.items() if isinstance(best, dict) else ()
    return MonitorState(
        monitor=text_of("monitor"),
        mode=parameter("mode", str),
        save_top_k=parameter("save_top_k", int),
        save_last=parameter("save_last", bool, str),
        current_score=number_of("current_score"),
        best_model_path=text_of("best_model_path"),
        last_model_path=text_of("last_model_path"),
        best_k_models={p: float(s) for p, s in scores if isinstance(s, int | float) and not isinstance(s, bool)},
        dirpath=text_of("dirpath"),
    )


def _validations_in_epoch(mapping: dict[Any, Any]) -> int | None:
    """Count how often the current epoch was validated so far."""
    # "total" counts the batches of all validations since the epoch began, "current" those of the last one.
    progress = _progress(mapping, "epoch_loop.val_loop.batch_progress")
    total, current = progress.get("total"), progress.get("current")
    return total // current if total is not None and current else None


def _progress(mapping: dict[Any, Any], name: str) -> dict[str, int]:
    """Read how many batches were begun, by "total" and "current", from the progress that Lightning's loops save."""
    node: Any = mapping.get("loops")
    for key in ("fit_loop", name):
        node = node.get(key) if isinstance(node, dict) else None
    counts = {}
    for key in ("total", "current"):
        part = node.get(key) if isinstance(node, dict) else None
        count = part.get("ready") if isinstance(part, dict) else None
        if type(count) is int and 0 <= count < 1 << 63:
            counts[key] = count
    return counts
