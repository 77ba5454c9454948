"""Atlas labels in a scan's own space, through the inverse field that preprocessing wrote.

For each voxel of the scan the field (SPM's ``iy_`` convention) holds its template point. A voxel takes the label of the
atlas voxel there. On a border between labels the centres of its eight octants vote, so that the voxel is shared and no
label is interpolated. A label's volume is then ``sum over voxels of share × tissue fraction × voxel volume``, as CAT12
and deepmriprep report volumes.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import ndimage, sparse

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid, apply_affine, resample, sample
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.roi.atlas import Atlas

_OCTANTS = tuple(product((-0.25, 0.25), repeat=3))  # centres, in voxels of the scan
_MAX_SHARE_OUTSIDE = 0.01  # of the tissue
_OUTSIDE = -1e6  # a voxel coordinate outside any image

Box = tuple[slice, slice, slice]


def native_shares(atlas: Atlas, field: Volume, on: Grid) -> sparse.csr_array:
    """Share of each voxel of a scan that belongs to each label.

    Parameters
    ----------
    atlas : Atlas
        Labels in template RAS+ mm.
    field : Volume, (3, X, Y, Z), mm
        Voxel of the scan (or of a box in it, of any voxel size) -> template RAS+ mm: an ``iy_`` file.
    on : Grid
        The scan's grid, on which its tissue maps (p1, p2, p3) are.

    Returns
    -------
    csr_array, (n_labels, n_voxels), float32
        Rows in the order of ``atlas.table``; voxels in C order; multiples of 1/8. Zero outside the field's box.
    """
    box, row_image = field_box(field, on), _row_image(atlas)
    rows = _rows_at_centres(row_image, field, on, box)  # (a, b, c)
    border = ndimage.maximum_filter(rows, 3) != ndimage.minimum_filter(rows, 3)
    start = np.array([[side.start] for side in box])
    inner, outer = (np.stack(np.nonzero(where)) + start for where in (~border & (rows >= 0), border))  # (3, n)
    votes = _votes(row_image, field, on, outer)  # (8, n)
    row = np.concatenate([rows[~border & (rows >= 0)], votes.reshape(-1)])
    flat = [np.ravel_multi_index(tuple(at), on.shape) for at in (inner, outer)]
    voxel = np.concatenate([flat[0], np.tile(flat[1], len(_OCTANTS))])
    share = np.where(np.arange(len(row)) < len(flat[0]), 1.0, 1.0 / len(_OCTANTS)).astype(np.float32)
    named = row >= 0
    shape = len(atlas.table), int(np.prod(on.shape))
    return sparse.csr_array((share[named], (row[named], voxel[named])), shape=shape)


def native_labels(atlas: Atlas, field: Volume, on: Grid) -> Volume:
    """The atlas on a scan's grid, (1, X, Y, Z): the label at each voxel's centre, 0 for no label."""
    box = field_box(field, on)
    values = np.array([*atlas.table.index, 0], dtype=np.float32)  # the last one, at -1, is no label
    labels = torch.zeros(1, *on.shape)
    labels[0][box] = torch.from_numpy(values[_rows_at_centres(_row_image(atlas), field, on, box)])
    return Volume(labels, on)


def check_coverage(tissue: Volume, field: Volume) -> None:
    """Refuse a field that does not cover the tissue: raise ScanError if more than 1 % lies outside its box."""
    total = float(tissue.data.nansum())
    outside = total - float(tissue.data[0][field_box(field, tissue.grid)].nansum())
    if outside > _MAX_SHARE_OUTSIDE * total:
        msg = (
            f"{100 * outside / total:.0f} % of the tissue lies outside the inverse field ({field.grid}); "
            "expected the field and the tissue map of the same scan and run"
        )
        raise ScanError(msg)


def field_box(field: Volume, on: Grid) -> Box:
    """The box of a grid that the field covers, with one voxel of margin, as resampled tissue can reach beyond it.

    Raises
    ------
    ScanError
        If the two do not overlap.
    """
    at = (np.linalg.inv(on.affine) @ field.grid.corners_mm)[:3]  # (3, 8), voxels
    start = np.maximum(np.floor(at.min(axis=1) + 1e-3).astype(int) - 1, 0)
    stop = np.minimum(np.ceil(at.max(axis=1) - 1e-3).astype(int) + 2, on.shape)
    if (stop - start < 2).any():
        msg = f"the inverse field ({field.grid}) and the scan ({on}) do not overlap; they are of different scans"
        raise ScanError(msg)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))  # type: ignore[return-value]


def _rows_at_centres(rows: Volume, field: Volume, on: Grid, box: Box) -> np.ndarray:
    """Row in the atlas's table of the label at each voxel of a box; negative for none."""
    part = on.crop(tuple(side.start for side in box), tuple(side.stop for side in box))
    return _rows_at(rows, resample(field.data, field.grid, part, padding_mode="border"))


def _votes(rows: Volume, field: Volume, on: Grid, voxels: np.ndarray) -> np.ndarray:
    """Rows of the labels at the eight octants of voxels (3, n), (8, n)."""
    centres = torch.from_numpy(voxels).float()[:, :, None, None]  # (3, n, 1, 1)
    to_field = np.linalg.inv(field.grid.affine) @ on.affine
    votes = []
    for offset in _OCTANTS:
        at = apply_affine(to_field, centres + torch.tensor(offset).reshape(3, 1, 1, 1))
        votes.append(_rows_at(rows, sample(field.data, at, padding_mode="border"))[:, 0, 0])
    return np.stack(votes)


def _rows_at(rows: Volume, template_mm: torch.Tensor) -> np.ndarray:
    """Row of the label at template points (3, ...); negative for none."""
    at = apply_affine(np.linalg.inv(rows.grid.affine), template_mm).nan_to_num(nan=_OUTSIDE)  # SPM fields may hold NaN
    values = sample(rows.data, at.reshape(3, -1, 1, 1), mode="nearest")  # 0 outside the image too
    return values.reshape(at.shape[1:]).to(torch.int32).numpy() - 1


def _row_image(atlas: Atlas) -> Volume:
    """Row in the atlas's table plus one, for each voxel of its image; 0 for none."""
    row_of = torch.zeros(int(atlas.image.data.max()) + 1)
    for position, label in enumerate(atlas.table.index):
        if label < len(row_of):  # labels that the image lacks may be larger
            row_of[label] = position + 1
    return Volume(row_of[atlas.image.data.long()], atlas.image.grid)
