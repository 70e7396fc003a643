"""Which checkpoints, in which order: the one query engine below the command line, HTTP and Python callers.

A **field** is an entry's own (``epoch``, ``status``, ``size_bytes``, ``monitor.value``), or ``metrics.NAME`` with any
character but the operators in NAME; a metric's bare name works where no field is called so. **Filters** are joined by
AND: ``metrics.hmean>=0.9``, ``experiment~ocr``. A value that is not known satisfies no filter but ``!=``, and is sorted
last, in both directions.

Owns the grammar (``FILTER_PATTERN``, the parsers) and the rules of comparing; promises that a ``Query`` chooses the
same checkpoints in the same order from entries (``select``) and from columns (``columns.Table``). Pure; knows no file.
"""

from __future__ import annotations

import functools
import operator
import re
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt_indexer.errors import QueryInvalid
from ckpt_indexer.model import Entry, to_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# A text, and compiled by `re` when first used: a list without filters need not wait for that. The value follows it.
SPACE = " \t\r\n\f\v"  # spelled out: what else counts as space differs between Python, JavaScript and Rust
FILTER_PATTERN = r"^[ \t\r\n\f\v]*([^<>=!~ \t\r\n\f\v][^<>=!~]*)(>=|<=|!=|==|=|>|<|~)"
_SIZE = r"^(\d+(?:\.\d+)?)\s*([kMGT])i?B?$"
_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_DIRECTIONS = ("asc", "desc")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
ALIASES = {
    "modified_time": "mtime",
    "size": "size_bytes",
    "key": "path",
    "score": "monitor.value",
    "step": "global_step",
}
FOLDED = frozenset({"architecture", "encoder"})  # names of classes and of settings: one name in either spelling
FIELDS = frozenset(Entry.__struct_fields__)
SEARCHED = ("path", "status", "architecture", "encoder", "monitor")  # what a search is made in
_SUBFIELDS = {
    "monitor": {"name", "mode", "value"},
    "problem": {"code", "message"},
    "metadata_problem": {"code", "message"},
    "health": {"level", "checked_at", "status", "nan", "inf", "uncounted", "digest", "good_at"},
}


class Filter(msgspec.Struct, frozen=True):
    """One condition on an entry."""

    field: str
    op: str
    value: str

    def matches(self, entry: Entry) -> bool:
        """Return whether the entry satisfies the condition."""
        actual = value_of(entry, self.field)
        if self.op == "~":
            return actual is not None and self._contains(str(actual))
        wanted: Any = self.value
        if isinstance(actual, int | float) and not isinstance(actual, bool):
            wanted = _number(self.value)
            if wanted is None:
                return self.op == "!="
        elif self.value in ("null", "none") and self.op in ("=", "==", "!="):
            return (actual is None) == (self.op != "!=")
        elif actual is None:
            return self.op == "!="
        else:
            actual = str(actual)
            if self.field in FOLDED:
                actual, wanted = fold(actual), fold(wanted)
                if self.op in ("=", "!=") and wanted in actual.split("|"):  # of names that cannot be told apart
                    return self.op == "="
        return _COMPARISONS[self.op](actual, wanted)

    def _contains(self, text: str) -> bool:
        if self.field in FOLDED and fold(self.value) in fold(text):
            return True
        return self.value.lower() in text.lower()


class Order(msgspec.Struct, frozen=True):
    """One sort key."""

    field: str
    is_descending: bool


class Query(msgspec.Struct, frozen=True):
    """Which entries, and in which order; its parts are valid."""

    order: Order = Order("path", is_descending=False)
    filters: tuple[Filter, ...] = ()
    search: str = ""  # text in one of SEARCHED; any case

    def matches(self, entry: Entry) -> bool:
        """Return whether the entry is one of those asked for."""
        is_match = all(each.matches(entry) for each in self.filters)
        return is_match and (not self.search or self.search.lower() in search_text(entry))


class Ranks(msgspec.Struct, frozen=True):
    """Rows in an order: first those that have a value."""

    rows: list[int]
    known: int  # the first so many have a value; the rest stands as it came


def fold(name: str) -> str:
    """Return what two spellings of one name have in common.

    >>> fold("FPNDecoder") == fold("fpn_decoder")
    True
    """
    return name.replace("_", "").replace("-", "").lower()


def parse_filter(text: str) -> Filter:
    """Read ``FIELD OP VALUE``.

    >>> parse_filter("metrics.val/hmean>=0.9")
    Filter(field='metrics.val/hmean', op='>=', value='0.9')

    Raises:
        QueryInvalid: there is no operator, or no such field.

    """
    match = re.match(FILTER_PATTERN, text)
    if match is None:
        raise QueryInvalid(what="filter", text=text, reason="use FIELD OP VALUE, OP one of >= <= > < = != ~")
    return Filter(_checked(match[1].rstrip(SPACE), text, "filter"), match[2], text[match.end() :].strip())


def order_by(field: str, *, is_descending: bool) -> Order:
    """Build the order by one field.

    Raises:
        QueryInvalid: there is no such field.

    """
    return Order(_checked(field, field, "sort"), is_descending)


def parse_order(text: str) -> Order:
    """Read ``FIELD[:asc|desc]``.

    >>> parse_order("epoch"), parse_order("metrics.hmean:desc")
    (Order(field='epoch', is_descending=False), Order(field='metrics.hmean', is_descending=True))

    Raises:
        QueryInvalid: there is no such field or direction.

    """
    field, colon, direction = text.rpartition(":")
    if not colon:
        field, direction = text, "asc"
    if direction not in _DIRECTIONS:
        raise QueryInvalid(what="sort", text=text, reason="the direction is asc or desc")
    return Order(_checked(field, text, "sort"), direction == "desc")


def parse_columns(text: str) -> list[str]:
    """Read ``FIELD,FIELD…``; a metric whose name ends like a direction is written ``metrics.NAME``.

    >>> parse_columns("path, metrics.val/hmean")
    ['path', 'metrics.val/hmean']

    Raises:
        QueryInvalid: there is no such field, or one has a direction, as only an order has.

    """
    fields = [name.strip() for name in text.split(",") if name.strip()]
    for field in fields:
        name, _, direction = field.rpartition(":")
        if direction in _DIRECTIONS and name and not field.startswith("metrics."):
            raise QueryInvalid(what="column", text=field, reason=f"a column has no direction: use {name}, and --sort")
        _checked(field, field, "column")
    return fields


def select(entries: Iterable[Entry], query: Query) -> list[Entry]:
    """Return the entries that a query asks for, sorted; equal ones by key, unknown values last."""
    is_all = not query.filters and not query.search
    chosen = list(entries) if is_all else [entry for entry in entries if query.matches(entry)]
    chosen.sort(key=operator.attrgetter("path"))
    values = comparable(list(map(_reader_of(query.order.field), chosen)))
    return [chosen[row] for row in rank(values, is_descending=query.order.is_descending).rows]


def comparable(values: list[Any]) -> list[Any]:
    """Return values that can be compared with each other: as they are, or as texts where their kinds differ."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int, float, bool} or kinds == {str}:
        return values
    return [str(value) if is_known(value) else None for value in values]


def rank(values: Sequence[Any], *, is_descending: bool) -> Ranks:
    """Return the rows in the order of their ``comparable`` values: equal ones as they came, unknown ones last.

    >>> rank([2, None, 3, 2], is_descending=True)
    Ranks(rows=[2, 0, 3, 1], known=3)
    """
    # Row numbers and no pairs: 100,000 more records keep the garbage collector busy for longer than sorting.
    rows = [row for row, value in enumerate(values) if value is not None and value == value]  # noqa: PLR0124 - NaN
    known = len(rows)
    unknown = [] if known == len(values) else [row for row, value in enumerate(values) if not is_known(value)]
    rows.sort(key=values.__getitem__, reverse=is_descending)  # stable in both directions
    return Ranks(rows + unknown, known)


def is_known(value: Any) -> bool:
    """Return whether there is a value: neither ``None`` nor NaN."""
    return value is not None and value == value  # noqa: PLR0124 - NaN is not


def value_of(entry: Entry, field: str) -> Any:
    """Return an entry's value for a field, metrics as floats; ``None`` where it is not known."""
    return _reader_of(field)(entry)


def search_text(entry: Entry) -> str:
    """Return the lower-case text in which a search is made; needs the fields of ``SEARCHED`` only."""
    monitor = None if entry.monitor is None else entry.monitor.name
    parts = (entry.path, entry.status, entry.architecture, entry.encoder, monitor)
    return "\n".join(part for part in parts if part).lower()


def head_of(field: str) -> str:
    """Return the field of an entry that a query's field is found in.

    >>> head_of("score"), head_of("val/hmean"), head_of("epoch")
    ('monitor', 'metrics', 'epoch')
    """
    head = ALIASES.get(field, field).partition(".")[0]
    return head if head in FIELDS else "metrics"


@functools.lru_cache(maxsize=64)  # more fields than any query names
def _reader_of(field: str) -> Callable[[Entry], Any]:
    """Decide once, for all entries, what a field means."""
    name = ALIASES.get(field, field)
    head, _, rest = name.partition(".")
    if name == "monitor.value":
        return lambda entry: None if entry.monitor is None else to_float(entry.monitor.value)
    if head not in FIELDS or head == "metrics":
        metric = name.removeprefix("metrics.")
        return lambda entry: value if type(value := entry.metrics.get(metric)) is float else to_float(value)
    if rest:
        return lambda entry: getattr(getattr(entry, head), rest, None)
    if head in _SUBFIELDS:
        return lambda entry: None if (value := getattr(entry, head)) is None else msgspec.json.encode(value).decode()
    read: Callable[[Entry], Any] = operator.attrgetter(head)
    return read


def _checked(field: str, text: str, what: str) -> str:
    """Accept every field there is, and every name that may be a metric's."""
    head, dot, rest = ALIASES.get(field, field).partition(".")
    if head == "metrics":
        is_field = bool(rest)
    elif head in FIELDS and dot:
        is_field = rest in _SUBFIELDS.get(head, ())
    else:
        is_field = bool(field)
    if not is_field:
        raise QueryInvalid(what=what, text=text, reason=f"there is no field {field!r}")
    return field


def _number(text: str) -> float | None:
    size = re.match(_SIZE, text)
    try:
        return float(size[1]) * _FACTORS[size[2]] if size else float(text)
    except ValueError:
        return None
