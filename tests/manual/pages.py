"""The manual's pages and the README, for the tests that hold them to the code."""

from __future__ import annotations

import re
from pathlib import Path

from ckpt_indexer.manual import FOLDER, TOPICS

REPOSITORY = Path(__file__).parents[2]
MANUAL = Path(FOLDER)
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
GENERATED = re.compile(r"(<!-- generated[^\n]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)


def page(topic: str) -> str:
    """Return a page's text with its comments."""
    return (MANUAL / f"{topic}.md").read_text(encoding="utf-8")


PAGES = {topic: page(topic) for topic in TOPICS}
ALL = {"README": README, **PAGES}


def table(topic: str, header: str) -> list[list[str]]:
    """Return the rows of the page's one table whose header line is *header*; escaped bars are bars."""
    lines = page(topic).splitlines()
    (start,) = (i for i, line in enumerate(lines) if line == header)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
        rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    return rows


def codes(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks in a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return ["".join(line.removeprefix(indent) for line in body.splitlines(keepends=True)) for indent, body in found]
