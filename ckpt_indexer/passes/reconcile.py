"""What has to be done so that the index says what the disk says: a pure function of the two.

``reconcile(snapshot, known)`` compares stamps and decides; it reads no file and no clock. Applying its plan and
reconciling again gives an empty plan (tested as a property). ``siblings_to_read`` adds to a plan the shards that are
judged together with what it reads.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Generic, NamedTuple

from ckpt_indexer import paths
from ckpt_indexer.formats.frameworks.sharded import shards_of_set
from ckpt_indexer.paths import Either, Key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckpt_indexer.model import Fingerprint, Stamp
    from ckpt_indexer.passes.scan import Found, Snapshot
    from ckpt_indexer.paths import RelPath


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


def siblings_to_read(
    read: Mapping[Key, Found], removed: Collection[Key], stamps: Mapping[Key, Stamp | None]
) -> set[Key]:
    """Return the keys, among those of *stamps*, of shards whose set has another shard that came, changed or went.

    *read* and *removed* are what a scan found to be new or changed, and gone.
    """
    changed = [key for key, found in read.items() if key not in stamps or _differs(stamps[key], found)]
    siblings: set[Key] = set()
    for key in (*changed, *removed):
        if "-of-" in key and key not in siblings:
            folder, _, name = key.rpartition("/")
            siblings.update(Key(posixpath.join(folder, each)) for each in shards_of_set(name))
    return {key for key in siblings if key in stamps and key not in read and key not in removed}


def _differs(stamp: Stamp | None, found: Found) -> bool:
    """Return whether a file is another one; one that was only marked to be read again is not."""
    return stamp is not None and stamp.fingerprint != found.stamp.fingerprint


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
