"""Server-sent events: all entries in batches, and changes as they come.

The generators are pure over a refresher: they give encoded events and know no HTTP. ``PiecewiseResponse`` is the answer
that sends them: it ends the moment its client leaves, and when a client takes nothing for ``STALL_S``; it keeps one
event in memory, and never more. The form is that of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.responses import Response

from ckpt_indexer.index.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from ckpt_indexer.index.changes import Delta
    from ckpt_indexer.index.columns import Table
    from ckpt_indexer.index.follow import FollowedIndex
    from ckpt_indexer.index.freshness import Refresher
    from ckpt_indexer.index.query import Query

STALL_S = 30.0  # a client that takes no event for so long is gone, or means harm
HEARTBEAT_S = 15.0  # proxies close what is silent for a minute
RETRY_MS = 2000
FIRST_BATCH = 100  # entries: the first rows of a page, at once
SHARED_MAX = 200  # entries of an event that is kept for the next who asks
CHANGED_MAX = 2000  # entries in one event; more is loaded anew by the client


async def iter_batches(
    refresher: Refresher, query: Query, *, limit: int | None, batch_size: int,
    encode: Callable[[msgspec.Raw], bytes | None] = bytes,
) -> AsyncIterator[bytes]:  # fmt: skip
    """Yield the entries of a query: those that are there at the start, each as it stands when its turn comes.

    *encode* makes of an encoded entry what is sent, or ``None`` for nothing.
    """
    cursor = await begin_cursor(refresher, query, limit=limit)
    if refresher.index.error is not None:
        yield event({"type": "error", "error": str(refresher.index.error)})
        return
    size, sent = min(FIRST_BATCH, batch_size), 0
    while cursor.has_more and not refresher.stopped.is_set():
        count, batch = _encode_batch(cursor, size, encode)
        size, sent = batch_size, sent + count
        yield batch
        await asyncio.sleep(0)  # a client that takes everything at once must not keep the others waiting
    if not cursor.has_more:
        yield event({"type": "complete", "total": sent, "generation": cursor.generation})


async def begin_cursor(refresher: Refresher, query: Query, *, limit: int | None = None) -> Cursor:
    """Begin at the first entry of a query, of the index as it is now."""
    table = await refresher.fresh()
    return Cursor(refresher.index, table, await refresher.select(table, query), limit=limit)


def _encode_batch(cursor: Cursor, size: int, encode: Callable[[msgspec.Raw], bytes | None]) -> tuple[int, bytes]:
    # A function of its own: what a generator names lives on while its client stands still.
    found = [piece for raw in cursor.fetch(size) if (piece := encode(raw)) is not None]
    rest = {"count": len(found), "has_more": cursor.has_more, "total": cursor.total, "generation": cursor.generation}
    body = b",".join(found)
    return len(found), b'data: {"type":"batch","checkpoints":[' + body + b"]," + msgspec.json.encode(rest)[1:] + b"\n\n"


async def iter_changes(refresher: Refresher, since: int | None) -> AsyncIterator[bytes]:
    """Yield what changes from now on, or after a generation; ends when the server does."""
    yield b"retry: %d\n\n" % RETRY_MS
    async with refresher.listening():
        await refresher.fresh()
        seen, told = _begin(refresher.index, since)
        while not refresher.stopped.is_set():
            if told:
                yield told
            if await refresher.wait_changed(seen.identity, HEARTBEAT_S):
                seen, told = _tell(refresher.index, seen.generation if seen.epoch == refresher.index.epoch else None)
            else:
                told = b"" if refresher.stopped.is_set() else b": heartbeat\n\n"


class _Seen(NamedTuple):
    """What a client knows of: no table, which it would keep alive while it stands still."""

    generation: int
    identity: str
    epoch: int


def _begin(index: FollowedIndex, since: int | None) -> tuple[_Seen, bytes]:
    table = index.table
    if since is not None and since != table.generation:
        return _tell(index, since)
    ready = event({"generation": table.generation}, "ready", table.generation)
    return _Seen(table.generation, table.identity, index.epoch), ready


def _tell(index: FollowedIndex, since: int | None) -> tuple[_Seen, bytes]:
    """Return what changed since a generation: nothing, a change, or that all has to be loaded anew."""
    epoch = index.epoch
    delta = None if since is None else index.since(since)
    table = index.table if delta is None else delta.table
    seen = _Seen(table.generation, table.identity, epoch)
    if delta is None or len(delta.changed) + len(delta.removed) > CHANGED_MAX:
        return seen, event({"generation": table.generation}, "resync", table.generation)
    if not delta.changed and not delta.removed:
        return seen, b""
    if len(delta.changed) > SHARED_MAX:
        return seen, _encode_change(table, delta)
    return seen, table.keep(("change", since), lambda table: _encode_change(table, delta))  # one for all who listen


def _encode_change(table: Table, delta: Delta) -> bytes:
    raws = [table.get(key) for key in delta.changed]
    changed = b",".join(raw for raw in raws if raw is not None)
    return b'event: change\nid: %d\ndata: {"generation":%d,"changed":[%b],"removed":%b}\n\n' % (
        table.generation, table.generation, changed, msgspec.json.encode(delta.removed),
    )  # fmt: skip


def event(data: dict[str, Any], name: str | None = None, number: int | None = None) -> bytes:
    r"""Write one event.

    >>> event({"generation": 3}, "ready", 3)
    b'event: ready\nid: 3\ndata: {"generation":3}\n\n'
    """
    head = (b"" if name is None else b"event: %b\n" % name.encode()) + (b"" if number is None else b"id: %d\n" % number)
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


class PiecewiseResponse(Response):
    """An answer whose end is not known when it begins."""

    def __init__(self, pieces: AsyncIterator[bytes], on_end: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._pieces = pieces
        self._on_end = on_end
        del self.headers["content-length"]
        self.headers.setdefault("cache-control", "no-store")
        self.headers["x-accel-buffering"] = "no"  # nginx would hold events back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        sender = asyncio.create_task(self._send_all(send))
        leaver = asyncio.create_task(_wait_left(receive))
        try:
            await asyncio.wait((sender, leaver), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sender.cancel()
            leaver.cancel()
            results = await asyncio.gather(sender, leaver, return_exceptions=True)
            self._on_end()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (OSError, TimeoutError)):
                raise result

    async def _send_all(self, send: Send) -> None:
        async with asyncio.timeout(STALL_S):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
