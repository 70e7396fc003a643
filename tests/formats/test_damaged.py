"""Every format beside torch's zip, cut, lengthened, and with wrong things in every place: told, and never guessed.

All of it goes through the reader's worker process and its limits. For safetensors the library is the judge of what is
damaged.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_indexer.formats.containers.identify import LEGACY_MAGIC, LEGACY_MAGIC_TEXT
from tests import samples
from tests.formats import made_files
from tests.formats.containers.test_torch_zip import boundaries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.sandbox.owner import Reader

RANDOM_CUTS = 20
SEED = random.SystemRandom().randrange(1 << 32)  # another one in each run; a failure names it


class Box:
    """Reads bytes through the worker."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self._reader, self._path = reader, path

    def read(self, data: bytes) -> Facts:
        self._path.write_bytes(data)
        with self._path.open("rb") as file:
            return self._reader.read_checkpoint(file.fileno())

    def outcome(self, data: bytes) -> tuple[str, str] | None:
        problem = self.read(data).problem
        return None if problem is None else (problem.status, problem.code)


@pytest.fixture(scope="module")
def box(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box(reader, tmp_path_factory.mktemp("damaged") / "x.ckpt")


class Whole(NamedTuple):
    """An undamaged file, and where its parts end."""

    data: bytes
    ends: set[int]


def pickle_ends(data: bytes, count: int) -> list[int]:
    """Find the ends of pickles that lie one behind the other."""
    ends, stream = [], io.BytesIO(data)
    for _ in range(count):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    return ends


def whole_legacy(**options: Any) -> Whole:
    data = made_files.legacy(samples.monitored(torch.tensor(0.5)), **options)
    ends = pickle_ends(data, 5)
    object_ops = {position for _, _, position in pickletools.genops(data[ends[2] :]) if position is not None}
    found = {*ends, *(ends[2] + position for position in object_ops)}
    position = ends[-1]
    while position < len(data):
        (numel,) = struct.unpack_from("<q", data, position)
        found |= {position + 8, position := position + 8 + 4 * numel}
    assert position == len(data)
    return Whole(data, found)


def whole_tar() -> Whole:
    data = made_files.tar_file(samples.monitored(torch.tensor(0.5)))
    end = len(data.rstrip(b"\x00"))
    # Two blocks of zeros end a tar; what Python writes behind them says nothing.
    data = data[: -(-end // 512) * 512 + 1024]
    return Whole(data, set(range(0, len(data), 512)))


def whole_pickle(protocol: int) -> Whole:
    data = pickle.dumps(samples.lightning_like(), protocol)
    return Whole(data, {position for _, _, position in pickletools.genops(data) if position is not None})


def whole_safetensors() -> Whole:
    data = safetensors.torch.save(samples.state_dict(), {"epoch": "3"})
    begin = 8 + struct.unpack_from("<Q", data)[0]
    return Whole(data, {8, begin, begin + 12, begin + 24})


def whole_script() -> Whole:
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    data = buffer.getvalue()
    return Whole(data, {cut for cut in boundaries(data) if cut})


WHOLE: dict[str, Callable[[], Whole]] = {
    "legacy": whole_legacy,
    "legacy-protocol-1": lambda: whole_legacy(pickle_protocol=1),
    "legacy-protocol-4": lambda: whole_legacy(pickle_protocol=4),
    "tar": whole_tar,
    "pickle-2": lambda: whole_pickle(2),
    "pickle-5": lambda: whole_pickle(5),
    "safetensors": whole_safetensors,
    "torchscript": whole_script,
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_at_any_boundary_or_anywhere_is_incomplete(name: str, box: Box) -> None:
    data, ends = WHOLE[name]()
    assert box.outcome(data) is None
    near = {cut for end in ends for cut in (end - 1, end, end + 1) if 0 < cut < len(data)}
    anywhere = random.Random(SEED).sample(range(1, len(data)), RANDOM_CUTS)
    shortest = 4 if name == "safetensors" else 1  # shorter, what looks like a text is taken for one
    cuts = sorted(cut for cut in {*near, *anywhere, *range(1, 20), len(data) - 1} if cut >= shortest)
    wrong = {cut: outcome for cut in cuts if (outcome := box.outcome(data[:cut])) != ("incomplete", "truncated")}
    assert wrong == {}, f"seed {SEED}"


@pytest.mark.parametrize("name", WHOLE)
def test_what_follows_the_end_is_not_overlooked(name: str, box: Box) -> None:
    data = WHOLE[name]().data
    if name == "safetensors":  # whose library refuses it
        assert {box.outcome(data + more) for more in (b"x", bytes(512), data)} == {("corrupt", "container-damaged")}
        return
    # torch loads all of these: what follows is told, and no damage.
    followed = {"tar": None, "torchscript": "the archive"}.get(name, "the last tensor")
    followed = "the pickle" if name.startswith("pickle") else followed
    for more in (b"x", bytes(512)):
        facts = box.read(data + more)
        assert facts.problem is None
        assert followed is None or facts.warnings[-1] == f"{len(more)} bytes follow {followed}"
    twice = ("unsupported", "not-a-checkpoint") if name == "torchscript" else None
    assert box.outcome(data + data) == twice


# --- wrong things in known keys ---------------------------------------------------------------------------------------
WRONG: list[Any] = [
    "three",
    None,
    [1],
    {"a": [None]},
    {1: 2},
    -1,
    1 << 70,
    1.5,
    float("nan"),
    True,
    b"\xff",
    (),
    {3, 4},
]
KEYS = (
    *("epoch", "global_step", "pytorch-lightning_version", "state_dict", "callbacks", "hyper_parameters", "loops"),
    *("optimizer_states", "datamodule_hyper_parameters", "param_shapes", "frozen_param_shapes", "shared_params"),
    *("dp_world_size", "ckpt_indexer"),
)
TELLING = {
    "epoch": ("epoch",),
    "global_step": ("global_step",),
    "pytorch-lightning_version": ("lightning_version",),
    "state_dict": ("tensors", "parameters"),
    "callbacks": ("callbacks", "monitors"),
    "hyper_parameters": ("hyper_parameters",),
    "optimizer_states": ("has_optimizer",),
    "datamodule_hyper_parameters": ("datamodule_hyper_parameters",),
}
FORMS: dict[str, Callable[[Any], bytes]] = {
    "legacy": made_files.legacy,
    "pickle": pickle.dumps,
    "tar": made_files.tar_file,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_thing_in_one_key_costs_that_key_only(form: str, key: str, box: Box) -> None:
    fields = ("epoch", "global_step", "lightning_version", "tensors", "parameters", "has_optimizer", "hyper_parameters")
    right = box.read(FORMS[form](samples.monitored(torch.tensor(0.5))))
    assert right.problem is None
    for wrong in WRONG:
        facts = box.read(FORMS[form](samples.monitored(torch.tensor(0.5)) | {key: wrong}))
        assert facts.problem is None, wrong
        others = [name for name in (*fields, "monitors", "metrics") if name not in TELLING.get(key, ())]
        if isinstance(wrong, dict):
            others.remove("metrics")  # a dict of numbers under a key that is nobody's
        assert [getattr(facts, n) for n in others] == [getattr(right, n) for n in others], wrong
        if key in ("epoch", "global_step"):
            is_count = wrong == -1 and type(wrong) is int  # as a loop says that has not begun
            assert getattr(facts, key) == (wrong if is_count else None)
            assert bool(facts.warnings) is (wrong is not None and not is_count)
        if key == "callbacks" and not isinstance(wrong, dict | None):
            assert facts.warnings[0].startswith("callbacks is "), wrong


@pytest.mark.parametrize(
    "root", [None, 3, "text", [1], (), 1.5, b"bytes", {1, 2}, object(), {}], ids=lambda root: type(root).__name__
)
@pytest.mark.parametrize("form", FORMS)
def test_a_root_of_any_type_is_no_problem(form: str, root: Any, box: Box) -> None:
    facts = box.read(FORMS[form](root))
    assert (facts.problem, facts.tensors) == (None, None)
    assert facts.warnings[-1] == "there is no state dict"


def test_a_tensor_inside_a_pickle_that_is_cut_short_is_told(box: Box) -> None:
    inner = made_files.legacy(torch.ones(1000).untyped_storage())
    for data, expected in ((inner, 1), (inner[:-1], 0), (inner[:100], 0), (b"", 0), (b"\x80\x02N." * 9, 0)):
        storage = made_files.Stored(data)
        tensor = made_files.Rebuilt((storage, 0, (1000,), (1,)))
        facts = box.read(pickle.dumps({"epoch": 3, "state_dict": {"w": tensor, "v": 3}}))
        assert (facts.problem, facts.epoch, len(facts.tensors or ())) == (None, 3, expected)
        assert [warning[:30] for warning in facts.warnings] == ["1 of its tensors cannot be rea"] * (1 - expected)


# --- legacy files that lie about themselves ---------------------------------------------------------------------------
class Lie(NamedTuple):
    """Parts of a legacy file, each as an object to pickle; the persistent id is that of the one tensor's storage."""

    magic: Any = torch.serialization.MAGIC_NUMBER
    protocol: Any = 1001
    system: Any = {"little_endian": True}  # noqa: RUF012 - never changed
    persistent_id: Any = ("storage", torch.FloatStorage, "1", "cpu", 6, None)
    keys: Any = ["1"]  # noqa: RUF012
    data: bytes = struct.pack("<q6f", 6, *range(6))

    def written(self) -> bytes:
        lie = self

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                return lie.persistent_id if isinstance(value, made_files.View) else None

        buffer = io.BytesIO()
        for part in (self.magic, self.protocol, self.system):
            pickle.dump(part, buffer, 2)
        tensor = made_files.Rebuilt((made_files.View("", 0, 0), 0, (2, 3), (3, 1)))
        Pickler(buffer, 2).dump({"epoch": 3, "state_dict": {"w": tensor}})
        pickle.dump(self.keys, buffer, 2)
        return buffer.getvalue() + self.data


def _storage(*changes: tuple[int, Any]) -> tuple[Any, ...]:
    parts = list(Lie().persistent_id)
    for position, value in changes:
        parts[position] = value
    return tuple(parts)


LIES: dict[str, tuple[Lie, str | None]] = {
    "none": (Lie(), None),
    "system-none": (Lie(system=None), None),
    "system-list": (Lie(system=[1]), None),
    "protocol-other": (Lie(protocol=1002), "format-unsupported"),
    "protocol-text": (Lie(protocol="1001"), "format-unsupported"),
    "protocol-huge": (Lie(protocol=10**5000), "format-unsupported"),
    "protocol-true": (Lie(protocol=True), "format-unsupported"),
    "magic-other": (Lie(magic=5), "container-damaged"),
    "magic-other-and-nothing-else": (Lie(magic=5, protocol="x"), None),  # a number, and something behind it
    "numel-2-to-60": (Lie(persistent_id=_storage((4, 1 << 60))), "truncated"),
    "numel-2-to-70": (Lie(persistent_id=_storage((4, 1 << 70))), "pickle-damaged"),
    "numel-negative": (Lie(persistent_id=_storage((4, -6))), "pickle-damaged"),
    "numel-text": (Lie(persistent_id=_storage((4, "6"))), "pickle-damaged"),
    "numel-less": (Lie(persistent_id=_storage((4, 5))), "container-damaged"),
    "numel-more": (Lie(persistent_id=_storage((4, 7))), "truncated"),
    "type-text": (Lie(persistent_id=_storage((1, "FloatStorage"))), "pickle-damaged"),
    "type-no-storage": (Lie(persistent_id=_storage((1, torch.Tensor))), "pickle-damaged"),
    "type-other": (Lie(persistent_id=_storage((1, torch.DoubleStorage))), "truncated"),
    "key-number": (Lie(persistent_id=_storage((2, 1))), "pickle-damaged"),
    "key-path": (Lie(persistent_id=_storage((2, "../../etc/passwd"))), "pickle-damaged"),
    "kind-unknown": (Lie(persistent_id=_storage((0, "stowage"))), "pickle-damaged"),
    "id-none": (Lie(persistent_id=()), "pickle-damaged"),
    "id-module": (Lie(persistent_id=("module", torch.nn.Linear, "file", "source")), "pickle-damaged"),
    "id-module-short": (Lie(persistent_id=("module",), keys=[], data=b""), None),
    "view": (Lie(persistent_id=_storage((5, ("2", 1, 5)))), None),
    "view-negative": (Lie(persistent_id=_storage((5, ("2", -1, 5)))), "pickle-damaged"),
    "view-text": (Lie(persistent_id=_storage((5, ("2", "1", 5)))), "pickle-damaged"),
    "view-wrong": (Lie(persistent_id=_storage((5, "view"))), None),
    "keys-none": (Lie(keys=None), "pickle-damaged"),
    "keys-dict": (Lie(keys={"1": 1}), "pickle-damaged"),
    "keys-empty": (Lie(keys=[], data=b""), "record-missing"),
    "keys-other": (Lie(keys=["2"]), "pickle-damaged"),
    "keys-twice": (Lie(keys=["1", "1"], data=Lie().data * 2), "pickle-damaged"),
    "keys-numbers": (Lie(keys=[1]), "pickle-damaged"),
    "keys-lists": (Lie(keys=[["1"]]), "pickle-damaged"),
    "data-missing": (Lie(data=b""), "truncated"),
    "data-more": (Lie(data=Lie().data + b"x"), None),
    "length-less": (Lie(data=struct.pack("<q6f", 5, *range(6))), "container-damaged"),
    "length-more": (Lie(data=struct.pack("<q6f", 7, *range(6))), "container-damaged"),
    "length-negative": (Lie(data=struct.pack("<q6f", -6, *range(6))), "container-damaged"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_legacy_file_that_lies_is_told(name: str, box: Box) -> None:
    lie, code = LIES[name]
    outcome = box.outcome(lie.written())
    assert (None if outcome is None else outcome[1]) == code


# --- tars that lie ----------------------------------------------------------------------------------------------------
def tar_with(**changed: bytes | None) -> bytes:
    """Write a tar of torch 0.1 with one tensor, and some members changed or left out."""
    storages = pickle.dumps(1, 2) + pickle.dumps((7, "cpu", torch.FloatStorage), 2) + struct.pack("<q2f", 2, 1, 2)
    tensors = pickle.dumps(1, 2) + pickle.dumps((9, 7, torch.FloatTensor), 2) + struct.pack("<i4x3q", 1, 2, 1, 0)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return "9" if isinstance(value, made_files.View) else None

    main = io.BytesIO()
    Pickler(main, 2).dump({"epoch": 3, "state_dict": {"w": made_files.View("", 0, 0)}})
    members: dict[str, bytes | None] = {
        "sys_info": pickle.dumps({}, 2),
        "pickle": main.getvalue(),
        "tensors": tensors,
        "storages": storages + pickle.dumps([], 2),
    }
    return made_files.tar_of({name: data for name, data in (members | changed).items() if data is not None})


def _geometry(dimensions: int, *numbers: int, key: Any = 9, storage: Any = 7) -> bytes:
    head = pickle.dumps(1, 2) + pickle.dumps((key, storage, torch.FloatTensor), 2)
    return head + struct.pack(f"<i4x{len(numbers)}q", dimensions, *numbers)


def _stored(count: Any = 1, numel: int = 2, described: Any = (7, "cpu", torch.FloatStorage), views: Any = ()) -> bytes:
    head = pickle.dumps(count, 2) + pickle.dumps(described, 2)
    return head + struct.pack("<q2f", numel, 1, 2) + pickle.dumps(list(views), 2)


TARS: dict[str, tuple[dict[str, bytes | None], str | None]] = {
    "none": ({}, None),
    "no-sys-info": ({"sys_info": None}, None),
    "no-pickle": ({"pickle": None}, "record-missing"),
    "no-tensors": ({"tensors": None}, "record-missing"),
    "no-storages": ({"storages": None}, "record-missing"),
    "empty-pickle": ({"pickle": b""}, "truncated"),
    "dimensions-negative": ({"tensors": _geometry(-1, 2, 1, 0)}, "pickle-damaged"),
    "dimensions-huge": ({"tensors": _geometry((1 << 31) - 1, 2, 1, 0)}, "pickle-damaged"),
    "geometry-short": ({"tensors": _geometry(3, 2, 1, 0)}, "pickle-damaged"),
    "size-negative": ({"tensors": _geometry(1, -2, 1, 0)}, None),
    "size-huge": ({"tensors": _geometry(1, 1 << 62, 1, 0)}, None),
    "offset-outside": ({"tensors": _geometry(1, 2, 1, 1 << 40)}, None),
    "tensor-key-list": ({"tensors": _geometry(1, 2, 1, 0, key=[9])}, "pickle-damaged"),
    "tensor-of-no-storage": ({"tensors": _geometry(1, 2, 1, 0, storage=8)}, "pickle-damaged"),
    "count-negative": ({"storages": _stored(count=-1)}, "pickle-damaged"),
    "count-text": ({"storages": _stored(count="1")}, "pickle-damaged"),
    "count-huge": ({"storages": _stored(count=1 << 60)}, "pickle-damaged"),
    "count-more": ({"storages": _stored(count=2)}, "pickle-damaged"),
    "numel-2-to-60": ({"storages": _stored(numel=1 << 60)}, "record-short"),
    "numel-negative": ({"storages": _stored(numel=-1)}, "pickle-damaged"),
    "storage-described-wrong": ({"storages": _stored(described=[7])}, "pickle-damaged"),
    "storage-type-wrong": ({"storages": _stored(described=(7, "cpu", torch.Tensor))}, "pickle-damaged"),
    "views-of-nothing": ({"storages": _stored(views=[(8, 6, 0, 1)])}, "pickle-damaged"),
    "views-negative": ({"storages": _stored(views=[(8, 7, -5, 1)])}, "pickle-damaged"),
    "views-wrong": ({"storages": _stored(views=[3])}, "pickle-damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", TARS)
def test_a_tar_that_lies_is_told(name: str, box: Box) -> None:
    members, code = TARS[name]
    outcome = box.outcome(tar_with(**members))
    assert (None if outcome is None else outcome[1]) == code


# --- safetensors that lie ---------------------------------------------------------------------------------------------
def tensors_of(header: Any, size: int = 8) -> bytes:
    written = header if isinstance(header, bytes) else msgspec.json.encode(header)
    return struct.pack("<Q", len(written)) + written + bytes(size)


def one(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


_TWO = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}}'
HEADERS: dict[str, bytes] = {
    "none": tensors_of({"w": one()}),
    "empty": tensors_of({}, 0),
    "spaces-behind": tensors_of(msgspec.json.encode({"w": one()}) + b"   "),
    "nulls-behind": tensors_of(msgspec.json.encode({"w": one()}) + b"\x00\x00"),
    "junk-behind": tensors_of(msgspec.json.encode({"w": one()}) + b"x"),
    "gap": tensors_of({"w": one(data_offsets=[8, 16])}, 16),
    "gap-between": tensors_of({"w": one(), "v": one(data_offsets=[12, 20])}, 20),
    "overlap": tensors_of({"w": one(), "v": one(data_offsets=[4, 12])}, 12),
    "same-place": tensors_of({"w": one(), "v": one()}),
    "reversed": tensors_of({"w": one(data_offsets=[8, 0])}),
    "offsets-negative": tensors_of({"w": one(data_offsets=[-8, 0])}),
    "offsets-text": tensors_of({"w": one(data_offsets=["0", "8"])}),
    "offsets-three": tensors_of({"w": one(data_offsets=[0, 8, 9])}),
    "offsets-huge": tensors_of({"w": one(shape=[1 << 60], data_offsets=[0, 1 << 62])}),
    "shape-negative": tensors_of({"w": one(shape=[-2])}),
    "shape-other": tensors_of({"w": one(shape=[3])}),
    "shape-float": tensors_of({"w": one(shape=[2.0])}),
    "shape-overflow": tensors_of({"w": one(shape=[1 << 61, 8])}),
    "shape-huge": tensors_of({"w": one(shape=[1 << 62] * 60)}),
    "shape-beyond-64-bits": tensors_of(b'{"w":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}'),
    "empty-tensor-in-between": tensors_of({"w": one(), "z": one(shape=[0], data_offsets=[4, 4])}),
    "empty-tensor-behind": tensors_of({"w": one(), "z": one(shape=[0], data_offsets=[8, 8])}),
    "field-unknown": tensors_of({"w": one(future=[1])}),
    "field-missing": tensors_of({"w": {"dtype": "F32", "shape": [2]}}),
    "tensor-null": tensors_of({"w": None}),
    "tensor-number": tensors_of({"w": 3}),
    "twice-the-same": tensors_of(_TWO % (0, 8)),
    "twice-another": tensors_of(_TWO % (8, 16), 16),
    "metadata-null": tensors_of({"w": one(), "__metadata__": None}),
    "metadata-number": tensors_of({"w": one(), "__metadata__": {"epoch": 3}}),
    "metadata-list": tensors_of({"w": one(), "__metadata__": []}),
    "metadata-nested": tensors_of({"w": one(), "__metadata__": {"a": {"b": "c"}}}),
    "half-bytes": tensors_of({"w": one(dtype="F4", shape=[4], data_offsets=[0, 2])}, 2),
    "half-a-byte-too-much": tensors_of({"w": one(dtype="F4", shape=[3], data_offsets=[0, 2])}, 2),
    "six-bits": tensors_of({"w": one(dtype="F6_E2M3", shape=[4], data_offsets=[0, 3])}, 3),
    "not-utf-8": tensors_of(b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "surrogate": tensors_of(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "bytes-behind": tensors_of({"w": one()}, 9),
    "bytes-missing": tensors_of({"w": one()}, 7),
    "deep": tensors_of(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "deep-objects": tensors_of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "unclosed": tensors_of(b'{"a":[' * 10_000),
    "length-100-mb": struct.pack("<Q", 100 << 20) + b"{" + bytes(100),
    "length-beyond": struct.pack("<Q", (100 << 20) + 1) + b"{" + bytes(100),
    "length-2-to-62": struct.pack("<Q", 1 << 62) + b"{" + bytes(100),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_file_is_damaged_exactly_where_the_library_says_so(name: str, box: Box) -> None:
    data = HEADERS[name]
    try:
        safetensors.deserialize(data)
    except safetensors.SafetensorError:
        outcome = box.outcome(data)
        assert outcome is not None
        assert outcome[0] in ("incomplete", "corrupt", "unsupported")
        assert (outcome[0] == "unsupported") == (name in ("length-beyond", "length-2-to-62"))
    else:
        facts = box.read(data)
        assert (facts.problem, facts.format) == (None, "safetensors")


def test_a_dtype_of_a_newer_safetensors_is_taken_at_its_word(box: Box) -> None:
    facts = box.read(tensors_of({"w": one(dtype="F3\x1b[2J" + "x" * 900)}))
    assert facts.problem is None
    assert facts.tensors is not None
    (tensor,) = facts.tensors
    assert (len(tensor.dtype), tensor.shape) == (40, (2,))
    assert "not known here" in facts.warnings[0]


def test_more_dimensions_than_torch_has_are_damage(box: Box) -> None:
    """The library takes them; no tensor has them, and their product costs time."""
    assert box.outcome(tensors_of({"w": one(shape=[1] * 65 + [2])})) == ("corrupt", "container-damaged")
    assert box.outcome(tensors_of({"w": one(shape=[(1 << 62) - 1] * 100_000)})) == ("corrupt", "container-damaged")


def test_a_header_of_many_tensors_is_listed_to_a_limit_and_counted_whole(box: Box) -> None:
    count = 200_500
    header = b",".join(b'"%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (i, i, i + 1) for i in range(count))
    facts = box.read(tensors_of(b"{" + header + b"}", count))
    assert (facts.problem, len(facts.tensors or ()), facts.parameters) == (None, 200_000, count)
    assert facts.warnings == ["only the first 200000 tensors are listed"]


# --- TorchScript that lies --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def script_records(scripts: dict[str, Path]) -> dict[str, bytes]:
    return samples.records_of(scripts["linear"].read_bytes())


def test_code_that_is_missing_or_junk_costs_no_tensor_of_a_script(box: Box, script_records: dict[str, bytes]) -> None:
    code = next(name for name in script_records if name.endswith(".py"))
    for changed in (b"", b"\xff" * 1000, b"class Other(Module):\n" * 5000, b'  __parameters__ = ["' + b"a" * 100_000):
        facts = box.read(samples.archive_bytes(script_records | {code: changed}))
        assert (facts.problem, facts.parameters) == (None, 6)
    without = {name: data for name, data in script_records.items() if name != code}
    assert box.read(samples.archive_bytes(without)).parameters == 6


def test_compressed_code_that_is_not_what_it_says_is_told(box: Box, script_records: dict[str, bytes]) -> None:
    # TorchScript numbers the classes of one process: it is linear.py only where nothing was scripted before.
    code = next(name for name, data in script_records.items() if name.endswith(".py") and b"class Linear(" in data)
    records = script_records | {code: b"x" * 100_000}
    packed = samples.archive_bytes(records, methods={code: 8})
    assert box.outcome(packed) is None
    position = packed.rindex(code.encode() + b"PK") - len("archive/") - 46  # its entry in the directory
    lying = bytearray(packed)
    struct.pack_into("<L", lying, position + 24, 10)  # its size, unpacked
    assert box.outcome(bytes(lying)) == ("corrupt", "container-damaged")
    struct.pack_into("<L", lying, position + 24, 1 << 30)
    assert box.outcome(bytes(lying)) == ("unreadable", "limit-exceeded")


# --- bytes that nobody thought of -------------------------------------------------------------------------------------
MAGICS = [
    LEGACY_MAGIC,
    LEGACY_MAGIC_TEXT,
    LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2),
    b"\x80\x02",
    b"\x80\x04\x95",
    b"\x80\x05}",
    struct.pack("<Q", 30) + b"{",
    struct.pack("<Q", 30) + b'{"w":{"dtype":"F32","shape":[',
    b"sys_info\x00" + bytes(248) + b"ustar\x00",
    b"PK\x03\x04",
    b"",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=300))
def test_any_bytes_behind_a_magic_are_facts(box: Box, magic: bytes, rest: bytes) -> None:
    facts = box.read(magic + rest)
    assert facts.problem is None or facts.problem.code != "reader-crashed"
