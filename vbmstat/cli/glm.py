"""``vbmstat glm``: a formula over a cohort's maps to statistic maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vbmstat.cli.scans import Exclude, Exclusions, Tables, Where, scan_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vbmstat.glm.keywords import ModelKeywords
    from vbmstat.glm.results import GlmResults

_ATLAS = "lpba40"


def command(
    ctx: typer.Context,
    formula: Annotated[str, typer.Argument(help="For example 'gm ~ age + sex + tiv'.")],
    cohort: Annotated[
        Path | None, typer.Option(help="Cohort table; default ./cohort.tsv or vbmstat-out/cohort.tsv.")
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(help="Folder of maps (CAT12, SPM, T1Prep, deepmriprep) or path with {participant_id}."),
    ] = None,
    participants: Tables = None,
    exclude: Exclude = None,
    where: Where = None,
    exclusions: Exclusions = True,
    contrast: Annotated[
        list[str] | None, typer.Option(help="Column, term, expression, F(a, b), 'name = …' or .json; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Subset repetitions; 0 for none.")] = 100,
    fraction: Annotated[float, typer.Option(help="Share of the scans in a subset.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the subsets and permutations.")] = 0,
    stratify: Annotated[str | None, typer.Option(help="Column whose levels keep their share in every subset.")] = None,
    draws: Annotated[Path | None, typer.Option(help="draws.tsv of another run, to use the same subsets.")] = None,
    fwhm_mm: Annotated[
        float | None,
        typer.Option("--fwhm", help="Smooth unsmoothed maps by this FWHM, mm; 0 to leave them so.", metavar="MM"),
    ] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Absolute threshold; 0.1 without --mask.")] = None,
    mask_share: Annotated[float, typer.Option(help="Share of scans that must exceed it; 1 is SPM's rule.")] = 1.0,
    mask: Annotated[Path | None, typer.Option(help="Mask image on the grid of the maps.")] = None,
    nan: Annotated[str, typer.Option(help="NaN inside the mask: raise or exclude.")] = "raise",
    tiv: Annotated[str, typer.Option(help="none, covariate, by-group or proportional.")] = "none",
    global_scaling: Annotated[bool, typer.Option("--global-scaling", help="Scale maps to one mean.")] = False,
    weights: Annotated[str | None, typer.Option(help="Column with weights of the scans.")] = None,
    missing: Annotated[
        str, typer.Option(help="Scans without a covariate, rows of a cohort table without a map: raise or drop.")
    ] = "raise",
    variance: Annotated[
        str,
        typer.Option(help="ols, hc3, spm (variance floor), sandwich:COLUMN (repeated scans, families), groups:COLUMN."),
    ] = "ols",
    inference: Annotated[
        str | None, typer.Option(help="Corrected inference: any of fdr, rft, fwe, tfce, cluster, with commas.")
    ] = None,
    permutations: Annotated[int, typer.Option(help="For fwe, tfce, cluster; all where fewer exist.")] = 5000,
    cluster_threshold: Annotated[
        float, typer.Option(help="Cluster-forming threshold: uncorrected p below 1, else t or F.")
    ] = 0.001,
    svc: Annotated[
        list[str] | None,
        typer.Option(help="Small volume for rft: sphere:x,y,z,r (mm), region of the atlases, mask; may be repeated."),
    ] = None,
    one_sided: Annotated[
        bool, typer.Option("--one-sided/--two-sided", help="Corrected p of t for a positive effect only.")
    ] = False,
    scheme: Annotated[str, typer.Option(help="freedman-lane or smith.")] = "freedman-lane",
    sign_flip: Annotated[
        bool,
        typer.Option("--sign-flip", help="Flip signs, not permute: one-sample designs, maps of paired differences."),
    ] = False,
    blocks: Annotated[
        list[str] | None, typer.Option(help="Column of exchangeability blocks; several as PALM's levels.")
    ] = None,
    exchange: Annotated[
        str, typer.Option(help="What --blocks exchanges: scans within, whole blocks, or both.")
    ] = "within",
    tail: Annotated[
        str, typer.Option(help="Small p from a Pareto distribution fitted to 500 permutations: none or gpd.")
    ] = "none",
    stop_after: Annotated[
        int, typer.Option(help="Stop once this many permutations reach the strongest finding, e.g. 20; 0 for never.")
    ] = 0,
    atlas: Annotated[str, typer.Option(help="Atlas of regions; names clusters and peaks, too, or none.")] = _ATLAS,
    second_atlas: Annotated[
        str, typer.Option(help="Names clusters and peaks in no region of --atlas; or none.")
    ] = "neuromorphometrics",
    level: Annotated[str, typer.Option(help="voxel; roi: each atlas label; region: left and right merged.")] = "voxel",
    random: Annotated[
        str | None, typer.Option(help="Column with each scan's subject: mixed model of regions (--level roi).")
    ] = None,
    allow_mixed: Annotated[bool, typer.Option("--allow-mixed", help="Accept several engines, kinds of maps.")] = False,
    spm_names: Annotated[bool, typer.Option("--spm-names", help="Also spmT_0001.nii, con_0001.nii …")] = False,
    outside: Annotated[str, typer.Option(help="Value outside the mask: zero or nan.")] = "zero",
    store: Annotated[Path | None, typer.Option(help="Keep (and reuse) the packed maps in this folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    scheduler: Annotated[
        str | None, typer.Option(help="Fit on a dask cluster: local, slurm, or a scheduler's address.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Threads, or workers that --scheduler starts.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default glm/NAME beside the cohort table.")] = None,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Pictures of the design and each contrast.")
    ] = True,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, one page about the results.")] = False,
    share: Annotated[
        Path | None, typer.Option(help="Write only this file of sums (SITE.vbm) for vbmstat pool, no results.")
    ] = None,
) -> None:
    """Fit a linear model at every voxel, over all scans and over random subsets."""
    from vbmstat.cli.glm_regions import fit_regions  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.cli.glm_share import refuse_other_options, share_model  # noqa: PLC0415
    from vbmstat.cli.progress import print_removed, stages  # noqa: PLC0415
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415
    from vbmstat.distributed.start import open_cluster  # noqa: PLC0415
    from vbmstat.glm.analysis import fit_glm  # noqa: PLC0415
    from vbmstat.glm.inference.small_volume import small_volumes  # noqa: PLC0415
    from vbmstat.glm.record import RECORD  # noqa: PLC0415
    from vbmstat.glm.spec import Compute, ModelSpec  # noqa: PLC0415
    from vbmstat.image.storage import listed_files  # noqa: PLC0415
    from vbmstat.report.notebook import regions_of  # noqa: PLC0415
    from vbmstat.report.results import Outputs, folder_name, write_results  # noqa: PLC0415
    from vbmstat.roi.atlas import licence_notice  # noqa: PLC0415

    _check_level(level, random, scheduler, fwhm_mm)
    check_atlases([atlas] if level != "voxel" else [atlas, second_atlas], names_clusters=level == "voxel")
    table, more = scan_tables(cohort, maps, participants)
    folder = out or table.parent / "glm" / folder_name(formula, level, fwhm_mm, atlas)
    keywords = model_keywords({**ctx.params, "tables": more})
    spec = ModelSpec.make(formula, contrast, **keywords)
    if share is not None:
        refuse_other_options(ctx)
        how = {"device": device, "n_threads": jobs, "store": store}
        share_model(share, spec, maps, table, **how, scratch=share.parent)
        return
    named = regions_of([one for one in (atlas, second_atlas) if one != "none"]) if svc else None
    small_volumes(svc or [], named, spec.inference.kinds)
    earlier = listed_files(folder, RECORD)
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        typer.echo(line)

    keep_freed_memory()
    with stages() as progress, open_cluster(scheduler, workers=jobs, folder=folder / "slurm") as cluster:
        compute = Compute(
            device, jobs, store=store, scratch=folder, checkpoint=folder, cluster=cluster, progress=progress,
            announce=announce,
        )  # fmt: skip
        if level == "voxel":
            results = fit_glm(maps, spec, table, compute=compute)
        else:
            fit_regions(
                formula, table, contrast, folder, keywords, compute, maps=maps, atlas=atlas, level=level, random=random
            )
    if level == "voxel":
        results = results.with_volumes(svc, named) if svc else results
        used = write_results(results, folder, Outputs(atlas, second_atlas, spm_names, outside, figures))
        for loaded in used:
            typer.echo(licence_notice(loaded))
        print_summary(results, folder, said)
    print_removed(folder, earlier)
    if report:
        from vbmstat.report.write import write_report  # noqa: PLC0415 - imports matplotlib

        typer.echo(f"report in {write_report(folder, cohort=run_table(table, level, maps))}")


def run_table(table: Path, level: str, maps: str | None) -> Path | None:
    """The table of the preprocessing run that made a model's maps; None if the maps come from elsewhere."""
    return table if table.name == "cohort.tsv" and (level != "voxel" or not maps) else None


def model_keywords(parameters: Mapping[str, Any]) -> ModelKeywords:
    """Keywords of the model among a command's parameters."""
    from vbmstat.glm.keywords import ModelKeywords  # noqa: PLC0415 - heavy imports

    given = {name: value for name, value in parameters.items() if value is not None}
    return {name: value for name, value in given.items() if name in ModelKeywords.__annotations__}  # type: ignore[return-value]


def _check_level(level: str, random: str | None, scheduler: str | None, fwhm_mm: float | None) -> None:
    """Refuse options of the other level before any work."""
    from vbmstat.errors import ClusterError, DesignError  # noqa: PLC0415 - heavy imports inside the command

    if level == "voxel" and random is not None:
        msg = "--random (a mixed model) is for --level roi or region; at every voxel take --variance sandwich:COLUMN"
        raise DesignError(msg)
    if level != "voxel" and fwhm_mm is not None:
        msg = "--fwhm is for voxels; volumes of regions are sums over unsmoothed maps, so leave it out"
        raise DesignError(msg)
    if level != "voxel" and scheduler is not None:
        msg = "--scheduler is for voxels; a model of regions takes a second without it"
        raise ClusterError(msg)


def check_atlases(atlases: Sequence[str], *, names_clusters: bool) -> None:
    """Refuse an unknown atlas, and one of overlapping regions to name clusters, before any work."""
    from vbmstat.errors import DesignError  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.roi.atlas import SoftAtlas, load_atlas  # noqa: PLC0415

    for atlas in atlases:
        if atlas in ("none", _ATLAS, "neuromorphometrics"):
            continue
        if isinstance(load_atlas(atlas), SoftAtlas) and names_clusters:
            msg = f"--atlas {atlas}: its regions overlap and cannot name clusters; take one of labels, or --level roi"
            raise DesignError(msg)


def print_summary(results: GlmResults, folder: Path, said: Collection[str]) -> None:
    """Print what was fitted and what survives correction; no note that was `said` before the fit."""
    import numpy as np  # noqa: PLC0415 - heavy imports inside the command

    from vbmstat.glm.design.contrast import file_label  # noqa: PLC0415
    from vbmstat.glm.record import has_own_df  # noqa: PLC0415

    record = results.record
    for note in record["notes"]:
        if note not in said:
            typer.echo(f"note: {note}")
    is_one_df = not has_own_df(record) and not any("df" in maps for maps in results.maps.values())
    columns = f"{len(record['columns'])} column{'' if len(record['columns']) == 1 else 's'}"
    rows = f"{record['n_scans']} {'people' if 'change' in record else 'scans'}"
    typer.echo(
        f"{rows}, {record['n_voxels']} voxels, {columns} ({', '.join(record['columns'])})"
        + (f", {results.df_resid:g} degrees of freedom" if is_one_df else "")
    )
    for contrast, entry in zip(results.contrasts, record["contrasts"], strict=True):
        maps = results.maps[contrast.name]
        values = maps[contrast.kind].values
        counted = entry["repetitions_estimated"]
        of = f", median over {counted} of {record['n_subsets']} subsets" if record["n_subsets"] else ""
        differs = "df" in maps and len(np.unique(maps["df"].values[results.mask])) > 1
        median = " (median over voxels)" if differs else ""
        freedom = "" if is_one_df else f", {entry['df']:.4g} degrees of freedom{median}"
        typer.echo(f"  {contrast.name}: {contrast.kind} from {values.min():.2f} to {values.max():.2f}{freedom}{of}")
        if contrast.label != file_label(contrast.name):
            typer.echo(f"    files of {contrast.name}: contrast-{contrast.label}_*")
        for line in _corrected(results, contrast.name, contrast.kind):
            typer.echo(f"    {line}")
    typer.echo(f"results in {folder}")


_CORRECTED = {
    "qfdr": "q of FDR", "prft": "FWE-corrected p by random fields",
    "pfwe": "FWE-corrected p of the peak", "ptfce": "FWE-corrected p of TFCE",
    "pextent": "FWE-corrected p of cluster extent", "pmass": "FWE-corrected p of cluster mass",
}  # fmt: skip


def _corrected(results: GlmResults, contrast: str, kind: str) -> list[str]:
    """What survives correction, a line each."""
    if contrast not in results.inference:
        return []
    maps, inference, lines = results.maps[contrast], results.inference[contrast], []
    threshold, how = inference.critical(maps[kind].values)
    if "FWE" in how or "FDR" in how:
        lines.append(f"{kind} of {threshold:.2f} is {how}")
    if inference.nulls is not None:
        sides = "" if kind == "F" else " two-sided," if inference.two_sided else " one-sided,"
        nulls = inference.nulls
        lines.append(f"{nulls.count} permutations,{sides} smallest p {nulls.smallest_p:.2g}")
    for stat, what in _CORRECTED.items():
        if stat in maps:
            p = maps[stat].values[results.mask]
            lines.append(f"{what}: {int((p <= 0.05).sum())} of {p.size} voxels at 0.05, smallest {p.min():.4g}")
    for text, field in inference.small_volumes.items():
        search = field.where.search
        lines.append(
            f"small volume {text}: {search.n_voxels} voxels, {search.resels[3]:.3g} resels; {kind} of "
            f"{field.critical_height:.2f} is FWE p = 0.05 in it; peak p {field.p_fwe.min():.4g}, cluster p "
            f"{field.p_extent_fwe.min(initial=1):.4g}"
        )
    return lines
