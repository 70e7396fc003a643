"""Checkpoints that are folders: which kind, and what their own lists of tensors and files say.

Pure: names and unpickled objects in, facts out; the folder itself is opened by ``passes.folders.check_folder``.

| kind | listed in | complete when |
|---|---|---|
| ``torch.distributed.checkpoint`` | ``.metadata``, a pickle written last | every file it names is long enough |
| Lightning's ModelParallel and FSDP: the same | and ``meta.pt``, written after it | both are there |
| DeepSpeed | ``latest`` names a folder of ``*_states.pt`` | every rank has written its own |

A model may also lie in several files of one folder, ``model-00001-of-00004.safetensors`` and so on, whose
``model.safetensors.index.json`` says which tensor is in which (``read_index``).

Sources: torch/distributed/checkpoint/metadata.py and filesystem.py; lightning/fabric/strategies/fsdp.py and
model_parallel.py; deepspeed/runtime/engine.py (``_get_ckpt_name``, ``_get_zero_ckpt_name``);
huggingface_hub/serialization/_torch.py (the index of shards).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from ckpt_indexer.errors import FormatProblem, reason_of
from ckpt_indexer.formats.facts import NO_STATE_DICT, Facts, FilePart, ShardIndex
from ckpt_indexer.formats.frameworks.weights import describe_plain_tensors
from ckpt_indexer.formats.pickles.plain import text
from ckpt_indexer.formats.pickles.tensors import dtype_name, shape_of
from ckpt_indexer.formats.pickles.unpickle import Inert
from ckpt_indexer.formats.vocabulary import EPOCH_PATHS, STEP_PATHS
from ckpt_indexer.model import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckpt_indexer.model import Format

METADATA_NAME = ".metadata"
META_NAME = "meta.pt"
LATEST_NAME = "latest"
TAG = "checkpoint"  # what Lightning calls the folder that DeepSpeed writes first
DEEPSPEED_NAMES = frozenset((LATEST_NAME, TAG, "zero_to_fp32.py"))
FILES_MAX = 100_000
INDEX_MAX = 64 << 20  # bytes of an index.json; that of a model with 90,000 tensors has 9 MB
SHARDS_MAX = 10_000  # files that an index.json may name
RANKS_MAX = 100_000  # looked for; a file name may say any number
_METADATA_CLASS = "torch.distributed.checkpoint.metadata.Metadata"
# What the model's part of a nested state dict is called; "app" is the name of torch's tutorial for all that it saves.
_MODEL = re.compile(r"(?:app\.)?(?:state_dict|model|model_state_dict|module)\.")
_OPTIMIZER = re.compile(r"(?:app\.)?optim")
_LIGHTNING = re.compile(r"(?:state_dict|model|(optimizer_\d+))\.")  # all that its ModelParallel and FSDP put there
_MODEL_STATES = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)(?:_\d+)?_model_states\.pt")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[A-Za-z0-9]+)")
_OPTIMIZER_STATES = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)(?:_\d+)?_?optim_states\.pt")


def identify_folder(names: Collection[str]) -> Format:
    """Return the format of a checkpoint that is a folder, by the names in it."""
    if META_NAME in names or METADATA_NAME in names or any(name.endswith(".distcp") for name in names):
        return "sharded-dcp"
    if not DEEPSPEED_NAMES.isdisjoint(names) or any(name.endswith("_states.pt") for name in names):
        return "sharded-deepspeed"
    return "unknown"


def is_dcp_metadata(root: Any) -> bool:
    return isinstance(root, Inert) and type(root).full_name() == _METADATA_CLASS


def describe_dcp(root: Inert, facts: Facts) -> None:
    """Fill *facts* with the tensors, and with the files that have to hold them.

    Raises:
        FormatProblem: the metadata is not what torch writes.

    """
    state = root.state
    entries = state.get("state_dict_metadata") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not isinstance(entries, dict):
        raise FormatProblem("pickle-damaged", "the metadata has no list of tensors")
    names = [name for name in entries if isinstance(name, str)]
    flat = _saved_flat(state.get("planner_data"))
    prefixes = {} if flat else {name: match[0] for name in names if (match := _MODEL.match(name)) is not None}
    tensors = []
    unread = 0
    for name in names:
        shape, dtype = shape_of(_field(entries[name], "size")), _dtype(entries[name])
        belongs = name in prefixes if prefixes else flat or _OPTIMIZER.match(name) is None
        if shape is None or dtype is None:
            if isinstance(entries[name], Inert) and type(entries[name]).qualname == "TensorStorageMetadata":
                facts.warnings.append(f"the tensor {text(name)[:100]} is not described as torch does it")
                unread += belongs
        elif belongs:
            tensors.append((name.removeprefix(prefixes.get(name, "")), dtype, shape))
    if tensors:
        facts.role = "model"
        describe_plain_tensors(tensors, facts, unread)
    else:
        facts.warnings.append(NO_STATE_DICT)
    facts.has_optimizer = not flat and any(_OPTIMIZER.match(name) for name in names)
    # Without an optimiser it may as well be a plain state dict of somebody's, which nothing else ever follows.
    from_lightning = [_LIGHTNING.match(name) for name in names]
    facts.needs_meta = not flat and all(from_lightning) and any(match[1] for match in from_lightning if match)
    _describe_files(state.get("storage_data"), facts)


def _saved_flat(planner_data: Any) -> bool:
    """Return whether a bare state dict was saved: each tensor under its own name, not inside another dict.

    Only then is "model." a part of the model itself. The planner writes down the path that it joined to each name.
    """
    paths = list(dict.values(planner_data)) if isinstance(planner_data, dict) else []
    return bool(paths) and all(isinstance(path, tuple) and len(path) == 1 for path in paths)


def _describe_files(stored: Any, facts: Facts) -> None:
    if not isinstance(stored, dict):
        raise FormatProblem("pickle-damaged", "the metadata has no list of files")
    for index, info in dict.items(stored):
        name, offset, length = (_field(info, key) for key in ("relative_path", "offset", "length"))
        if not (isinstance(name, str) and _is_plain_name(name) and _is_size(offset) and _is_size(length)):
            raise FormatProblem("pickle-damaged", "the metadata names a file that torch would not")
        if name not in facts.files and len(facts.files) >= FILES_MAX:
            raise FormatProblem("limit-exceeded", f"it has more than {FILES_MAX} files")
        facts.files[name] = max(facts.files.get(name, 0), offset + length)
        key = _field(index, "fqn")
        if key in EPOCH_PATHS or key in STEP_PATHS:  # one value, saved by itself
            facts.parts[key] = FilePart(name, offset, length)


def _is_plain_name(name: str) -> bool:
    """Return whether a path stays below the folder; shards have no folders of their own today, but may."""
    return {"", ".", ".."}.isdisjoint(name.split("/")) and name.isprintable()


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _field(value: Any, name: str) -> Any:
    return value.state.get(name) if isinstance(value, Inert) and isinstance(value.state, dict) else None


def _dtype(entry: Any) -> str | None:
    """Read the dtype, the first of the properties."""
    properties = _field(entry, "properties")
    state = properties.state if isinstance(properties, Inert) else None
    first = state[0] if isinstance(state, tuple) and state else _field(properties, "dtype")
    return dtype_name(first)


def model_states_of(names: Collection[str]) -> list[str]:
    """Name DeepSpeed's files of model states, rank 0 first.

    >>> model_states_of(["zero_pp_rank_1_mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"])[0]
    'zero_pp_rank_0_mp_rank_00_model_states.pt'
    """
    ranked = [(int(m[2]), int(m[1] or 0), name) for name in names if (m := _MODEL_STATES.fullmatch(name)) is not None]
    return [name for *_, name in sorted(ranked)]


def has_optimizer_states(names: Collection[str]) -> bool:
    return any(_OPTIMIZER_STATES.fullmatch(name) for name in names)


def missing_ranks(names: Collection[str], world_size: int | None) -> list[int]:
    """List the data-parallel ranks without a file of their own, of a kind of which any rank has one.

    >>> missing_ranks(["zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_2_mp_rank_00optim_states.pt"], 4)
    [1, 3]
    """
    missing: set[int] = set()
    for kind in (_OPTIMIZER_STATES, _MODEL_STATES):  # ZeRO-3 has the second for each rank, others for the first only
        ranks = {int(m[1]) for name in names if (m := kind.fullmatch(name)) is not None and m[1] is not None}
        if ranks:
            missing |= set(range(min(max(*ranks, (world_size or 1) - 1, 0) + 1, RANKS_MAX))) - ranks
    return sorted(missing)


class _IndexDocument(msgspec.Struct):
    weight_map: dict[str, str]  # tensor -> file
    metadata: dict[str, Any] = {}


def index_names_of(name: str) -> tuple[str, ...]:
    """Return what the index of the set that a shard belongs to may be called; nothing if the name is no shard's.

    >>> index_names_of("model.fp16-00001-of-00002.safetensors")
    ('model.fp16.safetensors.index.json', 'model.safetensors.index.fp16.json')
    >>> index_names_of("model.safetensors")
    ()
    """
    match = _SHARD.fullmatch(name)
    if match is None:
        return ()
    stem, ending = match[1], match[4]
    plain, dot, variant = stem.rpartition(".")
    return (f"{stem}{ending}.index.json", *((f"{plain}{ending}.index.{variant}.json",) if dot else ()))


def shards_of_set(name: str) -> list[str]:
    """Return the names of all shards of a shard's set, by the count that is in its name.

    >>> shards_of_set("m-00002-of-00003.bin")
    ['m-00001-of-00003.bin', 'm-00002-of-00003.bin', 'm-00003-of-00003.bin']
    """
    match = _SHARD.fullmatch(name)
    if match is None or int(match[3]) > SHARDS_MAX:
        return []
    return [f"{match[1]}-{number:05}-of-{match[3]}{match[4]}" for number in range(1, int(match[3]) + 1)]


def read_index(file: BinaryIO) -> ShardIndex:
    """Read an ``index.json``; never raises for what the file contains."""
    try:
        data = file.read(INDEX_MAX + 1)
        if len(data) > INDEX_MAX:
            return ShardIndex(error=f"it has more than {INDEX_MAX} bytes")
        document = msgspec.json.decode(data, type=_IndexDocument)
    except OSError as error:
        return ShardIndex(error=reason_of(error))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return ShardIndex(error=text(str(error))[:200])
    files = sorted(set(document.weight_map.values()))
    if len(files) > SHARDS_MAX or not all(_is_plain_name(name) and "/" not in name for name in files):
        return ShardIndex(error="it names files that no shards are called")
    total = document.metadata.get("total_size")
    return ShardIndex(files, total if _is_size(total) else None)


def problem_of_shards(index: ShardIndex, sizes: Mapping[str, int]) -> Problem | None:
    """Return what is wrong with a set of shards by the *sizes*, in bytes, of those that are there.

    >>> problem_of_shards(ShardIndex(["a", "b", "c"]), {"a": 10})
    Problem(code='record-missing', message='the shard b is missing, and 1 more of 3')
    """
    missing = [name for name in index.files if name not in sizes]
    if missing:
        more = f", and {len(missing) - 1} more of {len(index.files)}" if len(missing) > 1 else ""
        return Problem.of("record-missing", f"the shard {missing[0]} is missing{more}")
    empty = next((name for name in index.files if not sizes[name]), None)
    return None if empty is None else Problem.of("truncated", f"the shard {empty} has no bytes (yet)")


def may_be_short(index: ShardIndex, sizes: Mapping[str, int]) -> bool:
    """Return whether the shards have fewer bytes than their tensors: no proof, some writers count tied ones twice."""
    return index.total_bytes is not None and sum(sizes.get(name, 0) for name in index.files) < index.total_bytes
