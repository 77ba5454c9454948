"""``vbmstat evaluate``: agreement of output folders, and what engines make of artefacts and of graded atrophy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vbmstat.evaluate.folders import Evaluation

app = typer.Typer(help="Judge output folders, or engines on images whose truth is known.", no_args_is_help=True)

_Out = Annotated[Path, typer.Option("--out", help="Folder of the tables and pictures.")]
_Engines = Annotated[list[str], typer.Option("--engine", help="classic, cat or deep; may be repeated.")]
_Weights = Annotated[str | None, typer.Option("--weights", help="Networks of engine deep, as for vbmstat preprocess.")]
_Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
_Seed = Annotated[int, typer.Option("--seed", help="Same seed, same images.")]
_Force = Annotated[bool, typer.Option("--force", help="Segment again what is in the table.")]


@app.command()
def folders(
    folders: Annotated[
        list[Path], typer.Argument(help="Output folders of vbmstat, CAT12, SPM, T1Prep or deepmriprep.")
    ],
    truth: Annotated[
        Path | None, typer.Option("--truth", help="True labels (CSF 1, GM 2, WM 3): a file, or a folder by scan name.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The folder that others are compared with; the first by default.")
    ] = None,
    out: _Out = Path("evaluation"),
) -> None:
    """Dice of tissues, correlation of maps, distance to the template and regularity of fields, scan by scan.

    Each compared folder's worst scan is drawn where it disagrees most: worst_FOLDER.png.
    """
    from vbmstat.cli.progress import stages  # noqa: PLC0415
    from vbmstat.evaluate.folders import evaluate_folders, side_by_side, with_ages  # noqa: PLC0415
    from vbmstat.tables import dictionary  # noqa: PLC0415 - heavy imports

    with stages() as report:
        found = evaluate_folders(folders, truth, report, reference)
    scans = with_ages(found.scans, folders)
    dictionary.write_table(out / "evaluation_scans.tsv", scans, "evaluation_scans")
    dictionary.write_table(out / "evaluation_summary.tsv", found.summary, "evaluation_summary")
    typer.echo("Median and, in brackets, the worst scan's value:")
    typer.echo(side_by_side(found.summary).to_string())
    if "age_flag" in scans:
        flagged = scans.dropna(subset=["age_flag"]).drop_duplicates("scan")
        typer.echo(f"{len(flagged)} scans of children (under 18) or old people (over 80): column age_flag")
    for note in found.notes:
        typer.echo(f"n/a or changed: {note}", err=True)
    for name, stems in found.left_out.items():
        if stems:
            typer.echo(f"{name}: {len(stems)} scans that not all have were left out ({', '.join(stems[:5])})", err=True)
    _worst_cases(found, out)
    typer.echo(str(out / "evaluation_scans.tsv"))


@app.command()
def artefacts(
    heads: Annotated[list[Path], typer.Argument(help="Whole-head label maps (exact truth) or T1w scans.")],
    engine: _Engines = ["classic"],  # noqa: B006 - typer copies it
    weights: _Weights = None,
    out: _Out = Path("evaluation"),
    device: _Device = "auto",
    seed: _Seed = 0,
    force: _Force = False,
) -> None:
    """Segment images with noise, bias field, blur, ghosting, motion, ringing and spikes, medium and strong."""
    from vbmstat.evaluate import artefacts as made  # noqa: PLC0415
    from vbmstat.figures import robustness as figures  # noqa: PLC0415 - heavy imports
    from vbmstat.figures.publication import save_png  # noqa: PLC0415
    from vbmstat.files.naming import image_stem  # noqa: PLC0415

    name = image_stem(heads[0])
    sheet = out / f"artefacts_{name}.png"
    if force or not sheet.exists():
        save_png(sheet, figures.contact_sheet(made.captioned_images(heads[0], seed), f"{name}, seed {seed}"))
    table = _segmented(made.evaluate_artefacts, heads, engine, weights, out, device, seed, force)
    if "dice_gm" in table:
        save_png(out / f"{made.TABLE}.png", figures.artefacts_figure(table))
    _show(table, made.summarise(table), out, made.TABLE)


@app.command()
def atrophy(
    heads: Annotated[list[Path], typer.Argument(help="Whole-head label maps.")],
    engine: _Engines = ["classic"],  # noqa: B006 - typer copies it
    weights: _Weights = None,
    out: _Out = Path("evaluation"),
    device: _Device = "auto",
    seed: _Seed = 0,
    force: _Force = False,
) -> None:
    """Segment images of heads whose cortex is thinner by 0.1 to 1 mm, and compare found with true GM volume."""
    from vbmstat.evaluate import atrophy as made  # noqa: PLC0415
    from vbmstat.figures import robustness as figures  # noqa: PLC0415
    from vbmstat.figures.publication import save_png  # noqa: PLC0415
    from vbmstat.tables import dictionary  # noqa: PLC0415 - heavy imports

    table = _segmented(made.evaluate_atrophy, heads, engine, weights, out, device, seed, force)
    dictionary.write_table(out / f"{made.TABLE}.tsv", table, made.TABLE)
    save_png(out / f"{made.TABLE}.png", figures.atrophy_figure(table))
    _show(table, made.summarise(table), out, made.TABLE)


def _worst_cases(found: Evaluation, out: Path) -> None:
    """A picture of each compared folder's worst scan; where label maps lack, its name."""
    from vbmstat.evaluate.folders import read_case, worst_scans  # noqa: PLC0415 - heavy imports
    from vbmstat.figures.scans import save_png  # noqa: PLC0415
    from vbmstat.figures.worst_case import worst_case_figure  # noqa: PLC0415
    from vbmstat.files.filenames import unique_names  # noqa: PLC0415

    rows = worst_scans(found.summary).to_dict("records")
    folders = list(dict.fromkeys(row["folder"] for row in rows))
    part = dict(zip(folders, unique_names(folders, lambda name: name.replace("/", "_")), strict=True))
    for row in rows:
        folder, reference, scan = row["folder"], row["reference"], row["worst_scan"]
        if row["measure"] != "dice_gm":
            worst = f"{scan} (highest {row['measure']}, {row['max']:.4g})"
            typer.echo(f"{folder}: worst is {worst}; no picture without label maps to compare")
            continue
        case = read_case(found, folder, reference, scan)
        dice = {f"Dice of {tissue.upper()}": f"{value:.3f}" for tissue, value in case.dice.items()}
        title = f"{scan}: {folder} against {reference}, lowest Dice of GM among {row['n_scans']} scans"
        path = out / f"worst_{part[folder]}.png"
        save_png(path, worst_case_figure(case.tissue, case.reference_tissue, (folder, reference), title, dice))
        typer.echo(str(path))


def _segmented(
    evaluate: Any,
    heads: list[Path],
    names: list[str],
    weights: str | None,
    out: Path,
    device: str,
    seed: int,
    force: bool,
) -> Any:
    """The table of all engines over all images, with a bar."""
    from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports
    from vbmstat.device import choose_device, keep_freed_memory  # noqa: PLC0415
    from vbmstat.evaluate.engines import find_engines  # noqa: PLC0415

    engines = find_engines(names, weights)
    keep_freed_memory()
    with stages() as report:
        return evaluate(heads, engines, out, device=choose_device(device), seed=seed, force=force, report=report)


def _show(table: Any, summary: Any, out: Path, name: str) -> None:
    """Write and print the summary, name what failed."""
    from vbmstat.tables import dictionary  # noqa: PLC0415 - heavy imports

    dictionary.write_table(out / f"{name}_summary.tsv", summary, f"{name}_summary")
    typer.echo(summary.to_string(index=False, na_rep="n/a", float_format=lambda value: f"{value:.4g}"))
    for row in table[table["reason"].notna()].to_dict("records"):
        image = ", ".join(str(row[key]) for key in ("head", "thinning_mm", "artefact", "strength") if key in row)
        typer.echo(f"failed: {image}, {row['engine']}: {row['reason']}", err=True)
    typer.echo(str(out / f"{name}.tsv"))
