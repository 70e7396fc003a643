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


class Twins:
    """The usable entries that have an identity, grouped by it."""

    def __init__(self) -> None:
        self._group_of: dict[str, _Group] = {}
        self._members: dict[_Group, dict[str, Monitor | None]] = {}  # key -> its monitor, with or without a value
        self._asked: dict[str, Monitor] = {}  # key -> the score that it was made again for

    def note(self, entry: Entry) -> list[str]:
        """Take an entry as it is now; return the keys of twins that lack a score which is known among them now."""
        key = entry.path
        group = _group_of(entry)
        if self._group_of.get(key) != group:
            self.forget(key)
        if group is None:
            return []
        self._group_of[key] = group
        members = self._members.setdefault(group, {})
        members[key] = entry.monitor
        if len(members) == 1:
            return []
        lacking = []
        for each, monitor in members.items():
            score = None if monitor is not None and monitor.value is not None else self.score_for(each)
            if score is not None and self._asked.get(each) != score:
                self._asked[each] = score
                lacking.append(each)
        return lacking

    def forget(self, key: str) -> None:
        """Drop a checkpoint that is gone, or is another one now."""
        self._asked.pop(key, None)
        group = self._group_of.pop(key, None)
        if group is not None:
            members = self._members[group]
            members.pop(key, None)
            if not members:
                del self._members[group]

    def clear(self) -> None:
        """Drop everything."""
        self._group_of.clear()
        self._members.clear()
        self._asked.clear()

    def score_for(self, key: str) -> Monitor | None:
        """Return the score that the twins of the checkpoint at *key* agree on, under the metric it was selected by."""
        members = self._members.get(self._group_of.get(key, ("", "", None)), {})
        own = members.get(key)
        scores = [
            monitor
            for other, monitor in sorted(members.items())
            if other != key
            and monitor is not None
            and monitor.value is not None
            and (own is None or own.name == monitor.name)
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
