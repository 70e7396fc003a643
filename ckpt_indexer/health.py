"""What is wrong with a checkpoint: the quick check, which reads its header only.

It holds the container, the pickle, the state dict and the records' lengths against each other. A finding is a problem
(the checkpoint cannot be used) or a warning (it can, but something that belongs to it is missing). Which checkpoints
there are is the caller's knowledge.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec

from ckpt_indexer.disk import NotRegularFile, fingerprint_of, opened_file, opened_folder
from ckpt_indexer.formats.container import identify_folder
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.model import Problem, Status

if TYPE_CHECKING:
    from ckpt_indexer.formats.reader import Reader

_CODES = {
    errno.EACCES: "permission-denied",
    errno.EPERM: "permission-denied",
    errno.ELOOP: "link-loop",
    errno.ENXIO: "not-a-file",  # a socket
}


class Health(msgspec.Struct):
    """What the check of one checkpoint found."""

    path: str
    status: Status
    problem: Problem | None = None
    warnings: list[str] = []


def problem_of(error: OSError) -> Problem:
    """Say what an error of the operating system means for a checkpoint."""
    if isinstance(error, NotRegularFile):
        return Problem.of("not-a-file", "this is no regular file")
    return Problem.of(_CODES.get(error.errno or 0, "io-error"), error.strerror or error)


def check_file(root: str, path: str, reader: Reader) -> Facts:
    """Read the header of the file at *path* below *root*; its problem is the finding."""
    try:
        with opened_file(root, path) as descriptor:
            before = fingerprint_of(os.fstat(descriptor))
            facts = reader.read_checkpoint(descriptor)
            if fingerprint_of(os.fstat(descriptor)) != before:
                facts.problem = Problem.of("unsettled", "it changed while it was read")
    except OSError as error:
        return Facts(problem=problem_of(error))
    return facts


def check_folder(root: str, path: str) -> Facts:
    """Name the format of a checkpoint that is a folder."""
    try:
        with opened_folder(root, path) as folder:
            facts = Facts(format=identify_folder(os.listdir(folder)))
    except OSError as error:
        return Facts(problem=problem_of(error))
    message = f"checkpoints that are folders ({facts.format}) are not read yet"
    facts.problem = Problem.of("format-unsupported", message)
    return facts
