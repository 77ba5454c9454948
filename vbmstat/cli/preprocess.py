"""``vbmstat preprocess``: T1w scans to smoothed, modulated tissue maps and a cohort table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vbmstat.cli.live import Screen, screen, stoppable

if TYPE_CHECKING:
    from vbmstat.batch.plan import Plan
    from vbmstat.batch.run import Result


def command(
    inputs: Annotated[
        list[Path],  # what cannot be read is a scan that fails, not a command that cannot be understood
        typer.Argument(help="BIDS folder, folder of images, or .nii, .nii.gz, .mgz files.", readable=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default derivatives/vbmstat in a BIDS folder, else vbmstat-out.")
    ] = None,
    participants: Annotated[Path | None, typer.Option(help="Covariates; default the BIDS folder's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="classic; cat: CAT12's own algorithms (the extra vbmstat[cat]); deep: networks.")
    ] = "classic",
    weights: Annotated[
        str | None, typer.Option(help="Networks of engine deep: vbmstat (default), deepmriprep (fetched), or a folder.")
    ] = None,
    names: Annotated[str, typer.Option(help="cat12 (mri/mwp1NAME.nii.gz) or bids derivatives.")] = "cat12",
    force: Annotated[
        bool, typer.Option("--force/--resume", help="Run complete scans again, or go on where a run has stopped.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Scans at once; default as many as cores and memory allow.", min=1)
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="Memory of all of them together, GB; default nine tenths of what is free.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on a dask cluster: local, slurm (--jobs of them), or a scheduler's address.")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: the i-th of n parts of the scans only, for job arrays; tables come with no shard.")
    ] = "",
    stop_on_first_failure: Annotated[
        bool, typer.Option("--stop-on-first-failure", help="Leave the rest undone when a scan fails.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, how long it takes and what it needs.")
    ] = False,
    lock: Annotated[
        bool, typer.Option("--lock/--no-lock", help="Keep other runs from a scan under way; off where locks fail.")
    ] = True,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html, one page about the cohort.")
    ] = True,
) -> None:
    """Make tissue maps in template space, volumes, quality figures and pictures of T1w scans.

    Exit code: 0 all scans are complete, 1 some failed, 2 nothing could be done, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    from vbmstat.batch.manifest import parse_shard  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.options import Options  # noqa: PLC0415
    from vbmstat.batch.plan import make_plan  # noqa: PLC0415
    from vbmstat.batch.run import run_plan  # noqa: PLC0415
    from vbmstat.batch.scheduled import scheduled_workers  # noqa: PLC0415
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()
    options = Options(engine=engine, device=device, names=names, force=force, locking=lock, weights=weights)
    plan = make_plan(
        inputs, out, options, participants=participants, shard=parse_shard(shard) if shard else None
    )  # fmt: skip
    if dry_run:
        _say_what_would_be_done(plan, jobs, memory)
        return
    with (
        screen() as shown, stoppable(shown.stopped), scheduled_workers(plan, scheduler, jobs, memory) as workers
    ):  # fmt: skip
        result = run_plan(
            plan, jobs=jobs, memory_gb=memory, stop_on_first_failure=stop_on_first_failure, workers=workers,
            on_event=shown.show, on_start=shown.say,
        )  # fmt: skip
        _say_what_was_done(plan, result, shown)
        if report and plan.shard is None:
            _write_report(plan, shown)
    if result.failures:
        sys.exit(1)


def _say_what_would_be_done(plan: Plan, jobs: int | None, memory: float | None) -> None:
    from vbmstat.batch import estimate  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.plan import completed  # noqa: PLC0415
    from vbmstat.batch.run import share_out  # noqa: PLC0415

    n_complete = len(completed(plan))
    share = share_out(plan, len(plan.tasks) - n_complete, jobs, memory)
    for line in estimate.outlook(plan, n_complete, share):
        typer.echo(line)


def _say_what_was_done(plan: Plan, result: Result, shown: Screen) -> None:
    n_complete = len(result.rows)
    if plan.shard is not None:
        shown.say(
            f"{n_complete} of {len(plan.tasks)} scans of shard {plan.shard[0]}/{plan.shard[1]} are complete; "
            "when all shards are done, the same command without --shard writes the tables"
        )
    else:
        shown.say(f"{len(result.cohort.table)} scans in {plan.out / 'cohort.tsv'}, pictures in {plan.out / 'report'}")
    if result.failures:
        shown.say(f"{len(result.failures)} failed: {result.failures_path}", "red")
    if not result.is_whole:
        shown.say(f"stopped at the first failure; {len(plan.tasks) - n_complete - 1} scans were left undone", "red")


def _write_report(plan: Plan, shown: Screen) -> None:
    """The page of the cohort; what keeps it from being written is said, and harms nothing else."""
    from vbmstat.batch.claim import tables_claim  # noqa: PLC0415 - heavy imports
    from vbmstat.errors import VbmstatError  # noqa: PLC0415
    from vbmstat.report.write import write_report  # noqa: PLC0415

    try:
        with tables_claim(plan.out, plan.options.locking):
            shown.say(f"report in {write_report(plan.out)}")
    except VbmstatError as error:
        shown.say(f"no report: {error}")
