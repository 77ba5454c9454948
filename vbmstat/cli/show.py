"""``vbmstat show``: draw any map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="Statistic map, tissue map or scan: .nii, .nii.gz, .mgz.")],
    out: Annotated[
        Path | None, typer.Option(help="Picture (.png) or page (.html); by default a temporary file (path is printed).")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open interactive slices in the browser.")] = False,
    threshold: Annotated[
        float, typer.Option(help="Statistics: smaller absolute values fade. p maps: larger p are left out [0.05].")
    ] = 0.0,
) -> None:
    """Draw a map on slices of the average brain, or open it in the browser."""
    import tempfile  # noqa: PLC0415 - heavy imports
    import webbrowser  # noqa: PLC0415

    from vbmstat.report.show import show_map  # noqa: PLC0415

    if out is None:
        name = file.name.split(".")[0] + (".html" if browser else ".png")
        out = Path(tempfile.mkdtemp(prefix="vbmstat-")) / name
    elif browser and out.suffix != ".html":
        msg = f"{out}: --browser writes a page; expected a path ending in .html"
        raise typer.BadParameter(msg)
    typer.echo(str(show_map(file, out, threshold)))
    if browser:
        webbrowser.open(out.absolute().as_uri())
