"""Inotify, by the rules that a catalogue needs: a thread that turns the kernel's events into ``watchdog``'s.

It owns one inotify descriptor and the watches of every folder below the root; promises that whatever it cannot see is
reported, never swallowed. ``watchdog``'s own emitter, measured, loses events silently when the kernel's queue overflows
and then rebuilds its watches in place, which overflows the queue again; reports files under their old path after a
folder was moved away; holds all events back 0.5 s for every file moved out; and is silently blind without watches. Its
``BaseObserver`` has a second thread, and before it a queue without a bound. Here each event is handed over by the
thread that read it: the kernel alone queues, and says so when it has to drop.

| the kernel says | done at once | event |
|---|---|---|
| file created, closed after writing, moved in, its attributes changed | | created, closed |
| file deleted, moved away | | deleted |
| folder created, moved in | watch all of it, *then* emit: what came earlier is found by a scan | folder created |
| folder moved away | forget its watches and those below; moves are not paired | folder deleted |
| queue overflow | stop for good: the owner starts a new emitter and scans everything | ``WatchGap`` |
| root deleted, moved, unmounted; the descriptor cannot be read | the same | ``WatchGap`` |
| no more watches (ENOSPC, ENOMEM) | go on with what is watched | ``WatchGap``, once for each folder |
| folder unreadable (EACCES) | go on | ``WatchGap``, once for each folder |

Every event only says where to scan. The mask leaves out reads (a reader must not wake us), and includes attribute
changes, because a copy across file systems sets the file's time after closing it. Works on bytes paths inside; events
carry ``os.fsdecode``d absolute paths, as ``watchdog`` defines them.

Source: inotify(7), "Limitations and caveats".
"""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from ctypes import get_errno
from typing import TYPE_CHECKING, NamedTuple

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileSystemEvent,
)
from watchdog.observers.inotify_c import InotifyConstants as In
from watchdog.observers.inotify_c import WatchDescriptor, inotify_add_watch, inotify_init, inotify_rm_watch
from watchdog.utils import BaseThread

if TYPE_CHECKING:
    from collections.abc import Callable

_MASK = (
    In.IN_CREATE | In.IN_CLOSE_WRITE | In.IN_MOVED_FROM | In.IN_MOVED_TO | In.IN_DELETE | In.IN_ATTRIB
    | In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_ONLYDIR | In.IN_DONT_FOLLOW | In.IN_EXCL_UNLINK
)  # fmt: skip
_HEADER = struct.Struct("iIII")  # wd, mask, cookie, length of the name that follows
_READ_BYTES = 256 << 10  # some 5,000 events
_OUT_OF_WATCHES = (errno.ENOSPC, errno.ENOMEM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

log = structlog.get_logger("ckpt_indexer")


class WatchGap(FileSystemEvent):
    """Something below ``src_path`` can change from now on without an event."""

    event_type = "watch-gap"

    def __init__(self, src_path: str, reason: str, *, lost: bool) -> None:
        super().__init__(src_path)
        self.reason = reason  # "overflow", "root", "watches", "unreadable", or what the descriptor's error is
        self.lost = lost  # the emitter has stopped; everything has to be scanned again


class _Folder(NamedTuple):
    wd: int
    children: set[bytes]  # paths of the watched folders in it


class InotifyEmitter(BaseThread):
    """Watches every folder below *root*; the emitter's own thread, once started, is the only one to touch its state.

    *on_event* gets every event: while it is started in the thread that starts it, then in its own. It must be quick,
    wait for nobody, and not raise. *wanted* is asked for each file's folder and name: events about others are dropped
    before they cost anything. Once *should_stop* says so, no more folders are watched: the owner is about to stop it.
    """

    def __init__(
        self,
        root: str,
        on_event: Callable[[FileSystemEvent], None],
        *,
        wanted: Callable[[bytes, bytes], bool],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._on_event = on_event
        self._wanted = wanted
        self._should_stop = should_stop
        self._root = os.fsencode(root)
        self._fd = self._stop_read = self._stop_write = -1
        self._closing = threading.Lock()  # a stop may come while the thread ends by itself
        self._is_open = False
        self._path_of: dict[int, bytes] = {}
        self._folders: dict[bytes, _Folder] = {}
        self._unwatched: set[bytes] = set()  # folders that could not be watched, reported once each

    @property
    def watches(self) -> int:
        """How many folders are watched."""
        return len(self._path_of)

    def on_thread_start(self) -> None:
        """Open the descriptor and watch the tree; called before the thread runs.

        Raises:
            OSError: no inotify descriptor (EMFILE), or the root cannot be watched.

        """
        fd = inotify_init()
        if fd < 0:
            number = get_errno()
            raise OSError(number, f"inotify_init: {os.strerror(number)}", self._root)
        self._fd = fd
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        try:
            if self._watch_folder(self._root, None) is None:
                number = get_errno()
                raise OSError(number, os.strerror(number), self._root)
            self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            os.close(fd)
            raise
        self._is_open = True
        self._watch_below(self._root)

    def on_thread_stop(self) -> None:
        """Wake the thread; it closes the descriptor itself, which frees all watches at once."""
        with self._closing:
            if self._is_open:
                os.write(self._stop_write, b"x")

    def run(self) -> None:
        """Read events until stopped, overflown or orphaned."""
        try:
            while self.should_keep_running() and self._read_batch():
                pass
        except OSError as error:
            self._report_gap(self._root, f"inotify: {error.strerror}", lost=True)
        except Exception:
            log.exception("turn_failed")  # the top of this thread; its owner finds it dead and starts another
        finally:
            # Closing the descriptor drops its watches without one IN_IGNORED each, which in a large tree would
            # overflow the queue anew.
            with self._closing:
                self._is_open = False
                for fd in (self._fd, self._stop_read, self._stop_write):
                    os.close(fd)

    def _read_batch(self) -> bool:
        select.select([self._fd, self._stop_read], [], [])
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return True
        position, size = 0, len(data)
        while position < size:
            wd, mask, _, length = _HEADER.unpack_from(data, position)
            start = position + _HEADER.size
            position = start + length
            if not self._dispatch(wd, mask, data[start:position].rstrip(b"\x00")):
                return False
        return True

    def _dispatch(self, wd: int, mask: int, name: bytes) -> bool:
        """Act on one event; False if there is no going on."""
        if mask & In.IN_Q_OVERFLOW:
            return self._report_gap(self._root, "overflow", lost=True)
        folder = self._path_of.get(wd)
        if folder is None:
            return True  # of a folder that was moved away a moment ago
        if mask & (In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_UNMOUNT | In.IN_IGNORED):
            if folder == self._root:
                return self._report_gap(self._root, "root", lost=True)
            if mask & (In.IN_IGNORED | In.IN_UNMOUNT):
                self._forget(folder)
                if mask & In.IN_UNMOUNT:
                    self._emit(DirDeletedEvent, folder)
            return True
        if not name:
            return True  # the watched folder's own attributes: its parent gets them too, with a name
        path = folder + b"/" + name
        if mask & In.IN_ISDIR:
            self._on_folder(mask, path)
        elif self._wanted(folder, name):
            if mask & (In.IN_DELETE | In.IN_MOVED_FROM):
                self._emit(FileDeletedEvent, path)
            elif mask & In.IN_CLOSE_WRITE:
                self._emit(FileClosedEvent, path)
            elif mask & (In.IN_CREATE | In.IN_MOVED_TO | In.IN_ATTRIB):
                self._emit(FileCreatedEvent, path)
        return True

    def _on_folder(self, mask: int, path: bytes) -> None:
        if mask & (In.IN_CREATE | In.IN_MOVED_TO | In.IN_ATTRIB):
            if mask & In.IN_ATTRIB and path in self._folders:
                return
            self._unwatched.discard(path)
            if self._watch_folder(path, path.rpartition(b"/")[0]):
                self._watch_below(path)
            self._emit(DirCreatedEvent, path)
        elif mask & (In.IN_DELETE | In.IN_MOVED_FROM):
            self._forget(path)
            self._emit(DirDeletedEvent, path)

    def _watch_folder(self, path: bytes, parent: bytes | None) -> _Folder | None:
        wd = inotify_add_watch(self._fd, path, _MASK)
        if wd < 0:
            number = get_errno()
            if number in _GONE:
                return None  # its own event will come
            if parent is not None and number not in (*_OUT_OF_WATCHES, errno.EACCES):
                self._report_gap(self._root, f"inotify: {os.strerror(number)}", lost=True)
            elif path not in self._unwatched and parent is not None:
                self._unwatched.add(path)
                self._report_gap(path, "watches" if number in _OUT_OF_WATCHES else "unreadable", lost=False)
            return None
        known = self._path_of.get(wd)
        if known is not None and known != path:
            # The folder was moved here, and the events that say so are still to be read.
            self._forget(known, keep=wd)
        self._path_of[wd] = path
        folder = self._folders.get(path)
        if folder is None or folder.wd != wd:
            folder = self._folders[path] = _Folder(wd, set() if folder is None else folder.children)
        if parent is not None and parent in self._folders:
            self._folders[parent].children.add(path)
        return folder

    def _watch_below(self, path: bytes) -> None:
        """Watch every folder below *path*: each watch first, then its listing, so that nothing falls in between."""
        waiting = [path]
        while waiting and self.should_keep_running() and not self._should_stop():
            parent = waiting.pop()
            try:
                with os.scandir(parent) as entries:
                    inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError as error:
                if error.errno not in _GONE and parent not in self._unwatched:
                    self._unwatched.add(parent)
                    self._report_gap(parent, "unreadable", lost=False)
                continue
            waiting += [folder for folder in inner if self._watch_folder(folder, parent) is not None]

    def _forget(self, path: bytes, keep: int | None = None) -> None:
        """Drop the watches of a folder and of all below: their events would go on under a path that is wrong now."""
        folder = self._folders.get(path)
        if folder is None:
            return
        parent = self._folders.get(path.rpartition(b"/")[0])
        if parent is not None:
            parent.children.discard(path)
        waiting = [path]
        while waiting:
            current = self._folders.pop(waiting.pop(), None)
            if current is None:
                continue
            waiting += current.children
            self._path_of.pop(current.wd, None)
            if current.wd != keep:
                inotify_rm_watch(self._fd, WatchDescriptor(current.wd))

    def _emit(self, kind: type[FileSystemEvent], path: bytes) -> None:
        self._on_event(kind(os.fsdecode(path)))

    def _report_gap(self, path: bytes, reason: str, *, lost: bool) -> bool:
        self._on_event(WatchGap(os.fsdecode(path), reason, lost=lost))
        return not lost
