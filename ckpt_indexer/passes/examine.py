"""One checkpoint, from its file to its entry: read it, put the tiers together, keep its sidecar.

An ``Examiner`` touches the disk for one checkpoint at a time and decides nothing about the index. Its promises: the
entry describes what was in the file between two equal fingerprints; a sidecar that something else wrote is never
replaced while it is newer than the checkpoint, nor ever if it cannot be read; a sidecar that cannot be written costs a
note in the entry, not the entry. Any number of threads may use it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from ckpt_indexer import paths
from ckpt_indexer.errors import NotRegularFile, SidecarInvalid
from ckpt_indexer.metadata.compose import Config, compose, overlay
from ckpt_indexer.metadata.entry import bare_entry, entry_of
from ckpt_indexer.metadata.sidecar import encode_sidecar, is_lost, parse_sidecar
from ckpt_indexer.model import RULES, Entry, OtherSidecar, Problem
from ckpt_indexer.passes.folders import check_folder, problem_of
from ckpt_indexer.passes.scan import fingerprint_of_folder
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.sandbox.plain_yaml import YAML_MAX
from ckpt_indexer.trackers.wandb import run as wandb
from ckpt_indexer.tree.local import fingerprint_of, opened_file, opened_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.metadata.schema import Document
    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.passes.scan import Found, Stamp
    from ckpt_indexer.passes.twins import TwinScore
    from ckpt_indexer.trackers.wandb.run import Run, RunPath

    LookUp = Callable[[RunPath], Run | None]

RUNS_CACHED_MAX = 8  # some MB each
CONFIGS_CACHED_MAX = 64  # parsed configurations; the checkpoints of one run are read one after the other
# A file written within one tick of the file system's clock can change again without changing its fingerprint.
RACY_NS = 20_000_000
LOOK_AGAIN_S = 0.05
RUN_LOG_NS = int((wandb.FLUSH_S + 5) * 1e9)
_LASTING = (errno.EACCES, errno.EPERM, errno.EROFS)  # errors that say what may be done; others say that the disk failed


class Examined(NamedTuple):
    """What came of one checkpoint."""

    entry: Entry
    wrote_sidecar: bool = False
    look_again_s: float | None = None  # read it again after so long, whatever its stamp says
    is_gone: bool = False  # it vanished meanwhile; the entry says nothing


class _Source(NamedTuple):
    """A checkpoint's content, a file's or a folder's."""

    fingerprint: Callable[[], Fingerprint]  # as it is now
    read: Callable[[], Facts]


class Examiner:
    """Makes entries for the checkpoints below one root."""

    def __init__(
        self,
        root: str,
        *,
        sidecars: bool = True,
        fill: bool = True,
        both_names: bool = False,
        lookup: LookUp | None = None,
    ) -> None:
        """*lookup* gives at once what is known of a run elsewhere than in the tree.

        *fill* and *both_names* are the settings ``sidecar_fill`` and ``sidecar_names``.
        """
        self._fill = fill
        self._both_names = both_names
        self.root = root
        self._lookup = lookup
        self._write_sidecars = sidecars
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._configs: OrderedDict[tuple[str, Fingerprint], dict[str, Any]] = OrderedDict()
        self._runs: OrderedDict[tuple[str, Fingerprint], Run] = OrderedDict()
        self._lock = threading.Lock()  # guards the collections above

    def close(self) -> None:
        """End the worker processes; no thread may be examining any more."""
        for reader in self._readers:
            reader.close()

    def warm_up(self) -> None:
        """Start this thread's worker process now: the first checkpoint would wait for it."""
        self._reader().start()

    def examine(self, key: str, found: Found, *, force: bool = False, twin: TwinScore | None = None) -> Examined:
        """Make the entry of the checkpoint at *key*; with *force* our own sidecar is made anew if it is current too.

        *twin* is the score of another checkpoint that is the same save.
        """
        # Newer than the scan's: an earlier examination of this key may have written the sidecar since.
        stamp = replace(found.stamp, sidecar=self._stat_sidecar(key, found.stamp.sidecar))
        found = replace(found, stamp=stamp)
        if found.problem is not None:
            problem = Problem.of(*found.problem)
            return self._finished(found, bare_entry(key, stamp.fingerprint, stamp.link_target, problem))
        path, reader = found.path_to_read(key), self._reader()
        try:
            if found.is_folder:
                source = _Source(
                    lambda: fingerprint_of_folder(self.root, path), lambda: check_folder(self.root, path, reader)
                )
                return self._examine(key, found, source, force=force, twin=twin)
            with opened_file(self.root, path) as descriptor:
                source = _Source(
                    lambda: fingerprint_of(os.fstat(descriptor)), lambda: reader.read_checkpoint(descriptor)
                )
                return self._examine(key, found, source, force=force, twin=twin)
        except OSError as error:
            entry = bare_entry(key, stamp.fingerprint, stamp.link_target, problem_of(error))
            return self._finished(found, entry)._replace(is_gone=error.errno in (errno.ENOENT, errno.ENOTDIR))

    def remove_sidecar_if_ours(self, key: str) -> bool:
        """Remove the sidecar of a checkpoint that is gone, if this project wrote it.

        False if it is not ours, or we may not: not to be tried again. A disk that fails is no such answer.
        """
        path = paths.sidecar_path(paths.to_path(key))
        self._remove_second(key)
        document, problem = self._read_sidecar(path)
        if problem is not None and problem.code == "io-error":
            return True
        if document is None or document.indexer is None:
            return False
        return self._unlink(path)

    def _remove_second(self, key: str) -> None:
        """Remove what we wrote under the second name for a checkpoint that is gone."""
        for suffix in paths.KNOWN_SUFFIXES:
            if key.endswith(suffix):
                second = paths.to_path(key).removesuffix(suffix) + paths.SIDECAR_SUFFIX
                if os.path.lexists(os.path.join(self.root, second)):
                    document, _ = self._read_sidecar(second)
                    if document is not None and document.indexer is not None and document.checkpoint_path == key:
                        self._unlink(second)

    def _examine(self, key: str, found: Found, source: _Source, *, force: bool, twin: TwinScore | None) -> Examined:
        looked_at_ns = time.time_ns()
        before = source.fingerprint()
        stamp = replace(found.stamp, fingerprint=before)
        found = replace(found, stamp=stamp)
        try:
            run = self._run(key, stamp)
        except OSError:
            run, found = None, replace(found, stamp=replace(stamp, run=None))  # made again: it differs from its stamp
        document, ours, invalid = self._document(key, found, source, before, run, force=force, twin=twin)
        if source.fingerprint() != before:
            problem = Problem.of("unsettled", "it changed while it was read")
            return self._finished(found, bare_entry(key, before, stamp.link_target, problem))
        if document.indexer is None or document.indexer.config_fingerprint is None:
            # Its configuration could not be read: the entry must not look as if it had been.
            found = replace(found, stamp=replace(found.stamp, config=None))
        if invalid is not None and invalid.code == "io-error":
            # Nor its sidecar: it may be somebody's, and valid.
            found = replace(found, stamp=replace(found.stamp, sidecar=None))
        entry = entry_of(document, key, before, stamp.link_target)
        entry.metadata_problem = invalid
        age_ns = looked_at_ns - before[1]
        look_again_s = None
        if 0 <= age_ns < RACY_NS:  # a time in the future says nothing
            look_again_s = LOOK_AGAIN_S
        elif run is not None and 0 <= age_ns < RUN_LOG_NS:
            look_again_s = RUN_LOG_NS / 1e9  # what was logged with it may not be in the run's log yet
        if ours is _CURRENT:
            entry.metadata_file = paths.sidecar_path(key)
            return self._finished(found, entry, look_again_s=look_again_s)
        if entry.status == "corrupt" and ours is _STALE and self._write_sidecars:
            self._unlink(paths.sidecar_path(paths.to_path(key)))
            found = replace(found, stamp=replace(found.stamp, sidecar=None))
        wanted = entry.status in ("ok", "unsupported") and self._write_sidecars
        if ours is _FOREIGN:
            entry.metadata_file = paths.sidecar_path(key)
        elif invalid is None and wanted:
            return self._written(key, found, entry, document, look_again_s=look_again_s)
        return self._finished(found, entry, look_again_s=look_again_s)

    def _stat_sidecar(self, key: str, scanned: Fingerprint | None) -> Fingerprint | None:
        """Fingerprint the sidecar as it is now; where the disk does not say, as it was *scanned*."""
        folder, _, name = paths.sidecar_path(paths.to_path(key)).rpartition("/")
        try:
            with opened_folder(self.root, folder) as folder_fd:
                return _fingerprint_at(folder_fd, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return scanned

    def _document(
        self,
        key: str,
        found: Found,
        source: _Source,
        fingerprint: Fingerprint,
        run: Run | None,
        *,
        force: bool,
        twin: TwinScore | None,
    ) -> tuple[Document, object, Problem | None]:
        """Make the checkpoint's document; say also whose the sidecar on disk is, and what is wrong with it."""
        stamp = found.stamp
        config = self._config(stamp.config)
        written: Document | None = None
        invalid: Problem | None = None
        whose: object = _ABSENT
        if stamp.sidecar is not None:
            written, invalid = self._read_sidecar(paths.sidecar_path(paths.to_path(key)))
        other, other_problem = self._read_other(key, stamp.other)
        if other is not None and stamp.other is not None and stamp.other.fingerprint[1] < fingerprint[1]:
            other = None  # it is about what the checkpoint was before
        other_fingerprint = None if other is None or stamp.other is None else stamp.other.fingerprint
        if written is not None and written.indexer is not None:
            made = written.indexer
            about = (
                written.checkpoint_path,
                made.fingerprint,
                made.config_fingerprint,
                made.wandb_fingerprint,
                made.other_fingerprint,
            )
            now = (key, fingerprint, config and config.fingerprint, run and run.fingerprint, other_fingerprint)
            if not force and about == now and made.rules >= RULES:
                return written, _CURRENT, None
            whose = _STALE
        elif written is not None:
            is_older = stamp.sidecar is not None and stamp.sidecar[1] < fingerprint[1]
            whose = _OUTDATED if is_older else _FOREIGN
        document = compose(
            key=key,
            link_target=stamp.link_target,
            fingerprint=fingerprint,
            facts=source.read(),
            config=config,
            run=run,
            twin=twin,
        )
        assert document.indexer is not None
        if other_problem is not None:
            document.indexer.warnings = [*document.indexer.warnings, other_problem]
        if whose is _FOREIGN and written is not None:
            document = overlay(document, written)
        elif other is not None:
            document = overlay(document, other)
            assert document.indexer is not None
            document.indexer.other_fingerprint = other_fingerprint
            if document == written:
                whose = _CURRENT
        elif document == written:
            whose = _CURRENT  # it was looked at again, and nothing is new
        return document, whose, invalid

    def _finished(self, found: Found, entry: Entry, *, look_again_s: float | None = None) -> Examined:
        """Put into the entry what its stamp is made of, so that the next scan finds it equal."""
        stamp = found.stamp
        entry.metadata_fingerprint = stamp.sidecar
        entry.other_sidecar = stamp.other
        if stamp.config is not None:
            entry.config_path, entry.config_fingerprint = stamp.config
        if stamp.run is not None:
            entry.wandb_path, entry.wandb_fingerprint = stamp.run
        return Examined(entry, look_again_s=look_again_s)

    def _written(
        self, key: str, found: Found, entry: Entry, document: Document, *, look_again_s: float | None
    ) -> Examined:
        folder, _, name = paths.sidecar_path(paths.to_path(key)).rpartition("/")
        stamp = found.stamp
        wrote = False
        try:
            if len(os.fsencode(name)) > paths.NAME_BYTES_MAX:
                raise OSError(errno.ENAMETOOLONG, "the checkpoint's name leaves no room for the sidecar's")
            with opened_folder(self.root, folder) as folder_fd:
                if _fingerprint_at(folder_fd, paths.to_path(key).rpartition("/")[2]) is None:
                    return Examined(entry, is_gone=True)
                if _fingerprint_at(folder_fd, name) != stamp.sidecar:
                    # Somebody (a training callback) wrote it while we read: look again, and take theirs.
                    return self._finished(found, entry, look_again_s=0.0)
                # Not durable: after a power cut a lost or empty sidecar is made again from the checkpoint.
                encoded = encode_sidecar(document, fill=self._fill)
                sidecar = replace_file(folder_fd, name, encoded, durable=False)
                stamp, wrote = replace(stamp, sidecar=sidecar), True
                if self._both_names:
                    stamp = self._with_second(key, stamp, folder_fd, encoded)
            entry.metadata_file = paths.sidecar_path(key)
        except OSError as error:
            entry.metadata_problem = Problem.of("sidecar-unwritable", error.strerror or error)
        examined = self._finished(replace(found, stamp=stamp), entry, look_again_s=look_again_s)
        return examined._replace(wrote_sidecar=wrote)

    def _with_second(self, key: str, stamp: Stamp, folder_fd: int, encoded: bytes) -> Stamp:
        """Write the sidecar under the second name too, unless another program's stands there or it could be shared."""
        path = paths.other_sidecar_paths(paths.to_path(key), (*paths.KNOWN_SUFFIXES, *paths.SUFFIXES))[0]
        name = path.rpartition("/")[2]
        other = stamp.other
        if other is not None and (other.path != paths.to_key(path) or other.is_shared):
            return stamp
        stem = name.removesuffix(paths.SIDECAR_SUFFIX)
        alike = {stem + suffix for suffix in paths.KNOWN_SUFFIXES} - {paths.to_path(key).rpartition("/")[2]}
        if any(_fingerprint_at(folder_fd, each) is not None for each in alike):
            return stamp  # it could be taken for that one's
        if other is None and _fingerprint_at(folder_fd, name) is not None:
            return stamp  # it came meanwhile: the next look at it decides
        if other is not None:
            there, _ = self._read_sidecar(path)
            is_ours = there is not None and there.indexer is not None and there.checkpoint_path == key
            is_about_it = there is not None and _about(there) == paths.to_path(key).rpartition("/")[2]
            is_outdated = is_about_it and other.fingerprint[1] < stamp.fingerprint[1]
            if not (is_ours or is_outdated):
                return stamp
        second = replace_file(folder_fd, name, encoded, durable=False)
        return replace(stamp, other=OtherSidecar(paths.to_key(path), second))

    def _read_other(self, key: str, other: OtherSidecar | None) -> tuple[Document | None, str | None]:
        """Read the sidecar under another program's name, and say why not where it does not count.

        One that we wrote is no evidence, and one that may be about another checkpoint is only if it names this one.
        """
        if other is None:
            return None, None
        path = paths.to_path(other.path)
        name = path.rpartition("/")[2]
        document, problem = self._read_sidecar(path)
        if problem is not None:
            return None, f"{name} beside it was not used: {problem.message}"
        if document is None or document.indexer is not None:
            return None, None
        about = _about(document)
        if about == paths.to_path(key).rpartition("/")[2]:
            return document, None
        if other.is_shared or about.endswith(paths.KNOWN_SUFFIXES):
            return None, f"{name} beside it was not used: it is about {about[:100]!r}, as far as it says"
        return document, None

    def _read_sidecar(self, path: str) -> tuple[Document | None, Problem | None]:
        """Read a sidecar; what a power cut left of one counts as none."""
        try:
            with opened_file(self.root, path) as descriptor:
                if is_lost(os.pread(descriptor, YAML_MAX, 0)):
                    return None, None
                loaded = self._reader().read_yaml(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None, None
            code = "sidecar-invalid" if error.errno in _LASTING or isinstance(error, NotRegularFile) else "io-error"
            return None, Problem.of(code, error.strerror or "it is no regular file")
        if loaded.error is not None:
            return None, Problem.of("io-error" if loaded.is_unread else "sidecar-invalid", loaded.error)
        try:
            return parse_sidecar(loaded.document), None
        except SidecarInvalid as error:
            return None, Problem.of("sidecar-invalid", error)

    def _config(self, config: tuple[str, Fingerprint] | None) -> Config | None:
        """Read a run's configuration, once for all its checkpoints; one that is no mapping is an empty one."""
        if config is None:
            return None
        key, fingerprint = config
        with self._lock:
            content = self._configs.get(config)
        if content is None:
            try:
                with opened_file(self.root, paths.to_path(key)) as descriptor:
                    loaded = self._reader().read_yaml(descriptor)
            except OSError:
                return None  # not remembered: the entry then differs from its stamp, and is made again
            if loaded.is_unread:
                return None
            content = loaded.document if isinstance(loaded.document, dict) else {}
            with self._lock:
                _remember(self._configs, config, content, CONFIGS_CACHED_MAX)
        return Config(key, content, fingerprint)

    def _run(self, key: str, stamp: Stamp) -> Run | None:
        """Read the Weights & Biases run that the checkpoint belongs to, once for all its checkpoints.

        Raises:
            OSError: the disk failed.

        """
        if stamp.run is None:
            return None
        folder = paths.to_path(stamp.run[0])
        home = folder.rpartition("/")[0].rpartition("/")[0]  # above "wandb/run-…"
        folders = next((each for each in wandb.list_runs(self.root, home).values() if each[0] == folder), [])
        status = wandb.stat_run(self.root, folders)
        if status is None:
            return None
        cached = (folder, status.exact)
        with self._lock:
            run = self._runs.get(cached)
        if run is None:
            run = wandb.read_run(self.root, folders, status.fingerprint, self._reader())
            with self._lock:
                _remember(self._runs, cached, run, RUNS_CACHED_MAX)
        if self._lookup is not None and run.run_path is not None and (remote := self._lookup(run.run_path)) is not None:
            run = replace(run, config={**remote.config, **run.config})
        return run if wandb.belongs(run, paths.to_path(key), stamp.fingerprint[1]) else None

    def _reader(self) -> Reader:
        """Give this thread's reader."""
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = Reader()
            with self._lock:
                self._readers.append(reader)
        return reader

    def _unlink(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        try:
            with opened_folder(self.root, folder) as folder_fd:
                os.unlink(name, dir_fd=folder_fd)
        except OSError as error:
            return error.errno not in _LASTING
        return True


# Whose the sidecar on disk is: nobody's, ours but about other content, ours, another program's, another's but older
# than the checkpoint.
_ABSENT, _STALE, _CURRENT, _FOREIGN, _OUTDATED = "absent", "stale", "current", "foreign", "outdated"


def _about(document: Document) -> str:
    """Return the name of the checkpoint that a sidecar says it is about, whatever machine wrote it."""
    return document.checkpoint_path.replace("\\", "/").rpartition("/")[2]


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any, count_max: int) -> None:
    cache[key] = value
    while len(cache) > count_max:
        cache.popitem(last=False)


def _fingerprint_at(folder_fd: int, name: str) -> Fingerprint | None:
    """Fingerprint what stands at *name* now, a link itself and not its target; ``None`` if nothing does."""
    try:
        return fingerprint_of(os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    except FileNotFoundError:
        return None
