"""Repeated scans of one head: anatomy and texture stay, pose, coil shading and noise are new in each scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.simulate import atrophy, render

LABELS = Path(__file__).parents[3] / "shared" / "data" / "labelmaps"
DEGREES, SHIFT_MM = 4.0, 4.0  # standard deviations of a pose
NOISE_PERCENT, BIAS_PERCENT = 3.0, 40.0
PLACE_MM, RADIUS_MM = np.array([-48.0, -20.0, 0.0]), 28.0  # of the region that is thinned, from the brain's centre


class Head:
    """A head to be scanned again and again; its cortex can be thinned within a radius, everywhere if it is infinite."""

    def __init__(self, number: int, radius_mm: float = RADIUS_MM) -> None:
        self.labels = io.read_scan(LABELS / f"training_seg_{number:02d}.nii.gz")
        self.grid, self.seed = self.labels.grid, number
        self.brain = render.brain_of(self.labels)
        rng = np.random.default_rng(number)
        self.signal = render.structure_signal(self.labels, rng)
        self.texture = render.smooth_noise(self.grid, render.TEXTURE_FWHM_MM, rng) * 0.02
        self.surface = atrophy.pial_surface(self.labels)
        centre = np.argwhere(self.brain).mean(0) * self.grid.voxel_size_mm
        at = np.moveaxis(np.indices(self.grid.shape), 0, -1) * self.grid.voxel_size_mm
        self.distance_mm = np.linalg.norm(at - centre - PLACE_MM, axis=-1)  # axes are RAS+
        self.radius_mm = radius_mm
        self.region = self.region_within(0.0)

    def region_within(self, margin_mm: float) -> np.ndarray:
        """The region that is thinned, with a margin."""
        return self.distance_mm < self.radius_mm + margin_mm

    def gm_fraction(self, thinning_mm: float) -> np.ndarray:
        """Cortex in each voxel, thinned inside the region."""
        surface = self.surface
        return np.where(self.region, surface.gm_fraction(thinning_mm), surface.gm_fraction(0.0))

    def lost_ml(self, thinning_mm: float) -> float:
        """True loss of GM."""
        lost = self.gm_fraction(0.0).sum(dtype=np.float64) - self.gm_fraction(thinning_mm).sum(dtype=np.float64)
        return float(lost * self.grid.voxel_volume_ml)

    def tissue_signal(self, thinning_mm: float) -> np.ndarray:
        """Signal of the tissue, with its texture and partial volumes, blurred by the point spread of 1 mm."""
        cortex, csf = self.surface.cortex, self.surface.csf
        step = float(self.signal[cortex].mean() - self.signal[csf].mean())
        signal = self.signal + (cortex | csf) * (self.gm_fraction(thinning_mm) - cortex) * np.float32(step)
        signal = signal + self.texture * (signal > 0.1)
        return ndimage.gaussian_filter(signal, 0.425 / self.grid.voxel_size_mm, truncate=3.0)

    def pose(self, visit: int) -> np.ndarray:
        """Voxel of a scan -> voxel of the head, (4, 4); the head's voxels are isotropic."""
        return self._drawn_pose(np.random.default_rng((self.seed, visit)))

    def _drawn_pose(self, rng: np.random.Generator) -> np.ndarray:
        middle = (np.array(self.grid.shape) - 1) / 2
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("xyz", rng.normal(0, DEGREES, 3), degrees=True).as_matrix()
        matrix[:3, 3] = middle - matrix[:3, :3] @ (middle + rng.normal(0, SHIFT_MM, 3) / self.grid.voxel_size_mm)
        return matrix

    def scan(self, visit: int, thinning_mm: float = 0.0) -> Volume:
        """A scan with a new pose, shading and noise."""
        rng = np.random.default_rng((self.seed, visit))
        pose = self._drawn_pose(rng)
        moved = ndimage.affine_transform(self.tissue_signal(thinning_mm), pose[:3, :3], pose[:3, 3], order=3).clip(0)
        brain = ndimage.affine_transform(self.brain.astype(np.uint8), pose[:3, :3], pose[:3, 3], order=0) > 0
        moved *= render.bias_field(brain, self.grid, BIAS_PERCENT, rng)
        noisy = render.rician(moved, NOISE_PERCENT / 100, rng) * np.float32(render.WM_INTENSITY)
        return Volume(torch.from_numpy(noisy)[None], self.grid)
