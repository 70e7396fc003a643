"""The thread of a training process that writes sidecars and the index, through the daemon's ``Indexer``.

Owns what is still to be read, and when. Promises that ``finish`` returns within ``FLUSH_S``, and that a failure is one
text for the callback's warning: nothing is raised into training. Knows nothing of Lightning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from ckpt_indexer import paths
from ckpt_indexer.backoff import Backoff
from ckpt_indexer.formats.facts import YAML_MAX
from ckpt_indexer.formats.plain_yaml import parse_yaml
from ckpt_indexer.index import codec
from ckpt_indexer.metadata.sidecar import parse_sidecar
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.training.places import ANYTHING, stat
from ckpt_indexer.tree.local import opened_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.paths import RelPath

COALESCE_S = 0.25  # one commit for a burst of saves; a consumer may be 1 s behind
RETRY_FIRST_S, RETRY_LAST_S = 0.1, 5.0  # between looks at a file that is not written, or not complete
FLUSH_S = 30.0  # reading a file ends after 20 s, waiting for the index's lock after 10
PENDING_MAX = 1_000  # paths; more than that are looked at as the folders they are in


class _Pending(NamedTuple):
    """A path to look at."""

    before: Fingerprint | None  # what stood there when the save began: as long as that stands, it is not written
    due_s: float
    retry: Backoff


def _pending(before: Fingerprint | None, due_s: float) -> _Pending:
    return _Pending(before, due_s, Backoff(RETRY_FIRST_S, RETRY_LAST_S))


class Writer:
    """The thread that writes sidecars and index of one run; ``finish`` ends it."""

    def __init__(self, root: str, *, validate: bool) -> None:
        self.failure: str | None = None  # the first
        self._root = root
        self._validate = validate
        self._wake = (
            threading.Condition()
        )  # guards the three below; a signal handler may save, so its lock is reentrant
        self._pending: dict[RelPath, _Pending] = {}
        self._seen: dict[RelPath, None] = {}  # everything there was to look at, for the last look
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="ckpt-indexer", daemon=True)
        self._thread.start()

    def submit(self, changed: Mapping[RelPath, Fingerprint | None]) -> None:
        with self._wake:
            for path, before in changed.items():
                if before == ANYTHING and path in self._pending:
                    continue  # it is waited for until it is written, which nobody says again
                if len(self._pending) >= PENDING_MAX:
                    path, before = paths.split(path)[0], ANYTHING  # noqa: PLW2901
                self._pending[path] = _pending(before, time.monotonic() + COALESCE_S)
                if len(self._seen) < PENDING_MAX:
                    self._seen[path] = None
            self._wake.notify()

    def finish(self) -> None:
        """Read everything that is pending, and wait for that."""
        with self._wake:
            self._is_ending = True
            self._wake.notify()
        self._thread.join(FLUSH_S)
        if self._thread.is_alive():
            self._fail(f"the index was not up to date within {FLUSH_S:g} s")

    def _fail(self, reason: object) -> None:
        if self.failure is None:
            self.failure = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)

    def _run(self) -> None:
        try:
            with Indexer(self._root, log=_silent_log()) as indexer:
                is_last = False
                while not is_last:
                    taken, is_last = self._take()
                    self._index(indexer, taken)
        except Exception as error:  # noqa: BLE001 - told by the callback, as the one warning
            self._fail(error)

    def _take(self) -> tuple[dict[RelPath, _Pending], bool]:
        """Wait until something is due, or the end has come."""
        with self._wake:
            while not self._is_ending:
                now = time.monotonic()
                earliest = min((pending.due_s for pending in self._pending.values()), default=None)
                if earliest is not None and earliest <= now:
                    break
                self._wake.wait(None if earliest is None else earliest - now)
            if self._is_ending:
                return {
                    path: self._pending.get(path) or _pending(ANYTHING, 0.0) for path in {**self._seen, **self._pending}
                }, True
            soon = time.monotonic() + COALESCE_S  # what was submitted since goes with it
            taken = {path: pending for path, pending in self._pending.items() if pending.due_s <= soon}
            for path in taken:
                del self._pending[path]
            return taken, False

    def _index(self, indexer: Indexer, taken: Mapping[RelPath, _Pending]) -> None:
        is_written = {path for path, each in taken.items() if stat(os.path.join(self._root, path)) != each.before}
        places = set(taken) if self._is_ending else is_written
        try:
            if places:
                indexer.load()
                indexer.scan_and_plan(places)
                indexer.finish()
                self._check(indexer, places)
        except Exception as error:  # noqa: BLE001 - the indexer forgets nothing, and the next turn may succeed
            self._fail(error)
        again = {path for path in taken if path not in is_written or _status(indexer, path) == "incomplete"}
        with self._wake:
            for path in again - self._pending.keys():
                before, _, retry = taken[path]
                before = before if path not in is_written else ANYTHING
                self._pending[path] = _Pending(before, retry.failed(time.monotonic()), retry)

    def _check(self, indexer: Indexer, places: Collection[RelPath]) -> None:
        """Notice what the entries say about our own work: the sidecars, and the reader."""
        for path in places:
            raw = indexer.store.entries.get(paths.to_key(path))
            if raw is None:
                continue
            entry = codec.decode_entry(raw)
            if entry.problem is not None and entry.problem.code == "reader-crashed":
                self._fail(f"{entry.path}: {entry.problem.message}")
            elif entry.metadata_problem is not None:
                self._fail(f"{entry.path}: {entry.metadata_problem.message}")
            elif self._validate and entry.metadata_file is not None:
                with (
                    contextlib.suppress(FileNotFoundError),  # the checkpoint was removed meanwhile
                    opened_file(self._root, paths.to_path(entry.metadata_file)) as descriptor,
                    open(descriptor, "rb", closefd=False) as file,
                ):
                    parse_sidecar(parse_yaml(file.read(YAML_MAX + 1)))


def _status(indexer: Indexer, path: RelPath) -> str | None:
    return indexer.known.statuses.get(paths.to_key(path))


def _silent_log() -> Any:
    """Return a log for the indexer that stays out of somebody else's program, and of that program's structlog settings.

    Without settings structlog prints, to standard output; and what went wrong here is said by a warning.
    """
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    return structlog.wrap_logger(structlog.PrintLogger(), processors=[], wrapper_class=silent)
