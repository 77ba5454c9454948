"""Time and power of permutation inference beside nilearn's permuted_ols, interleaved in one run.

    python benchmarks/inference/speed.py            # 500 scans x 400,000 voxels, 1,000 permutations; below 6 minutes
    python benchmarks/inference/speed.py --quick    # a look

The maps are smooth noise inside the template's grey matter at 1.5 mm, in memory for both; the model is age + sex + tiv,
age is tested, two-sided. nilearn is timed on fewer permutations (and voxels, for the maximum alone) and scaled up
linearly, which the table says: its cost is a loop over permutations, each a product over voxels. Its time without
permutations is taken off before scaling. Both may use all threads. Power: cohorts with an effect in a sphere, the share
of its voxels found at p_fwe <= 0.05. Results go to benchmarks/results/inference_speed.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from scipy import ndimage

from vbmstat.assets import template
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.product import choose_product
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.permute.blocks import free_tree
from vbmstat.glm.inference.permute.nulls import Nulls, NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted
from vbmstat.glm.spec import SCHEMES, Compute
from vbmstat.image.grid import resample
from vbmstat.image.io import as_nifti
from vbmstat.image.volume import Volume
from vbmstat.maps.store import ArrayMaps, Space

RESULTS = Path(__file__).parents[1] / "results"
FORMULA = "age + sex + tiv"
FWHM_MM = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 scans, 4 mm, fewer permutations")
    parser.add_argument("--rounds", type=int, default=2, help="interleaved repetitions; the best counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    small = arguments.quick
    rows = speed(
        n_scans=40 if small else 500, voxel_mm=4.0 if small else 1.5, n_voxels=10_000 if small else 400_000,
        n_permutations=200 if small else 1000, n_tfce=16 if small else 64, arguments=arguments,
    )  # fmt: skip
    rows += power(2 if small else 40, 60 if small else 400, tfce=False)
    rows += power(2 if small else 12, 40 if small else 100, tfce=True)
    report(rows, arguments)


def grey_matter(voxel_mm: float, n_voxels: int | None = None) -> Space:
    """Voxels of the template's grey matter, the likeliest first if fewer are wanted."""
    volume = template()
    grid = volume.grid.with_voxel_size(voxel_mm)
    grey = resample(volume.data[:1], volume.grid, grid)[0].numpy().reshape(-1)
    wanted = np.flatnonzero(grey > 0.1) if n_voxels is None else np.argsort(-grey, kind="stable")[:n_voxels]
    return Space(grid, np.sort(wanted))


def smooth_noise(space: Space, n_scans: int, seed: int) -> np.ndarray:
    """Smooth noise of unit variance, (n_scans, n_voxels), float32."""
    rng = np.random.default_rng(seed)
    sigma = FWHM_MM / np.sqrt(8 * np.log(2)) / space.grid.voxel_size_mm
    maps = np.empty((n_scans, space.voxel_index.size), dtype=np.float32)
    for row in maps:
        noise = rng.standard_normal(space.grid.shape, dtype=np.float32)
        row[:] = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=3).reshape(-1)[space.voxel_index]
    return np.asarray(maps / maps[: min(8, n_scans)].std())


def make_design(n_scans: int, seed: int = 0) -> Design:
    rng = np.random.default_rng(seed)
    sex = np.array(["F", "M"])[np.arange(n_scans) % 2]
    table = pd.DataFrame({
        "age": rng.uniform(20, 80, n_scans), "sex": sex, "tiv": 1400 + 100 * (sex == "M") + rng.normal(0, 90, n_scans),
    })  # fmt: skip
    return build_design(FORMULA, table, [f"sub-{i:04d}" for i in range(n_scans)])


def ours(
    design: Design,
    values: np.ndarray,
    space: Space,
    n_permutations: int,
    scheme: str = "freedman-lane",
    settings: NullSettings | None = None,
    n_threads: int | None = None,
) -> Nulls:
    """The whole test: fit, permutations, p."""
    contrasts = build_contrasts(["age"], design)
    plan = make_plan(design, contrasts, np.empty((0, len(values)), bool))
    maps = ArrayMaps(values, design.scan_ids, space)
    compute = Compute(n_threads=n_threads)
    fitted = Fitted(maps, plan, fit_voxels(maps, plan, compute))
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(len(values))), n_permutations, scheme=scheme))
    return permutation_nulls(fitted, permuted, settings or NullSettings(), compute)


def theirs(
    design: Design, values: np.ndarray, n_permutations: int, masker: NiftiMasker | None = None, tfce: bool = False
) -> dict[str, np.ndarray]:
    """The same test by nilearn."""
    x = design.matrix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return permuted_ols(
            x[:, [1]],
            values,
            x[:, 2:],
            n_perm=n_permutations,
            output_type="dict",
            masker=masker,
            tfce=tfce,
            random_state=0,
        )


def sgemm_limit(design: Design, n_voxels: int, n_permutations: int, scheme: str) -> tuple[int, float]:
    """Rows of products a permutation, and the seconds that the bare products would take at this moment."""
    plan = make_plan(design, build_contrasts(["age"], design), np.empty((0, len(design.matrix)), bool))
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(len(design.matrix))), 2, scheme=scheme))
    n_rows = permuted.n_tested + permuted.moving.shape[1]
    a, b = torch.randn(2048, len(design.matrix)), torch.randn(len(design.matrix), 4096)
    product = min(seconds(lambda: a @ b) for _ in range(8)) / (2048 * 4096)
    return n_rows, product * n_rows * n_permutations * n_voxels


def masker_of(space: Space) -> NiftiMasker:
    mask = space.unmask(np.ones(space.voxel_index.size))
    return NiftiMasker(as_nifti(Volume(torch.from_numpy(mask)[None], space.grid))).fit()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed(
    n_scans: int, voxel_mm: float, n_voxels: int, n_permutations: int, n_tfce: int, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """Times of one design, interleaved."""
    space = grey_matter(voxel_mm, n_voxels)
    values, design = smooth_noise(space, n_scans, 1), make_design(n_scans)
    masker, threads = masker_of(space), arguments.threads
    n_voxels = space.voxel_index.size
    part = values[:, : max(n_voxels // 20, 1000)].copy()  # nilearn's for the maximum alone
    n_theirs, n_theirs_tfce = 20, 2
    tfce = NullSettings(wants_tfce=True)
    jobs: dict[str, Callable[[], object]] = {
        "max-t Freedman–Lane": lambda: ours(design, values, space, n_permutations, n_threads=threads),
        "max-t Smith": lambda: ours(design, values, space, n_permutations, "smith", n_threads=threads),
        "TFCE": lambda: ours(design, values, space, n_tfce, settings=tfce, n_threads=threads),
        "nilearn max-t": lambda: theirs(design, part, n_theirs),
        "nilearn max-t, none": lambda: theirs(design, part, 1),
        "nilearn TFCE": lambda: theirs(design, values, n_theirs_tfce, masker, tfce=True),
        "nilearn TFCE, none": lambda: theirs(design, values, 1, masker, tfce=True),
    }
    best = dict.fromkeys(jobs, np.inf)
    limits = {"max-t Freedman–Lane": (0, np.inf), "max-t Smith": (0, np.inf)}
    for _ in range(arguments.rounds):
        for name, scheme in zip(limits, SCHEMES, strict=True):
            found = sgemm_limit(design, n_voxels, n_permutations, scheme)
            limits[name] = min(limits[name], found, key=lambda limit: limit[1])
        for name, work in jobs.items():
            best[name] = min(best[name], seconds(work))
    scale = n_voxels / part.shape[1]
    per_max_t = max(best["nilearn max-t"] - best["nilearn max-t, none"], 1e-9) / (n_theirs - 1) * scale
    per_tfce = max(best["nilearn TFCE"] - best["nilearn TFCE, none"], 1e-9) / (n_theirs_tfce - 1)
    base = {"n_scans": n_scans, "n_voxels": n_voxels}
    rows: list[dict[str, object]] = []
    for name, per, n, ran in (
        ("max-t Freedman–Lane", per_max_t, n_permutations, n_permutations),
        ("max-t Smith", per_max_t, n_permutations, n_permutations),
        ("TFCE", per_tfce, n_permutations, n_tfce),
    ):
        # TFCE was run on fewer permutations: the fit is taken along in the scaling, to our disadvantage
        own = best[name] * n / ran
        rows.append({
            **base, "what": name, "permutations": n, "seconds": own, "measured_permutations": ran,
            "nilearn_seconds": per * n, "nilearn_measured": (
                f"{n_theirs} permutations x {part.shape[1]} voxels" if "max-t" in name
                else f"{n_theirs_tfce} permutations x {n_voxels} voxels"
            ), "times_faster": per * n / own,
            "rows": limits[name][0] if name in limits else None,
            "sgemm_seconds": limits[name][1] if name in limits else None,
            "share_of_sgemm": limits[name][1] / own if name in limits else None,
        })  # fmt: skip
    return rows


def power(n_cohorts: int, n_permutations: int, tfce: bool) -> list[dict[str, object]]:
    """Share of the voxels of a true effect found at p_fwe <= 0.05, side by side."""
    space, n_scans, what = grey_matter(8.0), 40, "TFCE" if tfce else "max-t"
    masker = masker_of(space)
    found = {f"vbmstat {what}": 0.0, f"nilearn {what}": 0.0}
    at = np.stack(np.unravel_index(space.voxel_index, space.grid.shape), axis=1)
    effect = np.linalg.norm(at - at[len(at) // 3], axis=1) * 8.0 < 20
    for cohort in range(n_cohorts):
        design = make_design(n_scans, cohort)
        values = smooth_noise(space, n_scans, 1000 + cohort)
        age = design.matrix[:, 1]
        values[:, effect] += np.float32(0.7) * ((age - age.mean()) / age.std()).astype(np.float32)[:, None]
        nulls = ours(design, values, space, n_permutations, settings=NullSettings(wants_tfce=tfce))
        nilearn = theirs(design, values, n_permutations - 1, masker, tfce=tfce)
        own = nulls.p_tfce_fwe if tfce else nulls.p_fwe
        assert own is not None  # noqa: S101
        other = 10 ** -nilearn["logp_max_tfce" if tfce else "logp_max_t"][0]
        for name, p in zip(found, (own, other), strict=True):
            found[name] += float((p[effect] <= 0.05 + 1e-9).mean()) / n_cohorts
    return [
        {"what": name, "share": share, "cohorts": n_cohorts, "permutations": n_permutations, "n_scans": n_scans,
         "n_voxels": int(space.voxel_index.size)}
        for name, share in found.items()
    ]  # fmt: skip


def report(rows: list[dict[str, object]], arguments: argparse.Namespace) -> None:
    machine = {
        "platform": platform.platform(), "cpus": os.cpu_count(), "threads": arguments.threads,
        "torch": torch.__version__, "product": choose_product("cpu").__name__,
        "quick": arguments.quick, "rounds": arguments.rounds,
    }  # fmt: skip
    lines = [
        "| what | scans | voxels | permutations | vbmstat | nilearn, scaled up | × faster | nilearn was measured on "
        "| rows a permutation | sgemm for them | share of sgemm |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "seconds" in row:
            note = (
                ""
                if row["measured_permutations"] == row["permutations"]
                else (f" (scaled from {row['measured_permutations']} permutations)")
            )
            lines.append(
                f"| {row['what']} | {row['n_scans']} | {row['n_voxels']:,} | {row['permutations']:,} | "
                f"{row['seconds']:.1f} s{note} | {row['nilearn_seconds']:.0f} s | **{row['times_faster']:.0f}** | "
                f"{row['nilearn_measured']} | "
                + (
                    f"{row['rows']} | {row['sgemm_seconds']:.2f} s | {row['share_of_sgemm']:.0%} |"
                    if row["rows"]
                    else "| | |"
                )
            )
    lines += ["", "| power | share of the effect's voxels at p_fwe <= 0.05 | cohorts | permutations |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['share']:.3f} | {row['cohorts']} | {row['permutations']} |"
        for row in rows if "share" in row
    ]  # fmt: skip
    text = f"Measured on {machine['platform']}, {machine['threads']} threads, torch {machine['torch']}.\n\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / ("inference_speed-quick" if arguments.quick else "inference_speed")
    stem.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    stem.with_suffix(".md").write_text(text + "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
