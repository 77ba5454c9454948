"""``vbmstat compare-cohorts``: the same models in several pipelines, with the tables and figures of a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Argument(help="TOML file with cohorts, pipelines and variables.")],
) -> None:
    """Fit every model of a plan in every pipeline on the same subsets; tables and figures of their agreement."""
    from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports
    from vbmstat.compare.cohorts import compare_cohorts  # noqa: PLC0415
    from vbmstat.compare.config import read_plan  # noqa: PLC0415
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415

    plan = read_plan(config)
    keep_freed_memory()
    with stages() as report:
        outcome = compare_cohorts(plan, report)
    for note in outcome.notes:
        if not note.startswith("not fitted: "):
            typer.echo(f"note: {note}")
    if "correlation" in outcome.tables:
        typer.echo(outcome.tables["correlation"].to_string(index=False, na_rep="-"))
    for reason in outcome.failures:
        typer.echo(f"not fitted: {reason}", err=True)
    typer.echo(f"{outcome.n_fitted} models fitted, {outcome.n_kept} kept; summary in {plan.out / 'summary.md'}")
    if outcome.failures:
        raise typer.Exit(1)
