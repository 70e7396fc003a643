"""A Weights & Biases run's transaction log, ``run-ID.wandb``: whose it is, its configuration, what it logged and when.

Bytes in, facts out; knows no path and imports nothing of wandb, whose own Python reader is gone (0.31 has none, and
importing the package costs 0.5 s). It is there for offline and online runs alike, and from the run's first seconds:
``files/config.yaml`` and ``files/wandb-summary.json`` are written when an online run *ends*, and never offline.

The framing is LevelDB's log (doc/log_format.md there) with a file header and a CRC-32 that is not masked::

    ":W&B" E1 BE 00 | block of 32 KiB, the header counted in the first | block | ...
    block:  crc u32, length u16, kind u8 (1 whole, 2 first, 3 middle, 4 last), that many bytes; again; zeros

Each record is a protocol buffer (wandb/proto/wandb_internal.proto); the fields read here have had these numbers since
the format exists. wandb writes a block when it is full, and the begun one every 15 s: the end may be torn or missing.

Promises: never raises for what the bytes are; what is damaged is left out up to the next block; work, memory and answer
are bounded by the constants below. What comes first in the file wins over what comes last where a limit is met, so a
growing file never takes a fact back.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from ckpt_indexer.formats.facts import LoggedRow, RunLog
from ckpt_indexer.formats.pickles.plain import Plainer, text

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_MAX = 64 << 20  # bytes; a day of system metrics takes about 10 MB
RECORD_MAX = 1 << 20  # bytes of one record; a large configuration has 50 kB, a logged histogram 2 kB
CONFIG_MAX = 1 << 20  # bytes of the configuration's values as JSON, all updates together; parsed, ten times as much
FIELDS_MAX = 1_000_000  # of all records together, 0.5 us each; 15,000 rows of 3 numbers among as much else have 700,000
NUMBERS_MAX = 50_000  # of all rows together, what they take in memory; 2,500 validations of 20 metrics
NAME_MAX = 200  # characters of a metric's name, a project, an entity

_HEADER = b":W&B\xe1\xbe\x00"
_BLOCK = 32 << 10
_FRAME = struct.Struct("<IHB")
_WHOLE, _FIRST, _LAST = 1, 2, 4
_RECORD_HISTORY, _RECORD_CONFIG, _RECORD_RUN = 2, 5, 17
_RUN_ID, _RUN_ENTITY, _RUN_PROJECT, _RUN_CONFIG, _RUN_NAME, _RUN_STARTED = 1, 2, 3, 4, 8, 17
_ITEM_KEY, _ITEM_NESTED, _ITEM_INTEGER, _ITEM_NUMBER, _ITEM_JSON = 1, 2, 5, 6, 16
_UPDATE, _REMOVE = 1, 2
_FIXED = {1: struct.Struct("<d"), 5: struct.Struct("<f")}
_QUOTED = (b'"NaN"', b'"Infinity"', b'"-Infinity"')


def read_log(file: BinaryIO) -> RunLog:
    """Read a run's log, whatever is in it."""
    try:
        return _Parser().read(file)
    except OSError:
        return RunLog(is_unread=True)


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Return the records that are whole and have the right sum."""
    if file.read(len(_HEADER)) != _HEADER:
        return
    left, used = LOG_MAX, len(_HEADER)
    parts: list[bytes] = []
    while left > 0 and (block := file.read(_BLOCK - used)):
        left -= len(block)
        used = place = 0
        while place + _FRAME.size <= len(block):
            crc, length, kind = _FRAME.unpack_from(block, place)
            body = block[place + _FRAME.size : place + _FRAME.size + length]
            if kind == 0 or len(body) < length or zlib.crc32(body, zlib.crc32(bytes([kind]))) != crc:
                parts = []
                break  # padding, a torn end, or damage: the next block begins anew
            place += _FRAME.size + length
            if kind in (_WHOLE, _FIRST):
                parts = [body]
            elif parts:  # else its beginning is missing
                parts.append(body)
            if len(parts) * _BLOCK > RECORD_MAX:
                parts = []
            if kind in (_WHOLE, _LAST):
                yield b"".join(parts)
                parts = []


class _Parser:
    """Reads one log, within one budget of fields."""

    def __init__(self) -> None:
        self._log = RunLog()
        self._fields_left = FIELDS_MAX
        self._numbers_left = NUMBERS_MAX
        self._config_left = CONFIG_MAX

    def read(self, file: BinaryIO) -> RunLog:
        for record in _records(file):
            self._fields_left -= 1
            # TypeError: a number where bytes belong. RecursionError: json's, for brackets in brackets.
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                self._record(record)
            if self._fields_left < 0 or self._numbers_left < 0:
                break
        self._log.config = Plainer(lambda _: None).plain(self._log.config)
        return self._log

    def _record(self, data: bytes) -> None:
        for field, value in self._fields(data):
            if field == _RECORD_RUN:
                self._run(value)
            elif field == _RECORD_CONFIG:
                self._config(value)
            elif field == _RECORD_HISTORY:
                self._row(value)

    def _run(self, data: bytes) -> None:
        log = self._log
        for field, value in self._fields(data):
            if field == _RUN_ID:
                log.run_id = _name(value)
            elif field == _RUN_ENTITY:
                log.entity = _name(value)
            elif field == _RUN_PROJECT:
                log.project = _name(value)
            elif field == _RUN_NAME:
                log.name = _name(value)
            elif field == _RUN_STARTED:
                moment = dict(self._fields(value))
                log.started_ns = min(moment.get(1, 0) * 10**9 + moment.get(2, 0), (1 << 63) - 1)
            elif field == _RUN_CONFIG:
                self._config(value)

    def _config(self, data: bytes) -> None:
        """Apply an update of the configuration."""
        for field, item in self._fields(data):
            if field not in (_UPDATE, _REMOVE):
                continue
            names, value = self._item(item)
            if not names or names[0] == "_wandb":
                continue
            node = self._log.config
            for name in names[:-1]:
                inner = node.get(name)
                if not isinstance(inner, dict):
                    inner = node[name] = {}
                node = inner
            if field == _REMOVE:
                node.pop(names[-1], None)
            elif (left := self._config_left - len(value)) >= 0:
                self._config_left = left
                node[names[-1]] = json.loads(value)

    def _row(self, data: bytes) -> None:
        """Keep a row, if it says both epoch and step, as Lightning's do."""
        numbers: dict[str, float] = {}
        for field, item in self._fields(data):
            if field == _UPDATE:
                names, value = self._item(item)
                if len(names) == 1 and (number := _number(value)) is not None:
                    numbers[names[0]] = number
        epoch, step = _count(numbers.pop("epoch", None)), _count(numbers.pop("trainer/global_step", None))
        metrics = {name: number for name, number in numbers.items() if not name.startswith("_")}  # _step, _runtime …
        self._numbers_left -= len(metrics)
        if epoch is not None and step is not None and metrics:
            self._log.rows.append(LoggedRow(epoch, step, metrics))

    def _item(self, data: bytes) -> tuple[list[str], Any]:
        """Read the item of a row or configuration: where it stands, and its value: JSON's bytes, or a number."""
        names: list[str] = []
        value: Any = None
        for field, content in self._fields(data):
            if field in (_ITEM_KEY, _ITEM_NESTED):
                if name := _name(content):
                    names.append(name)
            elif field in (_ITEM_JSON, _ITEM_NUMBER):
                value = content
            elif field == _ITEM_INTEGER:
                value = (content >> 1) ^ -(content & 1)  # zigzag
        return names, value

    def _fields(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """Split a protocol buffer into field numbers and values: bytes, an integer, or a float.

        Raises:
            ValueError: it is none, or the budget is used up.

        """
        place, end = 0, len(data)
        while place < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError("too many fields")
            tag, place = _varint(data, place)
            kind = tag & 7
            if kind == 2:
                length, place = _varint(data, place)
                if place + length > end:
                    raise ValueError("a field ends after its message")
                yield tag >> 3, data[place : place + length]
                place += length
            elif kind == 0:
                value, place = _varint(data, place)
                yield tag >> 3, value
            elif (number := _FIXED.get(kind)) is not None and place + number.size <= end:
                yield tag >> 3, number.unpack_from(data, place)[0]
                place += number.size
            else:
                raise ValueError("there is no such kind of field")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number has no end")


def _number(value: Any) -> float | None:
    """Read a number as wandb writes it: JSON's own, or NaN and the infinities, bare or as texts.

    >>> _number(b"0.5"), _number(b'"NaN"'), _number(b"true"), _number(b"[1]"), _number(None)
    (0.5, nan, None, None, None)
    """
    if value is None:
        return None
    try:
        return float(value.strip(b'"') if value in _QUOTED else value)
    except (ValueError, OverflowError):
        return None


def _count(value: float | None) -> int | None:
    return int(value) if value is not None and 0 <= value < 1 << 53 and value.is_integer() else None


def _name(value: bytes) -> str | None:
    """Decode a name; one that is too long to be one is cut, an empty one is none."""
    return text(value[: 4 * NAME_MAX].decode("utf-8", "replace"))[:NAME_MAX] or None
