"""The index's file and its writers' lock: what is done on the disk, in the order that keeps it whole.

Owns the lock, the fingerprint of the file as it was last read or written, and what becomes of a file that is no index.
Promises: a write is on the disk when ``write`` returns, and a power cut leaves the old file or the new one; what is no
index is kept under another name, never overwritten. Does not know what an index says, nor who is right where two
differ. One thread at a time may use it; everything but ``is_current`` needs the lock.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import time
from typing import TYPE_CHECKING

from filelock import Timeout

from ckpt_indexer import paths
from ckpt_indexer.errors import IndexCorrupt, IndexLocked, NotRegularFile
from ckpt_indexer.index import codec
from ckpt_indexer.tree.local import fingerprint_of, locked_folder, opened_at, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.index.codec import Index
    from ckpt_indexer.model import Fingerprint

TORN_AGE_S = 1.0  # a file that is no JSON and older than this is not being written any more
TORN_WAIT_S, TORN_PAUSE_S = 0.5, 0.02  # for such a file to become whole; the lock is held, and its patience is longer
LOCK_TIMEOUT_S = 10.0  # a commit takes milliseconds; longer means a stuck writer
SET_ASIDE_INFIX = ".corrupt-"


class Unread(enum.Enum):
    """Why there is nothing to read."""

    SAME = enum.auto()  # the file is the one that was last read or written, or there is none, as before
    GONE = enum.auto()  # there was one
    SET_ASIDE = enum.auto()  # it was no index


class IndexFile:
    """The file of one root's index."""

    def __init__(self, root: str, on_set_aside: Callable[[str, str], None] | None = None) -> None:
        """*on_set_aside* is called with the new name and the reason when a file that is no index was renamed."""
        self.root = root
        self.writes = 0
        self._fingerprint: Fingerprint | None = None  # ``None`` where there is no file
        self._is_unsynced = False  # a write was not known to be on disk when it failed
        self._on_set_aside = on_set_aside

    @property
    def is_missing(self) -> bool:
        """Whether there was no file when it was last read."""
        return self._fingerprint is None

    def is_current(self) -> bool:
        """Return whether the file is the one that was last read or written; one ``stat``, without the lock.

        A file that cannot be looked at is left to the next ``read``.
        """
        try:
            status = os.stat(os.path.join(self.root, paths.INDEX_NAME), follow_symlinks=False)
        except FileNotFoundError:
            return self._fingerprint is None
        except OSError:
            return True
        return fingerprint_of(status) == self._fingerprint

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the writers' lock; gives a descriptor of the root.

        Raises:
            IndexLocked: another writer kept the lock for ``LOCK_TIMEOUT_S``.

        """
        try:
            with locked_folder(self.root, paths.LOCK_NAME, timeout_s=LOCK_TIMEOUT_S) as folder:
                yield folder
        except Timeout:
            raise IndexLocked(path=os.path.join(self.root, paths.LOCK_NAME), waited_s=LOCK_TIMEOUT_S) from None

    def read(self, folder: int) -> Index | Unread:
        """Return the index that the file holds, or why there is none to be read; what is no index is set aside.

        Raises:
            IndexTooNew: a newer major version wrote it.

        """
        try:
            with opened_at(folder, paths.INDEX_NAME) as file:
                if fingerprint_of(os.fstat(file)) == self._fingerprint:
                    return Unread.SAME
                data, fingerprint = _read_whole(file)
            index = codec.decode_index(data, os.path.join(self.root, paths.INDEX_NAME))
        except FileNotFoundError:
            was_missing, self._fingerprint = self._fingerprint is None, None
            return Unread.SAME if was_missing else Unread.GONE
        except NotRegularFile:
            return self._set_aside(folder, "it is no regular file")
        except IndexCorrupt as error:
            return self._set_aside(folder, str(error))
        self._fingerprint = fingerprint
        return index

    def write(self, folder: int, pieces: Iterator[bytes]) -> None:
        """Replace the file.

        Raises:
            OSError: it could not be written; the old one stands.

        """
        self._is_unsynced = True
        self._fingerprint = replace_file(folder, paths.INDEX_NAME, pieces)
        self._is_unsynced = False
        self.writes += 1

    def sync(self, folder: int) -> None:
        """Sync to the disk what an earlier ``write`` may have renamed before it failed."""
        if self._is_unsynced:
            os.fsync(folder)
            self._is_unsynced = False

    def _set_aside(self, folder: int, reason: str) -> Unread:
        moment = f"{paths.INDEX_NAME}{SET_ASIDE_INFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        names = set(os.listdir(folder))  # two in one second must not replace each other; the lock keeps others out
        name = next(n for i in itertools.count(1) if (n := moment if i == 1 else f"{moment}-{i}") not in names)
        os.replace(paths.INDEX_NAME, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)  # before a new index takes the name: a power cut may keep that rename and lose this one
        self._fingerprint = None
        if self._on_set_aside is not None:
            self._on_set_aside(name, reason)
        return Unread.SET_ASIDE


def _read_whole(file: int) -> tuple[bytes, Fingerprint]:
    """Return a file's bytes and fingerprint, after waiting a moment for one that is being written in place."""
    deadline = time.monotonic() + TORN_WAIT_S
    while True:
        with open(file, "rb", closefd=False) as stream:
            status = os.fstat(file)  # before its bytes: what is written after this changes the fingerprint
            stream.seek(0)
            data = stream.read()
        is_young = abs(time.time() - status.st_mtime) < TORN_AGE_S
        if not (is_young and time.monotonic() < deadline and codec.is_torn(data)):
            return data, fingerprint_of(status)
        time.sleep(TORN_PAUSE_S)
