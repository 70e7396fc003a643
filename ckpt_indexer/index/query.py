"""Filters and sort orders over entries: ``metrics.hmean>=0.9``, ``experiment~ocr``, ``metrics.val/hmean:desc``.

A field is an entry's own (``epoch``, ``status``, ``size_bytes``, ``monitor.value``), or ``metrics.NAME`` with any
character but the operators in NAME; a metric's bare name works where no field is called so. Filters are joined by AND.
A value that is not known satisfies no filter but ``!=``, and is sorted last, in both directions.
"""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ckpt_indexer.errors import QueryInvalid
from ckpt_indexer.model import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

_FILTER = re.compile(r"^\s*(?P<field>[^<>=!~]+?)\s*(?P<op>>=|<=|!=|==|=|>|<|~)\s*(?P<value>.*?)\s*$", re.DOTALL)
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kMGT])i?B?$")
_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
_ALIASES = {
    "modified_time": "mtime",
    "size": "size_bytes",
    "key": "path",
    "score": "monitor.value",
    "step": "global_step",
}
FIELDS = frozenset(Entry.__struct_fields__)
_SUBFIELDS = {
    "monitor": {"name", "mode", "value"},
    "problem": {"code", "message"},
    "metadata_problem": {"code", "message"},
    "health": {"level", "checked_at", "status", "nan", "inf", "digest", "good_at"},
}


class Filter(NamedTuple):
    """One condition on an entry."""

    field: str
    op: str
    value: str

    def matches(self, entry: Entry) -> bool:
        """Say whether the entry satisfies the condition."""
        actual = value_of(entry, self.field)
        if self.op == "~":
            return actual is not None and self.value.lower() in str(actual).lower()
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
        return _COMPARISONS[self.op](actual, wanted)


class Order(NamedTuple):
    """One sort key."""

    field: str
    is_descending: bool


def parse_filter(text: str) -> Filter:
    """Read ``FIELD OP VALUE``.

    >>> parse_filter("metrics.val/hmean>=0.9")
    Filter(field='metrics.val/hmean', op='>=', value='0.9')

    Raises:
        QueryInvalid: there is no operator, or no such field.

    """
    match = _FILTER.match(text)
    if match is None:
        raise QueryInvalid(what="filter", text=text, reason="use FIELD OP VALUE, OP one of >= <= > < = != ~")
    return Filter(_checked(match["field"], text, "filter"), match["op"], match["value"])


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
    if direction not in ("asc", "desc"):
        raise QueryInvalid(what="sort", text=text, reason="the direction is asc or desc")
    return Order(_checked(field, text, "sort"), direction == "desc")


def select(entries: list[Entry], filters: list[Filter], order: Order) -> list[Entry]:
    """Give the entries that satisfy all filters, sorted; equal ones by key, unknown values last."""
    chosen = [entry for entry in entries if all(f.matches(entry) for f in filters)]
    known: list[tuple[Any, Entry]] = []
    unknown: list[tuple[Any, Entry]] = []
    for entry in chosen:
        value = value_of(entry, order.field)
        is_unknown = value is None or (isinstance(value, float) and math.isnan(value))
        (unknown if is_unknown else known).append((value, entry))
    known.sort(key=lambda pair: pair[1].path)
    number = all(isinstance(value, int | float) for value, _ in known)
    known.sort(key=lambda pair: pair[0] if number else str(pair[0]), reverse=order.is_descending)
    unknown.sort(key=lambda pair: pair[1].path)
    return [entry for _, entry in (*known, *unknown)]


def value_of(entry: Entry, field: str) -> Any:
    """Give an entry's value for a field, metrics as floats; ``None`` where it is not known."""
    name = _ALIASES.get(field, field)
    if name.startswith("metrics."):
        return entry.metric(name.removeprefix("metrics."))
    head, _, rest = name.partition(".")
    if head in FIELDS and head != "metrics":
        value = getattr(entry, head)
        if rest:
            value = getattr(value, rest, None)
            return float(value) if name == "monitor.value" and value is not None else value
        return msgspec.json.encode(value).decode() if isinstance(value, msgspec.Struct) else value
    return entry.metric(name)


def _checked(field: str, text: str, what: str) -> str:
    """Accept every field there is, and every name that may be a metric's."""
    head, dot, rest = _ALIASES.get(field, field).partition(".")
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
    size = _SIZE.match(text)
    try:
        return float(size[1]) * _FACTORS[size[2]] if size else float(text)
    except ValueError:
        return None
