"""Files on which this program was wrong, with what is right: made by the real libraries, not part of the project."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.actions import rebuild
from ckpt_indexer.settings import Settings

if TYPE_CHECKING:
    from ckpt_indexer.model import Entry

CASES = Path(os.environ.get("CKPT_INDEXER_CASES", Path(__file__).parents[2] / "shared" / "cases"))
SUFFIXES = (".ckpt", ".pt", ".pth", ".tar", ".safetensors", ".bin")
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases") / "cases"
    shutil.copytree(CASES, folder, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("first-user"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    rebuild.apply(rebuild.Rebuild(str(folder), settings=Settings(suffixes=SUFFIXES)))
    return folder


@pytest.fixture(scope="module")
def entries(root: Path) -> dict[str, Entry]:
    return {str(key): entry for key, entry in read_index(root).entries.items()}


PARAMETERS = {
    "one-tensor-is-the-model/gan.ckpt": 134,
    "one-tensor-is-the-model/ckpt.ckpt": 67,
    "one-tensor-is-the-model/model_state_and_loss.ckpt": 67,
    "one-tensor-is-the-model/rng_state.ckpt": None,
    "stray-tensor-as-state-dict/net_best_tensor.pt": 58,
    "stray-tensor-as-state-dict/gen_loss_tensor.pt": 116,
    "stray-tensor-as-state-dict/rng_only_plus.pt": 58,
    "stray-tensor-as-state-dict/dino.pth": 58,
    "weights-under-other-keys/G.pth": 116,  # the sum of named models, said so
    "weights-under-other-keys/ckpt.pth": 58,
    "weights-under-other-keys/ep1-ba100-rank0.pt": 58,
    "weights-under-other-keys/generator.pt": 116,  # the same
    "weights-under-other-keys/multi.pth": 116,
    "weights-under-other-keys/net_key.pt": 58,
    "weights-under-other-keys/params_ema.pth": 58,
    "weights-under-other-keys/student_teacher.pth": 58,
    "quantised/dyn.ckpt": 972,
    "quantised/lstm.ckpt": None,
}


def test_parameters_are_the_whole_or_unknown(entries: dict[str, Entry], root: Path) -> None:
    assert {key: entries[key].parameters for key in PARAMETERS} == PARAMETERS
    assert "how many parameters there are is not known" in warnings_of(root, "quantised/lstm.ckpt")[0]
    assert warnings_of(root, "weights-under-other-keys/G.pth") == ["parameters is the sum of its models: g, d"]


def warnings_of(root: Path, key: str) -> list[str]:
    found: list[str] = yaml.safe_load((root / f"{key}.metadata.yaml").read_text())["indexer"]["warnings"]
    return found


@pytest.mark.parametrize("folder", ["numbers-as-metrics", "scaler-ema-as-metrics"])
def test_numbers_that_measure_nothing_are_no_metrics(folder: str, entries: dict[str, Entry]) -> None:
    found = {key: entry.metrics for key, entry in entries.items() if key.startswith(f"{folder}/")}
    found.pop("scaler-ema-as-metrics/checkpoint-2.pth.tar", None)  # timm's own: "metric" is this epoch's
    assert found
    assert not any(found.values()), found


METRICS: dict[str, dict[str, Any]] = {
    "vocab-as-metrics/crnn.pt": {"cer": 0.013, "wer": 0.142},
    "vocab-as-metrics/class_to_idx.pth": {"val_acc": 0.97},
    "vocab-as-metrics/label2id.pt": {},
    "hyperparams-as-metrics/hyper.pt": {"loss": 0.31},
    "hyperparams-as-metrics/params.pt": {"val_loss": 0.5, "validation_loss": 0.5},
    "hyperparams-as-metrics/whisper_style.pt": {},
    "hyperparams-as-metrics/yolov5.pt": {},
    "weights-under-other-keys/net_key.pt": {"acc": 95.5},
    "name-numbers-as-score/fold=3-epoch=1.ckpt": {},
    "name-numbers-as-score/seed=42-epoch=1-step=8.ckpt": {},
    "name-numbers-as-score/checkpoint_epoch=2.ckpt": {},
    "name-numbers-as-score/checkpoint_final_iteration=10.ckpt": {},
    "name-numbers-as-score/lr=0.01-bs=32-epoch=1-val_loss=0.500.ckpt": {"val_loss": 0.5, "validation_loss": 0.5},
    "name-numbers-as-score/mymodel_epoch=3_val_loss=0.30.ckpt": {"val_loss": 0.3, "validation_loss": 0.3},
    "name-numbers-as-score/best_checkpoint_2_val_acc=0.9000.ckpt": {"val_acc": 0.9},
    "ignite-name/ignite/checkpoint_2_val_acc=0.7000.pt": {"val_acc": 0.7},
    "timm-args-metric/timm/checkpoint-1.pth.tar": {"metric": 71.0},
}


def test_metrics_are_those_of_this_checkpoint(entries: dict[str, Entry]) -> None:
    assert {key: entries[key].metrics for key in METRICS} == METRICS


COUNTS = {
    "name-numbers-as-score/checkpoint_epoch=2.ckpt": (2, None),
    "name-numbers-as-score/checkpoint_final_iteration=10.ckpt": (None, 10),
    "ignite-name/ignite/checkpoint_2_val_acc=0.7000.pt": (2, 6),
    "counts-not-int/step_numpy.pt": (4, 100),
    "counts-not-int/step_tensor.pt": (4, 100),
    "weights-under-other-keys/net_key.pt": (199, None),
    "mmengine/mmengine/epoch_1.pth": (1, 4),
    "mmengine/mmengine/best_acc_epoch_1.pth": (1, 4),
    "mmengine/mmengine/epoch_2.pth": (2, 8),
    "dcp-step-folders/outputs/checkpoint/step-20.ckpt": (None, 20),
}


def test_epoch_and_step_are_what_file_or_name_says(entries: dict[str, Entry]) -> None:
    assert {key: (entries[key].epoch, entries[key].global_step) for key in COUNTS} == COUNTS


def test_names_of_models_are_what_the_file_says(entries: dict[str, Entry], root: Path) -> None:
    assert entries["timm-args-metric/timm/last.pth.tar"].architecture == "resnet50"
    cli = entries["lightning-cli-config/lightning_logs/version_0/checkpoints/epoch=1-step=8.ckpt"]
    assert ((cli.architecture or "").replace("_", ""), cli.encoder) == ("unetlit", "resnet50")
    document = yaml.safe_load((root / f"{cli.path}.metadata.yaml").read_text())
    assert document["checkpointing"]["save_top_k"] == 2
    first = entries["config-of-another-run/tree/exp/checkpoints/first.ckpt"]
    assert first.encoder == "resnet18"
    assert "contradict" in " ".join(warnings_of(root, first.path))
    assert yaml.safe_load((root / f"{first.path}.metadata.yaml").read_text())["training"].get("max_epochs") in (None, 3)


def test_monitors_have_mode_and_score_of_their_own(entries: dict[str, Entry]) -> None:
    def monitor(key: str) -> Any:
        found = entries[key].monitor
        return None if found is None else (found.name, found.mode, found.value)

    assert monitor("time-interval-loses-mode/epoch=1-step=8.ckpt") == ("val_loss", "min", pytest.approx(0.9))
    assert monitor("ignite-name/ignite/checkpoint_3_val_acc=0.8000.pt") == ("val_acc", None, 0.8)
    assert monitor("name-numbers-as-score/fold=3-epoch=1.ckpt") is None


def test_what_is_no_model_has_another_role(entries: dict[str, Entry], root: Path) -> None:
    roles = {
        key: entry.role
        for key, entry in entries.items()
        if key.startswith(("hf-trainer-folder/hf_trainer/checkpoint-4/", "accelerate-state/accelerate/step_2/"))
    }
    assert {key.rpartition("/")[2] for key, role in roles.items() if role == "model"} == {"model.safetensors"}
    assert {key.rpartition("/")[2]: role for key, role in roles.items() if role != "model"} == dict.fromkeys(
        ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin", "optimizer.bin", "scheduler.bin"),
        "training-state",
    )
    usable = {entry.path for entry in read_index(root).usable()}
    assert usable.isdisjoint(key for key, role in roles.items() if role != "model")


def test_what_is_whole_and_what_is_not(entries: dict[str, Entry]) -> None:
    def codes(folder: str) -> dict[str, str | None]:
        return {
            key.rpartition("/")[2]: None if entry.problem is None else entry.problem.code
            for key, entry in entries.items()
            if key.startswith(f"{folder}/")
        }

    assert set(codes("missing-shard").values()) <= {"truncated", "record-missing"}
    texts = codes("text-is-incomplete")
    assert {texts[name] for name in ("brain.ckpt", "counter.ckpt", "dataloader-TRAIN.ckpt")} == {"not-a-checkpoint"}
    assert texts["model.ckpt"] is None
    assert set(codes("hf-trainer-folder").values()) == {None}
