"""Where to look next: the bounded meeting point of the event threads and the daemon's loop.

A hint is a path relative to the root: scan it, and everything below. It says nothing about what happened, may come
twice, late or for nothing. Hints are a set. When there are too many, those of one folder collapse into the folder, and
if that is not enough all collapse into one, the root itself. So a slow reader of this set needs bounded memory and
loses nothing. Any thread may add; one thread drains.
"""

from __future__ import annotations

import threading
from collections import Counter

from ckpt_indexer.paths import COOKIE_PREFIX, ROOT, RelPath, split

HINTS_MAX = 8_192  # paths; a pass over everything costs about as much as scanning so many one by one
FOLDER_MAX = 512  # paths of one folder that become the folder when there are too many: listing it costs less
EVERYTHING = ROOT


class Hints:
    """A set of places to scan, and a way to wait for it to fill."""

    def __init__(self) -> None:
        self._paths: set[RelPath] = set()
        self._woken = threading.Condition()
        self._interrupted = False

    def add(self, path: RelPath) -> None:
        """Ask for a scan of *path* and below; ``EVERYTHING`` for the whole tree."""
        with self._woken:
            if len(self._paths) >= HINTS_MAX:
                self._paths = _collapsed(self._paths)
            if path == EVERYTHING:
                # Cookies are answers that somebody waits for, and are no part of the tree: they stay.
                self._paths = {EVERYTHING, *filter(is_cookie, self._paths)}
            elif is_cookie(path) or self._paths.isdisjoint((EVERYTHING, _folder_of(path))):
                self._paths.add(path)
            self._woken.notify()

    def interrupt(self) -> None:
        """Make the current or next ``drain`` return at once."""
        with self._woken:
            self._interrupted = True
            self._woken.notify()

    def pause(self, seconds: float) -> None:
        """Wait, whatever hints come; an interrupt ends it, and is left for the next ``drain``."""
        with self._woken:
            self._woken.wait_for(lambda: self._interrupted, seconds)

    def drain(self, timeout_s: float) -> set[RelPath]:
        """Remove and return all hints, after waiting up to *timeout_s* for the first."""
        with self._woken:
            if not self._paths and not self._interrupted and timeout_s > 0:
                self._woken.wait(timeout_s)
            self._interrupted = False
            paths, self._paths = self._paths, set()
            return paths


def is_cookie(path: RelPath) -> bool:
    """Return whether *path* is a barrier's cookie: a file in the root whose event somebody waits for."""
    return path.startswith(COOKIE_PREFIX) and path.removeprefix(COOKIE_PREFIX).replace("-", "").isalnum()


def _collapsed(paths: set[RelPath]) -> set[RelPath]:
    """Return fewer hints that cover *paths*: half of ``HINTS_MAX`` at most, cookies aside."""
    cookies = set(filter(is_cookie, paths))
    counts = Counter(_folder_of(path) for path in paths if path not in cookies)
    full = {folder for folder, count in counts.items() if count >= FOLDER_MAX}
    if EVERYTHING in full or len(paths) - sum(counts[folder] - 1 for folder in full) > HINTS_MAX // 2:
        return {EVERYTHING, *cookies}
    return full | {path for path in paths if path in cookies or _folder_of(path) not in full}


def _folder_of(path: RelPath) -> RelPath:
    return split(path)[0]
