"""The index's ``checkpoints`` section, kept up to date as entries come and go.

Owns, for each experiment, what the section says of its usable checkpoints, decoded and in order, and the same encoded.
A change costs as much as its experiment has names to join; no other entry is decoded for it. Does not know the entries
themselves: who removes one hands it back as it was added. One thread uses it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer.index import codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec

    from ckpt_indexer.index.codec import Listed
    from ckpt_indexer.model import Entry


class Listings:
    """The listings of all experiments; ``encoded`` is what was added and removed up to the last ``apply``."""

    def __init__(self) -> None:
        self._experiments: dict[str, _Experiment] = {}
        self._changes: dict[str, _Changes] = {}  # since the last ``apply``, by experiment
        self._encoded: dict[str, msgspec.Raw] = {}

    @property
    def encoded(self) -> Mapping[str, msgspec.Raw]:
        """The listings of the experiments that have usable checkpoints."""
        return self._encoded

    def add(self, entry: Listed | Entry) -> None:
        """List a checkpoint with the next ``apply``, if it can be used."""
        if entry.is_usable:
            self._changes_of(entry).added.append(_row_of(entry))

    def remove(self, entry: Listed | Entry) -> None:
        """Remove, with the next ``apply``, a checkpoint that was added with the same content."""
        if entry.is_usable:
            self._changes_of(entry).removed.append(_row_of(entry))

    def apply(self) -> None:
        """Carry out what was added and removed, and encode the experiments that it changes."""
        for name, changes in self._changes.items():
            experiment = self._experiments.setdefault(name, _Experiment())
            experiment.change(changes)
            if experiment.names:
                self._encoded[name] = experiment.encode()
            else:
                self._encoded.pop(name, None)
                del self._experiments[name]
        self._changes = {}

    def _changes_of(self, entry: Listed | Entry) -> _Changes:
        changes = self._changes.get(entry.experiment)
        if changes is None:
            changes = self._changes[entry.experiment] = _Changes([], [])
        return changes


class _Row(NamedTuple):
    """What is listed of one checkpoint."""

    name: str
    mtime: str
    has_sidecar: bool


class _Changes(NamedTuple):
    removed: list[_Row]
    added: list[_Row]


class _Experiment:
    """The rows of one experiment, sorted by name; a list for each field, which costs half the memory of tuples."""

    __slots__ = ("_has_sidecar", "_mtimes", "names")

    def __init__(self) -> None:
        self.names: list[str] = []
        self._mtimes: list[str] = []
        self._has_sidecar = bytearray()

    def change(self, changes: _Changes) -> None:
        for row in changes.removed:
            # Of rows that are the same it does not matter which one goes.
            i = bisect_left(self.names, row.name)
            while (self._mtimes[i], bool(self._has_sidecar[i])) != row[1:]:
                i += 1
            del self.names[i], self._mtimes[i], self._has_sidecar[i]
        for row in sorted(changes.added):  # in order: those of an index that is being loaded only have to be appended
            i = bisect_right(self.names, row.name)
            self.names.insert(i, row.name)
            self._mtimes.insert(i, row.mtime)
            self._has_sidecar.insert(i, row.has_sidecar)

    def encode(self) -> msgspec.Raw:
        return codec.encode_listing(self.names, self._has_sidecar, max(self._mtimes))


def _row_of(entry: Listed | Entry) -> _Row:
    return _Row(entry.name, entry.mtime or "", entry.metadata_file is not None)
