"""The process in which every byte of other people's files is parsed: ``python -m ckpt_indexer.formats.worker``.

Its owner (``reader``) sends one byte, what to read, with an open descriptor of the file; it answers with a length and
a msgpack document. It opens no path itself and is given limits before the first file: address space, CPU time a file,
no core dumps, no writing to files. Whatever a file does to it ends as this process's death, which its owner turns into
a problem. Standard input is the socket; the process ends when its owner is gone.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

import msgspec

from ckpt_indexer.formats.container import read_facts
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.formats.plain_yaml import YAML_MAX, parse_yaml
from ckpt_indexer.model import Problem

READ_CHECKPOINT = b"C"
READ_YAML = b"Y"
MEMORY_MAX = 448 << 20  # bytes of address space: 512 MB for all of it, the interpreter's own included
CPU_SECONDS = 1.5  # for one file; a data.pkl of 8 MB takes 0.3
EXIT_MEMORY = 70  # the exit code that says the memory did not suffice
HEADER = struct.Struct("<I")


class YamlFacts(msgspec.Struct):
    """A YAML document, or why there is none."""

    document: Any = None
    error: str | None = None


def main() -> None:
    """Serve requests until the owner closes the socket."""
    _limit()
    channel = socket.socket(fileno=os.dup(0))
    encode = msgspec.msgpack.Encoder().encode
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not request or not descriptors:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its default action ends the process
        answer: object
        try:
            with open(descriptors[0], "rb", buffering=0) as file:
                answer = read_facts(file) if request == READ_CHECKPOINT else _read_yaml(file)
            data = encode(answer)
        except MemoryError:
            # A heap that was full once is fragmented; a new process costs 40 ms. Ended at once and unanswered, so that
            # the owner cannot hand the next file to a process that is about to end.
            os._exit(EXIT_MEMORY)
        except Exception as error:  # noqa: BLE001 - a traceback would put a file's text into its owner's log
            problem = Problem.of("reader-crashed", f"{type(error).__name__}: {error}")
            answer = Facts(problem=problem) if request == READ_CHECKPOINT else YamlFacts(error=problem.message)
            data = encode(answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(HEADER.pack(len(data)) + data)


def _read_yaml(file: Any) -> YamlFacts:
    try:
        return YamlFacts(document=parse_yaml(file.read(YAML_MAX + 1)))
    except (OSError, ValueError) as error:
        return YamlFacts(error=Problem.of("sidecar-invalid", error).message)


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
