"""The real server as a process, for tests: started, asked over sockets, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.process import COMMAND, TIMEOUT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answer(NamedTuple):
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """``ckpt-indexer serve`` on a free port; ready when entered."""

    def __init__(
        self, root: Path, *flags: str, env: dict[str, str] | None = None, code: str = "", **options: Any
    ) -> None:
        """*code* is Python that runs the command instead: with other limits, or under observation."""
        program = [sys.executable, "-c", code] if code else [COMMAND]
        self._command = [*program, "serve", str(root), "--port", "0", *flags]
        self._environment = {**os.environ, **(env or {})}
        self._options = options

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="serve-")
        self.log_path = Path(self._folder.name) / "log"
        try:
            with self.log_path.open("wb") as log:
                self.process = subprocess.Popen(self._command, stderr=log, env=self._environment, **self._options)
            said = wait_for(lambda: re.search(r" at http://\S+:(\d+)/", self.log_text()) or self.process.poll())
            assert isinstance(said, re.Match), self.log_text()
            self.port = int(said[1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self._folder.cleanup()

    def log_text(self) -> str:
        return self.log_path.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask once; underscores in the names of headers are hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            about = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, about, response.read())

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection, and say nothing."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(TIMEOUT_S)
        connection.connect(("127.0.0.1", self.port))
        return connection

    @contextlib.contextmanager
    def events(self, path: str, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream, and give its events as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            assert (response.status, response.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
            yield parse_events(iter(response.readline, b""))

    def memory(self) -> int:
        """Give what the process holds in memory, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) << 10


def parse_events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Read server-sent events as a browser does: the data decoded, with ``event`` and ``id`` where they are."""
    event: dict[str, Any] = {}
    for line in lines:
        text = line.decode().rstrip("\n")
        if not text:
            if event:
                yield event
            event = {}
            continue
        name, _, value = text.partition(": ")
        event[name or "comment"] = json.loads(value) if name == "data" else value
