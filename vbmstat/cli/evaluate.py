"""``vbmstat evaluate``: agreement of output folders; engines under artefacts and graded atrophy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from vbmstat.evaluate.engines import HeadFile
    from vbmstat.evaluate.folders import Evaluation

RECORD = "evaluation_folders.json"  # of `evaluate folders`; lists its files
app = typer.Typer(help="Evaluate output folders, or engines on images whose truth is known.", no_args_is_help=True)

_Heads = Annotated[
    list[Path], typer.Argument(help="Whole-head label maps (exact truth); `artefacts` also takes T1w scans.")
]
_Out = Annotated[Path, typer.Option("--out", help="Folder for tables and figures.")]
_Engines = Annotated[list[str], typer.Option("--engine", help="classic, cat or deep; may be repeated.")]
_Weights = Annotated[str | None, typer.Option("--weights", help="Networks of engine deep, as in vbmstat preprocess.")]
_Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
_Seed = Annotated[int, typer.Option("--seed", help="Same seed, same images.")]
_Force = Annotated[bool, typer.Option("--force", help="Repeat rows that are already in the table.")]


@app.command()
def folders(
    folders: Annotated[
        list[Path], typer.Argument(help="Output folders of vbmstat, CAT12, SPM, T1Prep or deepmriprep.")
    ],
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Label map (CSF 1, GM 2, WM 3), or folder with one per scan.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Folder to compare the others with; the first by default.")
    ] = None,
    out: _Out = Path("evaluation"),
) -> None:
    """Compare output folders scan by scan: Dice, correlation of maps, distance to the template, regularity of fields.

    worst_FOLDER.png shows each folder's worst scan in the slices that disagree most.
    """
    from vbmstat.assets.provenance import provenance  # noqa: PLC0415 - heavy imports
    from vbmstat.cli.progress import print_removed, stages  # noqa: PLC0415
    from vbmstat.evaluate.folders import evaluate_folders  # noqa: PLC0415
    from vbmstat.evaluate.summary import side_by_side, with_ages  # noqa: PLC0415
    from vbmstat.image import storage  # noqa: PLC0415
    from vbmstat.tables import dictionary  # noqa: PLC0415

    with stages() as report:
        evaluation = evaluate_folders(folders, truth, report, reference)
    scans = with_ages(evaluation.scans, folders)
    earlier = storage.listed_files(out, RECORD)
    with storage.replacing(out, RECORD) as staged:
        dictionary.write_table(staged / "evaluation_scans.tsv", scans, "evaluation_scans")
        dictionary.write_table(staged / "evaluation_summary.tsv", evaluation.summary, "evaluation_summary")
        worst = _worst_cases(evaluation, staged)
        parameters = {"folders": list(evaluation.outputs), "truth": truth is not None}
        storage.write_json(staged / RECORD, provenance("evaluate folders", parameters))
    print_removed(out, earlier)
    typer.echo("Median [worst scan]:")
    typer.echo(side_by_side(evaluation.summary).to_string())
    if "age_flag" in scans:
        flagged = scans.dropna(subset=["age_flag"]).drop_duplicates("scan")
        typer.echo(f"{len(flagged)} scans of people under 18 or over 80: see column age_flag")
    for note in evaluation.notes:
        typer.echo(f"note: {note}", err=True)
    for name, stems in evaluation.left_out.items():
        if stems:
            some = ", ".join(stems[:5])
            typer.echo(f"{name}: left out {len(stems)} scans that other folders lack ({some})", err=True)
    for line in [*worst, "evaluation_scans.tsv"]:
        typer.echo(str(out / line) if line.endswith((".png", ".tsv")) else line)


def _engine_test(test: Callable[..., None]) -> Callable[..., None]:
    """Add the command of an engine test; all tests take the same options."""

    def command(
        heads: _Heads,
        engine: _Engines = ["classic"],  # noqa: B006 - typer copies it
        weights: _Weights = None,
        out: _Out = Path("evaluation"),
        device: _Device = "auto",
        seed: _Seed = 0,
        force: _Force = False,
    ) -> None:
        from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports
        from vbmstat.device import choose_device, keep_freed_memory  # noqa: PLC0415
        from vbmstat.evaluate.engines import Bench, evaluate_heads, find_engines  # noqa: PLC0415

        def evaluate(kind: type[HeadFile]) -> pd.DataFrame:
            engines, where = find_engines(engine, weights), choose_device(device)
            keep_freed_memory()
            with stages() as report:
                return evaluate_heads(kind, heads, Bench(engines, where, force, report), out, seed)

        test(heads, out, seed, force, evaluate)

    command.__name__, command.__doc__ = test.__name__, test.__doc__
    return app.command()(command)


@_engine_test
def artefacts(heads: list[Path], out: Path, seed: int, force: bool, evaluate: Callable[..., pd.DataFrame]) -> None:
    """Segment images with noise, bias field, blur, ghosting, motion, ringing and spikes, medium and strong."""
    from vbmstat.evaluate.artefacts import ArtefactHead, captioned_images, summarise  # noqa: PLC0415
    from vbmstat.figures import robustness as figures  # noqa: PLC0415 - heavy imports
    from vbmstat.figures.style import save_png  # noqa: PLC0415
    from vbmstat.files.naming import image_stem  # noqa: PLC0415

    name = image_stem(heads[0])
    sheet = out / f"artefacts_{name}.png"
    if force or not sheet.exists():
        save_png(sheet, figures.contact_sheet(captioned_images(heads[0], seed), f"{name}, seed {seed}"))
    table = evaluate(ArtefactHead)
    if "dice_gm" in table:
        save_png(out / f"{ArtefactHead.kind}.png", figures.artefacts_figure(table))
    _write_summary(table, summarise(table), out, ArtefactHead.kind)


@_engine_test
def atrophy(heads: list[Path], out: Path, seed: int, force: bool, evaluate: Callable[..., pd.DataFrame]) -> None:
    """Segment heads whose cortex is 0.1 to 1 mm thinner, and compare the GM volume with the true one."""
    from vbmstat.evaluate.atrophy import AtrophyHead, changes, summarise  # noqa: PLC0415
    from vbmstat.figures import robustness as figures  # noqa: PLC0415
    from vbmstat.figures.style import save_png  # noqa: PLC0415
    from vbmstat.tables import dictionary  # noqa: PLC0415 - heavy imports

    del heads, seed, force
    kind = AtrophyHead.kind
    table = changes(evaluate(AtrophyHead))
    dictionary.write_table(out / f"{kind}.tsv", table, kind)
    save_png(out / f"{kind}.png", figures.atrophy_figure(table))
    _write_summary(table, summarise(table), out, kind)


def _worst_cases(evaluation: Evaluation, out: Path) -> list[str]:
    """Draw each compared folder's worst scan; return the names of the figures, or a line where there is none."""
    from vbmstat.evaluate.folders import read_pair  # noqa: PLC0415 - heavy imports
    from vbmstat.evaluate.summary import worst_scans  # noqa: PLC0415
    from vbmstat.figures.style import save_png  # noqa: PLC0415
    from vbmstat.figures.worst_case import worst_case_figure  # noqa: PLC0415
    from vbmstat.files.filenames import unique_names  # noqa: PLC0415

    lines = []
    rows = worst_scans(evaluation.summary).to_dict("records")
    folders = list(dict.fromkeys(row["folder"] for row in rows))
    part = dict(zip(folders, unique_names(folders, lambda name: name.replace("/", "_")), strict=True))
    for row in rows:
        folder, reference, scan = row["folder"], row["reference"], row["worst_scan"]
        if row["measure"] != "dice_gm":
            worst = f"{scan} (highest {row['measure']}, {row['max']:.4g})"
            lines.append(f"{folder}: worst scan {worst}; no figure, because there are no label maps to compare")
            continue
        pair = read_pair(evaluation, folder, reference, scan)
        dice = {f"Dice of {tissue.upper()}": f"{value:.3f}" for tissue, value in pair.dice.items()}
        title = f"{scan}: {folder} against {reference}, lowest Dice of GM among {row['n_scans']} scans"
        figure = worst_case_figure(pair.tissue, pair.reference_tissue, (folder, reference), title, dice)
        lines.append(f"worst_{part[folder]}.png")
        save_png(out / lines[-1], figure)
    return lines


def _write_summary(table: Any, summary: Any, out: Path, kind: str) -> None:
    """Write and print the summary; list the scans that failed."""
    from vbmstat.tables import dictionary  # noqa: PLC0415 - heavy imports

    dictionary.write_table(out / f"{kind}_summary.tsv", summary, f"{kind}_summary")
    typer.echo(summary.to_string(index=False, na_rep="n/a", float_format=lambda value: f"{value:.4g}"))
    for row in table[table["reason"].notna()].to_dict("records"):
        image = ", ".join(str(row[key]) for key in ("head", "thinning_mm", "artefact", "strength") if key in row)
        typer.echo(f"failed: {image}, {row['engine']}: {row['reason']}", err=True)
    typer.echo(str(out / f"{kind}.tsv"))
