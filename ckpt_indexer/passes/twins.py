"""Which checkpoints of one experiment are the same save, and what one of them knows of its score.

``last.ckpt`` is often the same save as the best one: the same step, the same weights by their records' checksums.
Lightning writes a score for one of the two only. Owns the groups of such twins among the entries that it was told of;
decides nothing about entries, reads no file. One thread uses it.

Evidence is a score of a checkpoint's *own*; one that was taken over (``Entry.twin``) never is, so what is derived ends
with what it was derived from. Which score a checkpoint gets follows from the group alone, not from who came first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.model import TwinScore, to_float

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry, Monitor
    from ckpt_indexer.paths import Key

_Group = tuple[str, str, int | None]  # experiment, what they have in common, step
SAME_SCORE = 1e-3  # relative: a score that was read from a file's name is rounded
MEMBERS_MAX = 64  # of a group, on either side; a thousand copies of one file are no thousand saves


class _Lacking(NamedTuple):
    """A checkpoint without a score of its own."""

    metric: str | None  # that it was selected by, as far as it says itself
    given: tuple[Key, str, object] | None  # key, metric and value of the score that it has from a twin


class _Members:
    """The twins of one group."""

    def __init__(self) -> None:
        self.scored: dict[Key, Monitor] = {}  # key -> its own score
        self.lacking: dict[Key, _Lacking] = {}


class Twins:
    """The usable entries that have an identity, grouped by it."""

    def __init__(self) -> None:
        self._group_of: dict[Key, _Group] = {}
        self._groups: dict[_Group, _Members] = {}
        self._asked: dict[Key, object] = {}  # key -> the score for which it was last named as stale: once is enough

    def add(self, entry: Entry) -> None:
        """Record an entry as it is now."""
        self._drop(entry.path)
        group = _group_of(entry)
        if group is None:
            return
        monitor, twin = entry.monitor, entry.twin
        members = self._groups.setdefault(group, _Members())
        if monitor is not None and monitor.value is not None and twin is None:
            if len(members.scored) >= MEMBERS_MAX:
                return
            members.scored[entry.path] = monitor
        else:
            if len(members.lacking) >= MEMBERS_MAX:
                return
            own = None if monitor is None or (twin is not None and not twin.is_selected) else monitor.name
            given = None if monitor is None or twin is None else (twin.path, monitor.name, monitor.value)
            members.lacking[entry.path] = _Lacking(own, given)
        self._group_of[entry.path] = group

    def note(self, entry: Entry) -> list[Key]:
        """Record an entry as it is now; return the keys of twins whose score is another one because of it."""
        before = self._group_of.get(entry.path)
        self.add(entry)
        after = self._group_of.get(entry.path)
        if before != after:
            self._asked.pop(entry.path, None)
        return [key for group in {before, after} - {None} for key in self._stale(group)]

    def forget(self, key: Key) -> list[Key]:
        """Drop a checkpoint that is gone; return the keys of twins whose score is another one because of it."""
        self._asked.pop(key, None)
        return self._stale(self._drop(key))

    def stale(self) -> list[Key]:
        """Return the keys of all twins that do not have the score that they should."""
        return [key for group in self._groups for key in self._stale(group)]

    def clear(self) -> None:
        """Drop everything."""
        self._group_of.clear()
        self._groups.clear()
        self._asked.clear()

    def score_for(self, key: Key) -> TwinScore | None:
        """Return the score that the twins of the checkpoint at *key* agree on, under the metric it was selected by."""
        group = self._group_of.get(key)
        members = None if group is None else self._groups[group]
        lacking = None if members is None else members.lacking.get(key)
        if members is None or lacking is None:
            return None
        scores = [
            TwinScore(monitor, other)
            for other, monitor in sorted(members.scored.items())
            if lacking.metric in (None, monitor.name)
        ]
        if not scores or len({score.monitor.name for score in scores}) > 1:
            return None
        values = [to_float(score.monitor.value) or 0.0 for score in scores]
        if max(values) - min(values) > SAME_SCORE * max(map(abs, values)):
            return None
        return max(scores, key=lambda score: len(str(score.monitor.value)))  # the one that was rounded least

    def _stale(self, group: _Group | None) -> list[Key]:
        members = None if group is None else self._groups.get(group)
        if members is None:
            return []
        found = []
        for key, lacking in members.lacking.items():
            if members.scored or lacking.given is not None:
                score = self.score_for(key)
                now = None if score is None else (score.path, score.monitor.name, score.monitor.value)
                # One that does not take it (another program's sidecar says otherwise) must not be asked for ever.
                if now != lacking.given and self._asked.get(key, ...) != now:
                    self._asked[key] = now
                    found.append(key)
        return found

    def _drop(self, key: Key) -> _Group | None:
        group = self._group_of.pop(key, None)
        if group is not None:
            members = self._groups[group]
            members.scored.pop(key, None)
            members.lacking.pop(key, None)
            if not members.scored and not members.lacking:
                del self._groups[group]
        return group


def _group_of(entry: Entry) -> _Group | None:
    if entry.status != "ok":
        return None
    if entry.weights_id is not None and entry.global_step is not None:
        return (entry.experiment, entry.weights_id, entry.global_step)
    return None if entry.content_id is None else (entry.experiment, entry.content_id, None)
