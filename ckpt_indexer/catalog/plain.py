"""The plain way to a catalogue: every checkpoint loaded by torch itself, in a process with limits.

It knows no index and no sidecars. What the switch falls back to, and what the index's answer is compared with. A
checkpoint that cannot be loaded is left out with a warning, and costs nobody else anything.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.catalog.files import resolve_config_path
from ckpt_indexer.catalog.metadata import read_config
from ckpt_indexer.catalog.plain_worker import READY
from ckpt_indexer.catalog.records import record_of
from ckpt_indexer.errors import TorchMissing
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.metadata.compose import Config, compose
from ckpt_indexer.metadata.entry import entry_of
from ckpt_indexer.paths import RelPath
from ckpt_indexer.sandbox.torch_load import seconds_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckpt_indexer.catalog.records import CheckpointCatalogEntry

START_S = 120.0  # for torch's import from a cold network disk
ANSWER_MAX = 64 << 20  # bytes of one line

log = logging.getLogger("ckpt_indexer.catalog")


def load_records(root: str, config_names: Sequence[str]) -> list[CheckpointCatalogEntry]:
    """Load every checkpoint below the absolute *root*, and return the records of those that were trained at all.

    Raises:
        TorchMissing: there is no torch to load them with.

    """
    configs: dict[Path, dict[str, Any]] = {}
    records = []
    with _Loader() as loader:
        for path in iter_checkpoints(root):
            try:
                status = os.stat(path)
            except OSError:
                continue  # a link that leads nowhere, or it went meanwhile
            if not stat.S_ISREG(status.st_mode):
                continue  # a pipe would be waited for
            facts = loader.load(path)
            if isinstance(facts, str):
                log.warning("%s cannot be loaded: %s", paths.to_text(os.path.relpath(path, root)), facts)
                continue
            config_path = resolve_config_path(path, config_names)
            if config_path is not None and config_path not in configs:
                configs[config_path] = read_config(config_path) or {}
            record = _record(root, path, status, facts, config_path, configs)
            if record.epochs:
                records.append(record)
    return records


def iter_checkpoints(root: str) -> Iterator[str]:
    """Walk *root*, and return the paths of its checkpoints in the order of their names."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names) if paths.is_checkpoint(name))


def _record(
    root: str,
    path: str,
    status: os.stat_result,
    facts: Facts,
    config_path: Path | None,
    configs: dict[Path, dict[str, Any]],
) -> CheckpointCatalogEntry:
    key = paths.to_key(RelPath(os.path.relpath(path, root)))
    fingerprint = (status.st_size, status.st_mtime_ns, status.st_ino)
    config = None if config_path is None else Config(str(config_path), configs[config_path], (0, 0, 0))
    target = paths.to_text(os.path.relpath(os.path.realpath(path), root)) if os.path.islink(path) else None
    document = compose(key=key, link_target=target, fingerprint=fingerprint, facts=facts, config=config)
    record = record_of(entry_of(document, key, fingerprint, None), root)
    if document.indexer is not None and "config" not in document.indexer.unused:
        record.config_path = config_path
    return record


class _Loader:
    """The owner of the process that imports torch; started when first needed, and again after each death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def load(self, path: str) -> Facts | str:
        """Load one checkpoint; a text says why that is not possible."""
        try:
            # Outside the deadline of the file: torch's import is not its fault.
            process = self._started()
            assert process.stdin is not None
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(self._line(process, 2 * seconds_for(os.stat(path).st_size)))
            return answer["failed"] if "failed" in answer else msgspec.convert(answer["facts"], Facts)
        except (OSError, EOFError, ValueError) as error:  # a ValidationError of msgspec's is a ValueError
            code = self._end()
            return f"{str(error) or 'it ended the process that loads it'} ({code})"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-P", "-W", "ignore", "-m", "ckpt_indexer.catalog.plain_worker"]
            self._received = b""
            self._process = subprocess.Popen(  # noqa: S603 - a command of our own
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            if json.loads(self._line(self._process, START_S)) != READY:
                self._end()
                raise TorchMissing
        return self._process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        poller = select.poll()  # select() refuses descriptors from 1,024 on
        poller.register(process.stdout, select.POLLIN)
        while b"\n" not in self._received:
            if not poller.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"no answer within {seconds:.0f} s")
            part = os.read(process.stdout.fileno(), 1 << 20)
            if not part or len(self._received) > ANSWER_MAX:
                raise EOFError
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _end(self) -> str:
        """End the process, and return how it ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return "it did not start"
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)  # most have ended, or do at the end of their input
        process.kill()
        code = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return f"exit code {code}"
