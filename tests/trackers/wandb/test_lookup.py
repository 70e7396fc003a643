"""Asking W&B: the real client against a server here, that answers, refuses, hangs or lies; and nobody waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ckpt_indexer import read_index
from ckpt_indexer.trackers.wandb import lookup as wandb_lookup
from ckpt_indexer.trackers.wandb.lookup import Lookup, default_cache_dir
from ckpt_indexer.trackers.wandb.run import Run, RunPath
from tests.process import Daemon, index_equals_disk, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = RunPath("team", "project", "el1e2may")
FILE = "team/project/el1e2may.json"
VIEWER = {"id": "VXNlcjox", "entity": "mine", "username": "alice", "email": "", "flags": "{}", "teams": {"edges": []}}
RUN = Run(
    id="el1e2may",
    name="nice name",
    project="project",
    entity="team",
    state="finished",
    config={"lr": 0.1, "model": {"encoder": "resnet18"}},
)
SHORT, NEVER_AGAIN = (0.01, 0.02), (1000.0, 1000.0)  # pauses


class Server(ThreadingHTTPServer):
    """Answers as W&B does what the client asks for one run; ``mode`` says how else."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode: str | None = None
        self.state = "finished"
        self.asked: list[Any] = []  # for runs: the variables of each query
        self.is_asked = threading.Event()
        self.released = threading.Event()  # ends what hangs

    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server_port}"
        return {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed in the middle of an answer."""

    def answer(self, query: dict[str, Any]) -> tuple[int, bytes]:
        self.is_asked.set()
        if self.mode == "hangs":
            self.released.wait()
        if self.mode is not None and self.mode.isdecimal():
            return int(self.mode), b'{"error": "no"}'
        if self.mode == "garbage":
            return 200, b"<html>\xff\xfe\x1b[31m"
        if self.mode == "errors":
            return 200, b'{"errors": [{"message": "boom\\n\\u001b[31m!"}]}'
        if "query Run(" not in query["query"]:
            return 200, json.dumps({"data": {"viewer": VIEWER}}).encode()
        self.asked.append(query["variables"])
        if self.mode == "missing":
            return 200, b'{"data": {"project": {"run": null}}}'
        if self.mode == "wrong types":
            wrong = {"name": 7, "displayName": [], "state": [1], "config": "]", "summaryMetrics": "3", "projectId": "1"}
            return 200, json.dumps({"data": {"project": {"run": wrong}}}).encode()
        config: dict[str, Any] = {name: {"value": value, "desc": None} for name, value in RUN.config.items()}
        if self.mode == "huge":
            config |= {f"key{i}": {"value": "x" * 1000} for i in range(20_000)}
        described: dict[str, Any] = {
            **dict.fromkeys(("sweepName", "group", "jobType", "commit", "notes", "historyKeys", "description")),
            **dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00"),
            "id": "UnVuOjE=",
            "projectId": "1",
            "name": "el1e2may",
            "displayName": "nice name",
            "state": self.state,
            "tags": [],
            "readOnly": False,
            "historyLineCount": 3,
            "user": {"name": "Alice", "username": "alice"},
            "config": json.dumps({**config, "_wandb": {"value": {}}}),
            "summaryMetrics": json.dumps({"epoch": 2, "val/hmean": 0.5, "_step": 8, "note": "x"}),
            "systemMetrics": "{}",
        }
        return 200, json.dumps({"data": {"project": {"run": described}}}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, body = self.server.answer(query)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(mode: str | None = None) -> Iterator[Server]:
    with Server() as server:
        server.mode = mode
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("wandb")
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name == "wandb"] == []


def cached(folder: Path, run: Run | None, *, asked_at: float = 4e9, file: str = FILE) -> Path:
    """Put an answer into the cache by hand."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode({"asked_at": asked_at, "run": run}))
    return path


def with_url(server: Server) -> Run:
    run = msgspec.structs.replace(RUN, url=f"http://127.0.0.1:{server.server_port}/team/project/runs/el1e2may")
    run.state = server.state
    return run


def problem_of(lookup: Lookup, reason: str = "") -> str:
    """Wait for a problem that has *reason* in it."""

    def found() -> str | None:
        problem = lookup.problem
        return problem if problem is not None and reason in problem else None

    problem: str = wait_for(found)
    return problem


# --- the real client ---


def test_a_run_is_asked_for_once_and_known_for_ever(server, tmp_path) -> None:
    told: list[RunPath] = []
    with Lookup(str(tmp_path), on_result=told.append, environment=server.environment()) as lookup:
        assert lookup.get(PATH) is None
        wait_for(lambda: told)
        assert lookup.get(PATH) == with_url(server)
    with Lookup(str(tmp_path), on_result=told.append, environment=server.environment()) as lookup:
        assert lookup.get(PATH) == with_url(server)
        assert lookup._thread is None
    assert told == [PATH]
    assert server.asked == [{"entity": "team", "project": "project", "name": "el1e2may"}]


def test_several_runs_are_asked_for_by_one_client_and_one_that_is_missing_is_remembered(server, tmp_path) -> None:
    server.mode = "missing"
    paths = [RunPath(None, "project", f"run{number}") for number in range(3)]
    with Lookup(str(tmp_path), environment=server.environment()) as lookup:
        with lookup._changed:  # so that the client finds them all
            for path in paths:
                lookup.get(path)
        wait_for(lambda: len(list(tmp_path.glob("*/*/*.json"))) == 3 and not lookup._wanted)
        assert [lookup.get(path) for path in paths] == [None, None, None]
        assert not lookup._wanted
    assert [asked["name"] for asked in server.asked] == ["run0", "run1", "run2"]
    assert {asked["entity"] for asked in server.asked} == {"mine"}  # the key's own


def test_a_run_that_goes_on_is_asked_for_again_and_told_if_it_changed(server, tmp_path) -> None:
    server.state = "running"
    told: list[RunPath] = []
    cached(tmp_path, with_url(server), asked_at=0.0)
    with Lookup(str(tmp_path), on_result=told.append, environment=server.environment()) as lookup:
        old = lookup.get(PATH)
        assert old is not None
        assert old.state == "running"
        wait_for(lambda: server.asked and not lookup._wanted)
        assert told == []  # nothing is new
        assert lookup.get(PATH) == old
        assert not lookup._wanted  # and it was asked for just now
        cached(tmp_path, old, asked_at=0.0)
        server.state = "finished"
        lookup.get(PATH)
        wait_for(lambda: told)
        assert lookup.get(PATH) == with_url(server)


def test_a_wrong_answer_changes_nothing_and_the_question_is_asked_until_it_is_right(server, tmp_path) -> None:
    told: list[RunPath] = []
    old = with_url(server)
    old.state, old.name = "running", "old"
    cached(tmp_path, old, asked_at=0.0)
    server.mode = "garbage"
    with Lookup(str(tmp_path), on_result=told.append, pauses_s=SHORT, environment=server.environment()) as lookup:
        assert lookup.get(PATH) == old
        for mode, reason in {
            "garbage": "character",
            "errors": "boom",
            "wrong types": "CommError",
            "401": "401",
        }.items():
            server.mode = mode
            assert problem_of(lookup, reason).isprintable()
            assert lookup.get(PATH) == old
        server.mode = None
        wait_for(lambda: told)
        assert [lookup.get(PATH), lookup.problem] == [with_url(server), None]


def test_an_answer_without_measure_is_cut(server, tmp_path) -> None:
    server.mode = "huge"
    with Lookup(str(tmp_path), environment=server.environment()) as lookup:
        lookup.get(PATH)
        run = wait_for(lambda: lookup.get(PATH))
        assert (run.id, run.state) == (RUN.id, RUN.state)
        assert (tmp_path / FILE).stat().st_size < wandb_lookup.ANSWER_MAX


def test_with_a_server_that_is_gone_or_hangs_or_fails_nobody_waits(server, tmp_path) -> None:
    old = Run(id="el1e2may", state="running")
    with contextlib.ExitStack() as stack:
        lookups = []
        for mode in ("hangs", "500", "429", "gone"):
            other = stack.enter_context(serving(mode))
            cached(tmp_path / mode, old, asked_at=0.0)
            if mode == "gone":
                other.socket.close()  # connections are refused
                other.is_asked.set()
            environment = {**other.environment(), "WANDB_HTTP_TIMEOUT": "1"}
            lookup = Lookup(str(tmp_path / mode), pauses_s=NEVER_AGAIN, environment=environment)
            stack.callback(lookup.close)
            assert lookup.get(PATH) == old
            lookups.append((other, lookup))
        for other, lookup in lookups:
            assert "verify" in problem_of(lookup)  # the first of its requests failed
            assert other.is_asked.is_set()
            assert lookup.get(PATH) == old
            assert list(lookup._wanted) == [PATH]  # nothing is lost


def test_a_client_that_does_not_come_to_an_answer_is_ended(server, tmp_path) -> None:
    server.mode = "hangs"
    with Lookup(str(tmp_path), answer_s=0.1, pauses_s=NEVER_AGAIN, environment=server.environment()) as lookup:
        lookup.get(PATH)
        client = wait_for(lambda: lookup._client)
        assert problem_of(lookup) == "no answer within 0.1 s"
    assert client.returncode is not None


def test_closing_in_the_middle_of_a_question_ends_the_client_and_its_core(server, tmp_path) -> None:
    server.mode = "hangs"
    lookup = Lookup(str(tmp_path), environment=server.environment())
    lookup.get(PATH)
    wait_for(server.is_asked.is_set)
    client = lookup._client
    assert client is not None
    lookup.close()
    assert client.returncode is not None
    assert lookup.problem == "the client ended"  # it was not waited for
    wait_for(lambda: not any(f"--pid\0{client.pid}\0" in line for line in command_lines()))
    assert lookup.get(PATH) is None


def command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    return lines


# --- without it ---


@pytest.fixture
def no_wandb(tmp_path) -> dict[str, str]:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "wandb.py").write_text("raise ImportError('wandb is not installed')")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_without_the_library_the_problem_says_so(tmp_path, no_wandb) -> None:
    with Lookup(str(tmp_path / "cache"), environment=no_wandb, pauses_s=SHORT) as lookup:
        lookup.get(PATH)
        assert wait_for(lambda: lookup.problem) == "ImportError: wandb is not installed"
        assert list(lookup._wanted) == [PATH]


def test_a_failing_question_goes_behind_the_others(tmp_path, no_wandb) -> None:
    with Lookup(str(tmp_path / "cache"), environment=no_wandb, pauses_s=NEVER_AGAIN) as lookup:
        other = PATH._replace(id="other")
        with lookup._changed:
            lookup.get(PATH)
            lookup.get(other)
        wait_for(lambda: lookup.problem and list(lookup._wanted) == [other, PATH])


@pytest.mark.parametrize(
    "path",
    [RunPath("..", "project", "x"), RunPath("team", "a/b", "x"), RunPath("team", "", "x")]
    + [RunPath(None, "p", run_id) for run_id in ("x\n", "x" * 129, ".x", "\udcff")],
)
def test_what_can_be_no_run_is_not_asked_for(tmp_path, path) -> None:
    with Lookup(str(tmp_path)) as lookup:
        assert lookup.get(path) is None
        assert not lookup._wanted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"[" * 100_000, b'{"asked_at": "x"}', b'{"run": 3}'])
def test_a_broken_cache_file_counts_as_none(tmp_path, no_wandb, content) -> None:
    cached(tmp_path, RUN).write_bytes(content)
    with Lookup(str(tmp_path), environment=no_wandb) as lookup:
        assert lookup.get(PATH) is None
        assert list(lookup._wanted) == [PATH]


def test_a_cache_that_leads_elsewhere_is_not_followed(tmp_path, no_wandb) -> None:
    path = cached(tmp_path / "elsewhere", RUN)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "team").symlink_to(path.parents[1])
    with Lookup(str(tmp_path / "cache"), environment=no_wandb) as lookup:
        assert lookup.get(PATH) is None


@pytest.mark.parametrize(
    ("run", "asked_at", "is_asked_for"),
    [(RUN, 0.0, False), (None, 0.0, True), (None, 4e9, True), (Run(id="x", state="running"), 0.0, True)],
)
def test_only_ended_runs_are_known_for_ever(tmp_path, no_wandb, run, asked_at, is_asked_for) -> None:
    cached(tmp_path, run, asked_at=asked_at)  # 4e9 is a time to come: a clock was wrong
    with Lookup(str(tmp_path), environment=no_wandb) as lookup:
        assert lookup.get(PATH) == run
        assert bool(lookup._wanted) == is_asked_for


def test_what_is_wanted_and_what_is_kept_are_bounded(tmp_path, no_wandb, monkeypatch) -> None:
    monkeypatch.setattr(wandb_lookup, "WANTED_MAX", 2)
    monkeypatch.setattr(wandb_lookup, "CACHE_MAX", 1000)
    for number in range(10):
        path = cached(tmp_path, RUN, file=f"team/project/run{number}.json")
        os.utime(path, (number, number))
    with Lookup(str(tmp_path), environment=no_wandb) as lookup:
        for number in range(3):
            lookup.get(PATH._replace(id=f"new{number}"))
        assert len(lookup._wanted) == 2
        wait_for(lambda: lookup.problem)
    left = sorted(path.name for path in tmp_path.glob("team/project/*"))
    assert left == [f"run{number}.json" for number in range(10 - len(left), 10)]
    assert 0 < len(left) < 10


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    home = os.path.expanduser("~/.cache/ckpt-indexer/wandb")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == home
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == home
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert default_cache_dir() == "/var/cache/me/ckpt-indexer/wandb"


def test_the_daemon_takes_over_what_the_server_knows_and_waits_for_nothing(server, tmp_path) -> None:
    import torch

    from tests.trackers.wandb.test_run import framed

    folder = tmp_path / "outputs/exp"
    run = folder / "wandb/run-20261121_070633-el1e2may"
    run.mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    described = pb.Record(run=pb.RunRecord(run_id="el1e2may", entity="team", project="project"))
    described.run.start_time.FromSeconds(1)
    (run / "run-el1e2may.wandb").write_bytes(framed([described.SerializeToString()]))
    environment = {**server.environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    server.mode = "hangs"
    with Daemon(tmp_path / "outputs", "--wandb-api", env=environment) as daemon:
        torch.save({"epoch": 1, "state_dict": {}}, folder / "checkpoints/a.ckpt")
        entry = daemon.sync()["exp/checkpoints/a.ckpt"]
        assert (entry.wandb_run_id, entry.encoder) == ("el1e2may", None)
        server.mode = None
        server.released.set()
        wait_for(lambda: read_index(tmp_path / "outputs").entries["exp/checkpoints/a.ckpt"].encoder == "resnet18")
        daemon.sync()
        assert index_equals_disk(tmp_path / "outputs")
    with Daemon(tmp_path / "outputs", "--wandb-api", env=environment) as daemon:  # from the cache; nobody is asked
        torch.save({"epoch": 2, "state_dict": {}}, folder / "checkpoints/b.ckpt")
        assert daemon.sync()["exp/checkpoints/b.ckpt"].encoder == "resnet18"
    assert len(server.asked) == 1
