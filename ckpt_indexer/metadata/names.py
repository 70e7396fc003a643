"""What a checkpoint's file name spells out: epoch, step and metrics, in the spellings that savers use.

| name | says |
|---|---|
| ``epoch=2-val/hmean=0.7188.ckpt`` (Lightning; the slash made a folder) | epoch 2, val/hmean 0.7188 |
| ``epoch-03_step-000103_hmean-0.8920.ckpt``, ``best-hmean-0.8920.ckpt`` | epoch 3, step 103, hmean 0.892 |
| ``epoch_epoch=01-step_step=0546-loss_val/loss=1.6217.ckpt`` (a literal before each field) | 1, 546, val/loss 1.6217 |
| ``resnet18_bs12_epoch_epoch=0_step_step=13.ckpt`` | epoch 0, step 13 |

A number after ``-`` or ``_`` is a metric's only if its name is a metric's (``focal_loss-2.0`` is a weight) and it has
two decimals or more: names hold dates, versions and settings, too. Settings (``lr=0.1``, ``fold=3``) are no metrics.
Pure: a path in, numbers out.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

_NUMBER = re.compile(r"=(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|-?inf|nan)(?=[-_ ]|$)")
_DASHED = re.compile(r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9/]*(?:_[A-Za-z][A-Za-z0-9/]*)*)[-_](\d+(?:\.\d+)?)(?=[-_]|$)")
_UNFINISHED = re.compile(r"=-?(?:[\d.]+(?:e-?\d+)?|inf|nan)-[A-Za-z_][\w ]*$")
_COUNTED = re.compile(r"(?:^|[-_])(?:epoch|step)=\d+[-_]")
_EPOCH = frozenset({"epoch"})
_STEP = frozenset({"step", "steps"})
# Last words of names that count or set something, and measure nothing.
_SETTINGS = frozenset(
    [
        "epoch",
        "epochs",
        "step",
        "steps",
        "iteration",
        "iterations",
        "iter",
        "iters",
        "batch",
        "batches",
        "fold",
        "seed",
        "lr",
        "bs",
        "wd",
        "momentum",
        "dropout",
        "rank",
        "run",
        "trial",
        "version",
        "v",
        "n",
        "k",
        "size",
        "workers",
        "gpus",
        "gpu",
        "nodes",
        "layers",
        "width",
        "depth",
    ]
)
METRIC_WORDS = frozenset(
    [
        "loss",
        "acc",
        "accuracy",
        "hmean",
        "precision",
        "recall",
        "f1",
        "f2",
        "fscore",
        "score",
        "auc",
        "auroc",
        "ap",
        "map",
        "miou",
        "iou",
        "dice",
        "jaccard",
        "mae",
        "mse",
        "rmse",
        "mape",
        "r2",
        "psnr",
        "ssim",
        "lpips",
        "fid",
        "bleu",
        "rouge",
        "meteor",
        "cer",
        "wer",
        "ned",
        "perplexity",
        "ppl",
        "top1",
        "top5",
        "em",
        "kappa",
        "mcc",
        "pck",
        "nll",
        "elbo",
        "reward",
    ]
)


_MEASURED_ON = frozenset({"val", "valid", "validation", "test", "train", "eval"})
# What stands before a metric in a name and is no part of the metric's.
_RANKS = frozenset({"best", "last", "top", "epoch", "step", "model", "checkpoint", "ckpt"})
DECIMALS_MIN = 2  # of a measured number; weights and thresholds in names are round


class NameFacts(NamedTuple):
    """The numbers in a checkpoint's name."""

    epoch: int | None
    step: int | None
    metrics: dict[str, float]


def parse_name(path: str) -> NameFacts:
    """Read the numbers in a checkpoint's name, its folders included where they belong to it.

    >>> parse_name("run/checkpoints/epoch=2-val/hmean=0.7188.ckpt")
    NameFacts(epoch=2, step=None, metrics={'val/hmean': 0.7188})
    >>> parse_name("epoch-03_step-000103_hmean-0.8920.ckpt")
    NameFacts(epoch=3, step=103, metrics={'hmean': 0.892})
    >>> parse_name("lr=0.1/checkpoints/last_20251011_004442.ckpt")
    NameFacts(epoch=None, step=None, metrics={})
    """
    name = _own_name(path)
    epoch = step = None
    metrics: dict[str, float] = {}
    rest = name
    end = 0
    for match in _NUMBER.finditer(name):
        # What stands between two numbers ends in the second one's name, after the last "-".
        written = name[end : match.start()].rpartition("-")[2].rpartition("=")[2]
        key, value = _without_literal(written.lstrip("_ ./0123456789").rstrip()), float(match[1])
        end = match.end()
        word = _last_word(key)
        if word in _EPOCH and match[1].isdigit():
            epoch = int(value)
        elif word in _STEP and match[1].isdigit():
            step = int(value)
        elif key and word not in _SETTINGS:
            metrics[key] = value
        rest = rest.replace(written + match[0], "=" * len(written + match[0]), 1)
    for match in _DASHED.finditer(rest):
        word = _last_word(match[1])
        if word in _EPOCH and epoch is None and match[2].isdigit():
            epoch = int(match[2])
        elif word in _STEP and step is None and match[2].isdigit():
            step = int(match[2])
        elif (metric := _metric_of(match[1])) and len(match[2].partition(".")[2]) >= DECIMALS_MIN:
            metrics.setdefault(metric, float(match[2]))
    return NameFacts(epoch, step, metrics)


def last_part(metric: str) -> str:
    """Return a metric's name without what it was measured on, as names of files have it.

    >>> last_part("val/hmean"), last_part("hmean")
    ('hmean', 'hmean')
    """
    return metric.rpartition("/")[2]


def _own_name(path: str) -> str:
    """Return the part of *path* that is the file's name, without its suffix.

    A metric's slash makes a folder: "epoch=2-val" / "hmean=0.71". Only such folders are part of the name: each ends in
    an unfinished metric's name after a number, and the uppermost has a counter.
    """
    folder, _, name = posixpath.splitext(path)[0].rpartition("/")
    between = ""
    while _UNFINISHED.search(last := folder.rpartition("/")[2]):
        folder, between = folder.rpartition("/")[0], f"{last}/{between}"
        if _COUNTED.search(last):
            name, between = between + name, ""
    return name


def _without_literal(key: str) -> str:
    """Return the name without the literal that a template puts before it: ``loss_val/loss``, ``epoch_epoch``."""
    for at in (match.start() for match in re.finditer("_", key)):
        literal, field = key[:at], key[at + 1 :]
        if field and last_part(field) == literal.rpartition("_")[2]:
            return field
    return key


def _last_word(key: str) -> str:
    return last_part(key).rpartition("_")[2].lower()


def _metric_of(name: str) -> str | None:
    """Return the metric that a name which runs together means: ``best_hmean`` is hmean, ``focal_loss`` none."""
    words = name.split("_")
    while len(words) > 1 and words[0].lower() in _RANKS:
        del words[0]
    *before, last = words
    is_metric = last_part(last).lower() in METRIC_WORDS and all(word.lower() in _MEASURED_ON for word in before)
    return "_".join(words) if is_metric else None
