"""The application that ``serve`` runs: the routes, the page, the manual, and the guard around them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.staticfiles import StaticFiles

from ckpt_indexer import __version__
from ckpt_indexer.web.api import Api
from ckpt_indexer.web.guard import Guard, is_public
from ckpt_indexer.web.manual import add_manual
from ckpt_indexer.web.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

STATIC = os.path.join(os.path.dirname(__file__), "static")
_NO_PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>ckpt-indexer</title>
<h1>The page is not built</h1>
<p>The API is there: <a href="api/checkpoints">api/checkpoints</a>, <a href="docs">its reference</a>.
<a href="manual/">The manual</a> is there, too.</p>
<p>From a clone, <code>python ckpt_indexer/web/page/build.py</code> builds the page; the released package holds it.</p>
"""


def create_app(root: str | os.PathLike[str], settings: ServerSettings | None = None) -> Application:
    """Make the application for the index of *root*; it reads nothing before ``preload``, or the first request."""
    return Application(os.fspath(root), settings or ServerSettings())


class Application:
    """An ASGI application: FastAPI behind the guard."""

    def __init__(self, root: str, settings: ServerSettings) -> None:
        self.api = Api(root, streams_max=settings.streams_max)
        self.fastapi = _Described(
            title="ckpt-indexer", version=__version__, description="The checkpoints below one folder. Read-only.",
            docs_url=None, redoc_url=None,  # they would load scripts from elsewhere; ``manual`` has our own /docs
            redirect_slashes=False,
        )  # fmt: skip
        self.fastapi.include_router(self.api.router)
        self.fastapi.needs_token = settings.token is not None
        self.fastapi.add_exception_handler(Exception, _fail)
        _add_page(self.fastapi)
        add_manual(self.fastapi)
        self._asgi: ASGIApp = Guard(self.fastapi, settings=settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)


class _Described(FastAPI):
    """Describes where the guard wants a token."""

    needs_token = False

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        if self.needs_token:
            described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in described["paths"].items():
                if not is_public(path):
                    answer = {"application/json": {"schema": {"$ref": "#/components/schemas/Detail"}}}
                    methods["get"]["security"] = [{"token": []}]
                    methods["get"]["responses"]["401"] = {"description": "A token is needed.", "content": answer}
        return described


async def _fail(_: Request, __: Exception) -> Response:
    """Answer that it is our fault; the traceback is in the log."""
    return Response(b'{"detail":"the server failed: its log says why"}', 500, media_type="application/json")


class _Assets(StaticFiles):
    """The page's files; one with a hash of its content in its name never changes."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        is_hashed = "-" in os.path.basename(path)
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
        return response


def _add_page(app: FastAPI) -> None:
    """Serve the page's files: those that were built, by name, and nothing else."""
    index = os.path.join(STATIC, "index.html")
    assets = os.path.join(STATIC, "assets")

    async def page() -> Response:
        try:
            with open(index, "rb") as file:  # noqa: ASYNC230 - 2 kB of our own package
                body = file.read()
        except OSError:
            body = _NO_PAGE
        return Response(body, media_type="text/html; charset=utf-8", headers={"cache-control": "no-cache"})

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    if os.path.isdir(assets):
        app.mount("/assets", GZipMiddleware(_Assets(directory=assets)), name="assets")
