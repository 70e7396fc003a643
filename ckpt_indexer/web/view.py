"""One generation of the index as answers are made of it: encoded entries in the order of their keys, and columns.

Owns ``View`` and what can be asked of it. A view never changes; what it works out it keeps, within bounds. Entries stay
encoded: an answer is a join of bytes, and 10,000 entries take 12 MB instead of 40. A **column** is one value for each
entry (a field, whether filters match, the text that is searched), decoded from the encoded entries once: the next
generation takes over the values of the entries that did not change. Knows neither files nor HTTP. Any thread may ask;
two that ask for the same thing at once both work it out.
"""

from __future__ import annotations

import bisect
import contextlib
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import msgspec

from ckpt_indexer.index.query import ALIASES, FIELDS, Filter, Order, value_of
from ckpt_indexer.model import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

COLUMNS_MAX = 24  # kept of one generation; at 100,000 entries each takes 3 MB
ORDERS_TAKEN = 4  # selections that are ready when the index changes: pages that are open ask for them again
ROWS_MAX = 24  # orders and selections kept; 0.4 MB each
_SEARCHED = ("path", "status", "architecture", "encoder", "monitor")

_Key = TypeVar("_Key", bound="Hashable")
_Value = TypeVar("_Value")


class Spec(Protocol):
    """What a column holds: hashable, and equal to another that gives the same values."""

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        """Give what reads an encoded entry's value."""
        ...

    def __hash__(self) -> int: ...


class FieldOf(msgspec.Struct, frozen=True):
    """The value of a field, as filters and sort orders know it."""

    field: str

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset({_head(self.field)}))
        field = self.field
        return lambda raw: value_of(decode(raw), field)


class Matches(msgspec.Struct, frozen=True):
    """Whether an entry satisfies all of some filters."""

    filters: tuple[Filter, ...]

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset(_head(each.field) for each in self.filters))
        filters = self.filters

        def read(raw: msgspec.Raw) -> bool:
            entry = decode(raw)
            return all(each.matches(entry) for each in filters)

        return read


class SearchText(msgspec.Struct, frozen=True):
    """The lower-case text in which a search looks."""

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset(_SEARCHED))

        def read(raw: msgspec.Raw) -> str:
            entry = decode(raw)
            monitor = None if entry.monitor is None else entry.monitor.name
            parts = (entry.path, entry.status, entry.architecture, entry.encoder, monitor)
            return "\n".join(part for part in parts if part).lower()

        return read


class MetricNames(msgspec.Struct, frozen=True):
    """The names of an entry's metrics."""

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset({"metrics"}))
        seen: dict[tuple[str, ...], tuple[str, ...]] = {}  # most entries of a run have the same names

        def read(raw: msgspec.Raw) -> tuple[str, ...]:
            names = tuple(decode(raw).metrics)
            return seen.setdefault(names, names)

        return read


class Query(msgspec.Struct, frozen=True):
    """Which entries, and in which order."""

    order: Order
    filters: tuple[Filter, ...] = ()
    search: str = ""


class Position(msgspec.Struct, frozen=True):
    """A place in an order: behind this value and key. It stays one when the entry is gone, or others come."""

    value: float | str | None  # None: among the unknown, which come last
    key: str


class Rows(msgspec.Struct, frozen=True):
    """Rows of a view in an order."""

    rows: array[int]
    known: int  # the first so many have a value; the rest is in the order of keys


class View:
    """The index as it stood at one moment."""

    def __init__(
        self, *, generation: int = 0, last_updated: str = "", identity: str = "", entries: Sequence[Pair] = ()
    ) -> None:
        """*entries* are sorted by key; *identity* differs between any two files, also of one generation."""
        self.generation = generation
        self.last_updated = last_updated  # ISO 8601, UTC
        self.identity = identity
        self.keys = [key for key, _ in entries]
        self.raws = [raw for _, raw in entries]
        self._columns: _Bounded[Spec, list[Any]] = _Bounded(COLUMNS_MAX)
        self._rows: _Bounded[Query, Rows] = _Bounded(ROWS_MAX)
        self._kept: _Bounded[Hashable, Any] = _Bounded(ROWS_MAX)

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, key: str) -> msgspec.Raw | None:
        """Give an encoded entry."""
        row = bisect.bisect_left(self.keys, key)
        return self.raws[row] if row < len(self.keys) and self.keys[row] == key else None

    def column(self, spec: Spec) -> list[Any]:
        """Give a value for each row."""
        values = self._columns.get(spec)
        if values is None:
            values = self._columns.put(spec, list(map(spec.reader(), self.raws)))
        return values

    def rows_if_known(self, query: Query) -> Rows | None:
        """Give what ``select`` gives, if that was worked out before; never waits."""
        return self._rows.get(query)

    def select(self, query: Query) -> Rows:
        """Give the rows that a query asks for; equal ones by key, unknown values last."""
        found = self._rows.get(query)
        if found is not None:
            return found
        if not query.filters and not query.search:
            return self._rows.put(query, self._ordered(query.order))
        ordered = self.select(Query(query.order))
        chosen = self._chosen(query)
        known = array("I", (row for row in ordered.rows[: ordered.known] if row in chosen))
        unknown = array("I", (row for row in ordered.rows[ordered.known :] if row in chosen))
        return self._rows.put(query, Rows(known + unknown, len(known)))

    def position(self, query: Query, row: int) -> Position:
        """Say where in the query's order a row stands."""
        value = self._sort_values(query.order.field)[row]
        is_known = value is not None and value == value  # noqa: PLR0124 - NaN is not
        return Position(value if is_known else None, self.keys[row])

    def start_behind(self, query: Query, rows: Rows, position: Position) -> int:
        """Give how many of the rows stand at the position or before it."""
        values, keys = self._sort_values(query.order.field), self.keys
        if position.value is None:
            return bisect.bisect_right(rows.rows, position.key, rows.known, key=lambda row: keys[row])
        value, is_descending = position.value, query.order.is_descending

        def is_behind(row: int) -> bool:
            mine, its = values[row], value
            if isinstance(mine, str) != isinstance(its, str):
                mine, its = str(mine), str(its)  # the position is of a time when the field held something else
            if mine == its:
                return keys[row] > position.key
            return bool(mine < its) if is_descending else bool(mine > its)

        return bisect.bisect_left(rows.rows, True, 0, rows.known, key=is_behind)

    def keep(self, name: Hashable, make: Callable[[View], _Value]) -> _Value:
        """Give what *make* makes of this view, made once."""
        kept = self._kept.get(name)
        return cast("_Value", kept if kept is not None else self._kept.put(name, make(self)))

    def kept(self, name: Hashable) -> Any:
        """Give what was made under this name, if it was."""
        return self._kept.get(name)

    def take_over(self, old: View, rows: Sequence[int]) -> None:
        """Work out what the old view was asked for; *rows* are these entries' old rows, -1 for those that changed."""
        for spec in old._columns.keys():  # noqa: SIM118 - no dictionary
            read, before = spec.reader(), old.column(spec)
            values = [before[row] if row >= 0 else read(raw) for row, raw in zip(rows, self.raws, strict=True)]
            self._columns.put(spec, values)
        for query in old._rows.keys()[-ORDERS_TAKEN:]:
            self.select(query)

    def _ordered(self, order: Order) -> Rows:
        values = self._sort_values(order.field)
        known = [row for row, value in enumerate(values) if value is not None and value == value]  # noqa: PLR0124
        count = len(known)
        unknown = sorted(set(range(len(values))).difference(known)) if count < len(values) else []
        known.sort(key=values.__getitem__, reverse=order.is_descending)  # stable: rows are in the order of keys
        return Rows(array("I", known + unknown), count)

    def _sort_values(self, field: str) -> list[Any]:
        """Give the field's column, as texts where its values cannot be compared as they are."""
        values = self.column(FieldOf(field))
        return self.keep(("sort", field), lambda _: _Comparable.of(values)).values

    def _chosen(self, query: Query) -> set[int]:
        matches = self.column(Matches(query.filters)) if query.filters else [True] * len(self.keys)
        chosen = {row for row, is_match in enumerate(matches) if is_match}
        if query.search:
            texts, wanted = self.column(SearchText()), query.search.lower()
            chosen = {row for row in chosen if wanted in texts[row]}
        return chosen


Pair = tuple[str, msgspec.Raw]


class _Comparable(msgspec.Struct):
    values: list[Any]

    @classmethod
    def of(cls, values: list[Any]) -> _Comparable:
        kinds = set(map(type, values)) - {type(None)}
        if kinds <= {int, float, bool} or kinds == {str}:
            return cls(values)
        return cls([None if value is None or value != value else str(value) for value in values])  # noqa: PLR0124


class _Bounded(Generic[_Key, _Value]):
    """Keeps the values that were used last. Each step is one of the dictionary's: threads do not meet halfway."""

    def __init__(self, most: int) -> None:
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._most = most

    def get(self, key: _Key) -> _Value | None:
        value = self._values.get(key)
        if value is not None:
            with contextlib.suppress(KeyError):  # another thread let it go
                self._values.move_to_end(key)
        return value

    def put(self, key: _Key, value: _Value) -> _Value:
        self._values[key] = value
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return value

    def keys(self) -> list[_Key]:
        return list(self._values)


def _head(field: str) -> str:
    """Name the field of an entry that a query's field is found in."""
    head = ALIASES.get(field, field).partition(".")[0]
    return head if head in FIELDS else "metrics"


def _partial_decoder(heads: frozenset[str]) -> Callable[[msgspec.Raw], Entry]:
    """Give what decodes these fields of an entry and no others: a third of the time."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(Entry):
        if field.name in heads and field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, msgspec.field(default_factory=field.default_factory)))
        elif field.name in heads:
            is_required = field.default is msgspec.NODEFAULT
            fields.append((field.name, field.type) if is_required else (field.name, field.type, field.default))
    kind = msgspec.defstruct("Partial", fields, kw_only=True, gc=False)
    return cast("Callable[[msgspec.Raw], Entry]", msgspec.json.Decoder(kind).decode)
