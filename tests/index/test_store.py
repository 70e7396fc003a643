"""The locked store: nobody's update lost, nothing that is no index destroyed, memory and disk never apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from ckpt_indexer import paths, read_index
from ckpt_indexer.errors import IndexLocked, IndexTooNew
from ckpt_indexer.index import codec
from ckpt_indexer.index import file as file_module
from ckpt_indexer.index.codec import decode_entry
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import Key
from tests.index import entries
from tests.index.entries import entry

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry

REPOSITORY = Path(__file__).parents[2]


def index_of(root: Path) -> Path:
    return root / paths.INDEX_NAME


def document(root: Path) -> Any:
    return json.loads(index_of(root).read_bytes())


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a process of its own that runs *code*."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_commit_is_on_disk_and_its_entries_are_stamped(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.commit([entry("a/checkpoints/x.ckpt"), entry("y.ckpt", status="corrupt")]).changed == [
        "a/checkpoints/x.ckpt", "y.ckpt",
    ]  # fmt: skip
    written = document(tmp_path)
    assert (written["generation"], store.generation) == (1, 1)
    assert list(written["checkpoints"]) == ["a"]
    assert {key: value["generation"] for key, value in written["entries"].items()} == {
        "a/checkpoints/x.ckpt": 1, "y.ckpt": 1,
    }  # fmt: skip
    assert {value["indexed_at"] for value in written["entries"].values()} == {written["last_updated"]}


def test_only_what_changed_gets_a_new_generation(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("x.ckpt"), entry("y.ckpt")])
    assert store.commit([entry("x.ckpt"), entry("y.ckpt", epoch=1)]).changed == ["y.ckpt"]
    assert {key: value["generation"] for key, value in document(tmp_path)["entries"].items()} == {
        "x.ckpt": 1, "y.ckpt": 2,
    }  # fmt: skip


def test_what_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("x.ckpt")])
    before = index_of(tmp_path).stat()
    assert store.commit([entry("x.ckpt")], [Key("gone.ckpt")]).changed == []
    assert Store(str(tmp_path)).commit([entry("x.ckpt")]).changed == []
    after = index_of(tmp_path).stat()
    assert (after.st_ino, after.st_mtime_ns, store.generation) == (before.st_ino, before.st_mtime_ns, 1)


def test_the_first_commit_writes_an_index_even_if_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert Store(str(tmp_path)).commit([]).changed == []
    assert document(tmp_path)["entries"] == {}


def test_the_last_of_an_experiment_takes_its_listing_along(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("a/checkpoints/x.ckpt"), entry("a/checkpoints/y.ckpt")])
    store.commit([], [Key("a/checkpoints/x.ckpt")])
    assert document(tmp_path)["checkpoints"]["a"]["checkpoints"] == ["y.ckpt"]
    store.commit([], [Key("a/checkpoints/y.ckpt")])
    assert (document(tmp_path)["checkpoints"], document(tmp_path)["entries"]) == ({}, {})


WRITER = """
import sys
from ckpt_indexer.index.store import Store
from tests.index.entries import entry
root, who = sys.argv[1:]
store = Store(root)
sys.stdin.readline()  # all start at once
for i in range(50):
    store.commit([entry(f"{who}/checkpoints/{i}.ckpt")])
    if i % 3 == 2:
        store.commit([], [f"{who}/checkpoints/{i - 1}.ckpt"])
"""


def test_several_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [python(WRITER, tmp_path, f"w{n}") for n in range(4)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    kept = [f"{i}.ckpt" for i in range(50) if i % 3 != 1 or i + 1 >= 50]
    expected = {f"w{n}/checkpoints/{name}" for n in range(4) for name in kept}
    written = document(tmp_path)
    assert written["entries"].keys() == expected
    assert {k: sorted(v["checkpoints"]) for k, v in written["checkpoints"].items()} == {
        f"w{n}": sorted(kept) for n in range(4)
    }
    assert written["generation"] == 4 * (50 + 16)


HOLDER = """
import os, sys, time
from ckpt_indexer.index import codec
from ckpt_indexer.index import file as file_module
from ckpt_indexer.index.store import Store
from tests.index.entries import entry
def stop_here(*_, **__):
    print("holding", flush=True)
    sys.stdin.readline()
    os._exit(9)
file_module.replace_file = stop_here
Store(sys.argv[1]).commit([entry("x.ckpt")])
"""


def test_a_writer_killed_with_the_lock_in_its_hand_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(str(tmp_path)).commit([entry("before.ckpt")])
    holder = python(HOLDER, tmp_path)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "holding\n"
    monkeypatch.setattr(file_module, "LOCK_TIMEOUT_S", 0.05)
    with pytest.raises(IndexLocked):
        Store(str(tmp_path)).commit([entry("y.ckpt")])
    assert list(read_index(tmp_path).entries) == ["before.ckpt"]  # readers need no lock
    monkeypatch.undo()
    holder.send_signal(signal.SIGKILL)
    assert holder.wait(60) == -signal.SIGKILL
    holder.stdin.close()
    holder.stdout.close()
    assert Store(str(tmp_path)).commit([entry("y.ckpt")]).changed == ["y.ckpt"]
    assert list(document(tmp_path)["entries"]) == ["before.ckpt", "y.ckpt"]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"version": "1.0", "entries": {"a', b"[1, 2]", b"hello", bytes(100), b'{"name": "not an index"}', b"\xff"],
    ids=["empty", "torn", "list", "text", "zeros", "foreign", "no utf-8"],
)
def test_what_is_no_index_is_set_aside_whole(tmp_path: Path, content: bytes) -> None:
    index_of(tmp_path).write_bytes(content)
    told: list[tuple[str, str]] = []
    store = Store(str(tmp_path), on_set_aside=lambda name, reason: told.append((name, reason)))
    assert store.commit([entry("x.ckpt")]).changed == ["x.ckpt"]
    (aside,) = tmp_path.glob(".checkpoint_index.json.corrupt-*")
    assert aside.read_bytes() == content
    assert [name for name, _ in told] == [aside.name]
    assert list(document(tmp_path)["entries"]) == ["x.ckpt"]


def test_what_is_set_aside_within_one_second_is_all_kept(tmp_path: Path) -> None:
    contents = [f"torn {i}".encode() for i in range(4)]
    for content in contents:
        index_of(tmp_path).write_bytes(content)
        Store(str(tmp_path)).load()
    asides = tmp_path.glob(".checkpoint_index.json.corrupt-*")
    assert sorted(aside.read_bytes() for aside in asides) == contents


def test_an_index_of_a_newer_major_version_is_left_alone(tmp_path: Path) -> None:
    content = b'{"version": "2.0", "entries": {"x": 1}}'
    index_of(tmp_path).write_bytes(content)
    before = index_of(tmp_path).stat()
    for action in (Store(str(tmp_path)).load, lambda: Store(str(tmp_path)).commit([entry("x.ckpt")])):
        with pytest.raises(IndexTooNew):
            action()
    after = index_of(tmp_path).stat()
    assert index_of(tmp_path).read_bytes() == content
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(os.listdir(tmp_path)) == [paths.INDEX_NAME, paths.LOCK_NAME]


def test_an_entry_edited_by_hand_into_something_else_does_not_hide_the_others(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt"), entry("y.ckpt"), entry("z.ckpt")])
    written = document(tmp_path)
    written["entries"]["x.ckpt"] = {"path": 5}
    written["entries"]["y.ckpt"]["path"] = "elsewhere.ckpt"
    index_of(tmp_path).write_text(json.dumps(written))
    store = Store(str(tmp_path))
    store.load()
    assert list(store.entries) == ["z.ckpt"]


def test_what_another_writer_changed_meanwhile_is_contested_and_not_written_over(tmp_path: Path) -> None:
    store, other = Store(str(tmp_path)), Store(str(tmp_path))
    store.commit([entry("x.ckpt"), entry("y.ckpt"), entry("z.ckpt"), entry("same.ckpt")])
    other.commit([entry("x.ckpt", epoch=5), entry("new.ckpt", epoch=5), entry("same.ckpt", epoch=1)], [Key("y.ckpt")])
    ours = [entry(f"{name}.ckpt", epoch=1) for name in ("x", "y", "z", "same", "new")]
    assert store.commit(ours) == (["z.ckpt"], {"x.ckpt", "y.ckpt", "new.ckpt"})
    found = document(tmp_path)["entries"]
    assert {k: e["epoch"] for k, e in found.items()} == {"x.ckpt": 5, "new.ckpt": 5, "same.ckpt": 1, "z.ckpt": 1}
    assert store.commit([], [Key("x.ckpt")]) == (["x.ckpt"], set())  # now it knows


def test_what_a_newer_version_wrote_survives_our_commits(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt"), entry("y.ckpt")])
    written = document(tmp_path)
    written["novelty"] = {"a": 1}
    for key in ("x.ckpt", "y.ckpt"):
        written["entries"][key]["added"] = key
    index_of(tmp_path).write_text(json.dumps(written))
    Store(str(tmp_path)).commit([entry("x.ckpt", epoch=2)])
    after = document(tmp_path)
    assert (after["novelty"], after["entries"]["x.ckpt"]["added"], after["entries"]["y.ckpt"]["added"]) == (
        {"a": 1}, "x.ckpt", "y.ckpt",
    )  # fmt: skip


def test_a_write_that_fails_leaves_index_and_memory_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("a/checkpoints/x.ckpt"), entry("a/checkpoints/y.ckpt")])
    before, entries_before = index_of(tmp_path).read_bytes(), dict(store.entries)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    changed = [entry("a/checkpoints/x.ckpt", epoch=1), entry("b/checkpoints/z.ckpt")]
    monkeypatch.setattr(file_module, "replace_file", full)
    with pytest.raises(OSError, match="No space left"):
        store.commit(changed, [Key("a/checkpoints/y.ckpt")])
    monkeypatch.undo()
    assert index_of(tmp_path).read_bytes() == before
    assert (dict(store.entries), store.generation) == (entries_before, 1)
    store.commit([entry("a/checkpoints/x.ckpt", epoch=2)])
    after = document(tmp_path)
    assert after["checkpoints"]["a"]["checkpoints"] == ["x.ckpt", "y.ckpt"]
    assert list(after["checkpoints"]) == ["a"]
    assert (after["entries"]["a/checkpoints/x.ckpt"]["epoch"], after["generation"]) == (2, 2)


FULL_DISK = """
import resource, signal, sys
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import Key
from tests.index.entries import entry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(sys.argv[1])
store.commit([entry("x.ckpt")])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    store.commit([entry(f"{i}.ckpt") for i in range(100)])
except OSError as error:
    print(error.strerror, list(store.entries), store.generation)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(len(store.commit([entry(f"{i}.ckpt") for i in range(100)]).changed))
"""


def test_a_disk_that_is_full_leaves_the_old_index_and_no_litter(tmp_path: Path) -> None:
    writer = python(FULL_DISK, tmp_path)
    said, _ = writer.communicate(timeout=60)
    assert said == "File too large ['x.ckpt'] 1\n100\n"
    assert len(document(tmp_path)["entries"]) == 101
    assert sorted(os.listdir(tmp_path)) == [paths.INDEX_NAME, paths.LOCK_NAME]


def test_a_root_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    root = tmp_path / "gone"
    for action in (Store(str(root)).load, lambda: Store(str(root)).commit([entry("x.ckpt")])):
        with pytest.raises(FileNotFoundError):
            action()
    assert not root.exists()


def test_the_index_is_read_again_only_if_somebody_else_wrote_it(tmp_path: Path) -> None:
    ours, theirs = Store(str(tmp_path)), Store(str(tmp_path))
    ours.commit([entry("x.ckpt")])
    loads = ours.loads
    ours.commit([entry("y.ckpt")])
    ours.load()
    assert ours.loads == loads
    theirs.commit([entry("z.ckpt")])
    ours.load()
    assert (ours.loads, list(ours.entries)) == (loads + 1, ["x.ckpt", "y.ckpt", "z.ckpt"])


def test_an_index_that_was_deleted_is_an_empty_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("x.ckpt")])
    index_of(tmp_path).unlink()
    store.load()
    assert dict(store.entries) == {}
    assert store.commit([entry("x.ckpt")]).changed == ["x.ckpt"]


class Counted:
    """What the store decodes, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries = 0
        self.listed = 0
        decode_whole, decode_some = codec.decode_entry, codec.decode_listed

        def decode_entry(raw: Any) -> Any:
            self.entries += 1
            return decode_whole(raw)

        def decode_listed(raw: Any) -> Any:
            self.listed += 1
            return decode_some(raw)

        monkeypatch.setattr(codec, "decode_entry", decode_entry)
        monkeypatch.setattr(codec, "decode_listed", decode_listed)


def test_a_change_decodes_what_changed_and_not_its_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.commit([entry(f"e/checkpoints/{i}.ckpt") for i in range(100)])
    counted = Counted(monkeypatch)
    store.commit([entry("e/checkpoints/7.ckpt", epoch=1)], [Key("e/checkpoints/8.ckpt")])
    assert (counted.entries, counted.listed) == (1, 3)  # compared; before and after of the one, before of the other
    assert len(document(tmp_path)["checkpoints"]["e"]["checkpoints"]) == 99


def test_what_the_caller_compared_is_not_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = Store(str(tmp_path)), Store(str(tmp_path))
    store.commit([entry("x.ckpt"), entry("y.ckpt"), entry("z.ckpt")])
    counted = Counted(monkeypatch)
    assert store.commit([entry("x.ckpt", epoch=1)], compared=True).changed == ["x.ckpt"]
    assert counted.entries == 0
    other.commit([entry("y.ckpt", epoch=2), entry("z.ckpt", epoch=2)])
    ours = [entry("y.ckpt", epoch=2), entry("z.ckpt", epoch=1)]
    assert store.commit(ours, compared=True) == ([], {"z.ckpt"})  # compared with what the other one wrote
    assert Store(str(tmp_path)).commit(ours[:1], compared=True).changed == []  # nothing was read before


def test_loading_decodes_each_entry_once_and_hands_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(str(tmp_path)).commit([entry(f"{i}.ckpt", epoch=i) for i in range(20)])
    seen: list[tuple[str, int | None]] = []
    store = Store(str(tmp_path), on_loaded=lambda loaded: seen.extend((each.path, each.epoch) for each in loaded))
    counted = Counted(monkeypatch)
    store.load()
    assert (counted.entries, counted.listed, len(seen)) == (20, 0, 20)
    assert seen == [(f"{i}.ckpt", i) for i in range(20)]


def test_entries_that_a_commit_had_to_read_are_handed_on_too(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    store = Store(str(tmp_path), on_loaded=lambda loaded: seen.append([each.path for each in loaded]))
    store.commit([entry("x.ckpt")])
    Store(str(tmp_path)).commit([entry("y.ckpt")])
    store.commit([entry("z.ckpt")])
    store.load()
    assert seen == [[], ["x.ckpt", "y.ckpt"]]


def test_a_store_has_read_everything_even_if_who_is_handed_it_fails(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt"), entry("y.ckpt")])

    def fail(loaded: Any) -> None:
        next(loaded)
        raise ValueError("a defect")

    store = Store(str(tmp_path), on_loaded=fail)
    with pytest.raises(ValueError, match="a defect"):
        store.load()
    assert list(store.entries) == ["x.ckpt", "y.ckpt"]
    store.commit([entry("x.ckpt", epoch=1)])
    assert document(tmp_path)["checkpoints"]["."]["checkpoints"] == ["../x.ckpt", "../y.ckpt"]


def test_the_bytes_do_not_depend_on_how_the_store_came_to_know_them(tmp_path: Path) -> None:
    every = [
        entry(f"e{i % 3}/checkpoints/{i}.ckpt", mtime=f"2026-01-{i + 1:02}T00:00:00.000000Z", epoch=i)
        for i in range(20)
    ]
    store = Store(str(tmp_path))
    for each in every:
        store.commit([each])
    store.commit([], [Key("e1/checkpoints/19.ckpt")])  # the newest of its experiment
    written = index_of(tmp_path).read_bytes()
    anew = Store(str(tmp_path), suffixes=(".ckpt",))
    anew.load()
    index = codec.decode_index(written, "")
    assert b"".join(codec.iter_encoded(index, anew._listings.encoded)) == written
    assert document(tmp_path)["checkpoints"]["e1"] == {
        "checkpoints": ["1.ckpt", "10.ckpt", "13.ckpt", "16.ckpt", "4.ckpt", "7.ckpt"],
        "metadata_files": [f"{i}.ckpt.metadata.yaml" for i in (1, 10, 13, 16, 4, 7)],
        "last_modified": "2026-01-17T00:00:00.000000Z",
    }


class TwoStores(RuleBasedStateMachine):
    """Two writers take turns on one root; a dict is the oracle."""

    keys: Bundle[str] = Bundle("keys")

    @initialize()
    def start(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.stores = [Store(str(self.root)), Store(str(self.root))]
        self.expected: dict[str, Entry] = {}

    @rule(target=keys, who=st.integers(0, 1), new=entries.entries)
    def put(self, who: int, new: Entry) -> str:
        while new.path in self.stores[who].commit([new]).contested:
            pass  # the other one wrote it last; now this one knows
        self.expected[new.path] = new
        return new.path

    @rule(who=st.integers(0, 1), key=keys)
    def remove(self, who: int, key: Key) -> None:
        while key in self.stores[who].commit([], [key]).contested:
            pass
        self.expected.pop(key, None)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.stores[who] = Store(str(self.root))

    @invariant()
    def disk_memory_and_oracle_agree(self) -> None:
        if not index_of(self.root).exists():
            return
        written = document(self.root)
        found = {key: decode_entry(json.dumps(value).encode()) for key, value in written["entries"].items()}
        assert {k: (e.epoch, e.status, e.metrics) for k, e in found.items()} == {
            k: (e.epoch, e.status, e.metrics) for k, e in self.expected.items()
        }
        usable = {(e.experiment, e.name) for e in self.expected.values() if e.status == "ok"}
        assert {(x, name) for x, listing in written["checkpoints"].items() for name in listing["checkpoints"]} == usable

    def teardown(self) -> None:
        self.folder.cleanup()


TestTwoStores = TwoStores.TestCase
TestTwoStores.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
