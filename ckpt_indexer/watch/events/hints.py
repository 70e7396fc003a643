"""Where to look next: the bounded meeting point of the event threads and the daemon's loop.

A hint is a path relative to the root: look there, and at everything below. It says nothing about what happened, may
come twice, late or for nothing. Hints are a set; when there are too many they collapse into one, the root itself, so
that a slow reader of this set needs bounded memory and loses nothing. Any thread may add; one thread takes.
"""

from __future__ import annotations

import threading

from ckpt_indexer.paths import COOKIE_PREFIX

HINTS_MAX = 8_192  # paths; a pass over everything costs about as much as looking at so many one by one
EVERYTHING = ""


class Hints:
    """A set of places to look at, and a way to wait for it to fill."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._woken = threading.Condition()
        self._interrupted = False

    def add(self, path: str) -> None:
        """Ask to look at *path* and below; ``EVERYTHING`` for the whole tree."""
        with self._woken:
            if path == EVERYTHING or len(self._paths) >= HINTS_MAX:
                # Cookies are answers that somebody waits for, and are no part of the tree: they stay.
                self._paths = {EVERYTHING, *(p for p in self._paths if is_cookie(p))}
            if path == EVERYTHING or EVERYTHING not in self._paths or is_cookie(path):
                self._paths.add(path)
            self._woken.notify()

    def interrupt(self) -> None:
        """Make the current or next ``take`` return at once."""
        with self._woken:
            self._interrupted = True
            self._woken.notify()

    def pause(self, seconds: float) -> None:
        """Wait, whatever hints come; an interrupt ends it, and is left for the next ``take``."""
        with self._woken:
            self._woken.wait_for(lambda: self._interrupted, seconds)

    def take(self, timeout_s: float) -> set[str]:
        """Take all hints, after waiting up to *timeout_s* for the first."""
        with self._woken:
            if not self._paths and not self._interrupted and timeout_s > 0:
                self._woken.wait(timeout_s)
            self._interrupted = False
            paths, self._paths = self._paths, set()
            return paths


def is_cookie(path: str) -> bool:
    """Say whether *path* is a barrier's cookie: a file in the root that only wants to be noticed."""
    return path.startswith(COOKIE_PREFIX) and path.removeprefix(COOKIE_PREFIX).replace("-", "").isalnum()
