"""``vbmstat train``: the cases, and the networks of engine `deep` from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

CURVES = "curves.png"
app = typer.Typer(help="Train the networks of engine deep.", no_args_is_help=True)

_Config = Annotated[Path, typer.Argument(help="The run's TOML file.")]
_Out = Annotated[Path, typer.Option(help="Folder of the run; a run that is in it goes on.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Minutes = Annotated[float | None, typer.Option(help="Stop before an epoch that would end later than this.")]


@app.command()
def prepare(
    out: Annotated[Path, typer.Argument(help="File of cases to write, .npz.")],
    teacher: Annotated[
        list[Path] | None, typer.Option(help="Output folder of vbmstat preprocess, whose maps are the truth.")
    ] = None,
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Where the teachers' scans lie; without it, corrected brains are taken.")
    ] = None,
    scans: Annotated[int | None, typer.Option(help="Of each teacher, the first so many.", min=1)] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Whole-head label map, from which images are made.")] = None,
    images: Annotated[int, typer.Option(help="Images of a label map.")] = 4,
    registration: Annotated[bool, typer.Option("--registration", help="Cases of registration, not of tissue.")] = False,
    voxel_size: Annotated[float, typer.Option(help="mm: 0.75 whole view, 0.5 patches; 1.5 registration.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
) -> None:
    """Put training cases of preprocessed scans and of label maps into one file."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports
    from vbmstat.training import prepare as made  # noqa: PLC0415
    from vbmstat.training.cases import write_cases  # noqa: PLC0415

    if not teacher and not labels:
        msg = "expected --teacher or --labels, or both; got neither"
        raise VbmstatError(msg)
    if registration and labels:
        msg = "--registration: cases come from --teacher; a label map has no warp"
        raise VbmstatError(msg)
    view = made.template_view(voxel_size) if registration else made.view_of(voxel_size)

    def cases() -> Any:
        for folder in teacher or []:
            yield from made.cases_of_run(folder, registration, view, typer.echo, scans, inputs or [])
        yield from made.cases_of_labels(labels or [], images, view, seed, typer.echo)

    settings = {"kind": "registration" if registration else "tissue", "shape": list(view.shape)}
    write_cases(out, cases(), settings)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, images {view}")


@app.command()
def segmentation(config: _Config, out: _Out, device: _Device = "auto", minutes: _Minutes = None) -> None:
    """Train the whole view: T1w -> tissue map."""
    _train("segmentation", config, out, device, minutes)


@app.command()
def patches(config: _Config, out: _Out, device: _Device = "auto", minutes: _Minutes = None) -> None:
    """Train the second stage: a foundation on all patches, then 18 positions."""
    _train("patches", config, out, device, minutes)


@app.command("gm-mask")
def gm_mask(config: _Config, out: _Out, device: _Device = "auto", minutes: _Minutes = None) -> None:
    """Train the mask of what is no GM."""
    _train("gm-mask", config, out, device, minutes)


@app.command()
def registration(config: _Config, out: _Out, device: _Device = "auto", minutes: _Minutes = None) -> None:
    """Train the registration: GM and WM of scan and template -> half velocities."""
    _train("registration", config, out, device, minutes)


def _train(kind: str, config: Path, out: Path, device: str, minutes: float | None) -> None:
    import pandas as pd  # noqa: PLC0415 - heavy imports

    from vbmstat.device import choose_device, keep_freed_memory  # noqa: PLC0415
    from vbmstat.figures.scans import save_png  # noqa: PLC0415
    from vbmstat.figures.training import curves_figure  # noqa: PLC0415
    from vbmstat.training.run import LOG, train  # noqa: PLC0415

    def show(row: dict[str, Any]) -> None:
        figures = (f"{name} {value:.4g}" for name, value in row.items() if name.startswith(("loss", "validation")))
        typer.echo(f"{row['stage']} epoch {row['epoch']}: {', '.join(figures)}, {row['seconds']:.0f} s")

    keep_freed_memory()
    done = train(kind, config, out, choose_device(device), minutes, show)
    if (out / LOG).is_file():
        save_png(out / CURVES, curves_figure(pd.read_csv(out / LOG, sep="\t")))
    typer.echo(f"complete: networks in {out}" if done else f"stopped in time; the same command goes on in {out}")
