"""Places where a scan departs from the others of its cohort: lesions, resections, bias fields that failed.

GM + WM of each scan, over its median in the brain, is compared voxel by voxel with the median of the cohort in robust
standard deviations. A cohort-wide correlation does not see what changes 1 % of the brain; a user must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vbmstat import assets
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.maps.decode import MapReader
from vbmstat.metrics.clusters import largest_clusters, places_of, region_of
from vbmstat.progress import OnProgress, ignore

BEYOND_Z, LEAST_ML = 5.0, 5.0  # of every voxel of a cluster, and the cluster's volume
LEAST_SCANS = 10  # for a spread at each voxel
_MOST_READ = 400  # scans that give median and spread: more change neither
_SPACING_MM = 3.0  # smoothed maps need no more
_BRAIN_FROM = 0.5  # GM + WM of the template
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Departure:
    """Where a scan has far more or less tissue than the others."""

    volume_ml: float  # of clusters of at least :data:`LEAST_ML`, in template space
    z: float  # the strongest, with its sign
    at_mm: tuple[float, float, float]  # its place, RAS+ mm
    region: str  # the region of LPBA40 with most of the volume
    image: Volume  # (1, X, Y, Z): robust z of the whole brain

    def warning(self) -> str:
        """What to check, in words."""
        where = ", ".join(f"{mm:.0f}" for mm in self.at_mm)
        return (
            f"{self.volume_ml:.0f} mL with far {'more' if self.z > 0 else 'less'} GM + WM than the other scans have, "
            f"around {self.region} ({where} mm; z = {self.z:.1f}): check for a lesion, a resection or a bad bias field"
        )


def find_departures(gm: Sequence[Path], wm: Sequence[Path], report: OnProgress = ignore) -> list[Departure | None]:
    """Departures of the scans of a cohort.

    Parameters
    ----------
    gm, wm : sequence of Path
        Smoothed modulated maps of the scans, on one grid.
    report : callable
        Called with (stage, done, total).

    Returns
    -------
    list of Departure or None
        In the order of the scans; None where nothing departs, and for all of fewer than ten scans.

    Raises
    ------
    ScanError
        If a map cannot be read or is on another grid.
    """
    if len(gm) < LEAST_SCANS:
        return [None] * len(gm)
    maps = _Maps(gm, wm)
    chosen = np.unique(np.linspace(0, len(gm) - 1, min(len(gm), _MOST_READ)).astype(int))
    known = {}
    for done, index in enumerate(chosen, 1):
        known[int(index)] = maps.read(int(index))
        report("looking for local outliers", done, len(gm))
    values = np.stack(list(known.values()))
    median = np.median(values, axis=0)
    spread = MAD_TO_SIGMA * np.median(np.abs(values - median), axis=0)
    spread = np.maximum(spread, np.median(spread))  # few scans agree by chance at some voxels
    found = []
    for index in range(len(gm)):
        own = known[index] if index in known else maps.read(index)
        found.append(_departure(maps, (own - median) / spread))
        report("looking for local outliers", max(index + 1, len(chosen)), len(gm))
    return found


def _departure(maps: _Maps, z: np.ndarray) -> Departure | None:
    """The departure of a scan from its robust z at the voxels that are read."""
    image = np.zeros(maps.grid.shape, np.float32)
    image.reshape(-1)[maps.inside] = z
    far = np.logical_or(*(largest_clusters(sign * image, BEYOND_Z, LEAST_ML, maps.grid) for sign in (1, -1)))
    if not far.any():
        return None
    places = places_of(far, maps.grid)
    strongest = int(np.argmax(np.abs(image[far])))
    return Departure(
        volume_ml=len(places) * maps.grid.voxel_volume_ml,
        z=float(image[far][strongest]),
        at_mm=tuple(places[strongest].tolist()),
        region=region_of(far, maps.grid),
        image=Volume(torch.from_numpy(image[None]), maps.grid),
    )


class _Maps:
    """GM + WM of scans at some voxels of the template's brain."""

    def __init__(self, gm: Sequence[Path], wm: Sequence[Path]) -> None:
        self.gm, self.wm = gm, wm
        self._reader = MapReader.like(gm[0])
        fine = self._reader.grid
        self.grid, every = fine.every(_SPACING_MM)
        index = np.arange(np.prod(fine.shape)).reshape(fine.shape)[every]
        template = assets.template()
        brain = resample(template.data.sum(0, keepdim=True), template.grid, self.grid)[0] > _BRAIN_FROM
        self.inside = np.flatnonzero(brain.numpy().ravel())
        self._voxels = index.ravel()[self.inside]

    def read(self, index: int) -> np.ndarray:
        """GM + WM of a scan over its median, (n_voxels,), float32."""
        gm, wm = np.empty((2, self._voxels.size), np.float32)
        self._reader.read(self.gm[index], self._voxels, gm)
        self._reader.read(self.wm[index], self._voxels, wm)
        gm += wm
        return np.asarray(gm / max(float(np.median(gm)), 1e-6))
