"""Target 11: the server, over sockets: ready, memory, a page by a metric, 304, the first rows of a stream.

The clients are raw sockets that keep their connections, one after the other or eight at once, so that a figure is the
server's. Beside it ``datasette`` serves the same rows out of SQLite, with an index on the metric: as JSON, a page of
100 sorted by the metric. Everything runs on one machine: client and server share its cores.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import select
import socket
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import msgspec

from ckpt_indexer.index.store import Store
from tests.benchmarks.listing import _entry
from tests.benchmarks.measure import figure_of, read_status, side_by_side
from tests.benchmarks.report import Row, at_least, at_most
from tests.process import COMMAND, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckpt_indexer.model import Entry

METRIC = "val/hmean"
PAGE = f"/api/checkpoints?sort_by={METRIC}&sort_order=desc&page_size=100"
PAGE_DATASETTE = "/{database}/checkpoints.json?_sort_desc=hmean&_size=100&_shape=objects&_nocount=1&_nofacet=1"
CLIENTS = 8


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    rows = []
    for count in (200,) if is_small else (10_000, 100_000):
        root = scratch / str(count)
        root.mkdir()
        entries = [_entry(number) for number in range(count)]
        Store(str(root)).commit(entries)
        peers = {"ours": [COMMAND, "serve", str(root), "--port"]}
        if importlib.util.find_spec("datasette") is not None:
            database = _database(scratch / f"rows{count}.db", entries)
            peers["datasette"] = [sys.executable, "-m", "datasette", "serve", database, "--port"]
        rows += _measure(count, peers, is_small=is_small)
    return rows


def _measure(count: int, peers: dict[str, list[str]], *, is_small: bool) -> list[Row]:
    pages = {"ours": PAGE, "datasette": PAGE_DATASETTE.format(database=f"rows{count}")}
    starts: dict[str, list[float]] = {name: [] for name in peers}
    memory: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(1 if is_small else 7):
        for name, command in peers.items():
            with _Peer(command) as peer:
                starts[name].append(peer.ready_s)
                peer.ask(pages[name])
                memory[name].append(peer.memory())
    ready = {name: figure_of(values) for name, values in starts.items()}
    resident = {name: figure_of(values, "B") for name, values in memory.items()}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(_Peer(command)) for name, command in peers.items()}
        ours = running["ours"]
        cases: dict[str, Callable[[], object]] = {
            name: functools.partial(peer.ask, pages[name]) for name, peer in running.items()
        }
        for case in cases.values():
            case()
        page = side_by_side(cases, 2 if is_small else 100)
        compressed = side_by_side({"ours": lambda: ours.ask(PAGE, b"Accept-Encoding: gzip\r\n")}, 10)["ours"]
        rates = [ours.unchanged_per_second(0.3 if is_small else 1.5) for _ in range(1 if is_small else 5)]
        unchanged = figure_of(rates, "requests/s")
        first = figure_of([ours.first_event_s("/api/checkpoints/stream") for _ in range(2 if is_small else 30)])
        whole = figure_of([ours.whole_stream_s("/api/checkpoints/stream") for _ in range(1 if is_small else 5)])
        after = ours.memory()
    is_full = count == 100_000
    is_first = count == 10_000
    return [
        Row(
            11, f"serve {count:,}: ready, first page answered", ready.pop("ours"), peers=ready,
            promises=[at_most(0.5, "s", figure_of(starts["ours"]).median)] if is_first else [],
            series="serve ready", n=count,
        ),
        Row(
            11, f"serve {count:,}: memory", resident.pop("ours"), peers=resident,
            promises=[at_most(80, "MB", max(figure_of(memory["ours"]).median, after) / 1e6)] if is_first else [],
            series="serve memory", n=count, note=f"{after / 1e6:.0f} MB after all of these",
        ),
        Row(
            11, f"serve {count:,}: 100 sorted by a metric", page["ours"],
            peers={name: figure for name, figure in page.items() if name != "ours"},
            promises=[at_most(10, "ms", 1000 * page["ours"].median)] if is_full else [],
            series="serve a page", n=count, note=f"compressed {1000 * compressed.median:.2f} ms",
        ),
        Row(
            11, f"serve {count:,}: nothing changed, 304, {CLIENTS} clients", unchanged,
            promises=[at_least(3000, "requests/s", unchanged.median)],
        ),
        Row(
            11, f"serve {count:,}: first batch of a stream", first,
            promises=[at_most(50, "ms", 1000 * first.median)] if is_full else [],
        ),
        Row(11, f"serve {count:,}: a whole stream", whole, note=f"{count / whole.median:,.0f} entries/s"),
    ]  # fmt: skip


class _Peer:
    """A server as a process, and one connection to it; its command ends where the port belongs."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def __enter__(self) -> Self:
        self.port = _free_port()
        started = time.perf_counter()
        command = [*self._command, str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._connection: socket.socket = wait_for(self._connect)
        self.ask("/api/checkpoints" if self._command[0] == COMMAND else "/")
        self.ready_s = time.perf_counter() - started
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait()

    def memory(self) -> float:
        return read_status(self._process.pid)["VmRSS"]

    def ask(self, path: str, headers: bytes = b"") -> bytes:
        """Get an answer with a length, over the connection that is there."""
        self._connection.sendall(_request(path, headers))
        head, body = self._head(self._connection)
        assert b" 200 " in head.partition(b"\r\n")[0], head
        if b"transfer-encoding: chunked" in head.lower():
            while not body.endswith(b"0\r\n\r\n"):
                body += self._connection.recv(1 << 20)
            return body
        length = int(_header(head, b"content-length"))
        while len(body) < length:
            body += self._connection.recv(1 << 20)
        return body

    def unchanged_per_second(self, seconds: float) -> float:
        """Ask for what did not change, with several clients, each again as soon as it has its answer."""
        self._connection.sendall(_request(PAGE))
        head, body = self._head(self._connection)
        tag, length = _header(head, b"etag"), int(_header(head, b"content-length"))
        while len(body) < length:
            body += self._connection.recv(1 << 20)
        request = _request(PAGE, b"If-None-Match: " + tag + b"\r\n")
        answered = 0
        with contextlib.ExitStack() as stack:
            clients = {(c := stack.enter_context(self._connect_anew())).fileno(): c for _ in range(CLIENTS)}
            poller = select.poll()
            for descriptor, client in clients.items():
                poller.register(descriptor, select.POLLIN)
                client.sendall(request)
            started = time.perf_counter()
            while time.perf_counter() - started < seconds:
                for descriptor, _ in poller.poll():
                    assert clients[descriptor].recv(1 << 16).startswith(b"HTTP/1.1 304 ")
                    answered += 1
                    clients[descriptor].sendall(request)
            return answered / (time.perf_counter() - started)

    def first_event_s(self, path: str) -> float:
        """Time a stream's first event, whole, from before the request; then leave."""
        with self._connect_anew() as client:
            started = time.perf_counter()
            client.sendall(_request(path))
            data = b""
            while b"\n\n" not in data.partition(b"\r\n\r\n")[2]:
                data += client.recv(1 << 20)
            return time.perf_counter() - started

    def whole_stream_s(self, path: str) -> float:
        """Time a stream to its end."""
        with self._connect_anew() as client:
            started = time.perf_counter()
            client.sendall(_request(path))
            tail = b""
            while not tail.endswith(b"0\r\n\r\n"):
                tail = tail[-100:] + client.recv(1 << 20)
            assert b'"type":"complete"' in tail
            return time.perf_counter() - started

    def _connect(self) -> socket.socket | None:
        try:
            return self._connect_anew()
        except OSError:
            return None

    def _connect_anew(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port))

    @staticmethod
    def _head(connection: socket.socket) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 20)
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body


def _request(path: str, headers: bytes = b"") -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n"


def _header(head: bytes, name: bytes) -> bytes:
    return next(line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(name + b":"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _database(path: Path, entries: list[Entry]) -> str:
    """Write the same rows for datasette: the fields that are texts or numbers, the metric, and an index on it."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        rows: Iterator[dict[str, object]] = (
            {"hmean": entry.metrics[METRIC], **{k: _cell(v) for k, v in msgspec.to_builtins(entry).items()}}
            for entry in entries
        )
        first = next(rows)
        names = ", ".join(f'"{name}"' for name in first)
        database.execute(f"create table checkpoints ({names})")
        marks = ", ".join("?" * len(first))
        for row in (first, *rows):
            database.execute(f"insert into checkpoints values ({marks})", list(row.values()))
        database.execute("create index by_hmean on checkpoints (hmean)")
    return str(path)


def _cell(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list | tuple) else value
