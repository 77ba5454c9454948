"""``vbmstat evaluate``: agreement of output folders of the same scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folders: Annotated[
        list[Path], typer.Argument(help="Output folders of vbmstat, CAT12, SPM, T1Prep or deepmriprep.")
    ],
    truth: Annotated[
        Path | None, typer.Option("--truth", help="True labels (CSF 1, GM 2, WM 3): a file, or a folder by scan name.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The folder that others are compared with; the first by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the tables.")] = Path("evaluation"),
) -> None:
    """Dice of tissues, correlation of maps, distance to the template and regularity of fields, scan by scan."""
    from vbmstat import tables  # noqa: PLC0415 - heavy imports
    from vbmstat.cli.progress import stages  # noqa: PLC0415
    from vbmstat.evaluate_folders import evaluate_folders, side_by_side  # noqa: PLC0415

    with stages() as report:
        found = evaluate_folders(folders, truth, report, reference)
    tables.write_table(out / "evaluation_scans.tsv", found.scans, "evaluation_scans")
    tables.write_table(out / "evaluation_summary.tsv", found.summary, "evaluation_summary")
    typer.echo("Median and, in brackets, the worst scan's value:")
    typer.echo(side_by_side(found.summary).to_string())
    for note in found.notes:
        typer.echo(f"n/a or changed: {note}", err=True)
    for name, stems in found.left_out.items():
        if stems:
            typer.echo(f"{name}: {len(stems)} scans that not all have were left out ({', '.join(stems[:5])})", err=True)
    typer.echo(str(out / "evaluation_scans.tsv"))
