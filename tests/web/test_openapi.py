"""The description of the API is complete, and true: what schemathesis makes of it, the server answers as described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.model import Entry
from tests.process import TIMEOUT_S
from tests.web.serving import Server

if TYPE_CHECKING:
    from starlette.testclient import TestClient

SCHEMATHESIS = Path(sys.executable).with_name("st")
EXAMPLES, SOAK_EXAMPLES = 10, 30  # made up for each route; the same in each run
CONFIGURATION = """
[[operations]]
include-path = "/api/checkpoints/{key}"
parameters = { key = "alpha/checkpoints/e1.ckpt" }

[[operations]]
include-path = "/api/compare"
parameters = { key = ["alpha/checkpoints/e1.ckpt", "beta/checkpoints/e0.ckpt"] }
"""


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not here")
@pytest.mark.parametrize("token", [None, "0123456789abcdef"])
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(SOAK_EXAMPLES, marks=pytest.mark.soak)])
def test_schemathesis_finds_nothing(prepared: Path, tmp_path: Path, examples: int, token: str | None) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    arguments = () if token is None else ("--header", f"Authorization: Bearer {token}")
    with Server(prepared, env={} if token is None else {"CKPT_INDEXER_TOKEN": token}) as server:
        done = subprocess.run(
            [
                SCHEMATHESIS, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--generation-deterministic",
                "--max-examples", str(examples), "--no-color", *arguments,
                "--exclude-path", "/api/changes",  # has no end that schemathesis could wait for
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=3 * TIMEOUT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout + done.stderr if done.returncode else "") == (0, "")
        assert server.log_text().count("\n") == 1


def test_every_route_is_described_with_all_its_statuses(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    statuses = {path: set(methods["get"]["responses"]) for path, methods in described["paths"].items()}
    usual = {"200", "400", "4XX", "503"}
    assert statuses == {
        "/api/checkpoints": usual | {"304"},
        "/api/checkpoints.csv": usual | {"304"},
        "/api/checkpoints/stream": usual,
        "/api/changes": usual,
        "/api/experiments": usual | {"304"},
        "/api/compare": usual | {"404"},
        "/api/checkpoints/{key}": usual | {"404"},
        "/health/checkpoints": usual,
        "/healthz": usual,
        "/metrics": usual,
    }
    assert {tuple(methods) for methods in described["paths"].values()} == {("get",)}


def test_the_description_of_an_entry_has_its_fields(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["components"]["schemas"]
    assert list(described["Entry"]["properties"]) == list(Entry.__struct_fields__)


def test_every_route_has_a_sentence_for_people(client: TestClient) -> None:
    operations = [methods["get"] for methods in client.get("/openapi.json").json()["paths"].values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    assert [each["operationId"] for each in operations if not (each["summary"] and each["description"])] == []
