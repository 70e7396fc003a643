r"""Text that is safe to print: names on disk and the contents of files are anybody's.

Owns how a character that a terminal would follow, or that cannot be seen, is written instead. Promises that the result
holds no control character, no line break but those that were asked for, and no mark that turns the reading direction.
Knows neither a terminal nor a log.
"""

from __future__ import annotations

import re

# What is not printable and may stand in JSON: it escapes the controls below 0x20 only. A text and not compiled: only
# commands that print JSON need it.
_UNPRINTABLE = "[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"


def printable(value: object, *, kept: str = "") -> str:
    r"""Return text with what is not printable written out; characters in *kept* stay.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    r"""Return text as one line for people: runs of space are one, and a ``?`` stands for what is not printable.

    >>> one_line(" a\x1b[31m\n b")
    'a?[31m b'
    """
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


def printable_json(text: str) -> str:
    r"""Return the same JSON document with what is not printable as escapes.

    >>> printable_json('"\u202eb"')
    '"\\u202eb"'
    """
    return re.sub(_UNPRINTABLE, lambda m: f"\\u{ord(m[0]):04x}", text)
