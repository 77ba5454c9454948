"""Outputs of a scan's tracts: probabilities in its own and the template's space, masks, volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.image import io
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.tables import dictionary
from vbmstat.tracts.names import TRACTS, WEAK, region, side
from vbmstat.tracts.prior import STEP

_LEAST_MM = 1.0  # voxels of the scan's maps are no smaller: 72 volumes


@dataclass(frozen=True)
class TractMaps:
    """Tracts of a scan."""

    # (72, X, Y, Z), uint8: probabilities in steps of 1/255, in the scan's space (a box around the brain) and on the
    # template's grid
    native: Volume
    template: Volume
    threshold: np.ndarray  # (72,): probability of the masks
    grade: str  # grade of tracts that are not weak

    @property
    def mask(self) -> Volume:
        """Voxels at or above each tract's threshold, (72, X, Y, Z), uint8."""
        counts = torch.from_numpy(np.ceil(self.threshold / STEP - 1e-6).clip(1).astype(np.uint8))
        return Volume((self.native.data >= counts[:, None, None, None]).to(torch.uint8), self.native.grid)

    def volumes(self, wmh_ml: np.ndarray | None = None) -> pd.DataFrame:
        """A row a tract: expected volume, volume of the mask and, if given, of the hypointensities in it, mL."""
        ml = self.native.grid.voxel_volume_ml
        table = pd.DataFrame({
            "label": range(1, len(TRACTS) + 1), "hemisphere": [side(tract) for tract in TRACTS], "name": TRACTS,
            "region": [region(tract) for tract in TRACTS],
            "grade": ["weak" if tract in WEAK else self.grade for tract in TRACTS], "additive": False,
            "volume_ml": _sums(self.native) * STEP * ml, "mask_ml": _sums(self.mask) * ml, "threshold": self.threshold,
        })  # fmt: skip
        if wmh_ml is not None:
            table["wmh_ml"] = wmh_ml
        return table.round(4)

    def write(self, path: Callable[[str], Path], wmh_ml: np.ndarray | None = None) -> pd.DataFrame:
        """Write maps, masks and volumes; `path` gives the file of each kind. Returns the volumes."""
        for kind, volume, space in (("tracts", self.native, "scanner"), ("wtracts", self.template, "mni")):
            io.write_volume(path(kind), volume, dtype="uint8", space=space, step=STEP, description=f"vbmstat {kind}")
        io.write_volume(path("tracts_mask"), self.mask, dtype="uint8", space="scanner", step=1.0)
        table = self.volumes(wmh_ml)
        dictionary.write_table(path("tract_volumes"), table, "tract_volumes")
        return table


def _sums(volume: Volume) -> np.ndarray:
    return np.array([int(one.sum(dtype=torch.int64)) for one in volume.data], dtype=float)


def stored(probabilities: Iterable[torch.Tensor], grid: Grid) -> Volume:
    """Probabilities, one tract (X, Y, Z) after the other, as uint8 in steps of 1/255."""
    counts = torch.empty(len(TRACTS), *grid.shape, dtype=torch.uint8)
    for row, probability in enumerate(probabilities):
        counts[row] = torch.round(probability.clamp(0, 1) / STEP).to(torch.uint8)
    return Volume(counts, grid)


def scan_box(field: Volume) -> Volume:
    """An ``iy_`` field on the grid of the scan's tracts: its own box, voxels of 1 mm or more."""
    size = field.grid.voxel_size_mm
    if (size >= _LEAST_MM - 1e-3).all():
        return field
    grid = field.grid.with_voxel_size(np.maximum(size, _LEAST_MM))
    return Volume(resample(field.data, field.grid, grid, padding_mode="border"), grid)
