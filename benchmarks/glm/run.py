"""Time the statistics engine beside its peers, in one interleaved run, on synthetic maps written as .nii.gz.

    python benchmarks/glm/run.py --quick                     # a minute: 120 scans, 30 subsets
    python benchmarks/glm/run.py --scans 500 4017            # the paper's sizes; 20 GB of disk, a quiet machine

Reading is included where the row says so. Peers that would take hours run on a few voxels and repetitions and are
scaled up linearly (they are loops over both); the table says by how much. Results go to
benchmarks/results/glm.json and glm.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.backend import choose_backend
from vbmstat.glm.contrast import default_contrasts
from vbmstat.glm.decode import MapReader
from vbmstat.glm.design import build_design
from vbmstat.glm.engine import fit_voxels
from vbmstat.glm.masking import MaskRule
from vbmstat.glm.pack import pack_maps
from vbmstat.glm.plan import make_plan
from vbmstat.glm.resample import draw_subsets
from vbmstat.grid import Grid
from vbmstat.io import write_volume
from vbmstat.volume import Volume

FULL_SHAPE = (113, 137, 113)
FORMULA = "age + sex + tiv"
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    arguments = parse()
    work = Path(tempfile.mkdtemp(prefix="vbmstat-bench-", dir=arguments.scratch))
    rows: list[dict[str, object]] = []
    try:
        peak = sgemm_peak(arguments.threads)
        rows.append({"what": f"sgemm peak, {arguments.threads} threads", "value": peak, "unit": "GFLOP/s"})
        for n_scans in arguments.scans:
            rows += bench(n_scans, arguments, work, peak)
    finally:
        shutil.rmtree(work)
    report(rows, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small maps, 120 scans, 30 subsets")
    parser.add_argument("--scans", type=int, nargs="+", default=[500, 4017])
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2, help="interleaved repetitions; the best counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for maps and stores")
    arguments = parser.parse_args()
    arguments.shape = FULL_SHAPE
    if arguments.quick:
        arguments.scans, arguments.subsets, arguments.rounds, arguments.shape = [120], 30, 1, (57, 69, 57)
    return arguments


def sgemm_peak(n_threads: int) -> float:
    """Best float32 product rate (GFLOP/s) of this machine over shapes and both libraries."""
    torch.set_num_threads(n_threads)
    best = 0.0
    for m, n, v in ((512, 4096, 4096), (500, 4017, 512), (2048, 2048, 2048)):
        a, b = torch.randn(m, n), torch.randn(n, v)
        transposed = b.t().contiguous()
        for product in (lambda a=a, b=b: a @ b, lambda a=a, t=transposed: torch.nn.functional.linear(a, t)):
            product()
            seconds = min(timed(product) for _ in range(5))
            best = max(best, 2 * m * n * v / seconds / 1e9)
    return best


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_cohort(n_scans: int, shape: tuple[int, int, int], folder: Path) -> pd.DataFrame:
    """Maps with smooth anatomy, noise, and effects of age and TIV; about 400,000 voxels above 0.1 at full size."""
    rng = np.random.default_rng(0)
    size = 1.5 * FULL_SHAPE[0] / shape[0]
    grid = Grid(shape, np.array([[size, 0, 0, -84], [0, size, 0, -120], [0, 0, size, -72], [0, 0, 0, 1.0]]))
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")
    brain = (sum(a**2 for a in axes) < 0.58).astype(np.float32)
    mean = brain * (0.45 + 0.1 * np.cos(5 * axes[0]) * np.sin(4 * axes[1]))
    table = pd.DataFrame({
        "participant_id": [f"sub-{i:05d}" for i in range(n_scans)], "age": rng.uniform(20, 80, n_scans),
        "sex": np.array(["F", "M"])[rng.integers(0, 2, n_scans)], "tiv_ml": rng.normal(1480, 130, n_scans),
    })  # fmt: skip
    noise = [rng.standard_normal(shape, dtype=np.float32) * 0.03 * brain for _ in range(16)]
    paths = []
    for i, (age, tiv) in enumerate(zip(table["age"], table["tiv_ml"], strict=True)):
        effect = brain * (-0.001 * (age - 50) * (axes[0] > 0) + 0.0002 * (tiv - 1480))
        mixed = sum(w * noise[k] for w, k in zip(rng.normal(0, 1, 3), rng.choice(16, 3, replace=False), strict=True))
        image = np.maximum(mean + effect + mixed + noise[i % 16], brain * 0.11)
        paths.append(f"s6mwp1sub-{i:05d}.nii.gz")
        write_volume(folder / paths[-1], Volume(torch.from_numpy(image.astype(np.float32))[None], grid))
    table["s6mwp1"] = paths
    table.to_csv(folder / "cohort.tsv", sep="\t", index=False)
    return table


def bench(n_scans: int, arguments: argparse.Namespace, work: Path, peak: float) -> list[dict[str, object]]:
    folder = work / str(n_scans)
    folder.mkdir()
    table = make_cohort(n_scans, arguments.shape, folder)
    paths = {scan: folder / path for scan, path in zip(table["participant_id"], table["s6mwp1"], strict=True)}
    store = pack_maps(paths, folder / "store", MaskRule())
    design = build_design(FORMULA, table, list(paths))
    contrasts = default_contrasts(design)
    draws = draw_subsets(design.scan_ids, arguments.subsets, 0.8, 0)
    n_voxels, rank = int(store.mask.sum()), design.matrix.shape[1]
    flop = 2.0 * n_scans * store.n_voxels * arguments.subsets * (rank + 1)
    options = {"repeats": arguments.subsets, "n_threads": arguments.threads, "device": arguments.device}
    jobs: dict[str, Callable[[], object]] = {
        "decode all maps (igzip + gather)": lambda: decode(paths, store, arguments.threads),
        "vbmstat: engine from the packed store": lambda: fit_voxels(
            store, make_plan(design, contrasts, draws), n_threads=arguments.threads, device=arguments.device
        ),
        "vbmstat: whole analysis from .nii.gz": lambda: fit_glm(
            None, f"gm ~ {FORMULA}", folder / "cohort.tsv", scratch=folder, **options
        ),
        "numpy lstsq, a loop over subsets": lambda: lstsq_loop(store, design, draws),
        "nilearn run_glm, a loop over subsets": lambda: nilearn_loop(store, design, draws),
    }
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):  # interleaved: what else the machine does hits all alike
        for name, job in jobs.items():
            result: list[float] = []
            seconds = timed(lambda job=job, result=result: result.append(job()))  # type: ignore[func-returns-value]
            scaled = result[0] if isinstance(result[0], float) else seconds
            best[name] = min(best.get(name, np.inf), scaled)
    rss = peak_memory(folder / "cohort.tsv", options, folder)
    engine = best["vbmstat: engine from the packed store"]
    where = {"n_scans": n_scans, "n_voxels": n_voxels, "n_subsets": arguments.subsets}
    rows = [{**where, "what": name, "value": seconds, "unit": "s", "times_engine": seconds / engine}
            for name, seconds in best.items()]
    rows.append({**where, "what": "engine, dense-equivalent rate", "value": flop / engine / 1e9, "unit": "GFLOP/s"})
    rows.append({**where, "what": "engine, share of the sgemm peak", "value": flop / engine / 1e9 / peak, "unit": ""})
    whole, decoding = best["vbmstat: whole analysis from .nii.gz"], best["decode all maps (igzip + gather)"]
    rows.append({**where, "what": "whole analysis / decoding", "value": whole / decoding, "unit": ""})
    rows.append({**where, "what": "peak resident memory, whole analysis", "value": rss, "unit": "MB"})
    shutil.rmtree(folder)
    return rows


def decode(paths: dict[str, Path], store, n_threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    reader, index = MapReader.like(next(iter(paths.values()))), store.space.voxel_index

    def one(path: Path) -> None:
        reader.read(path, index, np.empty(index.size, dtype=np.float32))

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(one, paths.values()))


def lstsq_loop(store, design, draws, n_voxels: int = 4096, repetitions: int = 2) -> float:
    """Seconds of numpy.linalg.lstsq over all subsets, from some voxels and subsets."""
    values = store.read(0, min(n_voxels, store.n_voxels))

    def work() -> None:
        for rows in draws[:repetitions]:
            x, y = design.matrix[rows].astype(np.float32), values[rows]
            beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
            (beta[1:].T / np.sqrt(rss / (len(x) - x.shape[1]))[:, None]) / np.sqrt(np.diag(np.linalg.inv(x.T @ x)))[1:]

    return timed(work) * store.n_voxels / values.shape[1] * len(draws) / repetitions


def nilearn_loop(store, design, draws, n_voxels: int = 4096, repetitions: int = 1) -> float:
    """Seconds of nilearn's run_glm and three contrasts over all subsets, from some voxels and subsets."""
    from nilearn.glm import compute_contrast  # noqa: PLC0415
    from nilearn.glm.first_level import run_glm  # noqa: PLC0415

    values = store.read(0, min(n_voxels, store.n_voxels))

    def work() -> None:
        for rows in draws[:repetitions]:
            labels, results = run_glm(values[rows], design.matrix[rows], noise_model="ols")
            for k in range(1, design.matrix.shape[1]):
                compute_contrast(labels, results, np.eye(design.matrix.shape[1])[k], stat_type="t").stat()

    return timed(work) * store.n_voxels / values.shape[1] * len(draws) / repetitions


def _measure(queue, cohort: Path, options: dict[str, object], scratch: Path) -> None:
    fit_glm(None, f"gm ~ {FORMULA}", cohort, scratch=scratch, **options)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_memory(cohort: Path, options: dict[str, object], scratch: Path) -> float:
    """Peak resident memory (MB) of the whole analysis in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(queue, cohort, options, scratch))
    process.start()
    peak = float(queue.get(timeout=3600))
    process.join()
    return peak


def report(rows: list[dict[str, object]], arguments: argparse.Namespace) -> None:
    machine = {
        "platform": platform.platform(), "cpus": os.cpu_count(), "threads": arguments.threads,
        "torch": torch.__version__, "device": arguments.device, "backend": choose_backend(), "quick": arguments.quick,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    stem = "glm-quick" if arguments.quick else "glm"
    (RESULTS / f"{stem}.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    lines = ["| scans | voxels | subsets | what | value | × engine |", "|---|---|---|---|---|---|"]
    for row in rows:
        where = " | ".join(f"{row[k]:,}" if k in row else "" for k in ("n_scans", "n_voxels", "n_subsets"))
        times = f"{row['times_engine']:.1f}" if "times_engine" in row else ""
        lines.append(f"| {where} | {row['what']} | {row['value']:.4g} {row['unit']} | {times} |")
    text = f"Measured on {machine['platform']}, {machine['threads']} threads, torch {machine['torch']}.\n\n"
    (RESULTS / f"{stem}.md").write_text(text + "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
