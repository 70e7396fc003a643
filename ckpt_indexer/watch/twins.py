"""Which checkpoints of one experiment are the same save, and what one of them knows of its score.

``last.ckpt`` is often the same save as the best one: the same step, the same weights by their records' checksums.
Lightning writes a score for one of the two only. Owns the groups of such twins among the entries that it was told of;
decides nothing about entries, reads no file. One thread uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt_indexer.model import to_float

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry, Monitor

_Group = tuple[str, str, int | None]  # experiment, what they have in common, step
SAME_SCORE = 1e-3  # relative: a score that was read from a file's name is rounded
SCORED_MAX = 16  # scores that are remembered of one group; a thousand copies of one file are no thousand saves


class _Members:
    """The twins of one group."""

    def __init__(self) -> None:
        self.scored: dict[str, Monitor] = {}  # key -> its own score; the first so many
        self.lacking: dict[str, str | None] = {}  # key -> the metric that it has no value of, if it has one


class Twins:
    """The usable entries that have an identity, grouped by it."""

    def __init__(self) -> None:
        self._group_of: dict[str, _Group] = {}
        self._groups: dict[_Group, _Members] = {}
        self._asked: dict[str, Monitor] = {}  # key -> the score that it was made again for

    def note(self, entry: Entry) -> list[str]:
        """Take an entry as it is now; return the keys of twins that lack a score which is known among them now."""
        key, group, monitor = entry.path, _group_of(entry), entry.monitor
        asked = self._asked.get(key) if self._group_of.get(key) == group else None
        self.forget(key)
        if group is None:
            return []
        if asked is not None:
            self._asked[key] = asked
        self._group_of[key] = group
        members = self._groups.setdefault(group, _Members())
        if monitor is None or monitor.value is None:
            members.lacking[key] = None if monitor is None else monitor.name
            candidates = [key]
        else:
            if len(members.scored) < SCORED_MAX:
                members.scored[key] = monitor
            candidates = [*members.lacking]
        found = []
        for each in candidates if members.scored else ():
            if self._asked.get(each) is None and (score := self.score_for(each)) is not None:
                self._asked[each] = score
                found.append(each)
        return found

    def forget(self, key: str) -> None:
        """Drop a checkpoint that is gone, or is another one now."""
        self._asked.pop(key, None)
        group = self._group_of.pop(key, None)
        if group is not None:
            members = self._groups[group]
            members.scored.pop(key, None)
            members.lacking.pop(key, None)
            if not members.scored and not members.lacking:
                del self._groups[group]

    def clear(self) -> None:
        """Drop everything."""
        self._group_of.clear()
        self._groups.clear()
        self._asked.clear()

    def score_for(self, key: str) -> Monitor | None:
        """Return the score that the twins of the checkpoint at *key* agree on, under the metric it was selected by."""
        group = self._group_of.get(key)
        if group is None:
            return None
        members = self._groups[group]
        own = members.lacking.get(key)
        scores = [
            monitor
            for other, monitor in sorted(members.scored.items())
            if other != key and (own is None or own == monitor.name)
        ]
        if not scores or len({score.name for score in scores}) > 1:
            return None
        values = [to_float(score.value) or 0.0 for score in scores]
        if max(values) - min(values) > SAME_SCORE * max(map(abs, values)):
            return None
        return max(scores, key=lambda score: len(str(score.value)))  # the one that was rounded least


def _group_of(entry: Entry) -> _Group | None:
    if entry.status != "ok":
        return None
    if entry.weights_id is not None and entry.global_step is not None:
        return (entry.experiment, entry.weights_id, entry.global_step)
    return None if entry.content_id is None else (entry.experiment, entry.content_id, None)
