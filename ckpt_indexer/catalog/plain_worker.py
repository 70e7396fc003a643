"""The process in which torch loads checkpoints the plain way: ``python -m ckpt_indexer.catalog.plain_worker``.

It imports torch once, prints a line, and then answers each line with a path (JSON) by one JSON line: what the
checkpoint says, or why it says nothing. Limits stand before the first file: for each file an address space of what is
in use, plus three times its size, plus a base, and CPU time by its size; no core dumps, no writing to files. A file
that needs more ends the process, and its owner starts another.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt_indexer.formats.facts import NO_STATE_DICT, Facts, TensorFacts
from ckpt_indexer.formats.frameworks.checkpoint import OPTIMIZER_KEYS, describe
from ckpt_indexer.formats.vocabulary import MODEL_KEYS
from ckpt_indexer.sandbox.torch_load import MEMORY_BASE, MEMORY_FACTOR, seconds_for

if TYPE_CHECKING:
    from collections.abc import Mapping

NODES_MAX = 100_000  # values of one checkpoint that are kept
DEPTH_MAX = 50
MESSAGE_MAX = 300  # characters
READY, NO_TORCH = "ready", "no torch"


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import torch
    except ImportError:
        print(json.dumps(NO_TORCH), file=answers, flush=True)
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a pipe is no file
    print(json.dumps(READY), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = _answer(torch, json.loads(line))
        except MemoryError:
            answer = {"failed": "loading it needs more than three times its size in memory"}
        except Exception as error:  # noqa: BLE001 - torch raises nearly anything; which of it is the answer
            answer = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:MESSAGE_MAX]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), file=answers, flush=True)


def _answer(torch: Any, path: str) -> dict[str, Any]:
    size = os.stat(path).st_size
    signal.setitimer(signal.ITIMER_PROF, seconds_for(size))  # its default action ends the process
    with open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_FACTOR * size + MEMORY_BASE, resource.RLIM_INFINITY))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # the layout before 2020 knows no mapping
    return {"facts": msgspec.to_builtins(facts_of(torch, loaded))}


def facts_of(torch: Any, loaded: Any) -> Facts:
    """Return what a loaded checkpoint says of itself."""
    facts = Facts(format="torch-zip")
    if not isinstance(loaded, dict):
        facts.warnings.append(f"the checkpoint is no dict but {type(loaded).__name__}")
        return facts
    homes = [key for key in MODEL_KEYS if isinstance(loaded.get(key), dict) and _tensors(torch, loaded[key])]
    rest = {key: value for key, value in loaded.items() if key not in (*homes, *OPTIMIZER_KEYS)}
    describe(_Simple(torch).simple(rest, DEPTH_MAX), facts, lambda _: None)
    facts.tensors = _tensors(torch, loaded[homes[0]] if homes else loaded)
    facts.role = "model" if facts.tensors else None
    facts.warnings = [each for each in facts.warnings if each != NO_STATE_DICT]
    facts.has_optimizer = any(loaded.get(key) for key in OPTIMIZER_KEYS)
    return facts


def _tensors(torch: Any, weights: Mapping[Any, Any]) -> list[TensorFacts] | None:
    found = [
        TensorFacts(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in weights.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    ]
    return found or None


class _Simple:
    """Makes plain values of what torch loaded: a tensor of one number is that number, larger ones are left out."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._left = NODES_MAX

    def simple(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth < 0:
            return None
        if isinstance(value, self._torch.Tensor):
            value = value.item() if value.numel() == 1 else None
        if isinstance(value, dict):
            return {key: self.simple(each, depth - 1) for key, each in value.items() if isinstance(key, str)}
        if isinstance(value, list | tuple):
            return [self.simple(each, depth - 1) for each in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None  # counts as not known in a catalogue
        return value if isinstance(value, str | int | bool) else None


if __name__ == "__main__":
    main()
