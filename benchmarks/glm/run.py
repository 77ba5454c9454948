"""Time the statistics engine beside its peers, in one interleaved run, on synthetic maps written as .nii.gz.

    python benchmarks/glm/run.py --quick        # a minute: 120 small scans, 30 subsets
    python benchmarks/glm/run.py                # 500 and 4,017 scans; 20 GB of disk, a quiet machine, ten minutes
    python benchmarks/glm/run.py --scans 500 --fresh    # 500 alone

The maps stay in --scratch (by default vbmstat-bench in the system's temporary folder) for the next run, and a size
that is finished is not timed again until --fresh. Reading is included where the row says so. Peers that would take
hours run on some voxels and repetitions and are scaled up linearly (they are loops over both); the rows say by how
much. Peak memory is VmHWM of a process of its own: ru_maxrss would be that of the parent, too. Results go to
benchmarks/results/glm.json and glm.md, the curve to docs/images/glm_curve.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import default_contrasts
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.fit.product import choose_product
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.decode import MapReader
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.store import CHUNK_VOXELS, PackedMaps, Scratch

FULL_SHAPE, QUICK_SHAPE = (113, 137, 113), (57, 69, 57)
FORMULA = "age + sex + tiv"
RESULTS = Path(__file__).parents[1] / "results"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
PEER_VOXELS, PEER_REPEATS = {"numpy": 4096, "nilearn": 4096, "statsmodels": 32}, {
    "numpy": 2, "nilearn": 4, "statsmodels": 1,
}  # fmt: skip
COMMAND = """
import sys
from vbmstat.cli import main
try:
    main()
finally:
    status = open("/proc/self/status").read().split()
    print("VmHWM", status[status.index("VmHWM:") + 1], file=sys.stderr)
"""
STARTUP = """
import time
start = time.perf_counter()
from vbmstat.cli import app
from vbmstat.glm.analysis import fit_glm
from vbmstat.report.results import write_results
print(time.perf_counter() - start)
"""
Row = dict[str, object]


def main() -> None:
    arguments = parse()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for n_scans in arguments.scans:
        rows += remembered(arguments, f"n{n_scans}", partial(bench, n_scans, arguments))
    rows += remembered(arguments, "curve", partial(curve, arguments))
    report(rows, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small maps, 120 scans, 30 subsets")
    parser.add_argument("--scans", type=int, nargs="+", default=[500, 4017])
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2, help="interleaved repetitions; the best counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fresh", action="store_true", help="time everything again")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "vbmstat-bench")
    arguments = parser.parse_args()
    arguments.shape = FULL_SHAPE
    if arguments.quick:
        arguments.scans, arguments.subsets, arguments.shape = [120], 30, QUICK_SHAPE
    return arguments


def remembered(arguments: argparse.Namespace, name: str, work: Callable[[], list[Row]]) -> list[Row]:
    """Rows of one part, from an earlier run where it got so far."""
    size = f"{arguments.subsets}-{arguments.threads}-{arguments.device}"
    path = arguments.scratch / f"rows-{'quick' if arguments.quick else 'full'}-{size}-{name}.json"
    if arguments.fresh or not path.is_file():
        path.write_text(json.dumps(work()))
    found: list[Row] = json.loads(path.read_text())
    return found


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


def make_cohort(n_scans: int, shape: tuple[int, int, int], folder: Path, n_workers: int) -> pd.DataFrame:
    """Maps with smooth anatomy, noise, and effects of age and TIV; about 400,000 voxels above 0.1 at full size."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    n_most = 5000  # the first scans are the same, however many are wanted
    table = pd.DataFrame({
        "participant_id": [f"sub-{i:05d}" for i in range(n_most)], "age": rng.uniform(20, 80, n_most),
        "sex": np.array(["F", "M"])[rng.integers(0, 2, n_most)], "tiv_ml": rng.normal(1480, 130, n_most),
        "s6mwp1": [f"s6mwp1sub-{i:05d}.nii.gz" for i in range(n_most)],
    })[:n_scans]  # fmt: skip
    absent = [i for i, name in enumerate(table["s6mwp1"]) if not (folder / name).is_file()]
    jobs = [(folder / table["s6mwp1"][i], shape, i, table["age"][i], table["tiv_ml"][i]) for i in absent]
    with ProcessPoolExecutor(n_workers) as pool:
        list(pool.map(make_map, *zip(*jobs, strict=True), chunksize=16)) if jobs else None
    table.to_csv(folder / f"cohort-{n_scans}.tsv", sep="\t", index=False)
    return table


@cache
def anatomy(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Brain, mean map, one half of the brain, and noise images."""
    rng = np.random.default_rng(1)
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")
    brain = (sum(a**2 for a in axes) < 0.58).astype(np.float32)
    mean = brain * (0.45 + 0.1 * np.cos(5 * axes[0]) * np.sin(4 * axes[1]))
    return brain, mean, brain * (axes[0] > 0), [rng.standard_normal(shape, np.float32) * 0.03 * brain for _ in range(8)]


def make_map(path: Path, shape: tuple[int, int, int], number: int, age: float, tiv_ml: float) -> None:
    brain, mean, half, noise = anatomy(shape)
    rng = np.random.default_rng(number)
    size = 1.5 * FULL_SHAPE[0] / shape[0]
    grid = Grid(shape, np.array([[size, 0, 0, -84], [0, size, 0, -120], [0, 0, size, -72], [0, 0, 0, 1.0]]))
    mixed = sum(np.float32(w) * image for w, image in zip(rng.normal(0, 0.6, 8), noise, strict=True))
    image = mean + np.float32(-0.001 * (age - 50)) * half + np.float32(0.0002 * (tiv_ml - 1480)) * brain + mixed
    write_volume(path, Volume(torch.from_numpy(np.maximum(image, brain * np.float32(0.11)))[None], grid))


def bench(n_scans: int, arguments: argparse.Namespace) -> list[Row]:
    folder = arguments.scratch / "x".join(map(str, arguments.shape))
    table = make_cohort(n_scans, arguments.shape, folder, arguments.threads)
    paths = {scan: folder / path for scan, path in zip(table["participant_id"], table["s6mwp1"], strict=True)}
    cohort, out, kept = folder / f"cohort-{n_scans}.tsv", folder / "out", folder / f"store-{n_scans}"
    store = pack_maps(paths, kept, MaskRule())
    design = build_design(FORMULA, table, list(paths))
    draws = draw_subsets(design.scan_ids, arguments.subsets, 0.8, 0)
    plan = make_plan(design, default_contrasts(design), draws)
    options = {"repeats": arguments.subsets, "n_threads": arguments.threads, "device": arguments.device}
    engine = Compute(arguments.device, arguments.threads)
    command = [sys.executable, "-c", COMMAND, "glm", f"gm ~ {FORMULA}", "--cohort", str(cohort), "--out", str(out),
               "--repeats", str(arguments.subsets), "--device", arguments.device]  # fmt: skip

    second = [*command, "--store", str(kept), "--no-figures"]

    def whole() -> None:
        fit_glm(None, f"gm ~ {FORMULA}", cohort, scratch=out, **options).to_directory(out)

    jobs: dict[str, Callable[[], object]] = {
        "decode all maps (read, SHA-256, inflate, gather)": lambda: decode(paths, store, arguments.threads),
        "engine alone (a tile in memory, again and again)": lambda: fit_voxels(Tiles(store), plan, engine),
        "engine alone, one thread": lambda: fit_voxels(Tiles(store), plan, Compute(arguments.device, 1)),
        "engine from the packed store": lambda: fit_voxels(store, plan, engine),
        "analysis from .nii.gz, with all outputs written": whole,
        "vbmstat glm, a new process, with figures": lambda: run_command(command),
        "vbmstat glm, a second model on the packed store, a new process, no figures": lambda: run_command(second),
        "of which imports": startup,
        "numpy lstsq, a loop over subsets": lambda: peer("numpy", lstsq, store, design, draws),
        "nilearn run_glm, a loop over subsets": lambda: peer("nilearn", nilearn, store, design, draws),
        "statsmodels OLS, a loop over voxels and subsets": lambda: peer("statsmodels", ols, store, design, draws),
    }
    seconds: dict[str, float] = {}
    peak, memory = 0.0, 0.0
    for number in range(arguments.rounds):  # interleaved: what else the machine does hits all alike
        peak = max(peak, sgemm_peak(arguments.threads))
        for name, job in jobs.items():
            found: list[object] = []
            took = timed(lambda job=job, found=found: found.append(job()))  # type: ignore[misc]
            sys.stderr.write(f"{n_scans} scans, round {number + 1}: {name}: {took:.2f} s\n")
            if name.endswith("with figures"):
                memory = float(found[0])  # type: ignore[arg-type]
            took = float(found[0]) if isinstance(found[0], float) and ("loop" in name or "imports" in name) else took
            seconds[name] = min(seconds.get(name, np.inf), took)
            shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(kept)
    return rows_of(n_scans, store, plan, seconds, peak, memory)


def rows_of(
    n_scans: int, store: PackedMaps, plan: Plan, seconds: dict[str, float], peak: float, memory_mb: float
) -> list[Row]:
    """Times and their ratios."""
    decoding, alone, single, packed, whole, command, _, _, *peers = seconds.values()
    where: Row = {"n_scans": n_scans, "n_voxels": int(store.mask.sum()), "n_subsets": len(plan.members)}
    rank = plan.basis.shape[1]
    rate = 2e-9 * n_scans * store.n_voxels * len(plan.members) * (rank + 1) / alone
    rows = [{**where, "what": f"sgemm peak, {torch.get_num_threads()} threads", "value": peak, "unit": "GFLOP/s"}]
    rows += [{**where, "what": name, "value": value, "unit": "s"} for name, value in seconds.items()]
    for name, value, unit in (
        ("engine alone, dense-equivalent rate", rate, "GFLOP/s"),
        ("engine alone, dense-equivalent share of the sgemm peak", rate / peak, ""),
        ("engine alone, one thread / all threads", single / alone, "×"),
        *((f"{what}, times the engine {how}", value / mine, "×")
          for what, value in zip(("numpy", "nilearn", "statsmodels"), peers, strict=True)
          for how, mine in (("alone", alone), ("from the store", packed))),
        ("analysis from .nii.gz / decoding", whole / decoding, ""),
        ("vbmstat glm, a new process / decoding", command / decoding, ""),
        ("peak resident memory of vbmstat glm", memory_mb, "MB"),
    ):  # fmt: skip
        rows.append({**where, "what": name, "value": value, "unit": unit})
    return rows


def decode(paths: dict[str, Path], store: PackedMaps, n_threads: int) -> None:
    """Every map into memory that is used again: the least that any analysis has to do."""
    reader, index, scratch = MapReader.like(next(iter(paths.values()))), store.space.voxel_index, Scratch()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda path: reader.read(path, index, scratch.array("row", (index.size,))), paths.values()))


def startup() -> float:
    """Seconds to import what a fit of packed maps needs, in a new process."""
    done = subprocess.run([sys.executable, "-c", STARTUP], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def run_command(command: list[str]) -> float:
    """Peak resident memory (MB) of a command."""
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    return int(done.stderr.split("VmHWM ")[-1].split()[0]) / 1024


@dataclass(frozen=True)
class Tiles:
    """One tile of a store for every tile: what the engine takes when reading costs nothing."""

    store: PackedMaps
    n_voxels: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_voxels", self.n_voxels or self.store.n_voxels)
        object.__setattr__(self, "tile", self.store.read(0, CHUNK_VOXELS))
        object.__setattr__(self, "dtype", np.dtype(np.float32))
        object.__setattr__(self, "mask", np.ones(self.n_voxels, dtype=bool))

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        """The tile, as often as it takes."""
        if stop - start == CHUNK_VOXELS:
            return self.tile
        return np.tile(self.tile, -(-(stop - start) // CHUNK_VOXELS))[:, : stop - start]


def peer(name: str, fit: Callable[..., None], store: PackedMaps, design: Design, draws: np.ndarray) -> float:
    """Seconds of a loop over all subsets and voxels, from some of both."""
    values = store.read(0, min(PEER_VOXELS[name], store.n_voxels))
    some = draws[: PEER_REPEATS[name]]

    def work() -> None:
        for rows in some:
            fit(design.matrix[rows], values[rows])

    return timed(work) * store.n_voxels / values.shape[1] * len(draws) / len(some)


def lstsq(x: np.ndarray, y: np.ndarray) -> None:
    beta, rss, *_ = np.linalg.lstsq(x.astype(np.float32), y, rcond=None)
    deviation = np.sqrt(rss / (len(x) - x.shape[1]))[:, None]
    (beta[1:].T / deviation) / np.sqrt(np.diag(np.linalg.inv(x.T @ x)))[1:]


def nilearn(x: np.ndarray, y: np.ndarray) -> None:
    from nilearn.glm import compute_contrast  # noqa: PLC0415
    from nilearn.glm.first_level import run_glm  # noqa: PLC0415

    labels, results = run_glm(y, x, noise_model="ols")
    for row in np.eye(x.shape[1])[1:]:
        compute_contrast(labels, results, row, stat_type="t").stat()


def ols(x: np.ndarray, y: np.ndarray) -> None:
    from statsmodels.api import OLS  # noqa: PLC0415

    for column in y.T.astype(np.float64):
        OLS(column, x).fit().tvalues  # noqa: B018


def curve(arguments: argparse.Namespace) -> list[Row]:
    """Seconds of the engine alone against scans, voxels and subsets, one of them varied at a time."""
    base = {"n_scans": 120, "n_voxels": 20_000, "n_subsets": 30} if arguments.quick else {
        "n_scans": 500, "n_voxels": 100_000, "n_subsets": 100
    }  # fmt: skip
    rows = []
    for name, at in points(base):
        rng = np.random.default_rng(0)
        ids = [f"{i:05d}" for i in range(at["n_scans"])]
        table = pd.DataFrame({
            "age": rng.uniform(20, 80, len(ids)), "sex": rng.choice(["F", "M"], len(ids)),
            "tiv_ml": rng.normal(1480, 130, len(ids)),
        })  # fmt: skip
        design = build_design(FORMULA, table, ids)
        plan = make_plan(design, default_contrasts(design), draw_subsets(ids, at["n_subsets"], 0.8, 0))
        tile = rng.normal(0.5, 0.05, (len(ids), CHUNK_VOXELS)).astype(np.float32)
        maps = Tiles(Constant(tile), at["n_voxels"])  # type: ignore[arg-type]
        fit = partial(fit_voxels, maps, plan, Compute(arguments.device, arguments.threads))
        value = min(timed(fit) for _ in range(arguments.rounds))
        rows.append({**at, "what": f"curve: {name}", "value": value, "unit": "s"})
    return rows


@dataclass(frozen=True)
class Constant:
    """A tile that stands for a store."""

    tile: np.ndarray

    def read(self, start: int, stop: int) -> np.ndarray:
        """Columns of the tile."""
        return self.tile[:, start:stop]


def points(base: dict[str, int]) -> Iterator[tuple[str, dict[str, int]]]:
    """The base with one number varied at a time."""
    for name, factors in (("n_scans", (0.25, 1, 4, 16)), ("n_voxels", (0.25, 1, 4)), ("n_subsets", (0, 0.1, 1, 10))):
        for factor in factors:
            yield name, {**base, name: int(base[name] * factor)}


def processor() -> str:
    """Its name and widest vectors: the rates depend on both."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = known.get("flags", "").split()
    return f"{known.get('model name', '')} ({next((w for w in ('avx512f', 'avx2') if w in flags), 'no AVX2')})"


def report(rows: list[Row], arguments: argparse.Namespace) -> None:
    machine = {
        "platform": platform.platform(), "processor": processor(), "cpus": os.cpu_count(), "threads": arguments.threads,
        "torch": torch.__version__, "device": arguments.device, "product": choose_product(arguments.device).__name__,
        "quick": arguments.quick,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    stem = "glm-quick" if arguments.quick else "glm"
    (RESULTS / f"{stem}.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    lines = [
        f"Measured on {machine['platform']}, {machine['processor']}, {machine['threads']} threads, torch "
        f"{machine['torch']}, best of {arguments.rounds} interleaved rounds. "
        "The peers' times are extrapolated from some voxels and repetitions: "
        + "; ".join(f"{name} {PEER_VOXELS[name]} × {PEER_REPEATS[name]}" for name in PEER_VOXELS) + ".",
        "", "| scans | voxels | subsets | what | value |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        where = " | ".join(f"{row[k]:,}" for k in ("n_scans", "n_voxels", "n_subsets"))
        lines.append(f"| {where} | {row['what'].removeprefix('curve: ')} | {row['value']:.4g} {row['unit']} |")  # type: ignore[attr-defined]
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")
    picture = RESULTS / "glm-quick-curve.png" if arguments.quick else IMAGES / "glm_curve.png"
    draw_curve([row for row in rows if str(row["what"]).startswith("curve")], picture)
    sys.stdout.write("\n".join(lines) + "\n")


def draw_curve(rows: list[Row], path: Path) -> None:
    """Time against scans, voxels and subsets, a panel each."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    labels = {"n_scans": "scans", "n_voxels": "voxels", "n_subsets": "subsets"}
    for axes, name in zip(figure.subplots(1, 3, sharey=True), labels, strict=True):
        chosen = [row for row in rows if row["what"] == f"curve: {name}"]
        axes.plot([row[name] for row in chosen], [row["value"] for row in chosen], "o-", color="0.2", ms=4)
        fixed = ", ".join(f"{chosen[1][other]:,} {labels[other]}" for other in labels if other != name)
        axes.set(xlabel=labels[name], xscale="symlog" if name == "n_subsets" else "log", yscale="log")
        axes.set_xticks([row[name] for row in chosen], [f"{row[name]:,}" for row in chosen])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(fixed, fontsize=9)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds, maps in memory")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
