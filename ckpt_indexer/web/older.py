"""Records in the shape of an older catalogue, for front ends that were written for it.

Owns what such a record holds: the union of the fields that the older backends gave, so that one route serves the
readers of each. A record is worked out of an entry alone and opens no file. Knows no HTTP: ``api`` has the routes,
``/checkpoints`` and ``/checkpoints/stream``. It is no second catalogue: what these records lack (metrics by any name,
problems, health) is in ``/api/checkpoints``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ckpt_indexer.catalog import records
from ckpt_indexer.index import codec
from ckpt_indexer.index.query import Query, order_by, parse_filter
from ckpt_indexer.model import utc_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.index.columns import Rows, Table
    from ckpt_indexer.model import Entry

LIMIT_MAX = 1_000_000
# Newest first, usable ones only.
QUERY = Query(order_by("modified_time", is_descending=True), (parse_filter("status=ok"),))


class OlderRecord(msgspec.Struct, kw_only=True):
    """A usable checkpoint, as an older catalogue describes it."""

    display_name: str  # one line for a menu
    checkpoint_path: str  # relative to the folder that holds the root; written as a key is
    modified_at: str  # ISO 8601, UTC
    size_mb: float  # MiB, two decimals
    exp_name: str | None = None
    architecture: str = records.UNKNOWN
    backbone: str = records.UNKNOWN
    epoch: int | None = None
    global_step: int | None = None
    precision: float | None = None
    recall: float | None = None
    hmean: float | None = None


class OlderRecords(msgspec.Struct, frozen=True):
    """A column of a table: each entry's record, encoded. A new generation makes those of changed entries only."""

    folder: str  # the root's own name

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        folder = self.folder
        return lambda raw: encode_record(raw, folder)


def record_of(entry: Entry, folder: str) -> OlderRecord:
    """Build the record of an entry; *folder* is the name of the root's folder, which begins the path.

    All of it is text that can be sent: names are written as in keys, whatever bytes they have on the disk.
    """
    facts = records.facts_of(entry)
    return OlderRecord(
        display_name=records.label_from(facts, entry.path.rpartition("/")[2]),
        checkpoint_path=f"{folder}/{entry.path}" if folder else entry.path,  # no name: the root of the file system
        modified_at=entry.mtime or utc_text(entry.fingerprint[1]),
        size_mb=round(entry.size_bytes / 2**20, 2),
        exp_name=None if facts["exp_name"] == records.UNKNOWN else facts["exp_name"],
        epoch=entry.epoch,
        global_step=entry.global_step,
        **{name: facts[name] for name in ("architecture", "backbone", "precision", "recall", "hmean")},
    )


def encode_record(raw: msgspec.Raw, folder: str) -> bytes | None:
    """Write an encoded entry's record; ``None`` for a checkpoint that cannot be used."""
    entry = codec.decode_entry(raw)
    return msgspec.json.encode(record_of(entry, folder)) if entry.is_usable else None


def encode_list(table: Table, rows: Rows, folder: str, limit: int | None) -> bytes:
    """Write the first *limit* records of a selection as one JSON list."""
    column = table.column(OlderRecords(folder))
    return b"[" + b",".join(column[row] for row in rows.rows[:limit]) + b"]"
