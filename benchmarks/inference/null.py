"""False positives: family-wise error of max-t, TFCE and clusters on simulated null cohorts.

    nice -n 19 python benchmarks/inference/null.py --workers 2          # 4 x 1,000 cohorts, about 25 minutes of 2 cores
    python benchmarks/inference/null.py --cohorts 20 --out null-look    # a look

Each cohort is 24 maps of Gaussian noise, smoothed by 8 mm FWHM, on the grey-matter mask of the template at 4 mm; the
model is group (8 against 16) + age, age being confounded with group; there is no effect. Two situations: scans freely
exchangeable, and 8 blocks (sites) of 3 scans with an offset each, + site in the model, permuted within blocks; both by
Freedman-Lane and by Smith. A family-wise error is a cohort with any voxel or cluster at p <= 0.05. Cohorts that are
done are kept in OUT/inference_null.jsonl, so that the command can be stopped and started again; the summary goes to
OUT/inference_null.json and .md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage, stats

from vbmstat.assets import template
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.corrected import forming_threshold
from vbmstat.glm.inference.p_values import p_two_sided
from vbmstat.glm.inference.permute.blocks import block_tree, free_tree
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import resample
from vbmstat.maps.store import ArrayMaps, Space

RESULTS = Path(__file__).parents[1] / "results"
N_SCANS, N_BLOCKS, FWHM_MM, VOXEL_MM = 24, 8, 8.0, 4.0
FORMING_P = 0.001
SITUATIONS = {  # are there blocks, and the scheme
    "free": (False, "freedman-lane"), "blocks": (True, "freedman-lane"),
    "free, Smith": (False, "smith"), "blocks, Smith": (True, "smith"),
}  # fmt: skip
TESTS = {
    "fwe": "max-t", "tfce": "TFCE", "extent": "cluster extent", "mass": "cluster mass",
    "extent_ties": "cluster extent, ties broken at random",  # largest clusters of a few voxels are often equal
}  # fmt: skip
BAND = (0.036, 0.064)  # what 1,000 cohorts may show by chance at 5 %


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--permutations", type=int, default=100, help="the unpermuted data among them")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "inference_null.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rows = [row for row in rows if row["permutations"] == arguments.permutations and row["cohort"] < arguments.cohorts]
    done = {(row["situation"], row["cohort"]) for row in rows}
    todo = [(s, c) for c in range(arguments.cohorts) for s in arguments.situations if (s, c) not in done]
    fresh = multiprocessing.get_context("spawn")  # a fork may inherit a lock that some library's thread holds
    with ProcessPoolExecutor(arguments.workers, fresh) as pool, log.open("a") as stream:
        jobs = [pool.submit(run, situation, cohort, arguments.permutations) for situation, cohort in todo]
        for job in as_completed(jobs):
            rows.append(job.result())
            stream.write(json.dumps(rows[-1]) + "\n")
            stream.flush()
    report(rows, arguments)


@cache
def space() -> Space:
    """Grey matter of the template at 4 mm."""
    volume = template()
    grid = volume.grid.with_voxel_size(VOXEL_MM)
    grey = resample(volume.data[:1], volume.grid, grid)[0].numpy()
    return Space(grid, np.flatnonzero(grey.reshape(-1) > 0.1))


def noise(rng: np.random.Generator) -> np.ndarray:
    """Smooth noise inside the mask, (n_scans, n_voxels), unit variance; the image is wider than the mask."""
    where = space()
    margin = 4
    shape = [n + 2 * margin for n in where.grid.shape]
    sigma = FWHM_MM / np.sqrt(8 * np.log(2)) / VOXEL_MM
    inner = (slice(margin, -margin),) * 3
    maps = np.stack([
        ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)[inner].reshape(-1)[
            where.voxel_index
        ]
        for _ in range(N_SCANS)
    ])  # fmt: skip
    return maps / maps.std()


def run(situation: str, cohort: int, permutations: int) -> dict[str, object]:
    """Smallest corrected p of one null cohort, and its uncorrected p."""
    torch.set_num_threads(1)
    blocks, scheme = SITUATIONS[situation]
    rng = np.random.default_rng([cohort, blocks])  # the schemes see the same cohorts
    ids = [f"sub-{i:02d}" for i in range(N_SCANS)]
    site = np.arange(N_SCANS) // (N_SCANS // N_BLOCKS)
    group = np.where(np.arange(N_SCANS) % 3 == 0, "patient", "control")  # 8 against 16, one patient a site
    age = rng.uniform(20, 80, N_SCANS) + 10 * (group == "patient")
    table = pd.DataFrame({"site": [f"s{i}" for i in site], "group": group, "age": age})
    values = noise(rng)
    if blocks:
        values += 2 * rng.standard_normal((N_BLOCKS, 1), dtype=np.float32)[site]
    design = build_design("group + age" + " + site" * blocks, table, ids)
    contrasts = build_contrasts(["group"], design)
    plan = make_plan(design, contrasts, np.empty((0, N_SCANS), bool))
    maps = ArrayMaps(values, tuple(ids), space())
    fit = fit_voxels(maps, plan, Compute(n_threads=1, backend="stacked"))
    rows = range(N_SCANS)
    tree = block_tree(site.tolist(), "within", rows) if blocks else free_tree(rows)
    permuted = make_permuted(plan, 0, Resampling(tree, permutations, cohort, scheme))
    threshold = forming_threshold(FORMING_P, "t", True, 1, fit.df_resid)
    settings = NullSettings(True, True, threshold)
    nulls = permutation_nulls(Fitted(maps, plan, fit), permuted, settings, Compute(n_threads=1))
    assert nulls.p_tfce_fwe is not None  # noqa: S101
    assert nulls.p_extent_fwe is not None  # noqa: S101
    assert nulls.p_mass_fwe is not None  # noqa: S101
    p = p_two_sided(fit.statistic[0], fit.df_resid)
    largest = nulls.maxima["extent"]
    ties = rng.uniform() * (largest == largest[0]).sum()
    return {
        "situation": situation, "cohort": cohort, "permutations": permutations, "n_voxels": maps.n_voxels,
        "fwe": float(nulls.p_fwe.min()), "tfce": float(nulls.p_tfce_fwe.min()),
        "extent": float(nulls.p_extent_fwe.min(initial=1.0)), "mass": float(nulls.p_mass_fwe.min(initial=1.0)),
        "extent_ties": float(((largest > largest[0]).sum() + ties) / nulls.count),
        "share_p_05": float((p <= 0.05).mean()), "share_permutation_p_05": float((nulls.p_uncorrected <= 0.05).mean()),
        "p_of_one_voxel": float(p[maps.n_voxels // 2]),
        "permutation_p_of_one_voxel": float(nulls.p_uncorrected[maps.n_voxels // 2]),
    }  # fmt: skip


def report(rows: list[dict[str, object]], arguments: argparse.Namespace) -> None:
    table = pd.DataFrame(rows).sort_values(["situation", "cohort"])
    summary: dict[str, object] = {
        "scans": N_SCANS, "voxels": int(table["n_voxels"].iloc[0]), "fwhm_mm": FWHM_MM, "forming_p": FORMING_P,
        "permutations": arguments.permutations, "band": BAND, "situations": {},
    }  # fmt: skip
    lines = ["| situation | cohorts | test | false positives | inside 3.6–6.4 % |", "|---|---|---|---|---|"]
    for situation, part in table.groupby("situation", sort=False):
        n = len(part)
        errors = {test: float((part[test].dropna() <= 0.05 + 1e-9).mean()) for test in TESTS if test in part}
        # the permutation p is discrete: spread evenly over its step before it is compared with the uniform
        step = np.random.default_rng(0).uniform(size=n) / arguments.permutations
        uniform = {
            "share of voxels with p of t <= 0.05": float(part["share_p_05"].mean()),
            "p of t of one voxel a cohort against uniform, Kolmogorov-Smirnov p": float(
                stats.kstest(part["p_of_one_voxel"], "uniform").pvalue
            ),
            "share of voxels with permutation p <= 0.05": float(part["share_permutation_p_05"].mean()),
            "permutation p of one voxel a cohort against uniform, Kolmogorov-Smirnov p": float(
                stats.kstest(part["permutation_p_of_one_voxel"] - step, "uniform").pvalue
            ),
        }
        summary["situations"][situation] = {"cohorts": n, "fwe": errors, "uncorrected": uniform}  # type: ignore[index]
        for test, error in errors.items():
            inside = "yes" if BAND[0] <= error <= BAND[1] else "**no**"
            lines.append(f"| {situation} | {n} | {TESTS[test]} | {100 * error:.1f} % | {inside} |")
        lines += [f"| {situation} | {n} | {what} | {value:.3f} | |" for what, value in uniform.items()]
    text = (
        f"Null cohorts of {N_SCANS} scans (group 8 : 16, nuisance age), {summary['voxels']} voxels of {VOXEL_MM:g} mm, "
        f"noise of {FWHM_MM:g} mm FWHM, {arguments.permutations} permutations (Freedman–Lane or Smith, two-sided), "
        f"clusters formed at p < {FORMING_P}. Blocks: 8 sites of 3 with offsets, site in the model, permuted within."
        "\n\n"
    )
    (arguments.out / "inference_null.json").write_text(json.dumps(summary, indent=2) + "\n")
    (arguments.out / "inference_null.md").write_text(text + "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
