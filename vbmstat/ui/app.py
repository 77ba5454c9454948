"""The routes of the workbench: each calls one function and answers with JSON, or with a sentence on what is wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from vbmstat.errors import VbmstatError
from vbmstat.tables import exclusions
from vbmstat.tables.selection import EXCLUSIONS
from vbmstat.ui import cohort, design, images, results
from vbmstat.ui.commands import command_line
from vbmstat.ui.jobs import Jobs, events
from vbmstat.ui.places import Places
from vbmstat.ui.plain import plain
from vbmstat.ui.security import DOCUMENT, Guard
from vbmstat.ui.study import MissingError, RefusedError, Study

STATIC = Path(__file__).parent / "static"
_UNBUILT = (
    "The page of the workbench was not built. In the copy of the repository run `make ui` (it needs node 20 or newer), "
    'install vbmstat again (pip install ".[ui]"), and load this page again.'
)
_TYPES = {
    ".gz": "application/octet-stream", ".nii": "application/octet-stream", ".png": "image/png", ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values", ".json": "application/json", ".html": "text/html", ".log": "text/plain",
    ".jpg": "image/jpeg", ".txt": "text/plain", ".pdf": "application/pdf", ".js": "text/javascript", ".css": "text/css",
    ".wasm": "application/wasm", ".woff2": "font/woff2", ".map": "application/json",
}  # fmt: skip
_MOST_READY = 500  # scans
_KEPT = {"cache-control": "private, max-age=86400, immutable"}  # addresses that change with the file
Answer = Callable[[Request], Any]


def make_app(study: Study, token: str, port: int) -> Guard:
    """The ASGI application that serves a folder.

    Parameters
    ----------
    study : Study
        The folder.
    token : str
        What the browser must show.
    port : int
        Of the server.
    """
    api = _Api(study)
    routes: list[BaseRoute] = [
        Route("/", _page),
        Route("/app/{path:path}", _static),
        Route("/api/folder", _json(api.folder)),
        Route("/api/cohort", _json(lambda _: cohort.cohort(study))),
        Route("/api/scans/{scan:path}", _json(lambda request: cohort.scan_details(study, request.path_params["scan"]))),
        Route("/api/thumbnails/{scan:path}", api.thumbnail),
        Route("/api/file/{path:path}", api.file),
        Route("/api/assets/template.nii.gz", api.template),
        Route("/api/assets/atlas.nii.gz", api.atlas),
        Route("/api/assets/atlas.json", _json(lambda _: images.atlas_names())),
        Route("/api/results", _json(lambda _: results.results(study))),
        _Sent("/api/results/{id}/places", _json(lambda asked: api.places.look(_id(asked), asked.query_params))),
        _Sent("/api/results/{id}/regions", _json(lambda asked: results.regions(study, _id(asked)))),
        _Sent("/api/results/{id}/table", api.table),
        _Sent("/api/results/{id}/figure", api.figure),
        _Sent("/api/results/{id}", _json(api.result)),
        Route("/api/pairs", _json(api.pairs)),
        Route("/api/designs", _json(lambda asked: design.design(study, asked.state.body), "POST"), methods=["POST"]),
        Route("/api/jobs", _json(lambda _: [job.record() for job in api.jobs.all()])),
        Route("/api/jobs", _json(api.start, "POST"), methods=["POST"]),
        Route("/api/jobs/{job}", _json(api.stop), methods=["DELETE"]),
        Route("/api/jobs/{job}/resume", _json(api.resume), methods=["POST"]),
        Route("/api/jobs/{job}/events", api.events),
        Route("/api/exclusions", _json(api.exclusions)),
        Route("/api/exclusions/{scan:path}", _json(api.exclude, "PUT"), methods=["PUT"]),
        Route("/api/exclusions/{scan:path}", _json(api.include), methods=["DELETE"]),
    ]
    handlers = {VbmstatError: _sentence, OSError: _sentence, HTTPException: _http_error, Exception: _unexpected}

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        api.places.close()

    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=life)  # type: ignore[arg-type]
    app.state.places = api.places
    return Guard(app, token, port)


class _Api:
    """Answers that need more than a call."""

    def __init__(self, study: Study) -> None:
        self.study, self.places = study, Places(study)
        self.jobs, self._ready = Jobs(study), ""

    def folder(self, _: Request) -> dict[str, Any]:
        """What the folder holds."""
        results = [self.study.relative(path) for path in self.study.results()]
        return cohort.summary(self.study, len(results)) | {"results": results}

    def thumbnail(self, request: Request) -> Response:
        """A small picture of a scan."""
        path = cohort.picture(self.study, request.path_params["scan"])
        return Response(images.thumbnail(path), media_type="image/jpeg", headers=_KEPT)

    def file(self, request: Request) -> Response:
        """A file of the folder."""
        path = self.study.path(request.path_params["path"])
        if not path.is_file():
            msg = f"{request.path_params['path']!r}: expected a file, got a folder"
            raise MissingError(msg)
        return _file(request, path)

    def template(self, _: Request) -> Response:
        """The average brain."""
        return Response(images.template_bytes(), media_type="application/octet-stream", headers=_KEPT)

    def atlas(self, request: Request) -> Response:
        """The atlas."""
        return _file(request, images.atlas_path())

    def result(self, request: Request) -> dict[str, Any]:
        """A model; its maps are got ready for clicks if they are not too many to be read unasked."""
        told = results.result_details(self.study, _id(request))
        if told["n_scans"] <= _MOST_READY and told["id"] != self._ready:
            self._ready = told["id"]
            self.places.prepare(told["id"])
        return told

    def table(self, request: Request) -> Response:
        """Clusters above a height."""
        picked = results.Picked.of(self.study, _id(request), request.query_params)
        if request.query_params.get("format", "json") != "tsv":
            return JSONResponse(plain(picked.rows()))
        table, made = picked.table()
        text = table.to_csv(sep="\t", na_rep="n/a", index=False, lineterminator="\n")
        return Response(text, media_type=_TYPES[".tsv"], headers=_export(f"{picked.label}_clusters.tsv", made))

    def figure(self, request: Request) -> Response:
        """A picture of a map above a height."""
        picked, form = (
            results.Picked.of(self.study, _id(request), request.query_params),
            request.query_params.get("format", "svg"),
        )
        content, made = picked.figure(form, request.query_params.get("at", ""))
        headers = _export(f"{picked.label}_figure.{form}", made) | {"content-security-policy": DOCUMENT}
        return Response(content, media_type=_TYPES[f".{form}"], headers=headers)

    def pairs(self, request: Request) -> dict[str, Any]:
        """Two results."""
        asked = request.query_params
        return results.pairs(self.study, asked.get("first", ""), asked.get("second", ""), asked.get("contrast"))

    def start(self, request: Request) -> dict[str, Any]:
        """Start a job."""
        body = request.state.body
        options = body.get("options") or {}
        if not isinstance(options, dict):
            msg = "options: expected a JSON object"
            raise VbmstatError(msg)
        return {"id": self.jobs.start(str(body.get("command")), options).folder.name}

    def stop(self, request: Request) -> dict[str, Any]:
        """Stop a job."""
        job = self.jobs.find(request.path_params["job"])
        job.stop()
        return job.record()

    def resume(self, request: Request) -> dict[str, Any]:
        """Start a job again."""
        job = self.jobs.find(request.path_params["job"])
        job.start()
        return job.record()

    async def events(self, request: Request) -> Response:
        """What a job says, as server-sent events; a browser that comes back goes on after its last one."""
        job, last = self.jobs.find(request.path_params["job"]), request.headers.get("last-event-id", "")

        async def stream() -> AsyncIterator[str]:
            async for event in events(job, int(last) if last.isdecimal() else 0):
                yield f"id: {event.pop('id')}\ndata: {json.dumps(event)}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    def exclusions(self, _: Request) -> dict[str, Any]:
        """The rows of exclusions.tsv."""
        path = self.study.run / EXCLUSIONS
        return {"path": self.study.relative(path), "rows": exclusions.exclusion_rows(path)}

    def exclude(self, request: Request) -> dict[str, Any]:
        """Leave a scan out."""
        key = cohort.key_of(self.study, request.path_params["scan"])
        reason = request.state.body.get("reason")
        with self.study.lock("exclusions"):
            exclusions.exclude(self.study.run / EXCLUSIONS, key, reason if isinstance(reason, str) else "")
        return self.exclusions(request)

    def include(self, request: Request) -> dict[str, Any]:
        """Take a scan in again."""
        key = cohort.key_of(self.study, request.path_params["scan"])
        with self.study.lock("exclusions"):
            exclusions.include(self.study.run / EXCLUSIONS, key)
        return self.exclusions(request)


class _Sent(Route):
    """A route that is matched with the address as it was sent: a result may be called `regions`, or hold a slash."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether it answers, and with what parameters."""
        return super().matches({**scope, "path": scope["raw_path"].decode("latin-1")})


def _id(request: Request) -> str:
    return unquote(request.path_params["id"])


def _export(name: str, made: list[str]) -> dict[str, str]:
    """Headers of a file to keep: its name, and the command that makes it, percent-encoded."""
    return {"content-disposition": f'inline; filename="{name}"', "vbmstat-command": quote(command_line(made))}


def _json(answer: Answer, method: str = "GET") -> Callable[[Request], Any]:
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


def _page(request: Request) -> Response:
    """The page."""
    if not (STATIC / "index.html").is_file():
        return Response(_UNBUILT, media_type="text/plain")
    return _file(request, STATIC / "index.html", {})


def _static(request: Request) -> Response:
    """A file of the built page."""
    path = (STATIC / request.path_params["path"]).resolve()
    if not path.is_relative_to(STATIC.resolve()) or not path.is_file():
        msg = f"{request.path_params['path']!r}: no such file of the page"
        raise MissingError(msg)
    return _file(request, path, {})


def _file(request: Request, path: Path, headers: dict[str, str] | None = None) -> Response:
    """A file with its type and ETag; what a browser would run is served in a sandbox."""
    suffix = path.suffix.lower()
    if headers is None:
        headers = {"content-security-policy": DOCUMENT} if suffix in (".html", ".svg", ".htm", ".xml") else {}
    kept = _KEPT if "v" in request.query_params else {"cache-control": "private, no-cache"}
    answer = FileResponse(path, media_type=_TYPES.get(suffix, "application/octet-stream"), headers=kept | headers)
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
