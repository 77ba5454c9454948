"""``vbmstat threshold``: statistic maps thresholded and converted after the fact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    maps: Annotated[list[Path], typer.Argument(help="t, F or z maps of vbmstat, SPM or CAT12.", readable=False)],
    height: Annotated[
        str, typer.Option(help="Keep what is beyond: 3.1 (t, F or z), p=0.001 (uncorrected), fdr=0.05 or fwe=0.05.")
    ] = "p=0.001",
    extent: Annotated[
        str, typer.Option(help="Keep clusters of at least: 50 (voxels), ml=0.5, p=0.05 (uncorrected) or fwe=0.05.")
    ] = "0",
    to: Annotated[str, typer.Option(help="Scale of the written map: same, p, logp, z, r, r2 or d.")] = "same",
    one_sided: Annotated[
        bool | None, typer.Option("--one-sided/--two-sided", help="Tails; default as the model was tested, else two.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Look at these voxels only; FDR and random fields, too.")] = None,
    atlas: Annotated[str, typer.Option(help="Atlas that names places in the tables, or none.")] = "lpba40",
    second_atlas: Annotated[str, typer.Option(help="Names places where the first has none, or none.")] = (
        "neuromorphometrics"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder; default thresholded/ beside each map.")] = None,
) -> None:
    """Threshold statistic maps and convert them: the map that is left, cluster labels, tables of clusters and peaks.

    FWE is by the permutations that were run with the model, else by random fields.
    """
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports
    from vbmstat.report.notebook import regions_of  # noqa: PLC0415
    from vbmstat.threshold.apply import TRANSFORMS, threshold  # noqa: PLC0415
    from vbmstat.threshold.files import Asked, open_statistic, write_thresholded  # noqa: PLC0415
    from vbmstat.threshold.rules import read_extent, read_height  # noqa: PLC0415

    if to not in TRANSFORMS:
        msg = f"--to {to}: expected one of {', '.join(TRANSFORMS)}"
        raise VbmstatError(msg)
    regions = regions_of([name for name in (atlas, second_atlas) if name != "none"])
    asked = Asked(read_height(height), read_extent(extent), to, regions)
    failed = False
    for path in maps:
        try:
            statistic = open_statistic(path, mask, one_sided=one_sided)
            left = threshold(statistic, asked.height, asked.extent)
            files = write_thresholded(path, out or path.parent / "thresholded", statistic, left, asked)
        except VbmstatError as error:  # the others are done all the same
            failed = True
            typer.echo(str(error) if str(path) in str(error) else f"{path}: {error}", err=True)
            continue
        typer.echo(f"{path.name}: {left.summary(statistic)} -> {files[0]}")
    if failed:
        sys.exit(1)
