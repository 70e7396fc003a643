"""From a checkpoint's document to its record in the index: a pure function, so that a sidecar alone gives the entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt_indexer.metadata.schema import UNKNOWN
from ckpt_indexer.model import (
    RULES,
    Entry,
    Fingerprint,
    Monitor,
    Problem,
    RunBest,
    Stamp,
    Twin,
    Unused,
    mtime_text,
    to_number,
)
from ckpt_indexer.paths import place_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckpt_indexer.metadata.schema import Document
    from ckpt_indexer.paths import Key


def bare_entry(key: Key, fingerprint: Fingerprint, link_target: str | None, problem: Problem | None) -> Entry:
    """Make the entry of a checkpoint of which only its place is known."""
    place = place_of(key)
    return Entry(
        path=key,
        experiment=place.experiment,
        name=place.name,
        size_bytes=fingerprint[0],
        mtime=mtime_text(fingerprint[1]),
        fingerprint=fingerprint,
        status="ok" if problem is None else problem.status,
        problem=problem,
        link_target=link_target,
        rules=RULES,
    )


def entry_of(document: Document, key: Key, fingerprint: Fingerprint, link_target: str | None) -> Entry:
    """Make a checkpoint's entry from its document."""
    indexer = document.indexer
    assert indexer is not None
    problem = None if indexer.problem is None else Problem.of(indexer.problem.code, indexer.problem.message)
    entry = bare_entry(key, fingerprint, link_target, problem)
    entry.format = indexer.format
    entry.exp_name = document.exp_name
    training = document.training
    entry.epoch = indexer.epoch if training.epoch is None else training.epoch
    entry.global_step = indexer.global_step if training.global_step is None else training.global_step
    entry.metrics = {
        name: to_number(value)
        for name in ("precision", "recall", "hmean", "validation_loss")
        if (value := getattr(document.metrics, name)) is not None
    } | {name: to_number(value) for name, value in document.metrics.additional_metrics.items()}
    checkpointing = document.checkpointing
    if checkpointing.monitor is not None:
        value = indexer.monitor_value
        entry.monitor = Monitor(checkpointing.monitor, checkpointing.mode, None if value is None else to_number(value))
    if indexer.twin is not None:
        entry.twin = Twin(indexer.twin.path, indexer.twin.is_selected)
    entry.architecture = _known(document.model.architecture)
    entry.encoder = _known(document.model.encoder.model_name)
    entry.role = indexer.role
    if (best := indexer.run_best) is not None:
        entry.run_best = RunBest(best.name, None if best.value is None else to_number(best.value), best.mode, best.path)
    entry.parameters = indexer.parameters
    entry.dtypes = indexer.dtypes
    entry.weights_bytes = indexer.weights_bytes
    entry.optimizer_bytes = indexer.optimizer_bytes
    entry.lightning_version = indexer.lightning_version
    entry.metadata_source = indexer.source
    entry.wandb_run_id = document.wandb_run_id
    entry.content_id = indexer.content_id
    entry.weights_id = indexer.weights_id
    return entry


def stamp_of(entry: Entry, shared: dict[Any, Any] | None = None) -> Stamp:
    """Return the stamp that an entry was made from.

    It holds everything an entry depends on: equal stamps, equal entry. Where many are made, *shared* keeps what the
    checkpoints of one run have in common once in memory.
    """
    unused = entry.unused or Unused()
    path, fingerprint = entry.config_path or unused.config, entry.config_fingerprint
    config = (path, fingerprint) if path is not None and fingerprint is not None else None
    path, fingerprint = entry.wandb_path or unused.run, entry.wandb_fingerprint
    run = (path, fingerprint) if path is not None and fingerprint is not None else None
    if shared is not None:
        config, run = shared.setdefault(config, config), shared.setdefault(run, run)
    return Stamp(entry.fingerprint, entry.link_target, entry.metadata_fingerprint, config, run, entry.other_sidecar)


def write_stamp(entry: Entry, stamp: Stamp, *, unused: Collection[str]) -> None:
    """Write into *entry* the files that it was made from: ``stamp_of`` then returns *stamp*.

    *unused* names those that were found and are not the checkpoint's own: ``config``, ``wandb``. The fingerprint and
    the link's target are the entry's own from its beginning.
    """
    entry.metadata_fingerprint = stamp.sidecar
    entry.other_sidecar = stamp.other
    config, entry.config_fingerprint = stamp.config or (None, None)
    run, entry.wandb_fingerprint = stamp.run or (None, None)
    rejected = Unused(config if "config" in unused else None, run if "wandb" in unused else None)
    entry.unused = None if rejected == Unused() else rejected
    entry.config_path = None if rejected.config else config
    entry.wandb_path = None if rejected.run else run


def _known(name: str) -> str | None:
    return None if name == UNKNOWN else name
