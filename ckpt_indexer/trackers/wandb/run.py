"""The Weights & Biases run that trained a checkpoint, from the folders that wandb leaves below the root (tier 5).

Owns the names of those folders (``wandb/[offline-]run-YYYYMMDD_HHMMSS-ID/``) and the rules by which a checkpoint
belongs to one. A run is *all* folders of one id below one ``wandb/``: each resumption makes another. It is known by its
oldest, so that a resumption renames nothing.

Which run a checkpoint belongs to, in this order, and otherwise to none:

1. it stands inside a run's folder (``dirpath=wandb.run.dir``);
2. a folder above it has the name of a run's id (``PROJECT/ID/checkpoints/``, where Lightning's logger puts it; such a
   path alone proves nothing: ``unet/baseline/checkpoints/`` looks the same);
3. ``wandb/`` stands in the checkpoint's own run folder (its experiment's, or where its configuration is), holds the
   folders of one id only, and the run began before the checkpoint was written.

Other things lie there, too: ``metadata.belonging`` compares what the checkpoint itself says with such a run.

``latest-run`` is never read: it names the run that began last, which says nothing about a checkpoint, and the names
say that too.

``metrics_at`` gives what was logged when a checkpoint was saved. It takes the rows of the run's log, and never the
summary: that holds the last value of *each* name, with the epoch and step of the last row, so that the score of an
older checkpoint stands beside the step of a newer one (``check_val_every_n_epoch``, a crash within an epoch).

Reading costs a stat of each folder and, when the fingerprint changed, one reading of the files, parsed by whoever
*reads* is (a worker process). Nothing is opened through a link.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import posixpath
import re
import stat
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.errors import NotRegularFile
from ckpt_indexer.formats.facts import LoggedRow, RunLog
from ckpt_indexer.model import Fingerprint
from ckpt_indexer.paths import Key
from ckpt_indexer.tree.local import opened_file, opened_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckpt_indexer.formats.facts import YamlFacts
    from ckpt_indexer.paths import RelPath

FOLDER = "wandb"
LISTED_MAX = 10_000  # names looked at in one wandb/ folder; 20 us each
LEGS_MAX = 16  # resumptions of one run that are read
ROWS_MAX = 20_000  # of a run's logs together, in memory; no further log is read then
ID_MIN = 6  # characters: a folder called "1" or "best" has another reason to be; wandb's own ids have 8
CLOCK_NS = 60 * 10**9  # by which a file server's clock may differ from the training machine's
FLUSH_S = 15.0  # after which wandb writes what it logged at the latest (measured)
# wandb allows every id without the first seven; what is no UTF-8 or would move a cursor cannot be shown or asked for.
_RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-([^:;,#?/'\\\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128})")
# What cannot be reached counts as not there; any other error may pass.
_OUT_OF_REACH = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)


class RunPath(NamedTuple):
    """What W&B calls a run."""

    entity: str | None  # ``None``: the default one of whoever asks
    project: str
    id: str


class Run(msgspec.Struct, kw_only=True, dict=True):
    """What is known of a run."""

    id: str
    name: str | None = None  # for people; not unique
    project: str | None = None
    entity: str | None = None
    url: str | None = None  # where its page is; only the API knows
    state: str | None = None  # as the API says: "finished", "running", "crashed" …
    config: dict[str, Any] = {}  # plain data, of the shape that the training gave it
    rows: list[LoggedRow] = []  # what was logged, in its order
    started_ns: int | None = None  # since 1970
    path: Key | None = None  # of its (oldest) folder, ``None`` if it is known from elsewhere
    fingerprint: Fingerprint | None = None

    @functools.cached_property
    def metric_names(self) -> frozenset[str]:
        """Return the names in all rows; computed once, as the checkpoints of a run share it."""
        return frozenset(name for row in self.rows for name in row.metrics)

    @property
    def run_path(self) -> RunPath | None:
        """Return how to ask the API for it, if that is known."""
        return None if self.project is None else RunPath(self.entity, self.project, self.id)


class RunStat(NamedTuple):
    """What a run's folders look like."""

    fingerprint: Fingerprint  # decides whether a checkpoint's entry is to be made again
    exact: Fingerprint  # decides whether what was read of the run before still holds


class Reads(Protocol):
    """Whatever parses other people's files: ``sandbox.owner.Reader``."""

    def read_yaml(self, descriptor: int, /) -> YamlFacts: ...
    def read_wandb(self, descriptor: int, /) -> RunLog: ...


def parse_run_folder(name: str) -> tuple[str, str] | None:
    """Return the time (the training machine's local one) and the run id in a run folder's name.

    >>> parse_run_folder("offline-run-20261121_070633-el1e2may")
    ('20261121_070633', 'el1e2may')
    >>> parse_run_folder("latest-run") is None
    True
    """
    found = _RUN_FOLDER.fullmatch(name)
    return (found[1], found[2]) if found else None


def is_own_file(path: RelPath) -> bool:
    """Return whether the file at *path* is wandb's record of a run, and no configuration of anybody's.

    >>> is_own_file("a/wandb/run-20261121_070633-el1e2may/files/config.yaml"), is_own_file("a/files/config.yaml")
    (True, False)
    """
    parts = path.rsplit("/", 4)
    return parts[-2:-1] == ["files"] and parts[-4:-3] == [FOLDER] and parse_run_folder(parts[-3]) is not None


def list_runs(root: str, folder: RelPath) -> dict[str, list[RelPath]]:
    """List the run folders in *folder*'s ``wandb/``: by run id, the oldest first.

    Raises:
        OSError: it is there and cannot be listed; what it holds is not known.

    """
    place = paths.join(folder, FOLDER)
    try:
        with opened_folder(root, place) as folder_fd, os.scandir(folder_fd) as entries:
            names = [entry.name for entry in islice(entries, LISTED_MAX) if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno not in _OUT_OF_REACH:
            raise
        return {}
    runs: dict[str, list[RelPath]] = {}
    found = [(*parsed, name) for name in names if (parsed := parse_run_folder(name))]
    for _, run_id, name in sorted(found):
        runs.setdefault(run_id, []).append(paths.join(place, name))
    return runs


def find_run(
    path: RelPath, listed: Mapping[RelPath, Mapping[str, Sequence[RelPath]]], *, home: RelPath | None = None
) -> Sequence[RelPath]:
    """Find the folders of the run that the checkpoint at *path* belongs to, as far as names tell; then ask ``belongs``.

    *listed* has what ``list_runs`` gave, by the folder it was given; *home* is the folder that the checkpoint's
    configuration describes.

    >>> listed = {"a": {"el1e2may": ["a/wandb/run-20261121_070633-el1e2may"], "k705v87j": ["…"]}}
    >>> find_run("a/project/el1e2may/checkpoints/last.ckpt", listed)
    ['a/wandb/run-20261121_070633-el1e2may']
    >>> find_run("a/checkpoints/last.ckpt", listed)
    ()
    """
    above = [folder for folder in paths.ancestors(path) if listed.get(folder)]
    for folder in above:
        below = path[len(folder) :].lstrip("/").split("/")[:-1]
        if below[:1] == [FOLDER] and len(below) > 1 and (parsed := parse_run_folder(below[1])):
            return listed[folder].get(parsed[1], ())
        for part in reversed(below):
            if len(part) >= ID_MIN and part in listed[folder]:
                return listed[folder][part]
    if not above or len(listed[above[0]]) > 1:
        return ()
    experiment = paths.place_of(paths.to_key(path)).experiment
    homes = (paths.split(path)[0], paths.ROOT if experiment == "." else paths.to_path(experiment), home)
    return next(iter(listed[above[0]].values())) if above[0] in homes else ()


def belongs(run: Run, path: RelPath, mtime_ns: int) -> bool:
    """Return whether the run that was found for the checkpoint at *path* can have written it.

    Its path may say so (rules 1 and 2). Otherwise the run must be known to have begun before: somebody trained here
    without wandb first.
    """
    ids = (parsed[1] if (parsed := parse_run_folder(part)) else part for part in path.split("/")[:-1])
    return run.id in ids or (run.started_ns is not None and mtime_ns >= run.started_ns - CLOCK_NS)


def stat_run(root: str, folders: Sequence[RelPath]) -> RunStat | None:
    """Return the fingerprints of the run that has these *folders*.

    The entry's changes when the run is resumed, when it writes ``config.yaml`` (an online run's last act), and when its
    log has doubled: some twenty times in a long training, not at every step. ``None`` if there is no log, without which
    nothing says that the folder's name ends in the id and no more.

    Raises:
        OSError: the disk failed.

    """
    classes = size = configured = written = inode = 0
    for folder in folders[:LEGS_MAX]:
        log = _lstat(root, _log_path(folder))
        if log is not None and stat.S_ISREG(log.st_mode):
            classes += log.st_size.bit_length()
            size += log.st_size
            written = max(written, log.st_mtime_ns)
            inode = inode or log.st_ino
        config = _lstat(root, _config_path(folder))
        configured = max(configured, 0 if config is None else config.st_mtime_ns)
    if not inode:
        return None
    return RunStat((classes, configured, inode), (size, max(configured, written), inode))


def read_run(root: str, folders: Sequence[RelPath], fingerprint: Fingerprint, reads: Reads) -> Run:
    """Read the run that has these *folders* (at least one); what is broken is left out.

    Raises:
        OSError: the disk failed; nothing is known of the run.

    """
    run = Run(id=_id_of(folders[0]), path=paths.to_key(folders[0]), fingerprint=fingerprint)
    for folder in folders[:LEGS_MAX]:
        with _reachable(), opened_file(root, _config_path(folder)) as descriptor:
            loaded = reads.read_yaml(descriptor)
            if loaded.is_unread:
                raise OSError(errno.EIO, "the run's configuration cannot be read")
            # Before the log, whose JSON is exact: in a YAML 1.1 of theirs 1e-05 is a text.
            run.config = {**run.config, **unwrap_config(loaded.document)}
        with _reachable(), opened_file(root, _log_path(folder)) as descriptor:
            log = reads.read_wandb(descriptor)
            if log.is_unread:
                raise OSError(errno.EIO, "the run's log cannot be read")
            run.name, run.project = log.name or run.name, log.project or run.project
            run.entity = log.entity or run.entity
            run.started_ns = run.started_ns or log.started_ns
            run.config = {**run.config, **log.config}
            run.rows += log.rows
        if len(run.rows) > ROWS_MAX:
            break
    return run


def metrics_at(run: Run, *, epoch: int | None, global_step: int | None, batches: int | None) -> dict[str, float]:
    """Return what was logged for the weights of the checkpoint saved at *epoch* and *global_step*.

    Lightning logs a batch, and the validation after it, under the number of batches that stepped *before* it: what
    belongs to a checkpoint stands one below its step. That holds only where each batch is one step, so *batches*, the
    checkpoint's own count of all its batches, has to be equal: with several optimizers, or gradients accumulated over
    batches, a row's step may mean other weights.

    A name with several values there (the training was resumed before this step, or validated again later) has none.
    """
    if epoch is None or global_step is None or batches != global_step:
        return {}
    found: dict[str, float] = {}
    ambiguous: set[str] = set()
    for row in run.rows:
        if (row.epoch, row.step) == (epoch, global_step - 1):
            ambiguous.update(name for name, value in row.metrics.items() if found.get(name, value) != value)
            found.update(row.metrics)
    return {name: value for name, value in found.items() if name not in ambiguous}


def unwrap_config(document: Any) -> dict[str, Any]:
    """Return the configuration in a ``config.yaml`` of wandb's, or in what its API answers.

    >>> unwrap_config({"wandb_version": 1, "_wandb": {"value": {}}, "lr": {"desc": None, "value": 0.1}})
    {'lr': 0.1}
    """
    if not isinstance(document, dict):
        return {}
    return {
        key: node["value"]
        for key, node in document.items()
        if key != "_wandb" and isinstance(node, dict) and "value" in node
    }


def _id_of(path: RelPath) -> str:
    parsed = parse_run_folder(posixpath.basename(path))
    assert parsed is not None  # names come from list_runs, paths from find_run
    return parsed[1]


def _log_path(folder: RelPath) -> RelPath:
    return paths.join(folder, f"run-{_id_of(folder)}.wandb")


def _config_path(folder: RelPath) -> RelPath:
    return paths.join(folder, f"files/{paths.CONFIG_NAME}")


def _lstat(root: str, path: RelPath) -> os.stat_result | None:
    try:
        return os.lstat(os.path.join(root, path))
    except OSError as error:
        if error.errno not in _OUT_OF_REACH:
            raise
        return None


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Treat a file that is not there, is no file, or may not be read, as one that says nothing."""
    try:
        yield
    except NotRegularFile:
        pass
    except OSError as error:
        if error.errno not in _OUT_OF_REACH:
            raise
