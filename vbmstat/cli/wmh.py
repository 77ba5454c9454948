"""``vbmstat wmh``: white-matter hypointensities of scans that are preprocessed already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(help="Output folder of vbmstat preprocess.")],
    force: Annotated[bool, typer.Option("--force", help="Measure again the scans that have been measured.")] = False,
    weights: Annotated[
        str, typer.Option(help="Network: vbmstat, deep-t1-wmh (fetched), none (a plain rule) or a file.")
    ] = "vbmstat",
    lock: Annotated[bool, typer.Option("--lock/--no-lock", help="Lock scans against other runs.")] = True,
) -> None:
    """Measure white-matter hypointensities in finished scans; tissue maps and volumes stay as they are.

    Exit code: 0 all scans are measured, 1 some failed.
    """
    from vbmstat.batch.resources import Execution  # noqa: PLC0415
    from vbmstat.batch.wmh import measure_folder  # noqa: PLC0415 - heavy imports
    from vbmstat.cli.progress import stages  # noqa: PLC0415

    with stages() as report:
        run = measure_folder(folder, weights, Execution(force=force, locking=lock), report)
    typer.echo(
        f"measured {len(run.measured)} scans; tissue maps are unchanged: vbmstat preprocess --wmh counts "
        "hypointensities in the tissues"
    )
    if run.kept:
        typer.echo(f"{len(run.kept)} scans were measured before")
    for reason in run.failures.values():
        typer.echo(reason, err=True)
    if run.failures:
        raise typer.Exit(1)
