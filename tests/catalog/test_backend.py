"""A FastAPI backend as its authors would write it over the catalogue, under each way of the switch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ckpt_indexer.catalog import build_catalog, differences
from ckpt_indexer.web import create_router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def backend(outputs: Path) -> FastAPI:
    """Build a backend that preloads its list at start, and has the older routes beside it."""

    @contextlib.asynccontextmanager
    async def preload(_: FastAPI) -> AsyncIterator[None]:
        build_catalog(outputs)
        yield

    app = FastAPI(lifespan=preload)
    app.include_router(create_router(outputs, older=True), prefix="/v2")

    @app.get("/list")
    def get_list(limit: int = 100) -> list[dict[str, Any]]:
        return [
            {"checkpoint_path": str(e.checkpoint_path), "display_name": e.to_display_option(), "epoch": e.epochs,
             "precision": e.precision, "recall": e.recall, "hmean": e.hmean}
            for e in build_catalog(outputs).entries[:limit]
        ]  # fmt: skip

    return app


@pytest.mark.parametrize("switch", ["1", "0", "shadow", "25%"])
def test_a_backend_gives_the_same_list_whatever_the_switch_says(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("CHECKPOINT_CATALOG_USE_V2", switch)
    before = differences(wait_s=60)  # of this process, that other tests made
    with TestClient(backend(outputs)) as client:
        rows = client.get("/list").json()
        assert [(row["epoch"], row["hmean"]) for row in rows] == [
            (1, 0.5), (2, 0.375), (2, 0.375), (1, 0.875), (2, 0.25), (2, 0.25),
        ]  # fmt: skip
        assert differences(wait_s=60) == before
        monkeypatch.setenv("CHECKPOINT_CATALOG_USE_V2", "1")  # followed at the next build, without a restart
        assert client.get("/list").json() == rows
        older = client.get("/v2/checkpoints", params={"limit": 3}).json()
        assert {len(older), *(row["hmean"] is not None for row in older)} == {3, True}
