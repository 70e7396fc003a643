"""The runs of the project that this is built for first: their sidecars, model parts, names and scores."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from ckpt_indexer import read_index
from ckpt_indexer.index.query import fold
from ckpt_indexer.metadata.config import checkpointing_part, find_int, find_text, model_part, parse_class
from ckpt_indexer.metadata.schema import UNKNOWN
from ckpt_indexer.model import RULES, Twin
from ckpt_indexer.paths import Key
from tests.older_reader import refusal
from tests.process import Daemon, encoded, index_equals_disk, put, run, wait_for
from tests.samples import Tiny, train

CASES = Path(__file__).parents[3] / "shared" / "cases" / "first-user"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the first user's cases are not here")
RIGHT: dict[str, tuple[Any, ...]] = {
    "2025-10": ("dbnet", "resnet18", "fpn_decoder", "db_head", "db_loss", 20, 3),
    "2025-12": ("dbnet", "resnet18", "fpn_decoder", "db_head", "db_loss", 3, 1),
    "2026-01-detection": ("OCRModel", "resnet18", "FPNDecoder", "DBHead", "DBLoss", 200, None),
    "2026-01-recognition": ("parseq", "resnet18", "PARSeqDecoder", UNKNOWN, UNKNOWN, 200, None),
}
OVERRIDDEN = """
exp_name: ocr_training_b
decoder_path: ocr.models.decoder
backbone: mobilenetv3_small_050
model:
  architectures: dbnet
  component_overrides:
    encoder: {pretrained: false}
    head: {name: db_head, params: {k: 50, postprocess: {thresh: 0.2}}}
  _target_: ocr.models.architecture.OCRModel
  encoder: {_target_: "${encoder_path}.TimmBackbone", model_name: "${backbone}", pretrained: true}
  decoder: {_target_: "${decoder_path}.UNet", in_channels: [64, 128], inner_channels: 256}
  head: {_target_: "${head_path}.DBHead", in_channels: 256}
  loss: {_target_: "${loss_path}.DBLoss", negative_ratio: 3.0}
trainer: {max_epochs: 4}
callbacks:
  model_checkpoint: {_target_: ocr.callbacks.unique.UniqueModelCheckpoint, monitor: val/hmean, mode: max, save_top_k: 2}
"""


class UniqueModelCheckpoint(ModelCheckpoint):
    """A saver of a project's own."""


def parts_of(config: dict[str, Any]) -> tuple[Any, ...]:
    model = model_part(config)
    names = (model.architecture, model.encoder.model_name, model.decoder.name, model.head.name, model.loss.name)
    return (*map(fold, names), find_int(config, "trainer.max_epochs"), checkpointing_part(config).save_top_k)


@needs_cases
@pytest.mark.parametrize("name", RIGHT)
def test_each_of_its_configurations_is_read_right(name: str) -> None:
    config = yaml.safe_load((CASES / "configs" / f"{name}.yaml").read_text())
    *names, epochs, top_k = RIGHT[name]
    assert parts_of(config) == (*map(fold, names), epochs, top_k)


@needs_cases
def test_older_readers_take_every_sidecar_of_its_runs_and_each_last_has_its_twins_score(tmp_path: Path) -> None:
    root = Path(shutil.copytree(CASES / "outputs", tmp_path / "outputs"))
    assert run("rebuild", root, env={**os.environ, "CKPT_INDEXER_SIDECAR_NAMES": "both"}).returncode == 0
    sidecars = sorted(root.rglob("*.metadata.yaml"))
    assert (len(sidecars), [refusal(path) for path in sidecars if refusal(path)]) == (16, [])
    scores = {key: entry.monitor and entry.monitor.value for key, entry in read_index(root).entries.items()}
    assert None not in scores.values()
    last = yaml.safe_load((root / "1/checkpoints/last.ckpt.metadata.yaml").read_text())
    assert (last["metrics"]["hmean"], last["indexer"]["sources"]["score"]) == (pytest.approx(0.8), "twin")


def test_an_override_without_a_name_amends_what_is_named_and_one_with_a_name_replaces_it() -> None:
    model = model_part(yaml.safe_load(OVERRIDDEN))
    assert (model.encoder.model_name, model.encoder.pretrained) == ("mobilenetv3_small_050", False)
    assert (model.head.name, model.head.in_channels, model.head.params) == (
        "db_head", None, {"k": 50, "postprocess.thresh": 0.2},
    )  # fmt: skip
    assert (model.decoder.name, model.decoder.in_channels) == ("unet", [64, 128])


def test_command_line_overrides_that_hydra_composed_are_followed(tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [model: dbnet, _self_]\ntrainer: {max_epochs: 1}\n")
    for name, encoder in (("dbnet", "resnet18"), ("craft", "vgg16")):
        (tmp_path / "conf" / "model" / f"{name}.yaml").write_text(
            f"architectures: {{name: {name}, backbone: {encoder}}}\nneck: {{_target_: ocr.FPNC}}\n"
        )
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base=None):
        overrides = ["model=craft", "model.architectures.backbone=resnet50", "trainer.max_epochs=7"]
        composed = OmegaConf.to_container(hydra.compose("config", overrides=overrides))
    assert isinstance(composed, dict)
    model = model_part(composed)
    assert (model.architecture, model.encoder.model_name, model.decoder.name) == ("craft", "resnet50", "fpnc")
    assert find_int(composed, "trainer.max_epochs") == 7


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"architectures": ["dbnet", "craft"], "encoder": "${a}", "a": "x"}, "a": "${b}", "b": "${a}"},
        {"model": {"name": "/models/best.ckpt", "encoder": {"model_name": "./enc.pth"}, "loss": "${oc.env:LOSS}"}},
        {"model": {"_target_": "timm.create_model", "encoder": {"_target_": "hydra.utils.instantiate"}}},
    ],
    ids=["cycle and list", "paths", "factories"],
)
def test_what_names_nothing_is_unknown(config: dict[str, Any]) -> None:
    model = model_part(config)
    assert {model.architecture, model.encoder.model_name, model.loss.name} == {UNKNOWN}


def test_one_name_in_either_spelling_is_one_name_in_filters(tmp_path: Path) -> None:
    put(tmp_path / "e/config.yaml", b"model: {_target_: a.OCRModel, encoder: {_target_: '${x}.TimmBackbone'}}\n")
    put(tmp_path / "e/checkpoints/a.ckpt", encoded(3))
    assert run("rebuild", tmp_path).returncode == 0
    assert parse_class("x.OCRModel", {}) == read_index(tmp_path).entries["e/checkpoints/a.ckpt"].architecture
    for expression in ("architecture=OCRModel", "architecture=ocr_model", "encoder~timmback", "encoder~timm_back"):
        assert run("list", tmp_path, "-q", "-f", expression).stdout == "e/checkpoints/a.ckpt\n", expression


def test_a_configuration_of_300_kb_is_read_to_its_end(tmp_path: Path) -> None:
    data = {f"group_{i}": {f"setting_{j}": [i, j, "value"] for j in range(20)} for i in range(450)}
    text = yaml.safe_dump({**data, "model": {"name": "dbnet"}, "trainer": {"max_epochs": 9}}, sort_keys=False)
    assert 250_000 < len(text) < 1 << 20
    put(tmp_path / "e/.hydra/config.yaml", text.encode())
    put(tmp_path / "e/checkpoints/a.ckpt", encoded(3))
    assert run("rebuild", tmp_path).returncode == 0
    assert read_index(tmp_path).entries["e/checkpoints/a.ckpt"].architecture == "dbnet"


def test_the_wandb_run_that_a_configuration_names_is_the_runs() -> None:
    assert find_text({"logger": {"wandb": {"id": "team/ocr/abc"}}}, "logger.wandb.id") == "team/ocr/abc"


@pytest.mark.parametrize(
    "name", ["best.config.yaml", "best.config.yml", "best.config.json", "best.resolved.config.json"]
)
def test_a_configuration_beside_a_checkpoint_is_that_ones(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "e" / "checkpoints"
    put(tmp_path / "e/config.yaml", b"model: {name: of_the_run}\n")
    put(folder / "best.ckpt", encoded(3))
    put(folder / "last.ckpt", encoded(4))
    config = {"model": {"name": "of_best", "loss": {"name": "x", "eps": 1e-05}}}
    put(folder / name, (json.dumps(config, indent="\t") if name.endswith("json") else yaml.safe_dump(config)).encode())
    assert run("rebuild", tmp_path).returncode == 0
    entries = read_index(tmp_path).entries
    assert [entries[f"e/checkpoints/{n}.ckpt"].architecture for n in ("best", "last")] == ["of_best", "of_the_run"]
    assert entries["e/checkpoints/best.ckpt"].config_path == f"e/checkpoints/{name}"
    assert index_equals_disk(tmp_path)


def test_a_subclass_that_saves_is_a_model_checkpoint_and_last_has_the_score_of_its_twin(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "7"
    put(folder / ".hydra/config.yaml", OVERRIDDEN.encode())
    saver = UniqueModelCheckpoint(
        dirpath=str(folder / "checkpoints"), monitor="val/hmean", mode="max", save_top_k=2, save_last=True,
        filename="best-{epoch:02d}",
    )  # fmt: skip
    done = train(folder, [saver], model=Tiny(scores=(0.1, 0.5, 0.3, 0.9)), max_epochs=4)
    root = tmp_path / "outputs"
    assert run("rebuild", root).returncode == 0
    entries = read_index(root).entries
    assert len(entries) == 3
    for key, entry in entries.items():
        assert entry.monitor is not None
        assert (entry.monitor.name, entry.monitor.mode) == ("val/hmean", "max")
        assert entry.monitor.value == pytest.approx(done.score_at(entry.global_step or 0)), key
        assert refusal(root / f"{key}.metadata.yaml") is None
    os.rename(folder / "checkpoints/last.ckpt", folder / "checkpoints/last_20251011_004442.ckpt")
    with Daemon(root) as daemon:
        renamed = daemon.sync()["7/checkpoints/last_20251011_004442.ckpt"]
        assert renamed.monitor is not None
        assert renamed.monitor.value == pytest.approx(0.9)


def weights(folder: Path, name: str, *, step: int, value: float) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "global_step": step, "state_dict": {"w": torch.full((3,), value)}, "saved_as": name}, path)
    return path


def test_the_same_weights_at_the_same_step_are_one_save_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "checkpoints"
    weights(folder, "best-hmean-0.8920.ckpt", step=8, value=1.0)
    weights(folder, "last.ckpt", step=8, value=1.0)
    weights(folder, "later.ckpt", step=9, value=1.0)
    weights(folder, "other.ckpt", step=8, value=2.0)
    weights(tmp_path / "f" / "checkpoints", "last.ckpt", step=8, value=1.0)
    (folder / "link.ckpt").symlink_to("last.ckpt")
    assert run("rebuild", tmp_path).returncode == 0
    entries = read_index(tmp_path).entries
    assert {key: entry.monitor and entry.monitor.value for key, entry in entries.items()} == {
        "e/checkpoints/best-hmean-0.8920.ckpt": 0.892,
        "e/checkpoints/last.ckpt": 0.892,
        "e/checkpoints/link.ckpt": 0.892,
        "e/checkpoints/later.ckpt": None,
        "e/checkpoints/other.ckpt": None,
        "f/checkpoints/last.ckpt": None,
    }
    before = (tmp_path / ".checkpoint_index.json").read_bytes()
    assert run("rebuild", tmp_path).returncode == 0
    assert (tmp_path / ".checkpoint_index.json").read_bytes() == before


def test_a_twin_that_comes_later_brings_its_score_to_the_one_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "checkpoints"
    weights(folder, "last.ckpt", step=8, value=1.0)
    with Daemon(tmp_path) as daemon:
        assert daemon.sync()["e/checkpoints/last.ckpt"].monitor is None
        weights(folder, "best-hmean-0.8920.ckpt", step=8, value=1.0)
        wait_for(lambda: (monitor := daemon.sync()["e/checkpoints/last.ckpt"].monitor) and monitor.value == 0.892)
        weights(folder, "last.ckpt", step=12, value=3.0)
        wait_for(lambda: daemon.sync()["e/checkpoints/last.ckpt"].monitor is None)


def theirs(about: str, **more: Any) -> bytes:
    content = {
        "schema_version": "1.0", "checkpoint_path": about, "exp_name": "theirs", "created_at": "2025-10-19T13:36:50",
        "training": {"epoch": 18, "global_step": 3895}, "metrics": {"hmean": 0.95},
    }  # fmt: skip
    return yaml.safe_dump({**content, **more}).encode()


def test_a_sidecar_by_another_name_is_another_programs(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "checkpoints"
    put(folder / "best.ckpt", encoded(3))
    other = put(folder / "best.metadata.yaml", theirs("/train/outputs/e/checkpoints/best.ckpt"))
    put(folder / "old.ckpt", encoded(4))
    put(folder / "old.metadata.json", json.dumps(yaml.safe_load(theirs("x/old.ckpt")), indent="\t").encode())
    with Daemon(tmp_path) as daemon:
        entries = daemon.sync()
        for name in ("best", "old"):
            entry = entries[f"e/checkpoints/{name}.ckpt"]
            assert (entry.exp_name, entry.epoch, entry.metrics["hmean"], entry.metadata_source) == (
                "theirs", 18, 0.95, "sidecar",
            )  # fmt: skip
        written = other.read_bytes()
        assert index_equals_disk(tmp_path)
        put(other, theirs("best.ckpt", metrics={"hmean": 0.5}))
        wait_for(lambda: daemon.sync()["e/checkpoints/best.ckpt"].metrics["hmean"] == 0.5)
        assert other.read_bytes() != written
    put(folder / "best.ckpt.metadata.yaml", theirs("best.ckpt", exp_name="by the full name"))
    assert run("rebuild", tmp_path).returncode == 0
    assert read_index(tmp_path).entries["e/checkpoints/best.ckpt"].exp_name == "by the full name"


def test_a_twins_score_follows_the_one_that_it_is_from(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "checkpoints"
    weights(folder, "best.ckpt", step=8, value=1.0)
    weights(folder, "last.ckpt", step=8, value=1.0)
    told = {
        "checkpointing": {"monitor": "val/hmean", "mode": "max"},
        "training": {"epoch": 1, "global_step": 8},
    }
    other = put(folder / "best.metadata.yaml", theirs("best.ckpt", **told))

    def scores() -> list[Any]:
        assert run("rebuild", tmp_path).returncode == 0
        assert index_equals_disk(tmp_path)
        entries = read_index(tmp_path).entries
        return [entries[f"e/checkpoints/{n}.ckpt"].monitor for n in ("best", "last")]

    assert [score and score.value for score in scores()] == [0.95, 0.95]
    put(other, theirs("best.ckpt", metrics={"hmean": 0.5}, **told))
    assert [score and score.value for score in scores()] == [0.5, 0.5]
    entries = read_index(tmp_path).entries
    twins = [entries[f"e/checkpoints/{n}.ckpt"].twin for n in ("best", "last")]
    assert twins == [None, Twin(Key("e/checkpoints/best.ckpt"))]
    other.unlink()
    assert scores() == [None, None]


@pytest.mark.parametrize(
    ("about", "source"),
    [("x/best.pt", "checkpoint"), ("somewhere", "checkpoint"), ("best.ckpt", "sidecar")],
)
def test_one_that_could_be_about_two_checkpoints_is_resolved_by_its_path(
    tmp_path: Path, about: str, source: str
) -> None:
    folder = tmp_path / "e" / "checkpoints"
    put(folder / "best.ckpt", encoded(3))
    put(folder / "best.pt", encoded(4))
    put(folder / "best.metadata.yaml", theirs(about))
    assert run("rebuild", tmp_path).returncode == 0
    assert read_index(tmp_path).entries["e/checkpoints/best.ckpt"].metadata_source == source
    made = yaml.safe_load((folder / "best.ckpt.metadata.yaml").read_text())
    assert bool(made["indexer"]["warnings"]) == (source == "checkpoint")
    assert index_equals_disk(tmp_path)


def test_one_with_half_its_fields_gives_what_it_has(tmp_path: Path) -> None:
    put(tmp_path / "e/best.ckpt", encoded(3))
    half = {"checkpoint_path": "best.ckpt", "exp_name": "half", "created_at": "2025-10-19T13:36:50"}
    put(tmp_path / "e/best.metadata.yaml", yaml.safe_dump(half).encode())
    assert run("rebuild", tmp_path).returncode == 0
    entry = read_index(tmp_path).entries["e/best.ckpt"]
    assert (entry.exp_name, entry.epoch) == ("half", 3)


def test_both_names_are_written_where_the_setting_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "checkpoints"
    put(folder / "best.ckpt", encoded(3))
    put(folder / "two.ckpt", encoded(3))
    put(folder / "two.pt", encoded(3))
    put(folder / "theirs.ckpt", encoded(4))
    foreign = put(folder / "theirs.metadata.yaml", theirs("theirs.ckpt"))
    before = foreign.read_bytes()
    with Daemon(tmp_path, "--sidecar-names", "both") as daemon:
        daemon.sync()
        assert (folder / "best.metadata.yaml").read_bytes() == (folder / "best.ckpt.metadata.yaml").read_bytes()
        assert refusal(folder / "best.metadata.yaml") is None
        assert foreign.read_bytes() == before
        assert not (folder / "two.metadata.yaml").exists()  # it could be taken for either's
        assert index_equals_disk(tmp_path)
        put(folder / "best.ckpt", encoded(5))
        wait_for(lambda: yaml.safe_load((folder / "best.metadata.yaml").read_text())["training"]["epoch"] == 5)
        daemon.sync()
        (folder / "best.ckpt").unlink()
        wait_for(lambda: not (folder / "best.metadata.yaml").exists())
        daemon.sync()
        assert not (folder / "best.ckpt.metadata.yaml").exists()


@pytest.mark.unfilled
def test_nothing_is_filled_in_where_the_setting_says_so(tmp_path: Path) -> None:
    put(tmp_path / "e/best.ckpt", encoded(3))
    assert run("rebuild", tmp_path, env={**os.environ, "CKPT_INDEXER_SIDECAR_FILL": "false"}).returncode == 0
    content = yaml.safe_load((tmp_path / "e/best.ckpt.metadata.yaml").read_text())
    assert (content["checkpointing"], content["indexer"]["filled"]) == ({}, [])


@pytest.mark.parametrize("by", ["daemon", "rebuild"])
def test_what_older_rules_made_is_made_anew_once(tmp_path: Path, by: str) -> None:
    path = put(tmp_path / "e/checkpoints/a.ckpt", encoded(3))
    sidecar = path.with_name("a.ckpt.metadata.yaml")
    assert run("rebuild", tmp_path).returncode == 0
    whole = sidecar.read_text()
    stamp = sidecar.stat()
    sidecar.write_text(whole.replace(f"  rules: {RULES}\n", "").replace("  global_step: 0\n", "  global_step: null\n"))
    os.utime(sidecar, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    index = tmp_path / ".checkpoint_index.json"
    old = json.loads(index.read_text())
    entry = old["entries"]["e/checkpoints/a.ckpt"]
    del entry["rules"]
    changed = sidecar.stat()
    entry["metadata_fingerprint"] = [changed.st_size, changed.st_mtime_ns, changed.st_ino]
    index.write_text(json.dumps(old))
    if by == "rebuild":
        assert run("rebuild", tmp_path).returncode == 0
        assert sidecar.read_text() == whole
    else:
        with Daemon(tmp_path):
            wait_for(lambda: sidecar.read_text() == whole)
            wait_for(lambda: read_index(tmp_path).entries["e/checkpoints/a.ckpt"].rules == RULES)
    assert index_equals_disk(tmp_path)
