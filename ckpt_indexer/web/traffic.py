"""What the server did, counted: requests and their times by route, and the streams that are open."""

from __future__ import annotations

import bisect
from collections import Counter

BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # seconds


class Buckets:
    """Times, sorted into a histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        """Give (upper bound, times up to it), as Prometheus wants them."""
        found, running = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            running += count
            found.append((bound, float(running)))
        return found


class Traffic:
    """The counts of one router; only its event loop touches them."""

    def __init__(self, streams_max: int) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by route's name and status
        self.seconds: dict[str, Buckets] = {}
        self.streams: Counter[str] = Counter()
        self._streams_max = streams_max

    def note(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests[route, status] += 1
        if route not in self.seconds:
            self.seconds[route] = Buckets()
        self.seconds[route].add(seconds)

    def begin_stream(self, route: str) -> bool:
        """Take a place for a stream, if there is one."""
        if self.streams.total() >= self._streams_max:
            return False
        self.streams[route] += 1
        return True

    def end_stream(self, route: str) -> None:
        self.streams[route] -= 1
