"""``vbmstat preprocess``: T1w scans to smoothed, modulated tissue maps and a cohort table."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from vbmstat.batch.status import Event


def command(
    inputs: Annotated[list[Path], typer.Argument(help="BIDS folder, folder of images, or .nii, .nii.gz, .mgz files.")],
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default derivatives/vbmstat in a BIDS folder, else vbmstat-out.")
    ] = None,
    participants: Annotated[Path | None, typer.Option(help="Covariates; default the BIDS folder's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="classic, or cat: CAT12's own algorithms (the extra vbmstat[cat]).")
    ] = "classic",
    names: Annotated[str, typer.Option(help="cat12 (mri/mwp1NAME.nii.gz) or bids derivatives.")] = "cat12",
    force: Annotated[bool, typer.Option("--force", help="Run scans again that are complete.")] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html, one page about the cohort.")
    ] = True,
) -> None:
    """Make tissue maps in template space, volumes, quality figures and pictures of T1w scans."""
    from vbmstat.batch.plan import default_output  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.run import preprocess, read_failures  # noqa: PLC0415
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()
    console = Console(stderr=True)
    handler = RichHandler(console=console, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("finding scans", total=None)

        def show(event: Event) -> None:
            progress.update(task, total=event.total, completed=event.done)
            if event.what == "failed":
                progress.console.print(f"[red]failed[/red] {event.detail}", highlight=False, soft_wrap=True)
            elif event.what == "done":
                note = f" [yellow]{event.detail}[/yellow]" if event.detail else ""
                progress.console.print(f"done {event.scan.stem}{note}", highlight=False, soft_wrap=True)
            else:
                progress.update(task, description=f"{event.scan.stem}: {event.what}")

        cohort = preprocess(
            inputs, out, participants=participants, device=device, engine=engine, names=names, force=force,
            on_event=show,
        )  # fmt: skip
    folder = out or default_output(inputs)
    failed = len(read_failures(folder))
    console.print(f"{len(cohort.table)} scans in {folder / 'cohort.tsv'}, pictures in {folder / 'report'}")
    if report:
        _write_report(folder, console)
    if failed:
        console.print(f"[red]{failed} failed[/red]: {folder / 'failures.tsv'}")
        sys.exit(1)


def _write_report(folder: Path, console: Console) -> None:
    """The page of the cohort; what keeps it from being written is said, and harms nothing else."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415
    from vbmstat.report.write import write_report  # noqa: PLC0415 - heavy imports

    try:
        console.print(f"report in {write_report(folder)}", soft_wrap=True)
    except VbmstatError as error:
        console.print(f"no report: {error}", soft_wrap=True)
