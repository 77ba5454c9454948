"""Clusters of voxels where a scan is odd, and the region that they are in."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
from scipy import ndimage

from vbmstat.glm.inference.places import NONE, Regions, names_at
from vbmstat.image.grid import Grid
from vbmstat.roi.atlas import load_atlas

_TOUCHING = np.ones((3, 3, 3))


def largest_clusters(image: np.ndarray, beyond: float, least_ml: float, grid: Grid) -> np.ndarray:
    """Voxels beyond a value in clusters of a volume or more, (X, Y, Z), bool."""
    clusters, n = ndimage.label(image > beyond, structure=_TOUCHING)
    large = np.bincount(clusters.ravel(), minlength=n + 1) * grid.voxel_volume_ml >= least_ml
    large[0] = False
    found: np.ndarray = large[clusters]
    return found


def places_of(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Centres of the voxels of a mask, (n, 3) mm."""
    places: np.ndarray = np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return places


def region_of(mask: np.ndarray, grid: Grid) -> str:
    """The region of LPBA40 with most voxels of a mask in template space."""
    known = Counter(name for name in names_at(_regions(), places_of(mask, grid)) if name != NONE)
    return known.most_common(1)[0][0] if known else "white matter"


@cache
def _regions() -> Regions:
    atlas = load_atlas("lpba40")
    return Regions(atlas.image, {int(label): str(name) for label, name in atlas.table["name"].items()})
