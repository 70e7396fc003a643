"""Who may ask, and what: around the whole application, before any route.

Owns, in this order: the length of the target, the Host header (a page of somebody else's site whose name was made to
point at this address must not read answers: DNS rebinding), the method, cross-origin reading, the token, and the
headers that keep a browser from running anything that is not ours. Plain ASGI, without a task or a copy of its own.
Starlette's TrustedHostMiddleware and CORSMiddleware do not fit into this order: the first knows no "any address, but no
foreign name", the second answers preflights before the method is judged and adds nothing to refusals, and both answer
in plain text where every refusal here is ``{"detail": ...}``.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ckpt_indexer.web.settings import ServerSettings

TARGET_MAX = 14_000  # bytes of path and query: a key of 4,096 bytes, each percent-encoded, and room
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_PREFLIGHT_SECONDS = b"600"
_ASKED_HEADERS = b"Authorization, If-None-Match, Last-Event-ID"


class Guard:
    """ASGI middleware: answers what may not pass, and sets headers on what does."""

    def __init__(self, app: ASGIApp, *, settings: ServerSettings) -> None:
        self._app = app
        self._hosts = settings.hosts
        self._takes_addresses = not settings.is_loopback
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        token = settings.token
        self._credentials = None if token is None else b"Bearer " + token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        added = SAFE_HEADERS
        if self._origins:
            # Another origin's page may only read what a browser lets it: without this header, nothing.
            allowed = ((b"access-control-allow-origin", origin),) if origin in self._origins and origin else ()
            added = tuple(pair for pair in SAFE_HEADERS if pair[0] != b"cross-origin-resource-policy" or not allowed)
            added = (*added, *allowed, (b"vary", b"Origin"), (b"access-control-expose-headers", b"ETag"))

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self._app(scope, receive, send_safely)
        else:
            await _answer(send_safely, *refusal)

    def _refusal(
        self, scope: Scope, headers: dict[bytes, bytes]
    ) -> tuple[int, str, tuple[tuple[bytes, bytes], ...]] | None:
        """Return why a request may not pass; ``None`` if it may."""
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > TARGET_MAX:
            return 414, f"the address is longer than {TARGET_MAX} bytes", ()
        if not self._is_own_host(headers.get(b"host", b"")):
            return 421, "this server is not known under that name: see --allowed-hosts", ()
        if scope["method"] != "GET":
            if scope["method"] == "OPTIONS" and headers.get(b"origin") in self._origins:
                allowed = (
                    (b"access-control-allow-methods", b"GET"), (b"access-control-allow-headers", _ASKED_HEADERS),
                    (b"access-control-max-age", _PREFLIGHT_SECONDS),
                )  # fmt: skip
                return 204, "", allowed
            return 405, "this server answers GET only", ((b"allow", b"GET"),)
        if self._credentials is not None and not is_public(scope["path"]):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._credentials):
                return 401, "a token is needed: Authorization: Bearer …", ((b"www-authenticate", b"Bearer"),)
        return None

    def _is_own_host(self, header: bytes) -> bool:
        host = header.decode("latin-1").lower()
        name, bracket, rest = host.partition("]") if host.startswith("[") else host.rpartition(":")
        if bracket == "]":
            name = name + "]"
            is_port = not rest or (rest[0] == ":" and rest[1:].isdecimal())
        elif bracket:
            is_port = rest.isdecimal()
        else:
            name, is_port = rest, True
        name = name.removesuffix(".")
        return is_port and (name in self._hosts or (self._takes_addresses and _is_address(name)))


def is_public(path: str) -> bool:
    """Return whether anybody may read a path: the page's own files, which hold no data, and the sign of life."""
    return path in ("/", "/healthz", "/favicon.ico") or path.startswith("/assets/")


def _is_address(name: str) -> bool:
    """Return whether a host is an address: no name can be made to point elsewhere, so there is nothing to rebind."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


async def _answer(send: Send, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    body = b"" if status == 204 else msgspec.json.encode({"detail": detail})
    kind = () if status == 204 else ((b"content-type", b"application/json"),)
    about = [*kind, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": about})
    await send({"type": "http.response.body", "body": body})
