"""Everything that is known of one checkpoint: what ``show`` prints. Reads the index and one sidecar; writes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_indexer import paths
from ckpt_indexer.errors import NotInIndex
from ckpt_indexer.index.reader import IndexView, read_index
from ckpt_indexer.paths import RelPath
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.tree.local import opened_file

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry


@dataclass(frozen=True)
class Shown:
    """One checkpoint."""

    entry: Entry
    metadata: Any  # the sidecar's document; None where there is none that can be read


def show(root: str, checkpoint: str) -> Shown:
    """Return what is known of *checkpoint*, a key, a path relative to here, or an absolute one.

    Raises:
        NotInIndex: there is no such checkpoint in the index.
        StoreError, RootUnusable: there is no index that can be read.

    """
    index = read_index(root)
    entry = _find(index, checkpoint)
    return Shown(entry, _read_sidecar(index, entry))


def _find(index: IndexView, checkpoint: str) -> Entry:
    root = os.path.realpath(index.root)
    full = os.path.join(os.path.realpath(os.path.dirname(checkpoint) or "."), os.path.basename(checkpoint))
    places = (RelPath(os.path.relpath(full, root)), RelPath(os.path.normpath(checkpoint)))
    for key in (checkpoint, *map(paths.to_key, places)):
        if key in index.entries:
            return index.entries[key]
    raise NotInIndex(key=checkpoint, root=index.root)


def _read_sidecar(index: IndexView, entry: Entry) -> Any:
    if entry.metadata_file is None:
        return None
    try:
        path = paths.to_path(entry.metadata_file)
        with opened_file(index.root, path) as descriptor, Reader() as reader:
            return reader.read_yaml(descriptor).document
    except OSError:
        return None
