"""``vbmstat compare-cohorts``: the same models in several pipelines, and the tables and figures of a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Argument(help="TOML file with cohorts, pipelines and variables.")],
) -> None:
    """Fit every model of a plan in every pipeline on the same subsets; tables and figures of how well they agree."""
    from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports
    from vbmstat.compare.cohorts import compare_cohorts  # noqa: PLC0415
    from vbmstat.compare.config import read_plan  # noqa: PLC0415
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415

    plan = read_plan(config)
    keep_freed_memory()
    with stages() as report:
        found = compare_cohorts(plan, report)
    for note in found.notes:
        if not note.startswith("not fitted: "):
            typer.echo(f"note: {note}")
    if "correlation" in found.tables:
        typer.echo(found.tables["correlation"].to_string(index=False, na_rep="-"))
    for reason in found.failures:
        typer.echo(f"not fitted: {reason}", err=True)
    typer.echo(f"{found.n_fitted} models fitted, {found.n_kept} kept from before; summary in {plan.out / 'summary.md'}")
    if found.failures:
        raise typer.Exit(1)
