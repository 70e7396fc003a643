"""The index as bytes: strict JSON, in the form that consumers of the first index read, and new ones too.

Pure. Entries stay encoded (``msgspec.Raw``): a write copies the unchanged ones instead of encoding them, and what a
newer version wrote into them is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from ckpt_indexer.errors import IndexCorrupt, IndexTooNew
from ckpt_indexer.model import Entry, is_usable
from ckpt_indexer.paths import NAME_BYTES_MAX, SIDECAR_SUFFIX, SUFFIXES, Key, is_checkpoint, is_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VERSION = "1.0"
PIECE_ENTRIES = 512  # encoded at once: half a megabyte, which stays in the processor's cache until it is written
_MAJOR = int(VERSION.partition(".")[0])
_VERSION_PATTERN = re.compile(r"([0-9]{1,9})\.[0-9]{1,9}")
_FIELDS = frozenset(Entry.__struct_fields__)
_KNOWN = ("version", "last_updated", "generation", "suffixes", "checkpoints", "entries")

_document_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entries_decoder = msgspec.json.Decoder(dict[Key, msgspec.Raw])
_suffixes_decoder = msgspec.json.Decoder(tuple[str, ...])
_entry_decoder = msgspec.json.Decoder(Entry)
_encoder = msgspec.json.Encoder()


class Listing(msgspec.Struct):
    """One experiment in the ``checkpoints`` section: parallel lists, sorted by name, of its ``ok`` checkpoints."""

    checkpoints: list[str]
    metadata_files: list[str]
    last_modified: str


class Listed(msgspec.Struct):
    """What the ``checkpoints`` section needs of an entry, decoded without the rest."""

    experiment: str
    name: str
    status: str = "ok"  # as in an entry: one that was made by hand may lack it
    role: str | None = None
    mtime: str | None = ""
    metadata_file: Key | None = None

    @property
    def is_usable(self) -> bool:
        """As ``Entry.is_usable``."""
        return is_usable(self.status, self.role)


_listed_decoder = msgspec.json.Decoder(Listed)


class Index(msgspec.Struct):
    """The index's content, entries still encoded."""

    generation: int = 0
    last_updated: str = ""
    suffixes: tuple[str, ...] = SUFFIXES  # of the names that count as checkpoints
    entries: dict[Key, msgspec.Raw] = {}
    extra: dict[str, msgspec.Raw] = {}  # fields of a newer version
    listings: msgspec.Raw | None = None  # the ``checkpoints`` section as it was read; never written from here


def decode_index(data: bytes, path: str) -> Index:
    """Read an index's bytes.

    Raises:
        IndexCorrupt: they are not an index.
        IndexTooNew: its major version is newer than ours.

    """
    try:
        data.decode()  # what is kept encoded is not looked into, and would be written again as it is
        document = _document_decoder.decode(data)
        version = msgspec.json.decode(document["version"], type=str)
        match = _VERSION_PATTERN.fullmatch(version)
        if match is None or int(match[1]) < _MAJOR:
            raise IndexCorrupt(path=path, reason=f"its version is {version[:40]!r}, not {_MAJOR}.x")
        if int(match[1]) > _MAJOR:
            raise IndexTooNew(path=path, version=version, supported=f"{_MAJOR}.x")
        suffixes = _suffixes_decoder.decode(document["suffixes"]) if "suffixes" in document else SUFFIXES
        if not suffixes or not all(map(is_suffix, suffixes)):
            raise IndexCorrupt(path=path, reason=f"its suffixes are {str(suffixes)[:60]!r}")
        return Index(
            generation=msgspec.json.decode(document.get("generation", b"0"), type=int),
            last_updated=msgspec.json.decode(document.get("last_updated", b'""'), type=str),
            suffixes=suffixes,
            entries=_entries_decoder.decode(document["entries"]) if "entries" in document else {},
            extra={key: value for key, value in document.items() if key not in _KNOWN},
            listings=document.get("checkpoints"),
        )
    except KeyError as error:
        raise IndexCorrupt(path=path, reason=f"it has no {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IndexCorrupt(path=path, reason=str(error)) from None


def is_torn(data: bytes) -> bool:
    """Return whether bytes are no JSON at all, as a file is for the moment in which it is written in place.

    >>> is_torn(b''), is_torn(b'{"version": "1.'), is_torn(b'[1, 2]')
    (True, True, False)
    """
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError:
        return True
    except RecursionError:
        pass
    return False


def iter_encoded(index: Index, listings: Mapping[str, msgspec.Raw]) -> Iterator[bytes]:
    """Write an index's bytes, piece by piece: whole, they would be twice in memory; *listings* is "checkpoints"."""
    head = {
        "version": VERSION,
        "last_updated": index.last_updated,
        "generation": index.generation,
        **({} if index.suffixes == SUFFIXES else {"suffixes": index.suffixes}),
        "checkpoints": encode_listings(listings),
    }
    yield _encoder.encode(head)[:-1] + b',"entries":{'
    items = iter(index.entries.items())
    separator = b""
    while piece := dict(itertools.islice(items, PIECE_ENTRIES)):
        yield separator + _encoder.encode(piece)[1:-1]
        separator = b","
    yield b"}" + b"".join(b"," + _encoder.encode({key: raw})[1:-1] for key, raw in index.extra.items()) + b"}\n"


class _Names(msgspec.Struct):
    checkpoints: list[str] = []


_names_decoder = msgspec.json.Decoder(_Names)


def decode_listed_keys(listings: msgspec.Raw | None, suffixes: tuple[str, ...]) -> set[Key]:
    """Return the keys that a ``checkpoints`` section names, whoever wrote it; those below the root only.

    >>> listings = b'{"a": {"checkpoints": ["x.ckpt", "../y.ckpt", "../../../z.ckpt"]}}'
    >>> sorted(decode_listed_keys(msgspec.Raw(listings), SUFFIXES))
    ['a/checkpoints/x.ckpt', 'a/y.ckpt']
    """
    keys = set()
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        for experiment, raw in _document_decoder.decode(listings or b"{}").items():
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                for name in _names_decoder.decode(raw).checkpoints:
                    key = posixpath.normpath(f"{experiment}/checkpoints/{name}")
                    if _is_key_below_root(key) and is_checkpoint(key, suffixes):
                        keys.add(Key(key))
    return keys


def _is_key_below_root(key: str) -> bool:
    parts = key.split("/")
    return (
        "\0" not in key and parts[0] not in ("", "..") and all(len(part.encode()) <= NAME_BYTES_MAX for part in parts)
    )


def encode_listings(listings: Mapping[str, msgspec.Raw]) -> msgspec.Raw:
    """Write the ``checkpoints`` section."""
    return msgspec.Raw(_encoder.encode(dict(sorted(listings.items()))))


def decode_entry(raw: msgspec.Raw | bytes) -> Entry:
    """Read one entry; raises ``msgspec.ValidationError`` where it is none."""
    return _entry_decoder.decode(raw)


def encode_entry(entry: Entry, previous: msgspec.Raw | None = None) -> msgspec.Raw:
    """Write one entry; fields of *previous* that this version does not know are kept."""
    if previous is not None:
        old: dict[str, msgspec.Raw] = _document_decoder.decode(previous)
        unknown = {key: value for key, value in old.items() if key not in _FIELDS}
        if unknown:
            return msgspec.Raw(_encoder.encode({**msgspec.structs.asdict(entry), **unknown}))
    return msgspec.Raw(_encoder.encode(entry))


def same_content(entry: Entry, old: Entry) -> bool:
    """Return whether two entries say the same, but for when they were indexed."""
    entry = msgspec.structs.replace(entry, generation=old.generation, indexed_at=old.indexed_at)
    return _encoder.encode(entry) == _encoder.encode(old)  # encoded, NaN is equal to itself


def decode_listed(raw: msgspec.Raw) -> Listed:
    """Read what the ``checkpoints`` section needs of an entry."""
    return _listed_decoder.decode(raw)


def encode_listing(names: list[str], has_sidecar: Sequence[int], last_modified: str) -> msgspec.Raw:
    """Write one experiment's part of the ``checkpoints`` section: the names of its ``ok`` checkpoints, sorted.

    >>> bytes(encode_listing(["a.ckpt", "b.ckpt"], [0, 1], "2026-01-02T00:00:00.000000Z")).decode()[:70]
    '{"checkpoints":["a.ckpt","b.ckpt"],"metadata_files":["b.ckpt.metadata.'
    """
    sidecars = [name + SIDECAR_SUFFIX for name in itertools.compress(names, has_sidecar)]
    return msgspec.Raw(_encoder.encode(Listing(names, sidecars, last_modified)))
