"""What the two sides of the process boundary agree on: the requests, their answers, and the limits.

A request is one byte on the socket, with an open descriptor of the file; a deep reading also says how fast it may go
(``RATE``, bytes a second, 0 for no limit). The answer is a length (``HEADER``) and a msgpack document. Parsers stand
here by name: the worker imports them, the owner never does.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from ckpt_indexer.formats.facts import DeepFacts, Facts, RunLog, ShardIndex, YamlFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.model import Problem

Answer = TypeVar("Answer")

MEMORY_MAX = 448 << 20  # bytes of address space: 512 MB for all of it, the interpreter's own included
CPU_SECONDS = 1.5  # for one file; a data.pkl of 8 MB takes 0.3
DEEP_CPU_SECONDS = 20.0  # for every byte of one file: so much, for 70,000 records take 4 …
DEEP_CPU_RATE = 20e6  # … and a second for so many bytes; the slowest part, the digest, does 1e9
EXIT_MEMORY = 70  # the worker's exit code that says the memory did not suffice
HEADER = struct.Struct("<I")
RATE = struct.Struct("<d")


class Request(Generic[Answer]):
    """One kind of reading."""

    def __init__(self, code: bytes, parser: str, answer: type[Answer], failure: Callable[[Problem], Answer]) -> None:
        """*parser* is ``module:function``; *failure* builds the answer for a file that could not be parsed."""
        self.code = code
        self.parser = parser
        self.failure = failure
        self.decode: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(answer).decode


READ_CHECKPOINT = Request(
    b"C", "ckpt_indexer.formats.containers.identify:read_facts", Facts, lambda problem: Facts(problem=problem)
)
READ_DEEP = Request(
    b"D", "ckpt_indexer.formats.proof.deep:read_deep", DeepFacts, lambda problem: DeepFacts(problem=problem)
)
READ_YAML = Request(
    b"Y", "ckpt_indexer.formats.plain_yaml:read_yaml", YamlFacts, lambda problem: YamlFacts(error=problem.message)
)
READ_WANDB = Request(b"W", "ckpt_indexer.trackers.wandb.log:read_log", RunLog, lambda _: RunLog())
READ_INDEX = Request(
    b"S",
    "ckpt_indexer.formats.frameworks.sharded:read_index",
    ShardIndex,
    lambda problem: ShardIndex(error=problem.message),
)
REQUESTS = {request.code: request for request in (READ_CHECKPOINT, READ_DEEP, READ_YAML, READ_WANDB, READ_INDEX)}


def cpu_seconds(code: bytes, size_bytes: int) -> float:
    """Return the CPU time that one request may take."""
    return DEEP_CPU_SECONDS + size_bytes / DEEP_CPU_RATE if code == READ_DEEP.code else CPU_SECONDS
