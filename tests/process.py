"""The real daemon as a process, for tests: started, listened to as systemd would, stopped; and what to feed it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ckpt_indexer import read_index
from ckpt_indexer.actions.sync import wait_for_daemon
from ckpt_indexer.metadata.entry import stamp_of
from ckpt_indexer.passes.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.model import Entry

COMMAND = str(Path(sys.executable).with_name("ckpt-indexer"))
TIMEOUT_S = 60.0  # how long a test waits before it calls something broken; the machine may be busy
_PACE_S = 0.005
QUEUE_MAX = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def wait_for(condition: Callable[[], Any], *, timeout_s: float = TIMEOUT_S) -> Any:
    """Give the condition's first true value; fails with the last value seen."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; last value: {value!r}"
        pause.wait(_PACE_S)
    return value


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **options
    )


def encoded(epoch: int) -> bytes:
    """Make a checkpoint; those with one digit have one size."""
    import torch

    buffer = io.BytesIO()
    torch.save({"epoch": epoch, "state_dict": {"w": torch.zeros(4, 5)}}, buffer)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def overflow_queue(folder: Path) -> None:
    """Cause more events in a watched folder than the kernel queues, by one file that is gone again afterwards.

    The queue stays full as long as nothing reads it: no event that comes later is queued.
    """
    path = folder / "written-and-deleted"
    for _ in range(QUEUE_MAX // 2 + 1):  # each time it is created, closed and deleted
        path.write_bytes(b"")
        path.unlink()


def status_of(root: Path) -> dict[str, Any]:
    """Ask `status`."""
    status: dict[str, Any] = json.loads(run("status", root, "--json").stdout)
    return status


class Daemon:
    """``ckpt-indexer watch`` on a root of its own; ready when entered."""

    def __init__(
        self, root: Path, *flags: str, wait_ready: bool = True, prefix: tuple[str, ...] = (), **options: Any
    ) -> None:
        self.root = root
        self._command = [*prefix, COMMAND, "watch", str(root), *flags]
        self._options = options
        self._wait_ready = wait_ready
        self.notifications: list[str] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="notify-")
        address = os.path.join(self._folder.name, "socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self.log_path = Path(self._folder.name) / "log"
        environment = {**os.environ, "NOTIFY_SOCKET": address, **self._options.pop("env", {})}
        try:
            with self.log_path.open("wb") as log:
                self.process = subprocess.Popen(self._command, stderr=log, env=environment, **self._options)
            if self._wait_ready:
                self.wait_notified("READY=1")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self._socket.close()
            self._folder.cleanup()

    def wait_notified(self, line: str) -> None:
        """Wait for a line of the notify protocol."""
        self._socket.settimeout(TIMEOUT_S)
        while True:
            try:
                message = self._socket.recv(4096).decode()
            except TimeoutError:
                raise AssertionError(f"no {line}; log: {self.log_text()}") from None
            self.notifications.append(message)
            if any(part.startswith(line) for part in message.splitlines()):
                return

    def sync(self) -> dict[str, Entry]:
        """Wait until everything written so far is in the index, and read it."""
        assert wait_for_daemon(str(self.root), timeout_s=TIMEOUT_S), self.log_text()
        return dict(read_index(self.root).entries)

    def log_text(self) -> str:
        return self.log_path.read_text()

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == name]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)


def index_equals_disk(root: Path) -> bool:
    """Hold the index against a fresh look at the disk, stamp by stamp."""
    entries = read_index(root).entries
    found = scan(str(root)).found
    assert {k: stamp_of(e) for k, e in entries.items()} == {k: f.stamp for k, f in found.items()}
    return True
