"""Twenty scans with maps of four by two voxels a region, and an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.regions.models import RoiResults, fit_roi_glm
from vbmstat.regions.volumes import RegionSpec

GRID = Grid((8, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))
N_SCANS = 20


def write_study(tmp_path: Path) -> Path:
    """A cohort of modulated maps and an atlas: 3 and 7 left and right of one region, 9 another, 5 without a voxel."""
    data = torch.zeros(1, *GRID.shape)
    for position, label in enumerate((3, 7, 9)):
        data[0, 2 * position : 2 * position + 2] = label
    io.write_volume(tmp_path / "own.nii.gz", Volume(data, GRID), dtype="int16")
    rows = ["3\tleft\tLeft A\tA", "7\tright\tRight A\tA", "9\tboth\tB\tB", "5\tboth\tGone\tGone"]
    (tmp_path / "own.tsv").write_text("\n".join(["label\themisphere\tname\tregion", *rows]) + "\n")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(N_SCANS)]})
    table["age"] = rng.uniform(20, 80, N_SCANS).round(1)
    table["sex"] = np.array(["F", "M"])[rng.integers(0, 2, N_SCANS)]
    table["mwp1"] = [f"mwp1{scan}_T1w.nii.gz" for scan in table["participant_id"]]
    for age, name in zip(table["age"], table["mwp1"], strict=True):
        values = 0.5 + 0.05 * torch.from_numpy(rng.standard_normal((1, *GRID.shape))).float()
        values[0, :2] -= 0.004 * (age - 50)
        io.write_volume(tmp_path / name, Volume(values, GRID))
    table.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    return tmp_path


def fit(
    study: Path, formula: str = "gm ~ age + sex", contrasts: Any = ("age", "F(age, sex)"), **options: Any
) -> RoiResults:
    """The model of the study's regions."""
    measured = {name: options.pop(name) for name in ("level", "random") if name in options}
    regions = RegionSpec(study / "own.nii.gz", **measured)
    return fit_roi_glm(formula, study / "cohort.tsv", contrasts, regions=regions, **options)
