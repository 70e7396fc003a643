"""Everything that is read of one checkpoint, as one record of plain data.

Owns the reading: the checkpoint's header, its configuration and run, the sidecars beside it, and its fingerprint before
and after. Promises: what a file contains raises nothing, it becomes a problem in the record; the record can be pickled,
so that it may come from a thread, a process or another machine; nothing on the disk is changed. Does not know what
follows from it: that is ``judge``'s.

Configurations and runs belong to many checkpoints that are read one after the other, so the last few are kept.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from cachetools import LRUCache, cachedmethod
from msgspec.structs import replace

from ckpt_indexer import paths
from ckpt_indexer.errors import NotRegularFile, SidecarInvalid
from ckpt_indexer.formats.facts import YAML_MAX, Facts
from ckpt_indexer.metadata.compose import Config
from ckpt_indexer.metadata.schema import Document
from ckpt_indexer.metadata.sidecar import is_lost, parse_sidecar
from ckpt_indexer.model import Fingerprint, Problem, Stamp
from ckpt_indexer.passes.beside import read_file
from ckpt_indexer.passes.folders import check_folder, problem_of
from ckpt_indexer.passes.scan import fingerprint_of_folder
from ckpt_indexer.paths import Key
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.trackers.wandb import run as wandb
from ckpt_indexer.tree.local import fingerprint_at, fingerprint_of, opened_file, opened_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt_indexer.passes.scan import Found
    from ckpt_indexer.paths import RelPath

RUNS_CACHED_MAX = 8  # some MB each
CONFIGS_CACHED_MAX = 64
SECOND_NS = 10**9
DOUBT_NS = 3 * SECOND_NS  # longer than any file system's tick
GONE = (errno.ENOENT, errno.ENOTDIR)
LASTING = (errno.EACCES, errno.EPERM, errno.EROFS)  # errors that say what may be done; others say that the disk failed


class Sidecar(msgspec.Struct, frozen=True):
    """What was read of a sidecar; without document and problem nothing is there, or what a power cut left of it."""

    document: Document | None = None
    problem: Problem | None = None  # "io-error" if the disk failed: it may be a valid one
    fingerprint: Fingerprint | None = None  # of the file that was read


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one checkpoint, at about one moment."""

    key: Key
    stamp: Stamp  # of the files that were read; one that could not be read is missing, so that the next scan differs
    problem: Problem | None = None  # why the checkpoint could not be opened: nothing below is known then
    is_gone: bool = False  # it vanished meanwhile
    read_at_ns: int = 0  # since 1970, before the first byte
    fingerprint_after: Fingerprint | None = None  # of the checkpoint; before, it was the stamp's
    sidecar: Sidecar = Sidecar()
    other: Sidecar = Sidecar()  # the one under another program's name
    config: Config | None = None
    run: wandb.Run | None = None
    facts: Facts | None = None  # ``None``: not read, because what else is known was enough


class _Content(NamedTuple):
    """An opened checkpoint, a file or a folder."""

    fingerprint: Callable[[], Fingerprint]  # as it is now
    read: Callable[[], Facts]


class EvidenceReader:
    """Reads checkpoints below one root, from any number of threads: each has a worker process of its own.

    Pickled, it becomes the one reader of its root in the process where it arrives.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._configs: LRUCache[Any, dict[str, Any]] = LRUCache(CONFIGS_CACHED_MAX)
        self._runs: LRUCache[Any, wandb.Run] = LRUCache(RUNS_CACHED_MAX)
        self._lock = threading.Lock()  # guards the three collections above

    def __reduce__(self) -> tuple[Callable[[str], EvidenceReader], tuple[str]]:
        return _reader_of_this_process, (self.root,)

    def close(self) -> None:
        """End the worker processes; no thread may be reading any more."""
        for reader in self._readers:
            reader.close()

    def warm_up(self) -> None:
        """Start this thread's worker process now: the first checkpoint would wait for it."""
        self._reader().start()

    def read(self, key: Key, found: Found, *, is_enough: Callable[[Evidence], bool] | None = None) -> Evidence:
        """Read the checkpoint at *key* and what belongs to it.

        The checkpoint's own content comes last, and is not read if *is_enough* is true of everything else.
        """
        # Newer than the scan's: an earlier examination of this key may have written the sidecar since.
        stamp = replace(found.stamp, sidecar=self._stat_sidecar(key, found.stamp.sidecar))
        if found.problem is not None:
            return Evidence(key=key, stamp=stamp, problem=Problem.of(*found.problem))
        try:
            with self._opened(key, found) as content:
                evidence = self._read_around(key, stamp, content)
                facts = None if is_enough is not None and is_enough(evidence) else content.read()
                return replace(evidence, facts=facts, fingerprint_after=content.fingerprint())
        except OSError as error:
            return Evidence(key=key, stamp=stamp, problem=problem_of(error), is_gone=error.errno in GONE)

    def read_sidecar(self, path: RelPath) -> Sidecar:
        """Read the sidecar at *path*."""
        try:
            with opened_file(self.root, path) as descriptor:
                fingerprint = fingerprint_of(os.fstat(descriptor))
                if is_lost(os.pread(descriptor, YAML_MAX, 0)):
                    return Sidecar()
                loaded = self._reader().read_yaml(descriptor)
        except OSError as error:
            if error.errno in GONE:
                return Sidecar()
            code = "sidecar-invalid" if error.errno in LASTING or isinstance(error, NotRegularFile) else "io-error"
            return Sidecar(problem=Problem.of(code, error.strerror or "it is no regular file"))
        if loaded.error is not None:
            return Sidecar(problem=Problem.of("io-error" if loaded.is_unread else "sidecar-invalid", loaded.error))
        try:
            return Sidecar(parse_sidecar(loaded.document), fingerprint=fingerprint)
        except SidecarInvalid as error:
            return Sidecar(problem=Problem.of("sidecar-invalid", error))

    @contextlib.contextmanager
    def _opened(self, key: Key, found: Found) -> Iterator[_Content]:
        path, reader = found.path_to_read(key), self._reader()
        if found.is_folder:
            yield _Content(
                lambda: fingerprint_of_folder(self.root, path), lambda: check_folder(self.root, path, reader)
            )
        else:
            with opened_file(self.root, path) as descriptor:
                name = paths.to_path(key)
                yield _Content(
                    lambda: fingerprint_of(os.fstat(descriptor)),
                    lambda: read_file(self.root, path, descriptor, reader, name=name),
                )

    def _read_around(self, key: Key, stamp: Stamp, content: _Content) -> Evidence:
        """Read everything but the checkpoint's content."""
        read_at_ns = time.time_ns()
        stamp = replace(stamp, fingerprint=content.fingerprint())
        try:
            run = self._run(key, stamp)
        except OSError:
            run, stamp = None, replace(stamp, run=None)
        config = None if stamp.config is None else self._config(*stamp.config)
        if config is None:
            stamp = replace(stamp, config=None)
        sidecar = other = Sidecar()
        if stamp.sidecar is not None:
            sidecar = self.read_sidecar(paths.sidecar_path(paths.to_path(key)))
            if sidecar.problem is not None and sidecar.problem.code == "io-error":
                stamp = replace(stamp, sidecar=None)
        if stamp.other is not None:
            other = self.read_sidecar(paths.to_path(stamp.other.path))
        return Evidence(
            key=key, stamp=stamp, read_at_ns=read_at_ns, sidecar=sidecar, other=other, config=config, run=run
        )

    def _stat_sidecar(self, key: Key, scanned: Fingerprint | None) -> Fingerprint | None:
        """Return the sidecar's fingerprint as it is now; where the disk does not say, as it was *scanned*."""
        folder, name = paths.split(paths.sidecar_path(paths.to_path(key)))
        try:
            with opened_folder(self.root, folder) as folder_fd:
                return fingerprint_at(folder_fd, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return scanned

    def _config(self, key: Key, fingerprint: Fingerprint) -> Config | None:
        """Read a run's configuration; one that is no mapping is an empty one, one that cannot be read is none."""
        try:
            # One that was just stamped with a whole second may change and keep that stamp.
            is_in_doubt = fingerprint[1] % SECOND_NS == 0 and time.time_ns() - fingerprint[1] < DOUBT_NS
            read = self._read_config if is_in_doubt else self._config_content
            return Config(key, read(key, fingerprint), fingerprint)
        except OSError:
            return None

    @cachedmethod(attrgetter("_configs"), lock=attrgetter("_lock"))
    def _config_content(self, key: Key, fingerprint: Fingerprint) -> dict[str, Any]:
        return self._read_config(key, fingerprint)

    def _read_config(self, key: Key, _: Fingerprint) -> dict[str, Any]:
        with opened_file(self.root, paths.to_path(key)) as descriptor:
            loaded = self._reader().read_yaml(descriptor)
        if loaded.is_unread:
            raise OSError(errno.EIO, "the configuration cannot be read")
        return loaded.document if isinstance(loaded.document, dict) else {}

    def _run(self, key: Key, stamp: Stamp) -> wandb.Run | None:
        """Read the Weights & Biases run that the checkpoint belongs to.

        Raises:
            OSError: the disk failed.

        """
        if stamp.run is None:
            return None
        folder = paths.to_path(stamp.run[0])
        home = paths.split(paths.split(folder)[0])[0]  # above "wandb/run-…"
        folders = next((each for each in wandb.list_runs(self.root, home).values() if each[0] == folder), [])
        status = wandb.stat_run(self.root, folders)
        if status is None:
            return None
        run = self._run_content(folders, status)
        return run if wandb.belongs(run, paths.to_path(key), stamp.fingerprint[1]) else None

    @cachedmethod(
        attrgetter("_runs"), key=lambda _, folders, status: (folders[0], status.exact), lock=attrgetter("_lock")
    )
    def _run_content(self, folders: Sequence[RelPath], status: wandb.RunStat) -> wandb.Run:
        return wandb.read_run(self.root, folders, status.fingerprint, self._reader())

    def _reader(self) -> Reader:
        """Return this thread's reader."""
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = Reader()
            with self._lock:
                self._readers.append(reader)
        return reader


@functools.cache
def _reader_of_this_process(root: str) -> EvidenceReader:
    return EvidenceReader(root)
