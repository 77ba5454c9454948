"""Who may ask: this machine's browser with the token, from the page itself; and what answers may load.

A page of another site can make a browser send requests to 127.0.0.1. So the name in Host must be that of this server
(DNS rebinding), Origin and Sec-Fetch-Site must be its own, and the token is in a cookie, which other sites cannot make
the browser send. Bodies are small: a large one is refused before it is read.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
MOST_BYTES = 1 << 20  # of a request
_TOO_LARGE = f"expected a request of at most {MOST_BYTES:,} bytes; scans are read from the folder, not uploaded"
_NAMES = (LOOPBACK, "localhost", "[::1]")
_PAGE = (  # data: images are the letters on the viewer's slices
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# A report opens in a frame as if it came from nowhere: its scripts can reach neither the page nor the server.
DOCUMENT = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval' data:; font-src data:; frame-src data: blob:; frame-ancestors 'self'"
)


def new_token() -> str:
    """A random token, 256 bits."""
    return secrets.token_urlsafe(32)


@dataclass
class Guard:
    """ASGI middleware that lets only the own page in.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    token : str
        The secret.
    port : int
        Of the server.
    """

    app: ASGIApp
    token: str
    port: int
    cookie: str = field(init=False)

    def __post_init__(self) -> None:
        self.cookie = f"vbmstat-{self.port}"  # cookies do not know ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers) or self._login(scope, headers)
        if answer is not None:
            await answer(scope, receive, _with_headers(send))
            return
        await self.app(scope, _Limited(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why a request is refused whoever asks."""
        hosts = {f"{name}:{self.port}" for name in _NAMES}
        if headers.get("host", "") not in hosts:
            return _error(403, "this server answers only to its own address; open the one that vbmstat ui printed")
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            return _error(403, "a page of another origin asked; only the workbench's own page may")
        if not _is_entry(scope) and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _error(403, "a page of another site asked; only the workbench's own page may")
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            length = MOST_BYTES + 1
        return _error(413, _TOO_LARGE) if length > MOST_BYTES else None

    def _login(self, scope: Scope, headers: Headers) -> Response | None:
        """An answer to who has no cookie with the token yet, or gives the token in the address; None if all is well."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if _is_entry(scope) else ""
        if given and _same(given, self.token):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            return answer
        shown = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        if not given and _same(shown, self.token):
            return None
        message = "the token is missing or wrong; open the address that vbmstat ui printed in the terminal"
        return Response(message, 403, media_type="text/plain") if scope["path"] == "/" else _error(403, message)


def _is_entry(scope: Scope) -> bool:
    """Whether a request is for the address that the terminal shows."""
    return scope["path"] == "/" and scope["method"] == "GET" and b"token=" in scope["query_string"]


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


class _Limited:
    """Receives a body up to its largest size."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._read = receive, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > MOST_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message


def _with_headers(send: Send) -> Send:
    """Adds what every answer has: what it may load, and that nobody else may embed or read it."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            defaults: dict[str, Any] = {
                "content-security-policy": _PAGE, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
                "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
                "cache-control": "no-store",
            }  # fmt: skip
            for name, value in defaults.items():
                headers.setdefault(name, value)
        await send(message)

    return wrapped
