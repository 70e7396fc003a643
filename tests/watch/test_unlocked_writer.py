"""A writer of the index that takes no lock, from what it read when it was made: what is known stands beside it."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import INDEX_NAME
from tests.index.entries import entry
from tests.process import Daemon, encoded, index_equals_disk, put, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

WRITES = 200  # interleaved; the full length is a soak test


class OlderIndex:
    """The index object of an older catalogue: reads when it is made, writes that, keeps what it does not know."""

    def __init__(self, root: Path) -> None:
        self.path = root / INDEX_NAME
        self.document = json.loads(self.path.read_text())

    def add(self, experiment: str, name: str) -> None:
        part = self.document["checkpoints"].setdefault(
            experiment, {"checkpoints": [], "metadata_files": [], "last_modified": ""}
        )
        part["checkpoints"].append(name)

    def save(self, *, in_place: bool) -> None:
        text = json.dumps(self.document)
        if in_place:
            self.path.write_text(text)
        else:
            temporary = self.path.with_suffix(".older")
            temporary.write_text(text)
            temporary.replace(self.path)


@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_store_knows_stands_and_unknown_fields_are_kept(tmp_path: Path, *, in_place: bool) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("e/checkpoints/a.ckpt")])
    older = OlderIndex(tmp_path)
    store.commit([entry("e/checkpoints/b.ckpt")])
    older.document["theirs"] = {"x": 1}
    older.add("e", "c.ckpt")
    older.save(in_place=in_place)
    assert store.load() == set()
    assert (store.is_overwritten, store.overwrites, set(store.entries)) == (
        True, 1, {"e/checkpoints/a.ckpt", "e/checkpoints/b.ckpt"},
    )  # fmt: skip
    assert store.pop_unverified().keys == {"e/checkpoints/c.ckpt"}
    store.commit([])
    document = json.loads(older.path.read_text())
    assert (document["generation"], document["theirs"], set(document["entries"])) == (3, {"x": 1}, set(store.entries))


def test_an_index_that_is_seen_half_written_is_waited_for_and_not_set_aside(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("e/checkpoints/a.ckpt")])
    older = OlderIndex(tmp_path)
    whole = older.path.read_bytes()
    older.path.write_bytes(whole[: len(whole) // 2])
    begun = threading.Event()

    def finish() -> None:
        begun.wait()
        older.path.write_bytes(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    begun.set()
    store.load()
    writer.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX_NAME, ".checkpoint_index.lock"]


def test_a_stale_index_is_put_right_at_once_and_told_once(tmp_path: Path) -> None:
    put(tmp_path / "e/checkpoints/a.ckpt", encoded(1))
    with Daemon(tmp_path, "--scan-interval", "3600") as daemon:
        older = OlderIndex(tmp_path)
        put(tmp_path / "e/checkpoints/b.ckpt", encoded(2))
        assert len(daemon.sync()) == 2
        generation = read_index(tmp_path).generation
        older.add("gone", "none.ckpt")
        for in_place in (True, False):
            older.save(in_place=in_place)
            view = read_index(tmp_path)
            assert (len(view.entries), view.generation >= generation) == (2, True)
            wait_for(lambda: len(json.loads(older.path.read_text())["entries"]) == 2)
            assert json.loads(older.path.read_text())["generation"] > generation
        assert index_equals_disk(tmp_path)
        assert list(json.loads(older.path.read_text())["checkpoints"]) == ["e"]
        assert len(daemon.events("index_overwritten")) == 1


class Reader(threading.Thread):
    """Reads the index all the time; keeps how long an entry was missing that was there, and whether it went back."""

    def __init__(self, root: Path, keys: set[str]) -> None:
        super().__init__()
        self._root, self._keys, self._end = root, keys, threading.Event()
        self.missing_s = 0.0
        self.went_back = False
        self.looks = 0

    def run(self) -> None:
        generation, since = 0, None
        while not self._end.wait(0.001):
            view = read_index(self._root)
            self.went_back = self.went_back or view.generation < generation
            generation = max(generation, view.generation)
            if self._keys <= view.entries.keys():
                since = None
            else:
                since = since or time.monotonic()
                self.missing_s = max(self.missing_s, time.monotonic() - since)
            self.looks += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


@pytest.mark.parametrize("writes", [WRITES, pytest.param(1_000, marks=pytest.mark.soak)])
def test_of_interleaved_writes_the_end_is_right_and_no_reader_loses_an_entry(tmp_path: Path, writes: int) -> None:
    kept = {f"e/checkpoints/kept{i}.ckpt" for i in range(5)}
    for key in kept:
        put(tmp_path / key, encoded(3))
    with Daemon(tmp_path) as daemon:
        older = OlderIndex(tmp_path)
        reader = Reader(tmp_path, kept)
        reader.start()
        for i in range(writes):
            put(tmp_path / f"e/checkpoints/{i % 20}.ckpt", encoded(i % 10))
            if i % 3 == 0:
                (tmp_path / f"e/checkpoints/{(i + 7) % 20}.ckpt").unlink(missing_ok=True)
            older.save(in_place=i % 2 == 0)
            if i % 50 == 0:
                daemon.sync()
                older = OlderIndex(tmp_path)
        daemon.sync()
        reader.stop()
        wait_for(lambda: index_equals_disk_of_file(tmp_path))
        assert reader.looks > 0
        assert (reader.went_back, reader.missing_s < 1.0) == (False, True), reader.missing_s
    assert not [path for path in os.listdir(tmp_path) if "corrupt" in path]


def index_equals_disk_of_file(root: Path) -> bool:
    """Hold the file itself, as another process reads it, against the disk."""
    on_disk = {path.relative_to(root).as_posix() for path in root.rglob("*.ckpt")}
    try:
        written = set(json.loads((root / INDEX_NAME).read_text())["entries"])
    except ValueError:
        return False
    return written == on_disk and index_equals_disk(root)


def test_rebuild_beside_such_a_writer_loses_nothing(tmp_path: Path) -> None:
    put(tmp_path / "e/checkpoints/a.ckpt", encoded(1))
    assert run("rebuild", tmp_path).returncode == 0
    older = OlderIndex(tmp_path)
    put(tmp_path / "e/checkpoints/b.ckpt", encoded(2))
    assert run("rebuild", tmp_path).returncode == 0
    older.save(in_place=False)
    assert run("rebuild", tmp_path).returncode == 0
    assert index_equals_disk(tmp_path)
