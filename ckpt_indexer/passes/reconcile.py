"""What has to be done so that the index says what the disk says: a pure function of the two.

``reconcile(snapshot, known)`` compares stamps and decides; it reads no file and no clock. Applying its plan and
reconciling again gives an empty plan (tested as a property).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple

from ckpt_indexer import paths
from ckpt_indexer.paths import Either

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckpt_indexer.model import Fingerprint, Stamp
    from ckpt_indexer.passes.scan import Found, Snapshot
    from ckpt_indexer.paths import Key, RelPath


FEW = 32  # places; a text is compared with so many in the time that looking up its folders takes


class Plan(NamedTuple):
    """What to do, decided before any of it is done."""

    read: dict[Key, Found]  # new, or changed in something that its entry depends on
    remove: list[Key]  # keys in the index whose checkpoint is gone
    orphans: dict[Key, Fingerprint]  # sidecars without a checkpoint: to be removed if they are ours


def reconcile(
    snapshot: Snapshot,
    known: Mapping[Key, Stamp | None],
    places: Collection[RelPath] = (paths.ROOT,),
    suffixes: tuple[str, ...] = paths.SUFFIXES,
) -> Plan:
    """Compare what was found in *places* with what is *known*: the stamp each entry was made from, by key.

    A stamp of ``None`` is an entry that has to be made again whatever the disk says. An entry whose folder could not
    be looked at stays: a transient error is no deletion.
    """
    read = {key: found for key, found in snapshot.found.items() if known.get(key) != found.stamp}
    own = [paths.to_key(place) for place in places]
    scope, unseen = Scope(own), Scope([paths.to_key(path) for path in snapshot.unseen])
    # Places that are checkpoints, the rule while events come, can only take out themselves: no walk over all entries.
    candidates = [k for k in own if k in known] if all(paths.is_checkpoint(p, suffixes) for p in places) else known
    found = snapshot.found
    remove = [key for key in candidates if key not in found and scope.covers(key) and not unseen.covers(key)]
    return Plan(read, remove, dict(snapshot.orphans))


class Scope(Generic[Either]):
    """A set of places, each with everything below it; of paths or of keys."""

    def __init__(self, places: Collection[Either]) -> None:
        self._places: frozenset[Either] = frozenset(places)
        self._is_all = "" in self._places
        self._is_few = len(self._places) <= FEW
        self._starts = tuple(f"{place}/" for place in self._places) if self._is_few else ()

    def covers(self, path: Either) -> bool:
        """Return whether *path* is one of the places or stands below one.

        It is asked of every entry for each new folder, and of every link for each event: quick for few places.

        >>> Scope(["a/b"]).covers("a/b/c.ckpt"), Scope(["a/b"]).covers("a/bc.ckpt"), Scope([]).covers("a")
        (True, False, False)
        """
        if self._is_all or path in self._places:
            return True
        if self._is_few:
            return path.startswith(self._starts)
        return any(folder in self._places for folder in paths.ancestors(path))


def places_linked_to(places: Collection[RelPath], links: Mapping[Key, Key]) -> set[RelPath]:
    """Add the links (key -> key of the target) that lead into *places*: what they show may have changed.

    >>> sorted(places_linked_to({"a/e.ckpt"}, {"a/last.ckpt": "a/e.ckpt", "b/last.ckpt": "b/e.ckpt"}))
    ['a/e.ckpt', 'a/last.ckpt']
    """
    scope = Scope([paths.to_key(place) for place in places])
    return {*places, *(paths.to_path(key) for key, target in links.items() if scope.covers(target))}
