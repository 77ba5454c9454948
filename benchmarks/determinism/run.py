"""Whether the same scan gives the same bytes again, and how far other numbers of threads, or a GPU, lead away.

    python benchmarks/determinism/run.py SCAN... [--out FOLDER]

Every run is a process of its own (``vbmstat preprocess``). Without a scan, a simulated one of 2 mm. Runs that are
complete in FOLDER are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.assets.provenance import versions
from vbmstat.image import io, storage
from vbmstat.rerun import compare_outputs
from vbmstat.simulate import Settings, simulate_cohort

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = Path(sys.executable).with_name("vbmstat")
RUNS = {"1 thread": (1, "cpu"), "1 thread again": (1, "cpu"), "2 threads": (2, "cpu"), "2 threads again": (2, "cpu")}
PAIRS = (("1 thread", "1 thread again"), ("2 threads", "2 threads again"), ("1 thread", "2 threads"))
MAPS = {
    "p1": "GM fraction, scan space", "p2": "WM fraction, scan space", "m": "corrected scan, WM = 1",
    "mwp1": "modulated GM", "mwp2": "modulated WM", "s6mwp1": "modulated GM, smoothed", "y_": "deformation, mm",
}  # fmt: skip


def run(scan: Path, out: Path, threads: int, device: str) -> None:
    """One scan in a process of its own, unless it is complete."""
    if list(out.glob("report/vbmstat_*.json")):
        return
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [str(COMMAND), "preprocess", str(scan), "--out", str(out), "--device", device, "--jobs", "1"]
    subprocess.run([*command, "--no-report"], check=True, env=env, stdout=subprocess.DEVNULL)


def compare(stem: str, one: Path, other: Path) -> dict[str, object]:
    """How many files have the same bytes, and how far the values of maps are apart."""
    names = [p.relative_to(one).as_posix() for p in sorted(one.rglob("*")) if p.is_file() and "logs" not in p.parts]
    names = [name for name in names if stem in name]
    same = [found.status == "same bytes" for found in compare_outputs(one, other, names)]
    maps = {}
    for prefix in MAPS:
        a, b = (io.read_channels(folder / "mri" / f"{prefix}{stem}.nii.gz").data for folder in (one, other))
        apart = (a - b).abs().flatten().numpy()
        maps[prefix] = {"max": float(apart.max()), "p99.9": float(np.quantile(apart[a.flatten().numpy() != 0], 0.999)),
                        "mean": float(apart.mean())}  # fmt: skip
    tables = [pd.read_csv(folder / "label" / f"volumes_{stem}.tsv", sep="\t") for folder in (one, other)]
    volumes = (tables[0]["volume_ml"] - tables[1]["volume_ml"]).abs()
    return {"files": len(names), "same_bytes": sum(same), "maps": maps, "volumes_max_ml": float(volumes.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp(prefix="vbmstat-determinism-"))
    simulated = out / "simulated" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    if not given.scans and not simulated.is_file():
        simulate_cohort(out / "simulated", Settings(1, voxel_size_mm=2.0, seed=1))
    runs, pairs = dict(RUNS), list(PAIRS)
    if torch.cuda.is_available():
        runs |= {"CUDA": (1, "cuda"), "CUDA again": (1, "cuda")}
        pairs += [("CUDA", "CUDA again"), ("1 thread", "CUDA")]
    rows = []
    for number, scan in enumerate(given.scans or [simulated]):
        stem = scan.name.removesuffix(".gz").removesuffix(".nii")
        folders = {label: out / f"{number}_{stem}" / label.replace(" ", "-") for label in runs}
        for label, (threads, device) in runs.items():
            run(scan, folders[label], threads, device)
        label = stem if given.scans else "simulated, 2 mm"
        rows += [{"scan": label, "runs": pair, **compare(stem, *(folders[one] for one in pair))} for pair in pairs]
    path = RESULTS / "determinism.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = [row for row in earlier if row["scan"] not in {new["scan"] for new in rows}]
    rows = [*kept, *rows]
    machine = platform.processor() or platform.machine()
    storage.write_json(path, {"machine": machine, "versions": versions(), "rows": rows})
    storage.write_text(RESULTS / "determinism.md", as_table(rows))
    print(as_table(rows))


def as_table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| scan | runs | files with the same bytes | volumes, mL | " + " | ".join(MAPS.values()) + " |",
             "|---|---|---|---|" + "---|" * len(MAPS)]  # fmt: skip
    for row in rows:
        maps = (f"{row['maps'][p]['max']:.2g} ({row['maps'][p]['p99.9']:.2g})" for p in MAPS)
        lines.append(f"| {row['scan']} | {', '.join(row['runs'])} | {row['same_bytes']} of {row['files']} | "
                     f"{row['volumes_max_ml']:.3g} | " + " | ".join(maps) + " |")  # fmt: skip
    return "\n".join([*lines, "", "Differences of values: largest (99.9 % of the voxels are below).", ""])


if __name__ == "__main__":
    main()
