"""The routes in somebody else's FastAPI application, under a prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.testclient import TestClient

from ckpt_indexer.web import create_router
from tests.web.serving import parse_events

if TYPE_CHECKING:
    from pathlib import Path


def test_the_same_routes_answer_under_any_prefix_of_an_existing_backend(prepared: Path, client: TestClient) -> None:
    backend = FastAPI(title="somebody else's")

    @backend.get("/own")
    async def own() -> dict[str, str]:
        return {"who": "the backend"}

    backend.include_router(create_router(prepared), prefix="/models/v2")
    with TestClient(backend) as theirs:
        assert theirs.get("/own").json() == {"who": "the backend"}
        for path in (
            "/api/checkpoints?sort_by=hmean&page_size=3",
            "/api/checkpoints/alpha/checkpoints/e1.ckpt",
            "/api/checkpoints.csv",
            "/api/experiments",
            "/api/compare?key=alpha/checkpoints/e1.ckpt&key=alpha/checkpoints/e2.ckpt",
            "/api/checkpoints?page=0",
            "/api/checkpoints/none",
        ):
            ours, mounted = client.get(path), theirs.get(f"/models/v2{path}")
            assert (mounted.status_code, mounted.content) == (ours.status_code, ours.content)
        tag = theirs.get("/models/v2/api/checkpoints").headers["etag"]
        assert theirs.get("/models/v2/api/checkpoints", headers={"if-none-match": tag}).status_code == 304
        text = theirs.get("/models/v2/api/checkpoints/stream").content
        assert [each["data"]["type"] for each in parse_events(iter(text.splitlines(keepends=True)))] == [
            "batch", "complete"
        ]  # fmt: skip
        described = theirs.get("/openapi.json").json()
        assert {path for path in described["paths"] if path.startswith("/models/v2/")} == {
            f"/models/v2{path}" for path in client.get("/openapi.json").json()["paths"]
        }


def test_two_roots_can_be_mounted_side_by_side(prepared: Path, tmp_path: Path) -> None:
    backend = FastAPI()
    backend.include_router(create_router(prepared), prefix="/a")
    backend.include_router(create_router(tmp_path), prefix="/b")
    with TestClient(backend) as client:
        assert client.get("/a/api/checkpoints").status_code == 200
        assert client.get("/b/api/checkpoints").status_code == 503
        assert client.get("/openapi.json").status_code == 200


def test_an_application_may_do_without_lifespans_and_may_be_started_twice(prepared: Path) -> None:
    backend = FastAPI()
    backend.include_router(create_router(prepared))
    assert TestClient(backend).get("/api/checkpoints").status_code == 200
    for _ in range(2):
        with TestClient(backend) as client:
            assert client.get("/api/checkpoints/alpha/checkpoints/e1.ckpt").json()["metadata"] is not None
