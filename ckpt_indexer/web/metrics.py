"""The figures for Prometheus, put together when they are asked for.

Names begin with ``ckpt_indexer_``, units are base units, and no label holds a path, a key or a run: their number has no
bound. The daemon's figures come from its own daemon.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from ckpt_indexer import __version__
from ckpt_indexer.daemon_state import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from ckpt_indexer.daemon_state import DaemonStatus
    from ckpt_indexer.index.follow import FollowedIndex
    from ckpt_indexer.index.summary import Counts
    from ckpt_indexer.web.traffic import Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def encode_metrics(index: FollowedIndex, counts: Counts, daemon: DaemonStatus, traffic: Traffic) -> bytes:
    """Encode all figures in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(index, counts, daemon, traffic))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, index: FollowedIndex, counts: Counts, daemon: DaemonStatus, traffic: Traffic) -> None:
        self._followed, self._counts, self._status, self._traffic = index, counts, daemon, traffic

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("ckpt_indexer_build", "The program.", value={"version": __version__})
        yield from self._index()
        yield from self._daemon()
        yield from self._traffic.collect()

    def _index(self) -> Iterator[Metric]:
        table, counts = self._followed.table, self._counts
        yield _gauge("index_up", "Whether there is an index that can be read.", float(self._followed.error is None))
        yield _gauge("index_generation", "The index's generation.", table.generation)
        yield _gauge("index_size_bytes", "Size of the index.", self._followed.size_bytes)
        yield _gauge("index_last_updated_timestamp_seconds", "When it was written.", _seconds(table.last_updated))
        yield _gauge("experiments", "Experiments in the index.", counts.experiments)
        yield _gauge("metadata_coverage_ratio", "Share of the ok checkpoints with a sidecar.", counts.coverage)
        number = GaugeMetricFamily("ckpt_indexer_checkpoints", "Checkpoints in the index.", labels=["status"])
        size = GaugeMetricFamily("ckpt_indexer_checkpoint_size_bytes", "Their size together.", labels=["status"])
        for status in counts.statuses:
            number.add_metric([status], counts.statuses[status])
            size.add_metric([status], counts.size_bytes[status])
        yield from (number, size)

    def _daemon(self) -> Iterator[Metric]:
        daemon = self._status
        yield _gauge("daemon_up", "Whether a daemon keeps the index.", float(daemon.is_alive))
        states = {str(state): state == daemon.state for state in STATES}
        yield StateSetMetricFamily("ckpt_indexer_daemon_state", "What the daemon says of itself.", value=states)
        reasons = GaugeMetricFamily(
            "ckpt_indexer_daemon_degraded", "Why the index may be behind the disk.", labels=["reason"]
        )
        for code in {reason.code for reason in daemon.reasons}:
            reasons.add_metric([code], 1)
        yield reasons
        yield _gauge("daemon_start_timestamp_seconds", "When it was started.", _seconds(daemon.started))
        yield _gauge("daemon_last_pass_timestamp_seconds", "Its last look at everything.", _seconds(daemon.last_pass))
        yield _gauge("daemon_watches", "Its inotify watches.", daemon.watches)
        yield _counter("daemon_overflows", "Overflows of its event queue.", daemon.overflows)
        yield _counter("daemon_rebuilds", "How often it watched anew.", daemon.rebuilds)
        yield _counter("daemon_index_writes", "How often it wrote the index.", daemon.index_writes)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ckpt_indexer_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"ckpt_indexer_{name}", text, value=value)


def _seconds(moment: str | None) -> float:
    """Return a time as seconds since 1970; 0 where it is not known."""
    try:
        return dt.datetime.fromisoformat(moment).timestamp() if moment else 0.0
    except ValueError:
        return 0.0
