"""``vbmstat compare``: agreement of two maps, models, folders of maps or ROI tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vbmstat.cli.scans import Exclude, Exclusions, Tables, Where, selection


def command(
    a: Annotated[Path, typer.Argument(help="Statistic map, glm (or SPM) folder, folder of maps of scans, ROI table.")],
    b: Annotated[Path, typer.Argument(help="Another of the same kind; A is the reference.")],
    names: Annotated[tuple[str, str] | None, typer.Option("--names", help="Names of A and B in figures.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Statistic maps: voxels to compare, on A's grid.")] = None,
    table: Tables = None,
    exclude: Exclude = None,
    where: Where = None,
    exclusions: Exclusions = True,
    out: Annotated[Path, typer.Option("--out", help="Folder of tables and figures.")] = Path("comparison"),
) -> None:
    """Correlation, slope, Bland-Altman, peaks and overlap of two maps, models, map folders or ROI tables."""
    from vbmstat.cli.progress import print_removed, stages  # noqa: PLC0415 - heavy imports
    from vbmstat.compare.files import compare_files  # noqa: PLC0415
    from vbmstat.compare.output import SUMMARY, write_comparison  # noqa: PLC0415
    from vbmstat.image.storage import listed_files  # noqa: PLC0415

    earlier = listed_files(out, SUMMARY)
    with stages() as report:
        rules = selection(exclude, where, table, exclusions)
        comparison = compare_files(a, b, mask=mask, names=names, selection=rules, report=report)
    files = write_comparison(out, comparison, [a, b])
    print_removed(out, earlier)
    typer.echo(f"A: {comparison.names[0]}, B: {comparison.names[1]}")
    for note in comparison.notes:
        typer.echo(f"note: {note}")
    if len(comparison.summary) == 1:
        typer.echo(comparison.summary.iloc[0].to_string())
    else:
        typer.echo(comparison.summary.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    typer.echo(f"tables and figures in {files[0].parent}")
