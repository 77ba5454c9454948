"""Whether killed batches, or two batches on one folder, give the same files as an undisturbed run.

    python benchmarks/batch/interrupted.py                        # the engine, 12 simulated scans of 4 mm, 20 kills
    python benchmarks/batch/interrupted.py --light --kills 100    # a quick stand-in for the engine: more kills a second

All files are compared byte by byte, except those with times (`logs/status*.jsonl`) and the failures of shards.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.batch.interrupt import command, fingerprint, kill_batches, light_batches, run_together
from vbmstat.image import storage
from vbmstat.simulate import Settings, simulate_cohort

RESULTS = Path(__file__).parents[1] / "results"


def engine_batches(place: Path, args: argparse.Namespace) -> dict[str, object]:
    """Run the command line on simulated scans: undisturbed, killed, and two at once."""
    scans, out = place / "scans", place / "out"
    simulate_cohort(scans, Settings(args.scans, voxel_size_mm=args.voxel_size))
    program = str(Path(sys.executable).with_name("vbmstat"))
    words = (program, "preprocess", str(scans), "--out", str(out), "--jobs", str(args.jobs), "--device", "cpu")
    begin = time.perf_counter()
    if command(*words).wait():
        sys.exit("the undisturbed batch failed")
    took_s, n_files = time.perf_counter() - begin, len(fingerprint(out))
    print(f"undisturbed: {took_s:.0f} s, {n_files} files", flush=True)
    killed = kill_batches(
        lambda: command(*words), out, took_s * args.within, args.kills, args.kills_a_folder, args.seed
    )
    print(killed, flush=True)
    both = run_together(lambda: command(*words), out)
    return {"undisturbed_s": round(took_s, 1), "files": n_files, "killed": asdict(killed), "together": both}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--light", action="store_true", help="a stand-in for the engine")
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-a-folder", type=int, default=5)
    parser.add_argument("--within", type=float, default=0.5, help="latest kill, as a share of the undisturbed time")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--voxel-size", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as place:
        if args.light:
            results = light_batches(Path(place), args.scans, args.kills, args.kills_a_folder, args.seed, args.jobs)
        else:
            results = engine_batches(Path(place), args)
    run = {
        "command": " ".join(["python benchmarks/batch/interrupted.py", *sys.argv[1:]]),
        "engine": "stand-in" if args.light else "classic", "scans": args.scans, "jobs": args.jobs,
    }  # fmt: skip
    write({**run, **results}, f"batch_interrupted_{'light' if args.light else 'engine'}_jobs{args.jobs}")


def write(results: dict, name: str) -> None:
    """Write the results as JSON and as a table."""
    storage.write_json(RESULTS / f"{name}.json", results)
    kills, both = results["killed"], results["together"]
    verdict = {True: "byte-identical", False: "DIFFERENT"}
    lines = [
        "| test | result |",
        "|---|---|",
        f"| `kill -9` of the process group at {kills['n_kills']} random moments of batches of {results['scans']} "
        f"scans, {results['jobs']} at once, engine: {results['engine']}; restarted each time | {kills['n_folders']} "
        f"folders, {results['files']} files each: {verdict[not kills['files_that_differ']]}; exit codes "
        f"{kills['exit_codes']} |",
        f"| two runs started together on one folder | {verdict[not both['files_that_differ']]}; exit codes "
        f"{both['exit_codes']}, {both['scans_complete']} scans complete, {both['scans_done_twice']} done twice |",
        "",
        f"`{results['command']}`",
    ]
    storage.write_text(RESULTS / f"{name}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
