"""``vbmstat glm --level roi``: the model at every region of an atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

_SHOWN = 5  # regions listed on the screen


def fit_regions(
    formula: str,
    table: Path,
    contrasts: Sequence[str] | None,
    folder: Path,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    call: Mapping[str, Any],
) -> None:
    """Fit, write the tidy table, and say what was found.

    Parameters
    ----------
    formula, table, contrasts
        As the command got them.
    folder : path
        Output folder.
    given : mapping
        ``maps``, ``atlas``, ``level``, ``random``, ``inference`` as the command got them.
    options : mapping
        Options of the fit; those at their default are left out, so that a mixed model can refuse the others.
    call : mapping
        The command's parameters, for the record.
    """
    from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.glm.spec import Options  # noqa: PLC0415
    from vbmstat.regions.models import fit_roi_glm  # noqa: PLC0415

    default = Options()
    changed = {name: value for name, value in options.items() if value != getattr(default, name) and value is not None}
    with stages() as progress:
        results = fit_roi_glm(formula, table, contrasts, progress=progress, **given, **changed)
    results.record["call"] = dict(call)
    results.to_directory(folder)
    for covariate in results.design.taken:
        typer.echo(covariate.line)
    for note in results.record["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"Atlas {results.atlas.name}: {results.atlas.licence}.")
    columns = ", ".join(results.design.columns)
    typer.echo(f"{len(results.design.scan_ids)} scans, {len(results.design.columns)} columns ({columns})")
    for contrast, rows in results.table.groupby("contrast", sort=False):
        by = "p_fwe" if "p_fwe" in rows and rows["p_fwe"].notna().any() else "q_fdr"
        typer.echo(f"  {contrast}: {int((rows[by] < 0.05).sum())} of {len(rows)} regions at {by} < .05")
        for row in rows.nsmallest(_SHOWN, "p_uncorrected").to_dict("records"):
            name = row.get("name", row["region"])
            typer.echo(f"    {name}: {row['statistic']} = {row['value']:.2f}, p = {row['p_uncorrected']:.2g}, "
                       f"{by} = {row[by]:.2g}")  # fmt: skip
    typer.echo(f"results in {folder}")
