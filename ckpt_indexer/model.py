"""The records that cross module borders: an entry of the index and the words it is made of.

Owns the names and types of the index's specification; knows neither how an entry is made nor how it is stored. Plain
``msgspec`` structs, so that a reader of the index pays for nothing else; the garbage collector is not told of them
(``gc=False``): none can be part of a cycle, and looking through 100,000 takes as long as decoding them. A field that is
not known is ``None``.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Literal, NamedTuple

import msgspec

from ckpt_indexer.paths import Key
from ckpt_indexer.printable import one_line

Status = Literal["ok", "incomplete", "corrupt", "unsupported", "unreadable"]
Format = Literal[
    "torch-zip", "torch-legacy", "torchscript", "safetensors", "pickle", "sharded-dcp", "sharded-deepspeed", "unknown"
]
Role = Literal[
    "model", "training-state", "other"
]  # what a checkpoint holds: weights, what training needs besides, else
Mode = Literal["min", "max"]
Level = Literal["quick", "deep", "load"]  # how thorough a check was: the header, every byte, and torch's own loading
Number = float | int | Literal["NaN", "Infinity", "-Infinity"]  # the three strings: JSON has no such numbers
Fingerprint = tuple[int, int, int]  # (size in bytes, mtime in ns, inode): cheap "is it the same file content?"

# What can be wrong with a checkpoint: code -> the status it means. A test holds the manual to it.
PROBLEMS: dict[str, Status] = {
    "empty": "incomplete",
    "truncated": "incomplete",
    "zero-filled": "incomplete",
    "unsettled": "incomplete",
    "container-damaged": "corrupt",
    "checksum-mismatch": "corrupt",
    "pickle-damaged": "corrupt",
    "record-missing": "corrupt",
    "record-short": "corrupt",
    "load-failed": "corrupt",
    "format-unsupported": "unsupported",
    "not-a-checkpoint": "unsupported",
    "permission-denied": "unreadable",
    "io-error": "unreadable",
    "not-a-file": "unreadable",
    "link-dangling": "unreadable",
    "link-loop": "unreadable",
    "link-outside": "unreadable",
    "memory-limit": "unreadable",
    "time-limit": "unreadable",
    "limit-exceeded": "unreadable",
    "reader-crashed": "unreadable",
    # of the sidecar, never of the checkpoint itself (Entry.metadata_problem)
    "sidecar-invalid": "ok",
    "sidecar-unwritable": "ok",
}
RULES = 3  # version of how facts are found and written; what was made by older ones is read again once
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, written as such
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999, in µs since 1970
MESSAGE_MAX = 300  # characters; a message may quote the file, and files may hold anything


class Problem(msgspec.Struct, frozen=True, gc=False):
    """Why a checkpoint (or its sidecar) cannot be used, kept in its entry."""

    code: str  # a key of PROBLEMS
    message: str  # one bounded printable line, for people

    @classmethod
    def of(cls, code: str, message: object = "") -> Problem:
        r"""Make a problem whose message is one bounded, printable line.

        >>> Problem.of("empty", "a\x1b[31m\nb").message
        'a?[31m b'
        """
        line = one_line(str(message)[: 4 * MESSAGE_MAX])
        return cls(code, line if len(line) <= MESSAGE_MAX else line[: MESSAGE_MAX - 1] + "…")

    @property
    def status(self) -> Status:
        return PROBLEMS[self.code]


class Monitor(msgspec.Struct, gc=False):
    """The metric a checkpoint was selected by."""

    name: str
    mode: Mode | None = None
    value: Number | None = None  # the score of this very checkpoint; never another one's


class RunBest(msgspec.Struct, frozen=True, gc=False):
    """The best of the run so far, as known when the checkpoint was saved; it says nothing of the checkpoint itself."""

    name: str | None = None  # of the metric
    value: Number | None = None
    mode: Mode | None = None
    path: str | None = None  # of the best checkpoint, on the training machine


class Twin(msgspec.Struct, frozen=True, gc=False):
    """The checkpoint whose score another one has, because the two are the same save."""

    path: Key
    is_selected: bool = False  # the checkpoint itself says that it was selected by that metric


class TwinScore(NamedTuple):
    """A score, and the key of the checkpoint whose own it is."""

    monitor: Monitor
    path: Key


class OtherSidecar(msgspec.Struct, frozen=True, gc=False):
    """A sidecar under the name that other programs give it: ``best.metadata.yaml`` beside ``best.ckpt``."""

    path: Key
    fingerprint: Fingerprint
    is_shared: bool = False  # several checkpoints beside it could be the one it is about


# A pass builds one stamp for each checkpoint: were the garbage collector told of them, it would go through all of them
# several times in each pass, a third of its time.
class Unused(msgspec.Struct, frozen=True, gc=False):
    """What was found near a checkpoint and is not its own: read again when it changes, and no fact about it."""

    config: Key | None = None  # of a configuration
    run: Key | None = None  # of a Weights & Biases run's folder


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Everything that an entry depends on and that a ``stat`` can tell: equal stamps, equal entry."""

    fingerprint: Fingerprint  # of the file, of a link's target, or of a folder's files together
    link_target: str | None = None  # as in the entry
    sidecar: Fingerprint | None = None
    config: tuple[Key, Fingerprint] | None = None  # key and fingerprint of the configuration, used or not
    run: tuple[Key, Fingerprint] | None = None  # of the Weights & Biases run's (oldest) folder
    other: OtherSidecar | None = None  # a sidecar under another program's name


class Health(msgspec.Struct, kw_only=True, gc=False):
    """What the most thorough check of a checkpoint found; it belongs to the entry's fingerprint."""

    level: Level
    checked_at: str  # ISO 8601, UTC
    status: Status
    problem: Problem | None = None
    nan: int = 0  # elements of the weights; of a deep check
    inf: int = 0
    uncounted: int = 0  # tensors of the weights in which these two could not be counted
    digest: str | None = None  # of the bytes, where the file has no checksums that cover them all
    good_at: str | None = None  # when a deep check last found it good


class Entry(msgspec.Struct, kw_only=True, gc=False):
    """One checkpoint's record in the index, under its key."""

    path: Key  # POSIX path relative to the root
    experiment: str
    name: str
    size_bytes: int
    mtime: str | None  # ISO 8601, UTC, microseconds; None where it is no time that can be written so
    fingerprint: Fingerprint
    format: Format = "unknown"
    role: Role | None = None
    status: Status = "ok"
    problem: Problem | None = None
    link_target: str | None = None  # of a symlink: the target's key, or the link's text where that is not in the root
    exp_name: str | None = None  # the run's own name, as in the sidecar
    epoch: int | None = None
    global_step: int | None = None
    metrics: dict[str, Number] = {}
    monitor: Monitor | None = None
    twin: Twin | None = None  # where the monitor's value is another checkpoint's, which is the same save
    run_best: RunBest | None = None
    architecture: str | None = None
    encoder: str | None = None
    parameters: int | None = None  # elements of the weights, shared storage counted once; None: not all are understood
    dtypes: dict[str, int] = {}  # torch's name of a dtype -> parameters
    weights_bytes: int | None = None  # in memory
    optimizer_bytes: int | None = None  # of the tensors in the optimizers' states
    lightning_version: str | None = None
    metadata_file: Key | None = None  # the sidecar's path relative to the root
    metadata_source: Literal["sidecar", "embedded", "checkpoint", "config", "wandb"] | None = None
    metadata_problem: Problem | None = None
    metadata_fingerprint: Fingerprint | None = None  # of the sidecar
    other_sidecar: OtherSidecar | None = None  # another program's, under its name
    config_path: Key | None = None  # relative to the root
    config_fingerprint: Fingerprint | None = None  # of that configuration, or of the one in ``unused``
    wandb_run_id: str | None = None
    wandb_path: Key | None = None  # of the run's folder, relative to the root
    wandb_fingerprint: Fingerprint | None = None  # of that run, or of the one in ``unused``
    unused: Unused | None = None
    content_id: str | None = None
    weights_id: str | None = None  # the same over the model's tensors alone
    rules: int = 1  # version of the rules by which it was made; an older one is read again once
    health: Health | None = None
    generation: int = 0  # the index's generation in which this entry last changed
    indexed_at: str = ""  # ISO 8601, UTC

    def take_health(self, health: Health) -> None:
        """Keep what a check found of these bytes; what it proved broken cannot be used, whatever the header says."""
        before, self.health = self.health, health
        if health.status == "corrupt" and self.status == "ok":
            self.status, self.problem = "corrupt", health.problem
        elif (
            health.status == "ok" and before is not None and self.problem is not None and self.problem == before.problem
        ):
            self.status, self.problem = "ok", None

    @property
    def is_usable(self) -> bool:
        """Whether it is a model that can be loaded."""
        return is_usable(self.status, self.role)

    def metric(self, name: str) -> float | None:
        """Return a metric as a float (NaN and infinities included), ``None`` where it is not known."""
        return to_float(self.metrics.get(name))


def is_usable(status: str, role: str | None) -> bool:
    """Return whether a checkpoint is a model that can be loaded; an entry of older rules says no role.

    >>> is_usable("ok", "model"), is_usable("ok", None), is_usable("ok", "other"), is_usable("corrupt", "model")
    (True, True, False, False)
    """
    return status == "ok" and role in (None, "model")


def to_number(value: float) -> Number:
    """Write a number as strict JSON can hold it.

    >>> [to_number(x) for x in (0.5, 3, float("nan"), float("-inf"))]
    [0.5, 3, 'NaN', '-Infinity']
    """
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def to_float(value: Number | None) -> float | None:
    """Undo ``to_number``.

    >>> to_float("-Infinity"), to_float(3), to_float(None)
    (-inf, 3.0, None)
    """
    return None if value is None else float(value)


def utc_text(time_ns: int) -> str:
    """Write nanoseconds since 1970 as ISO 8601 in UTC with microseconds; the last moment of 9999 for all later ones.

    >>> utc_text(1_700_000_000_123_456_789), utc_text(1 << 70)
    ('2023-11-14T22:13:20.123456Z', '9999-12-31T23:59:59.999999Z')
    """
    microseconds = min(max(time_ns // 1000, _FIRST_US), _LAST_US)
    return (_EPOCH + dt.timedelta(microseconds=microseconds)).isoformat(timespec="microseconds") + "Z"


def mtime_text(mtime_ns: int) -> str | None:
    """Write a file's time as ``utc_text`` does; ``None`` outside of the years 1 to 9999: file systems hold any 64 bits.

    >>> mtime_text(0), mtime_text(1 << 70)
    ('1970-01-01T00:00:00.000000Z', None)
    """
    return utc_text(mtime_ns) if _FIRST_US <= mtime_ns // 1000 <= _LAST_US else None
