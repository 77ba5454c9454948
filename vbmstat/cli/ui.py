"""``vbmstat ui``: the workbench in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[
        Path, typer.Argument(help="Output folder of preprocess, results of glm, or a BIDS folder.")
    ] = Path(),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 for any free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open the workbench: cohort, quality, design and results on a local web page that only this machine can open."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports inside the command

    try:
        from vbmstat.ui.server import serve  # noqa: PLC0415
    except ModuleNotFoundError as error:
        msg = (
            f"the workbench needs {str(error.name).split('.', 1)[0]}, which is not installed: pip install 'vbmstat[ui]'"
        )
        raise VbmstatError(msg) from error
    serve(folder, port, browser, typer.echo)
