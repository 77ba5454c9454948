"""``vbmstat-bids bids_dir output_dir participant|group``: a BIDS App with the option names of fMRIPrep."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vbmstat import __version__
from vbmstat.errors import VbmstatError, listed, one_line

if TYPE_CHECKING:
    from vbmstat.files.search import Inputs

_UNITS = {"": 1e-3, "K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}  # GB; fMRIPrep takes plain numbers for MB
_IGNORED = ("--notrack", "--anat-only", "--low-mem", "--resource-monitor", "--write-graph")


def parser() -> argparse.ArgumentParser:
    """Arguments of a BIDS App; every option can be written with hyphens or underscores."""
    app = argparse.ArgumentParser(
        prog="vbmstat-bids", description="Voxel-based morphometry of a BIDS dataset.", allow_abbrev=False,
        epilog="Exit code: 0 all scans are complete, 1 some failed, 2 nothing was done, 130 and 143 stopped.",
    )  # fmt: skip
    app.add_argument("bids_dir", type=Path, help="Folder of the dataset.")
    app.add_argument("output_dir", type=Path, help="Folder of the derivatives: a dataset of its own.")
    app.add_argument(
        "analysis_level", choices=["participant", "group"],
        help="participant: maps of each scan; group: the cohort's table and report, and a model.",
    )  # fmt: skip
    app.add_argument("--version", action="version", version=f"vbmstat {__version__}")
    app.add_argument("-v", "--verbose", action="count", default=0, help="Print more; -vv for everything.")
    which = app.add_argument_group("selection of scans")
    _add(which, "--participant-label", nargs="+", default=[], metavar="LABEL", help="With or without sub-.")
    _add(which, "--session-label", "--session-id", nargs="+", default=[], metavar="LABEL", help="With or without ses-.")
    _add(which, "--bids-filter-file", type=Path, metavar="FILE", help="JSON of PyBIDS filters; the entry t1w is used.")
    _add(which, "--skip-bids-validation", action="store_true", help="Accept a folder without dataset_description.json.")
    how = app.add_argument_group("processing")
    _add(how, "--nprocs", "--nthreads", "--n-cpus", "--ncpus", type=_positive, metavar="N",
         help="Total number of processor cores.")  # fmt: skip
    _add(how, "--omp-nthreads", type=_positive, metavar="N", help="Cores per scan; by default, as many scans as fit.")
    _add(how, "--mem", "--mem-mb", type=_gigabytes, dest="memory_gb", metavar="MB",
         help="Total memory, in MB or with a unit, such as 16G.")  # fmt: skip
    _add(how, "--mem-gb", type=float, dest="memory_gb", metavar="GB", help="Total memory in GB.")
    _add(how, "--engine", default="classic", help="classic, cat or deep.")
    _add(how, "--fwhm", type=float, action="append", metavar="MM",
         help="Smoothing FWHM; may be repeated; default 6, 0 for none.")  # fmt: skip
    _add(how, "--outputs", default="vbm", metavar="NAMES",
         help="minimal, vbm, all, or names of outputs, as in vbmstat preprocess.")  # fmt: skip
    _add(how, "--voxel-size", type=float, default=1.5, metavar="MM",
         help="Voxel size of the maps in template space: 1, 1.5 or 2 mm.")  # fmt: skip
    _add(how, "--longitudinal", nargs="?", const="both", choices=["plasticity", "ageing", "both"], metavar="MODEL",
         help="Preprocess each participant's sessions together: plasticity, ageing or both (default).")  # fmt: skip
    _add(how, "--device", default="auto", help="auto, cpu or cuda.")
    _add(how, "--stop-on-first-crash", action="store_true", help="End the run when a scan fails.")
    _add(how, "--dry-run", action="store_true", help="Print which scans would be run.")
    _add(how, "--force", action="store_true", help="Run complete scans again.")
    _add(how, "-w", "--work-dir", type=Path, help="Ignored: unfinished files are in output_dir/.partial.")
    for name in _IGNORED:
        _add(how, name, action="store_true", help=argparse.SUPPRESS)
    model = app.add_argument_group("group level")
    _add(model, "--formula", help="Model to fit, e.g. 'gm ~ age + sex + tiv'; results in output_dir/glm/.")
    _add(model, "--contrast", action="append", default=[], help="Contrast, as in vbmstat glm; may be repeated.")
    return app


def _add(group: argparse._ArgumentGroup, *names: str, **options: object) -> None:
    """Add an option in both spellings; the help shows the first."""
    others = ["--" + name[2:].replace("-", "_") for name in names if name.startswith("--")]
    group.add_argument(*dict.fromkeys([*names, *others]), **options)  # type: ignore[arg-type]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"expected a whole number of 1 or more, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _gigabytes(text: str) -> float:
    """Memory in GB from fMRIPrep's notation: MB, or a number with a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        msg = f"expected memory such as 8000 (MB) or 8G, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return float(match[1]) * _UNITS[match[2].upper()]


def run(arguments: Sequence[str]) -> int:
    """Run the app; return the exit code.

    Raises
    ------
    VbmstatError
        If there is nothing to do: no such dataset, unknown labels, no scan left.
    """
    options = parser().parse_args(arguments)
    from vbmstat.device import keep_freed_memory  # noqa: PLC0415
    from vbmstat.files.bids import check_dataset  # noqa: PLC0415 - heavy imports

    keep_freed_memory()
    if options.verbose:
        logging.getLogger("vbmstat").setLevel(logging.DEBUG if options.verbose > 1 else logging.INFO)
    if not options.bids_dir.is_dir():
        msg = f"{options.bids_dir}: no such folder; expected a BIDS dataset"
        raise VbmstatError(msg)
    if not options.skip_bids_validation:
        check_dataset(options.bids_dir)
    _use_cores(options.nprocs)
    return _group(options) if options.analysis_level == "group" else _participants(options)


def _use_cores(n_cores: int | None) -> None:
    """Restrict this process and its children to some cores, where the system supports it."""
    if n_cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_cores])


def _jobs(options: argparse.Namespace) -> int | None:
    """Scans at once; None leaves it to cores and memory."""
    if options.omp_nthreads is None:
        return None
    from vbmstat.device import n_cores  # noqa: PLC0415 - heavy imports

    return int(max((options.nprocs or n_cores()) // options.omp_nthreads, 1))


def _participants(options: argparse.Namespace) -> int:
    """Participant level: maps of every selected scan."""
    from vbmstat.batch.plan import make_plan  # noqa: PLC0415
    from vbmstat.batch.resources import Execution  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.run import run_plan  # noqa: PLC0415
    from vbmstat.cli.live import screen, stoppable  # noqa: PLC0415
    from vbmstat.preproc.spec import DEFAULT_FWHM_MM, PreprocSpec  # noqa: PLC0415

    inputs = _inputs(options)
    if options.dry_run:
        for scan in inputs.scans:
            sys.stdout.write(f"{one_line(str(scan.path))}\n")
        return 0
    spec = PreprocSpec(
        engine=options.engine, device=options.device, fwhm_mm=tuple(options.fwhm or DEFAULT_FWHM_MM), names="bids",
        outputs=(options.outputs,), voxel_size_mm=options.voxel_size, longitudinal=options.longitudinal,
    )  # fmt: skip
    execution = Execution(
        jobs=_jobs(options), memory_gb=options.memory_gb, force=options.force,
        stop_on_first_failure=options.stop_on_first_crash,
    )  # fmt: skip
    people = options.bids_dir / "participants.tsv"
    plan = make_plan(inputs, options.output_dir, spec, execution, people if people.is_file() else None)
    with screen() as shown, stoppable(shown.stopped):
        result = run_plan(plan, on_event=shown.show, on_start=shown.say)
        shown.say(f"{len(result.cohort.table)} scans in {plan.out / 'cohort.tsv'}")
        if result.failures:
            shown.say(f"{len(result.failures)} failed: {plan.out / 'failures.tsv'}", "red")
    return int(bool(result.failures))


def _group(options: argparse.Namespace) -> int:
    """Group level: table and report of all complete scans, and a model if there is a formula."""
    from vbmstat import cli  # noqa: PLC0415 - imports every command
    from vbmstat.batch.claim import tables_claim  # noqa: PLC0415
    from vbmstat.batch.collect import read_people, write_cohort  # noqa: PLC0415
    from vbmstat.batch.derivatives import completed_scan  # noqa: PLC0415
    from vbmstat.files import bids  # noqa: PLC0415 - imports every command
    from vbmstat.report.write import write_report  # noqa: PLC0415

    out = options.output_dir
    asked = _inputs(options).scans
    done = [scan for scan in asked if completed_scan(out, scan, "bids") is not None]
    if not done:
        msg = f"{out}: none of {len(asked)} scans is complete; run the level participant first"
        raise VbmstatError(msg)
    with tables_claim(out):
        cohort = write_cohort(out, {}, [], read_people([options.bids_dir], None), "bids")
        bids.write_dataset_files(out, done, "bids")
        sys.stderr.write(f"{len(cohort.table)} scans in {out / 'cohort.tsv'}; report in {write_report(out)}\n")
    if len(done) < len(asked):
        sys.stderr.write(f"{len(asked) - len(done)} scans are not complete and were left out\n")
    if options.formula:
        contrasts = [word for contrast in options.contrast for word in ("--contrast", contrast)]
        cli.app(["glm", options.formula, "--cohort", str(out / "cohort.tsv"), *contrasts], standalone_mode=False)
    return 0


def _inputs(options: argparse.Namespace) -> Inputs:
    """The selected scans of the dataset; the others are listed as skipped."""
    from vbmstat.files.bids import Selection, read_filter  # noqa: PLC0415 - heavy imports
    from vbmstat.files.search import find_inputs  # noqa: PLC0415

    filters = read_filter(options.bids_filter_file) if options.bids_filter_file else {}
    wanted = Selection(tuple(options.participant_label), tuple(options.session_label), filters)
    found = find_inputs([options.bids_dir])
    known = {scan.participant_id.removeprefix("sub-") for scan in found.scans}
    unknown = [label for label in wanted.participants if label.removeprefix("sub-") not in known]
    if unknown:
        msg = f"{options.bids_dir}: no T1w scan of participant {', '.join(unknown)}; there are {listed(sorted(known))}"
        raise VbmstatError(msg)
    chosen = found.without(wanted.why_not)
    if not chosen.scans:
        why = next(filter(None, map(wanted.why_not, found.scans)), "")
        msg = f"{options.bids_dir}: none of {len(found.scans)} T1w scans is selected ({why})"
        raise VbmstatError(msg)
    return chosen


def main() -> None:
    """Entry point of the console script."""
    try:
        code = run(sys.argv[1:])
    except VbmstatError as error:
        sys.stderr.write(f"vbmstat-bids: {error}\n")
        code = 2
    sys.exit(code)
