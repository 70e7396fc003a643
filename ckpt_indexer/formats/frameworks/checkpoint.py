"""What the keys of an unpickled checkpoint mean: a Lightning checkpoint first of all, other training loops' as far as
they use the same words.

Pure: an object graph in, ``Facts`` out. Every known key may be missing or hold anything; what does not fit is left out
and named in ``Facts.warnings``, and the rest is still read. The weights are ``weights``' part, counts and metrics are
``numbers``', the callbacks' states ``callbacks``'; which names mean what stands in ``vocabulary``.
Source: lightning/pytorch/trainer/connectors/checkpoint_connector.py (keys).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.frameworks.callbacks import describe_callbacks
from ckpt_indexer.formats.frameworks.numbers import as_count, describe_counts, kind_of, metrics_of, number, run_best_of
from ckpt_indexer.formats.frameworks.weights import (
    KEY_MAX,
    StateDict,
    as_dict,
    describe_weights,
    find_models,
    holds_tensor,
    optimizer_bytes,
    partitioned_of,
)
from ckpt_indexer.formats.pickles.modules import state_dict_of_module
from ckpt_indexer.formats.pickles.plain import Plainer, text
from ckpt_indexer.formats.pickles.unpickle import Inert, TensorRef, TypedTensorRef
from ckpt_indexer.formats.vocabulary import (
    ARCHITECTURE_KEYS,
    HYPER_PARAMETER_KEYS,
    RANDOM_KEYS,
    RANDOM_WORDS,
    TRAINING_KEYS,
    TRAINING_WORDS,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.formats.pickles.tensors import Tensor
    from ckpt_indexer.formats.pickles.values import Fetch

OPTIMIZER_KEYS = ("optimizer_states", "optimizer_state_dict", "optimizer", "optimizers")
EMBEDDED_KEY = "ckpt_indexer"  # what ``ckpt_indexer.lightning`` puts in
NAME_MAX = 100  # characters of an architecture's name


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
    mapping = as_dict(root)
    models = None if state_dict is None else [StateDict("", state_dict)]
    if models is None:
        models = _models_of_object(root, facts) if mapping is None else find_models(mapping)
    if isinstance(root, int | float | str) and not isinstance(root, bool):
        facts.value = plainer.plain(root)
    mapping = mapping or {}
    describe_counts(mapping, facts, fetch)
    version = mapping.get("pytorch-lightning_version")
    facts.lightning_version = text(version)[:100] if isinstance(version, str) else None
    describe_weights(models, facts, partitioned_of(mapping), weigh)
    _describe_optimizers(mapping, facts)
    _describe_role(root, mapping, models, facts)
    facts.world_size = as_count(number(mapping.get("dp_world_size"), fetch))
    facts.embedded = plainer.mapping(mapping.get(EMBEDDED_KEY))
    facts.metrics = metrics_of(mapping, fetch)
    describe_callbacks(mapping.get("callbacks"), facts, plainer)
    facts.run_best = facts.run_best or run_best_of(mapping, fetch)
    _describe_settings(mapping, facts, plainer)
    facts.batches = _progress(mapping, "epoch_loop.batch_progress").get("total")
    facts.validations_in_epoch = _validations_in_epoch(mapping)


def _models_of_object(root: Any, facts: Facts) -> list[StateDict] | None:
    """Return the model that a root is which is no dict: a whole module, a list of tensors."""
    module = state_dict_of_module(root)
    if module is None and isinstance(root, list | tuple):
        is_data = all(isinstance(each, TensorRef | TypedTensorRef) for each in root)  # and no parameter
        return None if is_data else find_models({"model": root})
    if module is None:
        facts.warnings.append(f"the checkpoint is no dict but {kind_of(root)}")
    return None if module is None else [StateDict("", module)]


def _describe_optimizers(mapping: dict[Any, Any], facts: Facts) -> None:
    states = [value for key, value in dict.items(mapping) if isinstance(key, str) and value and _is_optimizer(key)]
    if "param_groups" in mapping and "state" in mapping:  # the file is one optimizer's state
        states.append(mapping)
    facts.has_optimizer = bool(states)
    if states:
        facts.optimizer_bytes = optimizer_bytes(states)


def _is_optimizer(key: str) -> bool:
    return key in OPTIMIZER_KEYS or (len(key) <= KEY_MAX and any(word.startswith("optim") for word in words_of(key)))


def _describe_role(root: Any, mapping: dict[Any, Any], models: list[StateDict] | None, facts: Facts) -> None:
    """Fill in what the file is for: a model's weights are a model, whatever else is there."""
    facts.role = "model"
    if models is not None:
        return
    name = type(root).qualname if isinstance(root, Inert) else ""
    keys = {key for key in mapping if isinstance(key, str) and len(key) <= KEY_MAX}
    words = {word for key in (*keys, name) for word in words_of(key)}
    if not RANDOM_WORDS.isdisjoint(words):  # a step beside them counts what was accumulated (accelerate)
        facts.epoch = facts.global_step = None
    is_named = not TRAINING_WORDS.isdisjoint(words) or not TRAINING_KEYS.isdisjoint(keys)
    is_random = bool(keys) and keys <= RANDOM_KEYS
    facts.role = "training-state" if facts.has_optimizer or is_named or is_random else "other"


def _describe_settings(mapping: dict[Any, Any], facts: Facts, plainer: Plainer) -> None:
    """Fill in what the user gave: hyper-parameters, under whatever keys, and the names of model and loss."""
    for key in HYPER_PARAMETER_KEYS:
        is_lightnings = key in HYPER_PARAMETER_KEYS[:2]
        if key not in mapping or not (is_lightnings or _are_settings(mapping[key])):
            continue
        settings = plainer.mapping(mapping[key])
        if settings is not None:  # of a second dict, what the first has under the same name stays
            facts.hyper_parameters = settings | (facts.hyper_parameters or {})
        if is_lightnings and facts.hyper_parameters:
            break
    facts.datamodule_hyper_parameters = plainer.mapping(mapping.get("datamodule_hyper_parameters"))
    names = (mapping.get(key) for key in ARCHITECTURE_KEYS)
    facts.architecture = next((text(name) for name in names if isinstance(name, str) and is_name(name)), None)
    for key in ("loss", "criterion", "loss_fn"):
        value = mapping.get(key)
        if facts.loss is None and isinstance(value, Inert) and number(value, plainer.fetch) is None:
            facts.loss = text(type(value).qualname)[:NAME_MAX]


def _are_settings(value: Any) -> bool:
    """Return whether a value under a name that settings have may be some: no weights, no optimizer's state."""
    mapping = as_dict(value)
    return (mapping is None or "param_groups" not in mapping) and not holds_tensor(value)


def is_name(value: str) -> bool:
    """Return whether a text can be a model's name: no path, no address, no file.

    >>> [is_name(each) for each in ("resnet50", "vit_base.in1k", "/home/a/model.pt", "best.pth", "")]
    [True, True, False, False, False]
    """
    ends = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".yaml", ".yml", ".json", ".py", ".onnx", ".pkl", ".tar")
    is_path = any(mark in value for mark in "/\\~") or value.lower().endswith(ends)
    return 0 < len(value) <= NAME_MAX and value.isprintable() and not is_path


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
