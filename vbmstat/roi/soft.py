"""Shares of a soft atlas: the probability of each label at each voxel, on any grid or in a scan's own space."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from vbmstat.image.grid import Grid, apply_affine, resample, sample
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.roi.atlas import Atlas
from vbmstat.roi.native import field_box


def soft_shares(atlas: Atlas, on: Grid) -> sparse.csr_array:
    """Probability of each label at each voxel of a grid, (n_labels, n_voxels); as ``measure.label_shares``."""
    rows = (resample(atlas.image.data[row : row + 1], atlas.image.grid, on) for row in range(len(atlas.table)))
    return sparse.vstack([_row(one) for one in rows], format="csr", dtype=np.float32)


def soft_native_shares(atlas: Atlas, field: Volume, on: Grid) -> sparse.csr_array:
    """Probability of each label at each voxel of a scan; as ``native.native_shares``."""
    box = field_box(field, on)
    part = on.crop(tuple(side.start for side in box), tuple(side.stop for side in box))
    template_mm = resample(field.data, field.grid, part, padding_mode="border")
    at = apply_affine(np.linalg.inv(atlas.image.grid.affine), template_mm).nan_to_num(nan=-1e6)  # outside
    rows = []
    for row in range(len(atlas.table)):
        whole = torch.zeros(1, *on.shape)
        whole[0][box] = sample(atlas.image.data[row : row + 1], at)[0]
        rows.append(_row(whole))
    return sparse.vstack(rows, format="csr", dtype=np.float32)


def _row(probability: torch.Tensor) -> sparse.csr_array:
    return sparse.csr_array(probability.reshape(1, -1).numpy())
