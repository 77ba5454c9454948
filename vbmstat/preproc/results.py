"""Results of the steps of preprocessing: a scan prepared, segmented, and in template space."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from vbmstat.image import deform
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.lesions import LesionPlan, Lesions
from vbmstat.preproc.steps import quality, working
from vbmstat.preproc.steps.warp import Warp

NO_LESIONS = Lesions(LesionPlan())


@dataclass(frozen=True)
class Prepared:
    """One scan before its segmentation: brain found, linearly registered, denoised.

    Attributes
    ----------
    t1w : Volume
        The scan, hot voxels clamped.
    raw : Brain
        The brain's box of it.
    work : Brain
        Denoised, on the working grid.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    was_stripped : bool
        Whether the scan was skull-stripped.
    lesions : Lesions
        The plan, the lesion that the user brings, and notes.
    """

    t1w: Volume
    raw: working.Brain
    work: working.Brain
    linear: np.ndarray
    was_stripped: bool
    lesions: Lesions


@dataclass(frozen=True)
class Segmented:
    """Result of an engine for one scan up to its tissues, before the warp.

    Attributes
    ----------
    fractions : Volume
        GM, WM, CSF fractions on the working grid: the brain's box in the scan, voxels of 0.7 to 1.5 mm. Lesions are
        counted in them as asked.
    work : Volume
        Bias-corrected, denoised brain on that grid, WM at 1; zero outside the brain.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    velocity : Tensor, (3, X, Y, Z)
        Coarse velocity on the template's grid, the start of the warp.
    image : ImageQuality
        Quality of the scan as acquired.
    scan_grid : Grid
        The scan's own grid.
    was_stripped : bool
        Whether the input was skull-stripped.
    engine : str
        Name of the engine.
    seconds : dict
        Wall time of each step.
    lesions : Lesions
        Lesions on the working grid.
    apart_ml : float
        Volume of lesions that are in no tissue.
    """

    fractions: Volume
    work: Volume
    linear: np.ndarray
    velocity: torch.Tensor
    image: quality.ImageQuality
    scan_grid: Grid
    was_stripped: bool
    engine: str
    seconds: dict[str, float] = field(default_factory=dict)
    lesions: Lesions = NO_LESIONS
    apart_ml: float = 0.0

    @property
    def volumes_ml(self) -> tuple[float, float, float]:
        """GM, WM, CSF volume in the scan's space."""
        gm_ml, wm_ml, csf_ml = self.fractions.sums_ml
        return gm_ml, wm_ml, csf_ml

    @property
    def tiv_ml(self) -> float:
        """Total intracranial volume: GM, WM, CSF and lesions that are in none of them."""
        return sum(self.volumes_ml) + self.apart_ml

    @property
    def wmh(self) -> Volume | None:
        """White-matter hypointensities: their share of each voxel of the working grid; None if not measured."""
        share = self.lesions.wmh
        return None if share is None else Volume(share[None], self.fractions.grid)

    @property
    def maps(self) -> Volume:
        """GM, WM, CSF and, if measured, hypointensities on the working grid: what is brought to template space."""
        fractions, wmh = self.fractions, self.wmh
        return fractions if wmh is None else Volume(torch.cat([fractions.data, wmh.data]), fractions.grid)

    @property
    def brought(self) -> Volume | None:
        """The lesion that the user brought: its share of each voxel of the working grid; None without one."""
        share = self.lesions.brought
        return None if share is None else Volume(share[None], self.fractions.grid)

    @property
    def brought_ml(self) -> float:
        """Volume of the lesion that the user brought; 0 without one."""
        return 0.0 if self.brought is None else self.brought.sums_ml[0]

    def on_scan(self, volume: Volume) -> Volume:
        """An image of the working grid on the scan's own grid."""
        return Volume(working.on_scan_grid(volume, self.scan_grid), self.scan_grid)

    @cached_property
    def tissues(self) -> Volume:
        """GM, WM, CSF fractions on the scan's own grid (p1, p2, p3)."""
        return self.on_scan(self.fractions)

    @cached_property
    def label(self) -> Volume:
        """CAT12's p0 on the scan's own grid: CSF 1, GM 2, WM and hypointensities 3, mixtures between; 0 elsewhere."""
        gm, wm, csf = self.lesions.for_warp(self.fractions.data)
        return self.on_scan(Volume((csf + 2 * gm + 3 * wm)[None], self.fractions.grid))

    @cached_property
    def corrected(self) -> Volume:
        """The brain of :attr:`work` on the scan's own grid (m)."""
        return self.on_scan(self.work)


@dataclass(frozen=True)
class Preprocessed:
    """Result of preprocessing one scan.

    Attributes
    ----------
    segmented : Segmented
        Tissues in the scan's space, linear matrix, image quality.
    warp : Warp
        Displacements: template point -> linearly aligned scan point, and back.
    warped, modulated : Volume
        GM, WM, CSF in template space (wp, mwp); a fourth channel are the hypointensities, if measured.
    smoothed : dict of float to Volume
        Smoothed modulated maps by FWHM in mm (s6mwp).
    quality : Quality
        Quality measures of the scan and its preprocessing.
    seconds : dict
        Wall time of each step.
    """

    segmented: Segmented
    warp: Warp
    warped: Volume
    modulated: Volume
    smoothed: dict[float, Volume]
    quality: quality.Quality
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def deformation(self) -> Volume:
        """SPM's ``y_``: scan mm on the template's grid."""
        return deform.deformation(self.warp.forward, self.segmented.linear)

    @property
    def jacobian(self) -> Volume:
        """Determinant of the Jacobian of the warp, without the linear part (wj), on the grid of the maps."""
        whole = Volume(self.warp.forward.jacobian_determinant[None], self.warp.forward.grid)
        return Volume(resample(whole.data, whole.grid, self.warped.grid, padding_mode="border"), self.warped.grid)

    @property
    def nonlinear_only(self) -> Volume:
        """Maps modulated by the warp alone (m0wp): volumes as if all heads had the template's size."""
        return Volume(self.modulated.data / abs(np.linalg.det(self.segmented.linear)), self.modulated.grid)

    @property
    def warped_t1w(self) -> Volume:
        """The bias-corrected brain in template space (wm)."""
        return deform.pull(self.segmented.work, self.deformation, self.warped.grid)

    @property
    def affine_tissues(self) -> Volume:
        """GM and WM on the grid of the maps, registered by the linear matrix alone (rp1, rp2)."""
        grid, fractions = self.warped.grid, self.segmented.fractions
        still = Displacement(torch.zeros(3, *grid.shape, device=fractions.data.device), grid)
        gm_wm = Volume(fractions.data[:2], fractions.grid)
        return deform.pull(gm_wm, deform.deformation(still, self.segmented.linear))

    @property
    def inverse_deformation(self) -> Volume:
        """SPM's ``iy_``: template mm on the brain's box in the scan."""
        return deform.inverse_deformation(self.warp.inverse, self.segmented.linear, self.segmented.fractions.grid)
