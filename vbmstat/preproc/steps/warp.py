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

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from vbmstat.image.deform import exponential
from vbmstat.image.grid import Grid, sample_displaced
from vbmstat.image.volume import Displacement, Volume, jacobian_determinant
from vbmstat.preproc.steps.energy import Energy, Regularisation
from vbmstat.preproc.steps.left_out import N_TISSUES, average_known

PADDED_SHAPE = (128, 144, 128)  # around the template's 113 × 137 × 113, fast to transform
_LEVELS = ((4, 10), (2, 10), (1, 4))  # (voxels per template voxel and axis, iterations)
_N_CONJUGATE_GRADIENT = 8
_TEMPLATE_FLOOR = 0.01  # of a tissue's probability: the template is an average of a few hundred people
_SOLVED = 0.01  # of the first residual's power
_CONVERGED = 0.02  # of a level's first gain
_DETERMINANT_RANGE = (0.05, 20.0)  # of D during the fit, so that a fold does not reverse the likelihood


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
        self.curvature = [
            [
                sum(w * slope[i] * slope[j] for w, slope in zip(self.fixed, self.slopes, strict=True))
                for j in range(i + 1)
            ]
            for i in range(3)
        ]  # H, its lower triangle
        self.energy = Energy(fixed.shape[1:], spacing_mm, weights, fixed.device)

    def optimise(self, velocity: torch.Tensor, n_iterations: int) -> torch.Tensor:
        """The velocity after some steps; one that does not lower the cost is halved."""
        best = Position(velocity, self.energy.times(velocity))
        best_cost, first_gain, step, update, here = float("inf"), 0.0, 1.0, None, best
        for i in range(n_iterations):
            tissues, density = self._at(here.velocity)
            unlikely = -(density * (tissues * self.log_fixed).sum(0)).sum(dtype=torch.float64)
            cost = float(unlikely + 0.5 * (here.velocity * here.pull_back).sum(dtype=torch.float64))
            if cost > best_cost and update is not None:
                step /= 2
                here = best.after(update, step)
                continue
            gain = best_cost - cost
            best, best_cost = here, cost
            if gain < _CONVERGED * first_gain or i == n_iterations - 1:
                break
            if np.isfinite(gain):
                first_gain = max(first_gain, gain)
            update = self._step(tissues, density, here.pull_back)
            here = best.after(update, step)
        return best.velocity

    def update(self, velocity: torch.Tensor) -> torch.Tensor:
        """The Gauss-Newton step from a velocity, taken or not."""
        return self._step(*self._at(velocity), self.energy.times(velocity)).velocity

    def _at(self, velocity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scan's tissues warped by a velocity, and their weight at each voxel."""
        moved = exponential(velocity)
        pulled = sample_displaced(self.moving, moved)  # GM, WM and perhaps the share left out
        density = jacobian_determinant(moved).clamp_(*_DETERMINANT_RANGE)
        if len(pulled) > N_TISSUES:
            density *= 1 - pulled[N_TISSUES]
        return _with_remainder(pulled[:N_TISSUES]), density

    def _step(self, tissues: torch.Tensor, density: torch.Tensor, pull_back: torch.Tensor) -> Position:
        force = pull_back.clone()
        for slope, excess in zip(self.slopes, (tissues - self.fixed).mul_(density), strict=True):
            force.addcmul_(slope, excess)
        return self._solve(density, force.neg_())

    def _solve(self, density: torch.Tensor, residual: torch.Tensor) -> Position:
        """Solve (D H + L) d = target by conjugate gradients, preconditioned with (L + s)^-1; the target is overwritten.

        With z = (L + s)^-1 r, L z is r - s z: L itself is never applied, and L d comes with d.
        """
        stiffness = sum(float(_dot(density, self.curvature[i][i])) for i in range(3)) / density.numel() + 1e-4
        inverse = self.energy.inverse(stiffness)
        solution = Position(torch.zeros_like(residual), torch.zeros_like(residual))
        direction, before, first = Position(torch.zeros_like(residual), torch.zeros_like(residual)), 1.0, 0.0
        image = torch.empty_like(residual)
        for _ in range(_N_CONJUGATE_GRADIENT):
            smooth = self.energy.apply(inverse, residual)
            power = _dot(residual, smooth)
            first = first or power
            if power <= _SOLVED * first:
                break
            direction.velocity.mul_(power / before).add_(smooth)
            direction.pull_back.mul_(power / before).add_(residual).sub_(smooth, alpha=stiffness)
            before = power
            image.copy_(direction.pull_back)
            for i, row in enumerate(image):
                curved = self.curvature[i][0] * direction.velocity[0]
                for j in (1, 2):
                    curved.addcmul_(self.curvature[max(i, j)][min(i, j)], direction.velocity[j])
                row.addcmul_(density, curved)
            length = power / max(_dot(direction.velocity, image), 1e-20)
            for part, way in zip(solution, direction, strict=True):
                part.add_(way, alpha=length)
            residual.sub_(image, alpha=length)
        return solution


class Position(NamedTuple):
    """A velocity (or a change of it) v, and L v."""

    velocity: torch.Tensor
    pull_back: torch.Tensor

    def after(self, step: Position, length: float) -> Position:
        """The position after a step of some length."""
        return Position(*(torch.add(at, way, alpha=length) for at, way in zip(self, step, strict=True)))


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))


def _with_remainder(gm_wm: torch.Tensor) -> torch.Tensor:
    """GM, WM and the remainder of a voxel, (3, X, Y, Z); between 0 and 1."""
    gm_wm = gm_wm.clamp(0, 1)
    return torch.cat([gm_wm, (1 - gm_wm.sum(0, keepdim=True)).clamp_(min=0)])


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
