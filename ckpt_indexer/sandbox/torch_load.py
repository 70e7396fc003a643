"""The process in which torch itself loads a checkpoint: ``python -m ckpt_indexer.sandbox.torch_load DESCRIPTOR``.

The only place of the package that imports torch outside training. Its address space is limited to what torch takes,
measured after its import, plus what the file may need; its CPU time by the file's size. It prints one JSON object and
ends with 0; any other end means that torch took the process with it.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import warnings

import msgspec

MEMORY_FACTOR = 3  # the file in memory, its tensors, and a copy while they are being made
MEMORY_BASE = 512 << 20  # bytes
CPU_BASE_S = 60.0  # torch's import takes 2; refusing a hostile name can take 90
BYTES_PER_S = 20e6  # of the file, in CPU time
MESSAGE_MAX = 2000  # characters; torch has told 300,000


class Loaded(msgspec.Struct):
    """How torch's loading ended; all empty: it loaded."""

    refused: str | None = None  # weights_only=True does not allow what the file names: no damage
    failed: str | None = None
    is_out_of_memory: bool = False


def seconds_for(size_bytes: int) -> float:
    """Return the CPU time that loading a file may take."""
    return CPU_BASE_S + size_bytes / BYTES_PER_S


def main() -> None:
    """Load the file that *DESCRIPTOR* is."""
    descriptor = int(sys.argv[1])
    size = os.fstat(descriptor).st_size
    cpu_s = int(seconds_for(size))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))  # the first ends it with a signal that says why
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch

    with open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    memory = used + MEMORY_FACTOR * size + MEMORY_BASE
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    answer = Loaded()
    try:
        with warnings.catch_warnings(), open(descriptor, "rb", closefd=False) as stream:
            warnings.simplefilter("ignore")
            stream.seek(0, io.SEEK_SET)
            torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError:
        answer.is_out_of_memory = True
    except Exception as error:  # noqa: BLE001 - torch raises nearly anything; which of it is the answer
        text = str(error)
        answer.is_out_of_memory = "can't allocate memory" in text
        if "Weights only load failed" in text:
            answer.refused = text[:MESSAGE_MAX]
        else:
            answer.failed = f"{type(error).__name__}: {text[:MESSAGE_MAX]}"
    # A pipe is no file, so RLIMIT_FSIZE does not forbid it.
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
