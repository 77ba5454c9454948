"""Diffeomorphic registration of tissue maps to the template: a stationary velocity field fitted by Gauss-Newton.

The warp is ``phi = exp(v)`` of one velocity field v (Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007), integrated
by scaling and squaring; ``exp(-v)`` is its inverse. The scan's tissues are multinomial draws from the warped template,
as in Ashburner & Friston 2009 (doi:10.1016/j.neuroimage.2008.10.066) and Shooting (2011,
doi:10.1016/j.neuroimage.2010.12.049). With J = I∘phi for the scan's GM, WM and remainder, T for the template's and
D = |det grad phi|, the cost is the negative log-likelihood over the scan's space, transformed to the template's,

    - sum_x D sum_k J_k log T_k + v'L v / 2,

and each iteration solves ``(D H + L) d = -(D sum_k (J_k - T_k) grad log T_k + L v)``,
``H = sum_k T_k (grad log T_k)(grad log T_k)'``, for the update d by conjugate gradients, and sets v <- v + d (first
term of Baker-Campbell-Hausdorff, as in the log-domain demons of Vercauteren et al. 2008,
doi:10.1007/978-3-540-85988-8_90). L is the operator of membrane, bending and linear-elastic energy; it is diagonal in
3 × 3 blocks in the Fourier domain, where its inverse preconditions the solver. The resolution goes from coarse to fine.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from vbmstat.image.deform import exponential
from vbmstat.image.grid import Grid, sample, voxel_indices
from vbmstat.image.volume import Displacement, Volume, jacobian_determinant
from vbmstat.preproc.steps.left_out import N_TISSUES, average_known

PADDED_SHAPE = (128, 144, 128)  # around the template's 113 × 137 × 113, fast to transform
_LEVELS = ((4, 10), (2, 10), (1, 4))  # (voxels per template voxel and axis, iterations)
_N_CONJUGATE_GRADIENT = 8
_TEMPLATE_FLOOR = 0.01  # of a tissue's probability: the template is an average of a few hundred people
_CONVERGED = 0.02  # of a level's first gain
_DETERMINANT_RANGE = (0.05, 20.0)  # of D during the fit, so that a fold does not reverse the likelihood


@dataclass(frozen=True)
class Regularisation:
    """Weights of the energy of the velocity field, for distances in mm.

    Attributes
    ----------
    membrane, bending : float
        Weights of squared first derivatives, and of the squared Laplacian (mm²).
    shear, divergence : float
        Linear elasticity: mu and lambda of Ashburner 2007.

    Notes
    -----
    Shooting's weights in SPM (1e-3, .2, .05, .2, times the 1.5³ mm³ of a voxel), with elasticity half as stiff again.
    """

    membrane: float = 0.005
    bending: float = 0.75
    shear: float = 0.25
    divergence: float = 1.0

    def times(self, factor: float) -> Regularisation:
        """Stiffer or softer by a factor."""
        return Regularisation(*(factor * weight for weight in astuple(self)))


def register(
    tissues: Volume,
    template: Volume,
    regularisation: Regularisation | None = None,
    start: torch.Tensor | None = None,
    finest: bool = True,
) -> torch.Tensor:
    """Velocity field from template points to the linearly aligned scan.

    Parameters
    ----------
    tissues : Volume
        GM and WM fractions of the scan, linearly resampled to the template's grid. A third channel, if any, is the
        share of each voxel that is left out of the likelihood (:mod:`vbmstat.preproc.steps.left_out`).
    template : Volume
        GM and WM of the template.
    regularisation : Regularisation, optional
        Stiffness.
    start : Tensor, (3, *PADDED_SHAPE), mm, optional
        Velocity to start from; the coarsest level is then skipped.
    finest : bool
        Whether to go down to the template's resolution, or stop at half of it.

    Returns
    -------
    Tensor, (3, *PADDED_SHAPE), mm
        Stationary velocity along the template's axes (RAS+), on the template's grid padded at both ends.
    """
    weights = regularisation or Regularisation()
    moving, fixed = pad(tissues.data), pad(template.data)
    spacing = float(template.grid.voxel_size_mm.mean())
    velocity = moving.new_zeros(3, *PADDED_SHAPE) if start is None else start / spacing
    for factor, n_iterations in _LEVELS:
        if (start is not None and factor == _LEVELS[0][0]) or (factor == 1 and not finest):
            continue
        scan = average_known(moving, partial(reduce, factor=factor))
        level = Level(scan, reduce(fixed, factor), spacing * factor, weights)
        coarse = level.optimise(reduce(velocity, factor) / factor, n_iterations)
        velocity = enlarge(coarse, factor) * factor
    return velocity * spacing


def displacement(velocity: torch.Tensor, grid: Grid) -> Displacement:
    """Displacement ``exp(velocity) - identity`` on the template's grid.

    Parameters
    ----------
    velocity : Tensor, (3, *PADDED_SHAPE), mm
        From :func:`register`; its negative gives the inverse warp.
    grid : Grid
        The template's grid.
    """
    spacing = float(grid.voxel_size_mm.mean())
    moved = exponential(velocity / spacing) * spacing
    return Displacement(_crop(moved, grid.shape).contiguous(), grid)


class Warp(NamedTuple):
    """A warp and its inverse, both on the template's grid.

    Attributes
    ----------
    forward : Displacement
        Template point -> linearly aligned scan point, mm.
    inverse : Displacement
        Linearly aligned scan point -> template point, mm.
    velocity : Volume, (3, X, Y, Z), mm, optional
        Stationary velocity whose flow is the warp, on the template's grid and around it; None where there is none.
    """

    forward: Displacement
    inverse: Displacement
    velocity: Volume | None = None


def register_both_ways(tissues: Volume, template: Volume, start: torch.Tensor | None = None) -> Warp:
    """Warp and inverse; parameters as in :func:`register`."""
    velocity = register(tissues, template, start=start)
    first = np.array([side.start for side in _window(template.grid.shape)])
    affine = template.grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ first
    whole = Volume(velocity, Grid(PADDED_SHAPE, affine))
    return Warp(displacement(velocity, template.grid), displacement(-velocity, template.grid), whole)


class Level:
    """Gauss-Newton at one resolution; velocities in voxels of the level."""

    def __init__(self, moving: torch.Tensor, fixed: torch.Tensor, spacing_mm: float, weights: Regularisation) -> None:
        self.moving = moving
        self.fixed = _with_remainder(fixed).clamp(min=_TEMPLATE_FLOOR)
        self.fixed = self.fixed / self.fixed.sum(0)
        self.log_fixed = self.fixed.log()
        self.slopes = [torch.stack(torch.gradient(tissue)) for tissue in self.log_fixed]  # per tissue (3, X, Y, Z)
        self.identity = voxel_indices(fixed.shape[1:], fixed.device)
        shape = self.identity.shape[1:]
        self.isotropic, self.along, self.wave = _energy_symbol(shape, spacing_mm, weights, fixed.device)
        self.wave_squared = self.wave.abs().square().sum(0)

    def optimise(self, velocity: torch.Tensor, n_iterations: int) -> torch.Tensor:
        """The velocity after some steps; one that does not lower the cost is halved."""
        best, best_cost, step, update = velocity, float("inf"), 1.0, torch.zeros_like(velocity)
        first_gain = 0.0
        for _ in range(n_iterations):
            state = self._at(velocity)
            tissues, density, pull_back = state
            unlikely = -(density * (tissues * self.log_fixed).sum(0)).sum(dtype=torch.float64)
            cost = float(unlikely + 0.5 * (velocity * pull_back).sum(dtype=torch.float64))
            if cost > best_cost:
                step /= 2
                velocity = best + step * update
                continue
            gain = best_cost - cost
            best, best_cost = velocity, cost
            if gain < _CONVERGED * first_gain:
                break
            if np.isfinite(gain):
                first_gain = max(first_gain, gain)
            update = self._step(*state)
            velocity = best + step * update
        return best

    def update(self, velocity: torch.Tensor) -> torch.Tensor:
        """The Gauss-Newton step from a velocity, taken or not."""
        return self._step(*self._at(velocity))

    def _at(self, velocity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The scan's tissues warped by a velocity, their weight at each voxel, and L v."""
        moved = exponential(velocity)
        pulled = sample(self.moving, self.identity + moved)  # GM, WM and perhaps the share left out
        density = jacobian_determinant(moved).clamp_(*_DETERMINANT_RANGE) * (1 - pulled[N_TISSUES:].sum(0))
        return _with_remainder(pulled[:N_TISSUES]), density, self._regularise(velocity)

    def _step(self, tissues: torch.Tensor, density: torch.Tensor, pull_back: torch.Tensor) -> torch.Tensor:
        force = pull_back
        for slope, excess in zip(self.slopes, density * (tissues - self.fixed), strict=True):
            force = force + slope * excess
        return self._solve(density, -force)

    def _regularise(self, field: torch.Tensor) -> torch.Tensor:
        """L v."""
        spectrum = torch.fft.rfftn(field, dim=(1, 2, 3))
        along = (self.wave.conj() * spectrum).sum(0)
        return _field(self.isotropic * spectrum + self.along * self.wave * along, field.shape[1:])

    def _precondition(self, field: torch.Tensor, stiffness: float) -> torch.Tensor:
        """(L + stiffness)^-1 f, by Sherman and Morrison in each 3 × 3 block."""
        spectrum = torch.fft.rfftn(field, dim=(1, 2, 3))
        a = self.isotropic + stiffness
        along = (self.wave.conj() * spectrum).sum(0) * (self.along / (a + self.along * self.wave_squared))
        return _field((spectrum - self.wave * along) / a, field.shape[1:])

    def _solve(self, density: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Solve (D H + L) d = target by preconditioned conjugate gradients."""
        weights = density * self.fixed  # (3 tissues, X, Y, Z)

        def system(field: torch.Tensor) -> torch.Tensor:
            out = self._regularise(field)
            for slope, weight in zip(self.slopes, weights, strict=True):
                out.addcmul_(slope, weight * (slope * field).sum(0))
            return out

        stiffness = sum(float((w * slope.square()).sum()) for w, slope in zip(weights, self.slopes, strict=True))
        stiffness = stiffness / target[0].numel() + 1e-4
        solution = torch.zeros_like(target)
        residual = target
        preconditioned = self._precondition(residual, stiffness)
        direction = preconditioned
        power = float((residual * preconditioned).sum())
        first = power
        for _ in range(_N_CONJUGATE_GRADIENT):
            image = system(direction)
            alpha = power / max(float((direction * image).sum()), 1e-20)
            solution = solution + alpha * direction
            residual = residual - alpha * image
            preconditioned = self._precondition(residual, stiffness)
            before, power = power, float((residual * preconditioned).sum())
            if power < 1e-3 * first:
                break
            direction = preconditioned + (power / before) * direction
        return solution


def _with_remainder(gm_wm: torch.Tensor) -> torch.Tensor:
    """GM, WM and the remainder of a voxel, (3, X, Y, Z); between 0 and 1."""
    gm_wm = gm_wm.clamp(0, 1)
    return torch.cat([gm_wm, (1 - gm_wm.sum(0, keepdim=True)).clamp_(min=0)])


def _field(spectrum: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Inverse Fourier transform of a half spectrum, (3, X, Y, Z)."""
    field: torch.Tensor = torch.fft.irfftn(spectrum, s=shape, dim=(1, 2, 3))
    return field


def _energy_symbol(
    shape: torch.Size, spacing_mm: float, weights: Regularisation, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fourier symbol of L = isotropic · I + along · k k*, for fields in voxels and energies per voxel.

    First derivatives of a field in voxels are unitless, so membrane and elastic terms hold at every resolution; bending
    has mm².
    """
    axes = [torch.fft.fftfreq(n, device=device) for n in shape[:2]] + [torch.fft.rfftfreq(shape[2], device=device)]
    angles = torch.stack(torch.meshgrid(*[2 * torch.pi * axis for axis in axes], indexing="ij"))
    wave = torch.exp(1j * angles) - 1  # forward difference
    squared = wave.abs().square().sum(0)
    isotropic = (weights.membrane + weights.shear) * squared + weights.bending / spacing_mm**2 * squared.square()
    along = torch.full_like(squared, weights.shear + weights.divergence)
    return isotropic + 1e-7, along, wave


def pad(data: torch.Tensor) -> torch.Tensor:
    """Images or a velocity (C, X, Y, Z) on the template's grid with zeros around them, (C, *PADDED_SHAPE)."""
    out = data.new_zeros(data.shape[0], *PADDED_SHAPE)
    out[(slice(None), *_window(tuple(data.shape[1:])))] = data  # type: ignore[arg-type]
    return out


def _crop(data: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    return data[(slice(None), *_window(shape))]


def _window(shape: tuple[int, int, int]) -> tuple[slice, ...]:
    starts = [(padded - n) // 2 for padded, n in zip(PADDED_SHAPE, shape, strict=True)]
    return tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))


def reduce(data: torch.Tensor, factor: int) -> torch.Tensor:
    """Images or a velocity averaged over blocks of `factor` voxels along each axis."""
    return data if factor == 1 else torch.nn.functional.avg_pool3d(data[None], factor)[0]


def enlarge(field: torch.Tensor, factor: int) -> torch.Tensor:
    """A field on voxels `factor` times as small along each axis."""
    if factor == 1:
        return field
    return torch.nn.functional.interpolate(field[None], scale_factor=factor, mode="trilinear", align_corners=False)[0]
