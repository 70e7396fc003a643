"""The callback for training processes: it puts into each checkpoint what only they know, and indexes it at once.

It owns the checkpoint's key ``"ckpt_indexer"``: plain types, written into the dict that Lightning saves, so that
whoever indexes the file, this process or a daemon, now or in a year, finds the same. It promises never to end a
training run: what goes wrong here is one warning. On the training thread it only looks at what lies in memory, and at
a file's ``stat``; sidecars and the index are written by one thread of its own, through the daemon's ``Indexer``.

How a save is noticed. A callback's ``on_save_checkpoint`` is called on every rank, by every strategy, but not for
``save_weights_only``, and it knows no path. So the strategy's ``checkpoint_io`` is wrapped, too: it sees every path
that is saved or removed, whoever asks: ``ModelCheckpoint``, ``trainer.save_checkpoint``, ``OnExceptionCheckpoint``, and
whoever writes. The links that ``ModelCheckpoint`` makes, and the folders that sharding strategies write without a
``checkpoint_io``, are taken from the callback's own account when its hook is over.

| moment | training thread | writer thread |
|---|---|---|
| ``on_save_checkpoint``, all ranks | read the metrics; rank zero embeds | |
| ``checkpoint_io`` saves or removes | note the path; its saver is known now | |
| a batch, epoch or validation begins | hand over what was noted and the savers' paths | look after ``COALESCE_S`` |
| what stood at a path still does: it is written asynchronously | | look again, later and later |
| ``checkpoint_io.teardown`` | after the last write: wait, at most ``FLUSH_S`` | look at everything again, end |
| a save outside of a run | the same | the same |
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from ckpt_indexer import paths
from ckpt_indexer.backoff import Backoff
from ckpt_indexer.formats.frameworks.checkpoint import EMBEDDED_KEY
from ckpt_indexer.index import codec
from ckpt_indexer.metadata.embedded import VERSION
from ckpt_indexer.metadata.sidecar import parse_sidecar
from ckpt_indexer.passes import indexer as watch_indexer
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.sandbox.plain_yaml import YAML_MAX, parse_yaml
from ckpt_indexer.tree.local import fingerprint_of, opened_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ckpt_indexer.model import Fingerprint

COALESCE_S = 0.25  # one commit for a burst of saves; a consumer may be 1 s behind
RETRY_FIRST_S, RETRY_LAST_S = 0.1, 5.0  # between looks at a file that is not written, or not complete
FLUSH_S = 30.0  # reading a file ends after 20 s, waiting for the index's lock after 10
PENDING_MAX = 1_000  # paths; more than that are looked at as the folders they are in
_LIGHTNING_MARK = "pytorch-lightning_version"  # in every checkpoint that Lightning dumps, and in no bare state dict


def _import_lightning() -> Any:
    """Import Lightning by the name under which the training program did: the classes of one are not the other's.

    Raises:
        ImportError: it is not installed.

    """
    names = ("lightning.pytorch", "pytorch_lightning")
    reason = None
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = error
    raise ImportError("ckpt_indexer.lightning needs Lightning: pip install 'ckpt-indexer[lightning]'") from reason


_pl = _import_lightning()
torch: Any = importlib.import_module("torch")  # after Lightning, which needs it: its absence is Lightning's
_Callback: Any = _pl.Callback
_rank_zero_warn = importlib.import_module(f"{_pl.__name__}.utilities.rank_zero").rank_zero_warn
_ModelCheckpoint: Any = importlib.import_module(f"{_pl.__name__}.callbacks").ModelCheckpoint
_CheckpointIO: Any = importlib.import_module(f"{_pl.__name__}.plugins").CheckpointIO


class MetadataCallback(_Callback):  # type: ignore[misc]
    """Embeds what the training process knows in each checkpoint, and keeps sidecars and index up to date.

    One instance serves one trainer at a time; it has no state to be saved, and can be pickled between runs.
    """

    def __init__(
        self,
        *,
        exp_name: str | None = None,
        outputs_dir: str | os.PathLike[str] | None = None,
        training_phase: str = "training",
        generate_on_save: bool = True,
        validate_schema: bool = False,
    ) -> None:
        """Take the settings; nothing is looked at yet.

        *outputs_dir* is the root, ``$CKPT_INDEXER_ROOT`` or ``outputs`` if not given; a relative one starts where the
        program was started, also where Hydra changed the folder since. Without *generate_on_save* checkpoints are
        embedded in and nothing is written beside them. With *validate_schema* each sidecar is read back.
        """
        super().__init__()
        self._has_warned = False
        hydra = _HydraRun(os.getcwd(), None)
        with self._harmless():
            hydra = _hydra_run() or hydra
        root = os.fspath(outputs_dir or os.environ.get("CKPT_INDEXER_ROOT") or "outputs")
        self.outputs_dir = os.path.abspath(os.path.join(hydra.cwd, root))
        self.exp_name = None if exp_name is None else str(exp_name)
        self.training_phase = str(training_phase)
        self.generate_on_save = generate_on_save
        self.validate_schema = validate_schema
        self._hydra_config = hydra.config
        self._forget()

    def _forget(self) -> None:
        """Forget what belongs to this process."""
        self._writer: _Writer | None = None
        self._is_running = False
        self._changed: dict[str, Fingerprint | None] = {}  # path in the root -> what stood there before
        self._has_saved = False  # since the savers' own accounts were last looked at
        self._validated_step: int | None = None
        self._folders: dict[str, str | None] = {}  # absolute -> relative to the root, None outside
        self._configs: dict[str | None, str | None] = {}  # by folder

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: strategies that spawn pickle the callbacks."""
        state = self.__dict__.copy()
        for name in ("_writer", "_is_running", "_changed", "_has_saved", "_validated_step", "_folders", "_configs"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self.__dict__.update(state)

    # --- Lightning's hooks ---

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002 - Lightning passes it by name
        with self._harmless():
            self._is_running = True
            self._validated_step = None
            current = trainer.strategy.checkpoint_io
            if not (isinstance(current, RecordingIO) and current.callback is self):
                trainer.strategy.checkpoint_io = RecordingIO(current, self, trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        with self._harmless():
            # On every rank: where a metric was not reduced yet, reading it is a collective operation.
            metrics = trainer.callback_metrics
            if trainer.is_global_zero:
                self._embed(trainer, checkpoint, metrics, None)
                self._has_saved = True

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    # Each of these is the first hook after one in which ModelCheckpoint saves, links and removes.
    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if self._changed or self._has_saved:
            self._hand_over(trainer)

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        if self._changed or self._has_saved:
            self._hand_over(trainer)

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        if self._changed or self._has_saved:
            self._hand_over(trainer)

    def teardown(self, trainer: Any, *_: Any, **__: Any) -> None:
        self.finish(trainer)  # where a strategy did not let its checkpoint_io be wrapped; nothing is left otherwise

    # --- what RecordingIO tells ---

    def before_save(self, trainer: Any, checkpoint: Any, path: str | os.PathLike[str]) -> Fingerprint | None:
        """Embed what is still missing, now that the path is known; give what stands there now."""
        with self._harmless():
            if isinstance(checkpoint, dict) and _LIGHTNING_MARK in checkpoint:
                if EMBEDDED_KEY in checkpoint:
                    self._tell_saver(trainer, checkpoint[EMBEDDED_KEY], path)
                else:  # weights only: no callback was asked
                    self._embed(trainer, checkpoint, _known_metrics(trainer), path)
        return _stat(path)

    def after_change(self, trainer: Any, path: str | os.PathLike[str], before: Fingerprint | None) -> None:
        """Note that a checkpoint was saved, will be by another thread, or was removed."""
        with self._harmless():
            relative = self._relative(path) if trainer.is_global_zero else None
            if relative is not None:
                self._changed[relative] = before
                if not self._is_running:
                    self.finish(trainer)

    def finish(self, trainer: Any) -> None:
        """Wait until all that was saved so far is in the index; a run is over."""
        with self._harmless():
            self._hand_over(trainer)
        self._is_running = False
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()
            self._warn(writer.failure)

    # --- what is embedded ---

    def _embed(self, trainer: Any, checkpoint: dict[str, Any], metrics: Mapping[str, Any], path: Any) -> None:
        facts = {
            "version": VERSION,
            "exp_name": self.exp_name,
            "training_phase": self.training_phase,
            "max_epochs": trainer.max_epochs,
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "metrics": fetch_numbers(metrics),
            "monitor": None,  # with checkpointing and config_path: see _tell_saver
            "checkpointing": None,
            "wandb_run_id": _wandb_run_id(trainer),
            "config_path": None,
        }
        self._tell_saver(trainer, facts, path)
        checkpoint[EMBEDDED_KEY] = facts

    def _tell_saver(self, trainer: Any, facts: dict[str, Any], path: Any) -> None:
        """Say for which ``ModelCheckpoint`` this is saved, as far as *path* tells, and what its metric is now."""
        saver, is_saving = _find_saver(trainer, None if path is None else os.fspath(path))
        facts["monitor"] = facts["checkpointing"] = None
        if saver is not None:
            facts["checkpointing"] = {"save_top_k": saver.save_top_k, "save_last": saver.save_last}
            if saver.monitor is not None:
                # Somebody else's save, in the middle of an epoch, would meet the score of the last validation.
                is_current = is_saving or self._validated_step == trainer.global_step
                known = {"epoch": float(facts["epoch"]), "step": float(facts["global_step"]), **facts["metrics"]}
                value = known.get(saver.monitor) if is_current else None
                facts["monitor"] = {"name": saver.monitor, "mode": saver.mode, "value": value}
        folder = os.path.dirname(path) if path is not None else getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder not in self._configs:
            self._configs[folder] = self._config_path(folder)
        facts["config_path"] = self._configs[folder]

    def _config_path(self, folder: str | None) -> str | None:
        """Name the run's configuration: the nearest above, as the indexer takes it, else what Hydra says."""
        relative = None if folder is None else self._relative(os.path.join(folder, "x.ckpt"))
        for above in paths.ancestors(relative) if relative is not None else ():
            for name in (f"{paths.HYDRA_FOLDER}/{paths.CONFIG_NAME}", paths.CONFIG_NAME):
                candidate = f"{above}/{name}" if above else name
                full = os.path.join(self.outputs_dir, candidate)
                if os.path.isfile(full) and not os.path.islink(full):
                    return paths.to_key(candidate)
        if self._hydra_config is None or not os.path.isfile(self._hydra_config):
            return None
        inside = _below(os.path.realpath(self.outputs_dir), os.path.realpath(self._hydra_config))
        return paths.to_key(self._hydra_config if inside is None else inside)

    # --- what is handed to the thread ---

    def _hand_over(self, trainer: Any) -> None:
        with self._harmless():
            changed, self._changed = self._changed, {}
            has_saved, self._has_saved = self._has_saved, False
            if not self.generate_on_save or not (changed or has_saved):
                return
            for saver in _savers(trainer):
                newest = next(reversed(saver.best_k_models), "")
                for path in (saver.last_model_path, saver.best_model_path, newest):
                    relative = self._relative(path)
                    if relative is not None:
                        changed.setdefault(relative, _ANYTHING)
            if not changed:
                return
            if self._writer is None:
                self._writer = _Writer(self.outputs_dir, validate=self.validate_schema)
            self._writer.submit(changed)
            self._warn(self._writer.failure)

    def _relative(self, path: str | os.PathLike[str]) -> str | None:
        """Give a checkpoint's path relative to the root; ``None`` if it is outside, or no checkpoint's."""
        text = os.fspath(path)
        if "://" in text:
            return None
        folder, name = os.path.split(os.path.abspath(text))
        if not paths.is_checkpoint(name):
            return None
        if folder not in self._folders:
            self._folders[folder] = _below(os.path.realpath(self.outputs_dir), os.path.realpath(folder))
        inside = self._folders[folder]
        return None if inside is None else paths.subject_of(f"{inside}/{name}" if inside else name)

    # --- failures ---

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Keep a defect of this program, or a broken disk, from ending a training run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, training matters more
            self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, reason: str | None) -> None:
        if reason is not None and not self._has_warned:
            self._has_warned = True
            with contextlib.suppress(Warning):  # where warnings are errors, this one must not be training's
                _rank_zero_warn(f"ckpt-indexer: {reason} (training goes on; this is said only once)")


class RecordingIO(_CheckpointIO):  # type: ignore[misc]
    """A strategy's ``CheckpointIO``, and the callback told of what it does. Everything else is the inner one's.

    Lightning calls it on rank zero, on the thread that saves.
    """

    def __init__(self, inner: Any, callback: MetadataCallback, trainer: Any) -> None:
        super().__init__()
        self.inner = inner
        self.callback = callback
        self._trainer = trainer

    def save_checkpoint(self, checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        before = self.callback.before_save(self._trainer, checkpoint, path)
        try:
            self.inner.save_checkpoint(checkpoint, path, *args, **kwargs)
        finally:
            self.callback.after_change(self._trainer, path, before)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        before = _stat(path)
        try:
            self.inner.remove_checkpoint(path)
        finally:
            if before is not None:  # OnExceptionCheckpoint removes at each end what it hardly ever saved
                self.callback.after_change(self._trainer, path, _REMOVED)

    def teardown(self) -> None:
        try:
            self.inner.teardown()  # what is written asynchronously stands afterwards
        finally:
            self.callback.finish(self._trainer)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)


class _Pending(NamedTuple):
    """A path to look at."""

    before: Fingerprint | None  # what stood there when the save began: as long as that stands, it is not written
    due_s: float
    retry: Backoff


def _pending(before: Fingerprint | None, due_s: float) -> _Pending:
    return _Pending(before, due_s, Backoff(RETRY_FIRST_S, RETRY_LAST_S))


class _Writer:
    """The thread that writes sidecars and index of one run; ``finish`` ends it."""

    def __init__(self, root: str, *, validate: bool) -> None:
        self.failure: str | None = None  # the first
        self._root = root
        self._validate = validate
        self._wake = (
            threading.Condition()
        )  # guards the three below; a signal handler may save, so its lock is reentrant
        self._pending: dict[str, _Pending] = {}
        self._seen: dict[str, None] = {}  # everything there was to look at, for the last look
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="ckpt-indexer", daemon=True)
        self._thread.start()

    def submit(self, changed: Mapping[str, Fingerprint | None]) -> None:
        with self._wake:
            for path, before in changed.items():
                if before == _ANYTHING and path in self._pending:
                    continue  # it is waited for until it is written, which nobody says again
                if len(self._pending) >= PENDING_MAX:
                    path, before = path.rpartition("/")[0], _ANYTHING  # noqa: PLW2901
                self._pending[path] = _pending(before, time.monotonic() + COALESCE_S)
                if len(self._seen) < PENDING_MAX:
                    self._seen[path] = None
            self._wake.notify()

    def finish(self) -> None:
        """Have everything looked at, and wait for that."""
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
        _silence_log()
        try:
            with Indexer(self._root) as indexer:
                indexer.load()
                is_last = False
                while not is_last:
                    taken, is_last = self._take()
                    self._index(indexer, taken)
        except Exception as error:  # noqa: BLE001 - told by the callback, as the one warning
            self._fail(error)

    def _take(self) -> tuple[dict[str, _Pending], bool]:
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
                    path: self._pending.get(path) or _pending(_ANYTHING, 0.0)
                    for path in {**self._seen, **self._pending}
                }, True
            soon = time.monotonic() + COALESCE_S  # what was submitted since goes with it
            taken = {path: pending for path, pending in self._pending.items() if pending.due_s <= soon}
            for path in taken:
                del self._pending[path]
            return taken, False

    def _index(self, indexer: Indexer, taken: Mapping[str, _Pending]) -> None:
        is_written = {path for path, each in taken.items() if _stat(os.path.join(self._root, path)) != each.before}
        places = set(taken) if self._is_ending else is_written
        try:
            if places:
                indexer.look(places)
                indexer.finish()
                self._check(indexer, places)
        except Exception as error:  # noqa: BLE001 - the indexer forgets nothing, and the next turn may succeed
            self._fail(error)
        again = {path for path in taken if path not in is_written or _status(indexer, path) == "incomplete"}
        with self._wake:
            for path in again - self._pending.keys():
                before, _, retry = taken[path]
                before = before if path not in is_written else _ANYTHING
                self._pending[path] = _Pending(before, retry.failed(time.monotonic()), retry)

    def _check(self, indexer: Indexer, places: Collection[str]) -> None:
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


_ANYTHING: Fingerprint = (-1, -1, -1)  # no file's: whatever stands there now is to be looked at
_REMOVED: Fingerprint = (-2, -2, -2)  # likewise, and what was waited for there comes no more


def fetch_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Give the values that are one number each as floats; those on a device are fetched together, with one sync.

    >>> fetch_numbers({"a": 1, "b": torch.tensor(0.5), "c": torch.zeros(2), "d": "text"})
    {'a': 1.0, 'b': 0.5}
    """
    numbers: dict[str, float] = {}
    distant: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key)
        if isinstance(value, torch.Tensor):
            if value.numel() != 1 or value.is_complex():
                continue
            numbers[name] = 0.0  # keeps the order
            if value.device.type == "cpu":
                numbers[name] = float(value.detach())
            else:
                distant[name] = value.detach().reshape(())
        elif isinstance(value, int | float):
            with contextlib.suppress(OverflowError):
                numbers[name] = float(value)
    if distant:
        device = next(iter(distant.values())).device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        stacked = torch.stack([value.to(device, dtype) for value in distant.values()])
        numbers.update(zip(distant, stacked.tolist(), strict=True))
    return numbers


def _known_metrics(trainer: Any) -> Mapping[str, Any]:
    """Give the metrics on rank zero alone: what is not reduced yet stays out, as the other ranks would wait for us."""
    if trainer.world_size == 1:
        return trainer.callback_metrics  # type: ignore[no-any-return]
    return getattr(trainer._logger_connector, "_callback_metrics", {})  # noqa: SLF001 - the same, without reducing


def _savers(trainer: Any) -> list[Any]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, _ModelCheckpoint)]


def _find_saver(trainer: Any, path: str | None) -> tuple[Any, bool]:
    """Find the ``ModelCheckpoint`` that a checkpoint is for; say also whether it is the one that saves.

    That is the one that saves; if it monitors nothing, or somebody else saves, the only one that monitors something.
    """
    savers = _savers(trainer)
    saving = [s for s in savers if path in (s.last_model_path, s.best_model_path) or path in s.best_k_models]
    saver = saving[0] if len(saving) == 1 else None
    if saver is not None and saver.monitor is not None:
        return saver, True
    monitoring = [s for s in savers if s.monitor is not None]
    if len(monitoring) == 1:
        return monitoring[0], False
    return saver, saver is not None


def _wandb_run_id(trainer: Any) -> str | None:
    """Ask the run's logger, else W&B itself where the program uses it."""
    found = [
        logger.version for logger in trainer.loggers if any(c.__name__ == "WandbLogger" for c in type(logger).__mro__)
    ]
    found.append(getattr(getattr(sys.modules.get("wandb"), "run", None), "id", None))
    return next((str(value) for value in found if isinstance(value, str) and value), None)


class _HydraRun(NamedTuple):
    cwd: str  # where the program was started
    config: str | None  # absolute


def _hydra_run() -> _HydraRun | None:
    module: Any = sys.modules.get("hydra.core.hydra_config")
    if module is None or not module.HydraConfig.initialized():
        return None
    hydra = module.HydraConfig.get()
    folder, subfolder = hydra.runtime.output_dir, hydra.output_subdir
    config = None if subfolder is None else os.path.abspath(os.path.join(folder, subfolder, paths.CONFIG_NAME))
    return _HydraRun(hydra.runtime.cwd, config)


def _below(folder: str, path: str) -> str | None:
    """Give *path* relative to *folder*, ``None`` if it is not below it.

    >>> _below("/a", "/a/b"), _below("/a", "/a"), _below("/a", "/ab"), _below("/", "/a")
    ('b', '', None, 'a')
    """
    prefix = folder.rstrip("/") + "/"
    return path[len(prefix) :] if f"{path}/".startswith(prefix) else None


def _stat(path: str | os.PathLike[str]) -> Fingerprint | None:
    try:
        return fingerprint_of(os.lstat(path))
    except OSError:
        return None


def _status(indexer: Indexer, path: str) -> str | None:
    return indexer.statuses.get(paths.to_key(path))


def _silence_log() -> None:
    """Keep the indexer's log out of somebody else's program, and structlog's settings as that program has them.

    Without settings structlog prints, to standard output; and what went wrong here is said by a warning.
    """
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    watch_indexer.log = structlog.wrap_logger(structlog.PrintLogger(), processors=[], wrapper_class=silent)
