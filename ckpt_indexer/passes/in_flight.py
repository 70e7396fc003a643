"""What waits to be examined, what is being examined, and of which of them the outcome counts no more.

Owns the executor's futures. Promises that no key is examined twice at once (the two could finish in the wrong order),
that no more run than ``count_max``, and that an outcome which was outdated meanwhile is dropped. Does not know what is
examined. One thread uses it; the work itself runs wherever the executor has it run.
"""

from __future__ import annotations

import concurrent.futures as cf
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckpt_indexer.paths import Key

Task = TypeVar("Task")
Result = TypeVar("Result")


class InFlight(Generic[Task, Result]):
    """The tasks of one indexer, by key."""

    def __init__(self, executor: cf.Executor, count_max: int, *, is_owner: bool) -> None:
        """*is_owner* says that the executor is shut down by ``close``; one that is lent is left as it is."""
        self.waiting: OrderedDict[Key, Task] = OrderedDict()
        self._executor = executor
        self._count_max = count_max
        self._is_owner = is_owner
        self._running: dict[cf.Future[Result], Key] = {}
        self._outdated: set[Key] = set()  # of those that run

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self._running

    @property
    def keys(self) -> set[Key]:
        """The keys that are being examined."""
        return set(self._running.values())

    def pop_next(self) -> tuple[Key, Task] | None:
        """Return the next task to ``submit``; ``None`` if there is no room, or nothing that may begin now."""
        if len(self._running) >= self._count_max:
            return None
        busy = self._running.values()
        key = next((key for key in self.waiting if key not in busy), None)
        return None if key is None else (key, self.waiting.pop(key))

    def submit(self, key: Key, function: Callable[..., Result], *args: Any, **kwargs: Any) -> None:
        """Submit *function* to the executor; its outcome comes with ``wait``."""
        self._running[self._executor.submit(function, *args, **kwargs)] = key

    def submit_aside(self, function: Callable[[], object]) -> None:
        """Submit something whose outcome nobody waits for."""
        self._executor.submit(function)

    def outdate(self, keys: Iterable[Key]) -> None:
        """Drop what will come of those of *keys* that are being examined."""
        self._outdated.update(self.keys.intersection(keys))

    def wait(self, timeout_s: float | None) -> list[tuple[Key, cf.Future[Result]]]:
        """Wait until something is done, and return all that is and still counts, with the future that has its outcome.

        *timeout_s* of ``None`` waits as long as it takes. Returns at once if nothing runs.
        """
        done, _ = cf.wait(self._running, timeout_s, cf.FIRST_COMPLETED)
        finished = [(self._running.pop(future), future) for future in done]
        counting = [each for each in finished if each[0] not in self._outdated]
        self._outdated.difference_update(key for key, _ in finished)
        return counting

    def close(self) -> None:
        """Cancel what has not begun, and wait for the rest."""
        cf.wait([future for future in self._running if not future.cancel()])
        if self._is_owner:
            self._executor.shutdown(cancel_futures=True)
