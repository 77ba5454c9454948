"""Memory of a batch: peak of each step by scan size, and growth over many scans.

    python benchmarks/batch/memory.py --sizes 2 1 0.7 0.5       # mm; a new process each
    python benchmarks/batch/memory.py --scans 200               # small simulated scans, one process

Peaks are of resident memory (Linux: VmHWM in /proc/self/status, reset at the start of each step).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from vbmstat.image import io, storage
from vbmstat.simulate import Settings, simulate_cohort

RESULTS = Path(__file__).parents[1] / "results"
N_DIFFERENT = 5  # distinct simulated scans; the 200 are links to these
WARM_UP = 20


def of_steps(scan: Path, engine: str, keeps: bool) -> dict:
    """Peak memory (MB) of each step for a scan in this process."""
    from vbmstat.device import (  # noqa: PLC0415
        keep_freed_memory,
        peak_bytes,
        start_peak,
    )
    from vbmstat.preproc.pipeline import preprocess_scan  # noqa: PLC0415
    from vbmstat.preproc.spec import PreprocSpec  # noqa: PLC0415

    if keeps:
        keep_freed_memory()
    peaks: dict[str, int] = {}
    step = "start"

    def next_step(name: str) -> None:
        nonlocal step
        peaks[step] = peak_bytes() >> 20
        step = name
        start_peak()

    next_step("read")
    volume = io.read_scan(scan)
    shape = list(volume.grid.shape)
    result = preprocess_scan(volume, PreprocSpec(engine=engine, device="cpu"), next_step)
    del result
    next_step("end")
    return {"shape": shape, "voxels": int(volume.data.numel()), "peak_mb": peaks, "most_mb": max(peaks.values())}


def by_size(args: argparse.Namespace) -> None:
    """Peak memory of each step by voxel size."""
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as place:
            simulate_cohort(Path(place, "bids"), Settings(1, voxel_size_mm=size))
            scan = next(Path(place, "bids").glob("sub-*/anat/*_T1w.nii.gz"))
            row = {"voxel_mm": size, "engine": args.engine}
            for keeps in (False, True):
                stdout = subprocess.run(
                    [sys.executable, __file__, "--one", str(scan), "--engine", args.engine, *["--keeps"] * keeps],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                result = json.loads(stdout.splitlines()[-1])
                row |= {"most_mb_as_in_a_batch": result["most_mb"]} if keeps else result
            rows.append(row)
            print(row, flush=True)
    write_sizes(rows, args.engine, command())


def write_sizes(rows: list[dict], engine: str, how: str) -> None:
    """Write the peaks as JSON and as a table."""
    storage.write_json(RESULTS / f"batch_memory_{engine}.json", {"command": how, "scans": rows})
    steps = list(rows[0]["peak_mb"])
    head = ["voxel", "voxels", *steps, "most", "most, freed memory kept (as in a batch)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row['voxel_mm']:g} mm", f"{row['voxels'] / 1e6:.1f} M", *(f"{row['peak_mb'][s]}" for s in steps)]
        cells += [str(row["most_mb"]), str(row["most_mb_as_in_a_batch"])]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"MB resident at most during each step, engine {engine}, a simulated head. `{how}`"]
    storage.write_text(RESULTS / f"batch_memory_{engine}.md", "\n".join(lines) + "\n")


def over_scans(args: argparse.Namespace) -> None:
    """Resident memory of one process over many scans."""
    from tests.batch.light import light_undrawn, write_scans  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as place:
        scans, out = Path(place, "scans"), Path(place, "out")
        if args.light:
            write_scans(scans, args.scans)
        else:
            simulate_cohort(Path(place, "distinct"), Settings(N_DIFFERENT, voxel_size_mm=args.sizes[0]))
            distinct = sorted(Path(place, "distinct").glob("sub-*/anat/*_T1w.nii.gz"))
            scans.mkdir()
            for number in range(args.scans):
                (scans / f"sub-{number + 1:03d}_T1w.nii.gz").symlink_to(distinct[number % len(distinct)])
        resident: list[float] = []

        def look(event: object) -> None:
            if event.what == "done":  # type: ignore[attr-defined]
                lines = Path("/proc/self/status").read_text().splitlines()
                resident.append(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")))
                print(f"{len(resident)}: {resident[-1]:.0f} MB", flush=True)

        from vbmstat.batch.run import preprocess  # noqa: PLC0415
        from vbmstat.device import keep_freed_memory  # noqa: PLC0415

        keep_freed_memory()
        preprocess(scans, out, device="cpu", on_event=look, process=light_undrawn if args.light else None)
        log = [json.loads(line) for line in (out / "logs" / "status.jsonl").read_text().splitlines()]
        peaks = [line["peak_mb"] for line in log if line["event"] == "done"]
    after = resident[WARM_UP - 1 :]
    change = (max(after) / after[0] - 1, min(after) / after[0] - 1, after[-1] / after[0] - 1)
    result = {
        "command": command(), "engine": "stand-in" if args.light else "classic", "scans": len(resident),
        "resident_mb": [round(value) for value in resident], "peak_mb": peaks,
        "most_least_last_relative_to_scan_20": [round(value, 4) for value in change],
    }  # fmt: skip
    name = f"batch_memory_over_{'light_' * args.light}scans"
    storage.write_json(RESULTS / f"{name}.json", result)
    text = (
        f"Resident memory after scan {WARM_UP}: {after[0]:.0f} MB; after scan {len(resident)}: {after[-1]:.0f} MB "
        f"({100 * change[2]:+.1f} %); between them from {100 * change[1]:+.1f} to {100 * change[0]:+.1f} %. "
        f"Peak of a scan: {max(peaks)} MB. Engine: {result['engine']}. `{command()}`\n"
    )
    storage.write_text(RESULTS / f"{name}.md", text)
    print(text)


def command() -> str:
    return " ".join(["python benchmarks/batch/memory.py", *sys.argv[1:]])


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[4.0], help="voxel sizes, mm")
    parser.add_argument("--engine", default="classic")
    parser.add_argument("--scans", type=int, default=0)
    parser.add_argument("--light", action="store_true", help="a stand-in for the engine")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keeps", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(of_steps(args.one, args.engine, args.keeps)))
    elif args.scans:
        over_scans(args)
    else:
        by_size(args)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
