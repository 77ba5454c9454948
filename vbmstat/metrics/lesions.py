"""White-matter hypointensities of a scan in numbers: volume, count, and volumes by zone, lobe and side.

A voxel is periventricular up to 10 mm from the lateral ventricles (DeCarli et al. 2005,
doi:10.1161/01.STR.0000150668.58689.f2), else juxtacortical up to 4 mm from the cortex (Kim et al. 2008,
doi:10.1016/j.biopsych.2008.03.024), else deep. Distances are measured in the scan. The lobe is that of the nearest
cerebral gyrus, cerebellum or brainstem of LPBA40 in template space, whose licence is non-commercial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cc3d
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt
from scipy.spatial import KDTree

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.lesions import FLOOR_ML, LESION_FROM
from vbmstat.roi.atlas import load_atlas

ATLAS = "lpba40"
ZONES = ("periventricular", "deep", "juxtacortical")
_PERIVENTRICULAR_MM, _JUXTACORTICAL_MM = 10.0, 4.0
ZONES_ABOUT = (
    f"periventricular: up to {_PERIVENTRICULAR_MM:g} mm from the lateral ventricles (DeCarli et al. 2005); "
    f"juxtacortical: farther, and up to {_JUXTACORTICAL_MM:g} mm from the cortex (Kim et al. 2008)"
)
_PRESENT = 0.5  # fraction of CSF or GM from which a voxel belongs to ventricle or cortex
_CONNECTIVITY: Literal[18] = 18  # of the voxels of a lesion
_STRIDE = 2  # of the map of lobes, in voxels of 1 mm
# Bodies, frontal and occipital horns of the template's lateral ventricles: the largest piece of CSF in this box
_VENTRICLE_LOW_MM, _VENTRICLE_HIGH_MM = (-38.0, -62.0, 0.0), (38.0, 34.0, 30.0)
_VENTRICLE_REACH = 1  # voxels that a scan's ventricles may lie outside the template's
_GYRI = {
    "frontal": (
        "Superior Frontal Gyrus", "Middle Frontal Gyrus", "Inferior Frontal Gyrus", "Precentral Gyrus",
        "Middle Orbitofrontal Gyrus", "Lateral Orbitofrontal Gyrus", "Gyrus Rectus",
    ),
    "parietal": ("Postcentral Gyrus", "Superior Parietal Gyrus", "Supramarginal Gyrus", "Angular Gyrus", "Precuneus"),
    "temporal": (
        "Superior Temporal Gyrus", "Middle Temporal Gyrus", "Inferior Temporal Gyrus", "Parahippocampal Gyrus",
        "Fusiform Gyrus",
    ),
    "occipital": (
        "Superior Occipital Gyrus", "Middle Occipital Gyrus", "Inferior Occipital Gyrus", "Cuneus", "Lingual Gyrus",
    ),
    "infratentorial": ("Cerebellum", "Brainstem"),
}  # fmt: skip
LOBES = tuple(_GYRI)
_OTHER_CORTEX = ("Insula", "Cingulate Gyrus")
SIDES = ("left", "right")


def lesion_figures(share: Volume | None, volumes: pd.DataFrame | None = None) -> dict[str, Any]:
    """Columns of the cohort table about hypointensities.

    Parameters
    ----------
    share : Volume, (1, X, Y, Z), optional
        Share of each voxel that is hypointensity; None if it could not be measured: missing values.
    volumes : DataFrame, optional
        From :func:`lesion_volumes`.

    Returns
    -------
    dict
        ``wmh_ml``, ``wmh_count``, ``wmh_detectable``, and ``wmh_<zone>_ml``.
    """
    zones = [f"wmh_{zone}_ml" for zone in ZONES]
    if share is None or volumes is None:
        return dict.fromkeys(["wmh_ml", "wmh_count", "wmh_detectable", *zones])
    total_ml = share.sums_ml[0]
    of_zone = volumes.groupby("zone")["wmh_ml"].sum()
    return {
        "wmh_ml": round(total_ml, 3), "wmh_count": count_lesions(share), "wmh_detectable": total_ml >= FLOOR_ML,
        **{name: round(float(of_zone[zone]), 3) for name, zone in zip(zones, ZONES, strict=True)},
    }  # fmt: skip


def lesion_words(row: Mapping[str, Any]) -> str:
    """The columns of :func:`lesion_figures` in words, for the header of a picture."""
    if row.get("wmh_ml") is None:
        return "not measured"
    if not row["wmh_detectable"]:
        return f"not detectable ({row['wmh_ml']:.2f} mL, less than {FLOOR_ML:g} mL)"
    return f"{row['wmh_ml']:.1f} mL in {row['wmh_count']}"


def lesion_frequency(warped: Iterable[Path]) -> Volume | None:
    """Share of the scans with a hypointensity at each voxel of the template, from their ``wp7`` maps; None for no map.

    Raises
    ------
    ScanError
        If a map cannot be read or has another grid than the first.
    """
    total, n_scans = None, 0
    for path in warped:
        mask = lesion_mask(io.read_volume(path))
        if total is not None and not mask.grid.matches(total.grid):
            msg = f"{path}: grid {mask.grid} differs from {total.grid} of the other scans; run preprocess --wmh on all"
            raise ScanError(msg)
        total = mask if total is None else Volume(total.data + mask.data, total.grid)
        n_scans += 1
    return None if total is None else Volume(total.data / n_scans, total.grid)


def count_lesions(share: Volume) -> int:
    """Number of separate lesions: pieces of voxels that are mostly hypointensity."""
    return int(
        cc3d.connected_components(lesion_mask(share).data[0].cpu().numpy() > 0, connectivity=_CONNECTIVITY).max()
    )


def lesion_mask(share: Volume) -> Volume:
    """Voxels that are mostly hypointensity, 0 or 1."""
    return Volume((share.data > LESION_FROM).float(), share.grid)


def lesion_volumes(share: Volume, fractions: Volume, template_mm: torch.Tensor) -> pd.DataFrame:
    """Volume of hypointensity by zone, lobe and side.

    Parameters
    ----------
    share : Volume, (1, X, Y, Z)
        Share of each voxel that is hypointensity.
    fractions : Volume, (3, X, Y, Z)
        GM, WM, CSF on the same grid.
    template_mm : Tensor, (3, X, Y, Z)
        Template point of each voxel (``iy_``).

    Returns
    -------
    DataFrame
        A row for each zone, lobe and hemisphere: zone, lobe, hemisphere, wmh_ml. They sum to the whole volume.
    """
    gm, _, csf = fractions.data.cpu().numpy()
    amount = share.data[0].cpu().numpy()
    points_mm = template_mm.cpu().numpy()
    at = np.argwhere(amount > 0)  # (n, 3)
    place = points_mm[(slice(None), *at.T)]  # (3, n)
    zone = _zones(at, _ventricles(csf, points_mm), _cortex(gm, amount, points_mm), share.grid)
    lobe = _lookup(*_lobe_map(), place) - 1
    side = (place[0] >= 0).astype(int)
    cells = (zone * len(LOBES) + lobe) * len(SIDES) + side
    sums = np.bincount(cells, weights=amount[tuple(at.T)], minlength=len(ZONES) * len(LOBES) * len(SIDES))
    index = pd.MultiIndex.from_product([ZONES, LOBES, SIDES], names=["zone", "lobe", "hemisphere"])
    return pd.DataFrame({"wmh_ml": (sums * share.grid.voxel_volume_ml).round(6)}, index=index).reset_index()


def _zones(at: np.ndarray, ventricles: np.ndarray, cortex: np.ndarray, grid: Grid) -> np.ndarray:
    """Number in `ZONES` of voxels at indices (n, 3)."""
    size = grid.voxel_size_mm
    near_ventricle = _is_near(at * size, _surface(ventricles) * size, _PERIVENTRICULAR_MM)
    near_cortex = _is_near(at * size, _surface(cortex) * size, _JUXTACORTICAL_MM)
    return np.where(near_ventricle, ZONES.index("periventricular"),
                    np.where(near_cortex, ZONES.index("juxtacortical"), ZONES.index("deep")))  # fmt: skip


def _is_near(points_mm: np.ndarray, others_mm: np.ndarray, reach_mm: float) -> np.ndarray:
    """Whether a point is within reach of one of the others."""
    if not len(points_mm) or not len(others_mm):
        return np.zeros(len(points_mm), bool)
    distance, _ = KDTree(others_mm).query(points_mm, distance_upper_bound=reach_mm * (1 + 1e-6))
    return np.asarray(np.isfinite(distance))


def _surface(mask: np.ndarray) -> np.ndarray:
    """Indices of the voxels of a mask that touch its outside, (n, 3)."""
    return np.argwhere(mask & ~binary_erosion(mask))


def _ventricles(csf: np.ndarray, template_mm: np.ndarray) -> np.ndarray:
    """The scan's lateral ventricles, (X, Y, Z), bool."""
    return (csf > _PRESENT) & (_lookup(*_template_ventricles(), template_mm) > 0)


def _cortex(gm: np.ndarray, lesion: np.ndarray, template_mm: np.ndarray) -> np.ndarray:
    """The scan's cortex, (X, Y, Z), bool: GM in gyri; not deep nuclei, and not what is lesion."""
    return (gm > _PRESENT) & (lesion <= LESION_FROM) & (_lookup(*_gyri(), template_mm) > 0)


def _lookup(image: np.ndarray, affine: np.ndarray, mm: np.ndarray) -> np.ndarray:
    """Values of the nearest voxels of an image at points (3, …); beyond it, of its border."""
    inverse = np.linalg.inv(affine)
    index = np.rint(np.tensordot(inverse[:3, :3], mm, axes=1) + inverse[:3, 3].reshape(3, *[1] * (mm.ndim - 1)))
    high = np.reshape(image.shape, (3, *[1] * (mm.ndim - 1))) - 1
    return np.asarray(image[tuple(np.clip(index, 0, high).astype(np.intp))])


@cache
def _template_ventricles() -> tuple[np.ndarray, np.ndarray]:
    """Lateral ventricles of the template with a margin, and the affine."""
    template = assets.template()
    csf = (1 - template.data.sum(0)).numpy() > _PRESENT
    mm = apply_affine(template.grid.affine, voxel_indices(template.grid.shape)).numpy()
    low, high = (np.reshape(edge, (3, 1, 1, 1)) for edge in (_VENTRICLE_LOW_MM, _VENTRICLE_HIGH_MM))
    pieces = cc3d.connected_components(csf & ((mm >= low) & (mm <= high)).all(0), connectivity=6)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return binary_dilation(pieces == sizes.argmax(), iterations=_VENTRICLE_REACH), template.grid.affine


@cache
def _gyri() -> tuple[np.ndarray, np.ndarray]:
    """Cerebral gyri of the atlas, and its affine."""
    atlas = load_atlas(ATLAS)
    cerebral = {name for lobe, names in _GYRI.items() if lobe != "infratentorial" for name in names}
    labels = atlas.table.index[atlas.table["region"].isin(cerebral | set(_OTHER_CORTEX))]
    return np.isin(atlas.image.data[0].numpy(), labels), atlas.image.grid.affine


@cache
def _lobe_map() -> tuple[np.ndarray, np.ndarray]:
    """Number in `LOBES`, from 1, of every point around the brain, and the affine."""
    atlas = load_atlas(ATLAS)
    every = (slice(None, None, _STRIDE),) * 3
    labels = np.rint(atlas.image.data[0].numpy()[every]).astype(int)
    number = np.zeros(int(labels.max()) + 1, np.uint8)
    for lobe, names in enumerate(_GYRI.values(), start=1):
        number[atlas.table.index[atlas.table["region"].isin(names)]] = lobe
    seeds = number[labels]
    nearest = distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return seeds[tuple(nearest)], atlas.image.grid.affine @ np.diag([_STRIDE] * 3 + [1.0])
