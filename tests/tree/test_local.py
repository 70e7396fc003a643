"""The two primitives: open without being led out of the tree or blocked, replace without tearing."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock, Timeout

from ckpt_indexer.errors import NotRegularFile, RootUnusable
from ckpt_indexer.paths import ROOT, TEMPORARY_PREFIX, TEMPORARY_SUFFIX, RelPath, is_temporary
from ckpt_indexer.tree import local
from ckpt_indexer.tree.local import (
    check_root,
    fingerprint_of,
    locked_folder,
    opened_file,
    opened_folder,
    remove_temporary,
    replace_file,
)

if TYPE_CHECKING:
    from pathlib import Path


def content(root: Path, path: str) -> bytes:
    with opened_file(root, RelPath(path)) as fd:
        return os.read(fd, 100)


def test_a_file_is_opened_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"deep")
    (tmp_path / "y").write_bytes(b"flat")
    assert (content(tmp_path, "a/b/x"), content(tmp_path, "y")) == (b"deep", b"flat")


def test_a_path_longer_than_the_kernel_takes_is_opened(tmp_path: Path) -> None:
    names = ["d" * 200] * 30
    fd = os.open(tmp_path, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    assert content(tmp_path, "/".join([*names, "x"])) == b""


def test_a_root_that_is_a_link_is_followed_and_nothing_below_it(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "inner").mkdir(parents=True)
    (real / "inner" / "x").write_bytes(b"x")
    (tmp_path / "root").symlink_to(real)
    (real / "folder").symlink_to(real / "inner")
    (real / "file").symlink_to(real / "inner" / "x")
    assert content(tmp_path / "root", "inner/x") == b"x"
    for path in ("folder/x", "file"):
        with pytest.raises(OSError, match=r"symbolic link|Not a directory|no regular file"):
            content(tmp_path / "root", path)


def test_what_would_block_or_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        for name in ("fifo", "folder"):
            with pytest.raises(NotRegularFile):
                content(tmp_path, name)
        with pytest.raises(OSError, match=r"No such device|no regular file"):
            content(tmp_path, "socket")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x")
    before = os.listdir("/proc/self/fd")
    content(tmp_path, "a/x")
    for path in ("a", "a/b/c", "a/x/y", "gone"):
        with pytest.raises(OSError, match=r"."):
            content(tmp_path, path)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_is_replaced_whole_and_its_fingerprint_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with opened_folder(tmp_path, ROOT) as folder:
        fingerprint = replace_file(folder, "x", b"new" * 100_000)
    assert (tmp_path / "x").read_bytes() == b"new" * 100_000
    assert fingerprint == fingerprint_of((tmp_path / "x").stat())
    assert os.listdir(tmp_path) == ["x"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "x").symlink_to("target")
    with opened_folder(tmp_path, ROOT) as folder:
        replace_file(folder, "x", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "x").is_symlink()


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with opened_folder(tmp_path, ROOT) as folder, pytest.raises(OSError, match="Input/output error"):
        replace_file(folder, "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_data_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        steps.append("fsync")
        fsync(fd)

    def noted_replace(*arguments: Any, **options: Any) -> None:
        steps.append("rename")
        replace(*arguments, **options)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with opened_folder(tmp_path, ROOT) as folder:
        replace_file(folder, "x", b"new")
        replace_file(folder, "y", b"new", durable=False)
    assert steps == ["fsync", "rename", "fsync", "rename"]


def temporary(pid: int) -> str:
    return f"{TEMPORARY_PREFIX}{pid}-abc{TEMPORARY_SUFFIX}"


def test_a_temporary_file_goes_when_its_maker_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (temporary(gone.pid), temporary(os.getpid()), f"{TEMPORARY_PREFIX}?{TEMPORARY_SUFFIX}"):
        (tmp_path / name).write_bytes(b"")
    assert [remove_temporary(tmp_path, RelPath(name)) for name in sorted(os.listdir(tmp_path))].count(True) == 2
    assert os.listdir(tmp_path) == [temporary(os.getpid())]


def test_an_old_temporary_file_goes_whoever_seems_to_be_its_maker(tmp_path: Path) -> None:
    name = temporary(os.getpid())
    (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / name, (1, 1))
    assert remove_temporary(tmp_path, RelPath(name))
    assert not remove_temporary(tmp_path, RelPath(name))


def test_a_lock_never_makes_the_folder_it_locks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked_folder(tmp_path / "gone", ".lock", timeout_s=0):
        pass
    assert os.listdir(tmp_path) == []


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is removed the moment it has been opened."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    opened = os.open

    def open_and_remove(path: Any, *arguments: Any, **options: Any) -> int:
        fd = opened(path, *arguments, **options)
        if path == folder:
            folder.rmdir()
        return fd

    monkeypatch.setattr(os, "open", open_and_remove)
    return folder


def test_a_lock_makes_nothing_in_place_of_a_folder_that_vanishes_under_it(tmp_path: Path, gone: Path) -> None:
    with pytest.raises(FileNotFoundError), locked_folder(gone, ".lock", timeout_s=0):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_that_cannot_be_given_back_does_not_lock_its_own_process_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "the server is gone")

    monkeypatch.setattr(local, "unlock_descriptor", fail)
    for _ in range(2):
        with locked_folder(tmp_path, ".lock", timeout_s=0):
            pass


def test_a_lock_contends_with_other_programs_locks_of_that_file(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(Timeout), locked_folder(tmp_path, ".lock", timeout_s=0):
        pass
    with locked_folder(tmp_path, ".lock", timeout_s=0), pytest.raises(Timeout):
        FileLock(tmp_path / ".lock", timeout=0).acquire()


def test_a_temporary_file_that_could_not_be_removed_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with opened_folder(tmp_path, ROOT) as folder, monkeypatch.context() as failing:
        failing.setattr(os, "replace", fail)
        failing.setattr(os, "unlink", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            replace_file(folder, "x", b"")
    (name,) = os.listdir(tmp_path)
    assert (is_temporary(name), remove_temporary(tmp_path, RelPath(name)), os.listdir(tmp_path)) == (True, True, [])


def test_a_root_that_fails_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(RootUnusable, match="the disk is gone"):
        check_root(str(tmp_path))
