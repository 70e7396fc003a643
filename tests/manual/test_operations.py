"""Dashboard, alert rules and the table of metrics name figures that ``/metrics`` really gives, and all of them."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from ckpt_indexer.index.store import Store
from ckpt_indexer.model import Status
from ckpt_indexer.web import create_app
from tests.index.entries import entry
from tests.manual.pages import MANUAL, codes, table

ENDS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
NAME = re.compile(r"\bckpt_indexer_[a-z0-9_]+\b")
SELECTOR = re.compile(r"\b(ckpt_indexer_[a-z0-9_]+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All families of a server over an index with a good and a corrupt checkpoint, after some requests."""
    root = tmp_path_factory.mktemp("metrics") / "outputs"
    root.mkdir()
    Store(str(root)).commit([entry("a.ckpt"), entry("a/checkpoints/b.ckpt", status="corrupt")])
    with TestClient(create_app(root), base_url="http://localhost") as client:
        client.get("/api/checkpoints")
        text = client.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture(scope="module")
def samples(families: dict[str, Any]) -> set[str]:
    """Every name that an expression may use."""
    return {f"{name}{end}" for name, family in families.items() for end in ENDS[family.type]}


def expressions() -> dict[str, str]:
    """All expressions of the two files, by the alert's or the panel's name."""
    rules = yaml.safe_load((MANUAL / "alert-rules.yml").read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    board = json.loads((MANUAL / "grafana-dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def test_every_expression_uses_figures_that_there_are(samples: set[str]) -> None:
    unknown = {name: set(NAME.findall(expression)) - samples for name, expression in expressions().items()}
    assert {name: figures for name, figures in unknown.items() if figures} == {}
    assert [name for name, text in expressions().items() if not NAME.search(text)] == ["CheckpointServerDown"]


def test_every_label_and_status_in_an_expression_is_one_that_there_is(families: dict[str, Any]) -> None:
    labels_of = {row[0]: set(row[1]) for row in metrics_rows()}
    for expression in expressions().values():
        for name, selector in SELECTOR.findall(expression):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            matchers = dict(re.findall(r'(\w+)(?:=~|!=|=)"([^"]*)"', selector))
            matchers.pop("instance", None)
            assert set(matchers) <= labels_of[family], expression
            if name.startswith("ckpt_indexer_checkpoint"):
                assert matchers.get("status", "ok") in get_args(Status)


def metrics_rows() -> list[tuple[str, list[str]]]:
    rows = table("operations", "| metric | labels | meaning |")
    return [(codes(row[0])[0], codes(row[1])) for row in rows]


def test_the_table_has_every_figure_with_its_labels(families: dict[str, Any]) -> None:
    rows = dict(metrics_rows())
    named = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    assert set(rows) == named
    for name, labels in rows.items():
        seen = {label for sample in families[name.removesuffix("_total")].samples for label in sample.labels}
        assert seen <= set(labels), name


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((MANUAL / "alert-rules.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_the_panels_of_the_dashboard_do_not_overlap_and_use_the_chosen_source() -> None:
    board = json.loads((MANUAL / "grafana-dashboard.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert (cells & taken, max(x for x, _ in taken) < 24) == (set(), True), panel["title"]
        cells |= taken
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
