"""``vbmstat report``: one self-contained page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(help="Output folder of vbmstat preprocess, or results of vbmstat glm.")],
    out: Annotated[Path | None, typer.Option(help="The page; default report.html in the folder.")] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="Cohort table of a model's scans; default cohort.tsv in the folders above.")
    ] = None,
) -> None:
    """Write one self-contained HTML page: cohort, quality, design, results, methods, references."""
    from vbmstat.report.page import figures_folder  # noqa: PLC0415 - heavy imports
    from vbmstat.report.write import write_report  # noqa: PLC0415

    page = write_report(folder, out, cohort)
    typer.echo(f"{page} ({page.stat().st_size / 1e6:.1f} MB), figures in {figures_folder(page)}")
