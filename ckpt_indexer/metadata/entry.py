"""From a checkpoint's document to its record in the index: a pure function, so that a sidecar alone gives the entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt_indexer.metadata.schema import UNKNOWN
from ckpt_indexer.model import RULES, Entry, Fingerprint, Monitor, Problem, Twin, to_number, utc_text
from ckpt_indexer.paths import Key, place_of

if TYPE_CHECKING:
    from ckpt_indexer.metadata.schema import Document


def bare_entry(key: str, fingerprint: Fingerprint, link_target: str | None, problem: Problem | None) -> Entry:
    """Make the entry of a checkpoint of which only its place is known."""
    place = place_of(key)
    return Entry(
        path=Key(key),
        experiment=place.experiment,
        name=place.name,
        size_bytes=fingerprint[0],
        mtime=utc_text(fingerprint[1]),
        fingerprint=fingerprint,
        status="ok" if problem is None else problem.status,
        problem=problem,
        link_target=link_target,
        rules=RULES,
    )


def entry_of(document: Document, key: str, fingerprint: Fingerprint, link_target: str | None) -> Entry:
    """Make a checkpoint's entry from its document."""
    indexer = document.indexer
    assert indexer is not None
    problem = None if indexer.problem is None else Problem.of(indexer.problem.code, indexer.problem.message)
    entry = bare_entry(key, fingerprint, link_target, problem)
    entry.format = indexer.format
    entry.exp_name = document.exp_name
    entry.epoch = document.training.epoch
    entry.global_step = document.training.global_step
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
    entry.parameters = indexer.parameters
    entry.lightning_version = indexer.lightning_version
    entry.metadata_source = indexer.source
    entry.wandb_run_id = document.wandb_run_id
    entry.content_id = indexer.content_id
    entry.weights_id = indexer.weights_id
    return entry


def _known(name: str) -> str | None:
    return None if name == UNKNOWN else name
