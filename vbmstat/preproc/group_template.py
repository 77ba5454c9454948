"""A template of a group: the mean of its people's tissues, warped to one another level by level.

Level 0 is the mean of the linearly aligned tissues. At each further level every person is registered to the template of
the level before, from the person's last velocity, less stiffly each time; the people's mean velocity is subtracted, so
that the template has their mean shape (in the log domain; Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007); and
the new template is ``sum_i D_i J_i / sum_i D_i``, with J the pulled tissues and D the determinant of the warp, so that
all of a person's volume counts alike (Ashburner & Friston 2009, doi:10.1016/j.neuroimage.2008.10.066). A Gaussian blur
stands for the uncertainty of the warps and fades with it, in place of their smoothing of log-odds. All sums run over
the people in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vbmstat.image import deform
from vbmstat.image.grid import sample, voxel_indices
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.steps import warp

LEAST_PEOPLE = 10
_DETERMINANTS = (0.01, 100.0)  # of a person's warp; beyond, it is left out, as in SPM's Shooting
_BRAIN_FROM = 0.5


@dataclass(frozen=True)
class Level:
    """How a template is made from the one before.

    Attributes
    ----------
    stiffness : float
        Of the warps, times that of a scan's.
    fwhm_mm : float
        Blur of the template made from them, and of people when they are registered to it.
    is_fine : bool
        Whether the registration goes down to the template's resolution.
    """

    stiffness: float
    fwhm_mm: float
    is_fine: bool


LEVELS = (Level(0, 6, False), Level(4, 4, False), Level(2, 2.5, False), Level(1, 1.5, False), Level(1, 0, True))


def registered(tissues: Volume, template: Volume, number: int, start: torch.Tensor | None) -> torch.Tensor:
    """A person's velocity at a level, (3, *PADDED_SHAPE), mm, to the template of the level before.

    The person is as blurred as the template: interpolation alone blurs a sharp image as soon as it moves, so that its
    likelihood falls whichever way it goes, and the fit would stay where it is.
    """
    level, before = LEVELS[number], LEVELS[number - 1]
    weights = warp.Regularisation().times(level.stiffness)
    return warp.register(smooth_map(tissues, before.fwhm_mm), template, weights, start, level.is_fine)


def fault_of(velocity: torch.Tensor, template: Volume) -> str:
    """Why a person's velocity cannot be used; empty if it can."""
    if not bool(torch.isfinite(velocity).all()):
        return "the velocity is not finite"
    determinant = warp.displacement(velocity, template.grid).jacobian_determinant
    least, most = float(determinant.min()), float(determinant.max())
    low, high = _DETERMINANTS
    return "" if least >= low and most <= high else f"determinants from {least:.3g} to {most:.3g}, not {low} to {high}"


class Mean:
    """The template of a level: people are added one by one.

    Parameters
    ----------
    template : Volume
        Any template on the grid.
    is_symmetric : bool
        Whether each person also counts mirrored left to right.
    """

    def __init__(self, template: Volume, is_symmetric: bool) -> None:
        self.grid, self.is_symmetric, self.n = template.grid, is_symmetric, 0
        self._identity = voxel_indices(self.grid.shape, template.data.device)
        self._tissues = torch.zeros_like(template.data, dtype=torch.float64)
        self._volume, self._moved = self._tissues[:1].clone(), torch.zeros_like(self._identity, dtype=torch.float64)

    def add(self, tissues: Volume, velocity: torch.Tensor | None) -> None:
        """Add a person's linearly aligned tissues, (2, X, Y, Z), pulled through its warp; None is no warp."""
        field = Displacement(torch.zeros_like(self._identity), self.grid)
        if velocity is not None:
            field = warp.displacement(velocity, self.grid)
        size = float(self.grid.voxel_size_mm.mean())
        determinant = field.jacobian_determinant
        self._tissues += sample(tissues.data, self._identity + field.data / size) * determinant
        self._volume += determinant
        self._moved += field.data
        self.n += 1

    def template(self) -> Volume:
        """GM and WM, not blurred."""
        tissues, volume = self._tissues, self._volume
        if self.is_symmetric:
            tissues, volume = tissues + tissues.flip(1), volume + volume.flip(1)
        return Volume((tissues / volume).float(), self.grid)

    @property
    def mean_displacement_mm(self) -> float:
        """Length of the people's mean displacement, averaged over the brain, mm; mirrored people count if symmetric."""
        moved = self._moved / self.n
        if self.is_symmetric:
            moved = (moved + _turned(moved.flip(1))) / 2
        return float(moved.square().sum(0).sqrt()[self.template().data.sum(0) > _BRAIN_FROM].mean())


def symmetric(velocity: torch.Tensor, n: int) -> torch.Tensor:
    """Mean of a padded velocity, (3, *PADDED_SHAPE), and its mirror image at the middle of the template's n voxels."""
    padded = velocity.shape[1]
    opposite = (2 * ((padded - n) // 2) + n - 1 - torch.arange(padded, device=velocity.device)) % padded
    return (velocity + _turned(velocity[:, opposite])) / 2


def _turned(field: torch.Tensor) -> torch.Tensor:
    """A field with the other sign along x."""
    return field * torch.tensor([-1.0, 1.0, 1.0], dtype=field.dtype, device=field.device).reshape(3, 1, 1, 1)


def blurred(template: Volume, level: Level) -> Volume:
    """The template of a level, from the mean."""
    return smooth_map(template, level.fwhm_mm)


def sharpness(template: Volume) -> float:
    """Gradient energy of GM and WM: sum of their squared gradients times the voxel volume, mm³ of mm⁻²."""
    spacing = template.grid.voxel_size_mm.tolist()
    slopes = torch.stack(torch.gradient(template.data, spacing=spacing, dim=(1, 2, 3)))
    return float(slopes.square().sum(dtype=torch.float64)) * 1000 * template.grid.voxel_volume_ml


def through_person(tissues: Volume, standard: Displacement, template: Volume) -> Displacement:
    """A person's way from the standard template to the group's: standard point -> point of the group template, mm.

    Parameters
    ----------
    tissues : Volume
        The person's linearly aligned GM and WM.
    standard : Displacement
        The warp of its preprocessing: standard point -> linearly aligned point.
    template : Volume
        The group's, which the person is registered to as preprocessing over it does.
    """
    return deform.composed(standard, warp.register_both_ways(tissues, template).inverse)
