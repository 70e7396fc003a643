"""What only the disk can show of the reading: what changes, vanishes or fails meanwhile, and what is read once."""

from __future__ import annotations

import concurrent.futures as cf
import errno
import multiprocessing
import os
import pickle
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.formats.facts import YamlFacts
from ckpt_indexer.metadata.sidecar import HEAD
from ckpt_indexer.model import OtherSidecar
from ckpt_indexer.passes.act import act
from ckpt_indexer.passes.evidence import CONFIGS_CACHED_MAX, EvidenceReader, Sidecar
from ckpt_indexer.passes.examine import Examiner
from ckpt_indexer.passes.folders import check_folder
from ckpt_indexer.passes.judge import SidecarSettings, is_enough, judge
from ckpt_indexer.passes.scan import scan
from ckpt_indexer.paths import Key, RelPath
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.trackers.wandb import run as wandb
from ckpt_indexer.tree.local import fingerprint_of, opened_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.passes.evidence import Evidence
    from ckpt_indexer.passes.scan import Found

KEY = Key("exp/checkpoints/best.ckpt")
THEIRS = f"checkpoint_path: {KEY}\nexp_name: theirs\ncreated_at: ''\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "exp/checkpoints"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(pickle.dumps({"epoch": 3, "global_step": 30, "state_dict": {}}, protocol=2))
    os.utime(folder / "best.ckpt", (1e9, 1e9))  # a young one is to be read again
    return tmp_path


@pytest.fixture
def reader(root: Path, reader: Reader) -> EvidenceReader:
    """Build the reader under test, over the session's worker process: to start another takes longer than a test."""
    made = EvidenceReader(str(root))
    made._local.reader = reader
    return made


def found_in(root: Path, key: Key = KEY) -> Found:
    return scan(str(root)).found[key]


def fingerprint(path: Path) -> Fingerprint:
    return fingerprint_of(path.lstat())


def write_ours(root: Path, reader: EvidenceReader) -> None:
    settings = SidecarSettings()
    assert act(str(root), judge(reader.read(KEY, found_in(root)), settings), settings).wrote_sidecar


# --- the checkpoint itself ---


def test_a_checkpoint_alone(root: Path, reader: EvidenceReader) -> None:
    began_ns = time.time_ns()
    read = reader.read(KEY, found_in(root))
    own = fingerprint(root / KEY)
    assert (read.stamp, read.fingerprint_after) == (found_in(root).stamp, own)
    assert (read.sidecar, read.other, read.config, read.run, read.problem) == (Sidecar(), Sidecar(), None, None, None)
    assert read.facts is not None
    assert (read.facts.epoch, read.facts.problem) == (3, None)
    assert began_ns <= read.read_at_ns <= time.time_ns()


def test_the_content_is_not_read_where_the_rest_is_enough(root: Path, reader: EvidenceReader) -> None:
    write_ours(root, reader)
    assert reader.read(KEY, found_in(root), is_enough=is_enough).facts is None
    assert reader.read(KEY, found_in(root)).facts is not None
    os.utime(root / KEY, (1, 1))
    assert reader.read(KEY, found_in(root), is_enough=is_enough).facts is not None


def test_a_checkpoint_that_is_written_while_it_is_read_has_two_fingerprints(
    root: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(root / KEY)
    read_checkpoint = Reader.read_checkpoint

    def read_and_append(self: Reader, descriptor: int) -> Any:
        facts = read_checkpoint(self, descriptor)
        with (root / KEY).open("ab") as file:
            file.write(b"more")
        return facts

    monkeypatch.setattr(Reader, "read_checkpoint", read_and_append)
    read = reader.read(KEY, found_in(root))
    assert (read.stamp.fingerprint, read.fingerprint_after) == (before, fingerprint(root / KEY))
    assert before != fingerprint(root / KEY)


def test_a_checkpoint_that_changed_since_the_scan_is_what_was_opened(root: Path, reader: EvidenceReader) -> None:
    found = found_in(root)
    (root / KEY).write_bytes(b"other")
    read = reader.read(KEY, found)
    assert read.stamp.fingerprint == read.fingerprint_after == fingerprint(root / KEY)


@pytest.mark.parametrize(
    ("come", "code", "is_gone"),
    [
        (lambda path: None, "io-error", True),
        (lambda path: (path.parent.rmdir(), path.parent.touch()), "io-error", True),
        (os.mkfifo, "not-a-file", False),
        (os.mkdir, "not-a-file", False),
    ],
)
def test_what_cannot_be_opened_has_the_stamp_of_the_scan(
    root: Path, reader: EvidenceReader, come: Callable[[Path], object], code: str, is_gone: bool
) -> None:
    (root / "exp/config.yaml").write_text("exp_name: e\n")
    found = found_in(root)
    (root / KEY).unlink()
    come(root / KEY)
    read = reader.read(KEY, found)
    assert read.problem is not None
    assert (read.problem.code, read.is_gone, read.stamp) == (code, is_gone, found.stamp)


def test_what_the_scan_could_not_follow_is_not_opened(root: Path, reader: EvidenceReader) -> None:
    (root / KEY).unlink()
    (root / KEY).symlink_to("gone.ckpt")
    read = reader.read(KEY, found_in(root))
    assert read.problem is not None
    assert (read.problem.code, read.is_gone, read.facts) == ("link-dangling", False, None)


def test_a_folder_that_grows_while_it_is_read_has_two_fingerprints(
    root: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / KEY).unlink()
    (root / KEY).mkdir()
    (root / KEY / "shard").write_bytes(b"x")
    found = found_in(root)
    assert reader.read(KEY, found).fingerprint_after == found.stamp.fingerprint

    def check_and_add(*args: Any) -> Any:
        (root / KEY / "another").write_bytes(b"yy")
        return check_folder(*args)

    monkeypatch.setattr("ckpt_indexer.passes.evidence.check_folder", check_and_add)
    read = reader.read(KEY, found)
    assert read.stamp.fingerprint == found.stamp.fingerprint != read.fingerprint_after


# --- sidecars ---


def test_a_sidecar_that_came_after_the_scan_is_read(root: Path, reader: EvidenceReader) -> None:
    found, path = found_in(root), root / f"{KEY}.metadata.yaml"
    path.write_text(THEIRS)
    read = reader.read(KEY, found)
    assert read.stamp.sidecar == read.sidecar.fingerprint == fingerprint(path)
    assert read.sidecar.document is not None
    assert read.sidecar.document.exp_name == "theirs"
    found = found_in(root)
    path.unlink()
    read = reader.read(KEY, found)
    assert (read.stamp.sidecar, read.sidecar) == (None, Sidecar())


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path.write_bytes(b""), None),  # what a power cut leaves
        (lambda path: path.write_bytes(bytes(100)), None),
        (lambda path: path.write_bytes(HEAD + b"schema_version: '1.0'\n"), None),
        (lambda path: path.write_bytes(b"a: ["), "sidecar-invalid"),
        (lambda path: path.write_bytes(b"- 1\n"), "sidecar-invalid"),
        (lambda path: path.mkdir(), "sidecar-invalid"),
        (os.mkfifo, "sidecar-invalid"),
        (lambda path: path.symlink_to("elsewhere.yaml"), "sidecar-invalid"),
    ],
)
def test_a_sidecar_that_is_none(
    root: Path, reader: EvidenceReader, make: Callable[[Path], object], code: str | None
) -> None:
    make(root / f"{KEY}.metadata.yaml")
    read = reader.read(KEY, found_in(root))
    assert read.sidecar.document is None
    assert (read.sidecar.problem and read.sidecar.problem.code) == code
    assert read.stamp == found_in(root).stamp


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, "io-error"), (errno.EACCES, "sidecar-invalid")])
def test_a_sidecar_that_the_disk_does_not_give_is_missing_in_the_stamp_and_a_forbidden_one_is_not(
    root: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    (root / f"{KEY}.metadata.yaml").write_text(THEIRS)
    monkeypatch.setattr("ckpt_indexer.passes.evidence.opened_file", failing_for(".metadata.yaml", number))
    read = reader.read(KEY, found_in(root))
    assert read.sidecar.problem is not None
    assert read.sidecar.problem.code == code
    assert read.stamp.sidecar == (None if code == "io-error" else fingerprint(root / f"{KEY}.metadata.yaml"))


def test_where_the_disk_does_not_say_what_stands_there_the_scan_is_believed(
    root: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ours(root, reader)
    found = found_in(root)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ckpt_indexer.passes.evidence.fingerprint_at", fail)
    assert reader.read(KEY, found).stamp == found.stamp


def test_the_sidecar_under_another_programs_name_is_read_too(root: Path, reader: EvidenceReader) -> None:
    path = root / "exp/checkpoints/best.metadata.yaml"
    path.write_text(THEIRS)
    read = reader.read(KEY, found_in(root))
    assert read.stamp.other == OtherSidecar(Key("exp/checkpoints/best.metadata.yaml"), fingerprint(path))
    assert read.other.fingerprint == fingerprint(path)
    assert read.other.document is not None
    assert read.other.document.exp_name == "theirs"


# --- configurations and runs ---


def failing_for(end: str, number: int) -> Callable[..., Any]:
    """Return an ``opened_file`` that fails for what ends in *end*."""

    def opened(root: str, path: RelPath) -> Any:
        if path.endswith(end):
            raise OSError(number, os.strerror(number))
        return opened_file(root, path)

    return opened


@pytest.mark.parametrize(
    ("text", "content"), [("exp_name: e\n", {"exp_name": "e"}), ("- 1\n", {}), ("a: [", {}), ("", {})]
)
def test_a_configuration_that_is_no_mapping_is_an_empty_one(
    root: Path, reader: EvidenceReader, text: str, content: dict[str, Any]
) -> None:
    (root / "exp/config.yaml").write_text(text)
    read = reader.read(KEY, found_in(root))
    assert read.config is not None
    assert (read.config.path, read.config.content) == ("exp/config.yaml", content)
    assert read.stamp.config == ("exp/config.yaml", read.config.fingerprint) == found_in(root).stamp.config


def test_a_configuration_is_read_once_for_all_checkpoints_of_a_run_and_anew_when_it_changed(
    root: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_yaml, asked = Reader.read_yaml, []

    def counted(self: Reader, descriptor: int) -> YamlFacts:
        asked.append(descriptor)
        return read_yaml(self, descriptor)

    monkeypatch.setattr(Reader, "read_yaml", counted)
    (root / "exp/config.yaml").write_text("exp_name: e\n")
    shutil.copy(root / KEY, root / "exp/checkpoints/last.ckpt")
    for key in (KEY, Key("exp/checkpoints/last.ckpt"), KEY):
        read = reader.read(key, found_in(root, key))
        assert read.config is not None
        assert read.config.content == {"exp_name": "e"}
    assert len(asked) == 1
    (root / "exp/config.yaml").write_text("exp_name: another\n")
    read = reader.read(KEY, found_in(root))
    assert read.config is not None
    assert (read.config.content, len(asked)) == ({"exp_name": "another"}, 2)


def test_so_many_configurations_are_kept_and_the_one_used_longest_ago_goes_first(
    root: Path, reader: EvidenceReader
) -> None:
    (root / "exp/config.yaml").write_text("exp_name: e\n")
    for number in range(CONFIGS_CACHED_MAX):
        reader._config(Key("exp/config.yaml"), (0, 0, number))
    (root / "exp/config.yaml").unlink()
    assert reader._config(Key("exp/config.yaml"), (0, 0, 0)) is not None
    (root / "exp/config.yaml").write_text("exp_name: e\n")
    reader._config(Key("exp/config.yaml"), (0, 0, CONFIGS_CACHED_MAX))
    (root / "exp/config.yaml").unlink()
    assert reader._config(Key("exp/config.yaml"), (0, 0, 0)) is not None
    assert reader._config(Key("exp/config.yaml"), (0, 0, 1)) is None


@pytest.mark.parametrize("how", ["gone", "unread"])
def test_a_configuration_that_cannot_be_read_is_missing_in_the_stamp_and_not_kept(
    root: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (root / "exp/config.yaml").write_text("exp_name: e\n")
    found = found_in(root)
    with monkeypatch.context() as patch:
        if how == "gone":
            patch.setattr("ckpt_indexer.passes.evidence.opened_file", failing_for("config.yaml", errno.ENOENT))
        else:
            patch.setattr(Reader, "read_yaml", lambda *_: YamlFacts(error="Input/output error", is_unread=True))
        read = reader.read(KEY, found)
    assert (read.config, read.stamp.config, read.problem) == (None, None, None)
    assert reader.read(KEY, found).config is not None


@pytest.fixture
def run_folder(root: Path) -> Path:
    folder = root / "exp/wandb/run-20261121_070633-el1e2may"
    (folder / "files").mkdir(parents=True)
    (folder / "run-el1e2may.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    (folder / "files/config.yaml").write_text("lr:\n  value: 0.1\n")
    (root / "exp/el1e2may").mkdir()
    shutil.copy2(root / KEY, root / "exp/el1e2may/best.ckpt")
    return folder


RUN_KEY = Key("exp/el1e2may/best.ckpt")  # its folder says whose it is


def test_a_run_is_read_once_for_all_its_checkpoints(
    root: Path, run_folder: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_run, asked = wandb.read_run, []

    def counted(*args: Any) -> wandb.Run:
        asked.append(args)
        return read_run(*args)

    monkeypatch.setattr(wandb, "read_run", counted)
    for _ in range(2):
        read = reader.read(RUN_KEY, found_in(root, RUN_KEY))
        assert read.run is not None
        assert (read.run.id, read.run.config) == ("el1e2may", {"lr": 0.1})
        assert read.stamp.run == (read.run.path, read.run.fingerprint)
    assert len(asked) == 1
    os.utime(run_folder / "files/config.yaml", (4e9, 4e9))
    reader.read(RUN_KEY, found_in(root, RUN_KEY))
    assert len(asked) == 2


def test_a_run_that_began_later_is_not_the_checkpoints_but_stays_in_its_stamp(
    root: Path, run_folder: Path, reader: EvidenceReader
) -> None:
    found = found_in(root)
    read = reader.read(KEY, found)
    assert (read.run, read.stamp.run) == (None, found.stamp.run)
    assert found.stamp.run is not None


def test_a_run_that_the_disk_does_not_give_is_missing_in_the_stamp(
    root: Path, run_folder: Path, reader: EvidenceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_in(root, RUN_KEY)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "read_run", fail)
        read = reader.read(RUN_KEY, found)
    assert (read.run, read.stamp.run, read.problem) == (None, None, None)
    assert read.facts is not None
    assert reader.read(RUN_KEY, found).run is not None


# --- from anywhere ---


@pytest.fixture
def everything(root: Path, run_folder: Path, reader: EvidenceReader) -> Evidence:
    """Read a checkpoint that has all that one can have."""
    (root / "exp/config.yaml").write_text("exp_name: e\n")
    (root / f"{RUN_KEY}.metadata.yaml").write_text(THEIRS)
    (root / "exp/el1e2may/best.metadata.yaml").write_text("- 1\n")
    return reader.read(RUN_KEY, found_in(root, RUN_KEY))


def test_evidence_survives_pickling(everything: Evidence) -> None:
    assert None not in (everything.config, everything.run, everything.facts, everything.sidecar.document)
    assert everything.other.problem is not None
    assert pickle.loads(pickle.dumps(everything)) == everything


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_evidence_from_an_executor_gives_the_same_entry(root: Path, everything: Evidence, kind: str) -> None:
    pools: dict[str, Callable[[], cf.Executor]] = {
        "thread": lambda: cf.ThreadPoolExecutor(1),
        "process": lambda: cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")),
    }
    found, settings = found_in(root, everything.key), SidecarSettings(is_written=False)
    expected = act(str(root), judge(everything, settings), settings)
    with pools[kind]() as executor:
        elsewhere = Examiner(str(root), sidecars=False, executor=executor)
        elsewhere.warm_up()
        assert elsewhere._evidence._readers == []
        assert elsewhere.examine(everything.key, found) == expected
        assert elsewhere.examine(everything.key, found, force=True) == expected
        assert len(elsewhere._evidence._readers) == (1 if kind == "thread" else 0)
        elsewhere.close()


def test_in_one_process_there_is_one_reader_of_a_root(tmp_path: Path) -> None:
    readers = [pickle.loads(pickle.dumps(EvidenceReader(str(tmp_path / name)))) for name in ("a", "a", "b")]
    assert readers[0] is readers[1]
    assert [each.root for each in readers] == [str(tmp_path / name) for name in ("a", "a", "b")]
