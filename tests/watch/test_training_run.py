"""A real Lightning model trained under Hydra while the real daemon watches: the main job, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.plain_training import SCORES
from tests.process import TIMEOUT_S, Daemon, index_equals_disk, run

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry

CONFIG = [
    "+exp_name=ocr_training_b",
    "+model._target_=ocr.models.OCRModel",
    "+model.encoder.model_name=mobilenetv3_small_050",
    "+model.encoder.pretrained=true",
    "+model.decoder.name=unet",
    "+trainer.max_epochs=6",
    "+seed=1",
    "+paths.data='${oc.env:DATA_FOLDER}/x'",
]


def told(entry: Entry) -> dict[str, Any]:
    """What the index says of the facts that the training process prints."""
    assert entry.monitor is not None
    return {
        "epoch": entry.epoch,
        "global_step": entry.global_step,
        "monitor": entry.monitor.name,
        "score": entry.monitor.value,
        "parameters": entry.parameters,
    }


@pytest.mark.parametrize(
    ("temporary", "save_last", "name"),
    [
        ("same file system", "copy", "{epoch}-{val/hmean:.4f}"),
        ("/dev/shm", "link", "{epoch}-{step}"),
    ],
)
def test_every_save_overwrite_and_deletion_of_a_training_run_shows_with_its_own_facts(
    tmp_path: Path, temporary: str, save_last: str, name: str
) -> None:
    root = tmp_path / "outputs"
    folder = root / "2026-11-21" / "run"
    folder.mkdir(parents=True)
    if temporary == "same file system":
        temporary = str(tmp_path)
    environment = {
        **os.environ,
        "TMPDIR": temporary,
        "RUN_FOLDER": str(folder),
        "CHECKPOINT_NAME": name,
        "SAVE_LAST": save_last,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "tests.plain_training", *CONFIG, f"hydra.run.dir={folder}"]
    rounds = 0
    with (
        Daemon(root) as daemon,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
        ) as training,
    ):
        assert training.stdin is not None
        assert training.stdout is not None
        for line in training.stdout:
            if not line.startswith("{"):
                continue
            rounds += 1
            expected = {os.path.relpath(path, root): facts for path, facts in json.loads(line).items()}
            entries = daemon.sync()
            assert {key: told(entry) for key, entry in entries.items()} == expected
            assert {entry.status for entry in entries.values()} == {"ok"}
            for key, entry in entries.items():
                document = yaml.safe_load((root / f"{key}.metadata.yaml").read_text())
                assert document["indexer"]["monitor_value"] == expected[key]["score"]
                assert (entry.experiment, entry.architecture) == ("2026-11-21/run", "ocr_model")
                assert (entry.encoder, entry.config_path) == (
                    "mobilenetv3_small_050",
                    "2026-11-21/run/.hydra/config.yaml",
                )
            assert index_equals_disk(root)
            training.stdin.write("\n")
            training.stdin.flush()
        assert training.wait(TIMEOUT_S) == 0
        listed = daemon.sync()
        best = run("list", root, "--sort", "score:desc", "-q", "--limit", "1").stdout.strip()
        log = daemon.log()
    assert rounds == len(SCORES)
    assert len(listed) == 4  # three best and last
    assert told(listed[best])["score"] == max(SCORES)
    document = yaml.safe_load((root / f"{best}.metadata.yaml").read_text())
    assert document["exp_name"] == "ocr_training_b"
    assert document["training"] == {"epoch": 5, "global_step": 24, "training_phase": "training", "max_epochs": 6}
    assert document["model"]["encoder"] == {"model_name": "mobilenetv3_small_050", "pretrained": True}
    assert document["model"]["decoder"]["name"] == "unet"
    assert document["metrics"]["hmean"] == max(SCORES)
    assert document["indexer"]["hyper_parameters"] == {"width": 8, "name": "tiny"}
    assert run("verify", root).returncode == 0
    assert [line for line in log if line["level"] not in ("info", "debug")] == []
