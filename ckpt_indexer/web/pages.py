"""Pages of encoded entries: which rows of a selection, and the bytes of the answer.

Pure, over a table of the index. A page is named by its number, or by a **token**: the place in the order behind which
it starts, which stays a place while entries come and go. A token reads ``KIND VALUE , KEY`` with KIND ``u`` (value
unknown), ``n`` (number) or ``s`` (text, percent-encoded); every text of this form is a place, so a page never fails.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import msgspec

from ckpt_indexer.index.columns import Position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt_indexer.index.columns import Rows, Table
    from ckpt_indexer.index.query import Query

TOKEN_PATTERN = r"^(u|n-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?|n-?inf|s[0-9A-Za-z_.~%-]*),"  # noqa: S105
TOKEN_MAX = 13_000  # characters; a key may have 4,096 bytes, and each may be percent-encoded
_TOKEN = re.compile(TOKEN_PATTERN)


class Window(msgspec.Struct, frozen=True):
    """A part of a selection."""

    start: int
    size: int
    page: int


def encode_page(table: Table, query: Query, rows: Rows, window: Window) -> bytes:
    """Encode the answer for one page."""
    total = len(rows.rows)
    shown = rows.rows[window.start : window.start + window.size]
    is_last = window.start + len(shown) >= total
    token = None if is_last or not shown else encode_token(table.position(query, shown[-1]))
    rest = {
        "total": total,
        "page": window.page,
        "page_size": window.size,
        "total_pages": -(-total // window.size),
        "next": token,
        "generation": table.generation,
    }
    return b'{"checkpoints":[' + join(table, shown) + b"]," + msgspec.json.encode(rest)[1:]


def join(table: Table, rows: Iterable[int]) -> bytes:
    """Write encoded entries, separated by commas."""
    raws = table.raws
    return b",".join([raws[row] for row in rows])


def window_of(table: Table, query: Query, rows: Rows, *, page: int, page_size: int, token: str | None) -> Window:
    """Find a page: behind a token's place, or by its number."""
    if token is None:
        return Window((page - 1) * page_size, page_size, page)
    start = table.start_behind(query, rows, parse_token(token))
    return Window(start, page_size, start // page_size + 1)


def encode_token(position: Position) -> str:
    """Write a place in an order.

    >>> encode_token(Position(0.5, "a.ckpt")), encode_token(Position("ä,b", "c")), encode_token(Position(None, "c"))
    ('n0.5,a.ckpt', 's%C3%A4%2Cb,c', 'u,c')
    """
    value = position.value
    if value is None:
        return f"u,{position.key}"
    return f"s{quote(value, safe='')},{position.key}" if isinstance(value, str) else f"n{value!r},{position.key}"


def parse_token(token: str) -> Position:
    """Read a place in an order; the text has the form of ``TOKEN_PATTERN``.

    >>> parse_token("n0.5,a.ckpt")
    Position(value=0.5, key='a.ckpt')
    """
    if _TOKEN.match(token) is None:
        raise ValueError(token)
    head, _, key = token.partition(",")
    kind, text = head[0], head[1:]
    if kind == "u":
        return Position(None, key)
    if kind == "s":
        return Position(unquote(text, errors="replace"), key)
    return Position(int(text) if text.lstrip("-").isdecimal() and len(text) < 30 else float(text), key)
