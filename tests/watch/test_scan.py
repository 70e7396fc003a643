"""The walk over real folders."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckpt_indexer.disk import fingerprint_of
from ckpt_indexer.watch.scan import Found, Stamp, scan

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
                ("run/.hydra/config.yaml", fingerprint_of(inner.stat())),
            )
        ),
        "b.ckpt": Found(Stamp(fingerprint_of(other.stat()), None, None, ("config.yaml", fingerprint_of(outer.stat())))),
    }
    assert scan(str(tmp_path)).found == expected
    for place, found in expected.items():
        assert scan(str(tmp_path), [place]).found == {place: found}
    assert scan(str(tmp_path), ["run"]).found == {"run/checkpoints/a.ckpt": expected["run/checkpoints/a.ckpt"]}


def test_linked_folders_are_not_walked_and_sharded_folders_are_one_checkpoint(tmp_path: Path) -> None:
    put(tmp_path / "run/a.ckpt")
    (tmp_path / "again").symlink_to("run")
    (tmp_path / "run/up").symlink_to("..")
    put(tmp_path / "s.ckpt/rank0/x.pt", b"12345")
    put(tmp_path / "s.ckpt/inner.ckpt", b"123")
    found = scan(str(tmp_path)).found
    assert sorted(found) == ["run/a.ckpt", "s.ckpt"]
    assert (found["s.ckpt"].is_folder, found["s.ckpt"].stamp.fingerprint[0]) == (True, 8)


def test_a_link_is_stamped_with_its_target_and_named_by_the_targets_key(tmp_path: Path) -> None:
    target = put(tmp_path / "run/e.ckpt")
    (tmp_path / "linked").symlink_to("run")
    (tmp_path / "last.ckpt").symlink_to("linked/e.ckpt")
    assert scan(str(tmp_path), ["last.ckpt"]).found == {
        "last.ckpt": Found(Stamp(fingerprint_of(target.stat()), "run/e.ckpt", None, None))
    }


def test_sidecars_without_a_checkpoint_are_orphans_whether_all_or_one_is_looked_at(tmp_path: Path) -> None:
    sidecar = put(tmp_path / "r/a.ckpt.metadata.yaml")
    expected = {"r/a.ckpt": fingerprint_of(sidecar.stat())}
    assert scan(str(tmp_path)).orphans == expected
    assert scan(str(tmp_path), ["r/a.ckpt"]).orphans == expected


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
