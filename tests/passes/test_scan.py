"""The walk over real folders."""

from __future__ import annotations

import errno
import gc
import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.errors import ScanStopped
from ckpt_indexer.model import Stamp
from ckpt_indexer.passes.scan import Found, scan
from ckpt_indexer.paths import ROOT, Key, RelPath, to_path
from ckpt_indexer.tree.local import fingerprint_of

if TYPE_CHECKING:
    from pathlib import Path


def put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_stamp_holds_the_fingerprints_of_checkpoint_sidecar_and_nearest_configuration(tmp_path: Path) -> None:
    outer = put(tmp_path / "config.yaml")
    inner = put(tmp_path / "run/.hydra/config.yaml")
    put(tmp_path / "run/config.yaml")
    checkpoint = put(tmp_path / "run/checkpoints/a.ckpt")
    sidecar = put(tmp_path / "run/checkpoints/a.ckpt.metadata.yaml")
    other = put(tmp_path / "b.ckpt")
    expected = {
        "run/checkpoints/a.ckpt": Found(
            Stamp(
                fingerprint_of(checkpoint.stat()),
                None,
                fingerprint_of(sidecar.stat()),
                (Key("run/.hydra/config.yaml"), fingerprint_of(inner.stat())),
            )
        ),
        "b.ckpt": Found(
            Stamp(fingerprint_of(other.stat()), None, None, (Key("config.yaml"), fingerprint_of(outer.stat())))
        ),
    }
    assert scan(str(tmp_path)).found == expected
    for place, found in expected.items():
        assert scan(str(tmp_path), [RelPath(place)]).found == {place: found}
    assert scan(str(tmp_path), [RelPath("run")]).found == {"run/checkpoints/a.ckpt": expected["run/checkpoints/a.ckpt"]}


def test_everything_at_once_and_each_place_by_itself_give_the_same(tmp_path: Path) -> None:
    plain = put(tmp_path / "run/a.ckpt")
    twin = put(tmp_path / "run/twin.ckpt")
    os.link(twin, tmp_path / "run/twin-2.ckpt")
    (tmp_path / "run/last.ckpt").symlink_to("a.ckpt")
    (tmp_path / "run/lost.ckpt").symlink_to("nowhere.ckpt")
    os.mkfifo(tmp_path / "run/pipe.ckpt")
    put(tmp_path / "run/s.ckpt/x.pt")
    put(tmp_path / "run/a.ckpt.metadata.yaml")
    put(tmp_path / "run/.hydra/config.yaml")
    put(tmp_path / "logged/wandb/run-20261121_070633-el1e2may/run-el1e2may.wandb")
    put(tmp_path / "logged/checkpoints/e.ckpt")
    put(tmp_path / "logged/checkpoints/f.ckpt")
    found = scan(str(tmp_path)).found
    names = {"a", "twin", "twin-2", "last", "lost", "pipe", "s"}
    assert set(found) == {f"run/{name}.ckpt" for name in names} | {f"logged/checkpoints/{name}.ckpt" for name in "ef"}
    assert scan(str(tmp_path), [to_path(key) for key in found]).found == found
    for key in found:
        assert scan(str(tmp_path), [to_path(key)]).found == {key: found[key]}
    assert {key for key, each in found.items() if each.has_hard_links} == {"run/twin.ckpt", "run/twin-2.ckpt"}
    assert {key for key, each in found.items() if each.stamp.run is not None} == {
        "logged/checkpoints/e.ckpt",
        "logged/checkpoints/f.ckpt",
    }
    assert found[Key("run/last.ckpt")].stamp.fingerprint == fingerprint_of(plain.stat())


def test_a_checkpoint_whose_surroundings_cannot_be_looked_at_is_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "run/a.ckpt")
    lstat = os.lstat

    def failing(path: str) -> os.stat_result:
        if path.endswith("/wandb"):
            raise OSError(errno.EIO, "Input/output error", path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", failing)
    snapshot = scan(str(tmp_path), [RelPath("run/a.ckpt")])
    assert (snapshot.found, snapshot.unseen) == ({}, {"run/a.ckpt": "Input/output error"})


def test_what_a_pass_makes_for_each_checkpoint_is_unknown_to_the_garbage_collector(tmp_path: Path) -> None:
    put(tmp_path / "a.ckpt")
    found = scan(str(tmp_path)).found[Key("a.ckpt")]
    assert (gc.is_tracked(found), gc.is_tracked(found.stamp)) == (False, False)


def test_linked_folders_are_not_walked_and_sharded_folders_are_one_checkpoint(tmp_path: Path) -> None:
    put(tmp_path / "run/a.ckpt")
    (tmp_path / "again").symlink_to("run")
    (tmp_path / "run/up").symlink_to("..")
    put(tmp_path / "s.ckpt/rank0/x.pt", b"12345")
    put(tmp_path / "s.ckpt/inner.ckpt", b"123")
    found = scan(str(tmp_path)).found
    assert sorted(found) == ["run/a.ckpt", "s.ckpt"]
    assert (found[Key("s.ckpt")].is_folder, found[Key("s.ckpt")].stamp.fingerprint[0]) == (True, 8)


def test_a_link_is_stamped_with_its_target_and_named_by_the_targets_key(tmp_path: Path) -> None:
    target = put(tmp_path / "run/e.ckpt")
    (tmp_path / "linked").symlink_to("run")
    (tmp_path / "last.ckpt").symlink_to("linked/e.ckpt")
    assert scan(str(tmp_path), [RelPath("last.ckpt")]).found == {
        "last.ckpt": Found(Stamp(fingerprint_of(target.stat()), "run/e.ckpt", None, None))
    }


def test_sidecars_without_a_checkpoint_are_orphans_whether_all_or_one_is_looked_at(tmp_path: Path) -> None:
    sidecar = put(tmp_path / "r/a.ckpt.metadata.yaml")
    expected = {"r/a.ckpt": fingerprint_of(sidecar.stat())}
    assert scan(str(tmp_path)).orphans == expected
    assert scan(str(tmp_path), [RelPath("r/a.ckpt")]).orphans == expected


def test_a_name_of_bytes_that_are_no_text_comes_back_as_a_key(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff\\.ckpt", "wb"):
        pass
    assert list(scan(str(tmp_path)).found) == ["\\xff\\\\.ckpt"]


def test_a_folder_that_cannot_be_listed_is_unseen_and_not_empty(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # beyond PATH_MAX: reachable by steps, but not by its path
        os.mkdir("d" * 250, dir_fd=fd)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert list(scan(str(tmp_path)).unseen.values()) == ["File name too long"]


def test_unfinished_files_of_ours_are_reported(tmp_path: Path) -> None:
    put(tmp_path / "r/.ckpt-indexer-12-ab.tmp")
    assert scan(str(tmp_path)).temporaries == ["r/.ckpt-indexer-12-ab.tmp"]


@pytest.mark.parametrize("places", [(ROOT,), tuple(RelPath(f"f{i}") for i in range(50))])
def test_a_scan_that_is_to_stop_ends_before_its_next_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[RelPath, ...]
) -> None:
    for i in range(50):
        (tmp_path / f"f{i}").mkdir()
    listed: list[str] = []
    real = os.scandir

    def scandir(path: str) -> Any:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ScanStopped):
        scan(str(tmp_path), places, should_stop=lambda: len(listed) >= 7)
    assert len(listed) == 7


def test_a_scan_of_many_files_that_is_to_stop_ends_before_its_next_file(tmp_path: Path) -> None:
    places = [RelPath(put(tmp_path / f"{i}.ckpt").name) for i in range(50)]
    asked = itertools.count(1)
    with pytest.raises(ScanStopped):
        scan(str(tmp_path), places, should_stop=lambda: next(asked) == 7)
    assert next(asked) == 8


def test_settings_count_where_their_writers_put_them(tmp_path: Path) -> None:
    for name in (
        *("config.json", "timm/args.yaml", "timm/a.ckpt", "timm/deep/b.ckpt", "lit/version_0/hparams.yaml"),
        *("lit/version_0/checkpoints/c.ckpt", "lit/version_0/checkpoints/old/d.ckpt", "top.ckpt", "hf/config.json"),
        *(
            "hf/hparams.yaml",
            "hf/e.ckpt",
            "conf/config.yaml",
            "conf/hparams.yaml",
            "conf/sub/args.yaml",
            "conf/sub/f.ckpt",
        ),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    expected = {
        "timm/a.ckpt": "timm/args.yaml",
        "timm/deep/b.ckpt": None,
        "lit/version_0/checkpoints/c.ckpt": "lit/version_0/hparams.yaml",
        "lit/version_0/checkpoints/old/d.ckpt": None,
        "top.ckpt": "config.json",
        "hf/e.ckpt": "hf/hparams.yaml",
        "conf/sub/f.ckpt": "conf/config.yaml",
    }

    def configs(*places: str) -> dict[str, str | None]:
        found = scan(str(tmp_path), [RelPath(place) for place in places or ("",)]).found
        return {key: None if each.stamp.config is None else each.stamp.config[0] for key, each in found.items()}

    assert configs() == expected
    for key, config in expected.items():
        assert configs(key) == {key: config}
