"""A followed index on an event loop: fresh enough for each question, and awake for those who listen to changes.

Owns when the index is refreshed: at most every ``FRESH_S``, in a thread, because that may wait for a network file
system or decode 100 MB; and every ``PACE_S`` while somebody listens. Who asks waits for a refresh under way, but not
for ever: then the answer is made from what is known. One event loop. Knows no HTTP.
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

    from ckpt_indexer.index.columns import Rows, Table
    from ckpt_indexer.index.follow import FollowedIndex
    from ckpt_indexer.index.query import Query

FRESH_S = 0.1  # how long a refresh counts
PACE_S = 0.25  # between refreshes while somebody listens
PATIENCE_S = 2.0  # that a request waits for a refresh; a large index decodes in half a second
QUEUE_MAX = 32  # requests that wait for something to be computed

_Value = TypeVar("_Value")


class Refresher:
    """Keeps a followed index up to date for one event loop."""

    def __init__(self, index: FollowedIndex) -> None:
        self.index = index
        self.stopped = asyncio.Event()
        self._refreshed = float("-inf")
        self._refresh_task: asyncio.Task[None] | None = None
        self._beat_task: asyncio.Task[None] | None = None
        self._listeners = 0
        self._changed = asyncio.Event()
        self._waiting: Counter[ThreadPoolExecutor] = Counter()
        # One thread each: a disk that hangs must not keep a selection waiting, nor a sidecar the next refresh.
        self._refresher = ThreadPoolExecutor(1, "refresh")
        self._worker = ThreadPoolExecutor(1, "work")
        self._reader = ThreadPoolExecutor(1, "read")

    async def fresh(self) -> Table:
        """Return a table that is at most ``FRESH_S`` old."""
        if time.monotonic() - self._refreshed >= FRESH_S:
            if self._refresh_task is None or self._refresh_task.done():
                self._refresh_task = asyncio.create_task(self._refresh())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._refresh_task), PATIENCE_S)
        return self.index.table

    async def work(self, function: Callable[[], _Value]) -> _Value:
        """Compute something in a thread, one thing after the other.

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

    async def select(self, table: Table, query: Query) -> Rows:
        """Return the rows that a query asks for: at once if they are known."""
        found = table.rows_if_known(query)
        return found if found is not None else await self.work(functools.partial(table.select, query))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Refresh the index while this lasts."""
        self._listeners += 1
        if self._beat_task is None or self._beat_task.done():
            self._beat_task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._listeners -= 1

    async def wait_changed(self, identity: str, timeout_s: float) -> bool:
        """Wait until there is another table than that one, or the end is near; return whether there is."""
        changed = self._changed
        if self.index.table.identity == identity and not self.stopped.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), timeout_s)
        return self.index.table.identity != identity

    def stop(self) -> None:
        """End all streams."""
        self.stopped.set()
        self._changed.set()

    def close(self) -> None:
        """Release the threads; one that hangs in a refresh is left behind."""
        self.stop()
        for executor in (self._refresher, self._worker, self._reader):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self) -> None:
        table = self.index.table
        await asyncio.get_running_loop().run_in_executor(self._refresher, self.index.refresh)
        self._refreshed = time.monotonic()
        if self.index.table is not table:
            self._changed.set()
            self._changed = asyncio.Event()

    async def _beat(self) -> None:
        while self._listeners and not self.stopped.is_set():
            await self.fresh()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), PACE_S)
