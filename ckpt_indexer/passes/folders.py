"""A checkpoint that is a folder: the headers of its files read into the same facts that one file gives.

Knows what torch.distributed.checkpoint, Lightning and DeepSpeed write as a folder. Promises that each file on the
checkpoint's own list is held against what is there: one that is missing or too short is a problem, for the checkpoint
cannot be used then. Nothing is opened through a link. Which folders are checkpoints is the caller's knowledge.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from ckpt_indexer import paths
from ckpt_indexer.errors import FormatProblem, NotRegularFile, reason_of
from ckpt_indexer.formats.facts import NO_STATE_DICT, Facts, FilePart
from ckpt_indexer.formats.frameworks.sharded import (
    LATEST_NAME,
    META_NAME,
    METADATA_NAME,
    has_optimizer_states,
    identify_folder,
    missing_ranks,
    model_states_of,
)
from ckpt_indexer.formats.vocabulary import EPOCH_PATHS, STEP_PATHS
from ckpt_indexer.model import Format, Problem
from ckpt_indexer.paths import RelPath
from ckpt_indexer.tree.local import opened_at, opened_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.sandbox.owner import Reader

VALUE_FILE_MAX = 64 << 10  # bytes of an epoch number, as torch.save writes it: some 1,300
_CODES = {
    errno.EACCES: "permission-denied",
    errno.EPERM: "permission-denied",
    errno.ELOOP: "link-loop",
    errno.ENXIO: "not-a-file",  # a socket
}


def problem_of(error: OSError) -> Problem:
    """Return what an error of the operating system means for a checkpoint."""
    if isinstance(error, NotRegularFile):
        return Problem.of("not-a-file", "this is no regular file")
    return Problem.of(_CODES.get(error.errno or 0, "io-error"), reason_of(error))


def check_folder(root: str, path: RelPath, reader: Reader) -> Facts:
    """Read the checkpoint at *path* below *root*; what is wrong with it becomes the facts' problem."""
    format_: Format = "unknown"
    try:
        with opened_folder(root, path) as folder:
            names = os.listdir(folder)
            format_ = identify_folder(names)
            facts = _READ_FOLDER.get(format_, _read_unknown)(folder, names, reader)
    except FormatProblem as error:
        return Facts(format=format_, problem=error.problem)
    except OSError as error:
        return Facts(format=format_, problem=problem_of(error))
    facts.format = format_
    return facts


def _read_unknown(_: int, names: list[str], __: Reader) -> Facts:
    if not names:
        raise FormatProblem("empty", "the folder holds nothing (yet)")
    raise FormatProblem("not-a-checkpoint", "this folder holds nothing that torch.distributed or DeepSpeed write")


def _read_dcp(folder: int, names: list[str], reader: Reader) -> Facts:
    if METADATA_NAME not in names:
        raise FormatProblem("truncated", f"there is no {METADATA_NAME}, which is written after the shards")
    facts = _read_at(folder, METADATA_NAME, reader)
    if facts.problem is None and facts.format != "sharded-dcp":
        raise FormatProblem("container-damaged", f"{METADATA_NAME} is not what torch.distributed.checkpoint writes")
    if META_NAME in names:
        meta = _read_at(folder, META_NAME, reader)
        for name in ("tensors", "parameters", "dtypes", "weights_bytes", "role", "files", "parts"):
            setattr(meta, name, getattr(facts, name))
        meta.has_optimizer = meta.has_optimizer or facts.has_optimizer
        meta.content_id = None  # meta.pt's own says nothing of the shards
        meta.warnings = [*facts.warnings, *(each for each in meta.warnings if each != NO_STATE_DICT)]
        meta.problem = facts.problem or meta.problem
        facts = meta
    elif facts.needs_meta:
        facts.problem = Problem.of("truncated", f"there is no {META_NAME}, which Lightning writes last")
    if facts.problem is None:
        facts.problem = next(
            filter(None, (_problem_of_shard(folder, *each) for each in sorted(facts.files.items()))), None
        )
    _read_counts(folder, facts, reader)
    return facts


def _read_counts(folder: int, facts: Facts, reader: Reader) -> None:
    """Read the epoch and the step where they were saved beside the tensors, each by itself."""
    for field, keys in (("epoch", EPOCH_PATHS), ("global_step", STEP_PATHS)):
        part = next((facts.parts[key] for key in keys if key in facts.parts), None)
        if part is not None and getattr(facts, field) is None:
            value = _read_part(folder, part, reader)
            if isinstance(value, int) and 0 <= value < 1 << 63:
                setattr(facts, field, value)


def _read_deepspeed(folder: int, names: list[str], reader: Reader) -> Facts:
    if LATEST_NAME in names:
        with opened_at(folder, LATEST_NAME) as file:
            tag = os.fsdecode(os.read(file, paths.NAME_BYTES_MAX + 1)).strip()
        if "/" in tag or tag not in names:
            raise FormatProblem("record-missing", f"{LATEST_NAME} names a folder that is not there: {tag[:100]}")
    else:
        tag = "."
    with _opened_tag(folder, tag) as inner:
        files = os.listdir(inner)
        models = model_states_of(files)
        if not models:
            raise FormatProblem("truncated", f"there is no file of model states in {tag}")
        facts = _read_at(inner, models[0], reader)
        if facts.problem is None and (missing := missing_ranks(files, facts.world_size)):
            facts.problem = Problem.of("truncated", f"rank {missing[0]} has not written all of its files")
        for name in sorted(files):
            if facts.problem is None and name.endswith("_states.pt") and name != models[0]:
                facts.problem = _read_at(inner, name, reader).problem
        facts.has_optimizer = facts.has_optimizer or has_optimizer_states(files)
    facts.content_id = None
    return facts


@contextlib.contextmanager
def _opened_tag(folder: int, tag: str) -> Iterator[int]:
    with contextlib.ExitStack() as opened:
        try:
            inner = opened.enter_context(opened_folder(folder, RelPath(tag)))
        except NotADirectoryError:  # a link, too
            raise FormatProblem("record-missing", f"{tag[:100]} is no folder") from None
        yield inner


_READ_FOLDER: dict[Format, Callable[[int, list[str], Reader], Facts]] = {
    "sharded-dcp": _read_dcp,
    "sharded-deepspeed": _read_deepspeed,
}


def _read_at(folder: int, name: str, reader: Reader) -> Facts:
    """Read one of a folder's files; its problem names it."""
    try:
        with opened_at(folder, name) as descriptor:
            facts = reader.read_checkpoint(descriptor)
    except OSError as error:
        facts = Facts(problem=problem_of(error))
    if facts.problem is not None:
        facts.problem = Problem.of(facts.problem.code, f"{name}: {facts.problem.message}")
    return facts


def _problem_of_shard(folder: int, name: str, size: int) -> Problem | None:
    parent, leaf = paths.split(RelPath(name))
    try:
        with opened_folder(folder, parent) as inner:
            found = os.stat(leaf, dir_fd=inner, follow_symlinks=False)
    except FileNotFoundError:
        return Problem.of("record-missing", f"the shard {name} is missing")
    except OSError as error:
        return Problem.of(problem_of(error).code, f"the shard {name}: {problem_of(error).message}")
    if not stat.S_ISREG(found.st_mode):
        return Problem.of("not-a-file", f"the shard {name} is no regular file")
    if found.st_size < size:
        return Problem.of("record-short", f"the shard {name} has {found.st_size} bytes where {size} are needed")
    return None


def _read_part(folder: int, part: FilePart, reader: Reader) -> int | float | str | None:
    """Read one value that was saved by itself, as a file of its own: a reader takes descriptors, not offsets."""
    if part.length > VALUE_FILE_MAX:
        return None
    parent, leaf = paths.split(RelPath(part.name))
    try:
        with opened_folder(folder, parent) as inner, opened_at(inner, leaf) as shard:
            data = os.pread(shard, part.length, part.offset)
    except OSError:
        return None  # told where every shard is held against its length
    with open(os.memfd_create("ckpt-indexer", os.MFD_CLOEXEC), "w+b", buffering=0) as copy:
        copy.write(data)
        return reader.read_checkpoint(copy.fileno()).value
