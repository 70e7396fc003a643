"""What a checkpoint's file name spells out: epoch, step and metrics, in the spellings that savers use.

| name | says |
|---|---|
| ``epoch=2-val/hmean=0.7188.ckpt`` (Lightning; the slash made a folder) | epoch 2, val/hmean 0.7188 |
| ``epoch-03_step-000103_hmean-0.8920.ckpt``, ``best-hmean-0.8920.ckpt`` | epoch 3, step 103, hmean 0.892 |
| ``epoch_epoch=01-step_step=0546-loss_val/loss=1.6217.ckpt`` (a literal before each field) | 1, 546, val/loss 1.6217 |
| ``mymodel_epoch=3_val_loss=0.30.ckpt`` | epoch 3, val_loss 0.3 |
| ``checkpoint_2_val_acc=0.7000.pt`` (ignite, MONAI) | val_acc 0.7; 2 is the epoch *or* the step |
| ``best_coco_bbox_mAP_iter_4000.pth`` (mmengine) | step 4000, selected by coco_bbox_mAP; no value |
| ``epoch_12.pth``, ``epoch12.pt``, ``iter_0000100``, ``global_step100``, ``step-10`` | as they say |
| the rows of ``_WRITERS`` | what one program means by the whole name |

A number is a metric's only if its name is one (``formats.vocabulary``) or is *known*: the checkpoint or its run has a
metric of that name. After ``-`` or ``_`` it must also have two decimals or more, and a name that says nothing else
(``focal_loss-2.0`` is a weight): names hold dates, versions and settings, too. A number without a name is no metric,
and what could be two things is neither. Pure: a path in, numbers out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.formats.vocabulary import (
    EPOCH_WORDS,
    FILE_WORDS,
    NO_COUNT_WORDS,
    STEP_WORDS,
    is_metric_name,
    is_plain_metric_name,
    is_setting_name,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

DECIMALS_MIN = 2  # of a measured number; weights and thresholds in names are round

_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,14}(?:\.(?:tar|gz))?$")
_NUMBER = re.compile(r"=(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|-?inf|nan)(?=[-_ ]|$)")
_DASHED = re.compile(
    r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9/]*(?:_[A-Za-z][A-Za-z0-9/]*)*)[-_](\d+\.\d+|nan|inf)(?=[-_]|$)"
)
_COUNTED = re.compile(
    r"(?<![A-Za-z0-9])(?:([a-z]+)[-_])?(epoch|steps?|iterations?|iters?)[-_]?(\d{1,15})(?=[-_+ ]|$)", re.IGNORECASE
)
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


class _Field(NamedTuple):
    """A number that is written after ``=``."""

    key: str
    number: str
    lone: int | None  # a number without a name that stands before the key


def parse_name(path: str, known: Collection[str] = ()) -> NameFacts:
    """Read the numbers in a checkpoint's name, its folders included where they belong to it.

    *known* are names of metrics, whatever they look like, that the checkpoint or its run has.

    >>> parse_name("run/checkpoints/epoch=2-val/hmean=0.7188.ckpt")[:3]
    (2, None, {'val/hmean': 0.7188})
    >>> parse_name("epoch-03_step-000103_hmean-0.8920.ckpt")[:3]
    (3, 103, {'hmean': 0.892})
    >>> parse_name("checkpoint_2_val_acc=0.7000.pt")
    NameFacts(epoch=None, step=None, metrics={'val_acc': 0.7}, lone=2, monitor=None)
    >>> parse_name("fold=3-NDS=0.5.pt")[2], parse_name("fold=3-NDS=0.5.pt", {"NDS"})[2]
    ({}, {'NDS': 0.5})
    >>> parse_name("lr=0.1/checkpoints/last_20251011_004442.ckpt")[:3]
    (None, None, {})
    """
    name = own_name(path)
    fields, rest = _assigned(name, known)
    metrics: dict[str, float] = {}
    lone = None
    for field in fields:
        if _is_known(field.key, known) or is_metric_name(field.key):
            metrics[field.key] = float(field.number)
            lone = field.lone if lone is None else lone
    for metric, value in _dashed(rest, known):
        metrics.setdefault(metric, value)
    epoch, step = _loose_counts(path, name, rest)
    fields = [field for field in fields if field.key not in metrics]
    epochs = {int(field.number) for field in fields if _counts(field, EPOCH_WORDS)}
    steps = {int(field.number) for field in fields if _counts(field, STEP_WORDS)}
    return NameFacts(
        _only(epochs) if epochs else epoch, _only(steps) if steps else step, metrics, lone, _selected_by(name, known)
    )


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
        found.append(_Field(key, match[1], lone))
        written = between.rpartition("-")[2]
        rest += between.removesuffix(written) + "=" * (len(written) + len(match[0]))
        end = match.end()
    return found, rest + name[end:]


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


def _counts(field: _Field, counters: Collection[str]) -> bool:
    """Return whether the field is one of *counters*, and not how many there are to be: ``max_steps``."""
    *before, word = last_part(field.key).lower().split("_")
    return word in counters and not NO_COUNT_WORDS.intersection(before[-1:]) and field.number.isdigit()


def _dashed(rest: str, known: Collection[str]) -> Iterator[tuple[str, float]]:
    for match in _DASHED.finditer(rest):
        key = _without_file_words(match[1])
        decimals = len(match[2].partition(".")[2])
        if (decimals >= DECIMALS_MIN or not decimals) and (
            is_plain_metric_name(key) or any(last_part(each) == key and _is_known(each, known) for each in known)
        ):
            yield key, float(match[2])


def _loose_counts(path: str, name: str, rest: str) -> tuple[int | None, int | None]:
    """Return the epoch and the step that are written without ``=``."""
    for writer in _WRITERS:
        if found := writer.fullmatch(name):
            epoch, step = (int(n) if (n := found.groupdict().get(key)) else None for key in ("epoch", "step"))
            return (epoch, step) if epoch is None or step is None or step >= epoch else (None, None)
    counts: dict[bool, set[int]] = {True: set(), False: set()}
    for before, word, number in _COUNTED.findall(rest):
        if before.lower() not in NO_COUNT_WORDS:
            counts[word.lower() in EPOCH_WORDS].add(int(number))
    epoch, step = _only(counts[True]), _only(counts[False])
    if "=" not in rest and counts == {True: set(), False: set()}:
        *above, own = path.split("/")
        folders = (_FOLDER.fullmatch(place) for place in (own, *above[: -_FOLDERS_MAX - 1 : -1]))
        step = next((int(found[1]) for found in folders if found), None)
    return epoch, step


def _only(numbers: set[int]) -> int | None:
    """Return the number if there is one only: of two, neither is certain."""
    return next(iter(numbers)) if len(numbers) == 1 else None


def _selected_by(name: str, known: Collection[str]) -> str | None:
    """Return the metric that mmengine's name of a best checkpoint has; a slash in a metric's name is written ``_``."""
    found = _SELECTED.fullmatch(name)
    if found is None:
        return None
    spelled = next((each for each in known if each.replace("/", "_") == found[1]), None)
    return spelled or (found[1] if is_metric_name(found[1]) else None)
