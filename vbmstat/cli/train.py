"""``vbmstat train``: prepare training cases and train the networks of engine `deep`, of lesions and of tracts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

CURVES = "curves.png"
app = typer.Typer(
    help="Train the networks of engine deep, of white-matter hypointensities and of tracts.", no_args_is_help=True
)

_Config = Annotated[Path, typer.Argument(help="The run's TOML file.")]
_Out = Annotated[Path, typer.Option(help="Folder of the run; an unfinished run is resumed.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Minutes = Annotated[float | None, typer.Option(help="Stop before an epoch that would end after so many minutes.")]


@app.command()
def prepare(
    out: Annotated[Path, typer.Argument(help="File of cases to write (.npz).")],
    teacher: Annotated[
        list[Path] | None, typer.Option(help="Output folder of vbmstat preprocess; its maps are the targets.")
    ] = None,
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Folders with the teachers' scans; by default, corrected brains are used.")
    ] = None,
    scans: Annotated[int | None, typer.Option(help="Number of scans per teacher, the first ones.", min=1)] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Whole-head label map to render images from.")] = None,
    images: Annotated[int, typer.Option(help="Images per label map.")] = 4,
    registration: Annotated[bool, typer.Option("--registration", help="Registration instead of tissue cases.")] = False,
    voxel_size: Annotated[float, typer.Option(help="mm: 0.75 whole view, 0.5 patches, 1.5 registration.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
) -> None:
    """Write training cases from preprocessed scans and label maps to one file."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports
    from vbmstat.training import prepare as source  # noqa: PLC0415
    from vbmstat.training.cases import write_cases  # noqa: PLC0415

    if not teacher and not labels:
        msg = "expected --teacher, --labels or both, got neither"
        raise VbmstatError(msg)
    if registration and labels:
        msg = "--registration needs --teacher instead of --labels: a label map has no warp"
        raise VbmstatError(msg)
    view = source.template_view(voxel_size) if registration else source.view_of(voxel_size)

    def cases() -> Any:
        for folder in teacher or []:
            yield from islice(source.cases_of_run(folder, registration, view, inputs or [], typer.echo), scans)
        yield from source.cases_of_labels(labels or [], images, view, seed, typer.echo)

    settings = {"kind": "registration" if registration else "tissue", "shape": list(view.shape)}
    write_cases(out, cases(), settings)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, images {view}")


@app.command("prepare-wmh")
def prepare_lesions(
    out: Annotated[Path, typer.Argument(help="File of cases to write (.npz).")],
    scans: Annotated[
        list[Path] | None, typer.Option(help="Real T1w scan without lesions, to paint lesions into.")
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Whole-head label map to render images from.")] = None,
    masks: Annotated[list[Path] | None, typer.Option(help="Mask of a person's lesions in MNI space, to paint.")] = None,
    tracts: Annotated[
        list[Path] | None, typer.Option(help="Mask of a tract in MNI space, to paint pale: it is no lesion.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images per label map; every second one shows its lesions.")] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same cases.")] = 0,
) -> None:
    """Write training cases for the lesion network: brains as engine classic sees them, and lesions to paint."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports
    from vbmstat.preproc.networks.lesions import KIND  # noqa: PLC0415
    from vbmstat.training import prepare_lesions as source  # noqa: PLC0415
    from vbmstat.training.cases import Case, write_cases  # noqa: PLC0415
    from vbmstat.training.lesions import SHAPES, TRACTS  # noqa: PLC0415

    if not scans and not labels:
        msg = "expected --scans, --labels or both, got neither"
        raise VbmstatError(msg)

    def cases() -> Any:
        for group, paths in ((SHAPES, masks), (TRACTS, tracts)):
            for name, shape in source.shapes(paths or [], typer.echo):
                yield Case(name, group, {"lesion": shape[None]})
        for brains in (
            source.brains_of_scans(scans or [], typer.echo),
            source.brains_of_labels(labels or [], images, seed, typer.echo),
        ):
            for name, group, brain in brains:
                yield Case(name, group, brain.arrays())

    write_cases(out, cases(), {"kind": KIND, "shape": [1, 1, 1]})
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command("prepare-tracts")
def prepare_tracts(
    out: Annotated[Path, typer.Argument(help="File of cases to write (.npz).")],
    table: Annotated[
        Path, typer.Argument(help="TSV: participant_id, t1w, references (TractSeg's folder), peaks; perhaps group.")
    ],
    voxel_size: Annotated[float, typer.Option(help="mm, of the slices in T1w space.", min=0.3)] = 1.25,
    side: Annotated[int, typer.Option(help="Voxels of an edge of the cube around the brain.", min=16)] = 160,
    sigma: Annotated[float, typer.Option(help="Width of the tensor's derivatives, voxels.", min=0.1)] = 0.5,
    rho: Annotated[float, typer.Option(help="Width of the tensor's neighbourhood, voxels.", min=0.0)] = 0.5,
    along: Annotated[float, typer.Option(help="Width of its mean along fibres, voxels; 0: none.", min=0.0)] = 1.0,
) -> None:
    """Write training cases for tract networks: T1w scans with TractSeg's masks and peaks of the same people."""
    from vbmstat.tracts.structure_tensor import Widths  # noqa: PLC0415 - heavy imports
    from vbmstat.training import prepare_tracts as source  # noqa: PLC0415
    from vbmstat.training.cases import write_cases  # noqa: PLC0415

    left_out: list[str] = []

    def leave_out(line: str) -> None:
        left_out.append(line)
        typer.echo(f"left out: {line}", err=True)

    view = source.View(voxel_size, side, Widths(sigma, rho, along))
    cases, settings = source.cases_of_table(table, view, typer.echo, leave_out)
    write_cases(out, cases, settings)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    if left_out:
        typer.echo(f"people left out: {len(left_out)}; mend their rows of {table} and run again to have them", err=True)
        raise typer.Exit(1)


def _add_command(kind: str, summary: str) -> None:
    """Add the command that trains one kind of network; all kinds take the same options."""

    @app.command(kind, help=summary)
    def command(config: _Config, out: _Out, device: _Device = "auto", minutes: _Minutes = None) -> None:
        import pandas as pd  # noqa: PLC0415 - heavy imports

        from vbmstat.device import choose_device, keep_freed_memory  # noqa: PLC0415
        from vbmstat.figures.style import save_png  # noqa: PLC0415
        from vbmstat.figures.training import curves_figure  # noqa: PLC0415
        from vbmstat.training.run import LOG, open_task, train  # noqa: PLC0415

        keep_freed_memory()
        complete = train(open_task(kind, config, choose_device(device)), out, minutes, _print_epoch)
        if (out / LOG).is_file():
            save_png(out / CURVES, curves_figure(pd.read_csv(out / LOG, sep="\t")))
        typer.echo(f"complete: networks in {out}" if complete else f"out of time; run again to resume {out}")


def _print_epoch(row: dict[str, Any]) -> None:
    scores = (f"{name} {value:.4g}" for name, value in row.items() if name.startswith(("loss", "validation")))
    typer.echo(f"{row['stage']} epoch {row['epoch']}: {', '.join(scores)}, {row['seconds']:.0f} s")


_add_command("segmentation", "Train the first stage: T1w -> tissue map on the whole view.")
_add_command("patches", "Train the second stage: a foundation on all patches, then a network for each of 18 positions.")
_add_command("gm-mask", "Train the mask of voxels without GM.")
_add_command("registration", "Train registration: GM and WM of scan and template -> half velocities.")
_add_command("wmh", "Train the network that finds white-matter hypointensities: intensity and priors -> lesion.")
_add_command(
    "tracts", "Train the outlines of tracts: a teacher that sees diffusion peaks, a student that sees the T1w image."
)
