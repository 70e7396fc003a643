"""What was decided about one checkpoint, done: its sidecar is written or removed.

Owns every change that is made beside a checkpoint. Promises: a sidecar that is no longer the one that was read stays
as it is, and the checkpoint is read again at once; nothing is written beside a checkpoint that is gone; a sidecar that
cannot be written costs a problem in the entry, not the entry. Decides nothing else: that is ``judge``'s.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from ckpt_indexer import paths
from ckpt_indexer.errors import reason_of
from ckpt_indexer.metadata.sidecar import encode_sidecar
from ckpt_indexer.model import OtherSidecar, Problem
from ckpt_indexer.passes.evidence import LASTING
from ckpt_indexer.passes.judge import Action
from ckpt_indexer.tree.local import fingerprint_at, opened_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.model import Entry, Fingerprint
    from ckpt_indexer.passes.evidence import Sidecar
    from ckpt_indexer.passes.judge import SecondName, SidecarSettings, Verdict
    from ckpt_indexer.paths import Key, RelPath


class Examined(NamedTuple):
    """What came of one checkpoint."""

    entry: Entry
    wrote_sidecar: bool = False
    look_again_s: float | None = None  # read it again after so long, whatever its stamp says
    is_gone: bool = False  # it vanished meanwhile; the entry says nothing


def act(root: str, verdict: Verdict, settings: SidecarSettings) -> Examined:
    """Carry out *verdict* below *root*; the entry that is returned says what is on the disk then."""
    if verdict.action is Action.WRITE:
        return _write(root, verdict, is_filled=settings.is_filled)
    if verdict.action is Action.REMOVE:
        return _remove(root, verdict)
    return Examined(verdict.entry, look_again_s=verdict.look_again_s, is_gone=verdict.is_gone)


def remove_sidecars(root: str, key: Key, read_sidecar: Callable[[RelPath], Sidecar]) -> bool:
    """Remove the sidecars of a checkpoint that is gone, as far as this project wrote them.

    Return False if the one under the checkpoint's own name is not ours, or we may not: it is not to be tried again.
    True does not say that it is gone: the disk may have failed, or a checkpoint or another sidecar came meanwhile.
    Between the last check and the removal a moment remains in which another program can replace what is removed.
    """
    checkpoint = paths.to_path(key)
    for suffix in paths.KNOWN_SUFFIXES:
        second = paths.other_sidecar_paths(checkpoint, (suffix,))[0]
        if key.endswith(suffix) and os.path.lexists(os.path.join(root, second)):
            found = read_sidecar(second)
            is_ours = found.document is not None and found.document.indexer is not None
            if is_ours and found.document is not None and found.document.checkpoint_path == key:
                _unlink(root, second, key, found.fingerprint)
    path = paths.sidecar_path(checkpoint)
    sidecar = read_sidecar(path)
    if sidecar.problem is not None and sidecar.problem.code == "io-error":
        return True
    if sidecar.document is None or sidecar.document.indexer is None:
        return False
    return _unlink(root, path, key, sidecar.fingerprint)


def _write(root: str, verdict: Verdict, *, is_filled: bool) -> Examined:
    assert verdict.document is not None
    entry, wrote = copy.copy(verdict.entry), False
    folder, name, sidecar = _places(entry.path)
    try:
        if len(os.fsencode(sidecar)) > paths.NAME_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, "the checkpoint's name leaves no room for the sidecar's")
        with opened_folder(root, folder) as folder_fd:
            if fingerprint_at(folder_fd, name) is None:
                return Examined(entry, is_gone=True)
            if fingerprint_at(folder_fd, sidecar) != entry.metadata_fingerprint:
                return Examined(entry, look_again_s=0.0)  # a training callback, perhaps: theirs counts
            content = encode_sidecar(verdict.document, fill=is_filled)
            # Not durable: after a power cut a lost or empty sidecar is made again from the checkpoint.
            entry.metadata_fingerprint = replace_file(folder_fd, sidecar, content, durable=False)
            wrote = True
            if verdict.second is not None:
                entry.other_sidecar = _write_second(folder_fd, name, verdict.second, content) or entry.other_sidecar
        entry.metadata_file = paths.to_key(paths.sidecar_path(paths.to_path(entry.path)))
    except OSError as error:
        entry.metadata_problem = Problem.of("sidecar-unwritable", reason_of(error))
    return Examined(entry, wrote, verdict.look_again_s)


def _write_second(folder_fd: int, checkpoint: str, second: SecondName, content: bytes) -> OtherSidecar | None:
    """Write the sidecar under its second name, unless it could be taken for another checkpoint's, or another came."""
    _, name = paths.split(second.path)
    stem = name.removesuffix(paths.SIDECAR_SUFFIX)
    alike = {stem + suffix for suffix in paths.KNOWN_SUFFIXES} - {checkpoint}
    if any(fingerprint_at(folder_fd, each) is not None for each in alike):
        return None
    if fingerprint_at(folder_fd, name) != second.replaces:
        return None  # it came meanwhile: the next look at it decides
    return OtherSidecar(paths.to_key(second.path), replace_file(folder_fd, name, content, durable=False))


def _remove(root: str, verdict: Verdict) -> Examined:
    """Remove a sidecar of ours beside a checkpoint that is broken now."""
    entry = copy.copy(verdict.entry)
    folder, _, sidecar = _places(entry.path)
    try:
        with opened_folder(root, folder) as folder_fd:
            if fingerprint_at(folder_fd, sidecar) not in (None, entry.metadata_fingerprint):
                return Examined(entry, look_again_s=0.0)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(sidecar, dir_fd=folder_fd)
        entry.metadata_fingerprint = None
    except OSError as error:
        entry.metadata_problem = Problem.of("sidecar-unwritable", reason_of(error))
    return Examined(entry, look_again_s=verdict.look_again_s)


def _unlink(root: str, path: RelPath, key: Key, expected: Fingerprint | None) -> bool:
    """Remove the sidecar at *path* if it is the *expected* one and no checkpoint came; false if we may not."""
    folder, name = paths.split(path)
    try:
        with opened_folder(root, folder) as folder_fd:
            _, checkpoint = paths.split(paths.to_path(key))
            if fingerprint_at(folder_fd, checkpoint) is None and fingerprint_at(folder_fd, name) == expected:
                os.unlink(name, dir_fd=folder_fd)
    except OSError as error:
        return error.errno not in LASTING
    return True


def _places(key: Key) -> tuple[RelPath, str, str]:
    """Return a checkpoint's folder, its name there, and its sidecar's."""
    path = paths.to_path(key)
    folder, name = paths.split(path)
    return folder, name, paths.split(paths.sidecar_path(path))[1]
