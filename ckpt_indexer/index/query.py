"""Filters and sort orders over entries: ``metrics.hmean>=0.9``, ``experiment~ocr``, ``metrics.val/hmean:desc``.

A field is an entry's own (``epoch``, ``status``, ``size_bytes``, ``monitor.value``), or ``metrics.NAME`` with any
character but the operators in NAME; a metric's bare name works where no field is called so. Filters are joined by AND.
A value that is not known satisfies no filter but ``!=``, and is sorted last, in both directions.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt_indexer.errors import QueryInvalid
from ckpt_indexer.model import Entry, to_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Texts, and compiled by `re` when first used: a list without filters need not wait for that.
_FILTER = r"(?s)^\s*(?P<field>[^<>=!~]+?)\s*(?P<op>>=|<=|!=|==|=|>|<|~)\s*(?P<value>.*?)\s*$"
_SIZE = r"^(\d+(?:\.\d+)?)\s*([kMGT])i?B?$"
_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
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
_SUBFIELDS = {
    "monitor": {"name", "mode", "value"},
    "problem": {"code", "message"},
    "metadata_problem": {"code", "message"},
    "health": {"level", "checked_at", "status", "nan", "inf", "digest", "good_at"},
}


class Filter(msgspec.Struct, frozen=True):
    """One condition on an entry."""

    field: str
    op: str
    value: str

    def matches(self, entry: Entry) -> bool:
        """Say whether the entry satisfies the condition."""
        actual = value_of(entry, self.field)
        if self.op == "~":
            if actual is not None and self.field in FOLDED and fold(self.value) in fold(str(actual)):
                return True
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
            if self.field in FOLDED:
                actual, wanted = fold(actual), fold(wanted)
        return _COMPARISONS[self.op](actual, wanted)


class Order(msgspec.Struct, frozen=True):
    """One sort key."""

    field: str
    is_descending: bool


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
    match = re.match(_FILTER, text)
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


def select(entries: Iterable[Entry], filters: Sequence[Filter], order: Order) -> list[Entry]:
    """Give the entries that satisfy all filters, sorted; equal ones by key, unknown values last."""
    chosen = [entry for entry in entries if all(f.matches(entry) for f in filters)] if filters else list(entries)
    chosen.sort(key=operator.attrgetter("path"))
    read = _reader_of(order.field)
    values = list(map(read, chosen))
    # No pairs of value and entry: 100,000 more records would keep the garbage collector busy for longer than sorting.
    is_known = [value is not None and value == value for value in values]  # noqa: PLR0124 - NaN is not
    known = list(itertools.compress(chosen, is_known))
    unknown = list(itertools.compress(chosen, map(operator.not_, is_known)))
    kinds = set(map(type, itertools.compress(values, is_known)))
    is_comparable = kinds <= {int, float} or kinds == {str}
    known.sort(key=read if is_comparable else lambda entry: str(read(entry)), reverse=order.is_descending)
    return known + unknown


def value_of(entry: Entry, field: str) -> Any:
    """Give an entry's value for a field, metrics as floats; ``None`` where it is not known."""
    return _reader_of(field)(entry)


@functools.lru_cache(maxsize=64)  # more fields than any query names
def _reader_of(field: str) -> Callable[[Entry], Any]:
    """Make out once, for all entries, what a field means."""
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
