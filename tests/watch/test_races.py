"""Moments that a running daemon meets now and then, made to happen every time."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.passes.evidence import EvidenceReader
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.passes.known import Cause
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.paths import Key
from ckpt_indexer.sandbox.owner import Reader
from tests.process import Daemon, index_equals_disk, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOREIGN = {
    "schema_version": "1.0",
    "checkpoint_path": "a.ckpt",
    "exp_name": "theirs",
    "created_at": "2025-10-19T13:36:50.323967",
    "training": {"epoch": 18},
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.zeros(4, 5)}}, path)
    return path


def during_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do something once, while a checkpoint's header is being read."""
    read, done = Reader.read_checkpoint, threading.Event()

    def reading(self: Reader, descriptor: int) -> Any:
        facts = read(self, descriptor)
        if not done.is_set():
            done.set()
            act()
        return facts

    monkeypatch.setattr(Reader, "read_checkpoint", reading)


def test_touching_folders_and_the_root_does_not_blind_the_daemon(tmp_path: Path, sample: Path) -> None:
    root = tmp_path / "outputs"
    (root / "x").mkdir(parents=True)
    with Daemon(root) as daemon:
        for folder in (root / "x", root):
            folder.chmod(0o750)
            folder.chmod(0o755)
            os.utime(folder)
        shutil.copy(sample, root / "x/a.ckpt")
        shutil.copy(sample, root / "b.ckpt")
        assert sorted(daemon.sync()) == ["b.ckpt", "x/a.ckpt"]
        assert (daemon.events("watch_lost"), daemon.events("turn_failed")) == ([], [])


def test_files_that_vanish_while_their_folder_is_listed_take_nothing_else_with_them(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.ckpt").touch()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for i in range(50):
                (tmp_path / f"v{i}.ckpt").touch()
            for i in range(50):
                (tmp_path / f"v{i}.ckpt").unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(150):
            snapshot = scan(str(tmp_path))
            stable = [key for key in snapshot.found if not key.startswith("v")]
            assert (len(stable), snapshot.unseen) == (200, {})
    finally:
        stop.set()
        thread.join()


def test_a_sidecar_that_another_program_writes_while_we_read_is_kept_and_wins(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sample, tmp_path / "a.ckpt")
    sidecar = tmp_path / "a.ckpt.metadata.yaml"
    during_read(monkeypatch, lambda: sidecar.write_text(yaml.safe_dump(FOREIGN)))
    with Indexer(str(tmp_path)) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.run_for()
        assert yaml.safe_load(sidecar.read_text()) == FOREIGN
        indexer.scan_and_plan(indexer.pop_due_retries())
        indexer.finish()
    entry = read_index(tmp_path).entries["a.ckpt"]
    assert (entry.epoch, entry.metadata_source) == (18, "sidecar")
    assert yaml.safe_load(sidecar.read_text()) == FOREIGN


def test_a_checkpoint_deleted_while_it_is_read_leaves_no_entry(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.ckpt").write_bytes(sample.read_bytes()[:-50])
    with Indexer(str(tmp_path)) as indexer:

        def delete_and_look() -> None:
            (tmp_path / "cut.ckpt").unlink()
            indexer.scan_and_plan()

        during_read(monkeypatch, delete_and_look)
        indexer.load()
        indexer.scan_and_plan()
        indexer.finish()
    assert dict(read_index(tmp_path).entries) == {}


@pytest.mark.parametrize("commits_between", [False, True])
def test_what_another_writer_learnt_later_is_not_replaced_by_what_we_learnt_before(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, commits_between: bool
) -> None:
    import torch

    shutil.copy(sample, tmp_path / "a.ckpt")
    with Indexer(str(tmp_path)) as ours, Indexer(str(tmp_path)) as theirs:

        def overtake() -> None:
            torch.save({"epoch": 9, "state_dict": {}}, tmp_path / "new")
            (tmp_path / "new").rename(tmp_path / "a.ckpt")
            theirs.load()
            theirs.scan_and_plan()
            theirs.finish()
            if commits_between:
                ours.commit()

        ours.load()
        during_read(monkeypatch, overtake)
        ours.scan_and_plan()
        ours.finish()
    assert read_index(tmp_path).entries["a.ckpt"].epoch == 9
    assert index_equals_disk(tmp_path)


def test_another_programs_sidecar_outlives_a_checkpoint_that_was_overwritten_by_rubbish(
    tmp_path: Path, sample: Path
) -> None:
    sidecar = tmp_path / "a.ckpt.metadata.yaml"
    sidecar.write_text(yaml.safe_dump(FOREIGN))
    os.utime(sidecar, ns=(1, 1))
    data = bytearray(sample.read_bytes())
    data[100:140] = bytes(40)
    (tmp_path / "a.ckpt").write_bytes(data)
    with Indexer(str(tmp_path)) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.finish()
    assert read_index(tmp_path).entries["a.ckpt"].status == "corrupt"
    assert yaml.safe_load(sidecar.read_text()) == FOREIGN


def test_without_an_interpreter_for_the_reader_no_entry_is_lost(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sample, tmp_path / "a.ckpt")
    with Indexer(str(tmp_path), sidecars=False) as indexer:
        indexer.load()
        monkeypatch.setattr("ckpt_indexer.sandbox.owner.sys.executable", "/nonexistent/python")
        indexer.scan_and_plan()
        indexer.finish()
        problem = read_index(tmp_path).entries["a.ckpt"].problem
        assert problem is not None
        assert problem.code == "reader-crashed"
        monkeypatch.undo()
        indexer.known.invalidate(Key("a.ckpt"), Cause.RETRY)
        indexer.scan_and_plan()
        indexer.finish()
    assert read_index(tmp_path).entries["a.ckpt"].status == "ok"


def test_checkpoints_in_a_folder_named_like_a_cookie_are_checkpoints(tmp_path: Path, sample: Path) -> None:
    root = tmp_path / "outputs"
    folder = root / ".checkpoint_index.cookie-x"
    folder.mkdir(parents=True)
    with Daemon(root) as daemon:
        shutil.copy(sample, folder / "best.ckpt")
        assert sorted(daemon.sync()) == [".checkpoint_index.cookie-x/best.ckpt"]
        assert (folder / "best.ckpt").exists()


def test_a_file_overwritten_within_the_clocks_tick_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("ckpt_indexer.passes.judge.RACY_NS", 60 * 10**9)  # a very coarse clock
    path = tmp_path / "a.ckpt"
    torch.save({"epoch": 1, "state_dict": {}}, path)
    with Indexer(str(tmp_path)) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.run_for()
        status = path.stat()
        torch.save({"epoch": 2, "state_dict": {}}, path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a coarse clock would have it
        assert path.stat().st_size == status.st_size
        wait_for(lambda: indexer.retry_due_s() <= 0)
        indexer.scan_and_plan(indexer.pop_due_retries())
        indexer.finish()
    assert read_index(tmp_path).entries["a.ckpt"].epoch == 2


def test_a_time_in_the_future_does_not_make_a_checkpoint_be_read_for_ever(tmp_path: Path, sample: Path) -> None:
    shutil.copy(sample, tmp_path / "a.ckpt")
    os.utime(tmp_path / "a.ckpt", (4e9, 4e9))
    with Indexer(str(tmp_path)) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.run_for()
        assert indexer.retry_due_s() == float("inf")


def test_a_dangling_link_is_read_when_its_target_comes(tmp_path: Path, sample: Path) -> None:
    root = tmp_path / "outputs"
    (root / "x").mkdir(parents=True)
    (root / "x/last.ckpt").symlink_to("e.ckpt")
    with Daemon(root) as daemon:
        assert daemon.sync()["x/last.ckpt"].status == "unreadable"
        shutil.copy(sample, root / "x/e.ckpt")
        assert daemon.sync()["x/last.ckpt"].epoch == 3
        assert index_equals_disk(root)


def test_a_configuration_that_cannot_be_read_is_not_remembered_as_empty(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sample, tmp_path / "a.ckpt")
    (tmp_path / "config.yaml").write_text("model: {encoder: resnet18}")
    with Indexer(str(tmp_path)) as indexer:
        indexer.load()
        with monkeypatch.context() as patch:
            patch.setattr(EvidenceReader, "_config", lambda *_: None)
            indexer.scan_and_plan()
            indexer.run_for()
        indexer.scan_and_plan()
        indexer.finish()
    assert read_index(tmp_path).entries["a.ckpt"].encoder == "resnet18"
