"""The process in which every byte of other people's files is parsed: ``python -m ckpt_indexer.sandbox.worker``.

Its owner (``reader``) sends one byte, what to read, with an open descriptor of the file, and for a deep reading how
fast it may go (a double, bytes a second, 0 for no limit); it answers with a length and a msgpack document. It opens no
path itself and is given limits before the first file: address space, CPU time a file, no core dumps, no writing to
files. Whatever a file does to it ends as this process's death, which its owner turns into a problem. Standard input is
the socket; the process ends when its owner is gone.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import resource
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from ckpt_indexer.errors import reason_of
from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.facts import DeepFacts, Facts
from ckpt_indexer.model import Problem
from ckpt_indexer.sandbox.plain_yaml import YAML_MAX, parse_yaml
from ckpt_indexer.trackers.wandb.log import RunLog, read_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

READ_CHECKPOINT = b"C"
READ_DEEP = b"D"
READ_YAML = b"Y"
READ_WANDB = b"W"
MEMORY_MAX = 448 << 20  # bytes of address space: 512 MB for all of it, the interpreter's own included
CPU_SECONDS = 1.5  # for one file; a data.pkl of 8 MB takes 0.3
DEEP_CPU_SECONDS = 20.0  # for every byte of one file: so much, for 70,000 records take 4 …
DEEP_CPU_RATE = 20e6  # … and a second for so many bytes; the slowest part, the digest, does 1e9
DROP_BYTES = 4 << 20  # let go of at once; the system keeps a file in parts of up to 2 MB, and splits none of them
PACE_STEP_MIN = 64 << 10  # bytes read at once, however slow it has to be
GARBAGE_MAX = 20_000  # objects that a file may leave behind in cycles (OmegaConf's parents): some MB
EXIT_MEMORY = 70  # the exit code that says the memory did not suffice
HEADER = struct.Struct("<I")
RATE = struct.Struct("<d")


class YamlFacts(msgspec.Struct):
    """A YAML document, or why there is none."""

    document: Any = None
    error: str | None = None
    is_unread: bool = False  # the disk failed: the error says nothing about the document


def cpu_seconds(request: bytes, size_bytes: int) -> float:
    """Give the CPU time that one request may take."""
    return DEEP_CPU_SECONDS + size_bytes / DEEP_CPU_RATE if request == READ_DEEP else CPU_SECONDS


def main() -> None:
    """Serve requests until the owner closes the socket."""
    _limit()
    gc.disable()  # reading makes many objects and no garbage: looking for some takes a tenth of the time
    channel = socket.socket(fileno=os.dup(0))
    encode = msgspec.msgpack.Encoder().encode
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not request or not descriptors:
            return
        descriptor = descriptors[0]
        rate = RATE.unpack(channel.recv(RATE.size, socket.MSG_WAITALL))[0] if request == READ_DEEP else 0.0
        # Its default action ends the process.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds(request, os.fstat(descriptor).st_size))
        answer: object
        try:
            if request == READ_DEEP:
                answer = _read_deep(descriptor, rate)
            else:
                with open(descriptor, "rb", buffering=0) as file:
                    answer = _READERS[request](file)
            data = encode(answer)
        except MemoryError:
            # A heap that was full once is fragmented; a new process costs 40 ms. Ended at once and unanswered, so that
            # the owner cannot hand the next file to a process that is about to end.
            os._exit(EXIT_MEMORY)
        except Exception as error:  # noqa: BLE001 - a traceback would put a file's text into its owner's log
            problem = Problem.of("reader-crashed", f"{type(error).__name__}: {error}")
            failures = {
                READ_CHECKPOINT: Facts(problem=problem),
                READ_DEEP: DeepFacts(problem=problem),
                READ_WANDB: RunLog(),
            }
            data = encode(failures.get(request, YamlFacts(error=problem.message)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(HEADER.pack(len(data)) + data)
        if gc.get_count()[0] > GARBAGE_MAX:  # counted also while collecting is off
            gc.collect()


def _read_deep(descriptor: int, rate: float) -> DeepFacts:
    from ckpt_indexer.formats.proof.deep import read_deep  # numpy and isal, which no other request needs

    _share_heap()
    with _FromDisk(descriptor, rate) as file:
        return read_deep(file)


def _share_heap() -> None:
    """Let threads allocate from the heap there is: glibc would reserve 128 MB of address space for a thread's own."""
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


def _read_yaml(file: Any) -> YamlFacts:
    try:
        return YamlFacts(document=parse_yaml(file.read(YAML_MAX + 1)))
    except OSError as error:
        return YamlFacts(error=Problem.of("io-error", reason_of(error)).message, is_unread=True)
    except ValueError as error:
        return YamlFacts(error=Problem.of("sidecar-invalid", error).message)


_READERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    READ_CHECKPOINT: read_facts,
    READ_YAML: _read_yaml,
    READ_WANDB: read_log,
}


def _limit() -> None:
    # Ctrl-C and a service manager's stop reach the whole group; the owner decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.setrecursionlimit(500)


if __name__ == "__main__":
    main()
