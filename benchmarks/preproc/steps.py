"""Wall time by step and peak memory of an engine, one new process per scan.

    python benchmarks/preproc/steps.py ../shared/data/ds000011/sub-01/anat/sub-01_T1w.nii.gz ...
    python benchmarks/preproc/steps.py --engine deep --weights vbmstat SCAN ...

Each scan runs through the command line and writes its files, so that start-up, reading and gzip are included. Results
go to benchmarks/results/preproc_steps.json and .md; those of other engines than `classic` to preproc_steps_ENGINE.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from vbmstat.files.runlog import scan_times
from vbmstat.image import io, storage
from vbmstat.preproc.spec import ENGINES

RESULTS = Path(__file__).parents[1] / "results"


def run(scan: Path, engine: str, weights: str) -> dict[str, object]:
    """Run one scan in its own process: step times, total wall time, CPU time and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(sys.executable).with_name("vbmstat"))
        command = [program, "preprocess", str(scan), "--out", folder, "--engine", engine]
        command += ["--weights", weights] * (engine == "deep")
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if status:
            sys.exit(f"{scan}: vbmstat preprocess failed with status {status}")
        ((_, timed),) = scan_times(Path(folder)).items()
    grid = io.read_grid(scan)
    size = " × ".join(f"{n:.2g}" for n in grid.voxel_size_mm)
    return {
        "scan": scan.name,
        "voxels": f"{' × '.join(map(str, grid.shape))} @ {size} mm",
        "wall_s": round(wall, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss / 1e6, 2),
        "steps_s": timed["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default="classic")
    parser.add_argument("--weights", default="vbmstat", help="weights of engine deep")
    given = parser.parse_args()
    rows = [run(scan, given.engine, given.weights) for scan in given.scans]
    result = RESULTS / ("preproc_steps" + ("" if given.engine == "classic" else f"_{given.engine}"))
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__}
    storage.write_json(result.with_suffix(".json"), {"machine": machine, "scans": rows})
    header = ["scan", "voxels", "wall s", "CPU s", "peak GB", *rows[0]["steps_s"]]  # type: ignore[misc]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        steps = row["steps_s"]
        cells = [row["scan"], row["voxels"], row["wall_s"], row["cpu_s"], row["peak_gb"], *steps.values()]  # type: ignore[attr-defined]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    storage.write_text(result.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
