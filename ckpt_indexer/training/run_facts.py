"""What only the training process knows of a checkpoint: the facts that the callback embeds in it.

Plain types only. Reading metrics that are not reduced yet is a collective operation: who calls says on which rank that
is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer import paths
from ckpt_indexer.metadata.embedded import VERSION
from ckpt_indexer.training.framework import ModelCheckpoint, torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_indexer.training.places import Places


class RunFacts:
    """The facts of one run, from its trainer and the processes around it."""

    def __init__(self, places: Places, hydra_config: str | None) -> None:
        self.validated_step: int | None = None  # at which the last validation ended
        self.places = places
        self._hydra_config = hydra_config
        self._configs: dict[str | None, str | None] = {}  # by folder

    def collect(
        self, trainer: Any, named: Mapping[str, str | None], metrics: Mapping[str, Any], path: Any
    ) -> dict[str, Any]:
        """Return the facts of a checkpoint that is about to be saved, at *path* where that is known; *named* first."""
        facts = {
            "version": VERSION,
            **named,
            "max_epochs": trainer.max_epochs,
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "metrics": fetch_numbers(metrics),
            "monitor": None,  # with checkpointing and config_path: see add_saver
            "checkpointing": None,
            "wandb_run_id": _wandb_run_id(trainer),
            "config_path": None,
        }
        self.add_saver(trainer, facts, path)
        return facts

    def add_saver(self, trainer: Any, facts: dict[str, Any], path: Any) -> None:
        """Add for which ``ModelCheckpoint`` this is saved, as far as *path* tells, and what its metric is now."""
        saver, is_saving = _find_saver(trainer, None if path is None else os.fspath(path))
        facts["monitor"] = facts["checkpointing"] = None
        if saver is not None:
            facts["checkpointing"] = {"save_top_k": saver.save_top_k, "save_last": saver.save_last}
            if saver.monitor is not None:
                # Somebody else's save, in the middle of an epoch, would meet the score of the last validation.
                is_current = is_saving or self.validated_step == trainer.global_step
                known = {"epoch": float(facts["epoch"]), "step": float(facts["global_step"]), **facts["metrics"]}
                value = known.get(saver.monitor) if is_current else None
                facts["monitor"] = {"name": saver.monitor, "mode": saver.mode, "value": value}
        folder = os.path.dirname(path) if path is not None else getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder not in self._configs:
            self._configs[folder] = self.places.config_of(folder, self._hydra_config)
        facts["config_path"] = self._configs[folder]


def fetch_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are one number each as floats; those on a device are fetched together, with one sync.

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


def known_metrics(trainer: Any) -> Mapping[str, Any]:
    """Return the metrics on rank zero alone: what is not reduced yet stays out, as other ranks would wait."""
    if trainer.world_size == 1:
        return trainer.callback_metrics  # type: ignore[no-any-return]
    return getattr(trainer._logger_connector, "_callback_metrics", {})  # noqa: SLF001 - the same, without reducing


def savers_of(trainer: Any) -> list[Any]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def _find_saver(trainer: Any, path: str | None) -> tuple[Any, bool]:
    """Find the ``ModelCheckpoint`` that a checkpoint is for; also return whether it is the one that saves.

    That is the one that saves; if it monitors nothing, or somebody else saves, the only one that monitors something.
    """
    savers = savers_of(trainer)
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


class HydraRun(NamedTuple):
    cwd: str  # where the program was started
    config: str | None  # absolute


def hydra_run() -> HydraRun | None:
    module: Any = sys.modules.get("hydra.core.hydra_config")
    if module is None or not module.HydraConfig.initialized():
        return None
    hydra = module.HydraConfig.get()
    folder, subfolder = hydra.runtime.output_dir, hydra.output_subdir
    config = None if subfolder is None else os.path.abspath(os.path.join(folder, subfolder, paths.CONFIG_NAME))
    return HydraRun(hydra.runtime.cwd, config)
