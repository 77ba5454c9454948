"""The routes of the workbench: each calls one function and answers with JSON, or with a sentence on what is wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from vbmstat.errors import VbmstatError
from vbmstat.tables import exclusions
from vbmstat.tables.selection import EXCLUSIONS
from vbmstat.ui import cohort, design, images, results, scan
from vbmstat.ui.answers import HANDLERS, KEPT, TYPES, export_headers, file_answer, json_route
from vbmstat.ui.folders import Desk
from vbmstat.ui.jobs import Jobs, events
from vbmstat.ui.places import Places
from vbmstat.ui.plain import plain
from vbmstat.ui.security import DOCUMENT, Guard
from vbmstat.ui.study import MissingError, Study

STATIC = Path(__file__).parent / "static"
_UNBUILT = (
    "The page of the workbench was not built. In the copy of the repository run `make ui` (it needs node 20 or newer), "
    'install vbmstat again (pip install ".[ui]"), and load this page again.'
)
_MOST_READY = 500  # scans


def make_app(study: Study, token: str, port: int) -> Guard:
    """The ASGI application that serves a folder, or the study in it that the page opens.

    Parameters
    ----------
    study : Study
        The folder.
    token : str
        What the browser must show.
    port : int
        Of the server.
    """
    desk = Desk(study, _study_app)
    routes: list[BaseRoute] = [
        Route("/", _page),
        Route("/app/{path:path}", _static),
        Route("/api/folders", json_route(desk.folders)),
        Route("/api/folders", json_route(desk.open, "PUT"), methods=["PUT"]),
        Mount("/", desk),
    ]

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

    app = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=life)
    app.state.desk = desk
    return Guard(app, token, port)


def _study_app(study: Study) -> Starlette:
    """What is asked about a study."""
    api = _Api(study)
    routes: list[BaseRoute] = [
        Route("/api/folder", json_route(api.folder)),
        Route("/api/cohort", json_route(lambda _: cohort.cohort(study))),
        Route(
            "/api/scans/{scan:path}",
            json_route(lambda request: scan.scan_details(study, request.path_params["scan"])),
        ),
        Route("/api/thumbnails/{scan:path}", api.thumbnail),
        Route("/api/file/{path:path}", api.file),
        Route("/api/assets/template.nii.gz", api.template),
        Route("/api/assets/atlas.nii.gz", api.atlas),
        Route("/api/assets/atlas.json", json_route(lambda _: images.atlas_names())),
        Route("/api/results", json_route(lambda _: results.results(study))),
        _Sent("/api/results/{id}/places", json_route(lambda asked: api.places.look(_id(asked), asked.query_params))),
        _Sent("/api/results/{id}/regions", json_route(lambda asked: results.regions(study, _id(asked)))),
        _Sent("/api/results/{id}/table", api.table),
        _Sent("/api/results/{id}/figure", api.figure),
        _Sent("/api/results/{id}", json_route(api.result)),
        Route("/api/pairs", json_route(api.pairs)),
        Route(
            "/api/designs", json_route(lambda asked: design.design(study, asked.state.body), "POST"), methods=["POST"]
        ),
        Route("/api/jobs", json_route(lambda _: [job.record() for job in api.jobs.all()])),
        Route("/api/jobs", json_route(api.start, "POST"), methods=["POST"]),
        Route("/api/jobs/{job}", json_route(api.stop), methods=["DELETE"]),
        Route("/api/jobs/{job}/resume", json_route(api.resume), methods=["POST"]),
        Route("/api/jobs/{job}/events", api.events),
        Route("/api/exclusions", json_route(api.exclusions)),
        Route("/api/exclusions/{scan:path}", json_route(api.exclude, "PUT"), methods=["PUT"]),
        Route("/api/exclusions/{scan:path}", json_route(api.include), methods=["DELETE"]),
    ]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    app.state.places = api.places
    return app


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
        path = scan.picture(self.study, request.path_params["scan"])
        return Response(images.thumbnail(path), media_type="image/jpeg", headers=KEPT)

    def file(self, request: Request) -> Response:
        """A file of the folder."""
        path = self.study.path(request.path_params["path"])
        if not path.is_file():
            msg = f"{request.path_params['path']!r}: expected a file, got a folder"
            raise MissingError(msg)
        return file_answer(request, path)

    def template(self, _: Request) -> Response:
        """The average brain."""
        return Response(images.template_bytes(), media_type="application/octet-stream", headers=KEPT)

    def atlas(self, request: Request) -> Response:
        """The atlas."""
        return file_answer(request, images.atlas_path())

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
        return Response(text, media_type=TYPES[".tsv"], headers=export_headers(f"{picked.label}_clusters.tsv", made))

    def figure(self, request: Request) -> Response:
        """A picture of a map above a height."""
        picked, form = (
            results.Picked.of(self.study, _id(request), request.query_params),
            request.query_params.get("format", "svg"),
        )
        content, made = picked.figure(form, request.query_params.get("at", ""))
        headers = export_headers(f"{picked.label}_figure.{form}", made) | {"content-security-policy": DOCUMENT}
        return Response(content, media_type=TYPES[f".{form}"], headers=headers)

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


def _page(request: Request) -> Response:
    """The page."""
    if not (STATIC / "index.html").is_file():
        return Response(_UNBUILT, media_type="text/plain")
    return file_answer(request, STATIC / "index.html", {})


def _static(request: Request) -> Response:
    """A file of the built page."""
    path = (STATIC / request.path_params["path"]).resolve()
    if not path.is_relative_to(STATIC.resolve()) or not path.is_file():
        msg = f"{request.path_params['path']!r}: no such file of the page"
        raise MissingError(msg)
    return file_answer(request, path, {})
