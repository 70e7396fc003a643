"""Sidecars' documents, for those who look at one checkpoint.

Sidecars are other people's YAML: parsed by ``Reader`` in its worker process, with limits on memory and time. The worker
is started when first needed. One thread at a time (the lock sees to it); each call may take a second.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ckpt_indexer import paths
from ckpt_indexer.tree.local import opened_file

if TYPE_CHECKING:
    from ckpt_indexer.paths import Key
    from ckpt_indexer.sandbox.owner import Reader


class Sidecars:
    """Reads the sidecars of one root."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._reader: Reader | None = None
        self._lock = threading.Lock()

    def read(self, metadata_file: Key | None) -> dict[str, Any] | None:
        """Return a sidecar's document; ``None`` where there is none that can be read."""
        if metadata_file is None or not is_inside(metadata_file):
            return None
        from ckpt_indexer.sandbox.owner import Reader

        try:
            with self._lock, opened_file(self._root, paths.to_path(metadata_file)) as descriptor:
                self._reader = self._reader or Reader()
                document = self._reader.read_yaml(descriptor).document
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return None
        return document if isinstance(document, dict) else None

    def close(self) -> None:
        """End the worker process."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None


def is_inside(path: str) -> bool:
    """Return whether a path that the index gives stays below the root, whatever wrote the index.

    >>> is_inside("a/b.yaml"), is_inside("/etc/passwd"), is_inside("a/../../b")
    (True, False, False)
    """
    return all(part not in ("", ".", "..") for part in path.split("/"))
