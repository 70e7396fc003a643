"""uvicorn, with the limits that it does not have: slow and silent clients end, streams end before the server does.

Owns the socket, the signals and the limits on connections. A client must send its request within ``HEAD_S`` and at most
``HEAD_MAX`` bytes of it, and take what it asked for: one that takes nothing for ``STALL_S`` is cut off, so that whoever
is stuck costs one connection for half a minute and holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ckpt_indexer.errors import AddressTaken, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.web.app import Application
    from ckpt_indexer.web.settings import ServerSettings

HEAD_S = 10.0  # for a request's head; also of a connection that says nothing
HEAD_MAX = 32 << 10  # bytes: a target of 14 kB, and what browsers send along
STALL_S = 20.0  # without a byte taken
KEEP_ALIVE_S = 30  # a page asks again within that
GRACE_S = 3  # for answers under way when the server ends
BACKLOG = 128
LARGE_BLOCK = 256 << 10  # bytes
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def listen(settings: ServerSettings) -> socket.socket:
    """Bind the port, before anything else is done for the server.

    Raises:
        AddressTaken: somebody else has it, or there is no such address here.

    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else reason_of(error)
        raise AddressTaken(host=settings.host, port=settings.port, reason=reason) from None
    listener.setblocking(False)
    return listener


def serve(app: Application, settings: ServerSettings, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Answer requests until SIGTERM or SIGINT."""
    _give_memory_back()
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # anybody can make it warn, as often as he likes
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="on", loop="asyncio", access_log=False, log_config=None,
        server_header=False, proxy_headers=False, limit_concurrency=settings.connections_max, backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    asyncio.run(_Server(config, app, on_ready).serve([listener]))


def _give_memory_back() -> None:
    """Let the system have a large block the moment it is freed.

    Each new index is such a block. Without this, glibc keeps the place of the first for the second, and its neighbours
    keep it from shrinking: the process grows to twice its size. Another libc does without.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
        library.mallopt(_M_ARENA_MAX, 1)  # what the threads free is for all of them


class _Server(uvicorn.Server):
    """Ends its streams first, and its process in order."""

    def __init__(self, config: uvicorn.Config, app: Application, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.api.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but a stop that was asked for is no failure: the signal is not raised again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


class _Protocol(HttpToolsProtocol):
    """One connection, with an end to its patience."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_head()
        self._unset_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_MAX:
            # Nothing is sent here but heads: a body is as unwelcome as a head without end.
            self.transport.abort()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._unset_head()
        self._head_bytes = 0
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._unset_stall()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # an answer that was never taken: to close would wait for that
        else:
            super().timeout_keep_alive_handler()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _unset_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None

    def _unset_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._stall_timer = None
