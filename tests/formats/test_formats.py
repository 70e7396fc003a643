"""Every format beside torch's zip: the facts are what the format's own reader says, for each real file of it.

``FORMATS`` says which facts each format gives, and who judges them; the manual's table is held to it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import safetensors
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from ckpt_indexer.model import Format
from ckpt_indexer.passes.folders import check_folder
from ckpt_indexer.paths import RelPath
from tests.formats import made_files
from tests.formats.test_against_torch import compare, differences, judged, load, load_safetensors, load_script, told
from tests.process import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.sandbox.owner import Reader

REPOSITORY = Path(__file__).parents[2]


def differing(paths: dict[str, Path], reader: Reader, format_: Format, loader: Callable[[Path], Any]) -> dict[str, str]:
    """Compare each file; give what differs, by name."""
    found = {}
    for name, path in paths.items():
        try:
            compare(path, reader, format_=format_, loader=loader)
        except AssertionError as error:
            found[name] = str(error)[:500]
    return found


def read(path: Path, reader: Reader) -> Facts:
    with path.open("rb") as file:
        return reader.read_checkpoint(file.fileno())


# --- legacy -----------------------------------------------------------------------------------------------------------
def test_the_facts_of_a_legacy_file_are_what_torch_says(legacy: dict[str, Path], reader: Reader) -> None:
    assert len(legacy) >= 30
    assert differing(legacy, reader, "torch-legacy", load) == {}


def test_what_torch_saves_and_cannot_load_again_is_read_as_it_was_saved(tmp_path: Path, reader: Reader) -> None:
    for name, (data, content) in made_files.make_unloadable().items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(data)
        if "nested" not in name:  # whose sizes are whatever was in memory
            with pytest.raises(AttributeError, match="has no attribute 'dtype'"):
                (load_pickle if name.startswith("pickle") else load)(path)
        facts = read(path, reader)
        assert (facts.problem, list(differences(told(facts), judged(content)))) == (None, []), name


def test_the_elements_of_a_legacy_file_are_little_endian_whatever_wrote_it(
    legacy: dict[str, Path], reader: Reader
) -> None:
    assert read(legacy["big-endian"], reader).monitors[0].current_score == 0.625


def test_every_training_run_says_the_same_in_the_legacy_form(
    runs: dict[str, Any], tmp_path: Path, reader: Reader
) -> None:
    paths = {name: run.checkpoints[0] for name, run in runs.items()}
    again = {}
    for name, path in paths.items():
        again[name] = tmp_path / f"{name}.ckpt"
        again[name].write_bytes(made_files.legacy(load(path)))
    assert differing(again, reader, "torch-legacy", load) == {}
    scores = {name: [m.current_score for m in read(path, reader).monitors] for name, path in paths.items()}
    assert {name: [m.current_score for m in read(path, reader).monitors] for name, path in again.items()} == scores
    assert any(score is not None for found in scores.values() for score in found)


def test_the_rarer_kinds_of_tensor_in_a_zip_are_what_torch_says(tmp_path: Path, reader: Reader) -> None:
    path = tmp_path / "kinds.ckpt"
    torch.save({"state_dict": made_files.more_kinds_of_tensor()}, path)
    assert len(compare(path, reader).tensors or ()) == len(made_files.more_kinds_of_tensor())


def test_a_tensor_that_is_spread_over_processes_has_the_shape_of_the_whole(tmp_path: Path, reader: Reader) -> None:
    with one_of_two_processes() as mesh:
        spread = {
            "shard": distribute_tensor(torch.ones(6, 3), mesh, [Shard(0)]),
            "whole": distribute_tensor(torch.ones(5, dtype=torch.bfloat16), mesh, [Replicate()]),
        }
        spread["parameter"] = torch.nn.Parameter(distribute_tensor(torch.ones(6, 3), mesh, [Shard(1)]))
        path = tmp_path / "dtensor.ckpt"
        torch.save({"epoch": 1, "state_dict": spread}, path)
        facts = compare(path, reader)
    assert [t.shape for t in facts.tensors or ()] == [(6, 3), (5,), (6, 3)]


@contextlib.contextmanager
def one_of_two_processes() -> Iterator[Any]:
    """Be the first of two processes, as far as torch knows."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (2,))
    finally:
        dist.destroy_process_group()


# --- pickles ----------------------------------------------------------------------------------------------------------
def load_pickle(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def test_the_facts_of_a_plain_pickle_are_what_pickle_says(pickles: dict[str, Path], reader: Reader) -> None:
    assert len(pickles) >= 30
    assert differing(pickles, reader, "pickle", load_pickle) == {}
    assert read(pickles["score-2"], reader).monitors[0].current_score == 0.75


# --- TorchScript ------------------------------------------------------------------------------------------------------
def test_the_facts_of_a_torchscript_archive_are_what_torch_says(scripts: dict[str, Path], reader: Reader) -> None:
    assert differing(scripts, reader, "torchscript", load_script) == {}
    names = [tensor.name for tensor in read(scripts["scripted"], reader).tensors or ()]
    assert ("note" in names, "again.weight" in names) == (False, True)


# --- safetensors ------------------------------------------------------------------------------------------------------
def test_the_facts_of_a_safetensors_file_are_what_the_library_says(
    tensor_files: dict[str, Path], reader: Reader
) -> None:
    named = {name: path for name, path in tensor_files.items() if name != "nothing"}
    for name, path in named.items():
        facts = read(path, reader)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            listed = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - it is no dict
        expected = judged(load_safetensors(path)) | {"epoch": _count(metadata, "epoch")}
        expected["global_step"] = _count(metadata, "global_step" if "global_step" in metadata else "step")
        assert (facts.format, facts.problem) == ("safetensors", None)
        assert list(differences(told(facts), expected)) == [], name
        assert {t.name: list(t.shape) for t in facts.tensors or ()} == listed
        assert facts.file_metadata == metadata
    assert {t.dtype for t in read(named["kinds"], reader).tensors or ()} == {
        str(dtype)[6:] for dtype in safetensors.torch._TYPES.values()
    }
    facts = read(tensor_files["nothing"], reader)
    assert (facts.problem, facts.tensors, facts.parameters, facts.epoch) == (None, [], 0, 1)


def _count(metadata: dict[str, str], key: str) -> int | None:
    value = metadata.get(key, "")
    return int(value) if value.isdecimal() else None


# --- folders ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes, and Lightning, wrote."""
    root = tmp_path_factory.mktemp("sharded")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.formats.distributed", str(root)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=2 * TIMEOUT_S)
        assert process.returncode == 0, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too: nothing else is in this session
    return root


def load_dcp(path: Path, folder: Path) -> Any:
    """Load a folder through torch's own reader."""
    whole = folder / "whole.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(path, whole)
    return load(whole)


def compare_dcp(path: Path, reader: Reader, folder: Path, *, more: dict[str, Any] | None = None) -> Facts:
    """Hold a folder against torch's reader, which gives the tensors in another order."""
    facts = check_folder(str(path.parent), RelPath(path.name), reader)
    assert (facts.format, facts.problem) == ("sharded-dcp", None)
    whole = load_dcp(path, folder)
    whole = whole.get("app", whole)
    expected = judged(whole | (more or {})) | {
        "has_optimizer": any(key.startswith("optim") for key in whole if key not in _states(whole))
    }
    found = told(facts)
    for each in (expected, found):
        each["tensors"] = each["tensors"] and sorted(each["tensors"])
    assert list(differences(found, expected)) == [], path.name
    metadata = FileSystemReader(path).read_metadata()
    described = {
        name: (list(each.size), str(each.properties.dtype)[6:])
        for name, each in metadata.state_dict_metadata.items()
        if isinstance(each, TensorStorageMetadata)
    }
    for tensor in facts.tensors or ():
        assert (list(tensor.shape), tensor.dtype) in [d for n, d in described.items() if n.endswith(tensor.name)]
    assert facts.files.keys() == {info.relative_path for info in metadata.storage_data.values()}
    return facts


def _states(whole: dict[str, Any]) -> dict[str, Any]:
    return whole if any(isinstance(value, torch.Tensor) for value in whole.values()) else {}


def test_the_facts_of_a_folder_of_shards_are_what_torch_says(
    tmp_path: Path, dcp_folders: dict[str, Path], reader: Reader
) -> None:
    for path in dcp_folders.values():
        compare_dcp(path, reader, tmp_path)


def test_the_facts_of_what_two_processes_wrote_are_what_torch_says(
    sharded: Path, tmp_path: Path, reader: Reader
) -> None:
    found = {name: compare_dcp(sharded / f"{name}.ckpt", reader, tmp_path) for name in ("fsdp2", "app", "flat")}
    assert {len(facts.files) for facts in found.values()} == {2}
    assert {(facts.parameters, len(facts.tensors or ())) for facts in found.values()} == {(73, 8)}
    assert (found["fsdp2"].epoch, found["fsdp2"].global_step) == (3, 128)


def test_the_facts_of_lightnings_sharded_folder_are_what_torch_says(
    sharded: Path, tmp_path: Path, reader: Reader
) -> None:
    path = sharded / "lightning.ckpt"
    meta = load(path / "meta.pt")
    facts = compare_dcp(path, reader, tmp_path, more=meta)
    assert (facts.epoch, facts.global_step, facts.parameters, facts.lightning_version) == (1, 8, 19, "2.6.6")
    assert facts.monitors[0].current_score == pytest.approx(0.5)
    assert facts.warnings == []


def test_the_facts_of_a_deepspeed_folder_are_those_of_what_was_saved(
    deepspeed_folders: dict[str, made_files.Folder], reader: Reader
) -> None:
    for name, (path, whole) in deepspeed_folders.items():
        facts = check_folder(str(path.parent), RelPath(path.name), reader)
        assert (facts.format, facts.problem) == ("sharded-deepspeed", None), name
        assert list(differences(told(facts), judged(whole))) == [], name
        assert (facts.warnings, facts.metrics) == ([], {})


# --- the table --------------------------------------------------------------------------------------------------------
_ALL = "epoch, step, scores, hyper-parameters, tensors"
FORMATS: dict[Format, tuple[str, str, str]] = {  # what it is, what is read, what the tests hold it against
    "torch-zip": ("`torch.save` since 1.6, Lightning", _ALL, "`torch.load`"),
    "torch-legacy": ("`torch.save` before 1.6; the tar of 0.1", _ALL, "`torch.load`"),
    "torchscript": ("`torch.jit.save`", "tensors", "`torch.jit.load`"),
    "safetensors": ("safetensors", "tensors; epoch and step where `__metadata__` has them", "safetensors"),
    "pickle": ("`pickle.dump`, protocols 2 to 5", _ALL, "`pickle.load`"),
    "sharded-dcp": (
        "folders of `torch.distributed.checkpoint`; Lightning's FSDP and ModelParallel",
        f"{_ALL}; without `meta.pt` epoch, step and tensors",
        "torch's reader, two real processes, a real Lightning run",
    ),
    "sharded-deepspeed": (
        "folders of DeepSpeed, ZeRO 0 to 3",
        _ALL,
        "what was saved, laid out as DeepSpeed 0.19 does",
    ),
    "unknown": ("anything else", "what it is, where that can be told", "files of 17 kinds"),
}


def test_every_format_stands_in_the_table(others: dict[str, tuple[Path, str, str]]) -> None:
    assert list(FORMATS) == list(get_args(Format))
    assert FORMATS["unknown"][-1] == f"files of {len(others)} kinds"


def test_the_manual_says_of_every_format_what_the_tests_hold() -> None:
    from tests.manual.pages import table

    rows = table("formats", "| format | written by | what is read | compared in the tests with |")
    assert rows == [[f"`{name}`", *cells] for name, cells in FORMATS.items()]
