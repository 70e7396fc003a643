"""Doubles for what an indexer is given: a clock that stands, executors without threads, an examiner that reads nothing.

The examiner answers with the state that the test gave a checkpoint, and remembers when each was read and how.
"""

from __future__ import annotations

import concurrent.futures as cf
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer.metadata.entry import bare_entry
from ckpt_indexer.model import Problem
from ckpt_indexer.passes import indexer as indexer_module
from ckpt_indexer.passes.examine import Examined
from ckpt_indexer.passes.indexer import Indexer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from ckpt_indexer.passes.scan import Found
    from ckpt_indexer.paths import Key


class Clock:
    """A clock in seconds that goes where it is put."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Inline(cf.Executor):
    """Does everything at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> cf.Future[Any]:
        future: cf.Future[Any] = cf.Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


class Held(cf.Executor):
    """Does nothing until it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[cf.Future[Any], Callable[[], Any]]] = []
        self.is_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> cf.Future[Any]:
        future: cf.Future[Any] = cf.Future()
        self.calls.append((future, lambda: fn(*args, **kwargs)))
        return future

    def do(self, number: int = 0) -> None:
        future, call = self.calls.pop(number)
        if future.set_running_or_notify_cancel():
            future.set_result(call())

    def shutdown(self, *_: object, **__: object) -> None:
        self.is_shut = True


class Read(NamedTuple):
    at_s: float
    key: str
    is_forced: bool


class Examiner:
    """Finds each checkpoint in the state that ``states`` says, else ``ok``."""

    def __init__(self, clock: Clock) -> None:
        self.states: dict[str, str] = {}
        self.look_again_s: dict[str, float] = {}  # asked for once
        self.reads: list[Read] = []
        self._clock = clock

    def examine(self, key: Key, found: Found, *, force: bool = False, twin: object = None) -> Examined:
        self.reads.append(Read(self._clock.now_s, key, force))
        state = self.states.get(key, "ok")
        codes = {"incomplete": "truncated", "unreadable": "io-error", "corrupt": "record-missing"}
        problem = Problem.of(codes[state]) if state in codes else None
        entry = bare_entry(key, found.stamp.fingerprint, found.stamp.link_target, problem)
        if state == "sidecar":
            entry.metadata_problem = Problem.of("sidecar-unwritable")
        return Examined(entry, look_again_s=self.look_again_s.pop(key, None))

    def close(self) -> None:
        pass

    def remove_sidecar_if_ours(self, key: str) -> bool:
        return True


def make_indexer(monkeypatch: pytest.MonkeyPatch, root: Path, examiner: Examiner, **options: Any) -> Indexer:
    """Build an indexer whose checkpoints *examiner* reads, at once if nothing else is said."""
    with monkeypatch.context() as patch:
        patch.setattr(indexer_module, "Examiner", lambda *_, **__: examiner)
        return Indexer(str(root), **{"executor": Inline(), "clock": examiner._clock, **options})
