"""Checkpoints that are folders: parts missing, cut, swapped for links and pipes, or lying are told, never followed."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from ckpt_indexer.formats.frameworks.sharded import identify_folder
from ckpt_indexer.passes.folders import check_folder
from ckpt_indexer.paths import RelPath
from tests import samples
from tests.formats import made_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.sandbox.owner import Reader

Outcome = tuple[str, str] | None


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole folder of each kind: a plain one, Lightning's, DeepSpeed's."""
    import torch.distributed.checkpoint as dcp

    root = tmp_path_factory.mktemp("good")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group: one process
        plain = {"model": samples.state_dict(), "optimizer": {"lr": 0.1}, "epoch": 3, "global_step": 128}
        dcp.save(plain, checkpoint_id=root / "dcp")
        whole = samples.monitored(torch.tensor(0.5))
        shards = {"state_dict": whole.pop("state_dict"), "optimizer_0": whole.pop("optimizer_states")[0]}
        dcp.save(shards, checkpoint_id=root / "lightning")
    torch.save(whole, root / "lightning/meta.pt")
    content = made_files.deepspeed_content()
    made_files.write_deepspeed(root / "zero2", content, 2, 2)
    made_files.write_deepspeed(root / "zero3", content, 3, 2)
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    shutil.copytree(good, root)
    (tmp_path / "outside").mkdir()
    torch.save(samples.lightning_like(epoch=77), tmp_path / "outside/good.pt")
    return root


def outcome(facts: Facts) -> Outcome:
    return None if facts.problem is None else (facts.problem.status, facts.problem.code)


def check(root: Path, name: str, reader: Reader) -> Facts:
    return check_folder(str(root), RelPath(name), reader)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def cut(name: str, by: int = 1) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - by)


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        remove(name)(folder)
        make(folder / name)

    return change


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def both(*changes: Any) -> Callable[[Path], object]:
    return lambda folder: [change(folder) for change in changes]


SHARD, MODEL, OPTIMIZER = "__0_0.distcp", "mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"
MODEL_0, MODEL_1 = (f"zero_pp_rank_{rank}_{MODEL}" for rank in range(2))
TRUNCATED, EMPTY, ZEROS = (("incomplete", code) for code in ("truncated", "empty", "zero-filled"))
MISSING, SHORT, DAMAGED, CONTAINER = (
    ("corrupt", code) for code in ("record-missing", "record-short", "pickle-damaged", "container-damaged")
)
FOREIGN = ("unsupported", "not-a-checkpoint")
NO_FILE, IO_ERROR = (("unreadable", code) for code in ("not-a-file", "io-error"))
OUT = "../../outside"
CASES: dict[str, tuple[str, Any, Outcome]] = {
    "dcp": ("dcp", lambda _: None, None),
    "lightning": ("lightning", lambda _: None, None),
    "zero2": ("zero2", lambda _: None, None),
    "zero3": ("zero3", lambda _: None, None),
    "shard-missing": ("dcp", remove(SHARD), MISSING),
    "shard-cut": ("dcp", cut(SHARD), SHORT),
    "shard-empty": ("dcp", write(SHARD, b""), SHORT),
    "shard-renamed": ("dcp", lambda f: (f / SHARD).rename(f / "__1_0.distcp"), MISSING),
    "shard-is-a-link-out": ("dcp", replace(SHARD, link(f"{OUT}/good.pt")), NO_FILE),
    "shard-is-a-link-inside": ("dcp", lambda f: ((f / SHARD).rename(f / "x"), (f / SHARD).symlink_to("x")), NO_FILE),
    "shard-is-a-fifo": ("dcp", replace(SHARD, os.mkfifo), NO_FILE),
    "shard-is-a-folder": ("dcp", replace(SHARD, os.mkdir), NO_FILE),
    "metadata-missing": ("dcp", remove(".metadata"), TRUNCATED),
    "metadata-being-written": ("dcp", lambda f: (f / ".metadata").rename(f / ".metadata.tmp"), TRUNCATED),
    "metadata-cut": ("dcp", cut(".metadata"), TRUNCATED),
    "metadata-empty": ("dcp", write(".metadata", b""), EMPTY),
    "metadata-zeros": ("dcp", write(".metadata", bytes(1000)), ZEROS),
    "metadata-junk": ("dcp", write(".metadata", b"\x80\x04" + b"\xff" * 99), DAMAGED),
    "metadata-text": ("dcp", write(".metadata", b"hello, this is text"), FOREIGN),
    "metadata-other-pickle": ("dcp", write(".metadata", pickle.dumps({"epoch": 3})), CONTAINER),
    "metadata-is-a-link-out": ("dcp", replace(".metadata", link(f"{OUT}/good.pt")), NO_FILE),
    "metadata-is-a-fifo": ("dcp", replace(".metadata", os.mkfifo), NO_FILE),
    "metadata-is-a-folder": ("dcp", replace(".metadata", os.mkdir), NO_FILE),
    "lightning-metadata-cut": ("lightning", cut(".metadata"), TRUNCATED),
    "meta-missing": ("lightning", remove("meta.pt"), TRUNCATED),
    "meta-cut": ("lightning", cut("meta.pt"), TRUNCATED),
    "meta-empty": ("lightning", write("meta.pt", b""), EMPTY),
    "meta-text": ("lightning", write("meta.pt", b"hello, this is text"), FOREIGN),
    "meta-is-a-link-out": ("lightning", replace("meta.pt", link(f"{OUT}/good.pt")), NO_FILE),
    "meta-is-a-fifo": ("lightning", replace("meta.pt", os.mkfifo), NO_FILE),
    "meta-alone": ("lightning", both(remove(".metadata"), remove(SHARD)), TRUNCATED),
    "lightning-shard-missing": ("lightning", remove(SHARD), MISSING),
    "lightning-metadata-missing": ("lightning", remove(".metadata"), TRUNCATED),
    "latest-missing": ("zero2", remove("latest"), TRUNCATED),
    "latest-above": ("zero2", write("latest", b"../outside"), MISSING),
    "latest-absolute": ("zero2", write("latest", b"/etc"), MISSING),
    "latest-dots": ("zero2", write("latest", b".."), MISSING),
    "latest-empty": ("zero2", write("latest", b""), MISSING),
    "latest-nowhere": ("zero2", write("latest", b"global_step1"), MISSING),
    "latest-binary": ("zero2", write("latest", b"\xff\x00\x1b" * 1000), MISSING),
    "latest-itself": ("zero2", write("latest", b"latest"), MISSING),
    "latest-is-a-link": ("zero2", replace("latest", link(f"{OUT}/good.pt")), NO_FILE),
    "latest-is-a-fifo": ("zero2", replace("latest", os.mkfifo), NO_FILE),
    "tag-missing": ("zero2", remove("checkpoint"), MISSING),
    "tag-is-a-link-out": ("zero2", replace("checkpoint", link(OUT)), MISSING),
    "tag-is-empty": ("zero2", replace("checkpoint", os.mkdir), TRUNCATED),
    "model-missing": ("zero2", remove(f"checkpoint/{MODEL}"), TRUNCATED),
    "model-cut": ("zero2", cut(f"checkpoint/{MODEL}"), TRUNCATED),
    "model-empty": ("zero2", write(f"checkpoint/{MODEL}", b""), EMPTY),
    "model-is-a-link-out": ("zero2", replace(f"checkpoint/{MODEL}", link(f"../{OUT}/good.pt")), NO_FILE),
    "model-is-a-fifo": ("zero2", replace(f"checkpoint/{MODEL}", os.mkfifo), NO_FILE),
    "rank-missing": ("zero2", remove(f"checkpoint/{OPTIMIZER}"), TRUNCATED),
    "rank-cut": ("zero2", cut(f"checkpoint/{OPTIMIZER}"), TRUNCATED),
    "rank-empty": ("zero2", write(f"checkpoint/{OPTIMIZER}", b""), EMPTY),
    "rank-is-a-fifo": ("zero2", replace(f"checkpoint/{OPTIMIZER}", os.mkfifo), NO_FILE),
    "zero3-first-model-missing": ("zero3", remove(f"checkpoint/{MODEL_0}"), TRUNCATED),
    "zero3-second-model-missing": ("zero3", remove(f"checkpoint/{MODEL_1}"), TRUNCATED),
    "zero3-second-model-cut": ("zero3", cut(f"checkpoint/{MODEL_1}", 50), TRUNCATED),
    "rank-of-any-number": ("zero2", write(f"checkpoint/{OPTIMIZER.replace('1', str(10**30), 1)}", b""), TRUNCATED),
    "only-the-tag-so-far": (
        "zero2",
        both(remove("latest"), remove("zero_to_fp32.py"), replace("checkpoint", os.mkdir)),
        TRUNCATED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_folder_with_something_wrong_is_told_and_the_next_is_read(name: str, root: Path, reader: Reader) -> None:
    folder, change, expected = CASES[name]
    change(root / folder)
    facts = check(root, folder, reader)
    assert outcome(facts) == expected, facts.problem
    assert facts.format == ("sharded-deepspeed" if folder.startswith("zero") else "sharded-dcp")
    assert facts.epoch in (None, 3)  # never that of the file outside
    for other in ("dcp", "lightning", "zero2", "zero3"):
        if other != folder:
            assert outcome(check(root, other, reader)) is None


def test_what_can_be_read_of_a_damaged_folder_is_told(root: Path, reader: Reader) -> None:
    (root / "dcp" / SHARD).rename(root / "dcp/elsewhere")
    facts = check(root, "dcp", reader)
    assert (outcome(facts), facts.parameters, facts.epoch) == (MISSING, 15, None)
    (root / "lightning/meta.pt").unlink()
    facts = check(root, "lightning", reader)
    assert (outcome(facts), facts.parameters, facts.has_optimizer) == (TRUNCATED, 15, True)
    cut(f"checkpoint/{OPTIMIZER}")(root / "zero2")
    facts = check(root, "zero2", reader)
    assert (outcome(facts), facts.epoch, facts.global_step) == (TRUNCATED, 3, 128)
    assert facts.problem is not None
    assert facts.problem.message.startswith(f"{OPTIMIZER}: ")


def test_what_lightning_wrote_last_wins_over_what_lies_among_the_shards(root: Path, reader: Reader) -> None:
    torch.save({"epoch": 9}, root / "dcp/meta.pt")
    facts = check(root, "dcp", reader)
    assert (facts.problem, facts.epoch, facts.global_step, facts.parameters) == (None, 9, 128, 15)


def test_nothing_is_opened_but_by_its_own_name_and_no_link_is_followed(
    root: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[object, int]] = []
    real = os.open

    def recording(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        opened.append((path, flags))
        return real(path, flags, *arguments, **options)

    (root / "dcp/more").symlink_to(f"{OUT}/good.pt")
    os.mkfifo(root / "zero2/checkpoint/pipe_states.txt")
    monkeypatch.setattr(os, "open", recording)
    for name in ("dcp", "lightning", "zero2", "zero3"):
        assert outcome(check(root, name, reader)) is None
    names = [(path, flags) for path, flags in opened if path not in (".", str(root))]
    assert len(names) > 10
    assert [path for path, flags in names if not flags & os.O_NOFOLLOW or "/" in str(path)] == []
    assert {"more", "pipe_states.txt"} & {path for path, _ in names} == set()


def test_a_folder_of_nothing_known_is_named(tmp_path: Path, reader: Reader) -> None:
    for name, files in (("empty", ()), ("other", ("a.txt", "b.ckpt"))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    assert {n: outcome(check(tmp_path, n, reader)) for n in ("empty", "other")} == {"empty": EMPTY, "other": FOREIGN}
    assert outcome(check(tmp_path, "gone", reader)) == IO_ERROR


def test_a_folder_is_known_by_its_names() -> None:
    found = {names: identify_folder(names) for names in [
        (".metadata",), ("meta.pt",), ("__0_0.distcp",), ("latest",), ("zero_to_fp32.py",), ("checkpoint",),
        ("mp_rank_00_model_states.pt",), ("x.pt", "y"), (),
    ]}  # fmt: skip
    assert [*found.values()] == [*["sharded-dcp"] * 3, *["sharded-deepspeed"] * 4, *["unknown"] * 2]


# --- metadata that lies -----------------------------------------------------------------------------------------------
class Info:
    """What is stored where; pickled as torch's own ``_StorageInfo``."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __reduce__(self) -> Any:
        from torch.distributed.checkpoint.filesystem import _StorageInfo

        return object.__new__, (_StorageInfo,), self.fields


class Index(Info):
    """Which tensor, or which value, is stored; a key of any type is none here."""

    def __reduce__(self) -> Any:
        return object.__new__, (MetadataIndex,), self.fields


def bare(kind: type, **fields: Any) -> Any:
    """Make an object of a class without its constructor's ideas of types."""
    made: Any = object.__new__(kind)
    made.__dict__.update(fields)
    return made


class Properties:
    """The properties of a tensor, pickled with a state of any type."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return object.__new__, (TensorProperties,), self.state


def metadata(
    *, tensor: dict[str, Any] | None = None, info: dict[str, Any] | None = None, fqn: Any = "w", **fields: Any
) -> bytes:
    properties = TensorProperties.create_from_tensor(torch.ones(2, 3)).__getstate__()
    described = {
        "properties": Properties(properties),
        "size": torch.Size((2, 3)),
        "chunks": [ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((2, 3)))],
    }
    stored = {"relative_path": SHARD, "offset": 0, "length": 100, "transform_descriptors": None}
    whole = {
        "state_dict_metadata": {"w": bare(TensorStorageMetadata, **described | (tensor or {}))},
        "planner_data": {"w": ("w",)},
        "storage_data": {Index(fqn=fqn, offset=None, index=None): Info(**stored | (info or {}))},
        "storage_meta": None,
        "version": "1.0.0",
    }
    return pickle.dumps(bare(Metadata, **whole | fields))


WRONG: dict[str, Any] = {
    "none": None, "text": "x", "number": 3, "negative": -1, "huge": 1 << 70, "float": 1.5, "nan": float("nan"),
    "true": True, "list": [1], "tuple": (), "dict": {1: 2}, "bytes": b"\xff", "set": {1}, "class": torch.Tensor,
    "object": BytesStorageMetadata(),
}  # fmt: skip
PLACES: dict[str, Callable[[Any], bytes]] = {
    "state_dict_metadata": lambda wrong: metadata(state_dict_metadata=wrong),
    "planner_data": lambda wrong: metadata(planner_data=wrong),
    "storage_data": lambda wrong: metadata(storage_data=wrong),
    "storage_meta": lambda wrong: metadata(storage_meta=wrong),
    "version": lambda wrong: metadata(version=wrong),
    "tensor.properties": lambda wrong: metadata(tensor={"properties": wrong}),
    "tensor.properties.state": lambda wrong: metadata(tensor={"properties": Properties(wrong)}),
    "tensor.properties.dtype": lambda wrong: metadata(tensor={"properties": Properties((wrong, 1, 2, 3, 4))}),
    "tensor.size": lambda wrong: metadata(tensor={"size": wrong}),
    "tensor.size.dimension": lambda wrong: metadata(tensor={"size": (2, wrong)}),
    "tensor.chunks": lambda wrong: metadata(tensor={"chunks": wrong}),
    "info.relative_path": lambda wrong: metadata(info={"relative_path": wrong}),
    "info.offset": lambda wrong: metadata(info={"offset": wrong}),
    "info.length": lambda wrong: metadata(info={"length": wrong}),
    "fqn": lambda wrong: metadata(fqn=wrong),
    "entry": lambda wrong: metadata(state_dict_metadata={"w": wrong}),
    "entries": lambda wrong: metadata(state_dict_metadata={"v": wrong, "optim.x": wrong, "epoch": wrong}),
    "stored": lambda wrong: metadata(storage_data={"w": wrong}),
    "path": lambda wrong: metadata(planner_data={"w": wrong}),
}
FILE_FIELDS = ("storage_data", "info.relative_path", "info.offset", "info.length", "stored")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / SHARD).write_bytes(bytes(100))
    return tmp_path


def read_metadata(shards: Path, data: bytes, reader: Reader) -> Facts:
    (shards / "x/.metadata").write_bytes(data)
    return check(shards, "x", reader)


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_thing_in_the_metadata_is_told_and_the_rest_is_read(place: str, shards: Path, reader: Reader) -> None:
    right = read_metadata(shards, metadata(), reader)
    assert (right.problem, right.parameters, right.files) == (None, 6, {SHARD: 100})
    for name, wrong in WRONG.items():
        facts = read_metadata(shards, PLACES[place](wrong), reader)
        assert outcome(facts) in (None, DAMAGED, MISSING, SHORT), name
        assert facts.problem is None or facts.problem.code in ("pickle-damaged", "record-missing", "record-short"), name
        if place in FILE_FIELDS:
            assert facts.tensors == right.tensors, name
        elif place in ("planner_data", "storage_meta", "version", "tensor.chunks", "path", "fqn"):
            assert (facts.problem, facts.parameters) == (None, 6), name
        elif place.startswith("tensor."):
            assert facts.files == right.files, name
            assert facts.tensors in (None, right.tensors) or name in ("list", "tuple", "class", "number"), (
                name
            )  # valid as well
    # Of the file's own, a wrong type is damage: the list of files is what completeness is judged by.
    if place == "info.relative_path":
        assert outcome(read_metadata(shards, PLACES[place](3), reader)) == DAMAGED


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "../../etc/passwd", "a/../../x", ".", "..", "", "a//b", "./a", "a/", "/", "a\x00b", "a\nb"],
)
def test_a_shard_by_a_name_that_leads_elsewhere_is_never_looked_for(name: str, shards: Path, reader: Reader) -> None:
    facts = read_metadata(shards, metadata(info={"relative_path": name}), reader)
    assert (outcome(facts), facts.files) == (DAMAGED, {})


def test_a_shard_below_a_folder_that_is_a_link_is_not_reached(shards: Path, reader: Reader) -> None:
    (shards / "outside").mkdir()
    (shards / "outside/shard").write_bytes(bytes(100))
    (shards / "x/way").symlink_to("../outside")
    facts = read_metadata(shards, metadata(info={"relative_path": "way/shard"}), reader)
    assert (outcome(facts), facts.parameters) == (IO_ERROR, 6)
    (shards / "x/real").mkdir()
    (shards / "x/real/shard").write_bytes(bytes(100))
    assert outcome(read_metadata(shards, metadata(info={"relative_path": "real/shard"}), reader)) is None


def test_a_count_that_lies_about_where_it_is_costs_the_count_only(shards: Path, reader: Reader) -> None:
    for offset, length in ((0, 100), (0, 0), (90, 10), (0, 64 << 10), (1 << 61, 1 << 61)):
        info = {"offset": offset, "length": length}
        facts = read_metadata(shards, metadata(fqn="epoch", info=info), reader)
        assert (facts.epoch, facts.parameters) == (None, 6)
        assert outcome(facts) in (None, SHORT, DAMAGED)
    for value, expected in ((5, 5), (-5, None), (1 << 70, None), (True, None), ("5", None), (2.0, None), ([5], None)):
        data = samples.saved(value)
        (shards / "x" / SHARD).write_bytes(bytes(10) + data)
        facts = read_metadata(shards, metadata(fqn="epoch", info={"offset": 10, "length": len(data)}), reader)
        assert (facts.problem, facts.epoch) == (None, expected)


def test_more_files_than_any_checkpoint_has_are_too_many(shards: Path, reader: Reader) -> None:
    stored = {i: Info(relative_path=f"{i}.distcp", offset=0, length=1) for i in range(100_001)}
    facts = read_metadata(shards, metadata(storage_data=stored), reader)
    assert outcome(facts) in (("unreadable", "limit-exceeded"), ("unreadable", "time-limit"))
