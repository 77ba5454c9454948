"""False positives of random field inference on smooth stationary noise: null studies of one group, by smoothing.

python benchmarks/inference/random_fields.py --studies 250 --out benchmarks/results/random_fields.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from vbmstat.glm.inference.clusters import find_clusters, neighbour_table
from vbmstat.glm.inference.random_field import Field
from vbmstat.glm.inference.rft import SmoothSpace, field_inference
from vbmstat.glm.inference.smoothness import smoothness
from vbmstat.image.grid import Grid
from vbmstat.maps.store import Space

SHAPE, VOXEL_MM = (40, 44, 40), 1.5
AXES = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
INSIDE = sum(axis**2 for axis in AXES) < 0.95
SPACE = Space(Grid(SHAPE, np.diag([VOXEL_MM] * 3 + [1.0])), np.flatnonzero(INSIDE))
NEIGHBOURS = neighbour_table(SPACE)
MASK = np.ones(SPACE.voxel_index.size, dtype=bool)


def noise(n_scans: int, fwhm_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth maps inside the mask, (n_scans, n_voxels)."""
    sigma = fwhm_mm / VOXEL_MM / np.sqrt(8 * np.log(2))
    pad = int(3 * sigma) + 1
    inner = tuple(slice(pad, -pad) for _ in SHAPE)
    wide = [n + 2 * pad for n in SHAPE]
    maps = (rng.standard_normal(wide).astype(np.float32) for _ in range(n_scans))
    return np.array([ndimage.gaussian_filter(one, sigma, truncate=3)[inner][INSIDE] for one in maps])


def study(n_scans: int, fwhm_mm: float, rng: np.random.Generator) -> tuple[list[bool], float]:
    """Whether a height, an extent has corrected p <= .05 (one-sided, two-sided), and the FWHM of the residuals."""
    values = noise(n_scans, fwhm_mm, rng)
    residuals = values - values.mean(axis=0)
    sigma = np.sqrt((residuals**2).sum(axis=0) / (n_scans - 1))
    t = values.mean(axis=0) / sigma * np.sqrt(n_scans)
    smooth = smoothness((residuals / sigma)[:64], MASK, SPACE, n_scans - 1, n_scans)
    field, found = Field("t", n_scans - 1), []
    for sides in (1, 2):
        forming = field.height(0.001 / sides)
        clusters = find_clusters(t, forming, sides == 2, NEIGHBOURS)
        where = SmoothSpace(SPACE, MASK, smooth, sides)
        result = field_inference(t if sides == 2 else np.maximum(t, 0), field, clusters, forming, where)
        found += [bool(result.p_fwe.min() <= 0.05), bool(result.p_extent_fwe.min(initial=1) <= 0.05)]
    return found, float(np.mean(smooth.fwhm_mm)) / VOXEL_MM


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=250)
    parser.add_argument("--scans", type=int, nargs="+", default=[41])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [
        "| smoothing | scans | FWHM of residuals, voxels | height, one-sided | extent | height, two-sided | extent |",
        "|---|---|---|---|---|---|---|",
    ]
    for n_scans in arguments.scans:
        for fwhm_mm in (6.0, 8.0, 12.0):
            rng = np.random.default_rng(1)
            studies = [study(n_scans, fwhm_mm, rng) for _ in range(arguments.studies)]
            shares = [f"{100 * share:.1f} %" for share in np.mean([found for found, _ in studies], axis=0)]
            width = np.mean([fwhm for _, fwhm in studies])
            rows.append(f"| {fwhm_mm:g} mm | {n_scans} | {width:.1f} | {' | '.join(shares)} |")
    arguments.out.write_text(
        f"Share of {arguments.studies} null studies with a corrected p of .05 or less ({MASK.sum():,} voxels of "
        f"{VOXEL_MM} mm, clusters formed at p = .001).\n\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
