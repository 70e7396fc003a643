"""The owner's side of the worker process: hand it an open file, get facts, whatever the file does.

A ``Reader`` owns at most one worker process, started when first needed and again after each death; one thread at a
time may use it. ``read_checkpoint`` and ``read_yaml`` never raise for what a file contains, and return within
``WALL_SECONDS`` plus the time to start a process; ``read_deep`` returns when that much time passes without progress.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ckpt_indexer.model import Problem
from ckpt_indexer.sandbox.requests import (
    EXIT_MEMORY,
    HEADER,
    MEMORY_MAX,
    RATE,
    READ_CHECKPOINT,
    READ_DEEP,
    READ_INDEX,
    READ_WANDB,
    READ_YAML,
    cpu_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.formats.facts import DeepFacts, Facts, RunLog, ShardIndex, YamlFacts
    from ckpt_indexer.sandbox.requests import Answer, Request

WALL_SECONDS = 20.0  # for one file; the CPU limit ends a bomb long before, this ends a hanging network file system
STALL_SECONDS = 60.0  # without a byte read of a file that is read whole: a disk that spins up takes 15
POLL_SECONDS = 0.1  # between two looks at how far a reading is
ANSWER_MAX = 32 << 20  # bytes; 200,000 tensors take 20 MB, and decoded ten times as much in a process without limits


class _WorkerDied(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem.of(code, message)


class _Progress:
    """How far the worker is in a file: owner and worker share the open file, and with it the offset."""

    def __init__(self, descriptor: int, tell: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._tell = tell
        self._offset = -1
        self._moved = time.monotonic()

    def left(self) -> float:
        """Return the seconds until the file counts as stalled."""
        offset = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        if offset != self._offset:
            self._offset, self._moved = offset, time.monotonic()
            self._tell(offset)
        return self._moved + STALL_SECONDS - time.monotonic()


class Reader:
    """Reads files through a worker process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._cpu_seconds = 0.0  # of the request at hand

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the worker process, if there is none; a failure is told when something is read."""
        with contextlib.suppress(_WorkerDied):
            self._started()

    def read_checkpoint(self, descriptor: int) -> Facts:
        """Read a checkpoint's header; the problem says why where that is not possible."""
        return self._read(READ_CHECKPOINT, descriptor)

    def read_deep(
        self, descriptor: int, *, rate: float = 0.0, on_progress: Callable[[int], None] = lambda _: None
    ) -> DeepFacts:
        """Read every byte of a checkpoint, at most *rate* bytes a second (0: no limit).

        *on_progress* is told, a few times a second, how far it is; in a damaged file it may start anew.
        """
        return self._read(READ_DEEP, descriptor, RATE.pack(rate), _Progress(descriptor, on_progress).left)

    def read_yaml(self, descriptor: int) -> YamlFacts:
        """Read a YAML document."""
        return self._read(READ_YAML, descriptor)

    def read_wandb(self, descriptor: int) -> RunLog:
        """Read the log of a Weights & Biases run; one that ends the worker says nothing."""
        return self._read(READ_WANDB, descriptor)

    def read_index(self, descriptor: int) -> ShardIndex:
        """Read the index of a model's shards."""
        return self._read(READ_INDEX, descriptor)

    def close(self) -> None:
        """End the worker process, if there is one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def _read(
        self,
        request: Request[Answer],
        descriptor: int,
        more: bytes = b"",
        left: Callable[[], float] | None = None,
    ) -> Answer:
        try:
            return request.decode(self._ask(request.code, descriptor, more, left))
        except _WorkerDied as died:
            return request.failure(died.problem)
        except msgspec.MsgspecError as error:
            return request.failure(Problem.of("reader-crashed", f"its answer was not valid: {error}"))

    def _ask(self, code: bytes, descriptor: int, more: bytes, left: Callable[[], float] | None) -> bytes:
        deadline = time.monotonic() + WALL_SECONDS
        left = left or (lambda: deadline - time.monotonic())
        channel = self._started()
        self._cpu_seconds = cpu_seconds(code, os.fstat(descriptor).st_size)
        try:
            socket.send_fds(channel, [code, more], [descriptor])
            (length,) = HEADER.unpack(self._receive(channel, HEADER.size, left))
            if length > ANSWER_MAX:
                raise _WorkerDied("limit-exceeded", f"its description takes {length} bytes")
            return self._receive(channel, length, left)
        except (_WorkerDied, OSError) as error:
            died = error if isinstance(error, _WorkerDied) else self._autopsy()
            self.close()
            raise died from None
        except BaseException:
            self.close()  # an answer that is still on its way must not become the next file's
            raise

    def _started(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between two files: after a memory limit, or somebody killed it
        if self._channel is None:
            self._channel, theirs = socket.socketpair()
            # No warnings: parsing a callback's key may quote a file's text on our standard error, the log.
            command = [sys.executable, "-P", "-W", "ignore", "-m", "ckpt_indexer.sandbox.worker"]
            with theirs:
                try:
                    self._process = subprocess.Popen(  # noqa: S603 - a command of our own
                        command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
                    )
                except (
                    OSError
                ) as error:  # an upgrade replaced the interpreter; it is not the checkpoint that is missing
                    self.close()
                    raise _WorkerDied("reader-crashed", f"no reader can be started: {error.strerror}") from None
        return self._channel

    def _receive(self, channel: socket.socket, size: int, left: Callable[[], float]) -> bytes:
        data = bytearray()
        poller = select.poll()  # select() refuses descriptors from 1,024 on
        poller.register(channel, select.POLLIN)
        while len(data) < size:
            while not poller.poll(1000 * max(0.0, min(POLL_SECONDS, left()))):
                if left() <= 0:
                    raise _WorkerDied("time-limit", "reading it took too long: the disk or the network does not answer")
            part = channel.recv(min(size - len(data), 1 << 20))
            if not part:
                raise self._autopsy()
            data += part
        return bytes(data)

    def _autopsy(self) -> _WorkerDied:
        """Return why the worker is gone."""
        process: Any = self._process
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return _WorkerDied("reader-crashed", "the reader closed its channel")
        if code == EXIT_MEMORY:
            return _WorkerDied("memory-limit", f"it needs more than {MEMORY_MAX >> 20} MB to read")
        if code == -signal.SIGPROF:
            return _WorkerDied("time-limit", f"reading it takes more than {self._cpu_seconds:.3g} s of CPU time")
        if code == -signal.SIGKILL:
            return _WorkerDied("memory-limit", "the reader was killed, most likely for want of memory")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _WorkerDied("reader-crashed", f"the reader ended with {name}")
