"""The index for everyone who does not write it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_indexer import paths, read_index
from ckpt_indexer.errors import IndexCorrupt, IndexMissing, IndexTooNew, QueryInvalid, RootUnusable
from ckpt_indexer.index import codec, reader
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import Key, RelPath
from tests.index.entries import entry


def index_bytes(root: Path) -> bytes:
    return (root / paths.INDEX_NAME).read_bytes()


def test_what_a_store_wrote_is_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("a/checkpoints/x.ckpt", epoch=3), entry("y.ckpt", status="corrupt")])
    view = read_index(tmp_path)
    assert (view.root, view.generation, list(view.entries)) == (str(tmp_path), 1, ["a/checkpoints/x.ckpt", "y.ckpt"])
    assert [e.path for e in view.usable()] == ["a/checkpoints/x.ckpt"]
    assert view.entries["a/checkpoints/x.ckpt"].epoch == 3


def test_a_view_is_asked_as_the_command_line_is(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry(f"{n}.ckpt", epoch=n, metrics={"f1": n / 10}) for n in range(4)])
    view = read_index(tmp_path)
    assert [e.path for e in view.select("f1>=0.1", "epoch!=2", order="epoch:desc")] == ["3.ckpt", "1.ckpt"]
    assert [e.path for e in view.select(search="2.CK")] == ["2.ckpt"]
    with pytest.raises(QueryInvalid):
        view.select(order="epoch:up")


def test_a_path_is_what_the_operating_system_knows(tmp_path: Path) -> None:
    path = os.fsdecode(b"a\\b/\xff\xc3\xa9.ckpt")
    Store(str(tmp_path)).commit([entry(paths.to_key(RelPath(path)))])
    view = read_index(tmp_path)
    (only,) = view.entries.values()
    assert os.fsencode(view.path_of(only)) == os.fsencode(tmp_path) + b"/a\\b/\xff\xc3\xa9.ckpt"


def test_the_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("x.ckpt")])
    first = read_index(tmp_path)
    assert read_index(str(tmp_path)) is first
    store.commit([entry("x.ckpt", epoch=1)])
    second = read_index(tmp_path)
    assert (second.generation, first.generation) == (2, 1)
    assert read_index(tmp_path) is second


def test_of_an_index_that_changed_only_what_changed_is_decoded_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit([entry("gone.ckpt"), entry("same.ckpt"), entry("other.ckpt")])
    read_index(tmp_path)
    store.commit([entry("late.ckpt")])
    before = read_index(tmp_path).entries  # the first that is known piece by piece
    store.commit([entry("other.ckpt", epoch=1), entry("new.ckpt")], [Key("gone.ckpt")])
    now = read_index(tmp_path).entries
    assert now == {
        key: codec.decode_entry(raw) for key, raw in codec.decode_index(index_bytes(tmp_path), "").entries.items()
    }
    assert list(now) == ["same.ckpt", "other.ckpt", "late.ckpt", "new.ckpt"]
    assert {key for key in now if now[key] is before.get(key)} == {"same.ckpt", "late.ckpt"}
    assert (before["other.ckpt"].epoch, now["other.ckpt"].epoch) == (None, 1)


def test_an_entry_edited_by_hand_is_noticed_though_its_generation_stayed(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt", epoch=1), entry("y.ckpt")])
    for epoch in (1, 2, 3):
        document = json.loads(index_bytes(tmp_path))
        document["entries"]["x.ckpt"]["epoch"] = epoch
        (tmp_path / paths.INDEX_NAME).write_text(json.dumps(document, indent=epoch))
        assert {key: e.epoch for key, e in read_index(tmp_path).entries.items()} == {"x.ckpt": epoch, "y.ckpt": None}


def test_an_entry_that_became_unreadable_leaves_the_others_there_and_comes_back(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt"), entry("y.ckpt")])
    good = index_bytes(tmp_path)
    bad = good.replace(b'"status":"ok"', b'"status":"of a kind that is not known here"', 1)
    for content, keys in ((good, ["x.ckpt", "y.ckpt"]), (bad, ["y.ckpt"]), (bad + b" ", ["y.ckpt"]), (good, None)):
        (tmp_path / paths.INDEX_NAME).write_bytes(content)
        assert list(read_index(tmp_path).entries) == (keys or ["x.ckpt", "y.ckpt"])


def test_what_a_caller_takes_out_of_a_view_is_there_again_when_the_index_changed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(3):
        store.commit([entry("x.ckpt"), entry(f"{number}.ckpt")])
        entries = read_index(tmp_path).entries
        assert entries.pop("x.ckpt") == codec.decode_entry(store.entries[Key("x.ckpt")])


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)), min_size=2, max_size=6))
@settings(max_examples=50)
def test_however_often_it_changed_an_index_is_read_as_by_one_who_never_saw_it_before(
    contents: list[dict[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        for content in contents:
            changed = [entry(f"{key}.ckpt", epoch=epoch) for key, epoch in content.items()]
            store.commit(changed, store.entries.keys() - {e.path for e in changed})
            path = os.path.join(root, paths.INDEX_NAME)
            anew, _ = reader._decode(index_bytes(Path(root)), root, path, None)
            assert list(read_index(root).entries.items()) == list(anew.entries.items())


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    for i in range(reader.CACHED_MAX + 3):
        root = tmp_path / str(i)
        root.mkdir()
        Store(str(root)).commit([])
        read_index(root)
    assert len(reader._cache) == reader.CACHED_MAX


def test_entries_of_a_newer_version_are_read_as_far_as_they_are_known(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt", epoch=1), entry("y.ckpt")])
    path = tmp_path / paths.INDEX_NAME
    document = json.loads(path.read_bytes())
    document |= {"version": "1.9", "novelty": [1]}
    document["entries"]["x.ckpt"]["added"] = {"a": 1}
    document["entries"]["y.ckpt"]["status"] = "of a kind that is not known here"
    path.write_text(json.dumps(document))
    assert {key: e.epoch for key, e in read_index(tmp_path).entries.items()} == {"x.ckpt": 1}


def test_the_first_index_which_had_no_entries_is_read(tmp_path: Path) -> None:
    (tmp_path / paths.INDEX_NAME).write_text('{"version": "1.0", "last_updated": "then", "checkpoints": {}}')
    view = read_index(tmp_path)
    assert (view.generation, view.last_updated, view.entries) == (0, "then", {})


def test_a_root_without_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="ckpt-indexer watch"):
        read_index(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path)
    with pytest.raises(RootUnusable, match="there is no such folder"):
        read_index(tmp_path / "nowhere")


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / paths.INDEX_NAME).mkdir()
    with pytest.raises(RootUnusable, match="Is a directory"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", IndexCorrupt),
        (b"[]", IndexCorrupt),
        (b'{"version": "1.0", "entries": {"x": {"path": 1}}}', IndexCorrupt),
        (b'{"version": "1.0", "entries": ' + b"[" * 100_000, IndexCorrupt),
        (b"\xff\xfe", IndexCorrupt),
        (b'{"version": "2.0", "entries": {}}', IndexTooNew),
        (b'{"version": "2.0", "entries": "another shape"}', IndexTooNew),
    ],
)
def test_what_is_no_index_is_an_error_and_stays_where_it_is(
    tmp_path: Path, content: bytes, error: type[Exception]
) -> None:
    path = tmp_path / paths.INDEX_NAME
    path.write_bytes(content)
    with pytest.raises(error):
        read_index(tmp_path)
    assert path.read_bytes() == content


def test_reading_imports_nothing_heavy(tmp_path: Path) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt")])
    code = (
        "import sys; from ckpt_indexer import read_index; read_index(sys.argv[1]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    heavy = {"pydantic", "structlog", "watchdog", "torch", "yaml", "click", "rich", "filelock", "numpy", "lightning"}
    assert heavy & set(said.split()) == set()


def test_an_index_that_is_gone_for_the_moment_of_its_replacement_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(str(tmp_path)).commit([entry("x.ckpt")])
    really, failures = reader._open_at_once, [errno.ENOENT, errno.ESTALE]

    def as_a_network_file_system_may(path: str, flags: int) -> int:
        if failures:
            raise OSError(number := failures.pop(), os.strerror(number), path)
        return really(path, flags)

    monkeypatch.setattr(reader, "_open_at_once", as_a_network_file_system_may)
    assert list(read_index(tmp_path).entries) == ["x.ckpt"]
    assert failures == []
    monkeypatch.undo()
    (tmp_path / paths.INDEX_NAME).unlink()
    with pytest.raises(IndexMissing):
        read_index(tmp_path)
