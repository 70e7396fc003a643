"""The tiers put together: facts, configuration and somebody else's sidecar become one document.

Pure and deterministic: the same inputs give the same document, byte for byte, on every run and whoever runs it.
``indexer.sources`` says for each part which tier gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from ckpt_indexer import __version__
from ckpt_indexer.metadata.architecture import recognise_encoder
from ckpt_indexer.metadata.config import checkpointing_parts, find_int, find_text, model_part
from ckpt_indexer.metadata.embedded import Embedded, parse_embedded
from ckpt_indexer.metadata.fit import fit
from ckpt_indexer.metadata.names import NameFacts, last_part, parse_name
from ckpt_indexer.metadata.schema import (
    UNKNOWN,
    Checkpointing,
    Document,
    DocumentProblem,
    Indexer,
    Metrics,
    Model,
    Source,
    Training,
    TwinPart,
)
from ckpt_indexer.metadata.score import Score, find_score
from ckpt_indexer.model import RULES, Fingerprint, to_float, utc_text
from ckpt_indexer.paths import place_of
from ckpt_indexer.trackers.wandb.run import Run, metrics_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.passes.twins import TwinScore

CALLBACKS_MAX = 20  # repeated in a sidecar
# Spellings of the four metrics that the schema has a field for, without a leading "val/", "val_" and the like.
_CANONICAL = {
    "precision": "precision", "recall": "recall", "hmean": "hmean", "f1": "hmean", "loss": "validation_loss",
    "validation_loss": "validation_loss", "val_loss": "validation_loss",
}  # fmt: skip
_VALIDATION_PREFIXES = ("val/", "val_", "valid/", "valid_", "validation/", "validation_")


class Config(msgspec.Struct):
    """The configuration of the run that a checkpoint belongs to."""

    path: str  # relative to the root
    content: dict[str, Any]
    fingerprint: Fingerprint


def compose(
    *,
    key: str,
    link_target: str | None,
    fingerprint: Fingerprint,
    facts: Facts,
    config: Config | None,
    run: Run | None = None,
    twin: TwinScore | None = None,
) -> Document:
    """Make a checkpoint's document.

    From what our callback embedded (tier 2), its header (3), its configuration (4) and its Weights & Biases run (5).
    *twin* is the score of another checkpoint that is the same save; it counts where this one has none of its own.
    """
    content = config.content if config is not None else {}
    logged_to = run or Run(id="")
    embedded = parse_embedded(facts.embedded)
    told = embedded or Embedded()
    sources: dict[str, Source] = {"training": "checkpoint" if embedded is None else "embedded"}
    exp_name = find_text(content, "exp_name", "experiment_name")
    sources["exp_name"] = "embedded" if told.exp_name else "config" if exp_name else "path"
    named = _named([key] if link_target is None else [link_target, key])
    if (
        embedded is None
        and facts.epoch is None
        and facts.global_step is None
        and (named.epoch, named.step) != (None, None)
    ):
        sources["training"] = "name"
    configured = find_text(content, "logger.wandb.id", "wandb.id")
    metrics, score, sources["metrics"] = _metrics(key, link_target, facts, told, logged_to, named)
    whose = None
    if score.value is None and twin is not None and score.monitor in (None, twin.monitor.name):
        whose = TwinPart(path=twin.path, is_selected=score.monitor is not None)
        name = twin.monitor.name
        score = Score(name, twin.monitor.mode or score.mode, to_float(twin.monitor.value), score.state)
        _put(metrics, name, score.value, is_monitor=True)
        sources["score"] = "twin"
    model, sources["model"] = _model(facts, content, logged_to.config)
    if config is not None:
        sources["hydra_config_path"] = "config"
    elif told.config_path is not None:
        sources["hydra_config_path"] = "embedded"
    if told.wandb_run_id is not None:
        sources["wandb_run_id"] = "embedded"
    elif run is not None:
        sources["wandb_run_id"] = "wandb"
    elif configured is not None:
        sources["wandb_run_id"] = "config"
    max_epochs = [
        told.max_epochs,
        *(find_int(c, "trainer.max_epochs", "max_epochs") for c in (content, logged_to.config)),
    ]
    return fit(
        Document(
            checkpoint_path=key,
            exp_name=told.exp_name or exp_name or place_of(key).experiment.rpartition("/")[2],
            created_at=utc_text(fingerprint[1]).removesuffix("Z"),
            training=Training(
                epoch=named.epoch if facts.epoch is None else facts.epoch,
                global_step=named.step if facts.global_step is None else facts.global_step,
                training_phase=told.training_phase or find_text(content, "training_phase") or "training",
                max_epochs=next((number for number in max_epochs if number is not None), None),
            ),
            model=model,
            metrics=metrics,
            checkpointing=_checkpointing(score, content, told, sources),
            hydra_config_path=told.config_path if config is None else config.path,
            wandb_run_id=told.wandb_run_id or logged_to.id or configured,
            indexer=Indexer(
                version=__version__,
                rules=RULES,
                fingerprint=fingerprint,
                config_fingerprint=config.fingerprint if config is not None else None,
                wandb_fingerprint=logged_to.fingerprint,
                source="embedded"
                if embedded is not None
                else "config"
                if facts.problem is not None and config is not None
                else "checkpoint",
                sources=sources,
                format=facts.format,
                problem=DocumentProblem(code=facts.problem.code, message=facts.problem.message)
                if facts.problem
                else None,
                monitor_value=score.value,
                twin=whose,
                lightning_version=facts.lightning_version,
                parameters=facts.parameters,
                tensors=None if facts.tensors is None else len(facts.tensors),
                has_optimizer=facts.has_optimizer,
                content_id=facts.content_id,
                weights_id=facts.weights_id,
                hyper_parameters=facts.hyper_parameters,
                datamodule_hyper_parameters=facts.datamodule_hyper_parameters,
                callbacks=[{"name": c.name, **c.parameters} for c in facts.callbacks[:CALLBACKS_MAX]],
                file_metadata=facts.file_metadata,
                warnings=facts.warnings[:20],
            ),
        )
    )


def overlay(made: Document, written: Document) -> Document:
    """Let a sidecar that something else wrote (tier 1) win over what was made, wherever it knows something."""
    merged = _merged(made.model_dump(), written.model_dump(exclude={"indexer", "checkpoint_path"}))
    document = fit(Document.model_validate(merged))
    assert document.indexer is not None
    document.indexer.source = "sidecar"
    name = document.checkpointing.monitor
    if name is not None:
        told = _value_of(written.metrics, name)
        if told is not None or name != made.checkpointing.monitor:
            # What it says is this checkpoint's own; and the score that was found may be another metric's.
            document.indexer.monitor_value = _value_of(document.metrics, name) if told is None else told
            document.indexer.twin = None
            document.indexer.sources.pop("score", None)
    for part in ("exp_name", "training", "model", "metrics", "checkpointing", "hydra_config_path", "wandb_run_id"):
        value = getattr(written, part)
        if _known(value.model_dump() if isinstance(value, BaseModel) else value):
            document.indexer.sources[part] = "sidecar"
    return document


def _merged(made: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    result = dict(made)
    for key, value in written.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        elif _known(value):
            result[key] = value
    return result


def _known(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_known, value.values()))
    return value is not None and value not in (UNKNOWN, [], {})


def _named(names: list[str]) -> NameFacts:
    """Read the numbers in a checkpoint's names, those of the last one first."""
    read = [parse_name(name) for name in names]
    return NameFacts(
        next((each.epoch for each in reversed(read) if each.epoch is not None), None),
        next((each.step for each in reversed(read) if each.step is not None), None),
        {name: value for each in read for name, value in each.metrics.items()},
    )


def _metrics(
    key: str, link_target: str | None, facts: Facts, embedded: Embedded, run: Run, in_name: NameFacts
) -> tuple[Metrics, Score, Source]:
    """Collect a checkpoint's own metrics: those it carries, its score, the numbers in its name, in this order."""
    names = [key] if link_target is None else [link_target, key]
    written = {name: value for group in facts.metrics.values() for name, value in group.items()} | embedded.metrics
    in_run = metrics_at(run, epoch=facts.epoch, global_step=facts.global_step, batches=facts.batches)
    logged = {**in_run, **written}
    named = in_name.metrics
    # A name may have a monitor's last part only: "hmean" where "val/hmean" was monitored.
    monitored = {
        s.monitor: v for s in facts.monitors if s.monitor and (v := named.get(last_part(s.monitor))) is not None
    }
    score = find_score(names, facts, {**monitored, **named, **logged})
    if (monitor := embedded.monitor) is not None:
        score = Score(monitor.name, monitor.mode, monitor.value, score.state)
    if score.value is None and score.monitor is not None and embedded.monitor is None:
        canonical = canonical_name(score.monitor)
        own = [value for name, value in logged.items() if canonical is not None and canonical_name(name) == canonical]
        if len(own) == 1:
            score = score._replace(value=own[0])
    if score.monitor is None and len(named) == 1:
        ((name, value),) = named.items()
        score = Score(name, None, value)
    known = {**named, **logged}
    if score.monitor is not None and score.value is not None:
        known[score.monitor] = score.value
    metrics = Metrics()
    for name, value in known.items():
        _put(metrics, name, value, is_monitor=name == score.monitor)
    source: Source = "wandb" if in_run else "name"
    if written or (score.state and score.value is not None):
        source = "checkpoint"
    return metrics, score, "embedded" if embedded.metrics or embedded.monitor else source


def _value_of(metrics: Metrics, name: str) -> float | None:
    """Return a metric's value under its own name, else where the schema has a field for it."""
    own = metrics.additional_metrics.get(name)
    field = canonical_name(name)
    value: float | None = getattr(metrics, field) if own is None and field else own
    return value


def _put(metrics: Metrics, name: str, value: float | None, *, is_monitor: bool) -> None:
    """Write a metric under its own name and, where the schema has a field for it, there."""
    if value is None:
        return
    field = canonical_name(name)
    if field != name:
        metrics.additional_metrics[name] = value
    if field is not None and (getattr(metrics, field) is None or is_monitor):
        setattr(metrics, field, value)


def canonical_name(name: str) -> str | None:
    """Name the schema's field for a metric, ``None`` where it has none.

    >>> canonical_name("val/hmean"), canonical_name("val_loss"), canonical_name("train/loss")
    ('hmean', 'validation_loss', None)
    """
    for prefix in _VALIDATION_PREFIXES:
        if name.startswith(prefix):
            return _CANONICAL.get(name.removeprefix(prefix))
    return None if name == "loss" else _CANONICAL.get(name)


def _model(facts: Facts, content: Mapping[str, Any], in_run: Mapping[str, Any]) -> tuple[Model, Source]:
    """Read the model from the config, else the hyper-parameters, else the run's, else the tensors' names and shapes."""
    model = model_part(dict(content))
    source: Source = "config" if _known(model.model_dump()) else "checkpoint"
    for fallback in (facts.hyper_parameters, in_run):
        if fallback:
            model = Model.model_validate(_merged(model_part(dict(fallback)).model_dump(), model.model_dump()))
            if source == "checkpoint" and fallback is in_run and _known(model.model_dump()):
                source = "wandb"
    if UNKNOWN in (model.encoder.model_name, model.architecture) and facts.tensors:
        recognised = recognise_encoder({tensor.name: tensor.shape for tensor in facts.tensors})
        if recognised is not None:
            if model.encoder.model_name == UNKNOWN:
                model.encoder.model_name = recognised
            if model.architecture == UNKNOWN:
                model.architecture = recognised
    return model, source


def _checkpointing(
    score: Score, content: dict[str, Any], embedded: Embedded, sources: dict[str, Source]
) -> Checkpointing:
    """Say how the checkpoint was selected: by the callback's own state, the rest from the config."""
    parts = checkpointing_parts(content)
    part = next((each for each in parts if each.monitor == score.monitor), parts[0] if parts else Checkpointing())
    sources["checkpointing"] = "config" if _known(part.model_dump()) else "checkpoint"
    if score.monitor is not None:
        if part.monitor != score.monitor:
            part = Checkpointing(monitor=score.monitor)  # the config's settings are another callback's
        if score.mode in ("min", "max"):
            part.mode = score.mode  # type: ignore[assignment]
        sources["checkpointing"] = "checkpoint"
    if (told := embedded.checkpointing) is not None:
        part.save_top_k, part.save_last = told.save_top_k, None if told.save_last is None else bool(told.save_last)
        sources["checkpointing"] = "embedded"
    return part
