"""The index for everyone who does not write it: one file read, no lock, no daemon.

    from ckpt_indexer import read_index

    index = read_index("outputs")
    best = max(index.usable(), key=lambda e: e.metric("val/hmean") or float("-inf"))
    print(index.path_of(best))

Calling ``read_index`` again costs one ``stat`` while the file has not changed, and where it has, only the entries that
are not byte for byte what they were are decoded: the others are the same objects as before. It imports neither
pydantic, structlog, watchdog nor torch.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

import msgspec

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import is_daemon_alive
from ckpt_indexer.errors import IndexCorrupt, IndexMissing, RootUnusable, reason_of
from ckpt_indexer.index import codec
from ckpt_indexer.model import Entry, Fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHED_MAX = 16  # indexes kept between calls
# A writer that takes no lock may put an older index back, or be seen halfway through. A daemon mends that within a
# second: for so long what was read before stands, if one lives.
HOLD_S = 3.0
MOMENT_S, MOMENTS_MAX = 0.01, 5  # how long, and how often, to wait for an index that a writer has been at
INDEX_MAX = 4 << 30  # bytes; a million entries take 1 GB


class IndexView(msgspec.Struct, frozen=True):
    """An index as it stood when it was read; never changes."""

    root: str
    generation: int
    last_updated: str  # ISO 8601, UTC
    suffixes: tuple[str, ...]  # of the names that count as checkpoints
    entries: dict[str, Entry]  # by key, the broken ones too; readers may ask with any text

    def usable(self) -> Iterator[Entry]:
        """Iterate over the checkpoints that can be loaded."""
        return (entry for entry in self.entries.values() if entry.is_usable)

    def select(self, *filters: str, order: str = "path", search: str = "") -> list[Entry]:
        """Return the entries that satisfy all *filters*, sorted, as ``ckpt-indexer list`` does.

        Raises:
            QueryInvalid: one of them is none, as ``epoch:up``.

        """
        from ckpt_indexer.index import query  # who only reads the index does not pay for it

        asked = query.Query(query.parse_order(order), tuple(map(query.parse_filter, filters)), search)
        return query.select(self.entries.values(), asked)

    def path_of(self, entry: Entry) -> str:
        """Return a checkpoint's path as the operating system knows it."""
        return os.path.join(self.root, paths.to_path(entry.path))


_Kind = TypeVar("_Kind", Entry, msgspec.Raw)


class _Document(msgspec.Struct, Generic[_Kind]):
    version: str
    generation: int = 0
    last_updated: str = ""
    suffixes: tuple[str, ...] = paths.SUFFIXES
    entries: dict[str, _Kind] = {}

    def view(self, root: str, entries: dict[str, Entry]) -> IndexView:
        return IndexView(root, self.generation, self.last_updated, self.suffixes, entries)


class _Known(msgspec.Struct, frozen=True):
    """What is kept of an index between calls."""

    fingerprint: Fingerprint
    view: IndexView
    encoded: dict[str, msgspec.Raw]  # the entries as the file has them; empty until the index is seen to change
    root: tuple[int, int] | None = None  # device and inode of the root
    held_since: float | None = None  # monotonic: when the file was first seen to be older than this


_decoder = msgspec.json.Decoder(_Document[Entry])
_encoded_decoder = msgspec.json.Decoder(_Document[msgspec.Raw])
_cache: OrderedDict[str, _Known] = OrderedDict()
_cache_lock = threading.Lock()


def read_index(root: str | os.PathLike[str] = "outputs") -> IndexView:
    """Read the index of *root*.

    Safe from any thread and beside any writer.

    Raises:
        IndexMissing: there is none (also a ``FileNotFoundError``).
        IndexTooNew: a newer major version wrote it.
        IndexCorrupt: the file is not an index.
        RootUnusable: there is no such folder, or the file cannot be read.

    """
    return _read_index(os.fspath(root), MOMENTS_MAX)


def _read_index(root: str, moments: int) -> IndexView:
    path = os.path.join(root, paths.INDEX_NAME)
    try:
        # Opened before it is looked at, so that the cached fingerprint belongs to the bytes read.
        with _opened(root, path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > INDEX_MAX:
                raise IndexCorrupt(path=path, reason="it is no regular file, or larger than any index")
            # As tree.local.fingerprint_of has it; that module loads filelock, which a reader must not pay for.
            fingerprint = (status.st_size, status.st_mtime_ns, status.st_ino)
            with _cache_lock:
                known = _cache.get(path)
            if known is not None and known.fingerprint == fingerprint:
                return known.view
            data = file.read()
    except FileNotFoundError:
        if not os.path.isdir(root):
            raise RootUnusable(root=root, reason="there is no such folder") from None
        raise IndexMissing(path=path) from None
    except OSError as error:
        raise RootUnusable(root=root, reason=reason_of(error)) from error
    try:
        view, encoded = _decode(data, root, path, known)
    except IndexCorrupt:
        if (held := _held(root, path, known)) is not None:
            return held
        if moments > 0 and codec.is_torn(data):
            time.sleep(MOMENT_S)
            return _read_index(root, moments - 1)
        raise
    if (
        known is not None
        and view.generation <= known.view.generation
        and (held := _held(root, path, known)) is not None
    ):
        return held
    with _cache_lock:
        _cache[path] = _Known(fingerprint, view, encoded, _identity(root))
        while len(_cache) > CACHED_MAX:
            _cache.popitem(last=False)
    return view


def _held(root: str, path: str, known: _Known | None) -> IndexView | None:
    """Return what was read before, if it stands against a file that is older or torn; see ``HOLD_S``."""
    if known is None or known.root != _identity(root) or not is_daemon_alive(root):
        return None
    now = time.monotonic()
    since = now if known.held_since is None else known.held_since
    if now - since > HOLD_S:
        return None
    if known.held_since is None:
        with _cache_lock:
            _cache[path] = msgspec.structs.replace(known, held_since=now)
    return known.view


def _identity(root: str) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _opened(root: str, path: str) -> BinaryIO:
    """Open the index; where there was one, it is not believed at once that there is none.

    A file system in between (FUSE, NFS) may show nothing, or a stale file, for the moment in which it is replaced.
    """
    for _ in range(MOMENTS_MAX):
        try:
            return open(path, "rb", opener=_open_at_once)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE) or not os.path.exists(
                os.path.join(root, paths.LOCK_NAME)
            ):
                raise
        time.sleep(MOMENT_S)
    return open(path, "rb", opener=_open_at_once)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a FIFO in the index's place would hold the caller for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _decode(data: bytes, root: str, path: str, known: _Known | None) -> tuple[IndexView, dict[str, msgspec.Raw]]:
    try:
        # Most processes read an index once, and all at once is faster; who reads it again will do so many times.
        if known is None:
            document = _decoder.decode(data)
            if _is_readable(document.version):
                return document.view(root, document.entries), {}
        else:
            encoded = _encoded_decoder.decode(data)
            if _is_readable(encoded.version):
                return encoded.view(root, _decode_changed(encoded.entries, known)), encoded.entries
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    # Slow path: an entry made by hand or by a newer version must not hide the others.
    index = codec.decode_index(data, path)
    entries: dict[str, Entry] = {}
    for key, raw in index.entries.items():
        try:
            entries[key] = codec.decode_entry(raw)
        except msgspec.MsgspecError:
            continue
    if index.entries and not entries:
        raise IndexCorrupt(path=path, reason="none of its entries can be read")
    return IndexView(root, index.generation, index.last_updated, index.suffixes, entries), {}


def _is_readable(version: str) -> bool:
    return version.partition(".")[0] == codec.VERSION.partition(".")[0]


def _decode_changed(encoded: dict[str, msgspec.Raw], known: _Known) -> dict[str, Entry]:
    """Decode the entries whose bytes are not the known ones.

    The bytes are compared, not ``generation`` and ``indexed_at``: an index may be edited by hand.
    """
    # Two lookups a key in two passes, each through one table, take two thirds of the time of one pass through both.
    known_raws = list(map(known.encoded.get, encoded))
    known_entries = list(map(known.view.entries.get, encoded))
    return {
        key: entry if entry is not None and raw == known_raw else codec.decode_entry(raw)
        for (key, raw), known_raw, entry in zip(encoded.items(), known_raws, known_entries, strict=True)
    }
