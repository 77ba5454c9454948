"""A small cohort in memory and on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat.image.grid import Grid
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume

SHAPE = (11, 13, 9)
GRID = Grid(SHAPE, np.array([[3.0, 0, 0, -15], [0, 3.0, 0, -20], [0, 0, 3.0, -12], [0, 0, 0, 1]]))
N_SCANS = 26


def make_table(n_scans: int = N_SCANS, seed: int = 0) -> pd.DataFrame:
    """Ages, sexes, sites and TIV of invented people."""
    rng = np.random.default_rng(seed)
    sex = np.array(["F", "M"])[np.arange(n_scans) % 2]
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in range(n_scans)],
            "age": rng.uniform(20, 80, n_scans).round(1),
            "sex": sex,
            "site": np.array(["berlin", "köln", "ulm"])[rng.integers(0, 3, n_scans)],
            "tiv_ml": (1400 + 100 * (sex == "M") + rng.normal(0, 90, n_scans)).round(1),
        }
    )


def make_images(table: pd.DataFrame, seed: int = 1) -> np.ndarray:
    """Maps (n, X, Y, Z), float32: about 0.5 inside an ellipsoid with an age effect on one side, near 0 outside."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.8
    age = table["age"].to_numpy()[:, None, None, None]
    noise = rng.normal(0, 0.05, (len(table), *SHAPE))
    return (inside * (0.5 - 0.003 * (age - 50) * (axes[0] > 0) + noise)).astype(np.float32)


@pytest.fixture
def table() -> pd.DataFrame:
    return make_table()


@pytest.fixture
def images(table: pd.DataFrame) -> np.ndarray:
    return make_images(table)


@pytest.fixture
def cohort_folder(tmp_path: Path, table: pd.DataFrame, images: np.ndarray) -> Path:
    """A folder with cohort.tsv and maps as vbmstat writes them."""
    for scan, image in zip(table["participant_id"], images, strict=True):
        write_volume(tmp_path / "mri" / f"s6mwp1{scan}_T1w.nii.gz", Volume(torch.from_numpy(image)[None], GRID))
    paths = [f"mri/s6mwp1{scan}_T1w.nii.gz" for scan in table["participant_id"]]
    cohort = table.assign(engine="classic", vbmstat_version="0.1.0", s6mwp1=paths)
    cohort.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    return tmp_path
