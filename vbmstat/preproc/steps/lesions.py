"""White-matter hypointensities (WMH) in a segmented T1w brain: the probability of each voxel.

A network (:mod:`vbmstat.preproc.networks.lesions`) proposes them, or, without one, a plain rule: darker than the white
matter around, where the warped template expects white matter. Both are then held against what the engine knows: a
lesion is not CSF, not as bright as the white matter around, lies in or beside white matter, and is neither a speck nor
a thread (a perivascular space).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
import torch
from torch.nn import functional

from vbmstat.image.grid import apply_affine, sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume

LESION_FROM = 0.5  # probability above which a voxel belongs to the binary mask
MIN_LESION_MM3 = 3.0  # smaller pieces are not reported
FLOOR_ML = 0.5  # total below which lesions are not detectable: what brains without lesions show
# Intensities below are relative to the tissue means of the scan: GM 0, WM 1.
_LOCAL_STRIDE, _LOCAL_FWHM_MM = 3, 24.0  # of the mean intensity of the white matter around
_IS_WM_FROM = 0.7
_DARKER = (0.15, 0.55)  # than the white matter around: the plain rule fades in
# For a network's proposals:
_LEAST_DARKER = (0.25, 0.45)  # than the white matter around
_BELOW_GM, _CSF_PRIOR = (-0.1, 0.2), (0.02, 0.1)  # darker than GM by, where CSF is expected: the ventricle's edge
# The wall of a ventricle shows every intensity between WM and CSF alike, a lesion beside it more of its own: share of
# lesion-like intensity among both, in a cube around the voxel, and prior of CSF in that cube from which it counts
_WALL_MM, _LIKE_LESION, _LIKE_EDGE = 9.0, (0.1, 0.6), (-1.2, -0.1)
_PLATEAU, _CSF_NEAR = (0.45, 0.65), (0.01, 0.04)
_CAVITY = (-1.0, -0.5)  # darker than GM: a cavity or CSF fades out
_IN_WM = (0.6, 0.9)  # WM prior
_IN_GM = (0.03, 0.1)  # GM prior: cortex or a nucleus
_IS_CSF = (0.5, 0.9)  # CSF fraction
# share of the voxels around a piece that may be dark, too: with more, it belongs to cortex or a nucleus
_MOST_GREY = 0.15
# Boxes of the template that hold brainstem and cerebellum, whose nuclei and tracts differ in intensity: x, y, z in mm
_INFRATENTORIAL = (((-20, 20), (-48, -8), (-90, -5)), ((-70, 70), (-110, -35), (-90, -18)))
_THREAD_MM3, _THREAD_RATIO = 60.0, 4.0  # a smaller piece this many times as long as wide is a perivascular space


@dataclass(frozen=True)
class Evidence:
    """What an engine knows of a brain after its segmentation, on the working grid.

    Attributes
    ----------
    brain : Volume, (1, X, Y, Z)
        Bias-corrected and denoised, WM mean at 1, zero outside the brain.
    fractions : Tensor, (3, X, Y, Z)
        GM, WM, CSF fractions.
    prior : Tensor, (3, X, Y, Z)
        GM, WM, CSF priors of the segmentation, from the warped template.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    scan : Volume, (1, …)
        The scan as acquired, on its own grid.
    """

    brain: Volume
    fractions: torch.Tensor
    prior: torch.Tensor
    linear: np.ndarray
    scan: Volume

    @cached_property
    def contrast(self) -> torch.Tensor:
        """Intensity relative to the tissue means, GM 0 and WM 1, (X, Y, Z); about -2 in CSF and outside the brain."""
        image = self.brain.data[0]
        gm, wm = (_weighted_mean(image, fraction**4) for fraction in self.fractions[:2])
        return (image - gm) / max(wm - gm, 1e-3)

    @cached_property
    def darker(self) -> torch.Tensor:
        """How much darker than the white matter around, in units of the contrast of WM and GM, (X, Y, Z)."""
        return self._wm_around() - self.contrast

    def _wm_around(self) -> torch.Tensor:
        """Mean contrast of the white matter within some 24 mm that is not dark itself, (X, Y, Z)."""
        every = (slice(None, None, _LOCAL_STRIDE),) * 3
        contrast = self.contrast[every]
        weight = self.fractions[1][every] ** 4 * (contrast > _IS_WM_FROM)
        fwhm = _LOCAL_FWHM_MM / (self.brain.grid.voxel_size_mm * _LOCAL_STRIDE)
        signal, amount = smooth(torch.stack([weight * contrast, weight]), fwhm, 3.0)
        local = (signal + 1e-3) / (amount + 1e-3)  # 1 far from any white matter
        at = voxel_indices(self.contrast.shape, local.device) / _LOCAL_STRIDE
        return sample(local[None], at, padding_mode="border")[0]


Network = Callable[[Evidence], torch.Tensor]  # probability, (X, Y, Z) of the working grid


def find_lesions(evidence: Evidence, network: Network | None = None) -> Volume:
    """Probability of white-matter hypointensity.

    Parameters
    ----------
    evidence : Evidence
        The segmented brain.
    network : callable, optional
        Proposes a probability for each voxel; by default the plain rule does. Pieces that nowhere reach its attribute
        ``sure``, if it has one, are dropped.

    Returns
    -------
    Volume, (1, X, Y, Z), float32
        On the working grid; zero in pieces (of :data:`LESION_FROM` and above) that are smaller than
        :data:`MIN_LESION_MM3` or thread-like.
    """
    size = evidence.brain.grid.voxel_size_mm
    possible = (1 - _ramp(evidence.fractions[2], _IS_CSF)) * ~_is_infratentorial(evidence)
    if network is None:
        probability = without_specks(dark_in_white_matter(evidence) * possible, size)
    else:
        possible = possible * _ramp(evidence.darker, _LEAST_DARKER) * beyond_walls(evidence)
        probability = without_specks(network(evidence) * possible, size, getattr(network, "sure", 0.0))
    return Volume(probability[None].float(), evidence.brain.grid)


def dark_in_white_matter(evidence: Evidence) -> torch.Tensor:
    """The plain rule, (X, Y, Z): dark pieces that white matter encloses, where the template has cerebral white matter.

    Voxels beside CSF are often dark from partial volume; they count only beside a lesion voxel that is not.
    """
    gm, wm, _ = evidence.prior
    place = _ramp(wm, _IN_WM) * (1 - _ramp(gm, _IN_GM))
    dark = _ramp(evidence.darker, _DARKER) * _ramp(evidence.contrast, _CAVITY)
    is_csf = (evidence.contrast < _CAVITY[1]) | (evidence.fractions[2] > _IS_CSF[0])
    inner = ~_dilated(is_csf)
    probability = place * dark
    core = enclosed((probability > LESION_FROM) & inner, (dark > LESION_FROM) & inner, inner)
    return probability * _dilated(core)


def beyond_walls(evidence: Evidence) -> torch.Tensor:
    """How little of a voxel's darkness is partial volume of the CSF beside it, 0 to 1, (X, Y, Z)."""
    contrast, (gm, _, csf) = evidence.contrast, evidence.prior
    alike, mixed = ((contrast > low) & (contrast < high) for low, high in (_LIKE_LESION, _LIKE_EDGE))
    images = torch.stack([alike * (1 - gm), mixed * (1 - gm), csf])
    for axis, mm in enumerate(evidence.brain.grid.voxel_size_mm.tolist()):
        size = [1, 1, 1]
        size[axis] = 2 * round(_WALL_MM / mm / 2 - 0.5) + 1  # odd
        images = functional.avg_pool3d(images, size, stride=1, padding=[n // 2 for n in size])
    alike, mixed, near = images
    wall = _ramp(near, _CSF_NEAR) * (1 - _ramp(alike / (alike + mixed + 2e-3), _PLATEAU))
    return (1 - wall) * (1 - _ramp(-contrast, _BELOW_GM) * _ramp(csf, _CSF_PRIOR))


def _is_infratentorial(evidence: Evidence) -> torch.Tensor:
    """Where the template's brainstem and cerebellum are, (X, Y, Z), bool."""
    grid = evidence.brain.grid
    to_template = np.linalg.inv(evidence.linear) @ grid.affine
    at = apply_affine(to_template, voxel_indices(grid.shape, evidence.prior.device))  # mm
    inside = [
        torch.stack([(at[axis] >= low) & (at[axis] <= high) for axis, (low, high) in enumerate(box)]).all(dim=0)
        for box in _INFRATENTORIAL
    ]
    return torch.stack(inside).any(dim=0)


def enclosed(pieces: torch.Tensor, dark: torch.Tensor, considered: torch.Tensor) -> torch.Tensor:
    """The pieces whose surroundings, as far as considered, are mostly not dark, (X, Y, Z), bool."""
    labels = _labelled(pieces)
    around = functional.max_pool3d(labels[None].float(), 3, stride=1, padding=1)[0].long()  # exact below 2 ** 24
    around = around * (labels == 0) * considered
    n = int(labels.max()) + 1
    total = torch.bincount(around.flatten(), minlength=n)
    grey = torch.bincount((around * dark).flatten(), minlength=n)
    kept = grey <= _MOST_GREY * total
    kept[0] = False
    return kept[labels]


def without_specks(probability: torch.Tensor, voxel_size_mm: np.ndarray, sure: float = 0.0) -> torch.Tensor:
    """The probability without small, thread-like and nowhere `sure` pieces, and what touches no piece, (X, Y, Z)."""
    pieces = _labelled(probability > LESION_FROM).cpu().numpy()
    at = np.argwhere(pieces)  # (n, 3)
    labels = pieces[tuple(at.T)]
    kept, peak = (np.zeros(int(pieces.max()) + 1, kind) for kind in (bool, np.float32))
    np.maximum.at(peak, labels, probability.cpu().numpy()[pieces > 0])
    for label, points in _by_label(labels, at * voxel_size_mm):
        kept[label] = peak[label] >= sure and not _is_speck(points, len(points) * float(np.prod(voxel_size_mm)))
    lesion = torch.from_numpy(kept[pieces]).to(probability.device)
    return probability * _dilated(lesion)


def _by_label(labels: np.ndarray, points: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Points (n, 3) of each label."""
    order = np.argsort(labels, kind="stable")
    names, first = np.unique(labels[order], return_index=True)
    return list(zip(names.tolist(), np.split(points[order], first[1:]), strict=True)) if len(names) else []


def _is_speck(points_mm: np.ndarray, volume_mm3: float) -> bool:
    """Whether a piece is too small, or small and thread-like."""
    if volume_mm3 < MIN_LESION_MM3:
        return True
    if volume_mm3 >= _THREAD_MM3 or len(points_mm) < 2:
        return False
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(points_mm.T) + np.eye(3) / 12.0)[::-1])  # of a voxel in itself: 1/12
    return bool(spread[0] > _THREAD_RATIO * spread[1])


def _labelled(mask: torch.Tensor) -> torch.Tensor:
    """Numbers of the connected pieces of a mask, 0 outside, (X, Y, Z), int64."""
    labels = cc3d.connected_components(mask.cpu().numpy(), connectivity=18)
    return torch.from_numpy(labels.astype(np.int64)).to(mask.device)


def _dilated(mask: torch.Tensor) -> torch.Tensor:
    """A mask with all neighbours of its voxels, (X, Y, Z), bool."""
    return functional.max_pool3d(mask[None].float(), 3, stride=1, padding=1)[0] > 0


def _weighted_mean(image: torch.Tensor, weight: torch.Tensor) -> float:
    return float((image * weight).sum() / weight.sum().clamp(min=1e-6))


def _ramp(values: torch.Tensor, ends: tuple[float, float]) -> torch.Tensor:
    """0 up to the first end, 1 from the second, linear between."""
    low, high = ends
    return ((values - low) / (high - low)).clamp(0, 1)
