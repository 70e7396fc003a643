"""One generation of the index as answers are made of it: encoded entries in the order of their keys, and columns.

Owns ``Table`` and what can be asked of it. A table never changes; what it computes it keeps, within bounds. Entries
stay encoded: an answer is a join of bytes, and 10,000 entries take 12 MB instead of 40. A **column** is one value for
each entry (a field, whether filters match, the text that is searched), decoded from the encoded entries once: the next
generation copies the values of the entries that did not change. Filters and orders mean what ``query`` says. Knows
neither files nor HTTP. Any thread may ask; two that ask for the same thing at once both compute it.
"""

from __future__ import annotations

import bisect
import threading
from array import array
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import msgspec
from cachetools import LRUCache

from ckpt_indexer.index.query import (
    SEARCHED,
    Filter,
    Query,
    comparable,
    head_of,
    is_known,
    rank,
    search_text,
    value_of,
)
from ckpt_indexer.model import Entry
from ckpt_indexer.paths import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ckpt_indexer.index.query import Order

COLUMNS_MAX = 24  # kept of one generation; at 100,000 entries each takes 3 MB
ORDERS_CARRIED = 4  # selections that are ready when the index changes: pages that are open ask for them again
ROWS_MAX = 24  # orders and selections kept; 0.4 MB each

_Name = TypeVar("_Name", bound="Hashable")
_Value = TypeVar("_Value")


class Spec(Protocol):
    """What a column holds: hashable, and equal to another that gives the same values."""

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        """Return the function that reads an encoded entry's value."""
        ...

    def __hash__(self) -> int: ...


class FieldOf(msgspec.Struct, frozen=True):
    """The value of a field, as filters and sort orders know it."""

    field: str

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset({head_of(self.field)}))
        field = self.field
        return lambda raw: value_of(decode(raw), field)


class Matches(msgspec.Struct, frozen=True):
    """Whether an entry satisfies all of some filters."""

    filters: tuple[Filter, ...]

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset(head_of(each.field) for each in self.filters))
        filters = self.filters

        def read(raw: msgspec.Raw) -> bool:
            entry = decode(raw)
            return all(each.matches(entry) for each in filters)

        return read


class SearchText(msgspec.Struct, frozen=True):
    """The lower-case text in which a search is made."""

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset(SEARCHED))
        return lambda raw: search_text(decode(raw))


class MetricNames(msgspec.Struct, frozen=True):
    """The names of an entry's metrics."""

    def reader(self) -> Callable[[msgspec.Raw], Any]:
        decode = _partial_decoder(frozenset({"metrics"}))
        seen: dict[tuple[str, ...], tuple[str, ...]] = {}  # most entries of a run have the same names

        def read(raw: msgspec.Raw) -> tuple[str, ...]:
            names = tuple(decode(raw).metrics)
            return seen.setdefault(names, names)

        return read


class Position(msgspec.Struct, frozen=True):
    """A place in an order: behind this value and key. It stays one when the entry is gone, or others come."""

    value: float | str | None  # None: among the unknown, which come last
    key: str


class Rows(msgspec.Struct, frozen=True):
    """Rows of a table in an order."""

    rows: array[int]
    known: int  # the first so many have a value; the rest is in the order of keys


class Table:
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
        self._columns: _Recent[Spec, list[Any]] = _Recent(COLUMNS_MAX)
        self._rows: _Recent[Query, Rows] = _Recent(ROWS_MAX)
        self._kept: _Recent[Hashable, Any] = _Recent(ROWS_MAX)

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, key: str) -> msgspec.Raw | None:
        """Return an encoded entry, ``None`` where there is none."""
        row = bisect.bisect_left(self.keys, key)
        return self.raws[row] if row < len(self.keys) and self.keys[row] == key else None

    def column(self, spec: Spec) -> list[Any]:
        """Return a value for each row."""
        values = self._columns.get(spec)
        if values is None:
            values = self._columns.put(spec, list(map(spec.reader(), self.raws)))
        return values

    def rows_if_known(self, query: Query) -> Rows | None:
        """Return what ``select`` returns, if that was computed before; never waits."""
        return self._rows.get(query)

    def select(self, query: Query) -> Rows:
        """Return the rows that a query asks for; equal ones by key, unknown values last."""
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
        """Return where in the query's order a row stands."""
        value = self._sort_values(query.order.field)[row]
        return Position(value if is_known(value) else None, self.keys[row])

    def start_behind(self, query: Query, rows: Rows, position: Position) -> int:
        """Return how many of the rows stand at the position or before it."""
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

    def keep(self, name: Hashable, make: Callable[[Table], _Value]) -> _Value:
        """Return what *make* makes of this table, made once."""
        kept = self._kept.get(name)
        return cast("_Value", kept if kept is not None else self._kept.put(name, make(self)))

    def kept(self, name: Hashable) -> Any:
        """Return what was made under this name, if it was."""
        return self._kept.get(name)

    def carry_over(self, old: Table, rows: Sequence[int]) -> None:
        """Compute what the old table was asked for; *rows* are these entries' old rows, -1 for those that changed."""
        for spec in old._columns.keys_by_use():
            read, before = spec.reader(), old.column(spec)
            values = [before[row] if row >= 0 else read(raw) for row, raw in zip(rows, self.raws, strict=True)]
            self._columns.put(spec, values)
        for query in old._rows.keys_by_use()[-ORDERS_CARRIED:]:
            self.select(query)

    def _ordered(self, order: Order) -> Rows:
        ranks = rank(self._sort_values(order.field), is_descending=order.is_descending)
        return Rows(array("I", ranks.rows), ranks.known)

    def _sort_values(self, field: str) -> list[Any]:
        """Return the field's column, as texts where its values cannot be compared as they are."""
        values = self.column(FieldOf(field))
        kept: list[Any] = self.keep(("sort", field), lambda _: [comparable(values)])  # in a list: an empty one is kept
        return cast("list[Any]", kept[0])

    def _chosen(self, query: Query) -> set[int]:
        matches = self.column(Matches(query.filters)) if query.filters else [True] * len(self.keys)
        chosen = {row for row, is_match in enumerate(matches) if is_match}
        if query.search:
            texts, wanted = self.column(SearchText()), query.search.lower()
            chosen = {row for row in chosen if wanted in texts[row]}
        return chosen


Pair = tuple[Key, msgspec.Raw]


class _Recent(Generic[_Name, _Value]):
    """The values that were used last, for any thread."""

    def __init__(self, count_max: int) -> None:
        self._values: LRUCache[_Name, _Value] = LRUCache(count_max)
        self._lock = threading.Lock()  # held for moments: nothing is computed under it

    def get(self, name: _Name) -> _Value | None:
        with self._lock:
            return self._values.get(name)

    def put(self, name: _Name, value: _Value) -> _Value:
        with self._lock:
            self._values[name] = value
        return value

    def keys_by_use(self) -> list[_Name]:
        """Return the names, the one used last at the end."""
        with self._lock:  # iterating gives the order of insertion; popitem() that of use
            items = [self._values.popitem() for _ in range(len(self._values))]
            self._values.update(items)
        return [name for name, _ in items]


def _partial_decoder(heads: frozenset[str]) -> Callable[[msgspec.Raw], Entry]:
    """Return what decodes these fields of an entry and no others, in a third of the time."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(Entry):
        if field.name in heads and field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, msgspec.field(default_factory=field.default_factory)))
        elif field.name in heads:
            is_required = field.default is msgspec.NODEFAULT
            fields.append((field.name, field.type) if is_required else (field.name, field.type, field.default))
    kind = msgspec.defstruct("Partial", fields, kw_only=True, gc=False)
    return cast("Callable[[msgspec.Raw], Entry]", msgspec.json.Decoder(kind).decode)
