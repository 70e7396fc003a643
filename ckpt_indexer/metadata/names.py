"""What a checkpoint's file name spells out: epoch, step and metrics, in the spellings that savers use.

| name | says |
|---|---|
| ``epoch=2-val/hmean=0.7188.ckpt`` (Lightning; the slash made a folder) | epoch 2, val/hmean 0.7188 |
| ``epoch-03_step-000103_hmean-0.8920.ckpt``, ``best-hmean-0.8920.ckpt`` | epoch 3, step 103, hmean 0.892 |
| ``epoch_epoch=01-step_step=0546-loss_val/loss=1.6217.ckpt`` (a literal before each field) | 1, 546, val/loss 1.6217 |
| ``mymodel_epoch=3_val_loss=0.30.ckpt`` | epoch 3, val_loss 0.3 |
| ``checkpoint_2_val_acc=0.7000.pt`` (ignite, MONAI) | val_acc 0.7; 2 is the epoch *or* the step |
| ``best_coco_bbox_mAP_iter_4000.pth`` (mmengine) | step 4000, selected by coco_bbox_mAP; no value |
| ``epoch_12.pth``, ``epoch12.pt``, ``epoch.12.pt``, ``iter_0000100``, ``global_step100``, ``step-10`` | as they say |
| the rows of ``_WRITERS`` | what one program means by the whole name |

``epoch`` and ``step`` count only at the name's beginning, after a number, and after words that are known to be no part
of them (``_rank``): ``ddim_steps_50`` counts something else, and so may any word before them.

A number is a metric's only if its name is *known* (the checkpoint or its run has a metric of that name), or if it is a
measure and no more (``is_plain_metric_name``: ``focal_loss=2.0`` is a weight) and the number is not whole. After ``-``
or ``_`` it must also have two decimals or more, in a name that says when it was saved, or what it was measured on:
names hold dates, versions and settings, too. A number without a name is no metric, and what could be two things is
neither.

What the checkpoint itself says is exact, and wins (``reconcile``). Pure: a path in, numbers out.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.formats.vocabulary import (
    COUNTED_WORDS,
    EPOCH_WORDS,
    EXTREME_WORDS,
    FILE_WORDS,
    MEASURED_ON,
    NAME_ENDINGS,
    NO_COUNT_WORDS,
    SETTING_WORDS,
    STEP_WORDS,
    is_metric_name,
    is_plain_metric_name,
    is_setting_name,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ckpt_indexer.formats.facts import Facts

DECIMALS_MIN = 2  # of a measured number; weights and thresholds in names are round
DECIMALS_ALONE_MIN = 4  # the same, in a name that has nothing else that only a saved checkpoint has

_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,14}(?:\.(?:tar|gz))?$")
_NUMBER = re.compile(r"=(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|-?inf|nan)(?=[-_ ]|$)")
_DASHED = re.compile(
    r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9/]*(?:_[A-Za-z][A-Za-z0-9/]*)*)[-_](\d+\.\d+|nan|inf)(?=[-_]|$)"
)
_COUNTERS = "|".join(sorted(EPOCH_WORDS | STEP_WORDS, key=len, reverse=True))
_COUNTER = re.compile(rf"(?<![A-Za-z0-9])({_COUNTERS})$", re.IGNORECASE)
_COUNTED = re.compile(rf"(?<![A-Za-z0-9])({_COUNTERS})[-_. ]?(\d{{1,15}})(?=[-_+ ]|$)", re.IGNORECASE)
_SAVED = re.compile(rf"(?<![A-Za-z0-9])(?:best|{_COUNTERS})(?![A-Za-z])", re.IGNORECASE)
_SELECTED = re.compile(r"best_(.+)_(?:epoch|iter)_\d+")  # mmengine/hooks/checkpoint_hook.py
_UNFINISHED = re.compile(r"=-?(?:[\d.]+(?:e-?\d+)?|inf|nan)-[A-Za-z_][\w ]*$")
_HAS_COUNTER = re.compile(r"(?:^|[-_])(?:epoch|step)=\d+[-_]")
_WRITERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"ep(?P<epoch>\d{1,9})-ba(?P<step>\d{1,15})(?:-rank\d+)?",  # Composer
        r"checkpoint(?P<epoch>\d{1,4})",  # fairseq, DETR, DINO
        r"checkpoint_(?P<epoch>\d{1,4})_(?P<step>[1-9]\d{0,14})",  # fairseq
        r"model_(?P<step>\d{7})",  # detectron2
        r"(?:rl_model|checkpoint|ckpt)_(?P<step>\d{1,15})_steps",  # stable-baselines
        r"ep(?P<epoch>\d{3})-loss\d+\.\d+-val_loss\d+\.\d+",  # Keras' YOLO and what was made of it
        r"(?:ckpt|weights|model|checkpoint)\.(?P<epoch>\d{2,4})-\d+\.\d+",  # Keras' example; of what the number is?
    )
)
_FOLDER = re.compile(r"(?:checkpoint-|global_step|iter_(?=\d{7}$))(\d{1,15})")  # Transformers, DeepSpeed, Megatron
_FOLDERS_MAX = 2  # that are looked at above a file: Megatron writes iter_0000100/mp_rank_00/


class NameFacts(NamedTuple):
    """The numbers in a checkpoint's name."""

    epoch: int | None
    step: int | None
    metrics: dict[str, float]
    lone: int | None = None  # the epoch or the step: the name does not say which
    monitor: str | None = None  # what it was selected by, where the name has no number for it
    units: dict[str, float] | None = None  # of each metric's last decimal


class _Field(NamedTuple):
    """A number that is written after ``=``."""

    key: str
    number: str
    lone: int | None  # a number without a name that stands before the key
    before: str  # the whole name up to the number, with the key


class _Count(NamedTuple):
    """A number after a word for epochs or steps."""

    is_epoch: bool
    number: int
    rank: tuple[int, bool]  # of how sure it is (``_rank``), and whether it is written after ``=``


def parse_name(path: str, known: Collection[str] = ()) -> NameFacts:
    """Read the numbers in a checkpoint's name, its folders included where they belong to it.

    *known* are names of metrics, whatever they look like, that the checkpoint or its run has.

    >>> parse_name("run/checkpoints/epoch=2-val/hmean=0.7188.ckpt")[:3]
    (2, None, {'val/hmean': 0.7188})
    >>> parse_name("epoch-03_step-000103_hmean-0.8920.ckpt")[:3]
    (3, 103, {'hmean': 0.892})
    >>> parse_name("checkpoint_2_val_acc=0.7000.pt")[:4]
    (None, None, {'val_acc': 0.7}, 2)
    >>> parse_name("fold=3-NDS=0.5.pt")[2], parse_name("fold=3-NDS=0.5.pt", {"NDS"})[2]
    ({}, {'NDS': 0.5})
    >>> parse_name("lr=0.1/checkpoints/last_20251011_004442.ckpt")[:3]
    (None, None, {})
    """
    name = own_name(path)
    fields, rest = _assigned(name, known)
    measured = {field.key: field for field in fields if _is_metric(field, known)}
    numbers = {key: field.number for key, field in measured.items()}
    for metric, number in _dashed(rest, known):
        numbers.setdefault(metric, number)
    monitor = _selected_by(name, known)
    counts = [*_assigned_counts(each for each in fields if each.key not in numbers)]
    counts += _loose_counts(rest, is_selected=monitor is not None)
    epoch, step = _written_whole(path, name, rest, counts)
    return NameFacts(
        epoch,
        step,
        {metric: float(number) for metric, number in numbers.items()},
        next((field.lone for field in measured.values() if field.lone is not None), None),
        monitor,
        {metric: _unit(number) for metric, number in numbers.items()},
    )


def reconcile(named: NameFacts, facts: Facts, own: Mapping[str, float]) -> tuple[NameFacts, list[str]]:
    """Compare the numbers in a name with what the checkpoint says; return what is left of them, and warnings.

    *own* are the metrics that it carries, and those that its run has of it. A rounded one in the name is replaced by
    the exact one, under the name that it has there; one that contradicts it is dropped. Of a name with another epoch or
    step, nothing is left: the file was renamed or overwritten.
    """
    if _is_other_save(named, facts):
        said, true = _counts_text(named.epoch, named.step), _counts_text(facts.epoch, facts.global_step)
        return NameFacts(None, None, {}), [f"no number of its name was used: it says {said}, the checkpoint {true}"]
    metrics: dict[str, float] = {}
    warnings = []
    for name, value in named.metrics.items():
        same = [name] if name in own else [each for each in own if _is_same_metric(name, each)]
        exact = [each for each in same if _is_rounded(own[each], value, (named.units or {}).get(name, 0.0))]
        if exact or not same:
            metrics |= {each: own[each] for each in exact[:1]} or {name: value}
        else:
            warnings.append(
                f"{name} {value:g} of its name was not used: the checkpoint or its run has {own[same[0]]:g}"
            )
    return named._replace(metrics=metrics), warnings


def _is_other_save(named: NameFacts, facts: Facts) -> bool:
    """Return whether a name has another step than the checkpoint, or another epoch where one of them has no step.

    Some count from 0 in one place and from 1 in the other, and some count batches in the name.
    """
    if named.step is not None and facts.global_step is not None:
        return all(abs(named.step - each) > 1 for each in (facts.global_step, facts.batches) if each is not None)
    return named.epoch is not None and facts.epoch is not None and abs(named.epoch - facts.epoch) > 1


def _counts_text(epoch: int | None, step: int | None) -> str:
    return ", ".join(f"{name} {n}" for name, n in (("epoch", epoch), ("step", step)) if n is not None)


def _is_same_metric(written: str, name: str) -> bool:
    """Return whether a file's name may write *written* for a metric: ``hmean`` or ``val_hmean`` for ``val/hmean``."""
    return written in (last_part(name), name.replace("/", "_"))


def _is_rounded(exact: float, written: float, unit: float) -> bool:
    """Return whether a number in a name is the exact one, rounded or cut off; Lightning keeps infinity for NaN."""
    if math.isnan(written):
        return not math.isfinite(exact)
    above, slack = (exact - written) * math.copysign(1, written), unit * 1e-6  # decimals are not exact in binary
    return exact == written or -unit / 2 - slack <= above < unit


def _unit(number: str) -> float:
    """Return the size of a number's last decimal.

    >>> _unit("0.7000"), _unit("12"), _unit("1.5e+02"), _unit("nan")
    (0.0001, 1.0, 10.0, 0.0)
    """
    digits, _, exponent = number.partition("e")
    if not digits[-1:].isdigit():
        return 0.0
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def last_part(metric: str) -> str:
    """Return a metric's name without what it was measured on, as names of files have it.

    >>> last_part("val/hmean"), last_part("hmean")
    ('hmean', 'hmean')
    """
    return metric.rpartition("/")[2]


def lone_numbers(path: str) -> set[int]:
    """Return the whole numbers that stand alone in a checkpoint's name, whatever they count.

    >>> sorted(lone_numbers("a/9/03-000016.ckpt")), lone_numbers("v2_lr0.5.ckpt")
    ([3, 16], set())
    """
    return {int(each) for each in re.findall(r"(?<![\w.=])\d{1,15}(?![\w.])", own_name(path).replace("_", " "))}


def own_name(path: str) -> str:
    """Return the part of *path* that is the file's name, without its suffix.

    A metric's slash makes a folder: "epoch=2-val" / "hmean=0.71". Only such folders are part of the name: each ends in
    an unfinished metric's name after a number, and the uppermost has a counter.
    """
    folder, _, name = path.rpartition("/")
    name = _SUFFIX.sub("", name)
    between = ""
    while _UNFINISHED.search(last := folder.rpartition("/")[2]):
        folder, between = folder.rpartition("/")[0], f"{last}/{between}"
        if _HAS_COUNTER.search(last):
            name, between = between + name, ""
    return name


def _assigned(name: str, known: Collection[str]) -> tuple[list[_Field], str]:
    """Return the fields written ``key=number``, and the name with ``=`` in their place."""
    found: list[_Field] = []
    rest, end = "", 0
    for match in _NUMBER.finditer(name):
        between = name[end : match.start()]  # it ends in the number's name
        key, lone = _split_key(between, known)
        found.append(_Field(key, match[1], lone, name[: match.start()]))
        written = between.rpartition("-")[2]
        rest += between.removesuffix(written) + "=" * (len(written) + len(match[0]))
        end = match.end()
    return found, rest + name[end:]


def _is_metric(field: _Field, known: Collection[str]) -> bool:
    """Return whether a field is a metric: known, or a measure and no more, and not a whole number."""
    if _is_known(field.key, known):
        return True
    is_whole = field.number.lstrip("-").isdigit()
    before = field.before.rstrip().removesuffix(field.key)
    return not is_whole and is_plain_metric_name(field.key) and not _ends_in_setting(before)


def _ends_in_setting(before: str) -> bool:
    """Return whether the word before a metric's name, and before a ``-``, makes it a setting: ``lambda-loss``."""
    found = re.search(r"(?:^|[-_])([A-Za-z]+)-$", before)
    word = "" if found is None else found[1].lower()
    return len(word) == 1 or word in (SETTING_WORDS | EXTREME_WORDS) - COUNTED_WORDS


def _is_known(key: str, known: Collection[str]) -> bool:
    """Return whether a metric has this name; a run's log has settings, too."""
    return key in known and not is_setting_name(key)


def _split_key(between: str, known: Collection[str]) -> tuple[str, int | None]:
    """Return the name that a text ends in, and the number without a name that stands before it."""
    endings = (name for name in known if _ends_in(between, name) and len(words_of(name)) > 1)
    if spelled := max(endings, key=len, default=""):
        return spelled, _lone_number(between.removesuffix(spelled).rstrip("_"))
    parts = between.rpartition("-")[2].rpartition("=")[2].rstrip().split("_")
    # "checkpoint_2_val_acc": what follows the last number; but "top_5_acc" and "acc_5" are whole.
    numbers = [i for i, part in enumerate(parts[:-1]) if part.isdigit() and parts[i - 1 : i] != ["top"]]
    at = max(numbers, default=-1) if not parts[-1].isdigit() else -1
    key = "_".join(parts[at + 1 :]).lstrip("_ ./0123456789")
    key = _without_literal(key)
    return key if key in known else _without_file_words(key), _lone_number("_".join(parts[: at + 1]))


def _ends_in(text: str, name: str) -> bool:
    """Return whether *text* ends in the whole *name*; a run has thousands of them, too many to compile."""
    return text.endswith(name) and text[: -len(name)][-1:] in ("", "-", "_")


def _lone_number(text: str) -> int | None:
    """Return the number that *text* ends in, where the word before it is one that files are called."""
    found = re.search(r"(?:^|[-_])([A-Za-z]+)_(\d{1,15})$", text)
    return int(found[2]) if found is not None and found[1].lower() in FILE_WORDS else None


def _without_literal(key: str) -> str:
    """Return the name without the literal that a template puts before it: ``loss_val/loss``, ``epoch_epoch``."""
    for at in (match.start() for match in re.finditer("_", key)):
        literal, field = key[:at], key[at + 1 :]
        if field and last_part(field) == literal.rpartition("_")[2]:
            return field
    return key


def _without_file_words(key: str) -> str:
    """Return a metric's name without the words that the file is called by: ``best_hmean`` is hmean.

    What the last checkpoint knows of the best one is neither's: ``last_best_acc``.
    """
    words = key.split("_")
    dropped = set()
    while len(words) > 1 and words[0].lower() in FILE_WORDS:
        dropped.add(words.pop(0).lower())
    return "" if {"best", "last"} <= dropped else "_".join(words)


def _dashed(rest: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the metrics that are written without ``=``, with their numbers."""
    spelled = {part for name in known if (part := last_part(name)) in rest and _is_known(name, known)}
    is_saved = _SAVED.search(rest) is not None
    for match in _DASHED.finditer(rest):
        key = _without_file_words(match[1])
        is_plain = is_plain_metric_name(key) and not _ends_in_setting(rest[: match.start()])
        is_told = is_saved or not MEASURED_ON.isdisjoint(words_of(key))
        decimals = len(match[2].partition(".")[2])
        least = DECIMALS_MIN if is_told or key in spelled else DECIMALS_ALONE_MIN
        if (decimals >= least or not decimals) and (key in spelled or is_plain):
            yield key, match[2]


def _assigned_counts(fields: Iterator[_Field]) -> Iterator[_Count]:
    for field in fields:
        found = _COUNTER.search(field.before)
        if found is not None and field.number.isdigit():
            rank = _rank(field.before[: found.start()], found[1].lower(), field.number, is_assigned=True)
            yield _Count(found[1].lower() in EPOCH_WORDS, int(field.number), (rank, True))


def _loose_counts(rest: str, *, is_selected: bool) -> Iterator[_Count]:
    """Yield the counts that are written without ``=``; in a best checkpoint's name they follow a metric's."""
    for found in _COUNTED.finditer(rest):
        word, number = found[1].lower(), found[2]
        rank = 1 if is_selected else _rank(rest[: found.start()], word, number, is_assigned=False)
        yield _Count(word in EPOCH_WORDS, int(number), (rank, False))


def _rank(before: str, counter: str, number: str, *, is_assigned: bool) -> int:
    """Return 2 if a counter's number can only be the training's, 1 if it is after the words before it, 0 if not.

    >>> [_rank(before, "epoch", "3", is_assigned=True) for before in ("", "lr=0.1-", "mymodel_", "exp-", "drop_", "x_")]
    [2, 2, 1, 1, 0, 0]
    """
    *words, last = re.split(r"[-_+ ./]+", before.rstrip("-_+ ./").lower())
    is_how_many = counter.endswith("s")  # more often so than how many were done
    if last in ("", "nan", "inf") or last.endswith("=") or last.isdigit() or (last == counter and is_assigned):
        return 2
    if last[-1].isdigit() and not is_how_many:
        return 2
    if is_how_many and last in ("train", "training"):
        return 0
    while words and last in COUNTED_WORDS and words[-1] in COUNTED_WORDS | NO_COUNT_WORDS:
        last = words.pop()
    if last.rpartition("=")[2] in NO_COUNT_WORDS:
        return 0
    if last in COUNTED_WORDS or "=" in last:
        return 1
    is_lightning = is_assigned and before.endswith("-") and counter in EPOCH_WORDS  # "sample-mnist-epoch=3"
    is_name = last.endswith(NAME_ENDINGS) or is_lightning
    is_padded = len(number) > 1 and number.startswith("0")  # only what grows is
    return int((is_name or is_padded) and not is_how_many and len(last) > 1)


def _written_whole(path: str, name: str, rest: str, counts: list[_Count]) -> tuple[int | None, int | None]:
    """Return the epoch and the step: what one writer means by the whole name, else the surest, else the folder's."""
    for writer in _WRITERS:
        if found := writer.fullmatch(name):
            epoch, step = (int(n) if (n := found.groupdict().get(key)) else None for key in ("epoch", "step"))
            return (epoch, step) if epoch is None or step is None or step >= epoch else (None, None)
    epoch, step = _surest(counts, is_epoch=True), _surest(counts, is_epoch=False)
    if "=" not in rest and not counts:
        *above, own = path.split("/")
        folders = (_FOLDER.fullmatch(place) for place in (own, *above[: -_FOLDERS_MAX - 1 : -1]))
        step = next((int(found[1]) for found in folders if found), None)
    return epoch, step


def _surest(counts: list[_Count], *, is_epoch: bool) -> int | None:
    """Return the count that is surer than all others of its kind."""
    own = [each for each in counts if each.is_epoch is is_epoch and each.rank[0]]
    return _only({each.number for each in own if each.rank == max(each.rank for each in own)})


def _only(numbers: set[int]) -> int | None:
    """Return the number if there is one only: of two, neither is certain."""
    return next(iter(numbers)) if len(numbers) == 1 else None


def _selected_by(name: str, known: Collection[str]) -> str | None:
    """Return the metric that mmengine's name of a best checkpoint has; a slash in a metric's name is written ``_``."""
    found = _SELECTED.fullmatch(name)
    if found is None:
        return None
    spelled = next((each for each in known if each.replace("/", "_") == found[1]), None)
    *before, measure = words_of(found[1]) or ("",)
    is_metric = is_metric_name(found[1]) and is_plain_metric_name(measure) and SETTING_WORDS.isdisjoint(before[:1])
    return spelled or (found[1] if is_metric else None)
