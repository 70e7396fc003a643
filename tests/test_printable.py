"""Whatever a name holds, what is printed of it can neither control a terminal nor break a line."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.printable import one_line, printable, printable_json


@given(st.text())
def test_printable_text_has_no_control_character_and_says_which_there_were(text: str) -> None:
    assert printable(text).isprintable()
    assert text.isprintable() == (printable(text) == text)


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()


def test_a_traceback_keeps_its_lines() -> None:
    assert printable("a\n\x1bb", kept="\n") == "a\n\\x1bb"


@given(st.text())
def test_json_says_the_same_and_holds_nothing_that_a_terminal_follows(text: str) -> None:
    document = printable_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(document) == text
    assert not {"\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff"} & set(document)
