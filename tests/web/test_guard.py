"""Who may ask: hosts, methods, tokens, origins; what a browser is told; and what can be reached of the disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from ckpt_indexer.errors import SettingInvalid
from ckpt_indexer.index.store import Store
from ckpt_indexer.web import create_app
from ckpt_indexer.web.guard import POLICY
from ckpt_indexer.web.settings import ServerSettings, load_server_settings
from tests.index.entries import entry
from tests.process import run, wait_for
from tests.web.serving import Server

TOKEN = "0123456789abcdef0123"


def client_of(root: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(root, ServerSettings(**settings)), base_url="http://localhost")


# --- hosts ---


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8765", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8765", "localhost.", "box.lab:80"],
)
def test_the_server_answers_to_its_own_names(prepared: Path, host: str) -> None:
    with client_of(prepared, allowed_hosts=("box.lab",)) as client:
        assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:8765", "", "127.0.0.1.evil.example", "192.168.1.9",
     "localhost:80:80", "localhost:x", "[::1", "[::1]x", "[::2]", "box.lab"],
)  # fmt: skip
def test_another_name_is_refused_because_it_may_be_rebound(prepared: Path, host: str) -> None:
    with client_of(prepared) as client:
        for path in ("/api/checkpoints", "/healthz", "/"):
            answer = client.get(path, headers={"host": host})
            assert (answer.status_code, list(answer.json())) == (421, ["detail"])


def test_off_loopback_addresses_are_taken_and_foreign_names_are_not(prepared: Path) -> None:
    with client_of(prepared, host="0.0.0.0", token=TOKEN) as client:
        asked = {
            host: client.get("/healthz", headers={"host": host}).status_code
            for host in ("192.168.1.9:8765", "[fe80::1]:8765", socket.gethostname(), "evil.example")
        }
    assert list(asked.values()) == [200, 200, 200, 421]


# --- methods ---


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "ANYTHING"])
@pytest.mark.parametrize("path", ["/", "/api/checkpoints", "/api/checkpoints/alpha/checkpoints/e1.ckpt", "/none"])
def test_nothing_but_get_is_answered(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


# --- tokens ---


def test_with_a_token_only_the_page_and_the_sign_of_life_are_free(prepared: Path) -> None:
    with client_of(prepared, token=TOKEN) as client:
        free = {path for path in ("/", "/healthz", *routes(client)) if client.get(path).status_code != 401}
        assert free == {"/", "/healthz"}
        refused = client.get("/api/checkpoints")
        assert (refused.headers["www-authenticate"], list(refused.json())) == ("Bearer", ["detail"])
        assert client.get("/api/checkpoints", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def routes(client: TestClient) -> list[str]:
    described = client.get("/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()
    return [*described["paths"], "/openapi.json", "/assets", "/anything"]


@pytest.mark.parametrize(
    "given", ["", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ", "Bearer é"]
)
def test_a_wrong_token_is_no_token(prepared: Path, given: str) -> None:
    with client_of(prepared, token=TOKEN) as client:
        headers = {"authorization": given.encode()}
        assert client.get("/api/checkpoints", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_the_token_is_compared_in_constant_time() -> None:
    from ckpt_indexer.web import guard

    source = Path(guard.__file__).read_text()
    assert source.count("hmac.compare_digest(given, self._credentials)") == 1
    assert re.findall(r"[!=]=.*_credentials|_credentials.*[!=]=", source) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.9", "box.lab"])
def test_an_address_that_others_can_reach_needs_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="it needs a token"):
        load_server_settings({"host": host}, {}, None)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    for flags, environment in (({"token_file": str(file)}, {}), ({}, {"CKPT_INDEXER_TOKEN": TOKEN})):
        settings = load_server_settings({"host": host, **flags}, environment, None)
        assert settings.token is not None
        assert (settings.token.get_secret_value(), TOKEN in repr(settings)) == (TOKEN, False)


def test_serve_refuses_to_start_without_a_token_off_loopback(tmp_path: Path) -> None:
    done = run("serve", tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ckpt-indexer: setting host: 0.0.0.0 can be reached by others: it needs a token")


@pytest.mark.parametrize("token", ["short", "has a space in it, long", "naïve-0123456789abcdef", ""])
def test_a_token_that_is_weak_or_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(SettingInvalid, match="setting token: use 16 characters or more") as raised:
        load_server_settings({}, {"CKPT_INDEXER_TOKEN": token}, None)
    assert not token or token not in str(raised.value)


# --- browsers ---


def test_every_answer_tells_browsers_to_run_nothing(client: TestClient) -> None:
    for path, status in (("/", 200), ("/api/checkpoints", 200), ("/none", 404), ("/api/checkpoints?page=0", 400)):
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.headers["content-security-policy"] == POLICY
        assert (answer.headers["x-content-type-options"], answer.headers["x-frame-options"]) == ("nosniff", "DENY")
        assert "access-control-allow-origin" not in answer.headers
    assert re.findall("unsafe|http:|https:|\\*", POLICY) == []


def test_no_page_of_another_origin_may_read_unless_it_is_named(prepared: Path) -> None:
    with client_of(prepared, cors_origins=("https://lab.example",)) as client:
        named = client.get("/api/checkpoints", headers={"origin": "https://lab.example"})
        other = client.get("/api/checkpoints", headers={"origin": "https://evil.example"})
        assert named.headers["access-control-allow-origin"] == "https://lab.example"
        assert "access-control-allow-origin" not in other.headers
        assert "Origin" in named.headers["vary"]
        preflight = {"origin": "https://lab.example", "access-control-request-method": "GET"}
        answer = client.options("/api/checkpoints", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-methods"]) == (204, "GET")
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        assert client.options("/api/checkpoints", headers={"origin": "https://evil.example"}).status_code == 405


@pytest.mark.parametrize("wrong", ["*", "lab.example", "https://lab.example/path", "https://*.example"])
def test_origins_are_named_one_by_one(wrong: str) -> None:
    with pytest.raises(SettingInvalid, match="setting cors_origins"):
        load_server_settings({"cors_origins": wrong}, {}, None)


def test_names_from_disk_cannot_leave_their_json(client: TestClient) -> None:
    answer = client.get("/api/checkpoints?search=hostile")
    assert answer.headers["content-type"] == "application/json"
    assert {each["path"] for each in answer.json()["checkpoints"]} == {
        "hostile/line\nbreak.ckpt", "hostile/\x1b[2Jescape.ckpt", "hostile/<script>alert(1)</script>.ckpt",
        "hostile/\\xff\\xfe.ckpt", "hostile/..dots.ckpt", "hostile/=1+1.ckpt",
    }  # fmt: skip
    assert (b"\n" in answer.content, b"\x1b" in answer.content) == (False, False)
    text = client.get("/metrics").text
    assert not [word for word in ("script", "alpha", 'ckpt"', "escape") if word in text.replace("ckpt_indexer", "")]


def test_names_from_disk_do_not_break_events(prepared: Path) -> None:
    with Server(prepared) as server, server.events("/api/checkpoints/stream?search=hostile") as events:
        told = list(events)
    assert [list(each) for each in told] == [["data"], ["data"]]
    assert len(told[0]["data"]["checkpoints"]) == 6


# --- the disk ---

SECRET = "schema_version: '1.0'\nsecret: yes\n"


@pytest.mark.parametrize(
    "metadata_file",
    ["../secret.yaml", "exp/../../secret.yaml", "{absolute}", "link.yaml", "folder/secret.yaml", "fifo",
     "exp/nul\0.yaml", "", ".", "exp//x"],
)  # fmt: skip
def test_no_sidecar_outside_the_root_or_behind_a_link_is_opened(tmp_path: Path, metadata_file: str) -> None:
    root = tmp_path / "outputs"
    (root / "exp").mkdir(parents=True)
    (tmp_path / "secret.yaml").write_text(SECRET)
    (root / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    path = metadata_file.format(absolute=tmp_path / "secret.yaml")
    Store(str(root)).commit([entry("exp/a.ckpt", metadata_file=path)])
    with client_of(root) as client:
        assert client.get("/api/checkpoints/exp/a.ckpt").json()["metadata"] is None


@pytest.mark.parametrize(
    "path",
    ["../../../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
     "....//....//etc/passwd", "alpha/checkpoints/../checkpoints/e1.ckpt", "%00", "alpha%00.ckpt", "a" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["/api/checkpoints/", "/assets/", "/"])
def test_no_path_leads_anywhere_but_to_the_index(prepared: Path, prefix: str, path: str) -> None:
    with Server(prepared) as server:
        answer = server.get(prefix + path)
    assert (answer.status in (404, 200), b"root:" in answer.body) == (True, False)
    assert answer.status == 404 or prefix != "/api/checkpoints/"


def test_only_the_index_the_account_and_named_sidecars_are_opened_below_the_root_and_nothing_is_written(
    prepared: Path,
) -> None:
    code = (
        "import os, sys\n"
        f"root = os.fsencode({str(prepared)!r})\n"
        "def audit(event, arguments):\n"
        "    if event == 'open' or event.startswith(('os.', 'shutil.')) and event not in ('os.putenv', 'os.fork'):\n"
        "        os.write(2, f'audit {event} {arguments!r}\\n'.encode())\n"
        "from ckpt_indexer.cli import main\n"
        "sys.addaudithook(audit)\n"
        "main()\n"
    )
    before = {path: path.lstat().st_mtime_ns for path in prepared.rglob("*")}
    with Server(prepared, code=code) as server:
        for path in ("", "/alpha/checkpoints/e1.ckpt", ".csv", "/stream", "/none"):
            server.get(f"/api/checkpoints{path}")
        for path in ("/api/experiments", "/health/checkpoints", "/metrics", "/"):
            server.get(path)
        server.get("/api/compare?key=alpha/checkpoints/e1.ckpt&key=beta/checkpoints/e0.ckpt")
        lines = server.log_text().splitlines()
    opened = [line for line in lines if line.startswith("audit open")]
    names = {match[1] for line in opened if (match := re.search(r"open \('([^']*)', None, \d+\)", line))}
    assert {name for name in names if name.endswith(".ckpt")} == set()
    assert {name for name in names if ".yaml" in name} == {"e1.ckpt.metadata.yaml", "e0.ckpt.metadata.yaml"}
    assert ".checkpoint_index.json" in names
    walked = [line for line in lines if re.search(r"audit os\.(listdir|scandir|walk|rename|remove|mkdir)", line)]
    assert {line for line in walked if str(prepared) in line} <= {
        f"audit os.listdir ('{prepared}',)"
    }  # may it be read?
    assert {path: path.lstat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_a_hostile_sidecar_ends_its_reader_and_not_the_server(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    (root / "exp").mkdir(parents=True)
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    (root / "exp/bomb.yaml").write_text(bomb)
    (root / "exp/deep.yaml").write_text("[" * 100_000)
    (root / "exp/code.yaml").write_text("!!python/object/apply:os.system ['touch /tmp/never']\n")
    (root / "exp/good.yaml").write_text("answer: 42\n")
    names = ("bomb", "deep", "code", "good")
    Store(str(root)).commit([entry(f"exp/{name}.ckpt", metadata_file=f"exp/{name}.yaml") for name in names])
    with client_of(root) as client:
        answers = {name: client.get(f"/api/checkpoints/exp/{name}.ckpt") for name in names}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(names, 200)
    assert answers["good"].json()["metadata"] == {"answer": 42}
    assert answers["code"].json()["metadata"] is None
    assert len(answers["bomb"].content) < 32 << 20


# --- limits ---


def test_a_target_that_is_too_long_is_414(client: TestClient) -> None:
    answer = client.get(f"/api/checkpoints?search={'x' * 14_000}")
    assert (answer.status_code, list(answer.json())) == (414, ["detail"])


def test_a_head_without_end_is_cut_off(prepared: Path) -> None:
    with Server(prepared) as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall((b"X-Filler: " + b"x" * 1000 + b"\r\n") * 50_000)
        assert server.get("/healthz").status == 200


def test_a_connection_that_says_nothing_is_cut_off(prepared: Path) -> None:
    code = "import ckpt_indexer.web.server as s; s.HEAD_S = 0.2; from ckpt_indexer.cli import main; main()"
    with Server(prepared, code=code) as server, server.connect() as silent, server.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        for connection in (silent, slow):
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_more_connections_than_allowed_are_503_and_the_next_is_served(prepared: Path) -> None:
    with Server(prepared, "--connections-max", "4") as server:
        idle = [server.connect() for _ in range(4)]
        assert wait_for(lambda: server.get("/healthz").status == 503)
        for connection in idle:
            connection.close()
        wait_for(lambda: server.get("/healthz").status == 200)


def test_a_broken_request_is_400_and_logs_nothing(prepared: Path) -> None:
    with Server(prepared) as server, server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"
        assert server.log_text().count("\n") == 1


# --- settings ---


def test_flags_are_above_the_environment_above_the_file_above_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nstreams_max: 2\nconnections_max: 3\nallowed_hosts: [a.lab, b.lab]\n")
    environment = {"CKPT_INDEXER_STREAMS_MAX": "20", "CKPT_INDEXER_CONNECTIONS_MAX": "30"}
    settings = load_server_settings({"connections_max": 300, "host": None}, environment, file)
    assert (settings.host, settings.port, settings.streams_max, settings.connections_max, settings.allowed_hosts) == (
        "127.0.0.1", 1, 20, 300, ("a.lab", "b.lab")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "setting"),
    [({"port": 65536}, "port"), ({"streams_max": 0}, "streams_max"), ({"allowed_hosts": "*"}, "allowed_hosts"),
     ({"allowed_hosts": "a:80"}, "allowed_hosts"), ({"token_file": "/none"}, "token_file"), ({"hots": "x"}, "hots")],
)  # fmt: skip
def test_a_wrong_setting_is_named(flags: dict[str, Any], setting: str) -> None:
    with pytest.raises(SettingInvalid, match=f"setting {setting}: "):
        load_server_settings(flags, {}, None)


def test_the_token_is_no_flag_because_command_lines_are_everybodys_to_read() -> None:
    assert re.findall(r"--token\b(?!-file)", run("serve", "--help").stdout) == []


def test_importing_the_settings_loads_no_web_framework() -> None:
    code = "import sys, ckpt_indexer.web.settings; print({'fastapi', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_openapi_of_a_server_with_a_token_says_so(prepared: Path) -> None:
    with client_of(prepared, token=TOKEN) as client:
        described = client.get("/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()
    guarded = {path for path, methods in described["paths"].items() if "security" in methods["get"]}
    assert guarded == set(described["paths"]) - {"/healthz"}
    assert json.dumps(described).count(TOKEN) == 0
    assert quote(TOKEN) == TOKEN
