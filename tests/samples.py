"""Real checkpoints, made by real torch and Lightning: a folder of training runs and a folder of ``torch.save`` files.

Each is made once a session. A ``Run`` remembers what its training really reached at each step, so that a test can hold
a checkpoint's score against what happened instead of against what its pickle says.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import enum
import io
import logging
import os
import pathlib
import struct
import sys
import tarfile
import uuid
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PAYLOAD_SCORES = (0.1, 0.5, 0.3, 0.9, 0.2)
MANY_RECORDS = 70_000  # more than the 65,535 that an archive without zip64 can list
HUGE_BYTES = 5 << 30  # beyond 32 bits; a hole, so it takes no disk


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = 2


class Setting:
    """A user's own class in the hyper-parameters."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.me = self  # a cycle


class Tagged(torch.Tensor):
    """A tensor subclass with an attribute of its own."""


def activation(x: Any) -> Any:
    return x


def hyper_parameters() -> dict[Any, Any]:
    """Make one of everything that people put into hyper-parameters."""
    config = OmegaConf.create(
        {"root": "/data", "train": {"path": "${root}/train", "sizes": [640, 640], "lr": 1e-3}, "off": None}
    )
    return {
        "config": config,
        "train": config.train,
        "sizes": config.train.sizes,
        "namespace": argparse.Namespace(lr=0.1, inner=argparse.Namespace(depth=2)),
        "mode": Mode.FAST,
        "slow": Mode.SLOW,
        "path": pathlib.PurePosixPath("/data/set/x.txt"),
        "relative": pathlib.PurePosixPath("a/b"),
        "here": pathlib.PurePosixPath(),
        "moment": dt.datetime(2026, 11, 21, 10, 30, 0, 123456),  # noqa: DTZ001
        "moment_utc": dt.datetime(2026, 11, 21, 10, 30, tzinfo=dt.UTC),
        "moment_zone": dt.datetime(2026, 11, 21, 10, 30, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
        "day": dt.date(2026, 11, 21),
        "time": dt.time(1, 2, 3),
        "span": dt.timedelta(days=1, seconds=5),
        "np_float": np.float32(0.25),
        "np_double": np.float64(1 / 3),
        "np_int": np.int64(-7),
        "np_bool": np.bool_(True),
        "np_array": np.arange(4, dtype=np.int16),
        "np_big_endian": np.arange(3, dtype=">f4"),
        "np_matrix": np.zeros((3, 2)),
        "np_long": np.zeros(1000),
        "dtype": torch.float32,
        "size": torch.Size((2, 3)),
        "device": torch.device("cpu"),
        "function": activation,
        "c_function": torch.relu,
        "class": collections.Counter,
        "words": {"b", "a", "c"},
        "frozen": frozenset({3, 1, 2}),
        "bytes": b"\x00\xffabc",
        "complex": 1 + 2j,
        "big": 10**30,
        "bigger": -(2**64),
        "nan": float("nan"),
        "inf": float("inf"),
        "unicode": "ÜnïcÖde 🎉 \u2028",
        "surrogate": "a\udcffb",
        "key\udcff": 1,
        "counter": collections.Counter("aab"),
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(int, x=1),
        "deque": collections.deque([1, 2]),
        "tuple": (1, (2, [3])),
        "scalar_tensor": torch.tensor(2.5),
        "tensor": torch.zeros(2, 3),
        "uuid": uuid.UUID(int=5),
        "setting": Setting(3),
        1: "integer key",
        None: "no key",
        "long_text": "x" * 5000,
    }


class Tiny(lightning.LightningModule):
    """A model whose validation metric is a given series."""

    def __init__(self, scores: Sequence[float] = PAYLOAD_SCORES, **hparams: Any) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["scores"])
        self.series = list(scores)
        self.reached: list[tuple[int, int, float]] = []  # epoch, step, val/hmean
        self.encoder = nn.Linear(4, 3)
        self.head = nn.Linear(3, 1)

    def training_step(self, batch: Any, _: int) -> Any:
        loss = self.head(self.encoder(batch[0])).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        score = self.series[len(self.reached) % len(self.series)]
        self.reached.append((self.current_epoch, self.global_step, score))
        self.log("val/hmean", score)
        self.log("val_loss", 1 - score)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Data(lightning.LightningDataModule):
    def __init__(self, batch_size: int = 2, root: str = "/data", **_: Any) -> None:
        super().__init__()
        self.save_hyperparameters()

    def _loader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(8, 4)), batch_size=2)

    train_dataloader = val_dataloader = _loader


class Interrupted(Exception):
    """A training run ended by what it ran into."""


class Interrupt(Callback):
    """Ends training in the middle of an epoch, as Ctrl-C or a full disk do."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 3 and trainer.global_step % 4 == 2:
            raise Interrupted


class SaveByHand(Callback):
    """What scripts do: ``trainer.save_checkpoint`` in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 10:
            trainer.save_checkpoint(os.path.join(trainer.default_root_dir, "checkpoints", "manual.ckpt"))


class AddMetrics(Callback):
    """User code that leaves its own metrics in the checkpoint."""

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        score = pl_module.reached[-1][2]
        checkpoint["cleval_metrics"] = {"precision": torch.tensor(score / 2), "recall": 0.75, "hmean": score}


class Run(NamedTuple):
    """A finished training run."""

    folder: Path
    reached: list[tuple[int, int, float]]  # each validation: epoch, step, val/hmean

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*.ckpt") if not path.is_dir())

    def score_at(self, step: int) -> float | None:
        """Give what the model of *step* reached, ``None`` if it was not validated."""
        return {step: score for _, step, score in self.reached}.get(step)


def trainer_settings(folder: Path) -> dict[str, Any]:
    """Return what a Lightning trainer needs for a short and quiet training on the CPU."""
    return {
        "accelerator": "cpu",
        "max_epochs": 5,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(folder),
    }


def train(folder: Path, callbacks: list[Any], *, model: Any = None, data: Any = None, **trainer: Any) -> Run:
    """Train the tiny model; an exception on the way is part of the run."""
    model = model or Tiny()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers, loggers and existing folders
        with contextlib.suppress(Interrupted):
            lightning.Trainer(**(trainer_settings(folder) | trainer), callbacks=callbacks).fit(
                model, datamodule=data or Data()
            )
    return Run(folder, model.reached)


def saver(folder: Path, **settings: Any) -> Any:
    defaults: dict[str, Any] = {"monitor": "val/hmean", "mode": "max", "save_top_k": 3}
    return ModelCheckpoint(dirpath=str(folder / "checkpoints"), **(defaults | settings))


def make_runs(root: Path) -> dict[str, Run]:
    """Train every run; the keys say what is particular about each."""
    stop = EarlyStopping("val/hmean", mode="max", patience=9)
    rich = {key: value for key, value in hyper_parameters().items() if isinstance(key, str) and key.isascii()}
    del rich["np_array"], rich["np_big_endian"], rich["np_matrix"], rich["np_long"]  # Lightning compares with ==
    runs: dict[str, tuple[Callable[[Path], list[Any]], dict[str, Any]]] = {
        "plain": (lambda f: [saver(f, save_last=True)], {"model": Tiny(**rich), "data": Data(batch_size=4)}),
        "named": (lambda f: [saver(f, filename="{epoch}-{val/hmean:.4f}", save_last="link")], {}),
        "several": (
            lambda f: [
                saver(f, monitor="val_loss", mode="min", save_top_k=1, filename="loss-{epoch}"),
                saver(f, save_top_k=1, filename="best", save_last=True),
                stop,
                Timer(),
            ],
            {},
        ),
        "swa": (lambda f: [saver(f), StochasticWeightAveraging(1e-2, swa_epoch_start=1)], {}),
        "ema": (lambda f: [saver(f), EMAWeightAveraging()], {}),
        "weights": (lambda f: [saver(f, save_weights_only=True, filename="{epoch}-{val/hmean:.4f}")], {}),
        "interrupted": (
            lambda f: [
                saver(f, save_last=True),
                OnExceptionCheckpoint(str(f / "checkpoints")),
                SaveByHand(),
                Interrupt(),
            ],
            {},
        ),
        "halves": (
            lambda f: [saver(f, filename="{epoch}", save_top_k=2, save_last=True)],
            {"val_check_interval": 0.5, "max_epochs": 3, "model": Tiny((0.5, 0.4, 0.2, 0.8, 0.1, 0.3))},
        ),
        "exception": (lambda f: [saver(f, save_last=True, save_on_exception=True), Interrupt()], {}),
        "unmonitored": (lambda f: [saver(f, monitor=None, save_top_k=1, save_last=True)], {"max_epochs": 2}),
        "metrics": (lambda f: [saver(f, save_top_k=1), AddMetrics()], {"max_epochs": 2}),
    }
    made = {}
    for name, (callbacks, settings) in runs.items():
        folder = root / name
        made[name] = train(folder, callbacks(folder), **settings)
    return made


def state_dict() -> dict[str, Any]:
    return {"encoder.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4), "encoder.bias": torch.ones(3)}


def lightning_like(**more: Any) -> dict[str, Any]:
    """Make a dict with the keys of a Lightning checkpoint."""
    return {
        "epoch": 3,
        "global_step": 128,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state_dict(),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    } | more


def monitored(score: Any) -> dict[str, Any]:
    """Make a Lightning-like checkpoint with a ``ModelCheckpoint`` state that holds *score*."""
    key = "ModelCheckpoint{'monitor': 'val/hmean', 'mode': 'max', 'every_n_train_steps': 0}"
    state = {
        "monitor": "val/hmean",
        "best_model_score": score,
        "best_model_path": "/train/checkpoints/a.ckpt",
        "current_score": score,
        "kth_value": score,
        "best_k_models": {"/train/checkpoints/a.ckpt": score},
    }
    return lightning_like(callbacks={key: state})


def kinds_of_tensor() -> dict[str, Any]:
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    slices = torch.zeros(1000)
    tagged = torch.ones(2, 2).as_subclass(Tagged)
    tagged.note = "kept"
    with_attribute = torch.ones(5)
    with_attribute.note = "attribute"
    return {
        "tied.a": weight,
        "tied.b": weight,
        "tied.transposed": weight.t(),
        "slice.head": slices[:10],
        "slice.head_again": slices[:10],
        "slice.tail": slices[990:],
        "parameter": nn.Parameter(torch.ones(2, 3)),
        "parameter.frozen": nn.Parameter(torch.ones(3), requires_grad=False),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        **{str(dtype)[6:]: torch.ones(3, dtype=dtype) for dtype in _dtypes()},
        "quantized": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.quint8),
        "quantized.channel": torch.quantize_per_channel(
            torch.ones(2, 2), torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.qint8
        ),
        "sparse": torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (3, 3)),
        "sparse.csr": torch.eye(3).to_sparse_csr(),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": torch.ones(5, 6, device="meta"),
        "subclass": tagged,
        "subclass.parameter": nn.Parameter(torch.ones(2).as_subclass(Tagged)),
        "attribute": with_attribute,
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "view.dtype": torch.ones(4, dtype=torch.float32).view(torch.uint8),
    }


def _dtypes() -> list[Any]:
    names = (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex32 complex64 complex128 "
        "uint16 uint32 uint64 float8_e4m3fn float8_e5m2"
    )
    return [getattr(torch, name) for name in names.split()]


def make_zips(root: Path) -> dict[str, Path]:
    """Save a file of each layout and content that ``torch.save`` has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes: quantized, nested, sparse CSR
        return _make_zips(root)


def _make_zips(root: Path) -> dict[str, Path]:
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        made[name] = root / f"{name}.ckpt"
        return made[name]

    torch.save(lightning_like(), path("path"))
    torch.save(lightning_like(), path("ünïcode"))
    path("buffer").write_bytes(saved(lightning_like()))
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(lightning_like(), path("without-checksums"))
    finally:
        torch.serialization.set_crc32_options(True)
    config = torch.utils.serialization.config.save
    alignment, config.storage_alignment = config.storage_alignment, 4096
    try:
        torch.save(lightning_like(), path("aligned"))
    finally:
        config.storage_alignment = alignment
    with torch.serialization.skip_data():
        torch.save(lightning_like(), path("holes"))
        huge = {"first": torch.ones(2), "huge": torch.empty(HUGE_BYTES, dtype=torch.uint8), "last": torch.ones(3)}
        torch.save({"epoch": 1, "state_dict": huge}, path("zip64"))
    many = {f"w{i}": torch.empty(1) for i in range(MANY_RECORDS)}
    with torch.serialization.skip_data():
        torch.save({"state_dict": many}, path("many-records"))
    for protocol in range(6):
        tensors = kinds_of_tensor()
        content = lightning_like(hyper_parameters=hyper_parameters(), state_dict=tensors)
        torch.save(content, path(f"protocol-{protocol}"), pickle_protocol=protocol)
    torch.save(lightning_like(state_dict=kinds_of_tensor()), path("kinds-of-tensor"))
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.float32):
        torch.save(monitored(torch.tensor(0.75).to(dtype)), path(f"score-{str(dtype)[6:]}"))
    torch.save(monitored(torch.tensor(float("inf"))), path("score-inf"))
    torch.save(monitored(np.float32(0.625)), path("score-numpy"))
    torch.save(monitored(torch.tensor([0.5, 0.25])[1]), path("score-slice"))
    torch.save(nn.Linear(2, 3).state_dict(), path("bare-state-dict"))
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), path("whole-module"))
    torch.save([1, 2, torch.ones(3)], path("list"))
    torch.save({torch.ones(2): "tensor as key", "epoch": 4, "state_dict": state_dict()}, path("tensor-keys"))
    torch.save({"epoch": 5, "step": 17, "model_state_dict": state_dict(), "optimizer_state_dict": {}}, path("tutorial"))
    torch.save(lightning_like(epoch="three", callbacks=None, global_step=None), path("wrong-types"))
    torch.save(lightning_like(hyper_parameters=None, datamodule_hyper_parameters={"x": Setting(1)}), path("data"))
    old = ("data.pkl", "version")
    rewrite(made["buffer"], path("old-records"), keep=lambda name: name in old or name.startswith("data/"))
    rewrite(made["buffer"], path("root-with-spaces"), root="epoch 27 (best).pth")
    big_endian(made["score-float32"], path("big-endian"))
    return made


def saved(content: Any, **options: Any) -> bytes:
    """Give what ``torch.save`` writes into a buffer."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    """Read an archive's records by name, its root folder left out."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def rewrite(
    source: Path, target: Path, *, keep: Callable[[str], bool] = lambda _: True, root: str = "archive", **changed: bytes
) -> None:
    """Write an archive again through torch's own writer, with some records left out or under another root."""
    records = records_of(source.read_bytes())
    write_archive(target, {name: data for name, data in records.items() if keep(name)} | changed, root)


def write_archive(target: Path, records: dict[str, bytes], root: str = "archive") -> None:
    """Write *records* as torch's own writer lays them out, but for the record sets of later versions."""
    target.write_bytes(archive_bytes(records, root))


def archive_bytes(
    records: dict[str, bytes], root: str = "archive", *, methods: dict[str, int] | None = None, tail: bool = True
) -> bytes:
    """Lay records out as torch does: stored, 64-byte aligned, descriptors, zip64 tail."""
    out = bytearray()
    directory = bytearray()
    for name, data in records.items():
        method = (methods or {}).get(name, 0)
        packed = data if method == 0 else zlib.compress(data, 9)[2:-4]
        full = f"{root}/{name}".encode()
        start = len(out)
        padding = -(start + 30 + len(full) + 4) % 64
        out += struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, 0x0808, method, 0, 0, 0, 0, 0, len(full), padding + 4)
        out += full + struct.pack("<2sH", b"FB", padding) + b"Z" * padding + packed
        crc = zlib.crc32(data)
        out += struct.pack("<4s3L", b"PK\x07\x08", crc, len(packed), len(data))
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 0, 0, 0x0808, method, 0, 0, crc, len(packed), len(data),
            len(full), 0, 0, 0, 0, 0, start,
        ) + full  # fmt: skip
    offset, size, count = len(out), len(directory), len(records)
    out += directory
    if tail:
        end64 = len(out)
        out += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 0x31E, 45, 0, 0, count, count, size, offset)
        out += struct.pack("<4sLQL", b"PK\x06\x07", 0, end64, 1)
    out += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), size, offset, 0)
    return bytes(out)


def big_endian(source: Path, target: Path) -> None:
    """Make what torch writes on a big-endian machine, of a checkpoint whose storages are all of 4-byte elements."""
    records = records_of(source.read_bytes())
    for name, data in records.items():
        if name.startswith("data/"):
            records[name] = b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
    write_archive(target, records | {"byteorder": b"big"})


def make_others(root: Path) -> dict[str, tuple[Path, str, str]]:
    """Make files that are no checkpoints: name -> (path, format, problem code) that they should be told as."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"))
    plain_zip = io.BytesIO()
    with zipfile.ZipFile(plain_zip, "w") as made_zip:
        made_zip.writestr("readme.txt", "hello")
    npz = io.BytesIO()
    np.savez(npz, a=np.zeros(3))
    contents: dict[str, tuple[bytes, str, str]] = {
        "tar": (tar.getvalue(), "unknown", "not-a-checkpoint"),
        "zip": (plain_zip.getvalue(), "unknown", "not-a-checkpoint"),
        "npz": (npz.getvalue(), "unknown", "not-a-checkpoint"),
        "npy": (b"\x93NUMPY\x01\x00v\x00{", "unknown", "not-a-checkpoint"),
        "gzip": (b"\x1f\x8b\x08" + bytes(20), "unknown", "not-a-checkpoint"),
        "bzip2": (b"BZh9" + bytes(20), "unknown", "not-a-checkpoint"),
        "xz": (b"\xfd7zXZ\x00" + bytes(20), "unknown", "not-a-checkpoint"),
        "zstandard": (b"\x28\xb5\x2f\xfd" + bytes(20), "unknown", "not-a-checkpoint"),
        "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "unknown", "not-a-checkpoint"),
        "html": (b"<!DOCTYPE html><html><body>404</body></html>", "unknown", "not-a-checkpoint"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "unknown", "not-a-checkpoint"),
        "text": (b"hello, this is text", "unknown", "not-a-checkpoint"),
        "json": (b'{"w": {"dtype": "F32"}}', "unknown", "not-a-checkpoint"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(500), "unknown", "not-a-checkpoint"),
        "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(100), "unknown", "not-a-checkpoint"),
        "empty": (b"", "unknown", "empty"),
        "zeros": (bytes(4096), "unknown", "zero-filled"),
    }
    made = {}
    for name, (data, format_, code) in contents.items():
        path = root / f"{name}.ckpt"
        path.write_bytes(data)
        made[name] = (path, format_, code)
    return made


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    for folder, make in (("zips", make_zips), ("runs", make_runs), ("others", make_others)):
        (target / folder).mkdir(parents=True)
        make(target / folder)
