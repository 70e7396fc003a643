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
import os
from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.frameworks.checkpoint import EMBEDDED_KEY
from ckpt_indexer.training.checkpoint_io import RecordingIO
from ckpt_indexer.training.framework import Callback, rank_zero_warn
from ckpt_indexer.training.places import ANYTHING, Places, stat
from ckpt_indexer.training.run_facts import HydraRun, RunFacts, hydra_run, known_metrics, savers_of
from ckpt_indexer.training.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.paths import RelPath

_LIGHTNING_MARK = "pytorch-lightning_version"  # in every checkpoint that Lightning dumps, and in no bare state dict


class MetadataCallback(Callback):  # type: ignore[misc]
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
        """Keep the settings; nothing is read yet.

        *outputs_dir* is the root, ``$CKPT_INDEXER_ROOT`` or ``outputs`` if not given; a relative one starts where the
        program was started, also where Hydra changed the folder since. Without *generate_on_save* checkpoints are
        embedded in and nothing is written beside them. With *validate_schema* each sidecar is read back.
        """
        super().__init__()
        self._has_warned = False
        hydra = HydraRun(os.getcwd(), None)
        with self._harmless():
            hydra = hydra_run() or hydra
        root = os.fspath(outputs_dir or os.environ.get("CKPT_INDEXER_ROOT") or "outputs")
        self.outputs_dir = os.path.abspath(os.path.join(hydra.cwd, root))
        self.exp_name = None if exp_name is None else str(exp_name)
        self.training_phase = str(training_phase)
        self.generate_on_save = generate_on_save
        self.validate_schema = validate_schema
        self._hydra_config = hydra.config
        self._begin()

    def _begin(self) -> None:
        """Set what belongs to this process."""
        self._facts = RunFacts(Places(self.outputs_dir), self._hydra_config)
        self._writer: Writer | None = None
        self._is_running = False
        self._changed: dict[RelPath, Fingerprint | None] = {}  # what stood there before
        self._has_saved = False  # since the savers' own accounts were last read

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings alone: strategies that spawn pickle the callbacks."""
        own = ("_facts", "_writer", "_is_running", "_changed", "_has_saved")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    # --- Lightning's hooks ---

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002 - Lightning passes it by name
        with self._harmless():
            self._is_running = True
            self._facts.validated_step = None
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
            self._facts.validated_step = trainer.global_step

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
                    self._facts.add_saver(trainer, checkpoint[EMBEDDED_KEY], path)
                else:  # weights only: no callback was asked
                    self._embed(trainer, checkpoint, known_metrics(trainer), path)
        return stat(path)

    def after_change(self, trainer: Any, path: str | os.PathLike[str], before: Fingerprint | None) -> None:
        """Record that a checkpoint was saved, will be by another thread, or was removed."""
        with self._harmless():
            relative = self._facts.places.relative(path) if trainer.is_global_zero else None
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

    def _hand_over(self, trainer: Any) -> None:
        with self._harmless():
            changed, self._changed = self._changed, {}
            has_saved, self._has_saved = self._has_saved, False
            if not self.generate_on_save or not (changed or has_saved):
                return
            for saver in savers_of(trainer):
                newest = next(reversed(saver.best_k_models), "")
                for path in (saver.last_model_path, saver.best_model_path, newest):
                    relative = self._facts.places.relative(path)
                    if relative is not None:
                        changed.setdefault(relative, ANYTHING)
            if not changed:
                return
            if self._writer is None:
                self._writer = Writer(self.outputs_dir, validate=self.validate_schema)
            self._writer.submit(changed)
            self._warn(self._writer.failure)

    def _embed(self, trainer: Any, checkpoint: dict[str, Any], metrics: Mapping[str, Any], path: Any) -> None:
        named = {"exp_name": self.exp_name, "training_phase": self.training_phase}
        checkpoint[EMBEDDED_KEY] = self._facts.collect(trainer, named, metrics, path)

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
                rank_zero_warn(f"ckpt-indexer: {reason} (training goes on; this is said only once)")
