"""A checkpoint and its W&B run: real offline runs of a real training, folders as an online run leaves them, and rules.

Run as a program, this file is the training: it prints what every checkpoint it saved really came from.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.formats.facts import LoggedRow, RunLog
from ckpt_indexer.metadata.compose import canonical_name
from ckpt_indexer.metadata.sidecar import parse_sidecar
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.paths import ROOT, RelPath, ancestors
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.trackers.wandb import log as wandb_log
from ckpt_indexer.trackers.wandb.log import read_log
from ckpt_indexer.trackers.wandb.run import (
    Run,
    RunPath,
    belongs,
    find_run,
    list_runs,
    metrics_at,
    read_run,
    stat_run,
)
from tests.process import TIMEOUT_S, index_equals_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.model import Fingerprint

SCORES = (0.25, 0.75, 0.5, 0.9375)
A, B = "run-20261121_070633-el1e2may", "offline-run-20261121_080000-k705v87j"


class Saved(NamedTuple):
    """What a checkpoint came from, as its training remembers."""

    run_id: str | None
    epoch: int
    global_step: int
    batches: int
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def reads() -> Iterator[Reader]:
    with Reader() as reads:
        yield reads


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Saved]]:
    pytest.importorskip("wandb")
    root = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-W", "ignore", "-m", "tests.trackers.wandb.test_run", str(root)]
    environment = {**os.environ, "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_MODE": "offline"}
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "XDG_CACHE_HOME"):
        environment[name] = str(tmp_path_factory.mktemp(name))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    saved = json.loads(done.stdout.splitlines()[-1])
    return str(root), {key: Saved(**facts) for key, facts in saved.items()}


def run_of(root: str, path: RelPath, reads: Reader, *, home: RelPath | None = None) -> Run | None:
    """Do what the indexer does: list above the checkpoint, find, stat, read, ask whether it belongs."""
    listed = {folder: list_runs(root, folder) for folder in ancestors(path)}
    found = find_run(path, listed, home=home)
    status = stat_run(root, found)
    if status is None:
        return None
    run = read_run(root, found, status.fingerprint, reads)
    return run if belongs(run, path, os.stat(os.path.join(root, path)).st_mtime_ns) else None


# --- real runs ---


def test_each_checkpoint_of_a_real_training_has_its_own_run_or_none(trained, reads) -> None:
    root, saved = trained
    told = {}
    for path in saved:
        run = run_of(root, path, reads)
        told[path] = None if run is None else run.id
    unclear = {path for path in saved if path.startswith(("two/checkpoints", "later/checkpoints/without"))}
    assert len(unclear) == 3
    assert told == {path: None if path in unclear else facts.run_id for path, facts in saved.items()}
    assert {path.split("/")[0] for path, run_id in told.items() if run_id} == {
        "default", "hydra", "later", "resumed", "two",
    }  # fmt: skip


def test_the_index_says_which_run_each_checkpoint_came_from_and_what_was_logged_then(trained) -> None:
    root, saved = trained
    with Indexer(root) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.finish()
        entries = read_index(root).entries
        unclear = {path for path in saved if path.startswith(("two/checkpoints", "later/checkpoints/without"))}
        assert {key: entry.wandb_run_id for key, entry in entries.items()} == {
            path: None if path in unclear else facts.run_id for path, facts in saved.items()
        }
        for key, facts in saved.items():
            if entries[key].wandb_run_id is not None:
                for name, value in facts.metrics.items():
                    told = entries[key].metrics[canonical_name(name) or name]
                    assert told == pytest.approx(value), (key, name)
        assert index_equals_disk(Path(root))
        document = parse_sidecar(yaml.safe_load(Path(root, min(saved) + ".metadata.yaml").read_bytes()))
        assert document.indexer is not None
        assert document.indexer.sources["wandb_run_id"] == "wandb"
        generation = read_index(root).generation
        indexer.scan_and_plan()
        indexer.finish()
        assert read_index(root).generation == generation


def test_name_project_and_configuration_come_from_the_log_of_an_offline_run(trained, reads) -> None:
    root, saved = trained
    path = next(path for path in saved if path.startswith("hydra/"))
    run = run_of(root, path, reads)
    assert run is not None
    assert (run.name, run.project, run.entity) == ("hydra", "project", None)
    assert run.run_path == RunPath(None, "project", saved[path].run_id or "")
    assert run.config == {"model": {"encoder": {"model_name": "resnet18"}}, "lr": 0.5, "width": 2}


def test_metrics_are_those_that_were_logged_when_the_checkpoint_was_saved(trained, reads) -> None:
    root, saved = trained
    compared = set()
    for path, facts in saved.items():
        run = run_of(root, path, reads)
        if run is None:
            continue
        found = metrics_at(run, epoch=facts.epoch, global_step=facts.global_step, batches=facts.batches)
        assert {name: pytest.approx(value) for name, value in facts.metrics.items()} == found, path
        compared |= {(path.split("/")[0], name) for name in found}
    assert {("default", "val/hmean"), ("default", "train/loss"), ("hydra", "val/hmean")} <= compared


def test_a_score_of_an_older_checkpoint_stands_beside_the_last_step_and_is_not_taken(trained, reads) -> None:
    root, saved = trained
    path, facts = max((item for item in saved.items() if item[0].startswith("default/")), key=lambda i: i[1].epoch)
    run = run_of(root, path, reads)
    assert run is not None
    assert "val/hmean" not in facts.metrics  # validated every second epoch only
    assert [row.metrics["val/hmean"] for row in run.rows if "val/hmean" in row.metrics] == [SCORES[1]]
    assert "val/hmean" not in metrics_at(run, epoch=facts.epoch, global_step=facts.global_step, batches=facts.batches)


def test_a_resumed_run_is_one_run_known_by_its_oldest_folder(trained, reads) -> None:
    root, saved = trained
    runs = [run_of(root, path, reads) for path in saved if path.startswith("resumed/")]
    ((run_id, (oldest, newest)),) = list_runs(root, RelPath("resumed")).items()
    run = runs[0]
    assert run is not None
    assert [run.path, run.id, runs] == [oldest, run_id, [run, run, run]]
    assert oldest < newest
    assert {row.epoch for row in run.rows} == {0, 1, 2}
    assert run.config["leg"] == 1


# --- folders as an online run leaves them ---


@pytest.fixture
def online(tmp_path: Path) -> Path:
    """Give a run folder with what wandb-core writes when an online run ends."""
    folder = tmp_path / "exp" / "wandb" / A
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "config.yaml").write_text(
        '_wandb:\n    value:\n        cli_version: 0.31.0\n        m:\n            - "1": trainer/global_step\n'
        "lr:\n    value: 1e-05\nmodel:\n    value:\n        encoder:\n            model_name: resnet18\n"
    )
    (folder / "files" / "wandb-summary.json").write_text(
        '{"_runtime":12,"_step":8,"_timestamp":1.795e+09,"_wandb":{"runtime":12},"epoch":2,"loss":NaN,'
        '"trainer/global_step":5,"val/hmean":0.5,"table":{"_type":"table-file"},"best":true}'
    )
    (folder / f"run-{A[-8:]}.wandb").write_bytes(framed([]))
    (tmp_path / "exp" / "wandb" / "latest-run").symlink_to(A)
    (tmp_path / "exp" / "checkpoints").mkdir()
    return folder


def read(online: Path, reads: Reader) -> Run:
    root = str(online.parents[2])
    folders = list_runs(root, RelPath("exp"))["el1e2may"]
    status = stat_run(root, folders)
    assert status is not None
    return read_run(root, folders, status.fingerprint, reads)


def test_the_configuration_comes_from_the_files_of_an_online_run(online, reads) -> None:
    run = read(online, reads)
    assert run.config == {"lr": "1e-05", "model": {"encoder": {"model_name": "resnet18"}}}  # YAML 1.1: no number
    assert metrics_at(run, epoch=2, global_step=6, batches=6) == {}  # nothing says when each was logged
    (online / f"run-{A[-8:]}.wandb").write_bytes(framed([config_record(b"1e-05", b"lr")]))
    assert read(online, reads).config == {**run.config, "lr": 1e-05}


@pytest.mark.parametrize("name", ["config.yaml", "wandb-summary.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1, 2]",
        b"\xff\xfe",
        b"{" * 50_000,
        b"[" * 900_000,
        b"x" * (2 << 20),
        b'{"lr": 1}',
        b"a: &a [*a]",
        b"null",
    ],
)
def test_a_broken_file_costs_its_own_facts_only(online, reads, name, content) -> None:
    whole = read(online, reads)
    (online / "files" / name).write_bytes(content)
    run = read(online, reads)
    assert run.id == "el1e2may"
    assert run.config == ({} if name == "config.yaml" else whole.config)


def test_nothing_is_read_through_a_link(online, reads, tmp_path) -> None:
    outside = tmp_path / "outside"
    (online / "files").rename(outside)
    (online / "files").symlink_to(outside)
    assert read(online, reads).config == {}
    log = online / f"run-{A[-8:]}.wandb"
    log.rename(tmp_path / "log")
    log.symlink_to(tmp_path / "log")
    assert stat_run(str(tmp_path), [RelPath(f"exp/wandb/{A}")]) is None
    online.rename(tmp_path / A)
    online.symlink_to(tmp_path / A)
    assert list_runs(str(tmp_path), RelPath("exp")) == {}  # nor is latest-run a run's folder
    online.parent.rename(tmp_path / "elsewhere")
    online.parent.symlink_to(tmp_path / "elsewhere")
    assert list_runs(str(tmp_path), RelPath("exp")) == {}


@pytest.mark.parametrize(
    "name",
    ["latest-run", "settings", "run-2026_07-el1e2may"]
    + [f"run-20261121_070633-{run_id}" for run_id in ("", "a:b", "a\n", "x" * 129, "\udcff")],
)
def test_other_names_are_no_run_folders(tmp_path, name) -> None:
    (tmp_path / "wandb" / name).mkdir(parents=True)
    assert list_runs(str(tmp_path), ROOT) == {}


def test_a_folder_without_the_log_that_its_name_promises_is_no_run(online, tmp_path) -> None:
    (online / f"run-{A[-8:]}.wandb").rename(online / "run-el1e2may-suffix.wandb")
    assert stat_run(str(tmp_path), [RelPath(f"exp/wandb/{A}")]) is None


# --- which run ---


@pytest.mark.parametrize(
    ("path", "listed", "home", "run"),
    [
        ("x.ckpt", {"": [A]}, None, f"wandb/{A}"),
        ("checkpoints/x.ckpt", {"": [A]}, None, f"wandb/{A}"),
        ("e/checkpoints/epoch=1-val/x=1.ckpt", {"e": [A]}, None, f"e/wandb/{A}"),
        ("e/ckpts/x.ckpt", {"e": [A]}, None, None),  # not known to be the run's own folder
        ("e/ckpts/x.ckpt", {"e": [A]}, "e", f"e/wandb/{A}"),  # its configuration is there
        ("e/checkpoints/x.ckpt", {"": [A]}, None, None),  # somebody else may train below the same folder
        ("e/checkpoints/x.ckpt", {"": [A], "e": [B]}, None, f"e/wandb/{B}"),
        ("e/checkpoints/x.ckpt", {"e": [A, B]}, None, None),
        ("e/k705v87j/x.ckpt", {"e": [A, B]}, None, f"e/wandb/{B}"),
        ("p/el1e2may/checkpoints/x.ckpt", {"": [A, B]}, None, f"wandb/{A}"),
        ("p/el1e2may/checkpoints/x.ckpt", {"": [A, B], "p": [B]}, None, f"wandb/{A}"),
        ("p/el1e2may/checkpoints/x.ckpt", {}, None, None),
        ("p/version_0/checkpoints/x.ckpt", {"": [A]}, None, None),
        ("1/checkpoints/x.ckpt", {"": [f"{A[:-8]}1", B]}, None, None),  # a job's number, and an id by chance
        (f"e/wandb/{B}/files/x.ckpt", {"e": [A, B]}, None, f"e/wandb/{B}"),
        (f"e/wandb/{B}/files/x.ckpt", {"e": [A]}, None, None),
        ("e/checkpoints/x.ckpt", {"e": [A, A.replace("070633", "090000")]}, None, f"e/wandb/{A}"),  # resumed
    ],
)
def test_a_run_is_found_by_names_or_not_at_all(tmp_path, path, listed, home, run) -> None:
    for folder, names in listed.items():
        for name in names:
            (tmp_path / folder / "wandb" / name).mkdir(parents=True)
    runs = {folder: list_runs(str(tmp_path), folder) for folder in map(RelPath, ("", "e", "p"))}
    assert next(iter(find_run(path, runs, home=home)), None) == run


def test_a_run_wrote_nothing_before_it_began_but_what_its_name_is_on() -> None:
    run = Run(id="el1e2may", started_ns=1000 * 10**9)
    assert belongs(run, RelPath("e/checkpoints/x.ckpt"), 1000 * 10**9)
    assert not belongs(run, RelPath("e/checkpoints/x.ckpt"), 900 * 10**9)
    assert belongs(run, RelPath("e/el1e2may/x.ckpt"), 900 * 10**9)
    assert belongs(run, RelPath(f"e/wandb/{A}/x.ckpt"), 900 * 10**9)
    assert not belongs(Run(id="el1e2may"), RelPath("e/checkpoints/x.ckpt"), 900 * 10**9)  # not known yet


# --- fingerprint ---


def test_the_entries_fingerprint_stands_while_the_log_grows_and_the_exact_one_does_not(online, tmp_path) -> None:
    def fingerprints() -> tuple[Fingerprint, Fingerprint]:
        status = stat_run(str(tmp_path), list_runs(str(tmp_path), RelPath("exp"))["el1e2may"])
        assert status is not None
        return status.fingerprint, status.exact

    log = online / f"run-{A[-8:]}.wandb"
    log.write_bytes(bytes(40_000))
    known = [fingerprints()]
    for size in (50_000, 60_000):
        log.write_bytes(bytes(size))
        known.append(fingerprints())
    assert [len({fingerprint for fingerprint, _ in known}), len({exact for _, exact in known})] == [1, 3]
    log.write_bytes(bytes(70_000))
    known.append(fingerprints())
    os.utime(online / "files" / "config.yaml", ns=(1, 4_000_000_000_000_000_000))
    known.append(fingerprints())
    resumed = online.parent / A.replace("070633", "090000")
    resumed.mkdir()
    (resumed / log.name).write_bytes(bytes(7))
    known.append(fingerprints())
    assert len({fingerprint for fingerprint, _ in known}) == 4


# --- metrics ---


@pytest.mark.parametrize(
    ("epoch", "global_step", "batches", "metrics"),
    [
        (1, 4, 4, {"val": 0.5, "loss": 1.0}),
        (0, 4, 4, {}),
        (1, 3, 3, {}),  # the row of that very number was logged one batch later
        (1, 4, 8, {}),  # gradients of two batches a step: a row's number may mean other weights
        (1, 4, 2, {}),  # two optimizers
        (1, 4, None, {}),
        (None, 4, 4, {}),
        (1, None, None, {}),
        (2, 6, 6, {"loss": 2.0}),  # "val" has two values there
    ],
)
def test_metrics_are_taken_from_the_one_row_that_fits(epoch, global_step, batches, metrics) -> None:
    rows = [
        LoggedRow(1, 3, {"val": 0.5}),
        LoggedRow(1, 3, {"loss": 1.0}),
        LoggedRow(2, 5, {"val": 0.5}),
        LoggedRow(2, 5, {"val": 0.6}),
    ]
    rows.append(LoggedRow(2, 5, {"loss": 2.0}))
    run = Run(id="x", rows=rows)
    assert metrics_at(run, epoch=epoch, global_step=global_step, batches=batches) == metrics


def test_the_names_of_a_runs_metrics_are_computed_once() -> None:
    run = Run(id="el1e2may", rows=[LoggedRow(0, 1, {"a": 1.0, "b": 2.0}), LoggedRow(0, 2, {"c": 3.0})])
    assert run.metric_names == {"a", "b", "c"}
    assert run.metric_names is run.metric_names


# --- the log, judged by wandb's own definition of it ---


def framed(records: list[bytes]) -> bytes:
    """Write records as LevelDB's doc/log_format.md says, with wandb's header and sum."""
    out = bytearray(b":W&B\xe1\xbe\x00")
    for whole in records:
        rest, kind = whole, 1
        while True:
            if (left := (32 << 10) - len(out) % (32 << 10)) < 7:
                out += bytes(left)
                left = 32 << 10
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[(kind == 1, not rest)]
            out += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            if not rest:
                break
    return bytes(out)


def parsed(data: bytes) -> RunLog:
    return read_log(io.BytesIO(data))


@pytest.fixture(scope="module")
def pb() -> Any:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2  # type: ignore[attr-defined, unused-ignore]

    return wandb_internal_pb2


def records(pb: Any, rows: int = 40) -> list[bytes]:
    run = pb.Record(num=1)
    run.run.run_id, run.run.entity, run.run.project, run.run.display_name = "el1e2may", "team", "prôject", "nice name"
    run.run.start_time.seconds, run.run.start_time.nanos = 1_795_244_793, 5
    run.run.config.update.add(key="_wandb", value_json="{}")
    run.run.config.update.add(key="lr", value_json="0.1")
    update = pb.Record(num=2)
    update.config.update.add(key="lr", value_json="0.2")
    update.config.update.add(nested_key=["model", "encoder"], value_json='{"name": "resnet18"}')
    update.config.update.add(key="gone", value_json="1")
    update.config.update.add(key="text", value_json=json.dumps("y" * 70_000))  # more than a block
    removal = pb.Record(num=3)
    removal.config.remove.add(key="gone")
    written = [run, update, removal]
    for step in range(rows):
        row = pb.Record(num=4 + step)
        row.history.item.add(nested_key=["epoch"], value_json=str(step // 10))
        row.history.item.add(nested_key=["trainer/global_step"], value_json=str(step))
        row.history.item.add(nested_key=["_step"], value_json=str(step))
        row.history.item.add(key="val", value_json=str(step / 8))
        row.history.item.add(key="note", value_json='"text"')
        row.history.item.add(nested_key=["a", "b"], value_json="1")
        written.append(row)
    return [record.SerializeToString() for record in written]


def test_a_log_is_read_as_wandbs_own_definition_writes_it(pb) -> None:
    assert parsed(framed(records(pb))) == RunLog(
        run_id="el1e2may",
        entity="team",
        project="prôject",
        name="nice name",
        started_ns=1_795_244_793_000_000_005,
        config={"lr": 0.2, "model": {"encoder": {"name": "resnet18"}}, "text": "y" * 999 + "…"},
        rows=[LoggedRow(step // 10, step, {"val": step / 8}) for step in range(40)],
    )


def test_the_typed_values_of_newer_rows_are_read(pb) -> None:
    row = pb.Record(num=1)
    if "integer" not in pb.HistoryItem.DESCRIPTOR.fields_by_name:
        pytest.skip("this wandb has none")
    row.history.item.add(key="epoch", integer=2)
    row.history.item.add(key="trainer/global_step", integer=5)
    row.history.item.add(key="val", number=0.5)
    row.history.item.add(key="low", integer=-3)
    row.history.item.add(key="note", text="x")
    row.history.item.add(key="flag", boolean=True)
    assert parsed(framed([row.SerializeToString()])).rows == [LoggedRow(2, 5, {"val": 0.5, "low": -3.0})]


@pytest.mark.parametrize("number", ["NaN", '"NaN"', "Infinity", '"-Infinity"'])
def test_numbers_that_json_lacks_are_numbers(pb, number) -> None:
    row = pb.Record()
    for name, value in {"epoch": "0", "trainer/global_step": "0", "loss": number}.items():
        row.history.item.add(key=name, value_json=value)
    (read_row,) = parsed(framed([row.SerializeToString()])).rows
    assert str(read_row.metrics["loss"]) == str(float(number.strip('"')))


def test_a_log_cut_off_anywhere_gives_what_came_before(pb) -> None:
    written = records(pb, rows=6)
    written[1] = written[0]  # without the long one: every byte is tried
    data = framed(written)
    steps = []
    for end in range(len(data)):
        log = parsed(data[:end])
        assert [row.step for row in log.rows] == list(range(len(log.rows)))
        steps.append(len(log.rows))
    assert steps == sorted(steps)
    assert steps[-1] == 5


def test_a_damaged_byte_costs_at_most_its_block_and_invents_nothing(pb) -> None:
    data = framed(records(pb, rows=600))
    whole = parsed(data)
    assert len(data) > 3 * (32 << 10)
    for place in range(0, len(data), 1999):
        log = parsed(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert [row for row in log.rows if row not in whole.rows] == []
    assert LoggedRow(0, 3, {"val": 3 / 8}) in whole.rows
    assert LoggedRow(0, 3, {"val": 2 / 8}) not in parsed(data.replace(b"0.375", b"0.250", 1)).rows
    assert parsed(data[:40_000] + bytes(100) + data[40_100:]).rows[-1] == whole.rows[-1]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def config_record(value: bytes, *names: bytes) -> bytes:
    item = b"".join(field(2, name) for name in names or (b"k",)) + field(16, value)
    return field(5, field(1, item))


HOSTILE = {
    "empty": b"",
    "no header": b"PK\x03\x04" + bytes(100_000),
    "zeros": bytes(200_000),
    "a header only": b":W&B\xe1\xbe\x00",
    "no end of a number": framed([b"\x80" * 1000]),
    "a group": framed([b"\x0b\x0c"]),
    "a number for a run": framed([b"\x88\x01\x05"]),
    "a number for a name": framed([field(17, b"\x08\x05")]),
    "a number for a time": framed([field(17, field(17, field(1, b"x")))]),
    "an endless time": framed([field(17, field(17, b"\x08" + varint((1 << 64) - 1)))]),
    "a length beyond": framed([b"\x12\xff\xff\xff\xff\x0f"]),
    "brackets in brackets": framed([config_record(b"[" * 100_000)]),
    "names in names": framed([config_record(b"1", *[b"n"] * 5000)]),
    "a name for what is no mapping": framed([config_record(b"1", b"a"), config_record(b"2", b"a", b"b")]),
    "large numbers": framed([config_record(b"9" * 5000), config_record(b"1e999")]),
    "no text": framed([config_record(b'"\xff"'), config_record(b'"\\ud800"', b"\xff")]),
    "a row of nothing": framed([field(2, field(1, b""))]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_give_a_log_all_the_same(name) -> None:
    import msgspec

    log = parsed(HOSTILE[name])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(log), type=RunLog) == log
    assert log.rows == []


@pytest.mark.parametrize(
    ("limit", "record"),
    [
        ("FIELDS_MAX", b"\x08\x01" * 50),
        ("CONFIG_MAX", config_record(b'"' + b"x" * 98 + b'"')),
        ("NUMBERS_MAX", None),
        ("RECORD_MAX", field(9, bytes(200_000))),
    ],
)
def test_what_comes_after_a_limit_is_left_out(monkeypatch, limit, record) -> None:
    def row(step: int) -> bytes:
        items = {b"epoch": b"0", b"trainer/global_step": str(step).encode(), b"val": b"1"}
        return field(2, b"".join(field(1, field(1, name) + field(16, value)) for name, value in items.items()))

    data = framed([row(0), *([record] if record else []), row(1), row(2), config_record(b"1", b"late")])
    assert [len(parsed(data).rows), parsed(data).config.get("late")] == [3, 1]
    values = {"FIELDS_MAX": 30, "CONFIG_MAX": 100, "NUMBERS_MAX": 1, "RECORD_MAX": 100_000}
    monkeypatch.setattr(wandb_log, limit, values[limit])
    expected = {"FIELDS_MAX": (1, None), "CONFIG_MAX": (3, None), "NUMBERS_MAX": (2, None), "RECORD_MAX": (3, 1)}
    log = parsed(data)
    assert (len(log.rows), log.config.get("late")) == expected[limit]


# --- the training ---


def train() -> None:
    import lightning
    import torch
    import wandb
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import WandbLogger

    root = Path(sys.argv[1])
    saved: dict[str, Any] = {}

    class Saver(ModelCheckpoint):
        """Remembers what was logged in the epoch of each save."""

        @property
        def state_key(self) -> str:
            return f"{super().state_key}, {self.dirpath}"  # two of them save the same

        def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            checkpoint = torch.load(filepath, weights_only=False)
            logged = {"train/loss": trainer.callback_metrics["train/loss"].item()}
            if trainer.lightning_module.validated == trainer.current_epoch:
                logged["val/hmean"] = SCORES[trainer.current_epoch]
            saved[str(Path(filepath).relative_to(root))] = Saved(
                trainer.logger.version if trainer.logger else None,
                checkpoint["epoch"],
                checkpoint["global_step"],
                checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"],
                logged,
            )._asdict()

    class Module(lightning.LightningModule):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)
            self.validated: int | None = None

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            loss = self.layer(batch).square().mean()
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: torch.Tensor, _: int) -> None:
            self.log("val/hmean", SCORES[self.current_epoch])

        def on_validation_epoch_end(self) -> None:
            self.validated = self.current_epoch

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.randn(4, 2), batch_size=2)

    def fit(
        folder: str, *dirpaths: str | None, run_id: str | None = None, filename: str = "{epoch}", epochs: int = 1,
        logs: bool = True, resume: str | None = None, validate_every: int = 1, config: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        name = folder.partition("/")[0]
        (root / folder).mkdir(parents=True, exist_ok=True)
        logger = WandbLogger(name=name, project="project", save_dir=root / folder, id=run_id, settings=settings)
        places = {}
        if logs:
            logger.log_hyperparams({"model": {"encoder": {"model_name": "resnet18"}}, "lr": 0.5, **(config or {})})
            places = {"id": root / folder / str(logger.version), "inside": logger.experiment.dir}
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=logs and logger, log_every_n_steps=1,
            callbacks=[
                Saver(
                    path and places.get(path, root / folder / path), filename=filename, save_top_k=-1,
                    save_on_train_epoch_end=validate_every > 1 or None,
                )
                for path in dirpaths
            ],
            check_val_every_n_epoch=validate_every, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(Module(width=2), data, data, ckpt_path=resume)
        wandb.finish()

    settings = wandb.Settings(x_disable_stats=True)
    fit("default", None, epochs=3, validate_every=2)
    fit("hydra/2026-01-01/12-00-00", "checkpoints", "inside", epochs=2)
    fit("two", "checkpoints", filename="a{epoch}")
    fit("two", "checkpoints", "id", filename="b{epoch}")
    fit("resumed", "checkpoints", run_id="chosen-id", filename="a{epoch}", config={"leg": 0})
    first = str(root / "resumed/checkpoints/aepoch=0.ckpt")
    # A resumption may begin within the same second, and would then write into the same folder.
    (older,) = (root / "resumed/wandb").glob("offline-run-*")
    older.rename(older.with_name("offline-run-20200101_000000-chosen-id"))
    fit("resumed", "checkpoints/later", run_id="chosen-id", filename="b{epoch}", epochs=3, resume=first,
        config={"leg": 1})  # fmt: skip
    fit("later", "checkpoints", filename="without{epoch}", logs=False)
    (without,) = (root / "later/checkpoints").iterdir()
    os.utime(without, ns=(without.stat().st_mtime_ns - 3600 * 10**9,) * 2)
    fit("later", "checkpoints", filename="with{epoch}")
    print()
    print(json.dumps(saved))


if __name__ == "__main__":
    train()
