"""Metadata files, configurations, single checkpoints and runs, under the names that callers know."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from ckpt_indexer import paths, read_index
from ckpt_indexer.catalog import (
    CheckpointIndex,
    CheckpointMetadataV1,
    MetadataValidator,
    WandbClient,
    extract_run_id_from_checkpoint,
    generate_metadata_for_checkpoint,
    get_wandb_client,
    load_config,
    load_metadata,
    load_metadata_batch,
    resolve_config_path,
    save_metadata,
    validate_checkpoint,
)
from tests.process import put, run
from tests.samples import lightning_like

THEIRS: dict[str, Any] = {
    "schema_version": "1.0", "checkpoint_path": "outputs/e/checkpoints/best.ckpt", "exp_name": "e",
    "created_at": "2025-10-19T13:36:50", "training": {"epoch": 18, "global_step": 3895},
    "model": {
        "architecture": "dbnet", "encoder": {"model_name": "resnet18"}, "decoder": {"name": "fpn_decoder"},
        "head": {"name": "db_head"}, "loss": {"name": "db_loss"},
    },
    "metrics": {"precision": 0.9, "recall": 0.8, "hmean": 0.85},
    "checkpointing": {"monitor": "val/hmean", "mode": "max"},
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """Give their document with another value at a dotted path; ``...`` takes it out."""
    content = copy.deepcopy(THEIRS)
    *sections, name = path.split(".")
    section = content
    for each in sections:
        section = section[each]
    if value is ...:
        del section[name]
    else:
        section[name] = value
    return content


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = put(tmp_path / "outputs/e/checkpoints/best.ckpt", b"")
    torch.save(lightning_like(), path)
    return path


def beside(checkpoint: Path, name: str, content: Any) -> Path:
    return put(checkpoint.with_name(name), yaml.safe_dump(content).encode())


@pytest.mark.parametrize(
    "name", ["best.ckpt.metadata.yaml", "best.metadata.yaml", "best.ckpt.metadata.json", "best.metadata.json"]
)
def test_a_sidecar_is_found_under_each_of_its_names(checkpoint: Path, name: str) -> None:
    text = json.dumps(THEIRS) if name.endswith("json") else yaml.safe_dump(THEIRS)
    put(checkpoint.with_name(name), text.encode())
    metadata = load_metadata(checkpoint)
    assert metadata is not None
    assert (metadata.training.epoch, metadata.metrics.hmean, metadata.model.encoder.pretrained) == (18, 0.85, True)
    assert load_metadata_batch([checkpoint, "/nowhere.ckpt"]) == {checkpoint: metadata, Path("/nowhere.ckpt"): None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", "1.1"), ("created_at", "yesterday"), ("training.epoch", -1),
        ("training.global_step", ...), ("training.training_phase", "fit"), ("training.max_epochs", 0),
        ("model.architecture", ...), ("model.encoder.model_name", None), ("model.encoder.pretrained", None),
        ("model.encoder.frozen", None), ("model.decoder.in_channels", ["x"]), ("model.decoder.inner_channels", 0),
        ("model.head.params", {"a": {"b": 1}}), ("model.loss.params", {"a": "x"}), ("metrics.hmean", 1.5),
        ("metrics.precision", float("nan")), ("metrics.validation_loss", -0.1), ("checkpointing.monitor", ...),
        ("checkpointing.mode", "best"), ("checkpointing.save_top_k", None), ("checkpointing.save_top_k", -2),
        ("checkpointing.save_last", None),
    ],
)  # fmt: skip
def test_what_older_readers_refuse_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        CheckpointMetadataV1.model_validate(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [("unheard_of", {"a": 1}), ("training.max_epochs", None), ("metrics.hmean", None), ("wandb_run_id", None),
     ("model.decoder.params", {"a": 1, "b": "x", "c": True, "d": 0.5}), ("checkpointing.save_top_k", -1)],
)  # fmt: skip
def test_what_older_readers_take_is_taken(path: str, value: Any) -> None:
    assert not hasattr(CheckpointMetadataV1.model_validate(changed(path, value)), "unheard_of")


@pytest.mark.parametrize("content", [b"a: [1\n", b"- 1\n", b"", b"\x00\xff", b"[" * 100_000, b"half: true\n"])
def test_a_broken_sidecar_is_none_with_a_warning(
    checkpoint: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(checkpoint.with_name("best.metadata.yaml"), content)
    assert load_metadata(checkpoint) is None
    assert len(caplog.records) == 1


def test_a_sidecar_with_half_its_fields_is_none_and_an_error_of_the_validator(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = {name: THEIRS[name] for name in ("schema_version", "checkpoint_path", "training")}
    beside(checkpoint, "best.metadata.yaml", half)
    assert load_metadata(checkpoint) is None
    assert "exp_name: Field required" in caplog.text
    result = MetadataValidator().validate_checkpoint_file(checkpoint)
    assert (result.is_valid, result.metadata, result.error_type) == (False, None, "invalid")


def test_one_that_does_not_validate_falls_through_to_the_next(checkpoint: Path) -> None:
    beside(checkpoint, "best.ckpt.metadata.yaml", {"schema_version": "1.0"})
    beside(checkpoint, "best.metadata.yaml", THEIRS)
    assert load_metadata(checkpoint) == CheckpointMetadataV1.model_validate(THEIRS)


def test_what_is_saved_is_loaded_again_and_has_no_nulls(checkpoint: Path) -> None:
    metadata = CheckpointMetadataV1.model_validate(THEIRS)
    path = save_metadata(metadata, checkpoint)
    assert path == checkpoint.with_name("best.ckpt.metadata.yaml")
    assert "null" not in path.read_text()
    assert load_metadata(checkpoint) == metadata
    assert sorted(os.listdir(path.parent)) == ["best.ckpt", path.name]


def test_a_configuration_is_looked_for_in_this_order(checkpoint: Path) -> None:
    places = [
        "best.config.yaml", "best.config.yml", "best.config.json", "best.resolved.config.json",
        "../.hydra/config.yaml", "../../.hydra/config.yaml", "config.yaml", "hparams.yaml", "../config.yaml",
    ]  # fmt: skip
    paths = [Path(os.path.normpath(checkpoint.parent / place)) for place in places]
    for path in reversed(paths):
        put(path, b"{}")
        assert resolve_config_path(checkpoint) == path
    assert resolve_config_path(checkpoint, ("other.yaml",)) == paths[0]
    assert resolve_config_path("/nowhere/x.ckpt") is None


@pytest.mark.parametrize(
    ("name", "content", "loaded"),
    [("c.yaml", b"a: {b: 1}\n", {"a": {"b": 1}}), ("c.json", b'{"a": {"b": 1}}', {"a": {"b": 1}}),
     ("c.json", b"{", None), ("c.json", b"[" * 100_000, None), ("c.yaml", b"- 1\n", None),
     ("c.yaml", b"a: " + b"x" * (2 << 20), None), ("c.json", b'"' + b"x" * (2 << 20) + b'"', None)],
)  # fmt: skip
def test_a_configuration_is_a_mapping_of_bounded_size(tmp_path: Path, name: str, content: bytes, loaded: Any) -> None:
    assert load_config(put(tmp_path / name, content)) == loaded
    assert load_config(tmp_path / "nowhere.yaml") is None


def test_the_validator_wants_a_score() -> None:
    validator = MetadataValidator()
    assert validator.validate_metadata(THEIRS).metrics.hmean == 0.85
    with pytest.raises(ValueError, match="hmean"):
        validator.validate_metadata(changed("metrics.hmean", None))
    assert [r.is_valid for r in validator.validate_batch([THEIRS, changed("metrics.hmean", None)])] == [True, False]


def test_a_report_counts_what_is_valid_invalid_and_missing(checkpoint: Path) -> None:
    for name in ("bad.ckpt", "none.ckpt", "scoreless.ckpt"):
        put(checkpoint.with_name(name), b"")
    beside(checkpoint, "best.metadata.yaml", THEIRS)
    beside(checkpoint, "bad.metadata.yaml", {"schema_version": "1.0"})
    beside(checkpoint, "scoreless.metadata.yaml", changed("metrics.hmean", None))
    report = MetadataValidator().validate_directory(checkpoint.parents[2])
    assert (report.total, report.valid, report.invalid, report.missing) == (4, 1, 2, 1)
    assert report.errors_by_type == {"invalid": 1, "missing": 1, "ValueError": 1}
    assert report.success_rate() == 25.0
    assert report.summary().startswith("4 checkpoints: 1 valid, 2 invalid, 1 without metadata (25.0 %)\n")


def test_our_sidecars_satisfy_the_validator(outputs: Path) -> None:
    assert run("rebuild", outputs).returncode == 0
    report = MetadataValidator().validate_directory(outputs)
    assert (report.total, report.success_rate()) == (8, 100.0), report.summary()


def test_a_good_checkpoint_passes_the_quick_check(outputs: Path) -> None:
    path = outputs / "a/checkpoints/last.ckpt"
    found = validate_checkpoint(path)
    assert (found.is_valid, found.checkpoint_path, found.error_message) == (True, path, None)
    assert (found.can_load, found.has_state_dict, found.has_config) == (True, True, True)
    assert (found.has_metadata, found.architecture_valid) == (False, True)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04" + b"\0" * 100])
def test_a_bad_checkpoint_is_an_answer_with_a_message(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.ckpt"
    if content is not None:
        put(path, content)
    found = validate_checkpoint(path)
    assert (found.is_valid, found.can_load, found.has_state_dict) == (False, False, False)
    assert found.error_message


def test_metadata_is_generated_with_an_index_above_and_without(outputs: Path) -> None:
    path = outputs / "a/checkpoints/epoch=01_step=000008.ckpt"
    alone = generate_metadata_for_checkpoint(path)
    assert alone is not None
    assert (alone.checkpoint_path, alone.metrics.hmean) == ("a/checkpoints/epoch=01_step=000008.ckpt", 0.5)
    assert not (outputs / paths.INDEX_NAME).exists()
    CheckpointIndex(outputs).rebuild()
    other = generate_metadata_for_checkpoint(outputs / "b/checkpoints/last.ckpt")
    assert other is not None
    assert other.model.encoder.model_name == "resnet34"
    assert generate_metadata_for_checkpoint(outputs / "b/checkpoints/nowhere.ckpt") is None


def test_the_older_index_is_ours(outputs: Path) -> None:
    index = CheckpointIndex(outputs)
    assert index.get_checkpoint_paths() == []
    index.rebuild()
    index.save()
    assert len(index.get_checkpoint_paths()) == 8
    new = outputs / "a/checkpoints/new.ckpt"
    torch.save(lightning_like(), new)
    index.add_checkpoint(new)
    assert new in index.get_checkpoint_paths()
    new.write_bytes(b"")
    index.add_checkpoint(new)
    assert new not in index.get_checkpoint_paths()
    assert "a/checkpoints/new.ckpt" in read_index(outputs).entries
    with pytest.raises(ValueError, match="not in the subpath"):
        index.add_checkpoint("/elsewhere/x.ckpt")


def test_the_older_index_of_a_missing_folder_is_empty(tmp_path: Path) -> None:
    index = CheckpointIndex(tmp_path / "nowhere")
    index.rebuild()
    index.add_checkpoint(tmp_path / "nowhere" / "x.ckpt")
    assert index.get_checkpoint_paths() == []
    assert [*tmp_path.iterdir()] == []


FAKE_WANDB = """
class Run:
    config = {"model": {"architectures": "dbnet", "encoder": {"model_name": "resnet18"}}}
    summary = {"epoch": 3, "trainer/global_step": 40, "val/hmean": 0.75, "_runtime": 1.5, "note": "x"}
class Api:
    asked = []
    def __init__(self, timeout=None): pass
    def run(self, run_id):
        self.asked.append(run_id)
        if "none" in run_id:
            raise ValueError("no such run")
        return Run()
"""


def test_without_a_key_no_run_is_known() -> None:
    client = get_wandb_client()
    assert client is get_wandb_client()
    assert (client.is_available, client.get_run_config("a/b/c"), client.get_run_summary("a/b/c")) == (False, None, None)
    assert client.get_metadata_from_wandb("a/b/c", "x.ckpt") is None


def test_a_run_is_asked_for_once_and_makes_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "wandb.py", FAKE_WANDB.encode())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    client = WandbClient(cache_size=1)
    try:
        metadata = client.get_metadata_from_wandb("e/p/one", "outputs/e/checkpoints/last.ckpt")
        assert metadata is not None
        assert (metadata.training.epoch, metadata.training.global_step, metadata.metrics.hmean) == (3, 40, 0.75)
        assert (metadata.model.architecture, metadata.wandb_run_id) == ("dbnet", "e/p/one")
        assert client.get_run_summary("e/p/one") is not None
        assert client.get_run_config("e/p/none") is None
        assert client.get_run_config("e/p/two") == {"model": client.get_run_config("e/p/two")["model"]}  # type: ignore[index]
        client.get_run_config("e/p/one")
        assert sys.modules["wandb"].Api.asked == ["e/p/one", "e/p/none", "e/p/two", "e/p/one"]
    finally:
        sys.modules.pop("wandb", None)


def test_a_runs_id_stands_in_the_sidecar_or_the_configuration(checkpoint: Path) -> None:
    assert extract_run_id_from_checkpoint(checkpoint) is None
    put(checkpoint.parents[1] / ".hydra/config.yaml", b"logger: {wandb: {id: from_config}}\n")
    assert extract_run_id_from_checkpoint(checkpoint) == "from_config"
    beside(checkpoint, "best.metadata.yaml", THEIRS | {"wandb_run_id": "e/p/r"})
    assert extract_run_id_from_checkpoint(checkpoint) == "e/p/r"


def generate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ckpt_indexer.generate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_generate_takes_the_older_scripts_flags(outputs: Path) -> None:
    said = generate("--outputs-dir", outputs, "--dry-run", "--verbose")
    assert said.returncode == 0
    assert said.stdout.splitlines()[0] == "a/checkpoints/epoch=00_step=000004.ckpt"
    assert [*outputs.rglob("*.metadata.yaml")] == []
    done = generate("--outputs-dir", outputs, "--workers", 1, "--progress")
    assert (done.returncode, "8 written" in done.stdout) == (0, True)
    assert len([*outputs.rglob("*.ckpt.metadata.yaml")]) == 8


def test_generate_ends_as_our_commands_do(tmp_path: Path) -> None:
    missing = generate("--outputs-dir", tmp_path / "nowhere")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert generate("--workers", "none").returncode == 2
