"""Real files of the formats beside torch's zip, written by torch, safetensors and pickle themselves.

What nobody can write any more is laid out by hand as the reader in torch describes it: the tar of torch 0.1 and
storages that are views. torch has to read these too, or they prove nothing.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import tarfile
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
import torch
from torch import nn

from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

LEGACY_ZIPS = (  # samples that are written again in the legacy form
    "path", "score-bfloat16", "score-float16", "score-float32", "score-float64", "score-int64",
    "score-inf", "score-numpy", "score-slice", "bare-state-dict", "whole-module", "list", "tensor-keys", "tutorial",
    "wrong-types", "data",
)  # fmt: skip
TAR_STORAGES = {torch.float32: torch.FloatStorage, torch.float64: torch.DoubleStorage, torch.int64: torch.LongStorage}
NOT_IN_DCP = frozenset(  # it refuses them, or loses what they are
    [
        "quantized",
        "quantized.channel",
        "sparse",
        "sparse.csr",
        "nested",
        "meta",
        "subclass",
        "subclass.parameter",
        "attribute",
        "conjugate",
    ]
)
UNTYPED = frozenset(  # dtypes without a storage type of their own
    ["complex32", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
)


class Net(nn.Module):
    """A module with one of everything that a state dict lists, and of what it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4, bias=False)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])
        self.again = self.blocks[0]  # a submodule under two names
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.first.weight  # a parameter under two names
        self.scale = nn.Parameter(torch.ones(2, 1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_parameter("absent", None)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("hidden", torch.zeros(7), persistent=False)
        self.register_buffer("none", None)
        self.note = torch.ones(5)  # an attribute, no part of the state dict

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x) + self.tied(x) + self.note[0]
        for block in self.blocks:
            x = block(x)
        return self.again(x) * self.scale.sum() + self.mean.sum() + self.hidden.sum() + self.frozen.sum()


def legacy(content: Any, **options: Any) -> bytes:
    """Give what ``torch.save`` wrote before 1.6, and writes when asked to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class without source; quantized and sparse tensors are prototypes
        return samples.saved(content, _use_new_zipfile_serialization=False, **options)


def make_legacy(root: Path, zips: dict[str, Path]) -> dict[str, Path]:
    """Save in the legacy form: the samples that are zips, every protocol, modules, and two layouts by hand."""
    made = {}
    for name in LEGACY_ZIPS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(zips[name], weights_only=False)
        made[name] = legacy(content)
    rich = samples.lightning_like(hyper_parameters=samples.hyper_parameters())
    made |= {f"protocol-{protocol}": legacy(rich, pickle_protocol=protocol) for protocol in range(1, 6)}
    made["kinds-of-tensor"] = legacy(samples.lightning_like(state_dict=_without(_kinds(), UNTYPED | {"nested"})))
    made["more-kinds"] = legacy(samples.lightning_like(state_dict=more_kinds_of_tensor()))
    made["net"] = legacy(Net())
    made["net-in-dict"] = legacy({"epoch": 4, "model": Net(), "optimizer": None, "date": "2026-11-21"})
    made["no-tensors"] = legacy({"epoch": 2, "global_step": 9})
    made["many"] = legacy({f"w{i}": torch.ones(i % 3) for i in range(1000)})
    made["big-endian"] = big_endian(samples.monitored(torch.tensor(0.625)))
    made["views"] = views()
    made["tar"] = tar_file({"epoch": 8, "global_step": 99, "state_dict": _tar_states(), "lr": 0.1})
    made["tar-state-dict"] = tar_file(_tar_states())
    made["tar-score"] = tar_file(samples.monitored(torch.tensor(0.5)))
    made["tar-ustar"] = tar_file({"epoch": 1, "state_dict": _tar_states()}, format_=tarfile.USTAR_FORMAT)
    return _written(root, made)


def make_unloadable() -> dict[str, tuple[bytes, Any]]:
    """Save what torch itself cannot load again in the legacy form: the files, and what was saved.

    ``_legacy_load`` of torch 2.13 asks ``UntypedStorage`` for a dtype, which it has not, and builds nested tensors by
    sizes that it has not read yet.
    """
    kinds = _kinds()
    contents = {
        "legacy-untyped": samples.lightning_like(state_dict={name: kinds[name] for name in sorted(UNTYPED)}),
        "legacy-nested": {"epoch": 1, "state_dict": {"nested": kinds["nested"]}},
        "legacy-storage": {"epoch": 1, "state_dict": samples.state_dict(), "raw": torch.ones(3).untyped_storage()},
    }
    made = {name: (legacy(content), content) for name, content in contents.items()}
    content = contents["legacy-untyped"]
    return made | {f"pickle-untyped-{protocol}": (pickle.dumps(content, protocol), content) for protocol in range(2, 6)}


def _kinds() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes: quantized, nested, sparse CSR, complex32
        return samples.kinds_of_tensor()


def more_kinds_of_tensor() -> dict[str, Any]:
    """Make the kinds that only few programs save."""
    tagged = nn.Parameter(torch.ones(2, 3))
    tagged.note = "kept"
    hybrid = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.ones(2, 5), (3, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes: sparse and nested
        return {
            "hybrid": hybrid,
            "sparse.empty": torch.sparse_coo_tensor(torch.zeros(2, 0), torch.zeros(0), (4, 5)),
            "sparse.csc": torch.eye(3).to_sparse_csc(),
            "sparse.bsr": torch.ones(4, 6).to_sparse_bsr((2, 3)),
            "sparse.parameter": nn.Parameter(torch.eye(2).to_sparse()),
            "parameter.attribute": tagged,
            "parameter.meta": nn.Parameter(torch.ones(3, 2, device="meta")),
            "buffer": nn.Buffer(torch.ones(4)),
            "uninitialized": torch.empty(2, 2, device="meta", dtype=torch.bfloat16),
            "channels-last": torch.ones(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
            "expanded": torch.ones(1, 3).expand(5, 3),
            "strided": torch.arange(12.0)[::3],
        }


def _without(content: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def big_endian(content: Any) -> bytes:
    """Say that a big-endian machine wrote it, whose storages are little-endian as well (THPStorage_writeFileRaw)."""
    data = legacy(content)
    entry = b"little_endianq\x02\x88"
    assert data.count(entry) == 1
    return data.replace(entry, entry[:-1] + b"\x89")


def views() -> bytes:
    """Two tensors over views of one storage, as torch 0.1.12 to 0.3 wrote them: the sixth part of a persistent id."""
    base = torch.arange(10, dtype=torch.float32)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, View):
                return ("storage", torch.FloatStorage, "77", "cpu", 10, (value.key, value.offset, value.size))
            return None

    def tensor(view: View, shape: tuple[int, ...]) -> Rebuilt:
        return Rebuilt((view, 0, shape, (1,)))

    content = {"epoch": 6, "state_dict": collections.OrderedDict(
        a=tensor(View("78", 2, 3), (3,)), b=tensor(View("79", 5, 3), (3,)), again=tensor(View("78", 2, 3), (3,)),
    )}  # fmt: skip
    buffer = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    for head in (torch.serialization.MAGIC_NUMBER, 1001, system):
        pickle.dump(head, buffer, protocol=2)
    Pickler(buffer, protocol=2).dump(content)
    pickle.dump(["77"], buffer, protocol=2)
    buffer.write(struct.pack("<q", 10) + base.numpy().tobytes())
    return buffer.getvalue()


class View:
    """A part of a storage."""

    def __init__(self, key: str, offset: int, size: int) -> None:
        self.key, self.offset, self.size = key, offset, size


class Rebuilt:
    """Pickled as a call of ``torch._utils._rebuild_tensor``."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor, self.arguments


class Stored:
    """Pickled as a storage of a plain pickle: a call with the bytes of a legacy file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.data,)


def _tar_states() -> dict[str, Any]:
    base = torch.arange(12, dtype=torch.float32)
    return {
        "weight": base.reshape(3, 4),
        "tail": base[8:],
        "tied": base.reshape(3, 4),
        "double": torch.ones(2, 2, dtype=torch.float64).t(),
        "long": torch.tensor([7]),
    }


class _TarPickler(pickle.Pickler):
    """Replaces tensors by their numbers, as torch 0.1 did."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=2)
        self.tensors: dict[int, torch.Tensor] = {}

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            self.tensors[id(value)] = value
            return str(id(value))
        return None


def tar_file(content: Any, *, format_: int = tarfile.PAX_FORMAT, views: bool = True) -> bytes:
    """Write the tar of torch 0.1.x by the layout in torch/serialization.py, ``legacy_load``."""
    main = io.BytesIO()
    pickler = _TarPickler(main)
    pickler.dump(content)
    tensors = pickler.tensors
    roots = {t.untyped_storage()._cdata: t for t in tensors.values()}
    storages = io.BytesIO()
    pickle.dump(len(roots), storages, 2)
    for key, tensor in roots.items():
        kind = TAR_STORAGES[tensor.dtype]
        pickle.dump((key, "cpu", kind), storages, 2)
        data = bytes(tensor.untyped_storage())
        storages.write(struct.pack("<q", len(data) // tensor.element_size()) + data)
    # A view of each storage, from its second element: (key, key of the whole, offset, elements).
    parts = [(key + 1, key, 1, t.untyped_storage().nbytes() // t.element_size() - 1) for key, t in roots.items()]
    pickle.dump(parts if views else [], storages, 2)
    geometry = io.BytesIO()
    pickle.dump(len(tensors), geometry, 2)
    for key, tensor in tensors.items():
        whole, offset = tensor.untyped_storage()._cdata, tensor.storage_offset()
        if views and offset:
            whole, offset = whole + 1, offset - 1
        pickle.dump((key, whole, torch.FloatTensor), geometry, 2)
        geometry.write(struct.pack("<i4x", tensor.ndim))
        geometry.write(struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.stride(), offset))
    return tar_of(
        {"sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2), "pickle": main.getvalue(),
         "tensors": geometry.getvalue(), "storages": storages.getvalue()}, format_=format_,
    )  # fmt: skip


def tar_of(members: dict[str, bytes], *, format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=format_) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_pickles(root: Path) -> dict[str, Path]:
    """Dump plain pickles; their tensors carry their storages as bytes of legacy files."""
    tied = torch.ones(2, 2)
    contents = {
        "states": samples.state_dict(),
        "lightning": samples.lightning_like(),
        "score": samples.monitored(torch.tensor(0.75)),
        "score-double": samples.monitored(torch.tensor(0.375, dtype=torch.float64)),
        "tied": {"state_dict": {"a": tied, "b": tied, "c": torch.ones(3), "d": tied.t()}},
        "parameters": {"epoch": 1, "state_dict": dict(nn.Linear(2, 3).named_parameters())},
        "rich": samples.lightning_like(hyper_parameters=samples.hyper_parameters()),
        "numbers": {"epoch": 3, "best": {"hmean": 0.5}, "args": {"lr": 0.1}},
        "net": Net(),
    }
    made = {
        f"{name}-{protocol}": pickle.dumps(content, protocol)
        for name, content in contents.items()
        for protocol in range(2, 6)
    }
    return _written(root, made)


def make_scripts(root: Path) -> dict[str, Path]:
    """Script, trace, freeze and save modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are not gone
        net = Net().eval()
        modules = {
            "scripted": torch.jit.script(net),
            "traced": torch.jit.trace(net, torch.ones(2, 3)),
            "linear": torch.jit.script(nn.Linear(2, 2)),
            "twice": torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))),
            "lstm": torch.jit.script(nn.LSTM(3, 4, num_layers=2, bidirectional=True)),
            "empty": torch.jit.script(nn.ReLU()),
            "frozen": torch.jit.freeze(torch.jit.script(net)),
        }
        made = {}
        for name, module in modules.items():
            buffer = io.BytesIO()
            extra = {"notes/ünïcode.txt": "hello", "data.pkl": "a decoy"} if name == "scripted" else {}
            torch.jit.save(module, buffer, _extra_files=extra)
            made[name] = buffer.getvalue()
    return _written(root, made)


def make_safetensors(root: Path) -> dict[str, Path]:
    """Save every dtype that the library has, and every shape that is special."""
    kinds = {str(dtype)[6:]: _filled(dtype) for dtype in safetensors.torch._TYPES.values() if dtype is not None}
    names = ("plain", "ünïcode", "🎉", "a b", 'quo"te', "back\\slash", "new\nline", "", "x" * 300)
    contents: dict[str, tuple[dict[str, Any], dict[str, str] | None]] = {
        "states": (samples.state_dict(), None),
        "kinds": (kinds, {"format": "pt"}),
        "shapes": (
            {"scalar": torch.tensor(7.0), "empty": torch.zeros(0), "none": torch.zeros(3, 0), "9": torch.ones([1] * 9)},
            {},
        ),
        "counted": (samples.state_dict(), {"epoch": "3", "step": "128", "format": "pt", "ünï": "cöde"}),
        "lightning": (samples.state_dict(), {"epoch": "3", "global_step": "128", "step": "1"}),
        "uncounted": (samples.state_dict(), {"epoch": "three", "step": "-1.0", "global_step": "1.5"}),
        "names": ({name: torch.ones(1) for name in names}, None),
        "nothing": ({}, {"epoch": "1"}),
    }  # fmt: skip
    made = {name: safetensors.torch.save(tensors, metadata) for name, (tensors, metadata) in contents.items()}
    return _written(root, made)


def _filled(dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(2, 3, dtype=torch.uint8).view(dtype) if dtype.itemsize == 1 else torch.ones(2, 3, dtype=dtype)


class Folder(NamedTuple):
    """A checkpoint that is a folder, and the whole of what it is a part of."""

    path: Path
    whole: Any


def deepspeed_content() -> dict[str, Any]:
    """Give what Lightning hands to DeepSpeed, with a frozen parameter, tied ones and a buffer."""
    tied = torch.ones(4, 3)
    states = samples.state_dict() | {"embed": tied, "out": tied, "norm.mean": torch.zeros(3)}
    return samples.monitored(torch.tensor(0.75)) | {"state_dict": states, "optimizer_states": [{"lr": 0.1}]}


def make_deepspeed(root: Path) -> dict[str, Folder]:
    """Lay folders out as DeepSpeed 0.19 does under Lightning (measured), and with the file names of older ones."""
    whole = deepspeed_content()
    made = {}
    for name, stage, world_size, options in (
        ("stage0", 0, 1, {}),
        ("stage1", 1, 2, {}),
        ("stage2-bf16", 2, 2, {"prefix": "bf16_"}),
        ("stage2-old", 2, 2, {"joint": ""}),
        ("stage3", 3, 2, {}),
        ("stage3-many", 3, 12, {"prefix": "fp16_"}),
        ("by-step", 2, 1, {"tag": "global_step128"}),
        ("inner-folder", 3, 2, {"tag": "."}),
    ):
        path = root / f"{name}.ckpt"
        write_deepspeed(path, whole, stage, world_size, **options)
        made[name] = Folder(path, whole)
    return made


def write_deepspeed(
    path: Path, whole: dict[str, Any], stage: int, world_size: int, *,
    prefix: str = "", joint: str = "_", tag: str = "checkpoint",
) -> None:  # fmt: skip
    inner = path / tag
    inner.mkdir(parents=True)
    client = {key: value for key, value in whole.items() if key not in ("state_dict", "optimizer_states")}
    states = whole["state_dict"]
    trained = [name for name in states if name not in ("encoder.bias", "norm.mean", "out")]
    engine = {
        "module": {n: torch.empty(0) if stage == 3 and n != "norm.mean" else t for n, t in states.items()},
        "buffer_names": ["norm.mean"],
        "optimizer": whole["optimizer_states"][0] if stage == 0 else None,
        "param_shapes": [{name: states[name].shape for name in trained}] if stage else None,
        "frozen_param_shapes": {"encoder.bias": states["encoder.bias"].shape} if stage > 1 else None,
        "shared_params": {"out": "embed"} if stage else None,
        "frozen_param_fragments": {"encoder.bias": states["encoder.bias"]} if stage > 1 else None,
        "lr_scheduler": None,
        "skipped_steps": 0,
        "global_steps": 99,
        "global_samples": 198,
        "dp_world_size": world_size,
        "mp_world_size": 1,
        "checkpoint_parallel_dimensions": {"pp_degree": 1, "tp_degree": 1},
        "ds_config": {"zero_optimization": {"stage": stage}},
        "ds_version": "0.19.8",
    }
    for rank in range(world_size if stage == 3 else 1):
        zero = f"zero_pp_rank_{rank}_" if stage == 3 else ""
        torch.save(engine | client, inner / f"{zero}mp_rank_00_model_states.pt")
    for rank in range(world_size if stage else 0):
        optimizer = {"optimizer_state_dict": {"zero_stage": stage, "partition": torch.ones(4)}, "ds_version": "0.19.8"}
        torch.save(optimizer, inner / f"{prefix}zero_pp_rank_{rank}_mp_rank_00{joint}optim_states.pt")
    (path / "zero_to_fp32.py").write_text("#!/usr/bin/env python\n")
    if tag != ".":
        (path / "latest").write_text(tag)


def make_dcp(root: Path) -> dict[str, Path]:
    """Save with ``torch.distributed.checkpoint`` in this one process: every kind of tensor that it takes."""
    import torch.distributed.checkpoint as dcp

    kinds = _without(_kinds(), NOT_IN_DCP)
    contents: dict[str, dict[str, Any]] = {
        "kinds": {"model": kinds, "epoch": 2, "global_step": 7},
        "flat": samples.state_dict(),
        "nested": {"state_dict": samples.state_dict(), "optimizer": {"state": {"0": {"step": torch.tensor(1.0)}}}},
        "numbers": {"epoch": 2, "step": 4, "text": "x"},
        "names": {"model": {"ünï": torch.ones(1), "a.b": torch.ones(2), "": torch.ones(3), "🎉": torch.ones(4)}},
        "odd-counts": {"model": samples.state_dict(), "epoch": 1.5, "step": "many", "global_step": True},
    }
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group: one process
        for name, content in contents.items():
            made[name] = root / f"{name}.ckpt"
            dcp.save(content, checkpoint_id=made[name])
    return made


def _written(root: Path, made: dict[str, bytes]) -> dict[str, Path]:
    paths = {name: root / f"{name}.ckpt" for name in made}
    for name, data in made.items():
        paths[name].write_bytes(data)
    return paths
