"""When a checkpoint is read again although nothing says that it changed.

Pure: the caller says what time it is, of a clock that does not jump. A checkpoint that is being written, that could not
be read for a reason that may pass, or whose sidecar could not be written, is read again at waits that grow as long as
it stays so (``DELAYS_S``); what was read too early to be trusted is read again once. Owns the plan only: does not know
what a checkpoint is, beyond its entry's words for what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from ckpt_indexer.backoff import Backoff

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry
    from ckpt_indexer.paths import Key

Kind = Literal["incomplete", "unreadable", "sidecar"]

# First and last wait. What is being written is whole within seconds; what somebody has to repair takes minutes.
DELAYS_S: dict[Kind, tuple[float, float]] = {
    "incomplete": (0.25, 60.0),
    "unreadable": (5.0, 600.0),
    "sidecar": (5.0, 600.0),
}
_TRANSIENT = frozenset({"io-error", "permission-denied", "time-limit", "reader-crashed"})


def retry_kind(entry: Entry) -> Kind | None:
    """Return what an entry waits for, ``None`` if reading its checkpoint again would find the same."""
    if entry.status == "incomplete":
        return "incomplete"
    if entry.problem is not None and entry.problem.code in _TRANSIENT:
        return "unreadable"
    if entry.metadata_problem is not None and entry.metadata_problem.code == "sidecar-unwritable":
        return "sidecar"
    return None


class _Planned(NamedTuple):
    kind: Kind | None  # ``None``: once, after a wait of its own
    backoff: Backoff


class Retries:
    """The checkpoints that are to be read again, each with its next moment."""

    def __init__(self) -> None:
        self._planned: dict[Key, _Planned] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._planned

    def plan(self, key: Key, kind: Kind, now_s: float) -> None:
        """Plan the next reading after one that found *kind*: later each time, from the first wait if it is news."""
        planned = self._planned.get(key)
        if planned is None or planned.kind != kind:
            planned = self._planned[key] = _Planned(kind, Backoff(*DELAYS_S[kind]))
        planned.backoff.failed(now_s)

    def plan_once(self, key: Key, delay_s: float, now_s: float) -> None:
        """Plan one reading after *delay_s*."""
        planned = self._planned[key] = _Planned(None, Backoff(delay_s, delay_s))
        planned.backoff.failed(now_s)

    def drop(self, key: Key) -> None:
        """Plan nothing any more for a checkpoint."""
        self._planned.pop(key, None)

    def due_s(self) -> float:
        """Return the moment from which on ``pop_due`` has something; infinity if nothing is planned."""
        return min((planned.backoff.due_s for planned in self._planned.values()), default=float("inf"))

    def last_single_due_s(self, now_s: float, delay_max_s: float) -> float:
        """Return when the last of the retries made by ``plan_once`` is due, of those due within *delay_max_s*.

        Minus infinity if there is none; retries that are repeated (``plan``) do not count.
        """
        moments = [planned.backoff.due_s for planned in self._planned.values() if planned.kind is None]
        return max((due_s for due_s in moments if due_s <= now_s + delay_max_s), default=float("-inf"))

    def pop_due(self, now_s: float) -> list[Key]:
        """Return the keys that are due; each is due again after the same wait if no reading comes of it."""
        due = [key for key, planned in self._planned.items() if planned.backoff.due_s <= now_s]
        for key in due:
            backoff = self._planned[key].backoff
            backoff.due_s = now_s + backoff.delay_s
        return due
