"""The numbers in a checkpoint's root: how far training had come, its metrics, the run's best. Pure.

A number is taken for what its name says (``vocabulary``), and for nothing without one: dicts of numbers are
vocabularies, label maps, states of scalers and dimensions far more often than metrics. One odd value in a dict of
metrics costs that value alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.facts import Facts, RunBestFacts
from ckpt_indexer.formats.frameworks.weights import as_dict
from ckpt_indexer.formats.pickles.plain import Plainer, text
from ckpt_indexer.formats.pickles.tensors import parse_tensor
from ckpt_indexer.formats.pickles.unpickle import Inert, ParameterRef, TensorRef, TypedTensorRef
from ckpt_indexer.formats.vocabulary import (
    BEST_HOLDERS,
    EPOCH_PATHS,
    HELD_OUT,
    PLANNED,
    PLANS,
    STEP_PATHS,
    STRONG_GROUP_WORDS,
    is_metric_group,
    is_metric_name,
    is_of_run,
    is_setting_name,
    metric_of_best,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.formats.pickles.values import Fetch

SCALAR_NODES = 20  # of an object that is a number, such as numpy's
METRICS_MAX = 1_000  # numbers taken from the checkpoint's own dicts
BITS = (8, 16, 32, 64)
METRIC_NAME_MAX = 200  # characters; each is repeated in the index
TEXT_MAX = 1_000  # characters of the path of the run's best checkpoint


def number(value: Any, fetch: Fetch) -> float | int | None:
    """Read a number: a Python one, a numpy scalar, or a one-element tensor's value."""
    if value is None or isinstance(value, bool | str | dict | list | tuple | set | frozenset):
        return None
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 1024 else None
    tensor = parse_tensor(value)
    if tensor is not None:
        plain: Any = fetch(tensor) if tensor.numel == 1 else None
    else:
        plain = Plainer(fetch, nodes_max=SCALAR_NODES).plain(value)
    if isinstance(plain, list) and len(plain) == 1:  # a numpy array of one element
        plain = plain[0]
    return plain if isinstance(plain, int | float) and not isinstance(plain, bool) else None


def kind_of(value: Any) -> str:
    """Return what a value is, in words for people.

    >>> kind_of({}), kind_of("a"), kind_of(None)
    ('a dict', 'a text', 'nothing')
    """
    if isinstance(value, TensorRef | TypedTensorRef | ParameterRef):
        tensor = parse_tensor(value)
        return "a tensor" if tensor is None else f"a tensor of {tensor.numel} elements"
    if isinstance(value, Inert):
        return f"an object of {text(type(value).full_name())[:200]}"
    if isinstance(value, type):
        return f"the class {text(value.full_name())[:200]}" if issubclass(value, Inert) else "a class"
    names = {dict: "a dict", str: "a text", list: "a list", tuple: "a tuple", bool: "a flag", float: "the number"}
    if value is None:
        return "nothing"
    name = next((name for kind, name in names.items() if isinstance(value, kind)), "an object")
    return f"{name} {value}" if name == "the number" else name


# --- counts ---


def describe_counts(mapping: dict[Any, Any], facts: Facts, fetch: Fetch) -> None:
    """Fill in the epoch and the step."""
    facts.epoch = _count(mapping, EPOCH_PATHS, facts, fetch)
    facts.global_step = _count(mapping, STEP_PATHS, facts, fetch)
    trainer = as_dict(mapping.get("trainer"))
    if facts.epoch is None and trainer is not None:  # ignite's engine: it resumes at this epoch
        length, iteration = number(trainer.get("epoch_length"), fetch), facts.global_step
        if isinstance(length, int) and length > 0 and iteration is not None and "iteration" in trainer:
            facts.epoch = iteration // length


def _count(mapping: dict[Any, Any], paths: tuple[str, ...], facts: Facts, fetch: Fetch) -> int | None:
    for path in paths:
        found, value = _at(mapping, path)
        if not found or value is None or (path in PLANNED and not PLANS.isdisjoint(mapping)):
            continue
        count = as_count(number(value, fetch))
        if count is not None:
            return count
        if "." not in path:
            facts.warnings.append(f"{path} is {kind_of(value)}, not a count")
    return None


def as_count(value: object) -> int | None:
    """Return a number as a count: an integer, also one that is written as 3.0; -1 is said as -1.

    >>> as_count(3.0), as_count(-1), as_count(0.5), as_count(float("nan")), as_count(True)
    (3, -1, None, None, None)
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(1 << 63) <= value < 1 << 63 else None


def _at(mapping: Any, path: str) -> tuple[bool, Any]:
    """Return whether something stands at a dotted path, and what; an object's attributes count as keys."""
    value = mapping
    for key in path.split("."):
        inner = value if isinstance(value, dict) else as_dict(value) or getattr(value, "state", None)
        if not isinstance(inner, dict) or key not in inner:
            return False, None
        value = dict.__getitem__(inner, key)
    return True, value


# --- metrics ---


def metrics_of(mapping: dict[Any, Any], fetch: Fetch) -> dict[str, dict[str, float]]:
    """Collect this checkpoint's metrics: numbers of the root by their names, and the dicts that hold metrics."""
    found: dict[str, dict[str, float]] = {}
    left = METRICS_MAX
    for key, value in dict.items(mapping):
        if not _is_name(key):
            continue
        if (group := as_dict(value)) is not None:
            numbers = dict(_numbers_in(group, fetch, left)) if is_metric_group(key) else {}
            if numbers and (_is_certain(key) or any(map(is_metric_name, numbers))):
                found[text(key)] = numbers
                left -= len(numbers)
        elif left > 0 and is_metric_name(key) and (own := number(value, fetch)) is not None:
            if key.lower() == "precision" and own in BITS:
                continue  # of its numbers
            found.setdefault("", {})[text(key)] = float(own)
            left -= 1
    return found


def _is_certain(key: str) -> bool:
    """Return whether any number under a group's key is a metric: ``test`` and ``scores`` alone may hold anything."""
    words = words_of(key)
    return not STRONG_GROUP_WORDS.isdisjoint(words) or (len(words) > 1 and {words[0]} <= HELD_OUT and "scores" in words)


def _numbers_in(group: dict[Any, Any], fetch: Fetch, left: int, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a dict, and those of the dicts in it under ``name/inner``, at most *left*."""
    for name, value in dict.items(group):
        if not _is_name(name) or left <= 0:
            continue
        if is_of_run(name):
            continue
        inner = None if prefix else as_dict(value)
        if inner is not None:
            for each in _numbers_in(inner, fetch, left, f"{name}/"):
                left -= 1
                yield each
        elif not is_setting_name(name) and (own := number(value, fetch)) is not None:
            left -= 1
            yield text(prefix + name)[:METRIC_NAME_MAX], float(own)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= METRIC_NAME_MAX


# --- the run's best ---


def run_best_of(mapping: dict[Any, Any], fetch: Fetch) -> RunBestFacts | None:
    """Find the best of the run so far, in the words of training loops and of Lightning 0.7 to 0.9."""
    path = _text_at(mapping, "checkpoint_callback_best_model_path") or _text_at(mapping, "checkpoint_callback_best")
    score = number(mapping.get("checkpoint_callback_best_model_score"), fetch)
    if score is not None:
        return RunBestFacts(None, float(score), None, path)
    holders = [mapping, *(inner for key in BEST_HOLDERS if (inner := as_dict(mapping.get(key))) is not None)]
    for holder in holders:
        path = next((found for key in ("best_model_path", "best_path") if (found := _text_at(holder, key))), None)
        for key, value in dict.items(holder):
            best = _best_in(key, value, fetch) if _is_name(key) else None
            if best is not None:
                return RunBestFacts(best[0] or None, best[1], None, path)
    return None


def _best_in(key: str, value: Any, fetch: Fetch) -> tuple[str, float] | None:
    metric = metric_of_best(key)
    if metric is None:
        return None
    group = as_dict(value)
    if group is None:
        own = number(value, fetch)
        return None if own is None else (text(metric), float(own))
    return next(((name, own) for name, own in _numbers_in(group, fetch, METRICS_MAX) if is_metric_name(name)), None)


def _text_at(mapping: dict[Any, Any], key: str) -> str | None:
    value = mapping.get(key)
    return text(value)[:TEXT_MAX] if isinstance(value, str) and value else None
