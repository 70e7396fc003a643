"""Touching files below a root that other people write to: open without being led out, replace without tearing.

Owns the two primitives everything else is built from; promises that nothing is opened or written through a symbolic
link, wherever in the path it stands, that no open blocks (FIFOs, devices), and that a replaced file is always whole.
Knows neither what the files mean nor when to write them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING

from filelock import Timeout, lock_descriptor, unlock_descriptor

from ckpt_indexer.errors import NotRegularFile, RootUnusable, reason_of
from ckpt_indexer.paths import ROOT, TEMPORARY_PREFIX, TEMPORARY_SUFFIX, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt_indexer.model import Fingerprint
    from ckpt_indexer.paths import RelPath

LOCK_POLL_S = 0.005  # a commit takes milliseconds
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_abandoned: set[str] = set()  # names of temporary files that this process could not remove; there is one of each name
_LOCK_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def fingerprint_at(folder_fd: int, name: str) -> Fingerprint | None:
    """Return the fingerprint of what stands at *name*, a link itself and not its target; ``None`` if nothing does."""
    try:
        return fingerprint_of(os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    except FileNotFoundError:
        return None


def check_root(root: str) -> None:
    """Refuse a root that cannot be one.

    Raises:
        RootUnusable: it does not exist, is no folder, or may not be listed.

    """
    try:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            raise RootUnusable(root=root, reason="it is not a folder")
        os.listdir(root)
    except RootUnusable:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise RootUnusable(root=root, reason="there is no such folder") from None
    except OSError as error:
        raise RootUnusable(root=root, reason=reason_of(error)) from error


@contextlib.contextmanager
def opened_folder(root: str | os.PathLike[str] | int, folder: RelPath) -> Iterator[int]:
    """Return a descriptor of *folder* (relative to *root*, a path or a descriptor; POSIX), one component at a time.

    The root itself may be a link; below it, a link anywhere raises ``OSError``: a folder that was swapped for a link
    while the path was being built must not lead a write out of the tree. It also reaches paths beyond PATH_MAX.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(".", flags, dir_fd=root) if isinstance(root, int) else os.open(root, flags)
    try:
        for part in folder.split("/") if folder else ():
            inner = os.open(part, _FOLDER_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_file(root: str | os.PathLike[str], path: RelPath) -> Iterator[int]:
    """Return a read-only descriptor of the regular file at *path* (relative to *root*, POSIX).

    Raises:
        NotRegularFile: something else stands there; it was not read.
        OSError: it cannot be opened, or a link stands in the way.

    """
    folder, name = split(path)
    with opened_folder(root, folder) as folder_fd, opened_at(folder_fd, name) as fd:
        yield fd


@contextlib.contextmanager
def opened_at(folder_fd: int, name: str) -> Iterator[int]:
    """Return a read-only descriptor of the regular file *name* in an open folder; raises as ``opened_file`` does."""
    try:
        fd = os.open(name, _FILE_FLAGS, dir_fd=folder_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise NotRegularFile(error.errno, name) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotRegularFile(errno.EINVAL, name)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked_folder(root: str | os.PathLike[str], lock_name: str, *, timeout_s: float) -> Iterator[int]:
    """Return a descriptor of *root* while holding the lock file *lock_name* in it.

    The lock is made and taken through the descriptor, never through a path: ``FileLock`` resolves its path and makes
    the folder of a lock that has none, and a root that is not there (renamed, removed, not mounted) must never be made.
    What is done through the descriptor happens in the folder that was locked, whatever its path means by then.

    Closing its descriptor frees the lock, whatever the unlock before it says: a failed one (network file systems have
    them) must not lock this process out. It contends with every ``FileLock`` of that file.

    Raises:
        filelock.Timeout: somebody else holds the lock.
        OSError: the root is not there, the lock file cannot be written, or this file system has no locks.

    """
    deadline = time.monotonic() + timeout_s
    path = os.path.join(root, lock_name)
    with opened_folder(root, ROOT) as fd:
        try:
            while (lock := _locked_at(fd, lock_name)) is None:
                if time.monotonic() >= deadline:
                    raise Timeout(path)
                time.sleep(LOCK_POLL_S)
        except Timeout:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        try:
            yield fd
        finally:
            for free in (unlock_descriptor, os.close):  # the first for a child that is just being started
                with contextlib.suppress(OSError):
                    free(lock)


def _locked_at(folder_fd: int, name: str) -> int | None:
    """Return a descriptor of the lock file, locked; ``None`` if somebody else has the lock or just removed the file."""
    try:
        lock = os.open(name, _LOCK_FLAGS | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder_fd)
    except FileExistsError:
        try:
            lock = os.open(name, _LOCK_FLAGS, dir_fd=folder_fd)
        except FileNotFoundError:
            return None
    else:
        with contextlib.suppress(OSError):
            os.fchmod(lock, 0o666)  # whatever the umask: other users' writers have to lock it too
    try:
        # Without a name it guards nothing: somebody removed it before we had it.
        if lock_descriptor(lock, blocking=False) and os.fstat(lock).st_nlink > 0:
            return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def replace_file(folder_fd: int, name: str, data: bytes | Iterable[bytes], *, durable: bool = True) -> Fingerprint:
    """Write *data*, or its pieces, to *name* in the folder, whole or not at all; return the new file's fingerprint.

    The order is what a power cut needs: data on disk (fsync) before the name points at it (rename), the rename on
    disk (fsync of the folder) before the call returns. A crash in between leaves the old file, and at worst a
    temporary one that ``is_temporary`` recognises. With *durable* off both fsyncs are left out: still whole for every
    reader and across a kill, but a power cut may leave the old or an empty file, so only for what can be made again.

    Raises:
        OSError: nothing changed at *name*; the temporary file is gone, or is known to ``remove_temporary``. Where only
            the last step failed, the fsync of the folder, *name* is the new file, and a power cut may undo that.

    """
    temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder_fd)
    try:
        try:
            with open(fd, "wb", closefd=False, buffering=0) as file:
                for piece in (data,) if isinstance(data, bytes) else data:
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
            if durable:
                os.fsync(fd)
            fingerprint = fingerprint_of(os.fstat(fd))
        finally:
            os.close(fd)
        os.replace(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except BaseException:
        try:
            os.unlink(temporary, dir_fd=folder_fd)
        except FileNotFoundError:
            pass
        except OSError:
            _abandoned.add(temporary)
        raise
    if durable:
        os.fsync(folder_fd)
    return fingerprint


def remove_temporary(root: str | os.PathLike[str], path: RelPath, *, age_max_s: float = 3600) -> bool:
    """Remove one of our temporary files if whoever made it is gone; say whether it was removed.

    The maker's process id is in the name. On another machine or in another container it says nothing, so a file that
    seems to be in use is removed all the same once it is *age_max_s* old: writing one takes milliseconds. One that
    this process gave up, and could not remove then, goes at once.
    """
    folder, name = split(path)
    pid = name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
    try:
        with opened_folder(root, folder) as fd:
            age_s = time.time() - os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime
            is_in_use = pid.isdecimal() and _is_alive(int(pid)) and name not in _abandoned
            if is_in_use and age_s < age_max_s:
                return False
            os.unlink(name, dir_fd=fd)
            _abandoned.discard(name)
    except OSError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
