"""False positives of random field inference on smooth stationary noise, beside sign flips of the same null cohorts.

    nice -n 19 python benchmarks/inference/random_fields.py              # 9 x 1,000 cohorts, hours of one core
    python benchmarks/inference/random_fields.py --cohorts 20 --out look # a look

A cohort is a group of scans of one mean, which is 0; the noise has the FWHM of the smoothing. A family-wise error is a
cohort with any peak or cluster at corrected p <= .05. Cohorts that are done are kept in OUT/random_fields.jsonl; the
command can be stopped and started again. `--minutes` stops it; the table of what there is goes to OUT/random_fields.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.clusters import find_clusters, neighbour_table
from vbmstat.glm.inference.permute.blocks import free_tree
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted
from vbmstat.glm.inference.random_field import Field
from vbmstat.glm.inference.rft import SmoothSpace, field_inference, validity_notes
from vbmstat.glm.inference.smoothness import residual_smoothness
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.maps.store import ArrayMaps, Space

RESULTS = Path(__file__).parents[1] / "results"
SHAPE, VOXEL_MM = (40, 44, 40), 1.5
WIDE = (64, 64, 64)  # voxels of the noise, which is periodic: the mask ends 20 voxels before it meets itself
AXES = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
INSIDE = sum(axis**2 for axis in AXES) < 0.95
SPACE = Space(Grid(SHAPE, np.diag([VOXEL_MM] * 3 + [1.0])), np.flatnonzero(INSIDE))
NEIGHBOURS = neighbour_table(SPACE)
DESIGNS = [(fwhm_mm, n_scans) for n_scans in (21, 41, 101) for fwhm_mm in (6.0, 8.0, 12.0)]
TESTS = {
    "height": "height, one-sided", "extent": "extent", "height2": "height, two-sided", "extent2": "extent",
    "flips_height2": "height, sign flips", "flips_extent2": "extent, sign flips",
}  # fmt: skip


def noise(n_scans: int, fwhm_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth maps of variance 1 inside the mask, (n_scans, n_voxels): Gaussian noise with a Gaussian's spectrum."""
    sigma = fwhm_mm / VOXEL_MM / np.sqrt(8 * np.log(2))
    f_x, f_y, f_z = np.meshgrid(*[np.fft.fftfreq(n) for n in WIDE], indexing="ij", sparse=True)
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (f_x**2 + f_y**2 + f_z**2))
    kernel = torch.from_numpy((gain / np.sqrt((gain**2).mean())).astype(np.float32))
    maps = []
    for _ in range((n_scans + 1) // 2):
        white = rng.standard_normal((*WIDE, 2), dtype=np.float32)
        pair = torch.fft.ifftn(torch.view_as_complex(torch.from_numpy(white)) * kernel, norm="ortho").numpy()
        inner = pair[tuple(slice(n) for n in SHAPE)][INSIDE]
        maps += [inner.real, inner.imag]
    return np.array(maps[:n_scans])


def study(fwhm_mm: float, n_scans: int, cohort: int, flips: int) -> dict[str, object]:
    """Which tests of a null cohort have a corrected p <= .05, the FWHM of the residuals, and whether notes warn."""
    rng = np.random.default_rng([cohort, n_scans, int(fwhm_mm)])
    ids = tuple(f"sub-{i:03d}" for i in range(n_scans))
    maps = ArrayMaps(noise(n_scans, fwhm_mm, rng), ids, SPACE)
    design = build_design("1", pd.DataFrame(index=list(ids)), ids)
    plan = make_plan(design, build_contrasts(["Intercept"], design), np.empty((0, n_scans), bool))
    fit = fit_voxels(maps, plan, Compute(n_threads=1, backend="stacked"))
    smooth = residual_smoothness(maps, plan, 1)
    assert smooth is not None  # noqa: S101
    field, t = Field("t", n_scans - 1), fit.statistic[0]
    row: dict[str, object] = {"fwhm_mm": fwhm_mm, "scans": n_scans, "cohort": cohort, "flips": flips}
    for sides, suffix in ((1, ""), (2, "2")):
        forming = field.height(0.001 / sides)
        clusters = find_clusters(t, forming, sides == 2, NEIGHBOURS)
        where = SmoothSpace(SPACE, maps.mask, smooth, sides)
        result = field_inference(t, field, clusters, forming, where)
        row[f"height{suffix}"] = bool(result.p_fwe.min() <= 0.05)
        row[f"extent{suffix}"] = bool(result.p_extent_fwe.min(initial=1) <= 0.05)
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(n_scans)), flips, cohort, flip=True))
    settings = NullSettings(True, False, forming)
    nulls = permutation_nulls(Fitted(maps, plan, fit), permuted, settings, Compute(n_threads=1))
    assert nulls.p_extent_fwe is not None  # noqa: S101
    row["flips_height2"] = bool(nulls.p_fwe.min() <= 0.05)
    row["flips_extent2"] = bool(nulls.p_extent_fwe.min(initial=1) <= 0.05)
    row["fwhm_voxels"] = round(float(np.mean(smooth.fwhm_mm)) / VOXEL_MM, 3)
    row["notes"] = len(validity_notes(result, fwhm_mm))
    return row


def report(rows: list[dict[str, object]], flips: int, out: Path) -> None:
    """Write the table: error rates and their standard errors."""
    lines = [
        f"Null cohorts of one group, {len(SPACE.voxel_index):,} voxels of {VOXEL_MM} mm, clusters formed at p = .001: "
        f"share (standard error) with a corrected p of .05 or less, by random fields and by {flips} sign flips "
        "(two-sided).\n",
        "| smoothing | scans | cohorts | FWHM of residuals, voxels | notes warn | " + " | ".join(TESTS.values()) + " |",
        "|---" * (5 + len(TESTS)) + "|",
    ]
    for (scans, fwhm_mm), part in pd.DataFrame(rows).groupby(["scans", "fwhm_mm"]):
        means = [part[test].mean() for test in TESTS]
        shares = [f"{100 * p:.1f} ({100 * np.sqrt(p * (1 - p) / len(part)):.1f}) %" for p in means]
        warned = {0: "no", 1: "yes"}[int((part["notes"] > 0).all())]
        width = part["fwhm_voxels"].mean()
        lines.append(f"| {fwhm_mm:g} mm | {scans} | {len(part)} | {width:.1f} | {warned} | {' | '.join(shares)} |")
    (out / "random_fields.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the cohorts that are not done, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=1000, help="of each design")
    parser.add_argument("--flips", type=int, default=100, help="sign flips, the data as they are among them")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after so long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "random_fields.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rows = [row for row in rows if row["flips"] == arguments.flips and row["cohort"] < arguments.cohorts]
    done = {(row["fwhm_mm"], row["scans"], row["cohort"]) for row in rows}
    todo = [(*design, cohort) for cohort in range(arguments.cohorts) for design in DESIGNS]
    end = time.monotonic() + 60 * arguments.minutes
    with log.open("a") as stream:
        for one in todo:
            if one in done:
                continue
            if time.monotonic() > end:
                break
            rows.append(study(*one, arguments.flips))
            stream.write(json.dumps(rows[-1]) + "\n")
            stream.flush()
    report(rows, arguments.flips, arguments.out)


if __name__ == "__main__":
    main()
