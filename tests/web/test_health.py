"""Health and figures: with a daemon, without one, without an index."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from ckpt_indexer import read_index
from ckpt_indexer.paths import INDEX_NAME
from ckpt_indexer.web import create_app
from tests.process import Daemon, encoded, put, status_of, wait_for
from tests.web.serving import Server

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient


def test_without_a_daemon_the_catalog_is_degraded_because_it_may_be_behind(client: TestClient, prepared: Path) -> None:
    answer = client.get("/health/checkpoints")
    told = answer.json()
    now = dt.datetime.now(dt.UTC)
    assert abs((now - dt.datetime.fromisoformat(told.pop("timestamp"))).total_seconds()) < 60
    index = read_index(prepared)
    (error,) = told.pop("recent_errors")
    assert (answer.status_code, told) == (
        200,
        {
            "catalog_status": "degraded", "checkpoint_count": 12, "metadata_coverage": 1.0,
            "last_build_time": index.last_updated, "generation": index.generation,
            "statuses": {"incomplete": 1, "ok": 11},
            "daemon": {"state": "stopped", "alive": False, "reasons": []}, "detail": None,
        },
    )  # fmt: skip
    cut = index.entries["beta/checkpoints/cut.ckpt"]
    assert cut.problem is not None
    assert error == {"key": cut.path, "code": "truncated", "message": cut.problem.message, "at": cut.indexed_at}


def test_with_a_daemon_the_catalog_is_healthy_and_its_figures_are_told(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    put(root / "exp/checkpoints/a.ckpt", encoded(1))
    with Daemon(root) as daemon, Server(root) as server:
        daemon.sync()
        status = status_of(root)
        told = wait_for(lambda: (t := server.get("/health/checkpoints").json())["checkpoint_count"] and t)
        assert (told["catalog_status"], told["daemon"]) == ("healthy", {"state": "ok", "alive": True, "reasons": []})
        figures = figures_of(server.get("/metrics").body.decode())
        expected = {
            "ckpt_indexer_daemon_up": 1, "ckpt_indexer_index_up": 1, "ckpt_indexer_checkpoints{status=ok}": 1,
            "ckpt_indexer_daemon_watches": status["watches"],
            "ckpt_indexer_daemon_index_writes_total": status["index_writes"],
            "ckpt_indexer_daemon_overflows_total": 0, "ckpt_indexer_daemon_rebuilds_total": 0,
            "ckpt_indexer_daemon_state{ckpt_indexer_daemon_state=ok}": 1,
            "ckpt_indexer_index_generation": status["generation"],
            "ckpt_indexer_metadata_coverage_ratio": status["sidecar_coverage"],
        }  # fmt: skip
        assert {name: figures[name] for name in expected} == expected
        daemon.stop()
        wait_for(lambda: server.get("/health/checkpoints").json()["catalog_status"] == "degraded")
        assert figures_of(server.get("/metrics").body.decode())["ckpt_indexer_daemon_up"] == 0


def figures_of(text: str) -> dict[str, float]:
    """Give all figures by name and labels: ``name{label=value,…}``."""
    figures = {}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
        figures[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return figures


def test_every_figure_has_our_prefix_a_base_unit_and_no_path(client: TestClient, prepared: Path) -> None:
    for path in ("/api/checkpoints", "/api/checkpoints/alpha/checkpoints/e1.ckpt", "/api/checkpoints/none"):
        client.get(path)
    text = client.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    assert [each.name for each in families if not each.name.startswith("ckpt_indexer_")] == []
    assert re.findall(r"_(ms|milliseconds|kb|mb|percent|minutes)\b", text) == []
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"version", "status", "ckpt_indexer_daemon_state", "route", "le"}
    values = {value for family in families for sample in family.samples for value in sample.labels.values()}
    assert [value for value in values if "/" in value or "ckpt" in value or "alpha" in value] == []
    figures = figures_of(text)
    assert figures["ckpt_indexer_http_requests_total{route=get_checkpoint,status=404}"] == 1
    assert figures["ckpt_indexer_http_request_duration_seconds_count{route=list_checkpoints}"] == 1
    assert str(prepared) not in text


def test_a_server_may_be_there_before_the_index(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    root.mkdir()
    with Server(root) as server:
        assert server.get("/healthz").json() == {"status": "ok"}
        for path in ("/api/checkpoints", "/api/experiments", "/api/changes", "/api/checkpoints.csv"):
            answer = server.get(path)
            assert (answer.status, answer.json()["detail"].startswith("no index at ")) == (503, True)
        health = server.get("/health/checkpoints")
        assert (health.status, health.json()["catalog_status"], health.json()["checkpoint_count"]) == (
            503,
            "unhealthy",
            0,
        )
        assert server.get("/metrics").status == 200
        (root / INDEX_NAME).write_text('{"version": "1.0", "generation": 3, "entries": {}}')
        wait_for(lambda: server.get("/api/checkpoints").status == 200)


def test_an_index_that_breaks_is_reported_and_one_that_comes_back_is_served(tree: Path) -> None:
    from starlette.testclient import TestClient

    index = tree / INDEX_NAME
    content = index.read_bytes()
    with TestClient(create_app(tree), base_url="http://localhost") as client:
        assert client.get("/api/checkpoints").status_code == 200
        for damage in (b"", b"{", b'{"version": "2.0", "entries": {}}', b'{"version":"1.0","entries":{"a":"\xff"}}'):
            index.write_bytes(damage)
            health = wait_for(lambda: (h := client.get("/health/checkpoints")).status_code == 503 and h)
            assert health.json()["catalog_status"] == "unhealthy"
            assert client.get("/api/checkpoints").status_code == 503
            index.write_bytes(content)
            wait_for(lambda: client.get("/api/checkpoints").status_code == 200)


def test_entries_that_are_none_do_not_hide_the_others(tree: Path) -> None:
    import json

    from starlette.testclient import TestClient

    document = json.loads((tree / INDEX_NAME).read_text())
    document["entries"]["x.ckpt"] = {"path": 5}
    document["entries"]["y.ckpt"] = document["entries"]["alpha/checkpoints/e0.ckpt"]
    (tree / INDEX_NAME).write_text(json.dumps(document, indent=2))
    with TestClient(create_app(tree), base_url="http://localhost") as client:
        answer = client.get("/api/checkpoints")
        assert (answer.json()["total"], b"\n" in answer.content) == (12, False)
