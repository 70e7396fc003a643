"""The index from the side of its callers: one pass where there is none, and the interface of the older index.

Everything is written through the locked store, at once; a running daemon does not mind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_indexer import paths
from ckpt_indexer.actions.rebuild import run_pass
from ckpt_indexer.errors import IndexMissing, RootUnusable
from ckpt_indexer.index.reader import read_index
from ckpt_indexer.log import ensure_log
from ckpt_indexer.passes.examine import Examiner
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.paths import RelPath
from ckpt_indexer.settings import environment_settings

if TYPE_CHECKING:
    import os

    from ckpt_indexer.catalog.metadata import CheckpointMetadataV1
    from ckpt_indexer.model import Entry
    from ckpt_indexer.passes.examine import Examined


def read_without_index(root: str) -> list[Entry]:
    """Read the checkpoints of a root that cannot be written; nothing is kept, so the next call reads them again."""
    ensure_log()
    entries: dict[str, Entry] = {}

    def keep(examined: Examined, _: bool) -> None:
        entries[examined.entry.path] = examined.entry

    with Indexer(root, sidecars=False, remove_orphans=False, on_examined=keep) as indexer:
        indexer.scan_and_plan()
        indexer.run_for()
    return [*entries.values()]


class CheckpointIndex:
    """The checkpoints that the index of one folder lists. Every change is written at once."""

    def __init__(self, outputs_dir: str | os.PathLike[str]) -> None:
        self.outputs_dir = Path(outputs_dir).absolute()

    def get_checkpoint_paths(self) -> list[Path]:
        """Return the usable checkpoints' absolute paths; none where there is no folder or no index."""
        try:
            view = read_index(str(self.outputs_dir))
        except IndexMissing:
            return []
        except RootUnusable:
            if self.outputs_dir.exists():
                raise
            return []
        return [Path(view.path_of(entry)) for entry in view.usable()]

    def add_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Read one checkpoint below the folder, or take out one that is gone.

        Raises:
            ValueError: it does not stand below the folder.

        """
        place = Path(path).absolute().relative_to(self.outputs_dir)
        if self.outputs_dir.is_dir():
            run_pass(str(self.outputs_dir), environment_settings(), (RelPath(place.as_posix()),))

    def rebuild(self) -> None:
        """Bring the index in line with the disk; a folder that is not there stays so."""
        if self.outputs_dir.is_dir():
            run_pass(str(self.outputs_dir), environment_settings())

    def save(self) -> None:
        """Do nothing: what is here is what the file says."""


def generate_metadata_for_checkpoint(path: str | os.PathLike[str]) -> CheckpointMetadataV1 | None:
    """Write the sidecar of one checkpoint and return it, ``None`` where it cannot be used.

    Below a folder with an index it is that index's business, and its entry is brought up to date too. Elsewhere only
    the sidecar is written, its keys relative to the folder that holds the experiment; no index is made.
    """
    from ckpt_indexer.catalog.metadata import load_metadata

    checkpoint = Path(path).absolute()
    root = next((each for each in checkpoint.parents if (each / paths.INDEX_NAME).is_file()), None)
    if root is not None:
        CheckpointIndex(root).add_checkpoint(checkpoint)
        return load_metadata(checkpoint)
    root = checkpoint.parents[min(2 if checkpoint.parent.name == "checkpoints" else 1, len(checkpoint.parents) - 1)]
    place = RelPath(checkpoint.relative_to(root).as_posix())
    key = paths.to_key(place)
    ensure_log()
    found = scan(str(root), (place,), (checkpoint.suffix,)).found.get(key) if root.is_dir() else None
    if found is None:
        return None
    settings = environment_settings()
    examiner = Examiner(str(root), fill=settings.sidecar_fill, both_names=settings.sidecar_names == "both")
    try:
        examiner.examine(key, found)
    finally:
        examiner.close()
    return load_metadata(checkpoint)
