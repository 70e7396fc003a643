"""The root of one session: which folder it is, and the daemon's lock on it.

A root is its device and inode, not its path: another folder under the same path is another root.
"""

from __future__ import annotations

import contextlib
import os
from typing import Self

from filelock import Timeout

from ckpt_indexer import paths
from ckpt_indexer.errors import DaemonRunning, RootUnusable, reason_of
from ckpt_indexer.paths import RelPath
from ckpt_indexer.tree.local import locked_folder

LOCK_GRACE_S = 0.5  # `status` holds the lock for a moment to see whether anybody else does


class LockedRoot:
    """A folder that no other daemon watches while this is entered."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Lock the folder that is there now.

        Raises:
            DaemonRunning: another daemon holds the lock.
            RootUnusable: the root is gone, or cannot be written.

        """
        try:
            self._identity = _identity(self.path)
            self._held.enter_context(locked_folder(self.path, paths.DAEMON_LOCK_NAME, timeout_s=LOCK_GRACE_S))
        except Timeout:
            raise DaemonRunning(root=self.path) from None
        except OSError as error:
            raise RootUnusable(root=self.path, reason=reason_of(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def is_same(self) -> bool:
        """Return whether the locked folder still stands at its path.

        Raises:
            OSError: that cannot be seen now, which is no reason to believe in another one.

        """
        try:
            return _identity(self.path) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False

    def names(self) -> list[RelPath]:
        """Return the names in the root, none where it cannot be listed: the scan that follows reports that."""
        try:
            return [*map(RelPath, os.listdir(self.path))]
        except OSError:
            return []

    def remove(self, name: RelPath) -> None:
        """Remove a file of the root, if it is there and may be removed."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, name))


def _identity(root: str) -> tuple[int, int]:
    status = os.stat(root)
    return (status.st_dev, status.st_ino)
