"""``vbmstat warp``: carry images through the warps of finished scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images; or for many scans a path with {participant_id}, {session_id}, {scan_id} or {name} in it."
        ),
    ],
    of: Annotated[
        Path, typer.Option("--of", help="Folder of finished scans, or one scan: FOLDER/NAME, or a file of it.")
    ],
    to: Annotated[
        str, typer.Option("--to", help="template (from the scan), or scan (from the template).")
    ] = "template",
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--intensities",
            help="Keep the values of labels, or interpolate; by default whole numbers in patches are labels.",
        ),
    ] = None,
    amount: Annotated[
        bool,
        typer.Option(
            "--amount", help="Keep sum times voxel volume, as mwp1: multiply by the determinant of the Jacobian."
        ),
    ] = False,
    voxel_size: Annotated[
        float, typer.Option("--voxel-size", help="Voxels of results in template space: 1, 1.5 or 2 mm.", metavar="MM")
    ] = 1.5,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results; default warped in the scans' folder.")
    ] = None,
) -> None:
    """Carry images of scans into the template, or an atlas or map of the template into scans; one resampling.

    Images may have any grid, in the scan's own space (mm of the scanner). Each volume of a 4-D image is carried.
    Exit code: 0 all images are written, 1 some failed.
    """
    from vbmstat.batch.warp_images import AMOUNT, INTENSITY, LABELS, carry  # noqa: PLC0415 - heavy imports
    from vbmstat.cli.progress import stages  # noqa: PLC0415

    if amount and labels is not None:
        msg = "--amount or --labels/--intensities, not both"
        raise typer.BadParameter(msg)
    kind = AMOUNT if amount else {True: LABELS, False: INTENSITY, None: None}[labels]
    with stages() as report:
        done = carry(images, of, to, kind=kind, out=out, voxel_size_mm=voxel_size, report=report)
    if kind is None:
        for path, used in done.kinds.items():
            note = f"{path.name}: whole numbers in patches, so taken as labels (--intensities if they are not)"
            typer.echo(note if used == LABELS else f"{path.name}: taken as intensities (--labels if they are labels)")
    for path in done.written:
        typer.echo(str(path))
    for reason in done.failures:
        typer.echo(reason, err=True)
    if done.failures:
        raise typer.Exit(1)
