r"""Plain data as block YAML, as PyYAML would write it, in a tenth of its time.

Every checkpoint costs one document of some hundred nodes, and PyYAML's representer and resolver are Python: they took a
third of all the time that indexing takes. Written here are mappings, sequences, numbers and texts that need no thought;
a text that does (control characters, other scripts) is PyYAML's, alone, and so is a document with anything else in it.

>>> encode_block({"name": "val/hmean", "at": "10:30", "found": [1, 1e-05, None], "in": [{"a": True, "b": {}}]})
"name: val/hmean\nat: '10:30'\nfound:\n- 1\n- 1.0e-05\n- null\nin:\n- a: true\n  b: {}\n"
"""

from __future__ import annotations

import functools
import re
from typing import Any

import yaml

KEY_MAX = 1_000  # characters; YAML takes 1,024 on one line for a key without a mark, PyYAML's reader included
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./=+-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # plain, they are no texts
_QUOTABLE = re.compile(r"[ -~]*")


def encode_block(content: dict[str, Any]) -> str:
    """Write *content*, a tree; reading it with any YAML 1.1 reader gives it again."""
    lines: list[str] = []
    try:
        _put_mapping(content, "", lines)
    except _Unusual:
        dumped: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
        return dumped
    return "\n".join(lines) + "\n" if lines else "{}\n"


class _Unusual(Exception):
    """The document holds something that is not written here."""


class _Dumper(yaml.CSafeDumper):
    """Without anchors: the document is a tree, and equal lists are no aliases of each other."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _put_mapping(mapping: dict[Any, Any], indent: str, lines: list[str]) -> None:
    for key, value in mapping.items():
        if type(key) is not str:
            raise _Unusual
        text = _text(key)
        head = f"{indent}{text}:" if len(text) <= KEY_MAX else f"{indent}? {text}\n{indent}:"
        if isinstance(value, dict) and value:
            lines.append(head)
            _put_mapping(value, indent + "  ", lines)
        elif isinstance(value, list | tuple) and value:
            lines.append(head)
            _put_sequence(value, indent, lines)
        else:
            lines.append(f"{head} {_scalar(value)}")


def _put_sequence(sequence: list[Any] | tuple[Any, ...], indent: str, lines: list[str]) -> None:
    inner = indent + "  "
    for value in sequence:
        first = len(lines)
        if isinstance(value, dict) and value:
            _put_mapping(value, inner, lines)
        elif isinstance(value, list | tuple) and value:
            _put_sequence(value, inner, lines)
        else:
            lines.append(inner + _scalar(value))
        lines[first] = f"{indent}- {lines[first].removeprefix(inner)}"


def _scalar(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return _float(value)
    if value in ({}, []):
        return "{}" if isinstance(value, dict) else "[]"
    raise _Unusual


def _float(value: float) -> str:
    if value != value:  # noqa: PLR0124 - NaN
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    shown = repr(value)
    return shown if "." in shown else shown.replace("e", ".0e")  # YAML 1.1 takes 1e-05 for a text


@functools.lru_cache(maxsize=1024)  # keys, and what a run's checkpoints have in common
def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if _QUOTABLE.fullmatch(value):
        return "'" + value.replace("'", "''") + "'"
    dumped: str = yaml.dump(value, Dumper=_Dumper, default_style='"', allow_unicode=True, width=1 << 30)
    return dumped.removesuffix("\n")
