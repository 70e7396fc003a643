"""Whether the configuration and the run that lie near a checkpoint are its own: what it says itself, against theirs.

They are found by where they lie, and other things lie there, too: a base model that was copied in, the first of two
runs in one folder. Owns the findings (what is compared, and what follows from each) and the rule that decides on them:

| finding | about the configuration | about the run |
|---|---|---|
| CONTRADICTS | another encoder, decoder, head, architecture or monitor | the same; another id, value or step |
| PROVES | | its id is in the checkpoint or its ``dirpath``; it logged the monitor's value at this step |
| UNLIKELY | saved elsewhere; past ``max_epochs`` | saved elsewhere; before the run; it never logged the monitor |
| YOUNGER | written after the checkpoint | |
| ALIKE | the same encoder, architecture or monitor | |

The first finding of this order that is there decides: not used, used, not used; what is younger is used only if it is
alike. What nothing speaks about is used. Where one of the two contradicts the checkpoint, the other is unlikely. An id
that the training process wrote into the checkpoint is final: nothing else is asked of the run. A configuration that
names the checkpoint's encoder or architecture, and is not younger, may have been saved elsewhere: the run's folder was
renamed. One that has another name than ``config.yaml``, such as the checkpoint's own, is only ever contradicted. Pure.
"""

from __future__ import annotations

import enum
import math
import posixpath
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer.formats.vocabulary import HYPER_PARAMETER_KEYS
from ckpt_indexer.metadata.config import checkpointing_parts, find_int, find_name, model_part, parse_name, resolve
from ckpt_indexer.metadata.encoder import is_known, is_same_encoder, recognise_encoder
from ckpt_indexer.metadata.names import parse_name as parse_file_name
from ckpt_indexer.metadata.place import is_same_folder, parts_of
from ckpt_indexer.metadata.schema import UNKNOWN
from ckpt_indexer.metadata.score import score_at_step
from ckpt_indexer.paths import CONFIG_NAME
from ckpt_indexer.trackers.wandb.run import CLOCK_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.formats.facts import Facts, LoggedRow
    from ckpt_indexer.trackers.wandb.run import Run

YOUNGER_NS = 300 * 10**9  # a configuration may be this much younger than a checkpoint: both were copied, one by one
FLOAT32_DIGITS = 1e-6  # relative: what is logged is a float32 written in decimals
OPTIMIZERS_MAX = 4
WALK_MAX = 2_000  # mappings of a configuration that are looked into
_PARTS = {"decoder": "decoder", "decoder_name": "decoder", "head": "head", "head_name": "head"}
_ARCHITECTURE_KEYS = ("architecture", "architecture_name", "arch", "model_name")
_PART_KEYS = (*_ARCHITECTURE_KEYS, *_PARTS)
# Networks in a checkpoint that are not the one that was trained.
_BYSTANDERS = re.compile(
    r"(?:^|[._])(?:teacher|loss|losses|criterion|lpips|perceptual|metric|metrics|discriminator)[._]"
)


class Bearing(enum.Enum):
    """What a finding says about whether something is the checkpoint's own."""

    CONTRADICTS = enum.auto()
    PROVES = enum.auto()
    UNLIKELY = enum.auto()
    YOUNGER = enum.auto()
    ALIKE = enum.auto()


class Finding(NamedTuple):
    """One comparison that said something."""

    bearing: Bearing
    reason: str = ""


class Near(NamedTuple):
    """A configuration, as far as it matters here."""

    path: str
    content: dict[str, Any]
    mtime_ns: int


class Own(NamedTuple):
    """What a checkpoint is and says itself."""

    key: str
    facts: Facts
    mtime_ns: int
    wandb_run_id: str | None = None  # that the training process wrote into it
    config_path: str | None = None  # the same


class Belonging(NamedTuple):
    """What of that which lies near is the checkpoint's own."""

    has_config: bool
    has_run: bool
    has_max_epochs: bool  # the configuration's number of epochs
    warnings: list[str]


def judge_nearby(own: Own, config: Near | None, run: Run | None) -> Belonging:
    """Decide what of that which lies near a checkpoint is used for it."""
    is_here = _is_here(own)
    about_config = [] if config is None else list(_about_config(own, config, is_here=is_here))
    about_run = [] if run is None else list(_about_run(own, run, is_here=is_here))
    if not is_used(about_run) and any(each.bearing is Bearing.CONTRADICTS for each in about_run):
        about_config.append(Finding(Bearing.UNLIKELY, "the run that lies there did not write it"))
    if not is_used(about_config) and any(each.bearing is Bearing.CONTRADICTS for each in about_config):
        about_run.append(Finding(Bearing.UNLIKELY, "the configuration that lies there is not its own"))
    if config is not None and posixpath.basename(config.path) != CONFIG_NAME:  # named after this very checkpoint
        about_config = [each for each in about_config if each.bearing is Bearing.CONTRADICTS]
    warnings = []
    if config is not None and not is_used(about_config):
        warnings.append(f"the configuration {config.path} {_verdict(about_config)}: {_reasons(about_config)}")
    if run is not None and not is_used(about_run):
        warnings.append(f"the run {run.id} {_verdict(about_run)}: {_reasons(about_run)}")
    has_config = config is not None and is_used(about_config)
    past = _past_its_end(own, config) if config is not None and has_config else None
    if past is not None:
        warnings.append(f"the configuration's number of epochs was not used: {past}")
    return Belonging(has_config, run is not None and is_used(about_run), past is None, warnings)


def is_used(findings: list[Finding]) -> bool:
    """Apply the rule: a contradiction decides, then a proof, then what makes it unlikely, then the time.

    >>> is_used([]), is_used([Finding(Bearing.YOUNGER)]), is_used([Finding(Bearing.YOUNGER), Finding(Bearing.ALIKE)])
    (True, False, True)
    """
    found = {finding.bearing for finding in findings}
    if Bearing.CONTRADICTS in found:
        return False
    if Bearing.PROVES in found:
        return True
    return Bearing.UNLIKELY not in found and (Bearing.YOUNGER not in found or Bearing.ALIKE in found)


def _verdict(findings: list[Finding]) -> str:
    is_contradicted = any(each.bearing is Bearing.CONTRADICTS for each in findings)
    return "contradicts the file and was not used" if is_contradicted else "was not used"


def _reasons(findings: list[Finding]) -> str:
    return "; ".join(finding.reason for finding in findings if finding.reason)[:400]


def _is_here(own: Own) -> bool | None:
    """Return whether the checkpoint stands where a callback says that it saves."""
    folder = posixpath.dirname(own.key)
    found = {is_same_folder(folder, state.dirpath) for state in own.facts.monitors if state.dirpath} - {None}
    return found.pop() if len(found) == 1 else None


def _saved_to(own: Own) -> list[str]:
    return [state.dirpath for state in own.facts.monitors if state.dirpath]


# --- the configuration ---


def _about_config(own: Own, config: Near, *, is_here: bool | None) -> Iterator[Finding]:
    parts = list(_parts(own, config.content, "the configuration"))
    yield from parts
    yield from _monitors(own, config)
    is_younger = config.mtime_ns > own.mtime_ns + YOUNGER_NS
    is_renamed = not is_younger and any(each.bearing is Bearing.ALIKE for each in parts)
    exp_name = find_name(config.content, "exp_name", "experiment_name")
    is_told = own.config_path == config.path or any(exp_name in parts_of(folder) for folder in _saved_to(own))
    if is_here is False and not (is_told or is_renamed):
        yield Finding(Bearing.UNLIKELY, f"it was saved to {_saved_to(own)[0][-100:]}")
    if is_here is not True and (past := _past_its_end(own, config)) is not None:
        yield Finding(Bearing.UNLIKELY, past)
    if is_younger:
        yield Finding(Bearing.YOUNGER, "the configuration was written after it")


def _monitors(own: Own, config: Near) -> Iterator[Finding]:
    states = {state.monitor for state in own.facts.monitors} - {None}
    monitored = {part.monitor for part in checkpointing_parts(config.content)} - {None} if states else set()
    if not monitored or _is_before_1_6(own):
        return
    reason = f"it was selected by {_names(states)}, the configuration says {_names(monitored)}"
    yield from _compared(not monitored.isdisjoint(states), reason)


def _past_its_end(own: Own, config: Near) -> str | None:
    """Return why the checkpoint cannot come from a training of so many epochs."""
    last = find_int(config.content, "trainer.max_epochs", "max_epochs")
    epoch = own.facts.epoch  # Lightning counts from 0, other loops from 1
    if last is None or last < 1 or epoch is None or epoch <= last:
        return None
    return f"it is at epoch {epoch}, the configuration says {last} epochs"


def _is_before_1_6(own: Own) -> bool:
    """Return whether the checkpoint has one state for all callbacks of a class: the others' monitors are lost."""
    return re.match(r"0\.|1\.[0-5]\b", own.facts.lightning_version or "") is not None


def _parts(own: Own, content: dict[str, Any], whose: str) -> Iterator[Finding]:
    """Compare the model's parts with those that the checkpoint's hyper-parameters name, else with its tensors."""
    settings = _own_settings(own.facts)
    if not settings and not own.facts.tensors:
        return
    named = _encoder(content)
    told = next((name for each in settings if (name := _encoder(each)) != UNKNOWN), None)
    if named != UNKNOWN and told is not None:
        yield from _compared(is_same_encoder(told, named), f"its hyper-parameters say {told}, {whose} {named}")
    elif named != UNKNOWN and is_known(named) and own.facts.tensors:
        shapes = {each.name: each.shape for each in own.facts.tensors if not _BYSTANDERS.search(each.name)}
        if (recognised := recognise_encoder(shapes)) is not None:
            reason = f"its tensors are a {recognised}, {whose} says {named}"
            yield from _compared(is_same_encoder(recognised, named), reason)
    theirs = _named(content) if settings else {}
    for key, name in {key: name for each in reversed(settings) for key, name in _named(each).items()}.items():
        if key not in theirs or (name == told and named != UNKNOWN):  # the encoder, which was compared above
            continue
        if key == "model_name" and (name == told or theirs[key] == named):  # of one an encoder, of the other a model
            continue
        if _is_other(name, theirs[key]):
            yield Finding(Bearing.CONTRADICTS, f"its hyper-parameters say {key} {name}, {whose} {theirs[key]}")
        elif key in _ARCHITECTURE_KEYS and _plain(name) == _plain(theirs[key]):
            yield Finding(Bearing.ALIKE)


def _encoder(settings: dict[str, Any]) -> str:
    """Return the encoder that settings name; a model without parts is one where its architecture's name is."""
    model = model_part(settings)
    if model.encoder.model_name == UNKNOWN and is_known(model.architecture):
        return model.architecture
    return model.encoder.model_name


def _is_other(name: str, other: str) -> bool:
    """Return whether two names are of two things: ``fpn`` and ``fpn_decoder`` are not."""
    one, two = _plain(name), _plain(other)
    return one not in two and two not in one


def _compared(is_same: bool | None, reason: str) -> Iterator[Finding]:
    if is_same is not None:
        yield Finding(Bearing.ALIKE) if is_same else Finding(Bearing.CONTRADICTS, reason)


def _plain(name: str) -> str:
    """Return a name's letters and digits: ``FPNDecoder`` and ``fpn_decoder`` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _own_settings(facts: Facts) -> list[dict[str, Any]]:
    """Return the checkpoint's hyper-parameters, and those in them that stand under a name of their own."""
    own = facts.hyper_parameters or {}
    named = {} if facts.architecture is None else {"arch": facts.architecture}
    nested = [own[key] for key in HYPER_PARAMETER_KEYS if isinstance(own.get(key), dict)]
    return [each for each in (own, *nested, named) if each]


def _named(content: dict[str, Any]) -> dict[str, str]:
    """Return what the settings of a model's parts are, by key; one that stands twice with different names is none.

    Names only: a class names whatever wraps the part (``LitSegmenter``).
    """
    found: dict[str, set[str]] = {}
    waiting = [content]
    for _ in range(WALK_MAX):
        if not waiting:
            break
        for key, value in waiting.pop().items():
            node = resolve(value, content)
            if isinstance(node, dict):
                waiting.append(node)
                node = node.get("name") if key in _PARTS else None
            if key in _PART_KEYS and (name := parse_name(node, content)) is not None:
                found.setdefault(_PARTS.get(key, key), set()).add(name)
    return {key: names.pop() for key, names in found.items() if len(names) == 1}


def _names(names: set[Any]) -> str:
    return ", ".join(sorted(str(name)[:80] for name in names)[:3])


# --- the run ---


def _about_run(own: Own, run: Run, *, is_here: bool | None) -> Iterator[Finding]:
    if own.wandb_run_id:
        is_same = own.wandb_run_id == run.id
        reason = f"the run that saved it is {own.wandb_run_id[:100]}"
        yield Finding(Bearing.PROVES) if is_same else Finding(Bearing.CONTRADICTS, reason)
        return
    yield from (each for each in _parts(own, run.config, "the run") if each.bearing is Bearing.CONTRADICTS)
    saved_to = _saved_to(own)
    if any(run.id in parts_of(folder) for folder in saved_to):
        yield Finding(Bearing.PROVES)
        return
    if run.started_ns is not None and own.mtime_ns < run.started_ns - CLOCK_NS:
        yield Finding(Bearing.UNLIKELY, "the run began after it was written")
    if is_here is False:
        yield Finding(Bearing.UNLIKELY, f"it was saved to {saved_to[0][-100:]}")
    yield from _logged(own.facts, run)
    yield from _in_name(own, run)


def _logged(facts: Facts, run: Run) -> Iterator[Finding]:
    """Compare where the checkpoint stands in training, and what it had reached, with the rows of the run's log."""
    if not run.rows or facts.epoch is None:
        return
    last = run.rows[-1]
    if facts.epoch > max(row.epoch for row in run.rows) + 1:  # what is not flushed yet is of the next epoch at most
        yield Finding(Bearing.CONTRADICTS, f"it is at epoch {facts.epoch}, the run's log ends at epoch {last.epoch}")
        return
    if facts.lightning_version is None:
        yield Finding(Bearing.UNLIKELY, "Lightning did not write it, as it wrote the run's log")
    step = facts.global_step
    if step is None:
        return
    # A row's step counts batches: of several optimizers each counts a step of its own.
    optimizers = range(1, 2 if facts.batches == step else OPTIMIZERS_MAX + 1)
    if not any(step % n == 0 and _is_between(run.rows, facts.epoch, step // n) for n in optimizers):
        yield Finding(Bearing.CONTRADICTS, f"the run was not at epoch {facts.epoch} at step {step}")
        return
    if facts.batches != step:
        return
    rows = [row for row in run.rows if (row.epoch, row.step) == (facts.epoch, step - 1)]
    later = next((row for row in run.rows if row.step >= step), None)
    for state in facts.monitors:
        value = score_at_step(state, facts)
        if value is None or state.monitor is None:
            continue
        yield from _value(state.monitor, value, rows)
        if later is None:
            continue
        if not any(state.monitor in name for name in run.metric_names):  # a logger may put a prefix or a suffix to it
            yield Finding(Bearing.UNLIKELY, f"the run never logged its {state.monitor}")
        elif not rows and state.monitor in run.metric_names:
            yield Finding(Bearing.CONTRADICTS, f"its {state.monitor} is {value:g}, the run logged nothing at its step")


def _is_between(rows: list[LoggedRow], epoch: int, step: int) -> bool:
    """Return whether the epoch is one that the nearest rows before and after the step allow."""
    before = max((row.step for row in rows if row.step < step), default=None)
    after = min((row.step for row in rows if row.step >= step), default=None)
    lowest = min((row.epoch for row in rows if row.step == before), default=epoch)
    highest = max((row.epoch for row in rows if row.step == after), default=epoch)
    return lowest <= epoch <= highest


def _value(monitor: str, value: float, rows: list[LoggedRow]) -> Iterator[Finding]:
    logged = {row.metrics[monitor] for row in rows if monitor in row.metrics}
    if any(_is_equal(value, each) for each in logged):
        # 0.0 and 1.0 are reached by many runs, and infinity stands for every NaN.
        if math.isfinite(value) and not value.is_integer():
            yield Finding(Bearing.PROVES)
    elif len(logged) == 1:
        yield Finding(Bearing.CONTRADICTS, f"its {monitor} is {value:g}, the run logged {logged.pop():g} at its step")


def _in_name(own: Own, run: Run) -> Iterator[Finding]:
    """Compare the numbers in the checkpoint's name, rounded as they are, with what was logged at its step."""
    facts = own.facts
    if facts.epoch is None or facts.global_step is None or facts.batches not in (None, facts.global_step):
        return
    logged: dict[str, set[float]] = {}
    for row in run.rows:
        if (row.epoch, row.step) == (facts.epoch, facts.global_step - 1):
            for name, number in row.metrics.items():
                logged.setdefault(name, set()).add(number)
    for name, value in parse_file_name(own.key, logged).metrics.items():
        unit = 10.0 ** -len(f"{value}".partition(".")[2])
        (*numbers,) = logged.get(name, ())
        if len(numbers) == 1 and abs(numbers[0] - value) > unit:
            yield Finding(Bearing.CONTRADICTS, f"its name says {name} {value:g}, the run logged {numbers[0]:g}")


def _is_equal(value: float, logged: float) -> bool:
    """Return whether two numbers are one measurement; Lightning keeps infinity where NaN was measured."""
    if math.isnan(logged):
        return not math.isfinite(value)
    return value == logged or math.isclose(value, logged, rel_tol=FLOAT32_DIGITS)
