"""``vbmstat preprocess``: T1w scans to smoothed, modulated tissue maps and a cohort table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vbmstat.cli.live import Screen, screen, stoppable

if TYPE_CHECKING:
    from vbmstat.batch.plan import RunPlan
    from vbmstat.batch.run import Result
    from vbmstat.files.search import Inputs


def command(
    inputs: Annotated[
        list[Path] | None,  # an unreadable file is a scan that fails, not a wrong command
        typer.Argument(help="BIDS folder, folder of images, or .nii, .nii.gz, .mgz files.", readable=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default derivatives/vbmstat in a BIDS folder, else vbmstat-out.")
    ] = None,
    participants: Annotated[Path | None, typer.Option(help="Covariates; default the BIDS folder's own.")] = None,
    subjects: Annotated[
        Path | None,
        typer.Option(help="Table of scans in place of folders: participant_id, session_id, path (years, date, age)."),
    ] = None,
    longitudinal: Annotated[
        bool, typer.Option("--longitudinal", help="Preprocess the sessions of each participant together.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Of --longitudinal: plasticity (changes of weeks), ageing (of years), or both (default)."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="classic; cat: CAT12's own algorithms (the extra 'cat'); deep: networks.")
    ] = "classic",
    weights: Annotated[
        str | None, typer.Option(help="Networks of engine deep: vbmstat (default), deepmriprep (fetched), or a folder.")
    ] = None,
    fwhm: Annotated[
        list[float] | None,
        typer.Option(help="Smoothing FWHM, mm; may be repeated; default 6, 0 for none.", metavar="MM"),
    ] = None,
    names: Annotated[str, typer.Option(help="cat12 (mri/mwp1NAME.nii.gz) or bids derivatives.")] = "cat12",
    outputs: Annotated[
        str,
        typer.Option(
            help="minimal (smoothed maps, volumes, quality), vbm, all, or names of: p0 p1 p2 p3 p7 m wp mwp m0wp wm wj "
            "rp1 rp2 velocity y iy; commas between them.",
            metavar="NAMES",
        ),
    ] = "vbm",
    voxel_size: Annotated[
        float, typer.Option(help="Voxel size of the maps in template space: 1, 1.5 or 2 mm.", metavar="MM")
    ] = 1.5,
    template: Annotated[
        Path | None,
        typer.Option(help="Folder of vbmstat template: register to it, on the way to the standard space of the maps."),
    ] = None,
    wmh: Annotated[bool, typer.Option("--wmh/--no-wmh", help="Look for white-matter hypointensities.")] = False,
    wmh_as: Annotated[
        str, typer.Option(help="Count them as wm, as a class of their own (class), or only report them (none).")
    ] = "wm",
    wmh_weights: Annotated[
        str,
        typer.Option(
            help="Network that looks for them: vbmstat, deep-t1-wmh (fetched), none (a plain rule) or a file."
        ),
    ] = "vbmstat",
    lesion_mask: Annotated[
        str | None,
        typer.Option(
            help="Mask of a lesion (stroke, tumour, resection), left out of every fit; for many scans a path with "
            "{participant_id}, {session_id}, {scan_id} or {name}.",
            metavar="PATH",
        ),
    ] = None,
    lesion_in_maps: Annotated[
        str, typer.Option(help="Leave that lesion out of tissue maps and volumes (exclude), or not (keep).")
    ] = "exclude",
    force: Annotated[
        bool, typer.Option("--force/--resume", help="Run complete scans again, or continue a run.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Scans at once; default as many as cores and memory allow.", min=1)
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="Memory of all scans together, GB; default nine tenths of the free memory.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on a dask cluster: local, slurm (--jobs of them), or a scheduler's address.")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: only the i-th of n parts of the scans; a run without it writes the tables.")
    ] = "",
    stop_on_first_failure: Annotated[
        bool, typer.Option("--stop-on-first-failure", help="End the run when a scan fails.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, the time and the resources, and stop.")
    ] = False,
    lock: Annotated[bool, typer.Option("--lock/--no-lock", help="Lock scans in progress against other runs.")] = True,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html, one page about the cohort.")
    ] = True,
) -> None:
    """Make tissue maps in template space, volumes, quality measures and pictures of T1w scans.

    Exit code: 0 all scans are complete, 1 some failed, 2 nothing was done, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    from vbmstat.batch.manifest import parse_shard  # noqa: PLC0415
    from vbmstat.batch.on_cluster import scheduled_workers  # noqa: PLC0415
    from vbmstat.batch.plan import make_plan  # noqa: PLC0415
    from vbmstat.batch.resources import Execution  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.run import run_plan  # noqa: PLC0415
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415
    from vbmstat.preproc.spec import DEFAULT_FWHM_MM, PreprocSpec  # noqa: PLC0415

    keep_freed_memory()
    widths = tuple(fwhm or DEFAULT_FWHM_MM)
    spec = PreprocSpec(
        engine=engine, weights=weights, device=device, fwhm_mm=widths, names=names, wmh=wmh, wmh_as=wmh_as,
        wmh_weights=wmh_weights, lesion_mask=lesion_mask, lesion_in_maps=lesion_in_maps,
        outputs=(outputs,), voxel_size_mm=voxel_size, longitudinal=_model(longitudinal, model),
        template=None if template is None else str(template),
    )  # fmt: skip
    execution = Execution(
        jobs=jobs, memory_gb=memory, shard=parse_shard(shard) if shard else None, force=force, locking=lock,
        stop_on_first_failure=stop_on_first_failure,
    )  # fmt: skip
    plan = make_plan(_places(inputs, subjects), out, spec, execution, participants)
    if dry_run:
        _print_outlook(plan)
        return
    with screen() as shown, stoppable(shown.stopped), scheduled_workers(plan, scheduler) as workers:
        result = run_plan(plan, workers, shown.show, shown.say)
        _print_summary(plan, result, shown)
        if report and plan.shard is None:
            _write_report(plan, shown)
    if result.failures:
        sys.exit(1)


def _model(longitudinal: bool, model: str | None) -> str | None:
    if model is not None and not longitudinal:
        msg = f"--model {model}: only with --longitudinal"
        raise typer.BadParameter(msg)
    return (model or "both") if longitudinal else None


def _places(inputs: list[Path] | None, subjects: Path | None) -> list[Path] | Inputs:
    """The folders and files, or the table."""
    from vbmstat.batch.visits import read_subjects  # noqa: PLC0415 - heavy imports

    if bool(inputs) == (subjects is not None):
        msg = "expected a folder or files, or a table of them (--subjects), and not both"
        raise typer.BadParameter(msg)
    return inputs or [] if subjects is None else read_subjects(subjects)


def _print_outlook(plan: RunPlan) -> None:
    from vbmstat.batch import estimate  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.plan import completed  # noqa: PLC0415

    n_complete = len(completed(plan))
    for line in estimate.dry_run_lines(plan, n_complete, estimate.share_out(plan, len(plan.scans) - n_complete)):
        typer.echo(line)


def _print_summary(plan: RunPlan, result: Result, shown: Screen) -> None:
    n_complete = result.n_complete
    if plan.shard is not None:
        shown.say(
            f"{n_complete} of {len(plan.scans)} scans of shard {plan.shard[0]}/{plan.shard[1]} are complete; "
            "when all shards are done, the same command without --shard writes the tables"
        )
    else:
        shown.say(f"{len(result.cohort.table)} scans in {plan.out / 'cohort.tsv'}, pictures in {plan.out / 'report'}")
    if result.failures:
        shown.say(f"{len(result.failures)} failed: {result.failures_path}", "red")
    if not result.is_whole:
        shown.say(
            f"stopped at the first failure; {len(plan.scans) - n_complete - len(result.failures)} scans were not run",
            "red",
        )


def _write_report(plan: RunPlan, shown: Screen) -> None:
    """Write the report of the cohort; an error is only printed."""
    from vbmstat.batch.claim import tables_claim  # noqa: PLC0415 - heavy imports
    from vbmstat.errors import VbmstatError  # noqa: PLC0415
    from vbmstat.report.write import write_report  # noqa: PLC0415

    try:
        with tables_claim(plan.out, plan.execution.locking):
            shown.say(f"report in {write_report(plan.out)}")
    except VbmstatError as error:
        shown.say(f"no report: {error}")
