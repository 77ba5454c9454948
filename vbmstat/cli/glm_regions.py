"""``vbmstat glm --level roi``: the model at every region of an atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vbmstat.glm.keywords import ModelKeywords
    from vbmstat.glm.spec import Compute

_SHOWN = 5  # regions listed on the screen


def fit_regions(
    formula: str,
    table: Path,
    contrasts: Sequence[str] | None,
    folder: Path,
    keywords: ModelKeywords,
    compute: Compute,
    **of_regions: Any,
) -> None:
    """Fit, write the tidy table, and print a summary; `of_regions` are ``maps``, ``atlas``, ``level``, ``random``."""
    from vbmstat.regions.models import fit_roi_glm  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.regions.volumes import RegionSpec  # noqa: PLC0415 - heavy imports inside the command

    announced = replace(compute, announce=None, scratch=None, checkpoint=None)
    regions = RegionSpec(**of_regions)
    results = fit_roi_glm(formula, table, contrasts, regions=regions, compute=announced, **keywords)
    results.to_directory(folder)
    for covariate in results.design.taken:
        typer.echo(covariate.line)
    for note in results.record["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"Atlas {results.atlas.name}: {results.atlas.licence}.")
    columns = results.design.columns
    counted = f"{len(columns)} column{'' if len(columns) == 1 else 's'}"
    typer.echo(f"{len(results.design.scan_ids)} scans, {counted} ({', '.join(columns)})")
    for contrast, rows in results.table.groupby("contrast", sort=False):
        by = "p_fwe" if "p_fwe" in rows and rows["p_fwe"].notna().any() else "q_fdr"
        typer.echo(f"  {contrast}: {int((rows[by] < 0.05).sum())} of {len(rows)} regions at {by} < .05")
        twice = set(rows.loc[rows["name"].duplicated(), "name"]) if "name" in rows else set()
        for row in rows.nsmallest(_SHOWN, "p_uncorrected").to_dict("records"):
            name = row.get("name", row["region"])
            name = f"{name} (label {row['label']})" if name in twice else name
            typer.echo(f"    {name}: {row['statistic']} = {row['value']:.2f}, p = {row['p_uncorrected']:.2g}, "
                       f"{by} = {row[by]:.2g}")  # fmt: skip
    typer.echo(f"results in {folder}")
