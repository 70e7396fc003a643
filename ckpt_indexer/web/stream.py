"""Server-sent events: all entries in batches, and changes as they come.

The generators are pure over a follower: they give encoded events and know no HTTP. ``PiecewiseResponse`` is the answer
that sends them: it ends the moment its client leaves, and when a client takes nothing for ``STALL_S``; it keeps one
event in memory, and never more. The form is that of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.responses import Response

from ckpt_indexer.web.walk import Walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from ckpt_indexer.web.catalog import Catalog, Delta
    from ckpt_indexer.web.follower import Follower
    from ckpt_indexer.web.view import Query, View

STALL_S = 30.0  # a client that takes no event for so long is gone, or means harm
HEARTBEAT_S = 15.0  # proxies close what is silent for a minute
RETRY_MS = 2000
FIRST_BATCH = 100  # entries: the first rows of a page, at once
SHARED_MAX = 200  # entries of an event that is kept for the next who asks
CHANGED_MAX = 2000  # entries in one event; more is loaded anew by the client


async def iter_batches(
    follower: Follower, query: Query, *, limit: int | None, batch_size: int,
    encode: Callable[[msgspec.Raw], bytes | None] = bytes,
) -> AsyncIterator[bytes]:  # fmt: skip
    """Give the entries of a query: those that are there at the start, each as it stands when its turn comes.

    *encode* makes of an encoded entry what is sent, or ``None`` for nothing.
    """
    walk = await begin_walk(follower, query, limit=limit)
    if follower.catalog.error is not None:
        yield event({"type": "error", "error": str(follower.catalog.error)})
        return
    size, sent = min(FIRST_BATCH, batch_size), 0
    while walk.has_more and not follower.stopped.is_set():
        count, batch = _encode_batch(walk, size, encode)
        size, sent = batch_size, sent + count
        yield batch
        await asyncio.sleep(0)  # a client that takes everything at once must not keep the others waiting
    if not walk.has_more:
        yield event({"type": "complete", "total": sent, "generation": walk.generation})


async def begin_walk(follower: Follower, query: Query, *, limit: int | None = None) -> Walk:
    """Begin a walk through the index as it is now."""
    view = await follower.fresh()
    return Walk(follower.catalog, view, await follower.select(view, query), limit=limit)


def _encode_batch(walk: Walk, size: int, encode: Callable[[msgspec.Raw], bytes | None]) -> tuple[int, bytes]:
    # A function of its own: what a generator names lives on while its client stands still.
    found = [piece for raw in walk.take(size) if (piece := encode(raw)) is not None]
    rest = {"count": len(found), "has_more": walk.has_more, "total": walk.total, "generation": walk.generation}
    body = b",".join(found)
    return len(found), b'data: {"type":"batch","checkpoints":[' + body + b"]," + msgspec.json.encode(rest)[1:] + b"\n\n"


async def iter_changes(follower: Follower, since: int | None) -> AsyncIterator[bytes]:
    """Give what changes from now on, or after a generation; ends when the server does."""
    yield b"retry: %d\n\n" % RETRY_MS
    async with follower.listening():
        await follower.fresh()
        seen, told = _begin(follower.catalog, since)
        while not follower.stopped.is_set():
            if told:
                yield told
            if await follower.wait_changed(seen.identity, HEARTBEAT_S):
                seen, told = _tell(follower.catalog, seen.generation if seen.epoch == follower.catalog.epoch else None)
            else:
                told = b"" if follower.stopped.is_set() else b": heartbeat\n\n"


class _Seen(NamedTuple):
    """What a client knows of: no view, which it would keep alive while it stands still."""

    generation: int
    identity: str
    epoch: int


def _begin(catalog: Catalog, since: int | None) -> tuple[_Seen, bytes]:
    view = catalog.view
    if since is not None and since != view.generation:
        return _tell(catalog, since)
    ready = event({"generation": view.generation}, "ready", view.generation)
    return _Seen(view.generation, view.identity, catalog.epoch), ready


def _tell(catalog: Catalog, since: int | None) -> tuple[_Seen, bytes]:
    """Say what changed since a generation: nothing, a change, or that all has to be loaded anew."""
    epoch = catalog.epoch
    delta = None if since is None else catalog.since(since)
    view = catalog.view if delta is None else delta.view
    seen = _Seen(view.generation, view.identity, epoch)
    if delta is None or len(delta.changed) + len(delta.removed) > CHANGED_MAX:
        return seen, event({"generation": view.generation}, "resync", view.generation)
    if not delta.changed and not delta.removed:
        return seen, b""
    if len(delta.changed) > SHARED_MAX:
        return seen, _encode_change(view, delta)
    return seen, view.keep(("change", since), lambda view: _encode_change(view, delta))  # one for all who listen


def _encode_change(view: View, delta: Delta) -> bytes:
    raws = [view.get(key) for key in delta.changed]
    changed = b",".join(raw for raw in raws if raw is not None)
    return b'event: change\nid: %d\ndata: {"generation":%d,"changed":[%b],"removed":%b}\n\n' % (
        view.generation, view.generation, changed, msgspec.json.encode(delta.removed),
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
