"""Server-sent events, over sockets: batches, live changes, resuming, and clients that leave or get stuck."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.index.changes import CHANGED_KEYS_MAX
from ckpt_indexer.index.query import Query, parse_filter, select
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import INDEX_NAME, Key
from ckpt_indexer.web import stream
from tests.index.entries import entry
from tests.process import Daemon, encoded, put, wait_for
from tests.web.serving import Server, parse_events


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The real store on a root of its own, with three entries of one generation."""
    root = tmp_path / "outputs"
    root.mkdir()
    store = Store(str(root))
    store.commit([entry(f"exp/checkpoints/{n}.ckpt", epoch=n) for n in range(3)])
    return store


def large(root: Path, count: int, *, padding: int = 1000) -> Path:
    """Make an index of many entries."""
    root.mkdir()
    Store(str(root)).commit(
        [entry(f"e/checkpoints/{n:06}.ckpt", epoch=n, architecture="x" * padding) for n in range(count)]
    )
    return root


def data_of(events: Any) -> list[dict[str, Any]]:
    return [each["data"] for each in events]


# --- batches ---


@pytest.mark.parametrize("batch_size", [1, 5, 500])
@pytest.mark.parametrize("query", ["", "&sort_by=hmean&sort_order=asc&filter=status%3Dok", "&limit=3"])
def test_the_stream_is_batches_and_then_complete(prepared: Path, batch_size: int, query: str) -> None:
    with Server(prepared) as server:
        with server.events(f"/api/checkpoints/stream?batch_size={batch_size}{query}") as events:
            told = list(events)
        assert {tuple(each) for each in told} == {("data",)}
        *batches, complete = data_of(told)
        listed = server.get(f"/api/checkpoints?{query.replace('&limit=3', '&page_size=3')}").json()
    assert [each for batch in batches for each in batch["checkpoints"]] == listed["checkpoints"]
    assert [batch["count"] for batch in batches] == [len(batch["checkpoints"]) for batch in batches]
    assert {batch["type"] for batch in batches} == {"batch"}
    assert [batch["has_more"] for batch in batches] == [True] * (len(batches) - 1) + [False]
    assert max(batch["count"] for batch in batches) <= batch_size
    total = len(listed["checkpoints"])
    assert complete == {"type": "complete", "total": total, "generation": listed["generation"]}


def test_the_first_batch_is_small_so_that_rows_show_at_once(tmp_path: Path) -> None:
    root = large(tmp_path / "outputs", 1200, padding=1)
    with Server(root) as server, server.events("/api/checkpoints/stream?batch_size=500") as events:
        assert [each.get("count", each["type"]) for each in data_of(events)] == [100, 500, 500, 100, "complete"]


def test_an_empty_index_streams_nothing_but_its_end(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text('{"version": "1.0", "generation": 7, "checkpoints": {}, "entries": {}}')
    with Server(tmp_path) as server, server.events("/api/checkpoints/stream") as events:
        assert data_of(events) == [{"type": "complete", "total": 0, "generation": 7}]


def test_without_an_index_the_stream_says_so(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.events("/api/checkpoints/stream") as events:
        (told,) = data_of(events)
    assert (told["type"], told["error"].startswith(f"no index at {tmp_path}")) == ("error", True)


def test_a_stream_under_way_gives_what_was_there_as_it_is_when_its_turn_comes(tmp_path: Path) -> None:
    root = large(tmp_path / "outputs", 20_000)
    with Server(root) as server, contextlib.closing(server.connect(receive_buffer=4096)) as connection:
        connection.sendall(
            b"GET /api/checkpoints/stream?sort_by=epoch&sort_order=asc HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        lines = connection.makefile("rb")
        assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
        for _ in iter(lines.readline, b"\r\n"):
            pass
        events = parse_events(iter(lines.readline, b""))
        first = next(events)["data"]
        store = Store(str(root))
        store.load()
        store.commit(
            [entry("e/checkpoints/019999.ckpt", epoch=-1), entry("new.ckpt")], [Key("e/checkpoints/019998.ckpt")]
        )
        wait_for(lambda: server.get("/api/checkpoints?page_size=1").json()["generation"] == 2)
        *batches, complete = data_of(events)
    found = [each for batch in (first, *batches) for each in batch["checkpoints"]]
    assert [each["path"] for each in found] == [f"e/checkpoints/{n:06}.ckpt" for n in (*range(19_998), 19_999)]
    assert (found[-1]["epoch"], complete) == (-1, {"type": "complete", "total": 19_999, "generation": 1})


# --- changes ---


def test_changes_begin_with_the_generation_and_tell_what_came_changed_and_went(store: Store) -> None:
    with Server(Path(store.root)) as server, server.events("/api/changes") as events:
        assert next(events) == {"retry": "2000"}
        assert next(events) == {"event": "ready", "id": "1", "data": {"generation": 1}}
        store.commit([entry("exp/checkpoints/1.ckpt", epoch=10), entry("new.ckpt")], [Key("exp/checkpoints/0.ckpt")])
        told = next(events)
        document = json.loads((Path(store.root) / INDEX_NAME).read_text())["entries"]
        assert told == {
            "event": "change", "id": "2",
            "data": {
                "generation": 2,
                "changed": [document["exp/checkpoints/1.ckpt"], document["new.ckpt"]],
                "removed": ["exp/checkpoints/0.ckpt"],
            },
        }  # fmt: skip


@pytest.mark.parametrize("how", ["query", "header"])
def test_a_client_that_comes_back_is_told_what_it_missed_in_one_event(store: Store, how: str) -> None:
    with Server(Path(store.root)) as server:
        for epoch in (11, 12):
            store.commit([entry("exp/checkpoints/1.ckpt", epoch=epoch), entry(f"{epoch}.ckpt")])
            wait_for(lambda: server.get("/api/checkpoints").json()["generation"] == store.generation)
        store.commit([], [Key("11.ckpt")])
        wait_for(lambda: server.get("/api/checkpoints").json()["generation"] == store.generation)
        headers = {"Last_Event_ID": "1"} if how == "header" else {}
        with server.events("/api/changes" + ("?since=1" if how == "query" else ""), **headers) as events:
            assert next(events) == {"retry": "2000"}
            told = next(events)
    assert (told["event"], told["id"], told["data"]["removed"]) == ("change", "4", ["11.ckpt"])
    assert [(each["path"], each["epoch"]) for each in told["data"]["changed"]] == [
        ("12.ckpt", None), ("exp/checkpoints/1.ckpt", 12)
    ]  # fmt: skip


@pytest.mark.parametrize("since", [0, 2, 999])
def test_a_gap_that_is_not_known_any_more_is_one_resync(store: Store, since: int) -> None:
    store.commit([entry("more.ckpt")])
    store.commit([entry("yet-more.ckpt")])
    with Server(Path(store.root)) as server, server.events(f"/api/changes?since={since}") as events:
        assert [next(events), next(events)] == [
            {"retry": "2000"}, {"event": "resync", "id": "3", "data": {"generation": 3}}
        ]  # fmt: skip
        store.commit([entry("after.ckpt")])
        assert next(events)["event"] == "change"


def test_a_large_change_is_told_and_a_larger_one_is_a_resync(store: Store) -> None:
    with Server(Path(store.root)) as server, server.events("/api/changes") as events:
        assert [next(events), next(events)][1]["event"] == "ready"
        store.commit([entry(f"{n}.ckpt") for n in range(stream.CHANGED_MAX)])
        told = next(events)
        assert (told["event"], len(told["data"]["changed"])) == ("change", stream.CHANGED_MAX)
        store.commit([entry(f"{n}.ckpt", epoch=1) for n in range(stream.CHANGED_MAX)] + [entry("one more.ckpt")])
        assert next(events) == {"event": "resync", "id": "3", "data": {"generation": 3}}


def test_a_change_of_nearly_everything_is_a_resync(store: Store) -> None:
    with Server(Path(store.root)) as server, server.events("/api/changes") as events:
        assert [next(events), next(events)][1]["event"] == "ready"
        store.commit([entry(f"{n}.ckpt") for n in range(CHANGED_KEYS_MAX + 1)])
        assert next(events) == {"event": "resync", "id": "2", "data": {"generation": 2}}


def test_another_index_in_its_place_is_a_resync(store: Store) -> None:
    root = Path(store.root)
    store.commit([entry("more.ckpt")])
    with Server(root) as server, server.events("/api/changes") as events:
        assert [next(events), next(events)][1]["event"] == "ready"
        shutil.move(root / INDEX_NAME, root / "aside")
        Store(str(root)).commit([entry("only.ckpt")])
        assert next(events) == {"event": "resync", "id": "1", "data": {"generation": 1}}


def test_a_silent_stream_has_a_heartbeat(store: Store) -> None:
    code = "import ckpt_indexer.web.stream as s; s.HEARTBEAT_S = 0.05; from ckpt_indexer.cli import main; main()"
    with Server(Path(store.root), code=code) as server, server.events("/api/changes") as events:
        told = [next(events) for _ in range(4)]
    assert [told[0], told[1]["event"], *told[2:]] == [{"retry": "2000"}, "ready", *[{"comment": "heartbeat"}] * 2]


def test_a_checkpoint_that_the_daemon_finds_is_told_within_a_second_or_so(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    put(root / "exp/checkpoints/a.ckpt", encoded(1))
    with Daemon(root) as daemon, Server(root) as server, server.events("/api/changes") as events:
        assert [next(events), next(events)][1]["event"] == "ready"
        put(root / "exp/checkpoints/b.ckpt", encoded(2))
        told = next(events)
        while told["data"]["changed"][0]["status"] != "ok":
            told = next(events)
        assert [each["path"] for each in told["data"]["changed"]] == ["exp/checkpoints/b.ckpt"]
        (root / "exp/checkpoints/b.ckpt").unlink()
        assert next(event for event in events if event["data"]["removed"])["data"]["removed"] == [
            "exp/checkpoints/b.ckpt"
        ]
        daemon.sync()
    expected = select(read_index(root).entries.values(), Query(filters=(parse_filter("status=ok"),)))
    assert [each.path for each in expected] == ["exp/checkpoints/a.ckpt"]


# --- clients ---


def test_a_client_that_leaves_costs_nothing(prepared: Path) -> None:
    with Server(prepared, "--streams-max", "2") as server:
        for _ in range(5):
            with server.events("/api/changes") as one, server.events("/api/changes") as other:
                assert [next(one), next(other)] == [{"retry": "2000"}] * 2
                refused = server.get("/api/checkpoints/stream")
                assert (refused.status, refused.headers["retry-after"], refused.json()) == (
                    503, "5", {"detail": "too many streams are open: try again later"}
                )  # fmt: skip
            wait_for(lambda: b'streams{route="stream_changes"} 0.0' in server.get("/metrics").body)


@pytest.mark.parametrize("clients", [4, pytest.param(8, marks=pytest.mark.soak)])
def test_stuck_clients_hold_nobody_up_and_memory_stays_flat(tmp_path: Path, clients: int) -> None:
    root = large(tmp_path / "outputs", 30_000)
    store = Store(str(root))
    store.load()
    with Server(root) as server, contextlib.ExitStack() as stack:

        def change() -> None:
            store.commit([entry("changing.ckpt", epoch=store.generation)])
            wait_for(lambda: server.get("/api/checkpoints?page_size=1").json()["generation"] == store.generation)

        change()
        change()
        server.get("/metrics")
        with server.events("/api/checkpoints/stream?batch_size=5000") as events:
            assert len(list(events)) == 8
        before = server.memory()
        for path in (b"/stream", b".csv") * (clients // 2):
            connection = stack.enter_context(contextlib.closing(server.connect(receive_buffer=4096)))
            connection.sendall(b"GET /api/checkpoints%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            change()  # each of them began with another generation
        streams = b'streams{route="stream_checkpoints"} %d.0' % (clients // 2)
        wait_for(lambda: streams in server.get("/metrics").body)
        with server.events("/api/checkpoints/stream?batch_size=5000") as events:
            told = {"type": "complete", "total": 30_001, "generation": store.generation}
            assert data_of(events)[-1] == told
        assert server.memory() - before < 40 << 20  # the index has 50 MB, and each client got another one


def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    root = large(tmp_path / "outputs", 20_000)
    limits = "import ckpt_indexer.web.server as s; s.STALL_S = 0.2; from ckpt_indexer.cli import main; main()"
    with Server(root, code=limits) as server, contextlib.closing(server.connect(receive_buffer=4096)) as connection:
        connection.sendall(b"GET /api/checkpoints/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        wait_for(lambda: b'streams{route="stream_checkpoints"} 0.0' in server.get("/metrics").body)
        received = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        assert (b'"type":"batch"' in received, b'"type":"complete"' in received) == (True, False)
        assert server.log_text().count("\n") == 1


def test_the_server_ends_while_streams_are_open(prepared: Path) -> None:
    with Server(prepared) as server, server.events("/api/changes") as events:
        assert [next(events), next(events)][1]["event"] == "ready"
        assert server.stop() == 0
        assert list(events) == []
        assert server.log_text().count("\n") == 1
