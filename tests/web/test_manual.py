"""The manual and the API's reference over HTTP: pages, links, who may read them, and what a browser makes of them."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from ckpt_indexer.manual import FILES, TOPICS
from ckpt_indexer.web import create_app
from ckpt_indexer.web.guard import POLICY
from ckpt_indexer.web.manual import add_manual, render
from ckpt_indexer.web.settings import ServerSettings
from tests.web.browser import VIEWS, Visit, launched
from tests.web.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

TOKEN = "0123456789abcdef0123"
PAGES = ["/manual/", "/docs", *(f"/manual/{topic}" for topic in TOPICS)]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_html_that_the_policy_allows(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == POLICY
    assert re.findall(r"<script|<style|\sstyle=|\son\w+=|<iframe", answer.text) == []
    loaded = re.findall(r'<(?:link|img)[^>]* (?:href|src)="([^"]+)"', answer.text)
    assert [each for each in loaded if "://" in each or each.startswith("//")] == []
    assert answer.text.count("<h1") == 1
    assert "<!--" not in answer.text


@pytest.mark.parametrize("path", PAGES)
def test_every_link_and_anchor_of_a_page_leads_somewhere(client: TestClient, path: str) -> None:
    wrong = []
    for target in re.findall(r'(?:href|src)="([^"]+)"', client.get(path).text):
        url, anchor = urldefrag(urljoin(f"http://localhost{path}", html.unescape(target)))
        if not url.startswith("http://localhost") or "/assets/" in url:  # assets are there where the page is built
            continue
        answer = client.get(url)
        if answer.status_code != 200 or (anchor and f'id="{anchor}"' not in answer.text):
            wrong.append(target)
    assert wrong == []


def test_the_address_without_a_slash_leads_to_the_list_under_any_prefix(client: TestClient) -> None:
    answer = client.get("/manual", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "manual/")
    listed = re.findall(r'<li><a href="([a-z-]+)"', client.get("/manual/").text)
    assert set(listed) == set(TOPICS)


@pytest.mark.parametrize("path", PAGES)
def test_the_name_of_the_program_leads_back_to_the_page(client: TestClient, path: str) -> None:
    (target,) = re.findall(r'class="brand" href="([^"]*)"', client.get(path).text)
    assert target
    assert urljoin(f"http://localhost{path}", target) == "http://localhost/"


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_the_manual_are_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/manual/{name}")
    assert (answer.status_code, len(answer.content) > 1000) == (200, True)
    assert answer.headers["content-type"].partition(";")[0] in ("image/png", "application/json", "text/plain")


@pytest.mark.parametrize(
    "name", ["none", "start.md", "__init__.py", "..%2f__init__.py", "../app.py", "%2e%2e/errors.py", "a/b"]
)
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/manual/{name}")
    assert (answer.status_code, list(answer.json())) == (404, ["detail"])


def test_the_pages_are_as_public_as_the_page_and_the_description_is_not(prepared: Path) -> None:
    app = create_app(prepared, ServerSettings(host="0.0.0.0", token=TOKEN))  # type: ignore[arg-type]
    with TestClient(app, base_url="http://localhost") as client:
        assert {client.get(path).status_code for path in (*PAGES, "/manual", "/manual/page.png")} == {200}
        assert client.get("/openapi.json").status_code == 401
        # And they hold nothing of the root.
        text = "".join(client.get(path).text for path in PAGES)
        assert [word for word in (str(prepared), "alpha/checkpoints", TOKEN) if word in text] == []


def test_the_reference_has_every_route_parameter_and_record(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    text = html.unescape(client.get("/docs").text)
    for path, methods in described["paths"].items():
        assert f"GET {path}</code></h3>" in text
        for parameter in methods["get"].get("parameters", ()):
            assert f"<code>{parameter['name']}</code>" in text
    for name in described["components"]["schemas"]:
        assert f'id="{name.lower()}"' in text


def test_html_in_a_page_is_shown_as_text() -> None:
    rendered = render("# A\n\n<script>alert(1)</script> <b>x</b> [l](javascript:alert(1)) ![i](javascript:alert(2))\n")
    assert "<script" not in rendered
    assert "<b>" not in rendered
    assert 'href="javascript' not in rendered


def test_links_and_headings_are_those_that_github_makes() -> None:
    text = "# One `two`\n\n## One `two`\n\n[a](formats.md#x) [b](https://example.org/y.md)\n\n| a |\n|--:|\n| 1 |\n"
    rendered = render(text, pages="manual/")
    assert re.findall(r'id="([^"]+)"', rendered) == ["one-two", "one-two-1"]
    assert re.findall(r'href="([^"]+)"', rendered) == ["manual/formats#x", "https://example.org/y.md"]
    assert "style" not in rendered


def test_the_manual_is_no_part_of_the_description() -> None:
    app = FastAPI()
    add_manual(app)
    assert app.openapi()["paths"] == {}


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(prepared: Path) -> Iterator[Server]:
    with Server(prepared) as server:
        yield server


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_pages_fit_the_window_and_axe_finds_nothing(browser: Browser, server: Server, width: int, scheme: str) -> None:
    for path in ("manual/", "manual/command-line", "manual/index-and-sidecar", "manual/architecture", "docs"):
        with Visit(browser, f"http://127.0.0.1:{server.port}/{path}", width=width, scheme=scheme) as visit:
            overflow = visit.page.evaluate("() => document.scrollingElement.scrollWidth - window.innerWidth")
            assert (path, overflow <= 0) == (path, True)
            assert (path, visit.violations()) == (path, [])
            visit.screenshot(f"manual-{path.replace('/', '-').strip('-')}-{width}-{scheme}")


def test_a_reader_goes_from_the_page_to_the_manual_and_on(browser: Browser, server: Server) -> None:
    with Visit(browser, f"http://127.0.0.1:{server.port}/") as visit:
        page = visit.wait_live()
        page.get_by_role("button", name="Keys").click()
        page.get_by_role("link", name="Manual").click()
        page.get_by_role("navigation").get_by_role("link", name="health").click()
        assert page.title() == "Health: what is wrong with a checkpoint · ckpt-indexer"
        page.get_by_role("link", name="limits").first.click()
        assert page.url.endswith("/manual/index-and-sidecar#limits")
        page.get_by_role("link", name="HTTP API").click()
        assert page.url.endswith("/docs")
        page.get_by_role("navigation").get_by_role("link", name="howto").click()
        assert page.url.endswith("/manual/howto")
