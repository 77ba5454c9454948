"""Tissue volume of each label, from a modulated map on any grid with the atlas's axes.

A map's voxel often straddles labels. Each label gets its exact share: the volume that the voxel and the label's own
voxels (boxes of another size) have in common. On parallel axes this overlap is a product of three interval overlaps:
three small matrix products per label, without resampling error. A label's volume is then
``sum over voxels of share × value × voxel volume``.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import Atlas

_PARALLEL_TOLERANCE = 1e-4  # off-axis part of a voxel's edge, relative to the edge


def label_shares(atlas: Atlas, on: Grid) -> sparse.csr_array:
    """Share of each voxel of a grid that belongs to each label.

    Parameters
    ----------
    atlas : Atlas
        Labels in template RAS+ mm.
    on : Grid
        Grid of the maps, with axes parallel to the template's (any voxel size and field of view).

    Returns
    -------
    csr_array, (n_labels, n_voxels), float32
        Rows in the order of ``atlas.table``; voxels in C order; 0 to 1, at most 1 when summed over labels.

    Raises
    ------
    ScanError
        If the grid's axes are not parallel to the atlas's.
    """
    labels = np.rint(atlas.image.data[0].numpy()).astype(np.int64)
    overlaps = [_axis_overlap(on, atlas.image.grid, axis) for axis in range(3)]  # 3 × (n_on, n_atlas)
    boxes = _bounding_boxes(labels)
    rows = [_one_label(labels, int(label), boxes.get(int(label)), overlaps, on.shape) for label in atlas.table.index]
    return sparse.vstack(rows, format="csr", dtype=np.float32)


def measure_map(tissue: Volume, shares: sparse.csr_array, may_be_empty: bool = False) -> np.ndarray:
    """Volume of tissue in each label, (n_labels,), float64, mL.

    Parameters
    ----------
    tissue : Volume, (1, X, Y, Z)
        Modulated tissue map: its sum times the voxel volume is a volume. NaN (some programs write it outside the field
        of view) counts as 0.
    shares : csr_array, (n_labels, n_voxels)
        From :func:`label_shares` on this map's grid.
    may_be_empty : bool
        Whether a map of zeros is sound: lesions of a person who has none.

    Raises
    ------
    ScanError
        If the map holds no tissue, infinite values, a negative sum, or no voxel in a label.
    """
    values = tissue.data[0].numpy().reshape(-1)
    n_infinite = int(np.isinf(values).sum())
    values = np.nan_to_num(values, nan=0.0)
    wrong = ""
    if n_infinite:
        wrong = f"one with {n_infinite} infinite values"
    elif not may_be_empty and not values.any():
        wrong = "one without any tissue (all zero or NaN)"
    elif values.sum(dtype=np.float64) < 0:
        wrong = "one with a negative sum"
    elif not shares.nnz:
        wrong = "one without any voxel in a label of the atlas: is it (or the scan's inverse field) in template space?"
    if wrong:
        msg = f"expected a modulated tissue map, got {wrong}"
        raise ScanError(msg)
    return np.asarray(shares @ values.astype(np.float64)) * tissue.grid.voxel_volume_ml


def mean_in_labels(image: Volume, shares: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a map in each label, weighted by the label's shares, and the volume behind it.

    Parameters
    ----------
    image : Volume, (1, X, Y, Z)
        Any map; voxels that are NaN are left out.
    shares : csr_array, (n_labels, n_voxels)
        From :func:`label_shares` or :func:`vbmstat.roi.soft.soft_shares`.

    Returns
    -------
    mean, volume_ml : ndarray, (n_labels,), float64
        NaN and 0 for a label without a voxel.

    Raises
    ------
    ScanError
        If the map has infinite values, or no voxel in a label.
    """
    values = image.data[0].numpy().reshape(-1).astype(np.float64)
    if np.isinf(values).any():
        msg = f"expected finite values, got {int(np.isinf(values).sum())} infinite ones"
        raise ScanError(msg)
    known = ~np.isnan(values)
    weights = np.asarray(shares @ known.astype(np.float64))
    if not weights.any():
        msg = "expected a map in template space, got one without any voxel in a label of the atlas"
        raise ScanError(msg)
    sums = np.asarray(shares @ np.where(known, values, 0.0))
    mean = np.divide(sums, weights, out=np.full(len(sums), np.nan), where=weights > 0)
    return mean, weights * image.grid.voxel_volume_ml


def sums_in_labels(image: Volume, shares: sparse.csr_array) -> np.ndarray:
    """Voxels of an image in each label, and the sums of their values and squares, (3, n_labels), float64.

    Parameters
    ----------
    image : Volume, (1, X, Y, Z)
        Any map; voxels that are not finite are left out.
    shares : csr_array, (n_labels, n_voxels)
        From :func:`vbmstat.roi.native.native_shares` on the image's grid: a voxel on a border counts in part.

    Raises
    ------
    ScanError
        If no voxel with a value lies in a label.
    """
    values = image.data[0].numpy().reshape(-1).astype(np.float64)
    known = np.isfinite(values)
    values = np.where(known, values, 0.0)
    sums = np.stack([np.asarray(shares @ each) for each in (known.astype(np.float64), values, values**2)])
    if not sums[0].any():
        msg = "expected an image in the scan's own space, got one without any value in a label of the atlas"
        raise ScanError(msg)
    return sums


def moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and number of voxels from :func:`sums_in_labels`; NaN without a voxel."""
    n, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        return mean, np.sqrt((squares / n - mean**2).clip(min=0)), n


def _axis_overlap(on: Grid, atlas: Grid, axis: int) -> np.ndarray:
    """Share of each voxel of `on` along an axis that each voxel of the atlas covers, (n_on, n_atlas)."""
    for grid in (on, atlas):
        edges = np.abs(grid.affine[:3, :3])
        off_axis = edges - np.diag(np.diag(edges))
        if off_axis.max() > _PARALLEL_TOLERANCE * edges.max():
            msg = f"expected a map in template space (axes along the atlas's), got {on.affine[:3, :3].tolist()}"
            raise ScanError(msg)
    (low, high), (atlas_low, atlas_high) = (_intervals(grid, axis) for grid in (on, atlas))
    common = np.minimum(high[:, None], atlas_high) - np.maximum(low[:, None], atlas_low)
    return np.asarray(common.clip(min=0.0) / (high - low)[:, None], dtype=np.float32)


def _intervals(grid: Grid, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper faces (mm) of the voxels along an axis."""
    step, start = grid.affine[axis, axis], grid.affine[axis, 3]
    centres = start + step * np.arange(grid.shape[axis])
    return centres - abs(step) / 2, centres + abs(step) / 2


def _bounding_boxes(labels: np.ndarray) -> dict[int, tuple[slice, slice, slice]]:
    """The smallest box around each label."""
    values, dense = np.unique(labels, return_inverse=True)
    boxes = ndimage.find_objects(dense.reshape(labels.shape) + 1)
    return {int(label): box for label, box in zip(values, boxes, strict=True)}


def _one_label(
    labels: np.ndarray,
    label: int,
    box: tuple[slice, slice, slice] | None,
    overlaps: list[np.ndarray],
    shape: tuple[int, int, int],
) -> sparse.csr_array:
    """A label's share of every voxel, (1, n_voxels)."""
    n_voxels = int(np.prod(shape))
    if box is None:
        return sparse.csr_array((1, n_voxels), dtype=np.float32)
    near = [np.flatnonzero(overlap[:, part].any(axis=1)) for overlap, part in zip(overlaps, box, strict=True)]
    x, y, z = (overlap[rows][:, part] for overlap, rows, part in zip(overlaps, near, box, strict=True))
    inside = (labels[box] == label).astype(np.float32)  # (a, b, c) in atlas voxels
    share = np.einsum("ia,jb,kc,abc->ijk", x, y, z, inside, optimize=True)
    index = np.ravel_multi_index(np.ix_(*near), shape).reshape(-1)
    values = share.reshape(-1)
    kept = values > 0
    return sparse.csr_array((values[kept], (np.zeros(kept.sum(), int), index[kept])), shape=(1, n_voxels))
