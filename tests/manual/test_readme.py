"""README.md: short, with its two commands, a small picture, and a way to every page."""

from __future__ import annotations

import re
import struct

from ckpt_indexer.manual import FOLDER, TOPICS
from tests.manual.pages import MANUAL, README, REPOSITORY

LINES_MAX = 160
PICTURE_MAX = 150_000  # bytes: it is in every clone and every wheel


def test_the_set_up_is_two_lines() -> None:
    (section,) = re.findall(r"^## 60 seconds\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    commands = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if "pip install" in block]
    check = "ruff check && ruff format --check && mypy && pytest -n auto --dist loadfile"
    assert [command.strip().splitlines() for command in commands] == [
        ["mkdir -p outputs && pip install . && ckpt-indexer watch outputs/"],
        [f"pip install -e '.[dev]' -c tests/constraints.txt && {check}"],
    ]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LINES_MAX


def test_the_readme_leads_to_every_page() -> None:
    linked = re.findall(r"\]\(ckpt_indexer/manual/([a-z-]+)\.md\)", README)
    assert set(linked) == set(TOPICS)


def test_the_picture_is_small_and_shown() -> None:
    data = (MANUAL / "page.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert (data[:8], len(data) <= PICTURE_MAX) == (b"\x89PNG\r\n\x1a\n", True)
    assert (1000 <= width <= 2600, 500 <= height <= 1700) == (True, True)
    assert "](ckpt_indexer/manual/page.png)" in README


def test_the_promises_are_those_of_the_manual() -> None:
    # The README adds to them; what the manual promises stands in it, sentence by sentence.
    (section,) = re.findall(
        r"^## Promises\n\n(.*?)\n\n", (MANUAL / "promises.md").read_text(), re.DOTALL | re.MULTILINE
    )
    for line in section.splitlines():
        first_sentence = line.split(".")[1].split(":")[0].strip()
        assert first_sentence in README


def test_the_manual_is_a_part_of_the_package() -> None:
    assert str(REPOSITORY / "ckpt_indexer") in FOLDER
