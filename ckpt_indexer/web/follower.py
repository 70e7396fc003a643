"""The catalog on the event loop: fresh enough for each request, and awake for those who listen to changes.

Owns when the index is looked at: at most every ``FRESH_S``, in a thread, because a look may wait for a network file
system or decode 100 MB; and every ``PACE_S`` while somebody listens. A request waits for a look under way, but not for
ever: then it is answered from what is known. One event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from ckpt_indexer.errors import TooBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ckpt_indexer.web.catalog import Catalog
    from ckpt_indexer.web.view import Query, Rows, View

FRESH_S = 0.1  # how long a look counts
PACE_S = 0.25  # between looks while somebody listens
PATIENCE_S = 2.0  # that a request waits for a look; a large index decodes in half a second
QUEUE_MAX = 32  # requests that wait for something to be worked out

_Value = TypeVar("_Value")


class Follower:
    """Keeps a catalog up to date for one event loop."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.stopped = asyncio.Event()
        self._looked = float("-inf")
        self._look_task: asyncio.Task[None] | None = None
        self._beat_task: asyncio.Task[None] | None = None
        self._listeners = 0
        self._changed = asyncio.Event()
        self._waiting: Counter[ThreadPoolExecutor] = Counter()
        # One thread each: a disk that hangs must not keep a selection waiting, nor a sidecar the next look.
        self._looker = ThreadPoolExecutor(1, "look")
        self._worker = ThreadPoolExecutor(1, "work")
        self._reader = ThreadPoolExecutor(1, "read")

    async def fresh(self) -> View:
        """Give a view that is at most ``FRESH_S`` old."""
        if time.monotonic() - self._looked >= FRESH_S:
            if self._look_task is None or self._look_task.done():
                self._look_task = asyncio.create_task(self._look())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._look_task), PATIENCE_S)
        return self.catalog.view

    async def work(self, function: Callable[[], _Value]) -> _Value:
        """Work something out in a thread, one thing after the other.

        Raises:
            TooBusy: more wait for that already than a page could want.

        """
        return await self._queued(self._worker, function)

    async def read(self, function: Callable[[], _Value]) -> _Value:
        """Read something from the disk in a thread, one thing after the other; raises as ``work`` does."""
        return await self._queued(self._reader, function)

    async def _queued(self, executor: ThreadPoolExecutor, function: Callable[[], _Value]) -> _Value:
        if self._waiting[executor] >= QUEUE_MAX:
            raise TooBusy
        self._waiting[executor] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, function)
        finally:
            self._waiting[executor] -= 1

    async def select(self, view: View, query: Query) -> Rows:
        """Give the rows that a query asks for: at once if they are known."""
        found = view.rows_if_known(query)
        return found if found is not None else await self.work(functools.partial(view.select, query))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep the index in view."""
        self._listeners += 1
        if self._beat_task is None or self._beat_task.done():
            self._beat_task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._listeners -= 1

    async def wait_changed(self, identity: str, timeout_s: float) -> bool:
        """Wait until there is another view than that one, or the end is near; say whether there is."""
        changed = self._changed
        if self.catalog.view.identity == identity and not self.stopped.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), timeout_s)
        return self.catalog.view.identity != identity

    def stop(self) -> None:
        """End all streams."""
        self.stopped.set()
        self._changed.set()

    def close(self) -> None:
        """Let go of the threads; one that hangs in a look is left behind."""
        self.stop()
        for executor in (self._looker, self._worker, self._reader):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> None:
        view = self.catalog.view
        await asyncio.get_running_loop().run_in_executor(self._looker, self.catalog.look)
        self._looked = time.monotonic()
        if self.catalog.view is not view:
            self._changed.set()
            self._changed = asyncio.Event()

    async def _beat(self) -> None:
        while self._listeners and not self.stopped.is_set():
            await self.fresh()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), PACE_S)
