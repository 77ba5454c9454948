"""``vbmstat glm``: a formula over a cohort's maps to statistic maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vbmstat.glm.inference.clusters import Regions
    from vbmstat.glm.results import GlmResults

_COHORTS = ("cohort.tsv", "vbmstat-out/cohort.tsv", "derivatives/vbmstat/cohort.tsv")
_P_SHOWN = 0.001  # glass brains show |t| beyond the two-sided uncorrected p of 0.001


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
    participants: Annotated[Path | None, typer.Option(help="Covariates for --maps (.tsv, .csv, .xlsx).")] = None,
    contrast: Annotated[
        list[str] | None, typer.Option(help="Column, term, expression, F(a, b), 'name = …' or .json; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Subset repetitions; 0 for none.")] = 100,
    fraction: Annotated[float, typer.Option(help="Share of the scans in a subset.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    stratify: Annotated[str | None, typer.Option(help="Column whose levels keep their share in every subset.")] = None,
    draws: Annotated[Path | None, typer.Option(help="draws.tsv of another run, to use the same subsets.")] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Absolute threshold; 0.1 without --mask.")] = None,
    mask_share: Annotated[float, typer.Option(help="Share of scans that must exceed it; 1 is SPM's rule.")] = 1.0,
    mask: Annotated[Path | None, typer.Option(help="Mask image on the grid of the maps.")] = None,
    nan: Annotated[str, typer.Option(help="NaN inside the mask: raise or exclude.")] = "raise",
    tiv: Annotated[str, typer.Option(help="none, covariate, by-group or proportional.")] = "none",
    global_scaling: Annotated[bool, typer.Option("--global-scaling", help="Scale maps to one mean.")] = False,
    weights: Annotated[str | None, typer.Option(help="Column with weights of the scans.")] = None,
    missing: Annotated[str, typer.Option(help="Missing covariates: raise or drop.")] = "raise",
    robust: Annotated[str, typer.Option(help="none or hc3.")] = "none",
    spm_resms: Annotated[bool, typer.Option("--spm-resms", help="SPM's variance floor.")] = False,
    inference: Annotated[
        str | None, typer.Option(help="Corrected inference: any of fdr, fwe, tfce, cluster, with commas.")
    ] = None,
    permutations: Annotated[int, typer.Option(help="For fwe, tfce, cluster; all where fewer exist.")] = 5000,
    cluster_threshold: Annotated[
        float, typer.Option(help="Cluster-forming threshold: uncorrected p below 1, else t or F.")
    ] = 0.001,
    one_sided: Annotated[
        bool, typer.Option("--one-sided/--two-sided", help="Corrected p of t for a positive effect only.")
    ] = False,
    scheme: Annotated[str, typer.Option(help="freedman-lane or smith.")] = "freedman-lane",
    sign_flip: Annotated[
        bool, typer.Option("--sign-flip", help="Flip signs, do not permute: one-sample and paired designs.")
    ] = False,
    blocks: Annotated[
        list[str] | None, typer.Option(help="Column of exchangeability blocks; several as PALM's levels.")
    ] = None,
    exchange: Annotated[str, typer.Option(help="What --blocks lets be exchanged: within, whole or both.")] = "within",
    tail: Annotated[
        str, typer.Option(help="Small p from a Pareto distribution fitted to 500 permutations: none or gpd.")
    ] = "none",
    stop_after: Annotated[
        int, typer.Option(help="Stop when so many permutations reach the strongest finding, e.g. 20; 0 for never.")
    ] = 0,
    atlas: Annotated[str, typer.Option(help="Atlas of regions; names clusters and peaks, too, or none.")] = "lpba40",
    level: Annotated[str, typer.Option(help="voxel; roi: each atlas label; region: left and right merged.")] = "voxel",
    repeated: Annotated[
        str | None, typer.Option(help="Column with each scan's subject: sandwich variances (repeated scans, families).")
    ] = None,
    variance_groups: Annotated[
        str | None, typer.Option(help="Column of groups with a variance each (Welch's v, G); auto: from --blocks.")
    ] = None,
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
    report: Annotated[bool, typer.Option("--report", help="Write report.html, one page about the results.")] = False,
) -> None:
    """Fit a linear model at every voxel, over all scans and over random subsets."""
    from vbmstat.cli.glm_regions import fit_regions  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.cli.progress import print_removed, stages  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415
    from vbmstat.distributed.start import open_cluster  # noqa: PLC0415
    from vbmstat.glm.analysis import fit_glm  # noqa: PLC0415
    from vbmstat.glm.record import RECORD  # noqa: PLC0415
    from vbmstat.image.storage import listed_files  # noqa: PLC0415

    _check_atlas(atlas)
    table = cohort_path(cohort, maps, participants)
    folder = out or table.parent / "glm" / _folder_name(formula, level)
    earlier = listed_files(folder, RECORD)
    keep_freed_memory()
    shared: dict[str, Any] = {
        "repeats": repeats, "fraction": fraction, "seed": seed, "stratify": stratify, "draws": draws, "tiv": tiv,
        "weights": weights, "robust": robust, "allow_mixed": allow_mixed, "device": device,
        "permutations": permutations, "one_sided": one_sided, "scheme": scheme, "sign_flip": sign_flip,
        "blocks": tuple(blocks or ()), "exchange": exchange, "repeated": repeated, "tail": tail,
        "stop_after": stop_after, "variance_groups": variance_groups,
    }  # fmt: skip
    of_maps: dict[str, Any] = {
        "mask_threshold": mask_threshold, "mask_share": mask_share, "mask": mask, "nan": nan,
        "global_scaling": global_scaling, "spm_resms": spm_resms, "cluster_threshold": cluster_threshold,
    }  # fmt: skip
    if level != "voxel":
        _check_no_cluster(scheduler)
        given = {"maps": maps, "atlas": atlas, "level": level, "random": random, "inference": inference}
        call = call_record(ctx.params, table)
        fit_regions(formula, table, contrast, folder, {**given, "missing": missing}, shared, call)
        print_removed(folder, earlier)
        _write_report(folder, table, report)
        return
    _check_voxelwise(random)
    with stages() as progress, open_cluster(scheduler, workers=jobs, folder=folder / "slurm") as cluster:
        results = fit_glm(
            maps, formula, table, contrast, store=store, scratch=folder, progress=progress, missing=missing,
            inference=inference or (), checkpoint=folder, cluster=cluster, n_threads=jobs, announce=typer.echo,
            **shared, **of_maps,
        )  # fmt: skip
    results.record["call"] = call_record(ctx.params, table)
    results.to_directory(
        folder, spm_names=spm_names, outside=outside, regions=_regions(atlas, results),
        more=lambda place: _write_figures(results, place),
    )  # fmt: skip
    for tested in results.contrasts:
        (folder / f"contrast-{tested.label}_permutations.npz").unlink(missing_ok=True)
    _tell(results, folder)
    print_removed(folder, earlier)
    _write_report(folder, None if maps else table, report)


_FILES, NOT_RECORDED = ("draws", "mask"), ("out", "store", "jobs", "scheduler", "report")


def call_record(parameters: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """Every parameter of the command that can change the result, for ``vbmstat rerun``.

    Files are recorded by name and sha256, a folder of maps by its name: the maps themselves are in the record anyway.
    """
    from vbmstat.assets import sha256  # noqa: PLC0415 - heavy imports inside the command

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(name, one) for one in value]
        if isinstance(value, bool | int | float):
            return value
        text = str(value)
        if name == "maps":
            return {"folder": Path(text).name}
        of_files = name in _FILES or (name == "contrast" and text.endswith(".json")) or (
            name == "atlas" and text.endswith((".nii", ".nii.gz", ".mgz"))
        )
        return {"file": Path(text).name, "sha256": sha256(Path(text))} if of_files else text

    kept = {k: plain(k, v) for k, v in parameters.items() if v is not None and v != () and k not in NOT_RECORDED}
    name = "participants" if "maps" in kept else "cohort"  # the table, whichever option named it
    kept = {k: v for k, v in kept.items() if k not in ("cohort", "participants")}
    return dict(sorted({**kept, name: {"file": table.name, "sha256": sha256(table)}}.items()))


def _write_report(folder: Path, table: Path | None, wanted: bool) -> None:
    """One page about the results, with the preprocessing run whose table the model was given."""
    from vbmstat.report.write import write_report  # noqa: PLC0415

    if wanted:
        run = table if table is not None and table.name == "cohort.tsv" else None
        typer.echo(f"report in {write_report(folder, cohort=run)}")


def _check_no_cluster(scheduler: str | None) -> None:
    from vbmstat.errors import ClusterError  # noqa: PLC0415

    if scheduler is not None:
        msg = "--scheduler is for voxels; a model of regions takes a second here"
        raise ClusterError(msg)


def _check_voxelwise(random: str | None) -> None:
    from vbmstat.errors import DesignError  # noqa: PLC0415

    if random is not None:
        msg = "--random (a mixed model) is for --level roi or region; at every voxel take --repeated"
        raise DesignError(msg)


def cohort_path(cohort: Path | None, maps: str | None, participants: Path | None) -> Path:
    """The table that a command reads: the cohort's, or the participants' that goes with a folder of maps."""
    from vbmstat.errors import TableError  # noqa: PLC0415

    if maps is not None:
        if (participants or cohort) is None:
            msg = "--maps needs --participants, the table of covariates"
            raise TableError(msg)
        return participants or cohort  # type: ignore[return-value]
    if participants is not None:
        msg = "--participants goes with --maps; a cohort table already holds the covariates (--cohort)"
        raise TableError(msg)
    if cohort is not None:
        return cohort
    for name in _COHORTS:
        if Path(name).is_file():
            return Path(name)
    msg = f"no cohort table: looked for {', '.join(_COHORTS)}; give --cohort, or --maps with --participants"
    raise TableError(msg)


def _check_atlas(atlas: str) -> None:
    """Refuse an unknown atlas before the work begins."""
    from vbmstat.roi.atlas import load_atlas  # noqa: PLC0415

    if atlas not in ("none", "lpba40"):
        load_atlas(atlas)


def _regions(atlas: str, results: GlmResults) -> Regions | None:
    """The atlas that names clusters and peaks, where there are any."""
    from vbmstat.glm.inference.clusters import Regions  # noqa: PLC0415
    from vbmstat.roi.atlas import load_atlas  # noqa: PLC0415
    from vbmstat.roi.table import licence_notice  # noqa: PLC0415

    if atlas == "none" or results.space is None or not results.inference:
        return None
    loaded = load_atlas(atlas)
    typer.echo(licence_notice(loaded))
    names = {int(label): str(name) for label, name in loaded.table["name"].items()}
    return Regions(loaded.image, names)


def _folder_name(formula: str, level: str) -> str:
    """``gm ~ age + sex`` -> ``gm_age_sex``, of regions ``gm_age_sex_roi``; a folder for each formula and level."""
    from vbmstat.files.filenames import formula_name  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.regions.models import LEVELS  # noqa: PLC0415

    return formula_name(formula, LEVELS) + ("" if level == "voxel" else f"_{level}")


def _write_figures(results: GlmResults, folder: Path) -> None:
    from scipy import stats  # noqa: PLC0415

    from vbmstat.figures.model import design_figure, glass_brain_figure  # noqa: PLC0415
    from vbmstat.image.storage import atomic_path  # noqa: PLC0415

    design = results.design
    pictures = {"design.png": design_figure(design.matrix, design.columns, design.scan_ids)}
    for contrast in results.contrasts:
        if results.space is None:
            break
        m, df = len(contrast.weights), results.df_resid
        is_t = contrast.kind == "t"
        threshold = float(stats.t.isf(_P_SHOWN / 2, df) if is_t else stats.f.isf(_P_SHOWN, m, df))
        pictures[f"contrast-{contrast.label}_glassbrain.png"] = glass_brain_figure(
            results.volume(contrast.name, contrast.kind), contrast.name, threshold, contrast.kind
        )
    for name, figure in pictures.items():
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png")


def _tell(results: GlmResults, folder: Path) -> None:
    from vbmstat.glm.design.contrast import file_label  # noqa: PLC0415 - heavy imports inside the command

    record = results.record
    for note in record["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{record['n_scans']} scans, {record['n_voxels']} voxels, {len(record['columns'])} columns "
        f"({', '.join(record['columns'])}), {results.df_resid:g} degrees of freedom"
    )
    for contrast, entry in zip(results.contrasts, record["contrasts"], strict=True):
        values = results.maps[contrast.name][contrast.kind].values
        counted = entry["repetitions_estimated"]
        of = f", median over {counted} of {record['n_subsets']} subsets" if record["n_subsets"] else ""
        typer.echo(f"  {contrast.name}: {contrast.kind} from {values.min():.2f} to {values.max():.2f}{of}")
        if contrast.label != file_label(contrast.name):
            typer.echo(f"    files of {contrast.name}: contrast-{contrast.label}_*")
        for line in _corrected(results, contrast.name):
            typer.echo(f"    {line}")
    typer.echo(f"results in {folder}")


_CORRECTED = {
    "qfdr": "q of FDR", "pfwe": "FWE-corrected p of the peak", "ptfce": "FWE-corrected p of TFCE",
    "pextent": "FWE-corrected p of cluster extent", "pmass": "FWE-corrected p of cluster mass",
}  # fmt: skip


def _corrected(results: GlmResults, contrast: str) -> list[str]:
    """What survives correction, a line each."""
    if contrast not in results.inference:
        return []
    maps, inference = results.maps[contrast], results.inference[contrast]
    lines = [] if inference.nulls is None else [
        f"{inference.nulls.count} permutations, {'two' if inference.two_sided else 'one'}-sided, "
        f"smallest p {inference.nulls.smallest_p:.2g}"
    ]
    for stat, what in _CORRECTED.items():
        if stat in maps:
            p = maps[stat].values[results.mask]
            lines.append(f"{what}: {int((p <= 0.05).sum())} of {p.size} voxels at 0.05, smallest {p.min():.4g}")
    return lines
