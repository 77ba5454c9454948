"""Values of nipy's random field theory, for test_random_field.py.

Stored, since they do not change and nipy would bring sympy and transforms3d to every installation of the tests:

python -m venv nipy && nipy/bin/pip install nipy==0.6.1 "numpy>=2" && nipy/bin/python tests/glm/inference/nipy_rft.py
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
from scipy import optimize

PER_RESEL = (4 * np.log(2)) ** (np.arange(4) / 2)  # nipy counts intrinsic volumes, SPM resels
BOX, FWHM = (40, 50, 60), ((3, 3, 3), (5, 6, 8), (12, 12, 12))  # voxels
FIELDS = [("z", 1, np.inf), *(("t", 1, v) for v in (5, 10, 20, 50, 100, 300))]
FIELDS += [("F", k, v) for k, v in itertools.product((1, 2, 3, 5), (10, 20, 50, 100, 300))]
HEIGHTS = {"z": (2.0, 3.1, 4.5), "t": (3.0, 4.0, 5.0, 7.0), "F": (5.0, 8.0, 12.0)}


def expected_ec(kind: str, k: int, v: float, resels: np.ndarray):
    """E[EC] as a function of the height."""
    from nipy.algorithms.statistics.rft import FStat, Gaussian, IntrinsicVolumes, TStat  # noqa: PLC0415 - not installed

    search = IntrinsicVolumes((resels * PER_RESEL).tolist())
    if kind == "z":
        return Gaussian(search=search)
    return TStat(dfd=v, search=search) if kind == "t" else FStat(k, v, search=search)


def box_resels(fwhm: tuple[int, int, int]) -> np.ndarray:
    """Products of the sides of a box of voxel centres, in FWHM."""
    x, y, z = ((n - 1) / f for n, f in zip(BOX, fwhm, strict=True))
    return np.array([1, x + y + z, x * y + x * z + y * z, x * y * z])


def main() -> None:
    """Write nipy_rft.tsv."""
    rows = []
    for (kind, k, v), fwhm in itertools.product(FIELDS, FWHM):
        resels = box_resels(fwhm)
        ec = expected_ec(kind, k, v, resels)
        for alpha in (0.05, 0.01):
            height = optimize.brentq(lambda u: -np.expm1(-float(np.squeeze(ec(u)))) - alpha, 2, 2000, xtol=1e-11)  # noqa: B023
            rows.append(("threshold", kind, k, v, *fwhm, alpha, height))
        for u in HEIGHTS[kind]:
            rows.append(("p", kind, k, v, *fwhm, u, -np.expm1(-float(np.squeeze(ec(u))))))
    for (kind, k, v), d in itertools.product(FIELDS, range(4)):
        density = expected_ec(kind, k, v, np.eye(4)[d])
        rows += [(f"density{d}", kind, k, v, 0, 0, 0, u, float(np.squeeze(density(u)))) for u in HEIGHTS[kind]]
    with Path(__file__).with_suffix(".tsv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("what", "kind", "df_contrast", "df", "fwhm_x", "fwhm_y", "fwhm_z", "at", "value"))
        writer.writerows((*row[:-1], f"{row[-1]:.9e}") for row in rows)


if __name__ == "__main__":
    main()
