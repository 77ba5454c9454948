"""Anatomy: the template as a head, a random person's shape, and a local grey matter loss of exact size.

The template gives GM and WM probabilities; the rest of its brain hull is CSF. Their logarithms are a person's tissue
scores: the softmax of the scores is the tissue fraction of a voxel. Raising the CSF score in a region replaces GM by
CSF where the two meet, which is how atrophy looks in scans (thinner cortex, wider sulci). Root finding gives the
shift for the requested loss. A person's shape is a diffeomorphism (the exponential of a random smooth
velocity, Arsigny et al. 2006) after a random linear map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from vbmstat import assets
from vbmstat.errors import VbmstatError
from vbmstat.image import grid
from vbmstat.image.grid import Grid
from vbmstat.simulate.render import smooth_noise

HEAD_MARGIN_MM = ((36.0, 36.0), (30.0, 36.0), (58.0, 36.0))  # margin of the head around the template's field of view
SHARPNESS = 2.5  # power of the template's probabilities: one brain is sharper than an average
SCORE_SD, SCORE_FWHM_MM = 0.6, 10.0  # individual deviation of tissue scores
VELOCITY = ((2.5, 60.0), (0.8, 25.0))  # (sd in mm, FWHM in mm) of each component of the random velocity
_VELOCITY_VOXEL_MM = 4.0
_SQUARINGS = 6
_FLOOR = 1e-3  # added to probabilities, so that their logarithm is finite
_MAX_SHIFT = 12.0  # of the CSF score; a larger shift changes nothing


@dataclass(frozen=True)
class Sphere:
    """A ball in template space whose edge fades over 4 mm."""

    centre_mm: tuple[float, float, float]  # RAS+ mm in the template frame (MNI152NLin2009cAsym)
    radius_mm: float  # radius at which the weight is 0.5

    def weight(self, points_mm: torch.Tensor) -> torch.Tensor:
        """1 inside, 0 outside, linear from 2 mm inside to 2 mm outside the radius; points (3, ...) in mm."""
        centre = torch.tensor(self.centre_mm, dtype=points_mm.dtype).reshape(3, *[1] * (points_mm.ndim - 1))
        distance = (points_mm - centre).square().sum(0).sqrt()
        return ((self.radius_mm + 2.0 - distance) / 4.0).clamp(0.0, 1.0)


def parse_region(text: str) -> Sphere:
    """Parse ``"x,y,z,radius"`` in mm.

    Examples
    --------
    >>> parse_region("-38,4,2,16")
    Sphere(centre_mm=(-38.0, 4.0, 2.0), radius_mm=16.0)
    """
    try:
        x, y, z, radius_mm = (float(number) for number in text.split(","))
    except ValueError as error:
        msg = f"region: expected x,y,z,radius in mm, e.g. -38,4,2,16, got {text!r}"
        raise VbmstatError(msg) from error
    return Sphere((x, y, z), radius_mm)


@dataclass(frozen=True)
class TemplateHead:
    """The template as a head."""

    scores: torch.Tensor  # (3, X, Y, Z): log-probabilities of GM, WM, CSF
    distance_mm: torch.Tensor  # (1, X, Y, Z): signed distance to the hull of the brain, negative inside
    gm_signal: torch.Tensor  # (1, X, Y, Z): local T1w intensity of GM relative to WM (thalamus is brighter than cortex)
    grid: Grid  # the template's grid with a margin


@dataclass(frozen=True)
class Shape:
    """A person's shape: ``linear`` takes scan mm to the template frame; ``displacement`` (mm, pull) is added there."""

    linear: np.ndarray
    displacement: torch.Tensor
    grid: Grid

    def to_template(self, target: Grid) -> torch.Tensor:
        """Template point (RAS+ mm) of every voxel of a scan's grid, (3, X, Y, Z)."""
        points = grid.apply_affine(self.linear @ target.affine, grid.voxel_indices(target.shape))
        voxels = grid.apply_affine(np.linalg.inv(self.grid.affine), points)
        return points + grid.sample(self.displacement, voxels, padding_mode="border")


@cache
def template_head() -> TemplateHead:
    """The head from which all simulated people are derived (template with a margin, 1.5 mm)."""
    template, brain = assets.template(), assets.template_brain()
    margins = [
        tuple(int(np.ceil(mm / size)) for mm in sides)
        for sides, size in zip(HEAD_MARGIN_MM, template.grid.voxel_size_mm, strict=True)
    ]
    head_grid = template.grid.crop(
        tuple(-before for before, _ in margins),  # type: ignore[arg-type]
        tuple(n + after for n, (_, after) in zip(template.grid.shape, margins, strict=True)),  # type: ignore[arg-type]
    )
    gm, wm = (np.pad(channel, margins) for channel in template.data.numpy())  # (X, Y, Z) of the head's grid
    average = grid.resample(brain.data, brain.grid, head_grid)[0].numpy()
    probabilities = np.stack([gm, wm, np.clip(1.0 - gm - wm, 0.0, 1.0)])
    scores = SHARPNESS * np.log(probabilities + _FLOOR)
    hull = ndimage.binary_closing((average > 0.1) | (gm + wm > 0.5), iterations=3)
    hull = ndimage.binary_fill_holes(hull)
    size = template.grid.voxel_size_mm
    distance = ndimage.distance_transform_edt(~hull, size) - ndimage.distance_transform_edt(hull, size)
    return TemplateHead(_float32(scores), _float32(distance[None]), _float32(_gm_signal(average, gm)[None]), head_grid)


def _float32(array: np.ndarray) -> torch.Tensor:
    """The array as a float32 tensor."""
    return torch.from_numpy(np.asarray(array, np.float32))


def _gm_signal(average: np.ndarray, gm: np.ndarray) -> np.ndarray:
    """Local intensity of GM in the average brain, from voxels that are clearly GM, smoothed."""
    is_gm = (gm > 0.8).astype(np.float32)
    weight = ndimage.gaussian_filter(is_gm, 2.0)
    local = ndimage.gaussian_filter(is_gm * average, 2.0) / np.maximum(weight, 1e-3)
    typical = float(average[gm > 0.8].mean())
    return 0.70 + 0.6 * np.where(weight > 1e-3, local - typical, 0.0)


def random_shape(head: TemplateHead, rng: np.random.Generator, volume_factor: float, variation: float = 1.0) -> Shape:
    """A random person: pose (a few degrees and mm), size, proportions and smooth local differences.

    Parameters
    ----------
    head : TemplateHead
        The template's head.
    rng : Generator
        Random number generator.
    volume_factor : float
        Volume of the person's head relative to the template's.
    variation : float
        Scales proportions and smooth local differences; 1 is a rough guess for adults.
    """
    angles = np.deg2rad(rng.normal(0.0, 3.0, size=3))
    proportions = np.exp(variation * rng.normal(0.0, 0.02, size=3))
    proportions *= (volume_factor / proportions.prod()) ** (1.0 / 3.0)
    person = np.eye(4)  # template -> scan
    person[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() @ np.diag(proportions)
    person[:3, 3] = rng.normal(0.0, 3.0, size=3)
    coarse = head.grid.with_voxel_size(_VELOCITY_VOXEL_MM)
    return Shape(np.linalg.inv(person), random_displacement(coarse, rng, variation), coarse)


def random_displacement(on: Grid, rng: np.random.Generator, variation: float = 1.0) -> torch.Tensor:
    """Smooth local differences between people: the exponential of a random velocity, mm, (3, X, Y, Z)."""
    velocity = np.zeros((3, *on.shape), np.float32)
    for sd_mm, fwhm_mm in VELOCITY:
        velocity += np.stack([variation * sd_mm * smooth_noise(on, fwhm_mm, rng) for _ in range(3)])
    return exponential(torch.from_numpy(velocity), on)


def exponential(velocity: torch.Tensor, on: Grid) -> torch.Tensor:
    """Displacement (mm) of a stationary velocity (mm) by scaling and squaring, (3, X, Y, Z)."""
    to_voxel = np.eye(4)
    to_voxel[:3, :3] = np.linalg.inv(on.affine[:3, :3])
    voxels = grid.voxel_indices(on.shape)
    displacement = velocity / 2.0**_SQUARINGS
    for _ in range(_SQUARINGS):
        at = voxels + grid.apply_affine(to_voxel, displacement)
        displacement = displacement + grid.sample(displacement, at, padding_mode="border")
    return displacement


def own_scores(head: TemplateHead, rng: np.random.Generator, variation: float = 1.0) -> torch.Tensor:
    """The template's tissue scores plus a smooth individual deviation, (3, X, Y, Z)."""
    noise = np.stack([smooth_noise(head.grid, SCORE_FWHM_MM, rng) for _ in range(3)])
    return head.scores + variation * SCORE_SD * torch.from_numpy(noise)


def csf_shift(scores: torch.Tensor, weight: torch.Tensor, gm_factor: float) -> float:
    """Shift of the CSF score in a region that changes the region's GM volume by a factor.

    Parameters
    ----------
    scores : Tensor, (3, X, Y, Z)
        Scores of GM, WM and CSF.
    weight : Tensor, (X, Y, Z)
        The region, 0 to 1.
    gm_factor : float
        Weighted GM volume relative to that without a shift; 1 gives a shift of 0.

    Raises
    ------
    VbmstatError
        If moving the border between GM and CSF cannot change the region's GM that much.
    """
    inside = weight > 0
    region_scores, region_weight = scores[:, inside].double(), weight[inside].double()
    before = _gm_sum(region_scores, region_weight, 0.0)

    def excess(shift: float) -> float:
        return _gm_sum(region_scores, region_weight, shift) / before - gm_factor

    if gm_factor == 1.0:
        return 0.0
    least, most = excess(_MAX_SHIFT) + gm_factor, excess(-_MAX_SHIFT) + gm_factor
    if not least < gm_factor < most:
        msg = (
            f"effect: the region's GM volume can change by {100 * (least - 1):+.0f} to {100 * (most - 1):+.0f} %, "
            f"but {100 * (gm_factor - 1):+.0f} % was requested; choose a smaller effect or another region"
        )
        raise VbmstatError(msg)
    return float(optimize.brentq(excess, -_MAX_SHIFT, _MAX_SHIFT, xtol=1e-6))


def _gm_sum(scores: torch.Tensor, weight: torch.Tensor, shift: float) -> float:
    """Weighted sum of GM fractions after adding ``weight * shift`` to the CSF score."""
    moved = torch.stack([scores[0], scores[1], scores[2] + shift * weight])
    return float((torch.softmax(moved, dim=0)[0] * weight).sum())
