"""What Lightning's callbacks wrote about themselves: their state keys, and what ModelCheckpoint selected by. Pure.

Source: lightning/pytorch/callbacks/callback.py (``state_key``), callbacks/model_checkpoint.py (states).
"""

from __future__ import annotations

import ast
import functools
import re
from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.facts import CallbackFacts, Facts, MonitorState, RunBestFacts
from ckpt_indexer.formats.frameworks.numbers import kind_of
from ckpt_indexer.formats.frameworks.weights import as_dict
from ckpt_indexer.formats.pickles.plain import text
from ckpt_indexer.formats.pickles.unpickle import Inert

if TYPE_CHECKING:
    from ckpt_indexer.formats.pickles.plain import Plainer
    from ckpt_indexer.model import Mode

CALLBACKS_MAX = 200
_STATE_KEY = re.compile(r"^(\w+)(\{.*\})?$", re.DOTALL)
_STATE_KEY_MAX = 4_000  # characters; a real one has about 200
_SOURCE_MAX = 200  # characters of a parameter that is no literal


def describe_callbacks(value: Any, facts: Facts, plainer: Plainer) -> None:
    """Fill in what the callbacks' states say."""
    callbacks = as_dict(value)
    if callbacks is None:
        if value is not None:
            facts.warnings.append(f"callbacks is {kind_of(value)}, not a dict")
        return
    for key, state in list(dict.items(callbacks))[:CALLBACKS_MAX]:
        name, parameters = parse_state_key(key if isinstance(key, str) else _kind_of_class(key))
        plain = plainer.plain(state)
        facts.callbacks.append(CallbackFacts(name, parameters, plain))
        if isinstance(plain, dict) and ("best_model_path" in plain or "ModelCheckpoint" in name):  # or derived from it
            facts.monitors.append(_monitor_state(parameters, plain))
            facts.run_best = facts.run_best or _run_best(facts.monitors[-1], plain)


def _kind_of_class(key: Any) -> str:
    """Name a callback by its class: Lightning before 1.5 used the class itself as the key."""
    return text(key.qualname) if isinstance(key, type) and issubclass(key, Inert) else "?"


def parse_state_key(key: str) -> tuple[str, dict[str, Any]]:
    """Split a callback's state key into class name and parameters; what is no literal is given as it is written.

    >>> parse_state_key("ModelCheckpoint{'monitor': 'val/hmean', 'train_time_interval': datetime.timedelta(seconds=1)}")
    ('ModelCheckpoint', {'monitor': 'val/hmean', 'train_time_interval': 'datetime.timedelta(seconds=1)'})
    >>> parse_state_key("EMA")
    ('EMA', {})
    """
    return _parsed_state_key(key) if len(key) <= _STATE_KEY_MAX else (text(key)[:200], {})


# All checkpoints of a run have the same; parsing one is a tenth of a small file's time.
@functools.lru_cache(maxsize=256)
def _parsed_state_key(key: str) -> tuple[str, dict[str, Any]]:
    match = _STATE_KEY.match(key)
    if match is None:
        return text(key)[:200], {}
    try:
        parsed = ast.parse(match[2], mode="eval").body if match[2] else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parsed = None
    if not isinstance(parsed, ast.Dict):
        return match[1], {}
    parameters: dict[str, Any] = {}
    for name, node in zip(parsed.keys, parsed.values, strict=True):
        value = _literal(node, match[2])
        if isinstance(name, ast.Constant) and _is_scalar(value):
            # A literal such as '\\udcff' is text that UTF-8 cannot hold, even where the key could.
            parameters[text(str(name.value))] = text(value) if isinstance(value, str) else value
    return match[1], parameters


def _literal(node: ast.expr, source: str) -> Any:
    """Return a literal's value, of anything else (``timedelta(…)``) how it is written."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return (ast.get_source_segment(source, node) or "")[:_SOURCE_MAX]


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _monitor_state(parameters: dict[str, Any], state: dict[str, Any]) -> MonitorState:
    def text_of(name: str) -> str | None:
        value = state.get(name, parameters.get(name))
        return value if isinstance(value, str) and value else None

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
        current_score=_number_of(state, "current_score"),
        best_model_path=text_of("best_model_path"),
        last_model_path=text_of("last_model_path"),
        best_k_models={p: float(s) for p, s in scores if isinstance(s, int | float) and not isinstance(s, bool)},
        dirpath=text_of("dirpath"),
    )


def _number_of(state: dict[str, Any], name: str) -> float | None:
    value = state.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _run_best(monitor: MonitorState, state: dict[str, Any]) -> RunBestFacts | None:
    value = _number_of(state, "best_model_score")
    if value is None or monitor.monitor is None:
        return None
    modes: dict[str | None, Mode] = {"min": "min", "max": "max"}
    return RunBestFacts(monitor.monitor, value, modes.get(monitor.mode), monitor.best_model_path)
