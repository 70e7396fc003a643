"""The process in which every byte of other people's files is parsed: ``python -m ckpt_indexer.sandbox.worker``.

Its owner (``owner``) sends requests as ``requests`` describes them. It opens no path itself and sets its limits before
the first file: address space, CPU time a file, no core dumps, no writing to files. Whatever a file does to it ends as
this process's death, which its owner turns into a problem. Standard input is the socket; the process ends when its
owner is gone.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import os
import resource
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from ckpt_indexer.model import Problem
from ckpt_indexer.sandbox.requests import (
    EXIT_MEMORY,
    HEADER,
    MEMORY_MAX,
    RATE,
    READ_CHECKPOINT,
    READ_DEEP,
    REQUESTS,
    cpu_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

DROP_BYTES = 4 << 20  # let go of at once; the system keeps a file in parts of up to 2 MB, and splits none of them
PACE_STEP_MIN = 64 << 10  # bytes read at once, however slow it has to be
GARBAGE_MAX = 20_000  # objects that a file may leave behind in cycles (OmegaConf's parents): some MB


def main() -> None:
    """Serve requests until the owner closes the socket."""
    _limit()
    gc.disable()  # reading makes many objects and no garbage: looking for some takes a tenth of the time
    _parser_of(READ_CHECKPOINT.parser)  # what nearly every request needs: not on the first file's time
    channel = socket.socket(fileno=os.dup(0))
    encode = msgspec.msgpack.Encoder().encode
    while True:
        code, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not code or not descriptors:
            return
        request, descriptor = REQUESTS[code], descriptors[0]
        rate = RATE.unpack(channel.recv(RATE.size, socket.MSG_WAITALL))[0] if request is READ_DEEP else 0.0
        # Its default action ends the process.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds(code, os.fstat(descriptor).st_size))
        answer: object
        try:
            parse = _parser_of(request.parser)
            if request is READ_DEEP:
                _share_heap()
            with _FromDisk(descriptor, rate) if request is READ_DEEP else open(descriptor, "rb", buffering=0) as file:
                answer = parse(file)
            data = encode(answer)
        except MemoryError:
            # A heap that was full once is fragmented; a new process costs 40 ms. Ended at once and unanswered, so that
            # the owner cannot hand the next file to a process that is about to end.
            os._exit(EXIT_MEMORY)
        except Exception as error:  # noqa: BLE001 - a traceback would put a file's text into its owner's log
            data = encode(request.failure(Problem.of("reader-crashed", f"{type(error).__name__}: {error}")))
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(HEADER.pack(len(data)) + data)
        if gc.get_count()[0] > GARBAGE_MAX:  # counted also while collecting is off
            gc.collect()


@functools.cache
def _parser_of(name: str) -> Callable[[BinaryIO], object]:
    """Import the parser ``module:function``; only those of ``REQUESTS`` are asked for."""
    module, _, function = name.partition(":")
    parser: Callable[[BinaryIO], object] = getattr(importlib.import_module(module), function)
    return parser


def _share_heap() -> None:
    """Make threads allocate from the heap there is: glibc would reserve 128 MB of address space for a thread's own."""
    import ctypes

    m_arena_max = -8  # malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library, which has no such heaps
        ctypes.CDLL(None).mallopt(m_arena_max, 1)


class _FromDisk(io.FileIO):
    """A file whose bytes come from the disk, not from memory, and not faster than they may.

    What the system holds of it in memory proves nothing about the disk, so that is dropped before; and what was read is
    dropped after, so that a look at every file does not push out what others need. Pages that are not written yet, or
    mapped by somebody, stay. Pacing is done by sleeping, which costs no CPU time.
    """

    def __init__(self, descriptor: int, rate: float) -> None:
        super().__init__(descriptor, "rb")
        self._advise(0, 0, os.POSIX_FADV_DONTNEED)
        self._advise(0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._step = max(PACE_STEP_MIN, int(rate / 4)) if rate else None  # four steps a second
        self._rate = rate
        self._due = time.monotonic()  # when the next step may begin

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        start = self.tell()
        if self._rate:
            time.sleep(max(0.0, self._due - time.monotonic()))
        count = super().readinto(memoryview(buffer)[: self._step])
        if self._rate:
            self._due = max(self._due, time.monotonic() - 1.0) + count / self._rate  # a slow disk is not caught up with
        window = start - start % DROP_BYTES
        if start + count >= window + DROP_BYTES:
            self._advise(window, start + count - window, os.POSIX_FADV_DONTNEED)
        return count

    def close(self) -> None:
        if not self.closed:
            self._advise(0, 0, os.POSIX_FADV_DONTNEED)
        super().close()

    def _advise(self, start: int, size: int, advice: int) -> None:
        with contextlib.suppress(OSError):  # a file system without this has no such memory either
            os.posix_fadvise(self.fileno(), start, size, advice)


def _limit() -> None:
    # Ctrl-C and a service manager's stop reach the whole group; the owner decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Before numpy's import: each thread of its linear algebra, unused here, would reserve address space, and a worker
    # on a machine with many cores does not have that much.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.setrecursionlimit(500)


if __name__ == "__main__":
    main()
