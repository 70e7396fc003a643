"""The routes for front ends of an older catalogue, in a backend that is written as those front ends expect it."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, TypeAdapter
from starlette.testclient import TestClient

from ckpt_indexer import read_index
from ckpt_indexer.index.follow import FollowedIndex
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import INDEX_NAME
from ckpt_indexer.web import create_router
from ckpt_indexer.web.older import OlderRecord, encode_record, record_of
from tests.index.entries import entry
from tests.web.serving import parse_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Menu(BaseModel):
    """What the first older backend's pages read."""

    display_name: str
    checkpoint_path: str
    modified_at: dt.datetime
    size_mb: float
    exp_name: str
    architecture: str
    backbone: str


class Scores(BaseModel):
    """What the second one's read; it passes times on as texts."""

    checkpoint_path: str
    display_name: str
    size_mb: float
    modified_at: str
    epoch: int | None
    global_step: int | None
    precision: float | None
    recall: float | None
    hmean: float | None


class StrictScores(Scores):
    """What the third one's read: the same, without any conversion."""

    model_config = ConfigDict(strict=True)


def backend(root: Path) -> FastAPI:
    """Build an application that has the older routes, and one of its own."""
    application = FastAPI(title="an older backend")

    @application.get("/status")
    async def status() -> dict[str, str]:
        return {"status": "ready"}

    application.include_router(create_router(root, older=True))
    return application


@pytest.fixture
def older(prepared: Path) -> Iterator[TestClient]:
    with TestClient(backend(prepared)) as client:
        yield client


def committed(tmp_path: Path, *entries: Any) -> Path:
    root = tmp_path / "outputs"
    root.mkdir()
    Store(str(root)).commit(list(entries))
    return root


def data_of(client: TestClient, path: str) -> list[dict[str, Any]]:
    answer = client.get(path)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return [each["data"] for each in parse_events(iter(answer.content.splitlines(keepends=True)))]


# --- the list ---


@pytest.mark.parametrize("shape", [Menu, Scores, StrictScores])
def test_one_route_serves_the_readers_of_each_older_backend(older: TestClient, shape: type[BaseModel]) -> None:
    answer = older.get("/checkpoints")
    assert answer.status_code == 200
    read = TypeAdapter(list[shape]).validate_json(answer.content)  # type: ignore[valid-type]
    assert len(read) == 11


def test_the_list_has_the_usable_checkpoints_newest_first(older: TestClient, prepared: Path) -> None:
    usable = {f"outputs/{each.path}": each for each in read_index(prepared).usable()}
    listed = older.get("/checkpoints").json()
    assert {each["checkpoint_path"] for each in listed} == set(usable)
    assert [each["modified_at"] for each in listed] == sorted(
        (str(each.mtime) for each in usable.values()), reverse=True
    )
    assert "outputs/beta/checkpoints/cut.ckpt" not in usable
    for each in listed:
        assert (prepared.parent / each["checkpoint_path"]).exists() or "\\" in each["checkpoint_path"]


def test_the_limit_takes_the_newest(older: TestClient) -> None:
    everything = older.get("/checkpoints").json()
    assert [older.get(f"/checkpoints?limit={n}").json() for n in (1, 3, 1_000_000)] == [
        everything[:1], everything[:3], everything
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/checkpoints", "/checkpoints/stream"])
@pytest.mark.parametrize("limit", ["0", "-1", "1000001", "x", ""])
def test_a_wrong_limit_is_refused_with_a_sentence(older: TestClient, path: str, limit: str) -> None:
    answer = older.get(path, params={"limit": limit})
    assert (answer.status_code, list(answer.json())) == (400, ["detail"])
    assert answer.json()["detail"].startswith("limit: ")


def test_what_did_not_change_is_not_sent_again(tmp_path: Path) -> None:
    root = committed(tmp_path, entry("a/checkpoints/1.ckpt"))
    with TestClient(backend(root)) as client:
        tag = client.get("/checkpoints").headers["etag"]
        assert client.get("/checkpoints", headers={"if-none-match": tag}).status_code == 304
        assert client.get("/checkpoints?limit=1", headers={"if-none-match": tag}).status_code == 200


def test_a_saved_checkpoint_shows_in_the_next_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_indexer.index.freshness.FRESH_S", 0.0)
    root = committed(tmp_path, entry("a/checkpoints/1.ckpt", epoch=1))
    with TestClient(backend(root)) as client:
        assert [each["epoch"] for each in client.get("/checkpoints").json()] == [1]
        store = Store(str(root))
        store.load()
        store.commit([
            entry("a/checkpoints/2.ckpt", epoch=2, mtime="2026-11-21T10:31:00.000000Z"),
            entry("a/checkpoints/3.ckpt", status="incomplete", mtime="2026-11-21T10:32:00.000000Z"),
        ])  # fmt: skip
        assert [each["epoch"] for each in client.get("/checkpoints").json()] == [2, 1]


# --- the stream ---


def test_the_stream_gives_the_same_records_and_then_its_end(older: TestClient, prepared: Path) -> None:
    (batch, complete), listed = data_of(older, "/checkpoints/stream"), older.get("/checkpoints").json()
    generation = json.loads((prepared / INDEX_NAME).read_text())["generation"]
    assert batch == {
        "type": "batch", "checkpoints": listed, "count": 11, "has_more": False, "total": 11, "generation": generation
    }  # fmt: skip
    assert complete == {"type": "complete", "total": 11, "generation": generation}
    (batch, complete) = data_of(older, "/checkpoints/stream?limit=2")
    assert (batch["checkpoints"], complete["total"]) == (listed[:2], 2)


def test_a_long_stream_comes_in_batches(tmp_path: Path) -> None:
    root = committed(tmp_path, *(entry(f"a/checkpoints/{n:04}.ckpt") for n in range(700)))
    with TestClient(backend(root)) as client:
        *batches, complete = data_of(client, "/checkpoints/stream")
    assert [batch["count"] for batch in batches] == [100, 500, 100]
    assert complete["total"] == 700


# --- without an index, at the start, and without `older` ---


def test_without_an_index_the_answer_is_503_with_a_sentence(tmp_path: Path) -> None:
    with TestClient(backend(tmp_path)) as client:
        answer = client.get("/checkpoints")
        assert (answer.status_code, list(answer.json())) == (503, ["detail"])
        assert answer.json()["detail"].startswith("no index at ")
        (told,) = data_of(client, "/checkpoints/stream")
        assert (told["type"], told["error"].startswith("no index at ")) == ("error", True)
        assert client.get("/health/checkpoints").status_code == 503
        assert client.get("/status").json() == {"status": "ready"}


def test_the_index_is_read_when_the_application_starts(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    look = FollowedIndex._refresh

    def noted(self: FollowedIndex) -> bool:
        changed = look(self)
        read.append(len(self.table))
        return changed

    monkeypatch.setattr(FollowedIndex, "_refresh", noted)
    with TestClient(backend(prepared)):
        assert read == [12]
    plain = FastAPI()
    plain.include_router(create_router(prepared))
    with TestClient(plain):
        assert read == [12]


def test_the_application_may_do_without_lifespans(prepared: Path) -> None:
    assert len(TestClient(backend(prepared)).get("/checkpoints").json()) == 11


def test_the_routes_are_there_only_where_they_are_asked_for_and_are_described(
    older: TestClient, client: TestClient
) -> None:
    assert [client.get(path).status_code for path in ("/checkpoints", "/checkpoints/stream")] == [404, 404]
    theirs, ours = (each.get("/openapi.json").json() for each in (older, client))
    assert set(theirs["paths"]) - set(ours["paths"]) == {"/status", "/checkpoints", "/checkpoints/stream"}
    described = theirs["paths"]["/checkpoints"]["get"]
    assert set(described["responses"]) == {"200", "304", "400", "4XX", "503"}
    assert described["responses"]["200"]["content"]["application/json"]["schema"]["items"] == {
        "$ref": "#/components/schemas/OlderRecord"
    }
    assert list(theirs["components"]["schemas"]["OlderRecord"]["properties"]) == list(OlderRecord.__struct_fields__)
    assert list(older.get("/checkpoints?limit=1").json()[0]) == list(OlderRecord.__struct_fields__)


# --- one record ---


def test_a_record_of_a_checkpoint_of_which_all_is_known() -> None:
    known = entry(
        "ocr/b/checkpoints/best.ckpt", exp_name="ocr_training_b", size_bytes=97_600_000, epoch=18, global_step=3895,
        mtime="2025-10-19T13:36:50.323967Z", architecture="dbnet", encoder="resnet18",
        metrics={"precision": 0.9, "recall": 0.88, "hmean": 0.892, "loss": 0.1},
    )  # fmt: skip
    assert record_of(known, "outputs") == OlderRecord(
        display_name=(
            "dbnet · resnet18 · ocr_training_b (ep18 • hmean 0.892 • prec 0.900 • rec 0.880 • 20251019_1336)"
        ),
        checkpoint_path="outputs/ocr/b/checkpoints/best.ckpt",
        modified_at="2025-10-19T13:36:50.323967Z",
        size_mb=93.08,
        exp_name="ocr_training_b",
        architecture="dbnet",
        backbone="resnet18",
        epoch=18,
        global_step=3895,
        precision=0.9,
        recall=0.88,
        hmean=0.892,
    )


def test_a_record_of_a_checkpoint_of_which_nothing_is_known() -> None:
    assert record_of(entry("x.ckpt"), "outputs") == OlderRecord(
        display_name="x.ckpt (20261121_1030)",
        checkpoint_path="outputs/x.ckpt",
        modified_at="2026-11-21T10:30:00.000000Z",
        size_mb=0.0,
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_metric_that_json_lacks_is_not_known(number: str) -> None:
    record = record_of(entry("a/checkpoints/x.ckpt", metrics={"hmean": number, "recall": number, "precision": 1}), "o")
    assert (record.hmean, record.recall, record.precision) == (None, None, 1.0)
    assert record.display_name == "a (prec 1.000 • 20261121_1030)"


@pytest.mark.parametrize(
    ("fields", "display"),
    [
        ({"architecture": "dbnet"}, "dbnet · run"),
        ({"encoder": "resnet18"}, "resnet18 · run"),
        ({"architecture": "run", "encoder": "resnet18"}, "run · resnet18"),
        ({"architecture": "dbnet", "encoder": "run"}, "dbnet · run"),
        ({"exp_name": "unknown"}, "x.ckpt"),
        ({"exp_name": "e" * 23}, "e" * 23),
        ({"exp_name": "e" * 24}, "e" * 20 + "..."),
        ({"epoch": 0}, "run (ep0 • 20261121_1030)"),
    ],
)
def test_the_display_name_leaves_out_what_is_not_known_or_said_already(fields: dict[str, Any], display: str) -> None:
    record = record_of(entry("deep/run/checkpoints/x.ckpt", **fields), "outputs")
    assert record.display_name == (display if "(" in display else f"{display} (20261121_1030)")


def test_a_name_that_is_no_text_is_written_as_its_key() -> None:
    encoded = encode_record(msgspec.Raw(msgspec.json.encode(entry("\\xff.ckpt", experiment="."))), "outputs")
    assert encoded is not None
    record = json.loads(encoded)
    assert record["checkpoint_path"] == "outputs/\\xff.ckpt"
    assert record["display_name"].startswith("\\xff.ckpt (")


def test_a_checkpoint_that_broke_while_a_stream_was_under_way_is_not_sent() -> None:
    encoded = [msgspec.Raw(msgspec.json.encode(entry("x.ckpt", status=status))) for status in ("ok", "corrupt")]
    assert [encode_record(raw, "outputs") is None for raw in encoded] == [False, True]
