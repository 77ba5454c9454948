"""Scans per hour: one process or several, with and without reading ahead, on the same cores and scans.

    python benchmarks/batch/throughput.py                      # on a quiet machine; 8 simulated scans of 1 mm
    python benchmarks/batch/throughput.py --scans 4 --voxel-size 2 --rounds 1

Each setting preprocesses the same scans into an empty folder; workers start before the clock, as a long batch starts
them only once. Rounds alternate between settings; the shortest time of each counts.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))


from tests.batch.light import light_undrawn, write_scans
from vbmstat.batch.plan import make_plan
from vbmstat.batch.resources import Execution
from vbmstat.batch.scan import ScanTask, run_scan
from vbmstat.batch.task import ScanOutcome
from vbmstat.batch.workers import Workers, local_workers, run_elsewhere, run_here, set_threads
from vbmstat.device import keep_freed_memory, n_cores
from vbmstat.image import storage
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.simulate import Settings, simulate_cohort

RESULTS = Path(__file__).parents[1] / "results"
Work = Callable[[Sequence[ScanTask]], list[ScanOutcome]]


@contextmanager
def processes(jobs: int, threads: int, warm_up: Sequence[ScanTask]) -> Iterator[Work]:
    """Worker processes, each warmed up by one scan."""
    with local_workers(jobs, threads) as local:
        executor = local.make(jobs)
        list(executor.map(run_scan, warm_up[:jobs]))
        for_all = Workers(lambda _: executor, jobs)
        yield lambda tasks: list(run_elsewhere(tasks, for_all, lambda *_: None))


@contextmanager
def here(threads: int, warm_up: Sequence[ScanTask], ahead: bool) -> Iterator[Work]:
    """The current process, with or without reading ahead and writing behind."""
    before = torch.get_num_threads()
    set_threads(threads)
    run_scan(warm_up[0])
    yield lambda tasks: list(run_here(tasks, lambda *_: None)) if ahead else [run_scan(task) for task in tasks]
    torch.set_num_threads(before)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--voxel-size", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", default="classic")
    parser.add_argument("--light", action="store_true", help="a stand-in for the engine, to try this script")
    args = parser.parse_args()
    spec = PreprocSpec(engine=args.engine, device="cpu")
    execution = Execution(process=light_undrawn if args.light else None)
    keep_freed_memory()
    cores = n_cores()
    with tempfile.TemporaryDirectory() as place:
        scans, out = Path(place, "scans"), Path(place, "out")
        if args.light:
            write_scans(scans, args.scans)
        else:
            simulate_cohort(scans, Settings(args.scans, voxel_size_mm=args.voxel_size))

        def tasks() -> list[ScanTask]:
            shutil.rmtree(out, ignore_errors=True)
            return list(make_plan(scans, out, spec, execution).tasks)

        first = make_plan(scans, Path(place, "warm-up"), spec, replace(execution, force=True)).tasks
        ways = {
            "1 process, 1 thread": lambda: processes(1, 1, first),
            f"1 process, {cores} threads": lambda: processes(1, cores, first),
            f"{cores} processes, 1 thread each": lambda: processes(cores, 1, first),
            f"here, {cores} threads": lambda: here(cores, first, ahead=False),
            f"here, {cores} threads, reading ahead and writing behind": lambda: here(cores, first, ahead=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                with way() as work:
                    todo = tasks()
                    begin = time.perf_counter()
                    outcomes = work(todo)
                    seconds[name].append(round(time.perf_counter() - begin, 1))
                failed = [outcome.reason for outcome in outcomes if outcome.status != "done"]
                if failed:
                    sys.exit(f"{name}: {failed[0]}")
                print(name, seconds[name], flush=True)
    if not args.light:
        write(args, cores, seconds)


def write(args: argparse.Namespace, cores: int, seconds: dict[str, list[float]]) -> None:
    """Write the results as JSON and as a table."""
    command = " ".join(["python benchmarks/batch/throughput.py", *sys.argv[1:]])
    least = {name: min(times) for name, times in seconds.items()}
    one = least["1 process, 1 thread"]
    storage.write_json(
        RESULTS / "batch_throughput.json",
        {"command": command, "cores": cores, "scans": args.scans, "voxel_mm": args.voxel_size, "engine": args.engine,
         "seconds": seconds, "times_faster_than_1_process_1_thread": {n: round(one / s, 2) for n, s in least.items()}},
    )  # fmt: skip
    lines = ["| way | s a scan | scans an hour | against 1 process, 1 thread |", "|---|---|---|---|"]
    for name, value in least.items():
        lines.append(f"| {name} | {value / args.scans:.1f} | {3600 * args.scans / value:.0f} | {one / value:.2f} |")
    of = f"{args.scans} simulated scans of {args.voxel_size:g} mm, engine {args.engine}, {cores} cores"
    lines += ["", f"{of}, least of {args.rounds} rounds. `{command}`"]
    storage.write_text(RESULTS / "batch_throughput.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
