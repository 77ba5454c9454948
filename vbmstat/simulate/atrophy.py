"""Graded cortical atrophy of a label map: the pial surface moves inward by fractions of a voxel.

The design follows Rusak et al. 2022 (doi:10.1016/j.media.2022.102576), who thin the cortex of scans by 0.1 to 1 mm.
Here the scans are rendered, so that partial volumes are known and levels differ in nothing else. The pial surface is
located in the label map with sub-voxel accuracy: as a signed distance in mm, smoothed until the voxel staircase is
gone, but without moving any voxel to the other side (idea: Whitaker 2000, doi:10.1145/353888.353903). The cortical
fraction of a voxel follows from its distance to that surface, linearly over one voxel. Where two banks of a sulcus
touch without CSF between them, there is no surface and nothing is thinned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vbmstat.errors import ScanError
from vbmstat.image.volume import Volume
from vbmstat.simulate import labels as label_map
from vbmstat.simulate import render

CORTEX = (3, 42)
LEVELS_MM = tuple(round(0.1 * level, 1) for level in range(11))
_N_SMOOTHINGS, _SMOOTHING_VOXELS = 3, 0.6
_NO_SLOPE, _FULL_SLOPE = 0.4, 0.8  # of the distance map: below, only the voxels count; above, only the smooth surface
_MARGIN = 8  # voxels
_INNER_CSF = (4, 5, 14, 15, 43, 44, 72, 30, 62, 31, 63, 136, 137, 163, 164)  # inside the brain, no pial surface


@dataclass(frozen=True)
class PialSurface:
    """The pial surface of a label map."""

    # (X, Y, Z), float32: distance to the pial surface, positive inside the brain, negative outside
    depth_mm: np.ndarray
    voxel_mm: float  # width over which the partial volume falls from 1 to 0
    # (X, Y, Z), bool: voxels labelled as cortex, and as CSF next to cortex
    cortex: np.ndarray
    csf: np.ndarray

    def gm_fraction(self, thinning_mm: float) -> np.ndarray:
        """Fraction of each voxel that is cortex after thinning, (X, Y, Z), float32."""
        inside = np.clip((self.depth_mm - thinning_mm) / self.voxel_mm + 0.5, 0.0, 1.0)
        return np.where(self.cortex | self.csf, inside, 0.0).astype(np.float32)


def pial_surface(labels: Volume) -> PialSurface:
    """Locate the surface between cortex and CSF.

    Parameters
    ----------
    labels : Volume, (1, X, Y, Z)
        Whole-head label map (see :mod:`vbmstat.simulate.labels`) with cerebral cortex (3, 42) and CSF (24).

    Raises
    ------
    ScanError
        If the map holds an unknown label, or no cortex next to CSF.
    """
    values = labels.data[0].round().to(torch.int32).numpy()
    tissue = label_map.lookup(labels, label_map.TISSUE).numpy()
    brain = (tissue >= label_map.GM) | np.isin(values, _INNER_CSF)
    cortex = np.isin(values, CORTEX)
    csf = (values == label_map.CSF_LABEL) & ndimage.binary_dilation(cortex, np.ones((3, 3, 3), bool))
    if not csf.any():
        msg = "label map: expected cerebral cortex (3, 42) next to CSF (24), found none; it cannot be thinned"
        raise ScanError(msg)
    window = tuple(
        slice(max(s.start - _MARGIN, 0), s.stop + _MARGIN) for s in ndimage.find_objects(brain.astype(np.int8))[0]
    )
    size = labels.grid.voxel_size_mm
    depth = np.full(values.shape, -np.inf, np.float32)
    depth[window] = _signed_distance(brain[window], size)
    return PialSurface(depth, float(size.prod() ** (1 / 3)), cortex, csf)


def render_thinned(labels: Volume, surface: PialSurface, thinning_mm: float, seed: int = 0) -> Volume:
    """Render a whole-head T1w image of a label map with thinner cortex.

    Parameters
    ----------
    labels : Volume, (1, X, Y, Z)
        The label map.
    surface : PialSurface
        Its pial surface.
    thinning_mm : float
        Distance by which the surface moves inward.
    seed : int
        Same seed, same texture, bias field and noise at any thinning.

    Returns
    -------
    Volume, (1, X, Y, Z), float32
        Without thinning it differs from :func:`vbmstat.simulate.render_t1w` only in the partial volume of the pial
        surface.
    """
    rng = np.random.default_rng(seed)
    signal = render.structure_signal(labels, rng)
    present = surface.cortex | surface.csf
    cortex = float(signal[surface.cortex].mean())
    csf = float(signal[surface.csf].mean())
    signal = signal + present * (surface.gm_fraction(thinning_mm) - surface.cortex) * np.float32(cortex - csf)
    return render.image_from_signal(signal, render.brain_of(labels), labels.grid, rng)


def gm_ml(labels: Volume, surface: PialSurface, thinning_mm: float) -> float:
    """True GM volume (mL) of the thinned head: whole voxels of other GM plus fractions of cortex."""
    other = (label_map.tissue_labels(labels).data[0].numpy() == label_map.GM) & ~surface.cortex
    total = float(other.sum()) + float(surface.gm_fraction(thinning_mm).sum(dtype=np.float64))
    return total * labels.grid.voxel_volume_ml


def _signed_distance(inside: np.ndarray, size_mm: np.ndarray) -> np.ndarray:
    """Smooth distance (mm) to the surface of a mask, positive inside, float32; every voxel keeps its side."""
    half = float(size_mm.min()) / 2
    rough = ndimage.distance_transform_edt(inside, size_mm) - half
    rough = np.where(inside, rough, half - ndimage.distance_transform_edt(~inside, size_mm)).astype(np.float32)
    narrow = np.where(inside, 0.0, 1.0 - _trust(ndimage.gaussian_filter(rough, _SMOOTHING_VOXELS), size_mm)[0])
    smooth = rough
    for _ in range(_N_SMOOTHINGS):
        smooth = ndimage.gaussian_filter(smooth, _SMOOTHING_VOXELS, truncate=3.0)
        smooth = np.where(inside, np.maximum(smooth, 0.0), np.minimum(smooth, 0.0))
        smooth = narrow * rough + (1 - narrow) * smooth  # keeps narrow sulci open
    trust, slope = _trust(smooth, size_mm)
    distance: np.ndarray = trust * smooth / np.maximum(slope, _NO_SLOPE) + (1 - trust) * rough
    return distance.astype(np.float32)


def _trust(distance: np.ndarray, size_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trust in a distance map, 0 to 1, and its slope: 1 near a surface, less midway between two surfaces."""
    slope = np.sqrt(sum(g**2 for g in np.gradient(distance, *size_mm)))
    return np.clip((slope - _NO_SLOPE) / (_FULL_SLOPE - _NO_SLOPE), 0.0, 1.0), slope
