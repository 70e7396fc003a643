"""What one router did, counted: requests and their times by route, and the streams that are open.

Owns a registry of its own, not the process's: an application may hold several routers, and figures of its own. Only the
router's event loop counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # seconds


class Traffic:
    """The counts of one router."""

    def __init__(self, streams_max: int) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ckpt_indexer_http_requests", "Answers, by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "ckpt_indexer_http_request_duration_seconds", "Time to the answer, of streams to its begin.", ["route"],
            buckets=BOUNDS, registry=self._registry,
        )  # fmt: skip
        self._streams = Gauge("ckpt_indexer_http_streams", "Streams that are open.", ["route"], registry=self._registry)
        self._streams_max = streams_max
        self._open = 0

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def begin_stream(self, route: str) -> bool:
        """Count a stream as open, if there may be one more; return whether there may."""
        if self._open >= self._streams_max:
            return False
        self._open += 1
        self._streams.labels(route).inc()
        return True

    def end_stream(self, route: str) -> None:
        self._open -= 1
        self._streams.labels(route).dec()

    def collect(self) -> Iterator[Metric]:
        """Return the figures, without the time at which each series began, which the process's start tells better."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
