"""The manual and the API's reference as HTML: ``/manual/``, its pages, and ``/docs``.

Owns how Markdown becomes a page that the guard's content-security policy allows: no script, no inline style, nothing
from elsewhere; HTML in a page is shown as text. The pages hold no data of a root, so they are as public as the page's
own files. A page is made when it is first asked for, in a thread, and kept.
"""
# No `from __future__ import annotations`: FastAPI reads the signatures.

import functools
import html
import os
import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Response

from ckpt_indexer.manual import FILES, FOLDER, TOPICS, read_page
from ckpt_indexer.web.reference import reference_of

_STYLE = os.path.join(os.path.dirname(__file__), "manual.css")
_KINDS = {".png": "image/png", ".json": "application/json", ".yml": "text/plain; charset=utf-8"}
_HEADERS = {"cache-control": "no-cache"}
_PAGE_LINK = re.compile(r"^([a-z-]+)\.md(#.*)?$")
_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} · ckpt-indexer</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" type="image/svg+xml" href="{top}assets/icon.svg">
<link rel="stylesheet" href="{pages}manual.css">
</head>
<body>
<a class="skip" href="#text">To the text</a>
<header><a class="brand" href="{top}">ckpt-indexer</a> <a href="{pages}./">Manual</a> <a href="{top}docs">HTTP API</a>
<a class="to-pages" href="#pages">Pages</a></header>
<div class="columns">
<main id="text">
{body}
</main>
<nav id="pages" aria-label="Pages"><ul>
{links}
</ul></nav>
</div>
</body>
</html>
"""


def add_manual(app: FastAPI) -> None:
    """Add the routes; they are no part of the API's description."""
    add = functools.partial(app.add_api_route, methods=["GET"], include_in_schema=False)

    def to_list() -> Response:
        return Response(status_code=308, headers={"location": "manual/"})  # relative: a proxy may add a prefix

    @functools.cache
    def reference() -> str:
        return _reference(app.openapi())

    add("/manual", to_list)
    add("/manual/", lambda: _as_html(_contents()))
    add("/manual/manual.css", lambda: _file(_STYLE, "text/css; charset=utf-8"))
    add("/manual/{name}", _page_or_file)
    add("/docs", lambda: _as_html(reference()))


def _page_or_file(name: str) -> Response:
    if name in TOPICS:
        return _as_html(_page(name))
    if name in FILES:
        return _file(os.path.join(FOLDER, name), _KINDS[os.path.splitext(name)[1]])
    raise HTTPException(404, "there is no such page in the manual")


def _as_html(text: str) -> Response:
    return Response(text, media_type="text/html; charset=utf-8", headers=_HEADERS)


def _file(path: str, kind: str) -> Response:
    with open(path, "rb") as file:
        return Response(file.read(), media_type=kind, headers=_HEADERS)


@functools.cache
def _page(topic: str) -> str:
    return _shell(read_page(topic), here=topic, top="../", pages="")


@functools.cache
def _contents() -> str:
    rows = "\n".join(f"- [{topic}]({topic}.md): {text}" for topic, text in TOPICS.items())
    return _shell(f"# The manual\n\n{rows}\n", here="", top="../", pages="")


def _reference(described: dict[str, Any]) -> str:
    about = f"# HTTP API {described['info']['version']}\n\n[`openapi.json`](openapi.json) is the same for programs. "
    text = about + "What the routes promise beyond this is in the [manual](http.md).\n\n" + reference_of(described)
    return _shell(text, here="docs", top="./", pages="manual/")


def _shell(text: str, *, here: str, top: str, pages: str) -> str:
    """Build the frame around a rendered page; *top* and *pages* lead to the server's root and to the manual."""
    links = "\n".join(
        f'<li><a href="{pages}{topic}"{" aria-current=page" if topic == here else ""}>{topic}</a></li>'
        for topic in TOPICS
    )
    title = re.sub(r"[`*]", "", text.partition("\n")[0].lstrip("# "))
    body = render(text, pages=pages)
    return _SHELL.format(title=html.escape(title), top=top, pages=pages, links=links, body=body)


@functools.cache
def _markdown() -> Any:
    """Build the renderer: tables, and no HTML of the page's own."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    # What is wider than the window is scrolled by itself; a keyboard scrolls only what it can focus.
    markdown.add_render_rule("table_open", lambda *_: '<div class="scroll" tabindex="0"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    markdown.add_render_rule("fence", _render_block)
    return markdown


def _render_block(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return f'<pre tabindex="0"><code>{html.escape(tokens[index].content)}</code></pre>\n'


def render(text: str, *, pages: str = "") -> str:
    """Render Markdown as HTML; links to ``TOPIC.md`` lead below *pages*, headings have GitHub's anchors."""
    markdown = _markdown()
    tokens = markdown.parse(text)
    seen: dict[str, int] = {}
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            token.attrSet("id", anchor_of(following.content, seen))
        elif token.type in ("th_open", "td_open"):
            token.attrs.pop("style", None)  # of aligned columns; the policy would drop it with a warning
        _follow_links(token.children or (), pages)
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _follow_links(tokens: Sequence[Any], pages: str) -> None:
    for token in tokens:
        if token.type == "link_open" and (match := _PAGE_LINK.match(str(token.attrs["href"]))):
            token.attrSet("href", f"{pages}{match[1]}{match[2] or ''}")


def anchor_of(heading: str, seen: dict[str, int]) -> str:
    """Return a heading's anchor as GitHub makes it; *seen* counts those of the page so far.

    >>> counts = {}
    >>> anchor_of("The index, version 1.0", counts), anchor_of("`GET /api`", counts), anchor_of("`GET /api`", counts)
    ('the-index-version-10', 'get-api', 'get-api-1')
    """
    name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    count = seen.get(name, 0)
    seen[name] = count + 1
    return f"{name}-{count}" if count else name
