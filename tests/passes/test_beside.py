"""What stands beside a checkpoint: a downloader's control file, and the index of the shards that it is one of."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch

from ckpt_indexer import read_index
from ckpt_indexer.actions.rebuild import Rebuild, apply
from ckpt_indexer.actions.validate import Validate, plan
from ckpt_indexer.actions.validate import apply as validate
from ckpt_indexer.model import Problem
from ckpt_indexer.passes.beside import QUIET_NS, read_file
from ckpt_indexer.paths import RelPath
from ckpt_indexer.settings import Settings
from ckpt_indexer.tree.local import opened_file

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.sandbox.owner import Reader

TENSORS = {f"w{i}": torch.ones(10_000) for i in range(1, 4)}


def read(root: Path, path: str, reader: Reader) -> Facts:
    inside = RelPath(path)
    with opened_file(root, inside) as descriptor:
        return read_file(str(root), inside, descriptor, reader)


# --- downloads ---


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    torch.save({"epoch": 3, "state_dict": TENSORS}, tmp_path / "run/x.ckpt")
    return tmp_path


def test_a_file_that_aria2_is_about_to_finish_is_incomplete_however_whole_it_looks(
    downloaded: Path, reader: Reader
) -> None:
    (downloaded / "run/x.ckpt.aria2").write_bytes(b"control")
    problem = Problem("truncated", "its download is not finished: aria2's x.ckpt.aria2 stands beside it")
    facts = read(downloaded, "run/x.ckpt", reader)
    assert (facts.problem, facts.epoch) == (problem, 3)
    (downloaded / "run/x.ckpt").write_bytes((downloaded / "run/x.ckpt").read_bytes()[:-200] + bytes(200))
    assert read(downloaded, "run/x.ckpt", reader).problem is not None


def test_a_control_file_that_is_older_than_its_file_was_given_up(downloaded: Path, reader: Reader) -> None:
    (downloaded / "run/x.ckpt.aria2").write_bytes(b"control")
    written_ns = (downloaded / "run/x.ckpt").stat().st_mtime_ns
    os.utime(downloaded / "run/x.ckpt.aria2", ns=(0, written_ns - QUIET_NS - 1))
    facts = read(downloaded, "run/x.ckpt", reader)
    told = "x.ckpt.aria2 stands beside it and is older: a download that was given up"
    assert (facts.problem, facts.warnings[-1]) == (None, told)


@pytest.mark.parametrize("end", [".part", ".crdownload", ".incomplete"])
def test_another_download_of_the_same_name_is_told(end: str, downloaded: Path, reader: Reader) -> None:
    (downloaded / f"run/x.ckpt{end}").write_bytes(b"half")
    facts = read(downloaded, "run/x.ckpt", reader)
    told = f"x.ckpt{end} stands beside it: another download of it is not finished"
    assert (facts.problem, facts.warnings[-1]) == (None, told)


def test_a_folder_of_such_a_name_is_no_control_file(downloaded: Path, reader: Reader) -> None:
    (downloaded / "run/x.ckpt.aria2").mkdir()
    assert read(downloaded, "run/x.ckpt", reader).problem is None


def test_a_rebuild_sees_that_a_download_is_finished_although_the_file_is_the_same(downloaded: Path) -> None:
    control = downloaded / "run/x.ckpt.aria2"
    control.write_bytes(b"control")
    assert apply(Rebuild(root=str(downloaded), workers=1)).good == 0
    control.unlink()
    assert apply(Rebuild(root=str(downloaded), workers=1)).good == 1
    assert read_index(str(downloaded)).entries["run/x.ckpt"].status == "ok"


# --- shards ---


@pytest.fixture(params=["safetensors", "bin"])
def sharded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a model in three shards, as transformers names them."""
    stem, end = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[request.param]
    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        path = tmp_path / f"{stem}-{number:05}-of-00003.{end}"
        weight_map[name] = path.name
        if end == "bin":
            torch.save({name: tensor}, path)
        else:
            safetensors.torch.save_file({name: tensor}, path)
    index = {"metadata": {"total_size": 4 * 30_000}, "weight_map": weight_map}
    (tmp_path / f"{stem}.{end}.index.json").write_text(json.dumps(index))
    return tmp_path


def shards(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*-of-*") if path.suffix != ".yaml")


def problems(root: Path) -> dict[str, tuple[str, str] | None]:
    end = shards(root)[0].rpartition(".")[2]
    apply(Rebuild(root=str(root), workers=1, settings=Settings(suffixes=(f".{end}",))))
    entries = read_index(str(root)).entries
    found = {key: entry.problem for key, entry in entries.items()}
    return {key: None if each is None else (each.code, each.message) for key, each in found.items()}


def test_a_set_that_is_whole_is_good(sharded: Path) -> None:
    assert problems(sharded) == dict.fromkeys(shards(sharded))


def test_each_shard_names_the_one_that_is_missing_and_is_good_again_when_it_is_back(sharded: Path) -> None:
    first, second, third = shards(sharded)
    assert problems(sharded) == dict.fromkeys([first, second, third])
    data = (sharded / second).read_bytes()
    (sharded / second).unlink()
    missing = ("record-missing", f"the shard {second} is missing")
    assert problems(sharded) == {first: missing, third: missing}
    (sharded / second).write_bytes(data)
    assert problems(sharded) == dict.fromkeys([first, second, third])


@pytest.mark.parametrize("part", ["{}.incomplete", "other.part", ".cache/huggingface/download/{}.x.incomplete"])
def test_a_shard_that_is_missing_while_something_is_downloaded_is_waited_for(part: str, sharded: Path) -> None:
    first, second, third = shards(sharded)
    problems(sharded)
    (sharded / second).unlink()
    downloading = sharded / part.format(second)
    downloading.parent.mkdir(parents=True, exist_ok=True)
    downloading.write_bytes(b"half")
    waiting = ("truncated", f"the shard {second} is missing; {downloading.name} is being downloaded")
    assert problems(sharded) == {first: waiting, third: waiting}
    long_ago_ns = downloading.stat().st_mtime_ns - QUIET_NS - 1
    os.utime(downloading, ns=(long_ago_ns, long_ago_ns))
    missing = ("record-missing", f"the shard {second} is missing")
    assert problems(sharded) == {first: missing, third: missing}


def test_a_shard_that_is_missing_from_a_cache_while_a_blob_is_downloaded_is_waited_for(
    sharded: Path, reader: Reader
) -> None:
    blobs, folder = sharded / "blobs", sharded / "snapshots/1"
    blobs.mkdir()
    folder.mkdir(parents=True)
    first, second, _ = shards(sharded)
    for path in [path for path in sharded.iterdir() if path.is_file() and path.name != second]:
        path.rename(blobs / path.name)
        (folder / path.name).symlink_to(blobs / path.name)
    (blobs / "0123.incomplete").write_bytes(b"half")
    with opened_file(str(sharded), RelPath(f"blobs/{first}")) as descriptor:
        name = RelPath(f"snapshots/1/{first}")
        facts = read_file(str(sharded), RelPath(f"blobs/{first}"), descriptor, reader, name=name)
    message = f"the shard {second} is missing; 0123.incomplete is being downloaded"
    assert facts.problem == Problem("truncated", message)


def test_a_sidecar_that_was_written_when_the_set_was_whole_is_not_believed(sharded: Path) -> None:
    problems(sharded)
    first, second, third = shards(sharded)
    (sharded / second).unlink()
    (sharded / ".checkpoint_index.json").unlink()
    missing = ("record-missing", f"the shard {second} is missing")
    assert problems(sharded) == {first: missing, third: missing}


def test_a_shard_that_is_cut_short_is_named_by_the_others(sharded: Path, reader: Reader) -> None:
    first, second, third = shards(sharded)
    (sharded / second).write_bytes((sharded / second).read_bytes()[:500])
    for name in (first, third):
        problem = read(sharded, name, reader).problem
        assert problem is not None
        assert (problem.code, problem.message.startswith(f"the shard {second}: the ")) == ("truncated", True)


def test_writers_that_count_tied_tensors_twice_are_no_damage(sharded: Path, reader: Reader) -> None:
    (path,) = sharded.glob("*.index.json")
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] *= 2
    path.write_text(json.dumps(index))
    assert [read(sharded, name, reader).problem for name in shards(sharded)] == [None] * 3


def test_the_headers_of_a_set_are_read_once(sharded: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = sharded.glob("*.index.json")
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] *= 2
    path.write_text(json.dumps(index))
    count, read_checkpoint = [0], type(reader).read_checkpoint

    def counted(self: Reader, file: int) -> Facts:
        count[0] += 1
        return read_checkpoint(self, file)

    monkeypatch.setattr(type(reader), "read_checkpoint", counted)
    assert [read(sharded, name, reader).problem for name in shards(sharded) * 2] == [None] * 6
    assert count == [6 + 3]


def test_an_index_that_says_nothing_of_it_or_is_none_is_told(sharded: Path, reader: Reader) -> None:
    (path,) = sharded.glob("*.index.json")
    name = shards(sharded)[0]
    for text, told in (
        ('{"weight_map": {}}', "beside it does not name it"),
        ("{", "beside it cannot be used: Input data was truncated"),
    ):
        path.write_text(text)
        facts = read(sharded, name, reader)
        assert (facts.problem, facts.warnings[-1]) == (None, f"{path.name} {told}")
    path.unlink()
    (sharded / shards(sharded)[1]).unlink()
    assert read(sharded, name, reader).problem is None  # they may be written one after the other


def test_links_to_the_files_of_a_cache_are_followed_below_the_root_only(sharded: Path, tmp_path: Path) -> None:
    folder, blobs = tmp_path / "snapshots/1", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for path in [path for path in sharded.iterdir() if path.is_file()]:
        path.rename(blobs / str(len(list(blobs.iterdir()))))
        (folder / path.name).symlink_to(max(blobs.iterdir()))
    first, second, third = (f"snapshots/1/{path.name}" for path in sorted(folder.glob("*-of-*")))
    end = first.rpartition(".")[2]
    request = Rebuild(root=str(tmp_path), workers=1, settings=Settings(suffixes=(f".{end}",)))
    assert apply(request).good == 3
    assert not validate(plan(Validate(paths=(str(tmp_path),)))).bad
    (tmp_path / second).resolve().unlink()
    broken = apply(request).broken
    bad = {result.path: result.problem for result in validate(plan(Validate(paths=(str(tmp_path),)))).bad}
    assert [str(bad[str(tmp_path / name)]).count("is missing") for name in (first, third)] == [1, 1]
    assert broken[first] == broken[third] == f"the shard {second.rpartition('/')[2]} is missing"  # type: ignore[index]
