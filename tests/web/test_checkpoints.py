"""Lists, pages, filters, one checkpoint, experiments, comparison: over the index that the real indexer wrote."""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest

from ckpt_indexer import read_index
from ckpt_indexer.index.query import Query, parse_filter, parse_order, select
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import INDEX_NAME, Key
from ckpt_indexer.web import create_app
from tests.index.entries import entry
from tests.process import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

ALL = 12  # entries of the tree


def paths(answer: dict[str, Any]) -> list[str]:
    return [each["path"] for each in answer["checkpoints"]]


def test_a_page_holds_the_entries_as_the_index_has_them(client: TestClient, prepared: Path) -> None:
    answer = client.get("/api/checkpoints").json()
    document = json.loads((prepared / INDEX_NAME).read_text())
    assert {name: answer[name] for name in answer if name != "checkpoints"} == {
        "total": ALL, "page": 1, "page_size": 100, "total_pages": 1, "next": None,
        "generation": document["generation"],
    }  # fmt: skip
    assert {each["path"]: each for each in answer["checkpoints"]} == document["entries"]
    assert [each["mtime"] for each in answer["checkpoints"]] == sorted(
        (each["mtime"] for each in document["entries"].values()), reverse=True
    )


@pytest.mark.parametrize("field", ["modified_time", "name", "epoch", "hmean", "metrics.hmean", "status", "parameters"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("filters", [(), ("status=ok", "hmean>=0.6"), ("epoch=null",), ("experiment~ALPHA",)])
def test_order_and_filters_are_those_of_the_command_line(
    client: TestClient, prepared: Path, field: str, direction: str, filters: tuple[str, ...]
) -> None:
    asked = Query(parse_order(f"{field}:{direction}"), tuple(map(parse_filter, filters)))
    chosen = select(read_index(prepared).entries.values(), asked)
    query = {"sort_by": field, "sort_order": direction, "filter": filters}
    answer = client.get("/api/checkpoints", params=query).json()
    assert (paths(answer), answer["total"]) == ([each.path for each in chosen], len(chosen))


@pytest.mark.parametrize("field", ["hmean", "name", "epoch", "modified_time", "monitor.name"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_by_token_and_by_number_are_the_whole_once(client: TestClient, field: str, direction: str) -> None:
    query: dict[str, Any] = {"sort_by": field, "sort_order": direction}
    whole = paths(client.get("/api/checkpoints", params=query).json())
    by_number = [client.get("/api/checkpoints", params=query | {"page_size": 5, "page": n}).json() for n in (1, 2, 3)]
    assert [key for page in by_number for key in paths(page)] == whole
    assert [page["total_pages"] for page in by_number] == [3, 3, 3]
    found, token = [], None
    while True:
        page = client.get(
            "/api/checkpoints", params=query | {"page_size": 5} | ({"next": token} if token else {})
        ).json()
        found += paths(page)
        token = page["next"]
        if token is None:
            break
    assert found == whole


def test_a_token_stays_a_place_while_checkpoints_come_and_go(tree: Path) -> None:
    from starlette.testclient import TestClient

    with TestClient(create_app(tree), base_url="http://localhost") as client:
        query: dict[str, Any] = {"sort_by": "hmean", "sort_order": "desc", "filter": "hmean!=null", "page_size": 4}
        first = client.get("/api/checkpoints", params=query).json()
        store = Store(str(tree))
        store.load()
        store.commit([entry("new/a.ckpt", metrics={"hmean": 0.99})], [Key(paths(first)[-1]), Key(paths(first)[0])])
        before = first["generation"]

        def second() -> Any:
            answer = client.get("/api/checkpoints", params=query | {"next": first["next"]}).json()
            return answer if answer["generation"] != before else None

        answer = wait_for(second)
        whole = select(
            read_index(tree).entries.values(), Query(parse_order("hmean:desc"), (parse_filter("hmean!=null"),))
        )
        expected = [each.path for each in whole if each.path not in {*paths(first), "new/a.ckpt"}]
        assert (expected[: len(paths(answer))], len(paths(answer))) == (paths(answer), 4)


def test_a_search_looks_in_paths_and_status_in_any_case(client: TestClient) -> None:
    assert paths(client.get("/api/checkpoints", params={"search": "ALPHA/check", "sort_by": "name"}).json()) == [
        f"alpha/checkpoints/e{n}.ckpt" for n in (2, 1, 0)
    ]
    assert paths(client.get("/api/checkpoints", params={"search": "incomplete"}).json()) == [
        "beta/checkpoints/cut.ckpt"
    ]
    assert client.get("/api/checkpoints", params={"search": "nothing has this"}).json()["total_pages"] == 0


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("page=0", "page: Input should be greater than or equal to 1"),
        ("page_size=1001", "page_size: Input should be less than or equal to 1000"),
        ("filter=hmean", "filter.0: String should match pattern"),
        ("filter=monitor.x=1", "filter 'monitor.x=1': there is no field 'monitor.x'"),
        ("sort_by=health.x", "sort 'health.x': there is no field 'health.x'"),
        ("sort_order=up", "sort_order: Input should be 'asc' or 'desc'"),
        ("next=nonsense", "next: String should match pattern"),
        ("&".join(["filter=epoch>1"] * 17), "filter: List should have at most 16 items"),
        (f"search={'x' * 501}", "search: String should have at most 500 characters"),
    ],
)
def test_a_wrong_parameter_is_one_sentence(client: TestClient, query: str, detail: str) -> None:
    answer = client.get(f"/api/checkpoints?{query}")
    assert (answer.status_code, list(answer.json())) == (400, ["detail"])
    assert answer.json()["detail"].startswith(detail)


def test_what_did_not_change_is_304_for_the_same_query_only(client: TestClient, prepared: Path) -> None:
    tag = client.get("/api/checkpoints?page_size=2").headers["etag"]
    assert tag.startswith(f'W/"g{read_index(prepared).generation}-')
    for header in (tag, f'"other", {tag}', tag.removeprefix("W/")):
        answer = client.get("/api/checkpoints?page_size=2", headers={"if-none-match": header})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    for path in ("/api/checkpoints?page_size=3", "/api/checkpoints.csv?page_size=2"):
        assert client.get(path, headers={"if-none-match": tag}).status_code == 200
    assert client.get("/api/checkpoints?page_size=2", headers={"if-none-match": '"other"'}).status_code == 200


def test_another_index_of_the_same_generation_is_not_taken_for_the_same(tree: Path) -> None:
    from starlette.testclient import TestClient

    with TestClient(create_app(tree), base_url="http://localhost") as client:
        tag = client.get("/api/checkpoints").headers["etag"]
        index = tree / INDEX_NAME
        document = json.loads(index.read_text())
        del document["entries"]["alpha/checkpoints/e0.ckpt"]
        (tree / "other").write_text(json.dumps(document))
        (tree / "other").replace(index)
        wait_for(lambda: client.get("/api/checkpoints").json()["total"] == ALL - 1)
        assert client.get("/api/checkpoints", headers={"if-none-match": tag}).status_code == 200


def test_answers_are_compressed_for_those_who_take_it(client: TestClient) -> None:
    plain = client.get("/api/checkpoints", headers={"accept-encoding": "identity"})
    with client.stream("GET", "/api/checkpoints", headers={"accept-encoding": "br, gzip;q=0.5"}) as answer:
        packed = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
    assert ("content-encoding" in plain.headers, gzip.decompress(packed)) == (False, plain.content)
    refused = client.get("/api/checkpoints", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers
    assert "Accept-Encoding" in plain.headers["vary"]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_csv_holds_all_rows_and_no_formulas(client: TestClient, encoding: str) -> None:
    answer = client.get("/api/checkpoints.csv?sort_by=name&sort_order=asc", headers={"accept-encoding": encoding})
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    listed = client.get("/api/checkpoints?sort_by=name&sort_order=asc").json()
    assert [row["path"] for row in rows] == paths(listed)
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@"))]
    assert {row["metrics.hmean"] for row in rows if row["experiment"] == "alpha"} == {"0.5", "0.9", "0.7"}
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted_and_a_number_is_not(text: str) -> None:
    from ckpt_indexer.web.spreadsheet import encode_head, encode_rows

    each = entry("a/b.ckpt", architecture=text, epoch=-3, metrics={"m": -0.5, text: 1})
    lines = encode_head(["m", text]) + encode_rows([msgspec.Raw(msgspec.json.encode(each))], ["m", text])
    head, row = csv.reader(io.StringIO(lines.decode(), newline=""))
    cells = dict(zip(head, row, strict=True))
    assert (cells["architecture"], cells["epoch"], cells["metrics.m"]) == (f"'{text}", "-3", "-0.5")
    assert not [name for name in head if name.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_one_checkpoint_comes_with_its_sidecar_and_its_full_path(client: TestClient, prepared: Path) -> None:
    answer = client.get("/api/checkpoints/alpha/checkpoints/e1.ckpt").json()
    document = json.loads((prepared / INDEX_NAME).read_text())["entries"]["alpha/checkpoints/e1.ckpt"]
    assert {name: answer[name] for name in document} == document
    assert answer["full_path"] == str(prepared / "alpha/checkpoints/e1.ckpt")
    assert (answer["metadata"]["checkpoint_path"], answer["metadata"]["training"]["epoch"]) == (document["path"], 1)
    assert client.get("/api/checkpoints/beta/checkpoints/cut.ckpt").json()["metadata"] is None
    missing = client.get("/api/checkpoints/none.ckpt")
    assert (missing.status_code, missing.json()) == (404, {"detail": "there is no such checkpoint in the index"})


def test_every_name_that_the_index_holds_can_be_asked_for(client: TestClient, prepared: Path) -> None:
    for key in read_index(prepared).entries:
        answer = client.get(f"/api/checkpoints/{quote(key)}")
        assert (answer.status_code, answer.json()["path"]) == (200, key)


def test_experiments_are_counted_and_know_their_best(tree: Path) -> None:
    from starlette.testclient import TestClient

    from ckpt_indexer.model import Monitor

    store = Store(str(tree))
    store.load()
    scored = [entry(f"m/checkpoints/{n}.ckpt", monitor=Monitor("loss", "min", n / 10)) for n in (3, 1, 2)]
    nan = entry("m/checkpoints/n.ckpt", monitor=Monitor("loss", "min", "NaN"))
    broken = entry("m/checkpoints/b.ckpt", monitor=Monitor("loss", "min", 0.01), status="corrupt")
    store.commit([*scored, nan, broken])
    with TestClient(create_app(tree), base_url="http://localhost") as client:
        answer = client.get("/api/experiments").json()
    by_name = {each["name"]: each for each in answer["experiments"]}
    assert list(by_name) == sorted(by_name)
    assert by_name["m"]["best"] == {"key": "m/checkpoints/1.ckpt", "name": "loss", "mode": "min", "value": 0.1}
    assert (by_name["m"]["checkpoints"], by_name["m"]["statuses"]) == (5, {"corrupt": 1, "ok": 4})
    assert (by_name["alpha"]["metrics"], by_name["alpha"]["best"]) == (["hmean", "recall"], None)
    assert by_name["beta"]["statuses"] == {"incomplete": 1, "ok": 2}


def test_a_comparison_has_metrics_hyper_parameters_and_model_side_by_side(client: TestClient) -> None:
    keys = ["alpha/checkpoints/e1.ckpt", "beta/checkpoints/e0.ckpt", "beta/checkpoints/cut.ckpt"]
    answer = client.get("/api/compare", params={"key": keys}).json()
    rows = {(row["group"], row["name"]): (row["values"], row["differs"]) for row in answer["rows"]}
    assert answer["keys"] == keys
    assert rows["metrics", "hmean"] == ([0.9, 0.8, None], True)
    assert rows["metrics", "recall"] == ([1.0, 1.0, None], True)
    assert rows["hyper_parameters", "optimizer.name"] == (["adam", "adam", None], True)
    assert rows["checkpoint", "status"] == (["ok", "ok", "incomplete"], True)
    assert rows["model", "parameters"] == ([6, 6, None], True)
    assert rows["training", "epoch"] == ([1, 0, None], True)


def test_only_differences_are_given_on_request(client: TestClient) -> None:
    keys = ["alpha/checkpoints/e1.ckpt", "beta/checkpoints/e0.ckpt"]
    every = client.get("/api/compare", params={"key": keys}).json()["rows"]
    some = client.get("/api/compare", params={"key": keys, "differences": "true"}).json()["rows"]
    assert some == [row for row in every if row["differs"]]
    assert {row["name"] for row in every} - {row["name"] for row in some} >= {"recall", "optimizer.name", "parameters"}


@pytest.mark.parametrize(("count", "status"), [(0, 400), (1, 400), (2, 200), (8, 200), (9, 400)])
def test_two_to_eight_checkpoints_are_compared(client: TestClient, count: int, status: int) -> None:
    assert client.get("/api/compare", params={"key": ["alpha/checkpoints/e1.ckpt"] * count}).status_code == status


def test_a_comparison_with_an_unknown_checkpoint_is_not_found(client: TestClient) -> None:
    answer = client.get("/api/compare", params={"key": ["alpha/checkpoints/e1.ckpt", "none.ckpt"]})
    assert (answer.status_code, answer.json()) == (404, {"detail": "not all of these checkpoints are in the index"})
