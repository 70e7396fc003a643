"""The command: starts, listens, says so, ends; and what it says when it cannot."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_indexer.index.store import Store
from tests.index.entries import entry
from tests.process import COMMAND, run, wait_for
from tests.web.serving import Server


def test_serve_listens_on_loopback_and_says_where(prepared: Path) -> None:
    with Server(prepared) as server:
        assert server.log_text() == f"serving {prepared} at http://127.0.0.1:{server.port}/\n"
        assert server.get("/api/checkpoints").json()["total"] == 12
        listening = Path(f"/proc/{server.process.pid}/net/tcp").read_text()
        assert f"0100007F:{server.port:04X} 00000000:0000 0A" in listening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(prepared: Path, number: int) -> None:
    with Server(prepared) as server:
        server.get("/api/checkpoints/alpha/checkpoints/e1.ckpt")
        worker = children_of(server.process.pid)
        assert len(worker) == 1
        assert server.stop(number) == 0
        assert server.log_text().count("\n") == 1
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in worker))


def children_of(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_a_port_in_use_is_one_clear_line(prepared: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", prepared, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ckpt-indexer: cannot listen at 127.0.0.1 port {port}: the port is in use\n"


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run("serve", tmp_path / "none", "--port", "0")
    assert (done.returncode, done.stderr) == (
        1, f"ckpt-indexer: outputs root {tmp_path / 'none'}: there is no such folder\n"
    )  # fmt: skip


def test_without_the_extra_the_cure_is_named(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ('fastapi', 'uvicorn') else found(name, *a)\n"
        "from ckpt_indexer.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "serve", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ckpt-indexer: serve needs fastapi, uvicorn: pip install 'ckpt-indexer[web]'\n"


def test_no_other_command_pays_for_the_server(prepared: Path) -> None:
    code = (
        "import sys\n"
        "from ckpt_indexer.cli import main\n"
        f"try: main(['list', {str(prepared)!r}, '-q'])\n"
        "except SystemExit: pass\n"
        "print({'fastapi', 'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_nothing_of_web_imports_the_watcher() -> None:
    code = (
        "import sys, ckpt_indexer.web as web\n"
        "import ckpt_indexer.web.app, ckpt_indexer.web.server, ckpt_indexer.web.metrics\n"
        "heavy = ('ckpt_indexer.watch', 'watchdog', 'torch', 'structlog')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_tells_systemd_when_it_listens(prepared: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with Server(prepared, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as server:
            assert manager.recv(4096).decode() == f"READY=1\nSTATUS=serving http://127.0.0.1:{server.port}/"


def test_it_follows_the_index_as_it_changes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("a.ckpt")])
    with Server(tmp_path) as server:
        for number in range(3):
            store.commit([entry(f"{number}.ckpt")])
            wait_for(lambda: server.get("/api/checkpoints").json()["generation"] == store.generation)


def test_connections_are_kept_and_used_again(prepared: Path) -> None:
    with Server(prepared) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        first = connection.sock
        connection.request("GET", "/healthz")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
        assert connection.sock is first
        connection.close()


def test_an_address_of_ipv6_is_written_as_one(prepared: Path) -> None:
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("there is no IPv6")
    process = subprocess.Popen(
        [COMMAND, "serve", prepared, "--host", "::1", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process, process.stderr:
        line = process.stderr.readline()
        process.terminate()
    if "cannot listen" in line:
        pytest.skip("there is no IPv6")
    assert line.startswith(f"serving {prepared} at http://[::1]:")
