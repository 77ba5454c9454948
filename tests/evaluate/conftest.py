"""A label map of a small head, and results of fake engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.results import Segmented

SHAPE = (28, 28, 28)
GRID = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]))


def head_labels() -> Volume:
    """WM, cortex, CSF and skin as shells, left and right."""
    place = np.indices(SHAPE) - 13.7
    r = np.sqrt((place**2).sum(0))
    left = place[0] < 0
    wm, cortex = np.where(left, 2, 41), np.where(left, 3, 42)
    data = np.select([r < 6, r < 9, r < 11, r < 12.5], [wm, cortex, 24, 511], 0)
    return Volume(torch.tensor(data, dtype=torch.float32)[None], GRID)


def as_segmented(fractions: torch.Tensor, engine: str = "classic") -> Segmented:
    """GM, WM and CSF in the form that an engine returns."""
    volume = Volume(fractions.float(), GRID)
    still = torch.zeros(3, 1, 1, 1)
    return Segmented(volume, volume, np.eye(4), still, None, GRID, False, engine)  # type: ignore[arg-type]


@pytest.fixture
def head(tmp_path) -> Path:
    """File of the label map."""
    path = tmp_path / "head01.nii.gz"
    io.write_volume(path, head_labels())
    return path
