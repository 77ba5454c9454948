"""``vbmstat harmonize``: remove site effects from maps or ROI tables by ComBat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vbmstat.cli.scans import Exclude, Exclusions, Tables, Where, scan_tables, selection


def command(
    site: Annotated[str, typer.Option(help="Column with the site or scanner.")],
    out: Annotated[Path, typer.Option(help="Folder of the new maps and their cohort.tsv.")],
    cohort: Annotated[Path | None, typer.Option(help="Cohort table; default ./cohort.tsv or preprocess's.")] = None,
    preserve: Annotated[str, typer.Option(help="Effects to preserve, e.g. 'age + sex + group'.")] = "",
    tissue: Annotated[str, typer.Option(help="gm, wm, csf or a column with map paths.")] = "gm",
    maps: Annotated[Path | None, typer.Option(help="Folder of maps of another program.")] = None,
    participants: Tables = None,
    exclude: Exclude = None,
    where: Where = None,
    exclusions: Exclusions = True,
    roi_table: Annotated[Path | None, typer.Option(help="Wide ROI table (*_ml) in place of maps.")] = None,
    mask_threshold: Annotated[float, typer.Option(help="Voxels above this in all scans are harmonised.")] = 0.1,
    model: Annotated[Path | None, typer.Option(help="Saved model to apply instead of fitting one.")] = None,
    save_model: Annotated[Path | None, typer.Option(help="File to save the fitted model to (.npz).")] = None,
    missing: Annotated[str, typer.Option(help="Scans without site or covariate: raise or drop.")] = "raise",
) -> None:
    """Remove site effects on mean and variance from maps or an ROI table (ComBat), preserving covariates."""
    from vbmstat.cli.progress import print_removed, stages  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.harmonize.model import load_model  # noqa: PLC0415
    from vbmstat.harmonize.run import RECORD, HarmonizeSpec, harmonize_maps, harmonize_table  # noqa: PLC0415
    from vbmstat.image.storage import listed_files  # noqa: PLC0415

    if roi_table is not None and maps is not None:
        msg = "--roi-table goes with --cohort, not with --maps"
        raise typer.BadParameter(msg)
    if model is not None and preserve:
        msg = "--preserve: the model already has the effects that it preserves; leave --preserve out"
        raise typer.BadParameter(msg)
    table, more = scan_tables(cohort, None if maps is None else str(maps), participants)
    earlier = listed_files(out, RECORD)
    learned = None if model is None else load_model(model)
    rules = selection(exclude, where, more, exclusions)
    spec = HarmonizeSpec(site, preserve, learned, missing, tissue, mask_threshold, rules)
    if roi_table is not None:
        result = harmonize_table(roi_table, table, spec, out)
    else:
        with stages() as progress:
            result = harmonize_maps(table, spec, out, maps, progress)
    if save_model is not None:
        result.model.save(save_model)
    for note in result.notes:
        typer.echo(f"note: {note}")
    effects = result.model.effects
    counts = ", ".join(f"{name} {n}" for name, n in zip(effects.sites, effects.n_scans, strict=True))
    typer.echo(f"{int(effects.adjusted.sum())} voxels or columns harmonised; learned from {counts}")
    print_removed(out, earlier)
    typer.echo(f"results in {out}")
