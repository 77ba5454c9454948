"""``vbmstat plot``: look at one voxel, peak or region of a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[Path, typer.Argument(help="Result folder of vbmstat glm.")],
    at: Annotated[str, typer.Option(help="x,y,z (mm), a region as the table of peaks names it, or peak.")] = "peak",
    contrast: Annotated[str | None, typer.Option(help="Name of the contrast; default the first.")] = None,
    by: Annotated[str | None, typer.Option(help="Column of the model's table that colours the points.")] = None,
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Folder with the table and the maps, if they moved. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the figure; default plots in the result folder.")] = None,
) -> None:
    """Plot adjusted data, fit and residuals at a voxel or region of a model, and name the influential scans."""
    from vbmstat.report.look import look_at, write_look  # noqa: PLC0415 - heavy imports inside the command

    (look,) = look_at(results, [(at, contrast)], by, inputs or ())
    fit = look.fit
    typer.echo(f"{look.place}: {fit.contrast}, {fit.result}; {look.response}")
    worst = [f"{row.scan_id} {row.cooks_distance:.2g}" for row in fit.worst().itertuples()]
    typer.echo(f"largest Cook's distances: {', '.join(worst)}")
    for note in fit.notes:
        typer.echo(f"note: {note}")
    written = write_look(look, out or results / "plots")
    typer.echo(f"{written[0]}, .svg and .tsv")
