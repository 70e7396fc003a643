"""torch is the judge: every fact of every checkpoint is what ``torch.load(weights_only=False)`` says.

``judged`` derives the facts from the loaded objects, by rules written down here a second time and without the package.
"""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import json
import math
import operator
import pathlib
import pickle
import types
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import Container, OmegaConf
from torch.distributed.tensor import DTensor

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.model import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.model import Format
    from ckpt_indexer.sandbox.owner import Reader
    from tests.samples import Run

UNJUDGED = object()  # equal to everything: no rule is written down here
CORPUS_ZIPS = {
    "admet_ai/regression_model_0.pt",
    "chemprop/example_model_v1_regression_mol.pt",
    "chemprop/example_model_v2_reaction.ckpt",
    "chemprop/example_model_v2_regression_mol.ckpt",
    "chgnet/chgnet_0.3.0_e29f68s314m37.pth.tar",
    "deeplc/full_hc_PXD005573_pub.pt",
    "scvi_tools/condscvi_model.pt",
    "scvi_tools/mrvi_jax_model.pt",
}
CORPUS_OTHERS: dict[str, Format] = {
    "facenet_pytorch/pnet.pt": "torch-legacy",
    "lpips/alex.pth": "torch-legacy",
    "silero_vad/silero_vad.jit": "torchscript",
    "silero_vad/silero_vad_16k.safetensors": "safetensors",
    "torchmetrics/dists_weights.pt": "torch-legacy",
}


class Stub(torch.nn.Module):
    """Any class of a package that is not installed, and any object of it: it may stand inside a whole model."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        stub: Self = object.__new__(cls)
        torch.nn.Module.__init__(stub)
        return stub

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _PermissiveUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name.rpartition(".")[2], (Stub,), {"__module__": module})


PERMISSIVE = types.SimpleNamespace(Unpickler=_PermissiveUnpickler, load=pickle.load, __name__="permissive")


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on old files
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=PERMISSIVE, mmap=None)


def load_mapped(path: Path) -> Any:
    """Load without reading the tensors: for the archive that is larger than memory."""
    return torch.load(path, map_location="cpu", weights_only=False, mmap=True)


def judged(root: Any) -> dict[str, Any]:
    """Say what the facts of a loaded checkpoint are."""
    mapping = root if isinstance(root, dict) else {}
    states = root.state_dict() if isinstance(root, torch.nn.Module) else _find_state_dict(mapping)
    tensors = None if states is None else {k: v for k, v in states.items() if isinstance(v, torch.Tensor)}
    step = next((mapping[k] for k in ("global_step", "step", "global_steps") if k in mapping), None)
    hparams: Any = None
    for key in ("hyper_parameters", "hparams", "args", "config"):
        found = plain(mapping.get(key))
        if isinstance(found, dict) and not (hparams and key in ("args", "config") and "hyper_parameters" in mapping):
            hparams = {**found, **(hparams or {})}
    callbacks = mapping.get("callbacks") or {}
    return {
        "epoch": mapping.get("epoch") if type(mapping.get("epoch")) is int else None,
        "global_step": step if type(step) is int else None,
        "lightning_version": mapping.get("pytorch-lightning_version"),
        "tensors": None
        if tensors is None
        else [[str(name), _shape(t), str(t.dtype)[6:]] for name, t in tensors.items()],
        "parameters": None if tensors is None else count(tensors.values()),
        "has_optimizer": any(
            bool(mapping.get(k)) for k in ("optimizer_states", "optimizer_state_dict", "optimizer", "optimizers")
        ),
        "hyper_parameters": hparams,
        "datamodule_hyper_parameters": plain(mapping.get("datamodule_hyper_parameters")),
        "callbacks": [
            {"name": key.partition("{")[0], "state": plain(state)}
            for key, state in (callbacks.items() if isinstance(callbacks, dict) else ())
        ],
        "monitors": [
            {name: plain(state.get(name)) or None for name in ("monitor", "best_model_path", "last_model_path")}
            | {name: _number(state.get(name)) for name in ("current_score",)}
            | {"best_k_models": {path: _number(score) for path, score in state.get("best_k_models", {}).items()}}
            for state in callbacks.values()
            if isinstance(state, dict) and "best_model_path" in state
        ],
    }


def told(facts: Facts) -> dict[str, Any]:
    """Give the same facts as the package read them."""
    return {
        "epoch": facts.epoch,
        "global_step": facts.global_step,
        "lightning_version": facts.lightning_version,
        "tensors": None if facts.tensors is None else [[t.name, list(t.shape), t.dtype] for t in facts.tensors],
        "parameters": facts.parameters,
        "has_optimizer": facts.has_optimizer,
        "hyper_parameters": facts.hyper_parameters,
        "datamodule_hyper_parameters": facts.datamodule_hyper_parameters,
        "callbacks": [{"name": c.name, "state": c.state} for c in facts.callbacks],
        "monitors": [
            {
                name: getattr(m, name)
                for name in ("monitor", "best_model_path", "last_model_path", "current_score", "best_k_models")
            }
            for m in facts.monitors
        ],
    }


def _find_state_dict(mapping: dict[Any, Any]) -> dict[Any, Any] | None:
    for key in ("state_dict", "model_state_dict", "model", "module"):
        found = mapping.get(key)
        if isinstance(found, torch.nn.Module):
            whole: dict[Any, Any] = found.state_dict()
            return whole
        if isinstance(found, dict) and (key == "state_dict" or _has_tensor(found)):
            return found
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict) and _has_tensor(found["state_dict"]):
            inner: dict[Any, Any] = found["state_dict"]
            return inner
    return mapping if _has_tensor(mapping) else None


def _has_tensor(mapping: dict[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in mapping.values())


def count(tensors: Any) -> int:
    """Count the elements of all tensors, an element of memory that several share once."""
    total = 0
    strided: list[Any] = []
    for tensor in tensors:
        has_memory = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested)
        if not has_memory or isinstance(tensor, DTensor):
            total += math.prod(_shape(tensor))
        else:
            strided.append(tensor)
    for group in _sharing(strided):
        if len(group) == 1 and 0 not in group[0].stride():
            total += group[0].numel()
            continue
        taken: set[int] = set()
        for tensor in group:
            starts = torch.arange(tensor.storage_offset() + 1 + sum(
                (n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)
            )).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())  # fmt: skip
            first = tensor.untyped_storage().data_ptr()
            taken.update((first + starts.flatten() * tensor.element_size()).tolist())
        total += len(taken)
    return total


def _sharing(tensors: list[Any]) -> list[list[Any]]:
    """Group tensors by the memory they are in: that of one storage, or of storages that overlap."""
    groups: list[list[Any]] = []
    end = 0
    for tensor in sorted(tensors, key=lambda t: t.untyped_storage().data_ptr()):
        storage = tensor.untyped_storage()
        if groups and storage.data_ptr() < end:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
        end = max(end, storage.data_ptr() + storage.nbytes())
    return groups


def _shape(tensor: Any) -> list[int]:
    """Give a tensor's shape; a nested one, which is ragged, has its number of elements for that."""
    return [tensor.values().numel()] if tensor.is_nested else list(tensor.shape)


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor | np.generic):
        value = value.item()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def plain(value: Any) -> Any:
    """Write an object as a person would."""
    kind = type(value)
    if value is None or isinstance(value, bool) or kind in (int, float, str):
        if kind is int and value.bit_length() > 63:
            return hex(value)
        if kind is str and len(value) > 1000:
            return UNJUDGED
        return value.encode("utf-8", "replace").decode() if kind is str else value
    if isinstance(value, torch.Tensor):
        if value.is_quantized or value.layout is not torch.strided or value.is_nested:
            return UNJUDGED
        shown = f"tensor(shape={list(value.shape)}, dtype={str(value.dtype)[6:]})"
        small = value.ndim == 0 and value.untyped_storage().nbytes() <= 16
        return value.item() if small else shown
    rules: list[tuple[Any, Callable[[Any], Any]]] = [
        (Stub, lambda _: UNJUDGED),
        (Container, lambda v: plain(OmegaConf.to_container(v, resolve=False))),
        (argparse.Namespace, lambda v: plain(vars(v))),
        (enum.Enum, lambda v: plain(v.value)),
        (pathlib.PurePath, str),
        (dt.date | dt.time, lambda v: v.isoformat()),
        (dt.timedelta, str),
        (np.generic, lambda v: v.item()),
        (np.ndarray, _plain_array),
        (torch.dtype | torch.device, str),
        (torch.Size, list),
        (complex, str),
        (bytes, lambda v: v.decode("latin1")),
        (set | frozenset, lambda v: sorted(map(plain, v), key=str)),
        (dict, lambda v: {plain(k) if isinstance(k, str) else str(k): plain(item) for k, item in v.items()}),
        (list | tuple | collections.deque, lambda v: [plain(item) for item in v]),
    ]
    for types_, rule in rules:
        if isinstance(value, types_):
            return rule(value)
    return UNJUDGED


def _plain_array(value: Any) -> Any:
    if value.dtype.kind in "biuf" and value.ndim == 1 and value.size <= 64:
        return value.tolist()
    return UNJUDGED


def differences(told: Any, judged: Any, where: str = "") -> Iterator[str]:
    """Compare deeply; NaN equals NaN, and what is not judged equals everything."""
    if judged is UNJUDGED or told == judged or (told != told and judged != judged):  # noqa: PLR0124
        return
    if isinstance(told, dict) and isinstance(judged, dict) and told.keys() == judged.keys():
        for key in told:
            yield from differences(told[key], judged[key], f"{where}.{key}")
    elif isinstance(told, list) and isinstance(judged, list) and len(told) == len(judged):
        for i, pair in enumerate(zip(told, judged, strict=True)):
            yield from differences(*pair, f"{where}[{i}]")
    else:
        yield f"{where}: told {str(told)[:300]!r}, torch says {str(judged)[:300]!r}"


def compare(
    path: Path, reader: Reader, *, format_: Format = "torch-zip", loader: Callable[[Path], Any] = load
) -> Facts:
    with path.open("rb") as file:
        facts = reader.read_checkpoint(file.fileno())
    assert (facts.format, facts.problem) == (format_, None)
    assert list(differences(told(facts), judged(loader(path)))) == []
    return facts


def test_the_facts_of_every_lightning_checkpoint_are_what_torch_says(runs: dict[str, Run], reader: Reader) -> None:
    paths = [path for run in runs.values() for path in run.checkpoints]
    facts = [compare(path, reader) for path in paths]
    assert len(facts) > 30
    assert {fact.lightning_version for fact in facts} == {"2.6.6"}


LOADED_BY_TORCH = sorted(
    [
        "aligned",
        "bare-state-dict",
        "buffer",
        "data",
        "holes",
        "kinds-of-tensor",
        "list",
        "old-records",
        "path",
        "protocol-1",
        "protocol-2",
        "protocol-3",
        "protocol-4",
        "protocol-5",
        "root-with-spaces",
        "score-bfloat16",
        "score-float16",
        "score-float32",
        "score-float64",
        "score-inf",
        "score-int64",
        "score-numpy",
        "score-slice",
        "tensor-keys",
        "tutorial",
        "without-checksums",
        "wrong-types",
        "ünïcode",
        "big-endian",
        "many-records",
        "whole-module",
    ]
)


@pytest.mark.parametrize("name", LOADED_BY_TORCH)
def test_the_facts_of_a_saved_file_are_what_torch_says(name: str, zips: dict[str, Path], reader: Reader) -> None:
    compare(zips[name], reader)


def test_the_facts_of_a_zip64_file_are_what_torch_says(zips: dict[str, Path], reader: Reader) -> None:
    facts = compare(zips["zip64"], reader, loader=load_mapped)
    assert facts.parameters == (5 << 30) + 5


def test_a_file_that_torch_cannot_load_either_is_no_damaged_one(zips: dict[str, Path], reader: Reader) -> None:
    with pytest.raises(AssertionError, match="saved_id must be a tuple"):
        load(zips["protocol-0"])  # it writes its persistent ids as text there
    with zips["protocol-0"].open("rb") as file:
        problem = reader.read_checkpoint(file.fileno()).problem
    message = "it was saved with pickle_protocol=0, which torch cannot load either"
    assert problem == Problem("format-unsupported", message)


def test_every_saved_file_is_compared(zips: dict[str, Path]) -> None:
    assert sorted(zips) == sorted([*LOADED_BY_TORCH, "zip64", "protocol-0"])


@pytest.mark.parametrize("name", sorted(CORPUS_ZIPS))
def test_the_facts_of_a_published_file_are_what_torch_says(name: str, corpus: Path, reader: Reader) -> None:
    compare(corpus / name, reader)


def load_script(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are not gone
        return torch.jit.load(path, map_location="cpu")


def load_safetensors(path: Path) -> Any:
    """Load the tensors, in the order of the header, which the library does not keep."""
    loaded = safetensors.torch.load(path.read_bytes())
    header = path.read_bytes()[8:]
    names, _ = json.JSONDecoder().raw_decode(header.decode("utf-8", "replace"))
    return {name: loaded[name] for name in names if name != "__metadata__"}


LOADERS: dict[str, Callable[[Path], Any]] = {
    "torch-legacy": load,
    "torchscript": load_script,
    "safetensors": load_safetensors,
}


@pytest.mark.parametrize(("name", "format_"), sorted(CORPUS_OTHERS.items()))
def test_the_facts_of_a_published_file_of_another_format_are_what_torch_says(
    name: str, format_: Format, corpus: Path, reader: Reader
) -> None:
    facts = compare(corpus / name, reader, format_=format_, loader=LOADERS[format_])
    assert facts.tensors


def test_every_file_of_the_corpus_is_read(corpus: Path) -> None:
    found = {str(path.relative_to(corpus)) for path in corpus.rglob("*") if path.is_file()}
    assert found - {"SOURCES.tsv"} == CORPUS_ZIPS | CORPUS_OTHERS.keys()


def test_what_is_no_checkpoint_is_named(others: dict[str, tuple[Path, str, str]], reader: Reader) -> None:
    read = {}
    for name, (path, _, _) in others.items():
        with path.open("rb") as file:
            facts = reader.read_checkpoint(file.fileno())
        read[name] = (path, facts.format, facts.problem.code if facts.problem else None)
    assert read == others


def test_the_worker_gives_what_reading_in_this_process_gives(zips: dict[str, Path], reader: Reader) -> None:
    for name in ("protocol-2", "kinds-of-tensor", "zip64"):
        with zips[name].open("rb", buffering=0) as file:
            here = read_facts(file)
            there = reader.read_checkpoint(file.fileno())
        assert list(differences(told(there), told(here))) == []


def test_the_same_content_has_the_same_id_under_any_name_and_other_content_another(
    zips: dict[str, Path], reader: Reader
) -> None:
    ids = {}
    for name in ("path", "ünïcode", "buffer", "root-with-spaces", "without-checksums", "holes", "score-float32"):
        with zips[name].open("rb") as file:
            ids[name] = reader.read_checkpoint(file.fileno()).content_id
    assert ids["buffer"] is not None
    assert ids["path"] == ids["ünïcode"] == ids["buffer"] == ids["root-with-spaces"]
    assert ids["score-float32"] not in (ids["buffer"], None)
    # Without the checksums of all tensors there is nothing to tell one content from another.
    assert (ids["without-checksums"], ids["holes"]) == (None, None)


def test_the_order_of_a_set_is_the_same_in_every_process(zips: dict[str, Path], reader: Reader) -> None:
    for protocol in range(1, 6):
        with zips[f"protocol-{protocol}"].open("rb") as file:
            hparams = reader.read_checkpoint(file.fileno()).hyper_parameters
        assert hparams is not None
        assert operator.itemgetter("words", "frozen")(hparams) == (["a", "b", "c"], [1, 2, 3])
