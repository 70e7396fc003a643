"""The tiers put together: facts, configuration and somebody else's sidecar become one document.

Pure and deterministic: the same inputs give the same document, byte for byte, on every run and whoever runs it.
``indexer.sources`` says for each part which tier gave it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from pydantic import BaseModel

from ckpt_indexer import __version__
from ckpt_indexer.formats.vocabulary import METRIC_GROUP_WORDS, is_setting_name
from ckpt_indexer.metadata.belonging import Near, Own, judge_nearby
from ckpt_indexer.metadata.config import checkpointing_parts, find_int, find_name, find_text, model_part, snake_case
from ckpt_indexer.metadata.embedded import Embedded, parse_embedded
from ckpt_indexer.metadata.encoder import recognise_encoder
from ckpt_indexer.metadata.fit import fit
from ckpt_indexer.metadata.names import NameFacts, last_part, parse_name, reconcile
from ckpt_indexer.metadata.schema import (
    UNKNOWN,
    Checkpointing,
    Document,
    DocumentProblem,
    IndexerPart,
    Metrics,
    Model,
    ModelPart,
    Nearby,
    RunBestPart,
    Source,
    Tier,
    Training,
    TwinPart,
)
from ckpt_indexer.metadata.score import Claim, Score, find_score, listed_as
from ckpt_indexer.model import RULES, Fingerprint, TwinScore, to_float, utc_text
from ckpt_indexer.paths import place_of
from ckpt_indexer.trackers.wandb.run import Run, metrics_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.paths import Key

HUB_NAME = "config.json"  # as Hugging Face's libraries write it, with one of these keys
HUB_KEYS = frozenset(("architectures", "model_type", "_class_name", "auto_map"))
CALLBACKS_MAX = 20  # repeated in a sidecar
# Spellings of the four metrics that the schema has a field for, without a leading "val/", "val_" and the like.
_CANONICAL = {
    "precision": "precision", "recall": "recall", "hmean": "hmean", "f1": "hmean", "loss": "validation_loss",
    "validation_loss": "validation_loss", "val_loss": "validation_loss",
}  # fmt: skip
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z])")
_VALIDATION_PREFIXES = ("val/", "val_", "valid/", "valid_", "validation/", "validation_")


class Config(msgspec.Struct):
    """The configuration of the run that a checkpoint belongs to."""

    path: str  # relative to the root
    content: dict[str, Any]
    fingerprint: Fingerprint


class _Tiers(NamedTuple):
    """What each tier says of one checkpoint."""

    key: Key
    names: list[str]  # of the checkpoint; of a link its target's first
    in_names: NameFacts
    facts: Facts  # tier 3
    embedded: Embedded | None  # 2
    config: Config | None  # 4, if it is the checkpoint's own
    run: Run | None  # 5, the same
    in_run: dict[str, float]  # its metrics of this very checkpoint
    has_max_epochs: bool  # the configuration's number of epochs is the checkpoint's, too

    @property
    def told(self) -> Embedded:
        return self.embedded or Embedded()

    @property
    def content(self) -> dict[str, Any]:
        return {} if self.config is None else self.config.content

    @property
    def logged_config(self) -> dict[str, Any]:
        return {} if self.run is None else self.run.config


def compose(
    *,
    key: Key,
    link_target: str | None,
    fingerprint: Fingerprint,
    facts: Facts,
    config: Config | None,
    run: Run | None = None,
    twin: TwinScore | None = None,
) -> Document:
    """Build a checkpoint's document.

    From what our callback embedded (tier 2), its header (3), its configuration (4) and its Weights & Biases run (5).
    The configuration and the run are those found near it; one that is not its own is not used (``belonging``).
    *twin* is the score of another checkpoint that is the same save; it counts where this one has none of its own.
    """
    tiers, warnings = _tiers_of(key, link_target, fingerprint, facts, config, run)
    metrics, score, metrics_source = _metrics(tiers)
    score, score_of = _with_twin(score, twin, metrics)
    model, model_source = _model(tiers)
    checkpointing, checkpointing_source = _checkpointing(tiers, score)
    exp_name, exp_name_source = _exp_name(tiers)
    config_path, config_path_source = _config_path(tiers)
    run_id, run_id_source = _run_id(tiers)
    training, training_source = _training(tiers)
    sources: dict[str, Source | None] = {
        "training": training_source,
        "exp_name": exp_name_source,
        "metrics": metrics_source,
        "score": None if score_of is None else "twin",
        "model": model_source,
        "hydra_config_path": config_path_source,
        "wandb_run_id": run_id_source,
        "checkpointing": checkpointing_source,
    }
    sources["run_best"] = None if tiers.facts.run_best is None else "checkpoint"
    known_sources = {part: source for part, source in sources.items() if source is not None}
    return fit(
        Document(
            checkpoint_path=key,
            exp_name=exp_name,
            created_at=utc_text(fingerprint[1]).removesuffix("Z"),
            training=training,
            model=model,
            metrics=metrics,
            checkpointing=checkpointing,
            hydra_config_path=config_path,
            wandb_run_id=run_id,
            indexer=_indexer_part(
                tiers, fingerprint, known_sources, score.value, score_of,
                config_fingerprint=None if config is None else config.fingerprint,
                wandb_fingerprint=None if run is None else run.fingerprint,
                unused=_unused(tiers, config, run),
                warnings=[*facts.warnings, *warnings],
            ),
        )
    )  # fmt: skip


def _tiers_of(
    key: Key, link_target: str | None, fingerprint: Fingerprint, facts: Facts, config: Config | None, run: Run | None
) -> tuple[_Tiers, list[str]]:
    """Build the tiers without what is not the checkpoint's own; return also the warnings."""
    embedded = parse_embedded(facts.embedded)
    near = None if config is None else Near(config.path, config.content, config.fingerprint[1])
    told = embedded or Embedded()
    own = Own(key, facts, fingerprint[1], told.wandb_run_id, told.config_path)
    belonging = judge_nearby(own, near, run)
    is_model = facts.role in (None, "model")  # nothing of a model is said of an optimizer's state beside it
    config = config if is_model and belonging.has_config and _is_configuration(config) else None
    run = run if is_model and belonging.has_run else None
    names: list[str] = [key] if link_target is None else [link_target, key]
    in_names, name_warnings = _named(names, facts, run)
    in_run = {}
    if run is not None:
        in_run = metrics_at(run, epoch=facts.epoch, global_step=facts.global_step, batches=facts.batches)
    in_names, contradictions = reconcile(in_names, facts, {**in_run, **_carried(facts, told)})
    tiers = _Tiers(key, names, in_names, facts, embedded, config, run, in_run, belonging.has_max_epochs)
    return tiers, [*belonging.warnings, *name_warnings, *contradictions]


def _is_configuration(config: Config | None) -> bool:
    """Return whether a file is one: any program may have a ``config.json``, a model's names its architecture."""
    if config is None:
        return False
    return config.path.rpartition("/")[2] != HUB_NAME or not HUB_KEYS.isdisjoint(config.content)


def _unused(tiers: _Tiers, config: Config | None, run: Run | None) -> list[Nearby]:
    """Return which of the configuration and the run that were found are not the checkpoint's own."""
    unused: list[Nearby] = []
    if config is not None and tiers.config is None:
        unused.append("config")
    if run is not None and tiers.run is None:
        unused.append("wandb")
    return unused


def _indexer_part(
    tiers: _Tiers, fingerprint: Fingerprint, sources: dict[str, Source], score: float | None, score_of: TwinPart | None,
    *, config_fingerprint: Fingerprint | None, wandb_fingerprint: Fingerprint | None,
    unused: list[Nearby], warnings: list[str],
) -> IndexerPart:  # fmt: skip
    """Build what stands under ``indexer``: *sources* of the other parts, the score, the facts that have no part.

    The fingerprints are of what was found near the checkpoint, *unused* or not: when it changes, so may what is used.
    """
    facts, problem = tiers.facts, tiers.facts.problem
    source: Tier = "checkpoint"
    if tiers.embedded is not None:
        source = "embedded"
    elif problem is not None and tiers.config is not None:
        source = "config"
    return IndexerPart(
        version=__version__,
        rules=RULES,
        fingerprint=fingerprint,
        config_fingerprint=config_fingerprint,
        wandb_fingerprint=wandb_fingerprint,
        unused=unused,
        source=source,
        sources=sources,
        format=facts.format,
        problem=None if problem is None else DocumentProblem(code=problem.code, message=problem.message),
        monitor_value=score,
        twin=score_of,
        lightning_version=facts.lightning_version,
        role=facts.role,
        run_best=None if facts.run_best is None else RunBestPart(**msgspec.structs.asdict(facts.run_best)),
        parameters=facts.parameters,
        tensors=None if facts.tensors is None else len(facts.tensors),
        dtypes=facts.dtypes,
        weights_bytes=facts.weights_bytes,
        models=[ModelPart(**msgspec.structs.asdict(each)) for each in facts.models],
        has_optimizer=facts.has_optimizer,
        optimizer_bytes=facts.optimizer_bytes,
        content_id=facts.content_id,
        weights_id=facts.weights_id,
        hyper_parameters=facts.hyper_parameters,
        datamodule_hyper_parameters=facts.datamodule_hyper_parameters,
        callbacks=[{"name": each.name, **each.parameters} for each in facts.callbacks[:CALLBACKS_MAX]],
        file_metadata=facts.file_metadata,
        warnings=warnings[:20],
    )


def _training(tiers: _Tiers) -> tuple[Training, Source]:
    """Read how far training had come: the checkpoint's own counts, else the numbers in its name."""
    facts, named, told = tiers.facts, tiers.in_names, tiers.told
    configured = tiers.content if tiers.has_max_epochs else {}
    settings = (facts.hyper_parameters or {}, configured, tiers.logged_config)
    max_epochs = [told.max_epochs, *(find_int(each, "trainer.max_epochs", "max_epochs") for each in settings)]
    source: Source = "checkpoint"
    if tiers.embedded is not None:
        source = "embedded"
    elif facts.epoch is None and facts.global_step is None and (named.epoch, named.step) != (None, None):
        source = "name"
    training = Training(
        epoch=named.epoch if facts.epoch is None else facts.epoch,
        global_step=named.step if facts.global_step is None else facts.global_step,
        training_phase=told.training_phase or find_text(tiers.content, "training_phase") or "training",
        max_epochs=next((number for number in max_epochs if number is not None), None),
    )
    return training, source


def _exp_name(tiers: _Tiers) -> tuple[str, Source]:
    if tiers.told.exp_name:
        return tiers.told.exp_name, "embedded"
    configured = find_name(tiers.content, "exp_name", "experiment_name")
    if configured is not None:
        return configured, "config"
    return place_of(tiers.key).experiment.rpartition("/")[2], "path"


def _config_path(tiers: _Tiers) -> tuple[str | None, Source | None]:
    if tiers.config is not None:
        return tiers.config.path, "config"
    return tiers.told.config_path, None if tiers.told.config_path is None else "embedded"


def _run_id(tiers: _Tiers) -> tuple[str | None, Source | None]:
    """Find the id of the Weights & Biases run."""
    configured = find_text(tiers.content, "logger.wandb.id", "wandb.id")
    if tiers.told.wandb_run_id is not None:
        return tiers.told.wandb_run_id or (tiers.run and tiers.run.id) or configured, "embedded"
    if tiers.run is not None:
        return tiers.run.id or configured, "wandb"
    return configured, None if configured is None else "config"


def overlay(made: Document, written: Document) -> Document:
    """Return the document with what a sidecar of another program (tier 1) says in place of what was made."""
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


def _named(names: list[str], facts: Facts, run: Run | None) -> tuple[NameFacts, list[str]]:
    """Read the numbers in a checkpoint's names, those of the last one first; return also what was not used of them."""
    known = {state.monitor for state in facts.monitors if state.monitor is not None}
    known.update(name for group in facts.metrics.values() for name in group)
    known.update(_carried(facts, Embedded()))
    if run is not None:
        known.update(run.metric_names)
    read = [parse_name(name, known) for name in names]
    listed = listed_as(names, facts)
    others = [] if any(each.claim is Claim.OWN for each in listed) else listed
    metrics = {name: value for each in read for name, value in each.metrics.items()}
    if any(each.claim is Claim.OTHER for each in others):
        metrics = {}  # the name is that of another save, and so are its numbers
    found = NameFacts(
        next((each.epoch for each in reversed(read) if each.epoch is not None), None),
        next((each.step for each in reversed(read) if each.step is not None), None),
        metrics,
        next((each.lone for each in reversed(read) if each.lone is not None), None),
        next((each.monitor for each in reversed(read) if each.monitor is not None), None),
        {name: unit for each in read for name, unit in (each.units or {}).items()},
    )
    return _with_lone(found, facts), [
        f"the score {each.score:g} of {each.path[-100:]} was not used: "
        + ("that is another save" if each.claim is Claim.OTHER else "nothing says that this is the same file")
        for each in others[:3]
    ]


def _with_lone(named: NameFacts, facts: Facts) -> NameFacts:
    """Use the number in a name that is an epoch or a step, where the checkpoint's own count says which."""
    lone, step = named.lone, facts.global_step
    is_epoch = lone and step and lone != step and step % lone == 0 and (named.epoch, facts.epoch) == (None, None)
    return named._replace(epoch=lone) if is_epoch else named


def _metrics(tiers: _Tiers) -> tuple[Metrics, Score, Source]:
    """Collect a checkpoint's own metrics: those it carries, its score, the numbers in its name, in this order."""
    facts, told = tiers.facts, tiers.told
    carried = _carried(facts, told)
    logged = {**tiers.in_run, **carried}
    score = _score(tiers, logged)
    known = {**tiers.in_names.metrics, **logged}
    if score.monitor is not None and score.value is not None:
        known[score.monitor] = score.value  # a count, too: _put drops it
    metrics = Metrics()
    for name, value in known.items():
        _put(metrics, name, value, is_monitor=name == score.monitor)
    source: Source = "wandb" if tiers.in_run else "name"
    if carried or find_score(tiers.names, facts, {}).value is not None:
        source = "checkpoint"
    return metrics, score, "embedded" if told.metrics or told.monitor else source


def _carried(facts: Facts, told: Embedded) -> dict[str, float]:
    """Return the metrics that a checkpoint carries; where groups disagree on one, ``<group>/<metric>`` has it."""
    values: dict[str, set[str]] = {}
    for group in facts.metrics.values():
        for name, value in group.items():
            values.setdefault(name, set()).add(repr(value))  # NaN is equal to NaN here
    labels = {group: _label(group) for group in facts.metrics}
    found: dict[str, float] = {}
    for key, metrics in facts.metrics.items():
        is_sole = list(labels.values()).count(labels[key]) == 1
        prefix = f"{labels[key] if is_sole else key}/" if key else ""
        for name, value in metrics.items():
            found[prefix + name if len(values[name]) > 1 else name] = value
    return found | told.metrics


def _label(group: str) -> str:
    """Return what a group of metrics was measured on: ``val_metrics`` on ``val``; else its own name."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", _HUMP.sub("_", group)) if part]
    return "_".join(part for part in parts if part.lower() not in METRIC_GROUP_WORDS) or group


def _score(tiers: _Tiers, logged: Mapping[str, float]) -> Score:
    """Find the checkpoint's score; *logged* are the metrics that were written down with it, in it or in its run."""
    in_names, monitor = tiers.in_names.metrics, tiers.told.monitor
    # A name may have a monitor's last part only: "hmean" where "val/hmean" was monitored.
    monitored = {
        state.monitor: value
        for state in tiers.facts.monitors
        if state.monitor and (value := in_names.get(last_part(state.monitor))) is not None
    }
    score = find_score(tiers.names, tiers.facts, {**monitored, **in_names, **logged})
    if monitor is not None:
        score = Score(monitor.name, monitor.mode, monitor.value, score.state)
    elif score.value is None and score.monitor is not None:
        canonical = canonical_name(score.monitor)
        own = [value for name, value in logged.items() if canonical is not None and canonical_name(name) == canonical]
        if len(own) == 1:
            score = score._replace(value=own[0])
    if score.monitor is None and len(in_names) == 1:
        ((name, value),) = in_names.items()
        score = Score(name, None, value)
    if score.monitor is None and (selected_by := tiers.in_names.monitor) is not None:
        score = Score(selected_by, None, logged.get(selected_by))
    return score


def _with_twin(score: Score, twin: TwinScore | None, metrics: Metrics) -> tuple[Score, TwinPart | None]:
    """Use the twin's score where there is no own one, and write it into *metrics*; return also whose it is."""
    if score.value is not None or twin is None or score.monitor not in (None, twin.monitor.name):
        return score, None
    part = TwinPart(path=twin.path, is_selected=score.monitor is not None)
    name = twin.monitor.name
    score = Score(name, twin.monitor.mode or score.mode, to_float(twin.monitor.value), score.state)
    _put(metrics, name, score.value, is_monitor=True)
    return score, part


def _value_of(metrics: Metrics, name: str) -> float | None:
    """Return a metric's value under its own name, else where the schema has a field for it."""
    own = metrics.additional_metrics.get(name)
    field = canonical_name(name)
    value: float | None = getattr(metrics, field) if own is None and field else own
    return value


def _put(metrics: Metrics, name: str, value: float | None, *, is_monitor: bool) -> None:
    """Write a metric under its own name and, where the schema has a field for it, there."""
    if value is None or (is_monitor and is_setting_name(name)):
        return  # Lightning can monitor a count: the step measures nothing
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


def _model(tiers: _Tiers) -> tuple[Model, Source]:
    """Read the model from the config, else the hyper-parameters, else the run's, else the tensors' names and shapes."""
    facts, in_run = tiers.facts, tiers.logged_config
    if facts.role not in (None, "model"):  # an optimizer's state beside a model has no architecture
        return Model(), "checkpoint"
    model = model_part(dict(tiers.content))
    source: Source = "config" if _known(model.model_dump()) else "checkpoint"
    named = {"architecture": facts.architecture, "loss": facts.loss}
    named = {key: snake_case(name) if key == "loss" else name for key, name in named.items() if name is not None}
    for fallback in (named, facts.hyper_parameters, in_run):
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


def _checkpointing(tiers: _Tiers, score: Score) -> tuple[Checkpointing, Source]:
    """Read how the checkpoint was selected: from the callback's own state, the rest from the config."""
    parts = checkpointing_parts(tiers.content)
    part = next((each for each in parts if each.monitor == score.monitor), parts[0] if parts else Checkpointing())
    source: Source = "config" if _known(part.model_dump()) else "checkpoint"
    if score.monitor is not None:
        if part.monitor != score.monitor:
            part = Checkpointing(monitor=score.monitor)  # the config's settings are another callback's
        if score.mode in ("min", "max"):
            part.mode = score.mode  # type: ignore[assignment]
        source = "checkpoint"
    if (told := tiers.told.checkpointing) is not None:
        part.save_top_k, part.save_last = told.save_top_k, None if told.save_last is None else bool(told.save_last)
        source = "embedded"
    return part, source
