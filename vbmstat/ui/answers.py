"""How answers go out: JSON, files with their types and sandboxes, and a sentence on what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from vbmstat.errors import VbmstatError
from vbmstat.ui.commands import command_line
from vbmstat.ui.plain import plain
from vbmstat.ui.security import DOCUMENT
from vbmstat.ui.study import MissingError, RefusedError

TYPES = {
    ".gz": "application/octet-stream", ".nii": "application/octet-stream", ".png": "image/png", ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values", ".json": "application/json", ".html": "text/html", ".log": "text/plain",
    ".jpg": "image/jpeg", ".txt": "text/plain", ".pdf": "application/pdf", ".js": "text/javascript", ".css": "text/css",
    ".wasm": "application/wasm", ".woff2": "font/woff2", ".map": "application/json",
}  # fmt: skip
KEPT = {"cache-control": "private, max-age=86400, immutable"}  # addresses that change with the file
Answer = Callable[[Request], Any]


def export_headers(name: str, made: list[str]) -> dict[str, str]:
    """Headers of a file to keep: its name, and the command that makes it, percent-encoded."""
    return {"content-disposition": f'inline; filename="{name}"', "vbmstat-command": quote(command_line(made))}


def json_route(answer: Answer, method: str = "GET") -> Callable[[Request], Any]:
    """A route that answers with JSON, made in a thread; of other methods than GET the body is a JSON object."""

    async def endpoint(request: Request) -> Response:
        request.state.body = {}
        if method != "GET":
            try:
                request.state.body = await request.json()
            except (ValueError, RecursionError):
                request.state.body = None
            if not isinstance(request.state.body, dict):
                return JSONResponse({"error": "expected a JSON object as the body of the request"}, 400)
        content = await run_in_threadpool(lambda: json.dumps(plain(answer(request)), ensure_ascii=False))
        return Response(content.encode("utf-8", "backslashreplace"), media_type="application/json")

    return endpoint


def file_answer(request: Request, path: Path, headers: dict[str, str] | None = None) -> Response:
    """A file with its type and ETag; what a browser would run is served in a sandbox."""
    suffix = path.suffix.lower()
    if headers is None:
        headers = {"content-security-policy": DOCUMENT} if suffix in (".html", ".svg", ".htm", ".xml") else {}
    kept = KEPT if "v" in request.query_params else {"cache-control": "private, no-cache"}
    answer = FileResponse(path, media_type=TYPES.get(suffix, "application/octet-stream"), headers=kept | headers)
    answer.set_stat_headers(path.stat())
    if request.headers.get("if-none-match") == answer.headers["etag"]:
        return Response(status_code=304, headers={"etag": answer.headers["etag"], **kept})
    return answer


def _sentence(_: Request, error: Exception) -> Response:
    """An error that a user can act on."""
    status = (
        404 if isinstance(error, MissingError | FileNotFoundError) else 403 if isinstance(error, RefusedError) else 400
    )
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}; check the folder and load the page again"
    return JSONResponse({"error": text.encode("utf-8", "backslashreplace").decode()}, status)


def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)


def _unexpected(_: Request, error: Exception) -> Response:
    """A fault of the program; its trace is for the terminal, where starlette passes it on to uvicorn."""
    text = "something went wrong in vbmstat itself; the terminal says more, please report it"
    return JSONResponse({"error": f"{text} ({type(error).__name__})"}, 500)


HANDLERS: dict[Any, Any] = {
    VbmstatError: _sentence,
    OSError: _sentence,
    HTTPException: _http_error,
    Exception: _unexpected,
}
