"""What only the disk can show of the acting: what stands there by now is not what was read, or cannot be written."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from ckpt_indexer import paths
from ckpt_indexer.formats.facts import YAML_MAX
from ckpt_indexer.metadata.entry import bare_entry
from ckpt_indexer.metadata.schema import Document, IndexerPart
from ckpt_indexer.metadata.sidecar import encode_sidecar
from ckpt_indexer.model import OtherSidecar, Problem
from ckpt_indexer.passes.act import Examined, act, remove_sidecars
from ckpt_indexer.passes.evidence import Sidecar
from ckpt_indexer.passes.judge import Action, SecondName, SidecarSettings, Verdict
from ckpt_indexer.paths import Key, RelPath, to_key
from ckpt_indexer.tree.local import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckpt_indexer.model import Fingerprint

KEY = Key("exp/best.ckpt")
SIDECAR, SECOND = RelPath("exp/best.ckpt.metadata.yaml"), RelPath("exp/best.metadata.yaml")
INDEXER = IndexerPart(version="1", fingerprint=(10, 20, 30))
OURS = Document(checkpoint_path=KEY, exp_name="exp", created_at="2026-01-01T00:00:00", indexer=INDEXER)


pytestmark = pytest.mark.unfilled  # what other programs wrote is a few bytes here


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "exp").mkdir()
    (tmp_path / KEY).write_bytes(b"checkpoint")
    return tmp_path


def fingerprint(path: Path) -> Fingerprint:
    return fingerprint_of(path.lstat())


def verdict(action: Action, *, seen: Fingerprint | None = None, key: Key = KEY, **changes: Any) -> Verdict:
    entry = bare_entry(key, (10, 20, 30), None, None)
    entry.metadata_fingerprint = seen
    return Verdict(entry, **{"action": action, "document": OURS, "look_again_s": 7.0, **changes})


def carried_out(root: Path, given: Verdict, **settings: bool) -> Examined:
    return act(str(root), given, SidecarSettings(**settings))


def files(root: Path) -> list[str]:
    return sorted(os.listdir(root / "exp"))


# --- writing ---


@pytest.mark.parametrize("is_filled", [True, False])
def test_a_sidecar_is_written_and_the_entry_names_it(root: Path, is_filled: bool) -> None:
    given = verdict(Action.WRITE)
    examined = carried_out(root, given, is_filled=is_filled)
    entry = bare_entry(KEY, (10, 20, 30), None, None)
    entry.metadata_file, entry.metadata_fingerprint = to_key(SIDECAR), fingerprint(root / SIDECAR)
    assert examined == Examined(entry, wrote_sidecar=True, look_again_s=7.0)
    assert (root / SIDECAR).read_bytes() == encode_sidecar(OURS, fill=is_filled)
    assert given == verdict(Action.WRITE)  # what was decided stays what it was


def test_what_was_read_is_replaced_and_what_came_meanwhile_is_not(root: Path) -> None:
    (root / SIDECAR).write_bytes(b"a: stale one")
    seen = fingerprint(root / SIDECAR)
    assert carried_out(root, verdict(Action.WRITE, seen=seen)).wrote_sidecar
    (root / SIDECAR).write_bytes(b"theirs: 1")
    for given in (verdict(Action.WRITE, seen=seen), verdict(Action.WRITE)):
        assert carried_out(root, given) == Examined(given.entry, look_again_s=0.0)
        assert (root / SIDECAR).read_bytes() == b"theirs: 1"
    (root / SIDECAR).unlink()
    assert carried_out(root, verdict(Action.WRITE, seen=seen)).look_again_s == 0.0
    assert files(root) == ["best.ckpt"]


def test_nothing_is_written_beside_a_checkpoint_that_is_gone(root: Path) -> None:
    (root / KEY).unlink()
    examined = carried_out(root, verdict(Action.WRITE))
    assert (examined.is_gone, examined.wrote_sidecar, files(root)) == (True, False, [])


def test_a_link_whose_target_is_gone_is_not_gone(root: Path) -> None:
    (root / KEY).unlink()
    (root / KEY).symlink_to("elsewhere.ckpt")
    assert carried_out(root, verdict(Action.WRITE)).wrote_sidecar


def test_nothing_is_written_through_a_folder_that_became_a_link(root: Path, tmp_path: Path) -> None:
    (root / "exp").rename(tmp_path / "elsewhere")
    (root / "exp").symlink_to("elsewhere")
    examined = carried_out(root, verdict(Action.WRITE))
    assert examined.entry.metadata_problem is not None
    assert (examined.entry.metadata_problem.code, examined.wrote_sidecar) == ("sidecar-unwritable", False)
    assert os.listdir(tmp_path / "elsewhere") == ["best.ckpt"]


def test_a_sidecar_that_cannot_be_written_costs_a_problem_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("ckpt_indexer.passes.act.replace_file", fail)
    entry = bare_entry(KEY, (10, 20, 30), None, None)
    entry.metadata_problem = Problem.of("sidecar-unwritable", "Read-only file system")
    assert carried_out(root, verdict(Action.WRITE)) == Examined(entry, look_again_s=7.0)
    assert files(root) == ["best.ckpt"]


@pytest.mark.parametrize(("length", "fits"), [(paths.NAME_BYTES_MAX, True), (paths.NAME_BYTES_MAX + 1, False)])
def test_a_name_that_leaves_no_room_for_the_sidecars(root: Path, length: int, fits: bool) -> None:
    name = "é" * 100
    name += "x" * (length - len(os.fsencode(f"{name}.ckpt{paths.SIDECAR_SUFFIX}"))) + ".ckpt"
    (root / "exp" / name).write_bytes(b"checkpoint")
    examined = carried_out(root, verdict(Action.WRITE, key=Key(f"exp/{name}")))
    assert (examined.wrote_sidecar, examined.entry.metadata_problem) == (
        (True, None)
        if fits
        else (False, Problem.of("sidecar-unwritable", "the checkpoint's name leaves no room for the sidecar's"))
    )


def test_a_document_that_would_not_be_read_back_is_not_written(root: Path) -> None:
    large = OURS.model_copy(update={"exp_name": "\x01" * YAML_MAX})
    examined = carried_out(root, verdict(Action.WRITE, document=large))
    assert examined.entry.metadata_problem is not None
    assert (examined.entry.metadata_problem.code, files(root)) == ("sidecar-unwritable", ["best.ckpt"])


# --- the second name ---


def test_both_names_hold_the_same_and_the_entry_says_so(root: Path) -> None:
    examined = carried_out(root, verdict(Action.WRITE, second=SecondName(SECOND, None)))
    assert (root / SECOND).read_bytes() == (root / SIDECAR).read_bytes()
    assert examined.entry.metadata_fingerprint == fingerprint(root / SIDECAR)
    assert examined.entry.other_sidecar == OtherSidecar(to_key(SECOND), fingerprint(root / SECOND))
    again = verdict(
        Action.WRITE, seen=fingerprint(root / SIDECAR), second=SecondName(SECOND, fingerprint(root / SECOND))
    )
    assert carried_out(root, again).entry.other_sidecar == OtherSidecar(to_key(SECOND), fingerprint(root / SECOND))


def test_a_key_is_written_where_its_path_leads(root: Path) -> None:
    path = os.fsdecode(b"exp/\xff.ckpt")
    (root / path).write_bytes(b"checkpoint")
    second = SecondName(RelPath(os.fsdecode(b"exp/\xff.metadata.yaml")), None)
    entry = carried_out(root, verdict(Action.WRITE, key=Key("exp/\\xff.ckpt"), second=second)).entry
    assert entry.metadata_file == "exp/\\xff.ckpt.metadata.yaml"
    assert entry.other_sidecar == OtherSidecar(Key("exp/\\xff.metadata.yaml"), fingerprint(root / second.path))
    assert fingerprint(root / f"{path}.metadata.yaml") == entry.metadata_fingerprint


@pytest.mark.parametrize("other", ["best.pt", "best.safetensors"])
def test_a_second_name_that_could_be_another_checkpoints_is_left_alone(root: Path, other: str) -> None:
    (root / "exp" / other).write_bytes(b"another")
    examined = carried_out(root, verdict(Action.WRITE, second=SecondName(SECOND, None)))
    assert (examined.wrote_sidecar, examined.entry.other_sidecar) == (True, None)
    assert not (root / SECOND).exists()


def test_what_came_under_the_second_name_meanwhile_stays(root: Path) -> None:
    (root / SECOND).write_bytes(b"a: b")
    found = OtherSidecar(to_key(SECOND), (4, 5, 6))
    given = verdict(Action.WRITE, second=SecondName(SECOND, None))
    assert carried_out(root, given).entry.other_sidecar is None
    given = verdict(Action.WRITE, seen=fingerprint(root / SIDECAR), second=SecondName(SECOND, found.fingerprint))
    given.entry.other_sidecar = found
    examined = carried_out(root, given)
    assert (examined.wrote_sidecar, examined.entry.other_sidecar) == (True, found)
    assert (root / SECOND).read_bytes() == b"a: b"


def test_a_second_name_that_cannot_be_written_does_not_undo_the_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ckpt_indexer.passes.act._write_second", fail)
    examined = carried_out(root, verdict(Action.WRITE, second=SecondName(SECOND, None)))
    entry = examined.entry
    assert (examined.wrote_sidecar, entry.metadata_fingerprint) == (True, fingerprint(root / SIDECAR))
    assert entry.metadata_problem == Problem.of("sidecar-unwritable", "No space left on device")


# --- removing, and leaving alone ---


def test_a_sidecar_of_ours_beside_a_broken_checkpoint_is_removed(root: Path) -> None:
    (root / SIDECAR).write_bytes(b"a: b")
    given = verdict(Action.REMOVE, seen=fingerprint(root / SIDECAR))
    expected = bare_entry(KEY, (10, 20, 30), None, None)
    assert carried_out(root, given) == Examined(expected, look_again_s=7.0)
    assert files(root) == ["best.ckpt"]
    assert carried_out(root, given) == Examined(expected, look_again_s=7.0)  # somebody else removed it


def test_a_sidecar_that_another_program_wrote_meanwhile_is_not_removed(root: Path) -> None:
    (root / SIDECAR).write_bytes(b"a: b")
    given = verdict(Action.REMOVE, seen=(1, 2, 3))
    assert carried_out(root, given) == Examined(given.entry, look_again_s=0.0)
    assert files(root) == ["best.ckpt", "best.ckpt.metadata.yaml"]


@pytest.mark.parametrize("action", [Action.KEEP, Action.IGNORE])
@pytest.mark.parametrize("is_gone", [True, False])
def test_what_is_kept_or_ignored_is_not_touched(root: Path, action: Action, is_gone: bool) -> None:
    given = verdict(action, is_gone=is_gone, second=SecondName(SECOND, None))
    assert carried_out(root, given) == Examined(given.entry, look_again_s=7.0, is_gone=is_gone)
    assert files(root) == ["best.ckpt"]


# --- a checkpoint that is gone ---

THEIRS = Document(checkpoint_path=KEY, exp_name="theirs", created_at="")
ANOTHERS = OURS.model_copy(update={"checkpoint_path": "exp/best.pt"})


def as_read(root: Path, path: str, sidecar: Sidecar) -> Sidecar:
    """Return what a reading of the file at *path* gives that holds *sidecar*."""
    return replace(sidecar, fingerprint=fingerprint(root / path))


@pytest.mark.parametrize(
    ("own", "second", "is_settled", "left"),
    [
        (Sidecar(OURS), Sidecar(OURS), True, []),
        (Sidecar(THEIRS), Sidecar(THEIRS), False, [SIDECAR, SECOND]),
        (Sidecar(OURS), Sidecar(THEIRS), True, [SECOND]),
        (Sidecar(OURS), Sidecar(ANOTHERS), True, [SECOND]),
        (Sidecar(ANOTHERS), Sidecar(), True, [SECOND]),
        (Sidecar(THEIRS), Sidecar(OURS), False, [SIDECAR]),
        (Sidecar(), Sidecar(), False, [SIDECAR, SECOND]),
        (Sidecar(problem=Problem.of("sidecar-invalid")), Sidecar(OURS), False, [SIDECAR]),
        (Sidecar(problem=Problem.of("io-error")), Sidecar(OURS), True, [SIDECAR]),  # to be tried again
    ],
)
def test_only_sidecars_of_ours_go_with_their_checkpoint(
    root: Path, own: Sidecar, second: Sidecar, is_settled: bool, left: list[str]
) -> None:
    (root / KEY).unlink()
    for path in (SIDECAR, SECOND):
        (root / path).write_bytes(b"")
    read = {SIDECAR: as_read(root, SIDECAR, own), SECOND: as_read(root, SECOND, second)}.__getitem__
    assert remove_sidecars(str(root), KEY, read) is is_settled
    assert [path for path in (SIDECAR, SECOND) if (root / path).exists()] == left


@pytest.mark.parametrize("came", [KEY, SIDECAR])
def test_what_came_after_the_reading_stays(root: Path, came: str) -> None:
    (root / KEY).unlink()
    (root / SIDECAR).write_bytes(b"")
    read = as_read(root, SIDECAR, Sidecar(OURS))
    (root / came).write_bytes(b"theirs")
    assert remove_sidecars(str(root), KEY, {SIDECAR: read}.__getitem__) is True  # to be tried again
    assert (root / SIDECAR).exists()


@pytest.mark.parametrize(
    ("number", "is_settled"),
    [(errno.EACCES, False), (errno.EPERM, False), (errno.EROFS, False), (errno.EIO, True), (errno.ENOENT, True)],
)
def test_one_that_we_may_not_remove_is_not_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_settled: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (root / KEY).unlink()
    (root / SIDECAR).write_bytes(b"")
    own = as_read(root, SIDECAR, Sidecar(OURS))
    read: Callable[[RelPath], Sidecar] = {SIDECAR: own}.__getitem__  # nothing stands under the second name
    monkeypatch.setattr(os, "unlink", fail)
    assert remove_sidecars(str(root), KEY, read) is is_settled
