"""Building a catalogue: from the index, or the plain way, as the switch says at each call; and its cache.

Promises: with an index nothing is walked and no sidecar is opened; a folder that is not there gives an empty catalogue;
where the index cannot be used the plain way answers, and a warning says so. Any thread may call.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ckpt_indexer import paths
from ckpt_indexer.catalog.files import CONFIG_NAMES
from ckpt_indexer.catalog.records import (
    UNKNOWN,
    CheckpointCatalog,
    CheckpointCatalogEntry,
    CheckpointInfo,
    record_of,
    sort_records,
)
from ckpt_indexer.catalog.switch import ENVIRONMENT_NAME, way_of
from ckpt_indexer.errors import CkptIndexerError, IndexMissing
from ckpt_indexer.index.reader import read_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt_indexer.model import Entry

CACHED_MAX = 16  # catalogues kept between calls
PASS_S = 3600.0  # for the pass that a comparison needs; 100,000 checkpoints take some minutes
_NOT_COMPARED = ("has_metadata", "display_name")  # the plain way knows no sidecars; a label repeats other fields

log = logging.getLogger("ckpt_indexer.catalog")


@dataclasses.dataclass(frozen=True)
class CatalogOptions:
    """What a page's catalogue is made from."""

    outputs_dir: Path
    hydra_config_filenames: tuple[str, ...] = CONFIG_NAMES

    @classmethod
    def from_paths(cls, paths: Any) -> Self:
        """Build the options from an object that has their two attributes."""
        return cls(Path(paths.outputs_dir), tuple(paths.hydra_config_filenames))


class CatalogCache:
    """The latest catalogues, and how often they served; any thread may use it."""

    def __init__(self, maxsize: int = CACHED_MAX) -> None:
        self.maxsize = maxsize
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Any, CheckpointCatalog] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> CheckpointCatalog | None:
        """Return the catalogue kept for *key*, and count a hit or a miss."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._kept.move_to_end(key)
            return found

    def set(self, key: Any, catalog: CheckpointCatalog) -> None:
        """Keep a catalogue; the one that was not asked for the longest goes."""
        with self._lock:
            self._kept[key] = catalog
            self._kept.move_to_end(key)
            while len(self._kept) > self.maxsize:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all of it, the counts too."""
        with self._lock:
            self._kept.clear()
            self.hits = self.misses = 0


global_cache = CatalogCache()


def clear_global_cache() -> None:
    """Forget the catalogues that ``build_catalog`` kept."""
    global_cache.clear()


class CheckpointCatalogBuilder:
    """Builds the catalogue of one folder."""

    def __init__(
        self,
        outputs_dir: str | os.PathLike[str],
        use_cache: bool = True,  # noqa: FBT002 - its callers' signature
        use_wandb_fallback: bool = True,  # noqa: FBT002
        config_filenames: Sequence[str] = CONFIG_NAMES,
    ) -> None:
        """*config_filenames* are the plain way's alone: the index knows a run's configuration by its own rules.

        *use_wandb_fallback* changes nothing: what a run's local record says is in the index.
        """
        self.outputs_dir = Path(outputs_dir).absolute()
        self.use_cache = use_cache
        self.use_wandb_fallback = use_wandb_fallback
        self.config_filenames = tuple(config_filenames)

    def build_catalog(self) -> CheckpointCatalog:
        """Build the catalogue the way that the switch says now."""
        if not os.path.exists(self.outputs_dir):
            return CheckpointCatalog(outputs_dir=self.outputs_dir)
        way = way_of(os.environ.get(ENVIRONMENT_NAME, "1"), f"{socket.gethostname()} {self.outputs_dir}")
        if way == "index":
            try:
                return self._from_index()
            except (CkptIndexerError, OSError) as error:
                log.warning("the index cannot be used, every checkpoint is loaded instead: %s", error)
        catalog = self._plainly()
        if way == "shadow":
            _shadow.compare(self, catalog)
        return catalog

    def _from_index(self) -> CheckpointCatalog:
        started = time.perf_counter()
        root = str(self.outputs_dir)
        before = _index_fingerprint(root)
        if self.use_cache and before is not None and (kept := global_cache.get((root, before))) is not None:
            return dataclasses.replace(kept, entries=[*kept.entries])
        catalog = self._finished(_entries_of(root), started)
        if self.use_cache and (fingerprint := _index_fingerprint(root)) is not None and before in (None, fingerprint):
            global_cache.set((root, fingerprint), catalog)
        return dataclasses.replace(catalog, entries=[*catalog.entries])

    def _finished(self, entries: Iterable[Entry], started: float) -> CheckpointCatalog:
        """Make the records of what can be used and was trained at all, and log how many came from where."""
        entries = [entry for entry in entries if entry.is_usable and entry.epoch]
        for entry in entries:
            if (problem := entry.metadata_problem) is not None and problem.code == "sidecar-invalid":
                log.warning("the sidecar of %s is not used: %s", entry.path, problem.message)
        from_yaml = sum(entry.metadata_file is not None for entry in entries)
        from_wandb = sum(entry.metadata_file is None and entry.metadata_source == "wandb" for entry in entries)
        records = sort_records(record_of(entry, str(self.outputs_dir)) for entry in entries)
        return self._catalog(records, from_yaml, from_wandb, started)

    def _plainly(self) -> CheckpointCatalog:
        from ckpt_indexer.catalog.plain import load_records

        started = time.perf_counter()
        records = sort_records(load_records(str(self.outputs_dir), self.config_filenames))
        return self._catalog(records, 0, 0, started)

    def _catalog(
        self, records: list[CheckpointCatalogEntry], from_yaml: int, from_wandb: int, started: float
    ) -> CheckpointCatalog:
        seconds = time.perf_counter() - started
        log.info(
            "catalogue of %d checkpoints: %d YAML, %d W&B, %d slow, in %.4f s",
            len(records), from_yaml, from_wandb, len(records) - from_yaml - from_wandb, seconds,
        )  # fmt: skip
        return CheckpointCatalog(records, len(records), from_yaml, seconds, self.outputs_dir)


def build_catalog(
    outputs_dir: str | os.PathLike[str],
    use_cache: bool = True,  # noqa: FBT002 - its callers' signature
    use_wandb_fallback: bool = True,  # noqa: FBT002
    config_filenames: Sequence[str] = CONFIG_NAMES,
) -> CheckpointCatalog:
    """Build the catalogue of *outputs_dir*; its records are shared with other callers and only to be read."""
    return CheckpointCatalogBuilder(outputs_dir, use_cache, use_wandb_fallback, config_filenames).build_catalog()


def build_lightweight_catalog(options: CatalogOptions) -> list[CheckpointInfo]:
    """Build the list that a page shows."""
    catalog = build_catalog(options.outputs_dir, config_filenames=options.hydra_config_filenames)
    names = [field.name for field in dataclasses.fields(CheckpointInfo)]
    return [CheckpointInfo(**{name: getattr(entry, name) for name in names}) for entry in catalog.entries]


def differences(*, wait_s: float = 0.0) -> int:
    """Return how many fields of checkpoints differed in this process so far, after waiting for what still runs."""
    return _shadow.differences(wait_s)


def differences_of(
    plain: Sequence[CheckpointCatalogEntry], ours: Sequence[CheckpointCatalogEntry]
) -> list[tuple[str, str]]:
    """Return (path, field) for each contradiction; the field is ``missing`` or ``extra`` for an entry.

    What only the index knows (by a sidecar, a run's log, a twin) contradicts nothing.
    """
    theirs = {str(each.checkpoint_path): each for each in plain}
    mine = {str(each.checkpoint_path): each for each in ours}
    found = [(path, "missing") for path in theirs.keys() - mine.keys()]
    found += [(path, "extra") for path in mine.keys() - theirs.keys()]
    fields = [f.name for f in dataclasses.fields(CheckpointCatalogEntry) if f.name not in _NOT_COMPARED]
    for path in theirs.keys() & mine.keys():
        found += [
            (path, name)
            for name in fields
            if (value := getattr(theirs[path], name)) != getattr(mine[path], name) and value not in (None, UNKNOWN)
        ]
    return sorted(found)


class _Shadow:
    """Comparisons in the background, one at a time for each folder."""

    def __init__(self) -> None:
        self._found: set[tuple[str, str]] = set()  # (path, field), each counted and logged once
        self._running: dict[Path, threading.Thread] = {}
        self._lock = threading.Lock()

    def compare(self, builder: CheckpointCatalogBuilder, plain: CheckpointCatalog) -> None:
        """Begin to compare; while the folder's last comparison runs, none is begun."""
        with self._lock:
            if builder.outputs_dir in self._running:
                return
            thread = threading.Thread(target=self._run, args=(builder, plain), name="catalog-shadow")
            self._running[builder.outputs_dir] = thread
            thread.start()

    def differences(self, wait_s: float) -> int:
        deadline = time.monotonic() + wait_s
        with self._lock:
            running = [*self._running.values()]
        for thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return len(self._found)

    def _run(self, builder: CheckpointCatalogBuilder, plain: CheckpointCatalog) -> None:
        try:
            _make_index(str(builder.outputs_dir))
            ours = builder._from_index()  # noqa: SLF001 - the other half of its work
            found = differences_of(plain.entries, ours.entries)
            with self._lock:
                new = [each for each in found if each not in self._found]
                self._found.update(new)
            for path, field in new:
                log.warning("catalog_differs key=%s field=%s", os.path.relpath(path, builder.outputs_dir), field)
        except Exception:  # a trial must never take the page with it
            log.exception("the catalogues of %s could not be compared", builder.outputs_dir)
        finally:
            with self._lock:
                del self._running[builder.outputs_dir]


_shadow = _Shadow()


def _entries_of(root: str) -> Iterable[Entry]:
    """Read the index; where there is none, make it, and where that is not allowed, do without."""
    try:
        return read_index(root).entries.values()
    except IndexMissing:
        pass
    from ckpt_indexer.actions.rebuild import run_pass
    from ckpt_indexer.catalog.indexing import read_without_index
    from ckpt_indexer.settings import environment_settings

    try:
        run_pass(root, environment_settings())
        return read_index(root).entries.values()
    except OSError as error:
        log.warning("no index can be kept in %s: %s", root, error)
        return read_without_index(root)


def _make_index(root: str) -> None:
    """Make the index of a root that has none, in a process of its own.

    The page's program may be at its end while this runs, and Python starts no thread pools then.
    """
    if _index_fingerprint(root) is None:
        code = "from ckpt_indexer.cli import main; main()"
        subprocess.run(  # noqa: S603 - a command of our own; where it fails, the comparison says so
            [sys.executable, "-P", "-c", code, "sync", root], capture_output=True, timeout=PASS_S, check=False
        )


def _index_fingerprint(root: str) -> tuple[int, int, int] | None:
    """Return what tells the index's versions apart: each is a new file."""
    try:
        status = os.stat(os.path.join(root, paths.INDEX_NAME))
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
