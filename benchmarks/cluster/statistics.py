"""Fits and permutations in this process and on a dask cluster: time, memory, and whether results are identical.

    python benchmarks/cluster/statistics.py           # 120 scans at 3 mm, 100 subsets, 256 TFCE permutations
    python benchmarks/cluster/statistics.py --voxel-mm 1.5 --scans 300

Everything runs on one machine, so workers cannot be faster than threads; this measures the overhead of the cluster. In
the last rows, a worker is killed (SIGKILL) after the first results. A row counts as the same if every array has the
same bytes as in this process. Results go to benchmarks/results/cluster_statistics.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat.distributed.pool import Cluster
from vbmstat.distributed.start import open_cluster
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.permute import run
from vbmstat.glm.inference.permute.blocks import free_tree
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.store import PackedMaps

RESULTS = Path(__file__).parents[1] / "results"
TASKS = ("fit", "max-t", "TFCE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=120)
    parser.add_argument("--voxel-mm", type=float, default=3.0)
    parser.add_argument("--permutations", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    shape = tuple(round(n * 1.5 / arguments.voxel_mm) for n in (113, 137, 113))
    with tempfile.TemporaryDirectory() as folder:
        maps, table = make_store(arguments.scans, shape, Path(folder))
        run._MAPS_BYTES = 4 * 64 * maps.n_voxels  # 64 maps per batch, so that there are several batches
        works = make_works(maps, table, arguments.permutations)
        rows: list[dict[str, Any]] = []
        expected: dict[str, Any] = {}
        for workers, kills in ((0, False), (1, False), (2, False), (2, True)):
            with open_cluster("local", workers=workers) if workers else nullcontext() as cluster:
                if cluster is not None:
                    list(works["fit"](cluster, None))  # imports and the compiler
                for name in TASKS:
                    rows.append(measure(name, works[name], cluster, workers, kills, expected))
                    sys.stderr.write(f"{rows[-1]}\n")
    report(rows, maps, arguments)


def make_store(n_scans: int, shape: tuple[int, ...], folder: Path) -> tuple[PackedMaps, pd.DataFrame]:
    """Packed maps: noise in an ellipsoid with an effect of age."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "age": rng.uniform(20, 80, n_scans), "sex": np.array(["F", "M"])[np.arange(n_scans) % 2],
        "tiv_ml": rng.normal(1480, 130, n_scans),
    })  # fmt: skip
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")
    inside = (sum(a**2 for a in axes) < 0.58).astype(np.float32)
    noise = [rng.standard_normal(shape, np.float32) for _ in range(8)]
    paths = {}
    for i, age in enumerate(table["age"]):
        mixed = sum(np.float32(w) * one for w, one in zip(rng.normal(0, 0.02, 8), noise, strict=True))
        values = inside * (0.5 + mixed - np.float32(0.0002 * (age - 50)) * (axes[0] > 0))
        paths[f"sub-{i:05d}"] = folder / f"{i}.nii"
        write_volume(folder / f"{i}.nii", Volume(torch.from_numpy(values)[None], Grid(shape, np.eye(4))))
    return pack_maps(paths, folder / "store"), table


Work = Callable[[Cluster | None, Callable[..., None] | None], list[np.ndarray]]


def make_works(maps: PackedMaps, table: pd.DataFrame, permutations: int) -> dict[str, Work]:
    """Functions to time: (cluster, progress) -> all arrays of the result."""
    design = build_design("age + sex + tiv_ml", table, list(maps.scan_ids))
    contrasts = build_contrasts(["age"], design)
    draws = draw_subsets(design.scan_ids, 100, 0.8, 0)
    with_subsets, plan = make_plan(design, contrasts, draws), make_plan(design, contrasts, draws[:0])
    fitted = Fitted(maps, plan, fit_voxels(maps, plan))
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(len(table))), permutations))

    def fit(cluster: Cluster | None, progress: Callable[..., None] | None) -> list[np.ndarray]:
        return arrays(fit_voxels(maps, with_subsets, Compute(backend="compiled", cluster=cluster, progress=progress)))

    def permute(settings: NullSettings) -> Work:
        return lambda cluster, progress: arrays(permutation_nulls(
            fitted, permuted, settings, Compute(cluster=cluster, progress=progress)
        ))  # fmt: skip

    return dict(zip(TASKS, (fit, permute(NullSettings()), permute(NullSettings(wants_tfce=True))), strict=True))


def arrays(result: Any) -> list[np.ndarray]:
    values = [getattr(result, field.name) for field in fields(result)]
    flat = [v for value in values for v in (value.values() if isinstance(value, dict) else [value])]
    return [value for value in flat if isinstance(value, np.ndarray)]


def measure(
    name: str, work: Work, cluster: Cluster | None, workers: int, kills: bool, expected: dict[str, Any]
) -> dict[str, Any]:
    """Time, peak memory of a worker, and whether the result has the same bytes as in this process."""
    killed: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if kills and not killed and cluster is not None and done:
            killed.append(next(iter(cluster._client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    start = time.perf_counter()
    content = [array.tobytes() for array in work(cluster, progress)]
    seconds = time.perf_counter() - start
    peak = 0.0 if cluster is None else max(cluster._client.run(peak_mb, on_error="ignore").values())
    return {
        "what": name, "workers": workers, "killed": len(killed), "seconds": round(seconds, 2),
        "peak_mb_of_a_worker": round(peak), "same_bytes": content == expected.setdefault(name, content),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1000


def report(rows: list[dict[str, Any]], maps: PackedMaps, arguments: argparse.Namespace) -> None:
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "torch": torch.__version__}
    text = {"fit": "fit, 100 subsets", "max-t": "permutations, largest t", "TFCE": "permutations, TFCE"}
    lines = [
        f"Measured on {machine['platform']}, {machine['cpus']} cores, torch {machine['torch']}: {len(maps.scan_ids)} "
        f"scans × {maps.n_voxels:,} voxels; 0 workers is this process with its threads. Load is that of the "
        "machine: where it is above the number of cores, times say little.",
        "", "| what | workers | killed meanwhile | s | load | peak of a worker, MB | bytes as in one process |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        same = "the same" if row["same_bytes"] else "**differ**"
        peak = row["peak_mb_of_a_worker"] or "–"
        numbers = " | ".join(str(row[name]) for name in ("workers", "killed", "seconds", "load"))
        lines.append(f"| {text[row['what']]} | {numbers} | {peak} | {same} |")
    content = json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n"
    (arguments.out / "cluster_statistics.json").write_text(content)
    (arguments.out / "cluster_statistics.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
