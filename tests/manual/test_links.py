"""Every page has its topic, and every link of the documentation leads somewhere: to a page, a heading, a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.manual import FILES, TOPICS, read_page
from ckpt_indexer.web.manual import anchor_of
from tests.manual.pages import MANUAL, PAGES, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

LINK = re.compile(r"\]\(([^)\s]+)\)")
DOCUMENTS = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / ".github").rglob("*.md")),
    *(MANUAL / f"{topic}.md" for topic in TOPICS),
]


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$|`[^`\n]*`(?!\])", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    seen: dict[str, int] = {}
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {anchor_of(heading, seen) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_every_file_is_a_topic_and_every_topic_a_file() -> None:
    assert {path.stem for path in MANUAL.glob("*.md")} == set(TOPICS)
    others = {path.name for path in MANUAL.iterdir() if path.is_file()} - {f"{topic}.md" for topic in TOPICS}
    assert others == {"__init__.py", *FILES}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_to_a_file_and_a_heading_that_there_are(document: Path) -> None:
    wrong = []
    for target in LINK.findall(without_code(document.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_links_only_to_what_the_package_holds(topic: str) -> None:
    targets = {target.partition("#")[0] for target in LINK.findall(without_code(PAGES[topic]))} - {""}
    inside = {f"{each}.md" for each in TOPICS} | set(FILES)
    assert {target for target in targets if not target.startswith("https://")} - inside == set()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_its_title_and_shows_no_comment(topic: str) -> None:
    text = read_page(topic)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)) == 1
    assert "<!--" not in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_page_names_a_machines_paths(document: Path) -> None:
    assert re.findall(r"/(?:work|tmp|home|root)/[\w.-]+", document.read_text()) == []
