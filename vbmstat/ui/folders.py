"""The studies in the folder that was given to `vbmstat ui`, and which of them is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from vbmstat.errors import VbmstatError
from vbmstat.files.search import is_bids
from vbmstat.glm.record import RECORD
from vbmstat.image.headers import SCAN_SUFFIXES
from vbmstat.ui.study import COHORT, INPUTS, Study, subfolders

_HEADER = "vbmstat-folder"  # of a request: the folder that the page shows, percent-encoded
_DEPTH = 3  # folders below the given one that are searched
_MOST = 200


class Desk:
    """ASGI application that serves one study: the given folder, until the page opens one inside it.

    Parameters
    ----------
    given : Study
        The folder of the command line; nothing outside it is ever served.
    serve : callable
        Makes the application of a study; its state has the `places` to close.
    """

    def __init__(self, given: Study, serve: Callable[[Study], Starlette]) -> None:
        self.given, self._serve = given, serve
        self.study, self.app = given, serve(given)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the open study; a page that shows another one, in a second tab, is told so."""
        shown = unquote(Headers(scope=scope).get(_HEADER, ""))
        if shown and shown != str(self.study.root):
            text = f"the workbench has {self.study.root} open by now, this page shows {shown}: load the page again"
            await JSONResponse({"error": text}, 409)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def folders(self, _: Request) -> dict[str, Any]:
        """The given folder, the open one, and the studies to choose from."""
        self.given.check()
        found = {"." if path == self.given.root else self.given.relative(path): what for path, what in self._studies()}
        return {
            "given": str(self.given.root), "open": self.given.relative(self.study.root),
            "folders": [{"path": path, "what": what} for path, what in sorted(found.items())],
        }  # fmt: skip

    def open(self, request: Request) -> dict[str, Any]:
        """Open a folder, `path` inside the given one; its jobs go on, whichever folder is open."""
        asked = request.state.body.get("path")
        path = self.given.path("" if asked == "." else str(asked))
        if not path.is_dir():
            msg = f"{asked!r}: expected a folder, got a file"
            raise VbmstatError(msg)
        self.close()
        self.study = Study(path)
        self.app = self._serve(self.study)
        return {"path": str(path)}

    def close(self) -> None:
        """Delete what the open study keeps in temporary folders."""
        self.app.state.places.close()

    def _studies(self) -> Iterator[tuple[Path, str]]:
        """Folders to open and what each is, at most `_MOST`; nothing below a study is one of its own."""
        level = [self.given.root]
        left = _MOST
        for _ in range(_DEPTH + 1):
            below: list[Path] = []
            for folder in level:
                what = _what(folder)
                if what and left:
                    left -= 1
                    yield folder, what
                if not what or folder == self.given.root:
                    below += subfolders(folder)
            level = below


def _what(folder: Path) -> str | None:
    """What is in a folder that the workbench can show; None if nothing is."""
    try:
        if (folder / COHORT).is_file():
            with (folder / COHORT).open("rb") as lines:
                return f"{_counted(sum(1 for _ in lines) - 1, 'scan')}, preprocessed"
        if (folder / INPUTS).is_file():
            return "scans that are being preprocessed"
        if is_bids(folder):
            return f"BIDS: {_counted(sum(1 for path in folder.glob('sub-*') if path.is_dir()), 'participant')}"
        models = [path for path in (folder, *subfolders(folder)) if (path / RECORD).is_file()]
        if models:
            return _counted(len(models), "model")
        images = [path for path in folder.iterdir() if path.name.endswith(SCAN_SUFFIXES) and path.is_file()]
        return _counted(len(images), "image") if images else None
    except OSError:  # no permission to look inside
        return None


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
