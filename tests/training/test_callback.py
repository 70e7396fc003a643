"""The callback in real training runs: what it embeds, that all saves are indexed, and that it never ends training."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning
import msgspec
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO

import ckpt_indexer.training.callback as ours
from ckpt_indexer import paths, read_index
from ckpt_indexer.errors import IndexMissing, SidecarInvalid
from ckpt_indexer.formats.frameworks.checkpoint import EMBEDDED_KEY
from ckpt_indexer.model import Monitor
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.training import run_facts, writer
from ckpt_indexer.training.callback import MetadataCallback
from ckpt_indexer.training.run_facts import fetch_numbers
from tests.manual.pages import PAGES, blocks
from tests.process import TIMEOUT_S, Daemon, index_equals_disk, wait_for
from tests.samples import Data, Interrupt, Interrupted, SaveByHand, Tiny, saver, trainer_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.model import Entry

REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass
class Fitted:
    """A training run that is over."""

    folder: Path
    trainer: Any
    model: Any
    said: list[str]  # our warnings

    def __getitem__(self, name: str) -> dict[str, Any]:
        """What is embedded in a checkpoint, as the strictest way to load it gives it."""
        path = self.folder / "checkpoints" / name
        embedded: dict[str, Any] = torch.load(path, weights_only=True)[EMBEDDED_KEY]
        return embedded

    @property
    def names(self) -> set[str]:
        return {path.name for path in (self.folder / "checkpoints").glob("*.ckpt")}


@contextlib.contextmanager
def our_warnings() -> Any:
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [text for warning in caught if (text := str(warning.message)).startswith("ckpt-indexer")]


def fit(
    folder: Path, callbacks: list[Any], *, model: Any = None, resume: Path | None = None, **settings: Any
) -> Fitted:
    """Train ``samples.Tiny`` for five epochs of four steps, by default."""
    model = model or Tiny()
    trainer = lightning.Trainer(**(trainer_settings(folder) | settings), callbacks=callbacks)
    more = {} if resume is None else {"ckpt_path": str(resume), "weights_only": True}
    with our_warnings() as said, contextlib.suppress(Interrupted):
        trainer.fit(model, datamodule=Data(), **more)
    return Fitted(folder, trainer, model, said)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    (root / "exp").mkdir(parents=True)
    return root


def entries(root: Path) -> dict[str, Entry]:
    return dict(read_index(root).entries)


def sidecar(root: Path, key: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((root / f"{key}.metadata.yaml").read_text())
    return document


# --- every way to save ---


class Way(NamedTuple):
    """A way to save, and the checkpoints that it leaves."""

    callbacks: Callable[[Path], list[Any]]
    left: set[str]
    settings: Callable[[], dict[str, Any]] = dict
    unscored: frozenset[str] = frozenset()  # saved by somebody else than the monitoring callback, between validations


BEST = {"epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"}
WAYS = {
    "copies of the last": Way(lambda f: [saver(f, save_top_k=2, save_last=True)], BEST | {"last.ckpt"}),
    "links to the last": Way(lambda f: [saver(f, save_top_k=2, save_last="link")], BEST | {"last.ckpt"}),
    "weights only": Way(lambda f: [saver(f, save_top_k=2, save_weights_only=True)], BEST),
    "asynchronous": Way(
        lambda f: [saver(f, save_top_k=2, save_last=True)],
        BEST | {"last.ckpt"},
        lambda: {"plugins": [AsyncCheckpointIO()]},
    ),
    "by hand": Way(
        lambda f: [saver(f, save_top_k=2), SaveByHand()], BEST | {"manual.ckpt"}, unscored=frozenset({"manual.ckpt"})
    ),
    "on an exception": Way(
        lambda f: [saver(f, save_top_k=2), OnExceptionCheckpoint(str(f / "checkpoints")), Interrupt()],
        {"epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt", "on_exception.ckpt"},
        unscored=frozenset({"on_exception.ckpt"}),
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_save_is_embedded_and_indexed(way: Way, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = root / "exp"
    callback = MetadataCallback(outputs_dir=root, exp_name="told", validate_schema=True)
    run = fit(folder, [*way.callbacks(folder), callback], **way.settings())
    assert (run.names, run.said, capfd.readouterr().out) == (way.left, [], "")
    assert index_equals_disk(root)
    for name, entry in ((name, entries(root)[f"exp/checkpoints/{name}"]) for name in run.names):
        embedded, last = run[name], [reached for reached in run.model.reached if reached[1] <= run[name]["global_step"]]
        score = torch.tensor(last[-1][2]).item()  # Lightning's metrics are 32 bits wide
        metrics = embedded.pop("metrics")
        assert set(metrics) == {"train/loss", "val/hmean", "val_loss"}
        assert (metrics["val/hmean"], metrics["val_loss"]) == (score, torch.tensor(1 - last[-1][2]).item())
        own = None if name in way.unscored else score
        checkpointer: Any = run.trainer.checkpoint_callback
        assert embedded == {
            "version": 1,
            "exp_name": "told",
            "training_phase": "training",
            "max_epochs": 5,
            "epoch": last[-1][0] + (name in way.unscored),
            "global_step": last[-1][1] if own is not None else {"manual.ckpt": 10, "on_exception.ckpt": 14}[name],
            "monitor": {"name": "val/hmean", "mode": "max", "value": own},
            "checkpointing": {"save_top_k": 2, "save_last": checkpointer.save_last},
            "wandb_run_id": None,
            "config_path": None,
        }
        document = sidecar(root, entry.path)
        assert document["indexer"]["source"] == "embedded"
        assert document["training"] == {
            "epoch": embedded["epoch"],
            "global_step": embedded["global_step"],
            "training_phase": "training",
            "max_epochs": 5,
        }
        assert document["exp_name"] == "told"
        keeps = {"save_last": True} if embedded["checkpointing"]["save_last"] else {}  # what is not known is left out
        assert document["checkpointing"] == {"monitor": "val/hmean", "mode": "max", "save_top_k": 2, **keeps}
        assert document["metrics"]["additional_metrics"] == {
            k: metrics[k] for k in document["metrics"]["additional_metrics"]
        }
        assert document["metrics"]["hmean"] == score
        assert document["metrics"]["validation_loss"] == metrics["val_loss"]
        assert (entry.status, entry.metadata_source) == ("ok", "embedded")
        assert entry.monitor == Monitor("val/hmean", "max", own)  # a score of an earlier step is not this checkpoint's


def test_what_is_indexed_is_what_a_daemon_would_have_indexed(root: Path) -> None:
    (root / "exp" / ".hydra").mkdir()
    (root / "exp" / ".hydra" / "config.yaml").write_text("exp_name: other\nmodel: {name: net}\n")
    run = fit(root / "exp", [saver(root / "exp", save_last="link"), MetadataCallback(outputs_dir=root)])
    assert run["last.ckpt"]["config_path"] == "exp/.hydra/config.yaml"
    by_callback = described(root)
    for path in (*root.rglob("*.metadata.yaml"), root / paths.INDEX_NAME):
        path.unlink()
    with Indexer(str(root)) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.finish()
    assert described(root) == by_callback
    assert len(by_callback) == 4
    assert {entry["config_path"] for entry, _ in by_callback.values()} == {"exp/.hydra/config.yaml"}


def test_beside_a_daemon_nothing_else_comes_out(root: Path, tmp_path: Path) -> None:
    with Daemon(root) as daemon:
        fit(root / "exp", [saver(root / "exp", save_last=True), MetadataCallback(outputs_dir=root)])
        daemon.sync()
        log = [line for line in daemon.log() if line["level"] not in ("info", "debug")]
    together = described(root)
    assert (log, len(together)) == ([], 4)
    assert index_equals_disk(root)
    with Indexer(str(root)) as indexer:
        indexer.load()
        indexer.scan_and_plan(force=True)
        indexer.finish()
    assert described(root) == together


def described(root: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Entries and sidecars, without what says when and by which write."""
    found = {}
    for key, entry in read_index(root).entries.items():
        fields = msgspec.to_builtins(entry)
        for name in ("generation", "indexed_at", "metadata_fingerprint"):
            del fields[name]
        found[key] = (fields, sidecar(root, key))
    return found


class Meanwhile(Callback):
    """Does something in the middle of training, when everything of the second epoch is saved."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
        if trainer.current_epoch == 2:
            self.action()


def test_the_index_follows_while_training_goes_on(root: Path) -> None:
    seen: list[dict[str, str | None]] = []

    def look() -> None:
        wait_for(lambda: len(indexed(root)) == 2)
        seen.append({key.rpartition("/")[2]: entry.link_target for key, entry in entries(root).items()})

    callbacks = [saver(root / "exp", save_top_k=1, save_last="link"), MetadataCallback(outputs_dir=root)]
    fit(root / "exp", [*callbacks, Meanwhile(look)])
    assert seen == [{"epoch=1-step=8.ckpt": None, "last.ckpt": "exp/checkpoints/epoch=1-step=8.ckpt"}]


@pytest.mark.parametrize(
    ("hook", "steps", "validations"),
    [("on_train_batch_start", 3, 1), ("on_validation_start", 4, 1), ("on_train_epoch_start", 4, 0)],
)
def test_a_save_is_indexed_from_the_next_hook_on(hook: str, steps: int, validations: int, root: Path) -> None:
    seen: list[str] = []

    def look(trainer: Any, *_: Any) -> None:
        if trainer.global_step == steps and not seen:
            seen.extend(wait_for(lambda: indexed(root)))

    other = Callback()
    setattr(other, hook, look)
    by_steps = saver(root / "exp", monitor=None, save_top_k=-1, every_n_train_steps=steps)
    callbacks = [by_steps, MetadataCallback(outputs_dir=root), other]
    fit(root / "exp", callbacks, max_epochs=2, limit_val_batches=validations)
    assert seen == [f"exp/checkpoints/epoch=0-step={steps}.ckpt"]


def indexed(root: Path) -> dict[str, Entry]:
    try:
        return entries(root)
    except IndexMissing:
        return {}


class SlowIO(TorchCheckpointIO):
    """A disk that writes nothing until it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = threading.Semaphore(0)
        self.note = "the inner one's"

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        assert self.allowed.acquire(timeout=TIMEOUT_S)
        super().save_checkpoint(*args, **kwargs)


def test_a_checkpoint_that_is_written_later_is_indexed_when_it_stands(root: Path) -> None:
    disk = SlowIO()
    callback: Any = MetadataCallback(outputs_dir=root)
    seen: list[set[str]] = []

    def release() -> None:
        wait_for(lambda: [path for path, each in callback._writer._pending.items() if each.retry.delay_s > 0])
        seen.append(set(indexed(root)))
        disk.allowed.release(9)
        wait_for(lambda: len(indexed(root)) == 2)

    callbacks = [saver(root / "exp", save_top_k=-1), callback, Meanwhile(release)]
    model = Tiny((0.5, 0.25))  # the first stays the best, and is named again with each save
    run = fit(root / "exp", callbacks, model=model, plugins=[AsyncCheckpointIO(disk)])
    assert seen == [set()]
    assert {
        name: (run[name]["epoch"], run[name]["monitor"]["value"])
        for name in ("epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt")
    } == {
        "epoch=0-step=4.ckpt": (0, 0.5),
        "epoch=1-step=8.ckpt": (1, 0.25),
    }
    assert index_equals_disk(root)
    assert run.trainer.strategy.checkpoint_io.checkpoint_io.note == "the inner one's"


class SaveTwice(Callback):
    """Saves the first two epochs under one name."""

    def on_train_epoch_end(self, trainer: Any, _: Any) -> None:
        if trainer.current_epoch < 2:
            trainer.save_checkpoint(os.path.join(trainer.default_root_dir, "same.ckpt"))


def test_a_second_save_that_is_written_later_than_the_first_is_indexed_at_the_end(root: Path) -> None:
    disk = SlowIO()

    def release() -> None:
        disk.allowed.release()
        wait_for(lambda: [entry.epoch for entry in indexed(root).values()] == [0])
        disk.allowed.release()

    callbacks = [MetadataCallback(outputs_dir=root), SaveTwice(), Meanwhile(release)]
    settings: dict[str, Any] = {"plugins": [AsyncCheckpointIO(disk)], "enable_checkpointing": False, "max_epochs": 3}
    fit(root / "exp", callbacks, **settings)
    assert [entry.epoch for entry in entries(root).values()] == [1]
    assert index_equals_disk(root)


def test_a_save_after_training_is_in_the_index_when_it_returns(root: Path) -> None:
    run = fit(root / "exp", [saver(root / "exp", save_top_k=1), MetadataCallback(outputs_dir=root)], max_epochs=1)
    run.trainer.save_checkpoint(str(root / "exp" / "final.ckpt"), weights_only=True)
    entry = entries(root)["exp/final.ckpt"]
    assert (entry.epoch, entry.metadata_source, entry.metrics["val/hmean"]) == (1, "embedded", torch.tensor(0.1).item())
    run.trainer.strategy.remove_checkpoint(str(root / "exp" / "final.ckpt"))
    run.trainer.strategy.checkpoint_io.save_checkpoint(run.model.state_dict(), str(root / "bare.pt"))
    assert EMBEDDED_KEY not in torch.load(root / "bare.pt", weights_only=True)  # as launchers bring the weights home
    assert set(entries(root)) == {"exp/checkpoints/epoch=0-step=4.ckpt"}
    assert list(root.rglob("final*")) == []


def test_nothing_is_left_running(root: Path) -> None:
    before = children()
    fit(root / "exp", [saver(root / "exp"), MetadataCallback(outputs_dir=root)], max_epochs=2)
    assert children() == before
    assert [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("ckpt-indexer", "examine"))
    ] == []


def children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            found.update((task / "children").read_text().split())
    return found


def test_more_paths_than_the_queue_holds_are_found_in_their_folders(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PENDING_MAX", 2)
    fit(root / "exp", [saver(root / "exp", save_top_k=-1, save_last=True), MetadataCallback(outputs_dir=root)])
    assert len(entries(root)) == 6
    assert index_equals_disk(root)


# --- what is embedded ---


def test_the_metric_is_that_of_the_callback_that_saves(root: Path) -> None:
    folder = root / "exp"
    savers = [
        saver(folder, monitor="val_loss", mode="min", save_top_k=1, filename="loss"),
        saver(folder, save_top_k=2, filename="{epoch}", save_last=True),
        saver(folder, monitor=None, save_top_k=-1, every_n_epochs=5, filename="periodic"),
    ]
    run = fit(folder, [*savers, SaveByHand(), MetadataCallback(outputs_dir=root)])
    assert {name: run[name]["monitor"] for name in sorted(run.names)} == {
        "epoch=1.ckpt": {"name": "val/hmean", "mode": "max", "value": 0.5},
        "epoch=3.ckpt": {"name": "val/hmean", "mode": "max", "value": torch.tensor(0.9).item()},
        "last.ckpt": {"name": "val/hmean", "mode": "max", "value": torch.tensor(0.9).item()},
        "loss.ckpt": {"name": "val_loss", "mode": "min", "value": torch.tensor(0.1).item()},
        "manual.ckpt": None,
        "periodic.ckpt": None,
    }
    assert {
        name: run[name]["checkpointing"] for name in ("last.ckpt", "loss.ckpt", "manual.ckpt", "periodic.ckpt")
    } == {
        "last.ckpt": {"save_top_k": 2, "save_last": True},
        "loss.ckpt": {"save_top_k": 1, "save_last": None},
        "manual.ckpt": None,
        "periodic.ckpt": {"save_top_k": -1, "save_last": None},
    }


class SaveWhenValidated(Callback):
    def on_validation_end(self, trainer: Any, _: Any) -> None:
        trainer.save_checkpoint(os.path.join(trainer.default_root_dir, "validated.ckpt"))


def test_a_save_by_hand_has_the_score_of_a_validation_at_that_very_step(root: Path) -> None:
    ours_, theirs = MetadataCallback(outputs_dir=root), SaveWhenValidated()
    fit(root / "exp", [saver(root / "exp"), ours_, theirs], max_epochs=2)
    embedded = torch.load(root / "exp" / "validated.ckpt", weights_only=True)[EMBEDDED_KEY]
    assert embedded["monitor"] == {"name": "val/hmean", "mode": "max", "value": 0.5}


def test_a_score_that_is_no_number_is_told_as_it_is(root: Path) -> None:
    run = fit(
        root / "exp", [saver(root / "exp"), MetadataCallback(outputs_dir=root)], model=Tiny((math.nan,)), max_epochs=1
    )
    assert math.isnan(run["epoch=0-step=4.ckpt"]["monitor"]["value"])
    assert [entry.status for entry in entries(root).values()] == ["ok"]


def test_numbers_are_fetched_and_everything_else_is_left_out() -> None:
    values = {
        "half": torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True),
        "one": torch.ones(1, 1),
        "yes": True,
        "many": torch.ones(2),
        "complex": torch.tensor(1j),
        "huge": 10**400,
        "text": "0.5",
        3: 4,
    }
    assert fetch_numbers(values) == {"half": 0.5, "one": 1.0, "yes": 1.0, "3": 4.0}  # type: ignore[arg-type]


class WandbLogger(lightning.pytorch.loggers.CSVLogger):
    """Named as Lightning's, which needs W&B."""

    version = "fromlogger"


@pytest.mark.parametrize("known_by", ["logger", "wandb.run", "nobody"])
def test_the_wandb_run_is_named_where_there_is_one(known_by: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = types.SimpleNamespace(id="fromrun") if known_by == "wandb.run" else None
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))
    logger = WandbLogger(str(root / "exp")) if known_by == "logger" else False
    made = fit(root / "exp", [saver(root / "exp"), MetadataCallback(outputs_dir=root)], logger=logger, max_epochs=1)
    expected = {"logger": "fromlogger", "wandb.run": "fromrun", "nobody": None}[known_by]
    assert made["epoch=0-step=4.ckpt"]["wandb_run_id"] == expected
    assert entries(root)["exp/checkpoints/epoch=0-step=4.ckpt"].wandb_run_id == expected


def test_training_resumes_from_a_checkpoint_with_our_key(root: Path) -> None:
    callback = MetadataCallback(outputs_dir=root)
    first = fit(root / "exp", [saver(root / "exp", save_top_k=-1), callback], max_epochs=2)
    model = Tiny()
    model.reached = list(first.model.reached)
    resume = root / "exp" / "checkpoints" / "epoch=1-step=8.ckpt"
    again = fit(root / "exp", [saver(root / "exp", save_top_k=-1), callback], model=model, resume=resume, max_epochs=3)
    embedded = again["epoch=2-step=12.ckpt"]
    assert (embedded["epoch"], embedded["max_epochs"], embedded["monitor"]["value"]) == (2, 3, torch.tensor(0.3).item())
    assert {key.rpartition("/")[2] for key in entries(root)} == again.names
    assert (len(again.names), first.said, again.said) == (3, [], [])


# --- settings ---


def test_outside_of_the_root_nothing_is_written_but_into_the_checkpoint(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs-2").mkdir()  # begins as the root does
    run = fit(tmp_path / "outputs-2", [saver(tmp_path / "outputs-2"), MetadataCallback(outputs_dir=root)], max_epochs=1)
    assert run["epoch=0-step=4.ckpt"]["monitor"]["name"] == "val/hmean"
    assert list(tmp_path.rglob("*.metadata.yaml")) + list(tmp_path.rglob(f"{paths.INDEX_NAME}*")) == []
    assert run.said == []


@pytest.mark.parametrize("weights_only", [False, True])
def test_without_generating_the_checkpoint_alone_is_written(weights_only: bool, root: Path) -> None:
    callback = MetadataCallback(outputs_dir=root, generate_on_save=False, training_phase="finetuning")
    run = fit(root / "exp", [saver(root / "exp", save_weights_only=weights_only), callback], max_epochs=1)
    assert run["epoch=0-step=4.ckpt"]["training_phase"] == "finetuning"
    assert {path.name for path in root.rglob("*") if path.is_file()} == {"epoch=0-step=4.ckpt"}


@pytest.mark.parametrize("given", ["argument", "environment", "default"])
def test_the_root_is_given_or_from_the_environment_or_outputs(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CKPT_INDEXER_ROOT", "environment" if given != "default" else "")
    callback = MetadataCallback(outputs_dir="argument" if given == "argument" else None)
    monkeypatch.chdir("/")
    assert callback.outputs_dir == str(tmp_path / {"default": "outputs"}.get(given, given))


def test_a_root_behind_a_link_is_the_same_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    folder = tmp_path / "link" / "exp"
    fit(folder, [saver(folder, save_last=True), MetadataCallback(outputs_dir=tmp_path / "link")], max_epochs=1)
    assert set(entries(root)) == {"exp/checkpoints/epoch=0-step=4.ckpt", "exp/checkpoints/last.ckpt"}


@pytest.mark.parametrize("place", ["outputs/hydra", "elsewhere"])
def test_where_no_configuration_stands_above_hydra_names_it(
    place: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / place / ".hydra" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.touch()
    monkeypatch.setattr(ours, "hydra_run", lambda: run_facts.HydraRun(str(tmp_path), str(config)))
    callback = MetadataCallback(outputs_dir="outputs")
    run = fit(root / "exp", [saver(root / "exp", save_weights_only=True), callback], max_epochs=1)
    expected = "hydra/.hydra/config.yaml" if place == "outputs/hydra" else str(config)
    assert run["epoch=0-step=4.ckpt"]["config_path"] == expected
    assert sidecar(root, "exp/checkpoints/epoch=0-step=4.ckpt")["hydra_config_path"] == expected


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_of_a_callback_at_work_is_as_good_as_new(copied: Any, root: Path) -> None:
    callback: Any = MetadataCallback(outputs_dir=root, exp_name="first")
    copies: list[Any] = []

    def copy_it() -> None:
        assert callback._writer is not None
        copies.append(copied(callback))

    fit(root / "exp", [saver(root / "exp", save_top_k=1), callback, Meanwhile(copy_it)], max_epochs=3)
    copies[0].exp_name = "second"
    run = fit(root / "b", [saver(root / "b"), copies[0]], max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the whole trainer is copied, and torch's own parts warn
        assert copied(run.trainer.strategy.checkpoint_io).callback.outputs_dir == str(root)
    assert {key: sidecar(root, key)["exp_name"] for key in entries(root)} == {
        "exp/checkpoints/epoch=1-step=8.ckpt": "first",
        "b/checkpoints/epoch=0-step=4.ckpt": "second",
    }


# --- failures: training ends well, with one warning ---


def break_index(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / paths.INDEX_NAME).write_text(json.dumps({"version": "2.0", "entries": {}}))


def break_sidecars(root: Path, _: pytest.MonkeyPatch) -> None:
    for epoch in range(3):
        (root / "exp" / "checkpoints" / f"epoch={epoch}-step={4 * epoch + 4}.ckpt.metadata.yaml").mkdir(parents=True)


def break_schema(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise SidecarInvalid(reason="refused")

    monkeypatch.setattr(writer, "parse_sidecar", refuse)


def break_metrics(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_facts, "fetch_numbers", lambda _: 1 / 0)


def break_wrapping(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "RecordingIO", None)


def break_reader(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")


def break_thread(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Indexer, "scan_and_plan", lambda *_, **__: 1 / 0)


BREAKS = {
    break_index: "IndexTooNew: ",
    break_sidecars: "exp/checkpoints/epoch=",
    break_schema: "SidecarInvalid: ",
    break_metrics: "ZeroDivisionError: ",
    break_wrapping: "TypeError: ",
    break_reader: "exp/checkpoints/epoch=",
    break_thread: "ZeroDivisionError: ",
}


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_a_failure_of_ours_is_one_warning(damage: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(root, monkeypatch)
    callback = MetadataCallback(outputs_dir=root, validate_schema=True)
    run = fit(root / "exp", [saver(root / "exp"), callback], max_epochs=3)
    (message,) = run.said
    assert message.startswith(f"ckpt-indexer: {BREAKS[damage]}")
    assert (len(run.names), run.trainer.current_epoch) == (3, 3)
    if damage in (break_metrics, break_wrapping):  # the rest goes on
        assert len(entries(root)) == 3


def test_where_warnings_are_errors_training_ends_well_too(root: Path) -> None:
    break_index(root, pytest.MonkeyPatch())
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saver(root / "exp"), MetadataCallback(outputs_dir=root)],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", message="ckpt-indexer")
        trainer.fit(Tiny(), datamodule=Data())
    assert trainer.state.status == "finished"


class FullDisk(TorchCheckpointIO):
    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")


def test_a_save_that_fails_fails_as_without_us(root: Path) -> None:
    callbacks = [saver(root / "exp"), MetadataCallback(outputs_dir=root)]
    with pytest.raises(OSError, match="No space left"):
        fit(root / "exp", callbacks, plugins=[FullDisk()], max_epochs=1)


# --- as a program of its own ---


def program(*arguments: object, cwd: Path, **environment: str) -> Any:
    """Run the training program to its end; give what its last line says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lightning_training", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, "ckpt-indexer:" in done.stderr) == (0, False), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def manual_config() -> str:
    """Return the configuration that the manual shows."""
    (block,) = (block for block in blocks(PAGES["training"], "yaml") if "ckpt_indexer.lightning" in block)
    return block


def test_the_manuals_configuration_works_under_hydra_as_it_stands(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    (conf / "callbacks").mkdir(parents=True)
    (conf / "callbacks" / "metadata.yaml").write_text(manual_config())
    (conf / "config.yaml").write_text(
        "defaults: [_self_, {callbacks: metadata}]\nexp_name: ocr_training_b\n"
        "model: {_target_: ocr.models.OCRModel}\nhydra: {job: {chdir: true}}\n"
    )
    folder, root = program(
        "--config-dir", conf, "--config-name", "config", "hydra.run.dir=outputs/today/run", cwd=tmp_path,
        CKPT_INDEXER_ROOT="outputs",
    )  # fmt: skip
    assert (root, folder) == (str(tmp_path / "outputs"), str(tmp_path / "outputs" / "today" / "run"))
    found = entries(tmp_path / "outputs")
    assert {key.rpartition("/")[2] for key in found} == {"epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt", "last.ckpt"}
    for key, entry in found.items():
        embedded = torch.load(tmp_path / "outputs" / key, weights_only=True)[EMBEDDED_KEY]
        assert embedded["config_path"] == "today/run/.hydra/config.yaml" == entry.config_path
        document = sidecar(tmp_path / "outputs", key)
        assert (document["exp_name"], document["training"]["max_epochs"]) == ("ocr_training_b", 3)
        assert document["hydra_config_path"] == "today/run/.hydra/config.yaml"
        assert (entry.architecture, entry.metadata_source) == ("ocr_model", "embedded")
    assert index_equals_disk(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("start", "package"),
    [("fork", "pytorch_lightning"), pytest.param("spawn", "lightning.pytorch", marks=pytest.mark.soak)],
)
def test_of_two_processes_the_first_embeds_and_indexes_by_either_name_of_lightning(
    start: str, package: str, tmp_path: Path
) -> None:
    root = tmp_path / "outputs"
    (root / "exp").mkdir(parents=True)
    assert program(start, root / "exp", package, cwd=tmp_path) == [package]
    found = {key.rpartition("/")[2]: entry for key, entry in entries(root).items()}
    assert {entry.metadata_source for entry in found.values()} == {"embedded"}
    assert {name: entry.monitor and entry.monitor.value for name, entry in found.items()} == {
        "epoch=1-step=4.ckpt": 0.625,
        "epoch=2-step=6.ckpt": 0.75,
        "last.ckpt": 0.75,
        "weights.ckpt": 0.75,
        "whole.ckpt": 0.75,
    }
    assert found["whole.ckpt"].metrics["train/loss_epoch"] == found["last.ckpt"].metrics["train/loss_epoch"]
    assert index_equals_disk(root)


@pytest.mark.soak
def test_the_folders_of_a_sharding_strategy_are_embedded_and_indexed(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    (root / "exp").mkdir(parents=True)
    program("sharded", root / "exp", "lightning.pytorch", cwd=tmp_path)
    assert {
        key: (entry.format, entry.metadata_source, entry.monitor and entry.monitor.value)
        for key, entry in entries(root).items()
    } == {
        "exp/checkpoints/epoch=1-step=8.ckpt": ("sharded-dcp", "embedded", 0.625),
        "exp/checkpoints/epoch=2-step=12.ckpt": ("sharded-dcp", "embedded", 0.75),
        "exp/checkpoints/last.ckpt": ("sharded-dcp", "embedded", 0.75),
    }
    assert index_equals_disk(root)


def test_without_lightning_the_import_names_the_extra() -> None:
    code = (
        "import sys; sys.modules.update({'lightning': None, 'pytorch_lightning': None}); import ckpt_indexer.lightning"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: ckpt_indexer.lightning needs Lightning: pip install 'ckpt-indexer[lightning]'"
    )
