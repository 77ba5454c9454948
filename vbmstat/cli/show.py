"""``vbmstat show``: draw any map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="Statistic map, p map, tissue map or scan: .nii, .nii.gz, .mgz.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Picture (.png, .svg, .pdf) or page (.html); by default a temporary file (path is printed)."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open interactive slices in the browser.")] = False,
    threshold: Annotated[
        float,
        typer.Option(help="Statistics: smaller absolute values fade. p maps: larger p are left out; default 0.05."),
    ] = 0.0,
    cut: Annotated[
        list[str] | None,
        typer.Option(help="Slices, mm: z=-20,0,20 or y=-60:40:20 (first:last:step); a row each, may be repeated."),
    ] = None,
    columns: Annotated[int, typer.Option(help="Slices in a row at most.")] = 7,
    crosshair: Annotated[
        str | None, typer.Option(help="x,y,z (mm) or peak; without --cut the three slices through it.")
    ] = None,
    contour: Annotated[
        list[float] | None, typer.Option(help="Outline this value (of statistics also its negative); may be repeated.")
    ] = None,
    contour_of: Annotated[Path | None, typer.Option(help="Outline another image, e.g. a region's mask.")] = None,
    limit: Annotated[float | None, typer.Option(help="End of the colour scale.")] = None,
    title: Annotated[str | None, typer.Option(help="Title; '' for none.")] = None,
    volume: Annotated[int | None, typer.Option(help="Which volume of a 4-D image, the first is 1.", min=1)] = None,
) -> None:
    """Draw a map on slices of the average brain, or open it in the browser."""
    import tempfile  # noqa: PLC0415 - heavy imports
    import webbrowser  # noqa: PLC0415

    from vbmstat.figures.view import View, parse_point  # noqa: PLC0415
    from vbmstat.image.io import read_volume  # noqa: PLC0415
    from vbmstat.report.show import peak_of, show_map  # noqa: PLC0415

    if out is None:
        name = file.name.split(".")[0] + (".html" if browser else ".png")
        out = Path(tempfile.mkdtemp(prefix="vbmstat-")) / name
    elif browser and out.suffix != ".html":
        msg = f"{out}: --browser writes a page; expected a path ending in .html"
        raise typer.BadParameter(msg)
    point = None
    if crosshair is not None:
        point = peak_of(file, volume) if crosshair == "peak" else parse_point(crosshair)
    outlined = None if contour_of is None else read_volume(contour_of)
    view = View(tuple(cut or ()), columns, limit, tuple(contour or ()), outlined, point, title)
    typer.echo(str(show_map(file, out, threshold, view, volume)))
    if browser:
        webbrowser.open(out.absolute().as_uri())
