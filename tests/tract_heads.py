"""Synthetic heads whose tracts are known, to test and measure (benchmarks/tracts) the training of tract networks.

Eighteen tracts are tubes around smooth curves that have the names and rough courses of real ones. Each head moves their
control points and bends the whole, so a tract's place is not known from the others. The T1w image has white matter
around the tracts, and a texture along the fibres of the thinnest tract in each voxel, as noise averaged along the
field. The diffusion image is another pose of the same head: clean masks and up to three peaks a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from vbmstat.image.grid import Grid, apply_affine, sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.simulate.render import rician

RADIUS_MM = 45.0  # of the spherical brain; curves are in units of it, in RAS
_POINTS_PER_CURVE = 160
_REACH = 0.25  # farthest voxel from a curve whose distance matters, in radii
_CENTRAL = {  # name -> radius, curves
    "CC": (0.098, [[(-0.6, y, 0.5), (-0.25, y, 0.22), (0, y, 0.18), (0.25, y, 0.22), (0.6, y, 0.5)] for y in
                  np.linspace(-0.5, 0.5, 9)]),
    "CA": (0.105, [[(-0.5, 0.08, -0.4), (-0.25, 0.1, -0.22), (0, 0.15, -0.17), (0.25, 0.1, -0.22), (0.5, 0.08, -0.4)]]),
}  # fmt: skip
_RIGHT = {  # mirrored for the left
    "CST": (0.154, [[(0.15, -0.1, -0.85), (0.2, -0.1, -0.3), (0.25, -0.1, 0.2), (0.35, -0.1, 0.75)]]),
    "AF": (0.126, [[(0.55, 0.45, 0.2), (0.5, 0, 0.35), (0.5, -0.4, 0.2), (0.6, -0.35, -0.15), (0.6, 0.1, -0.3)]]),
    "ILF": (0.112, [[(0.4, -0.75, -0.05), (0.5, -0.3, -0.25), (0.5, 0.3, -0.45)]]),
    "UF": (0.105, [[(0.4, 0.65, -0.05), (0.35, 0.45, -0.25), (0.45, 0.3, -0.42), (0.55, 0.05, -0.5)]]),
    "CG": (0.112, [[(0.1, 0.6, 0.05), (0.1, 0.4, 0.4), (0.1, 0, 0.5), (0.1, -0.4, 0.38), (0.14, -0.6, 0.05)]]),
    "FX": (0.1, [[(0.04, 0.2, -0.2), (0.06, 0.1, 0.0), (0.1, -0.15, 0.12), (0.22, -0.3, -0.1), (0.3, -0.1, -0.4)]]),
    "IFO": (0.112, [[(0.35, 0.65, 0.05), (0.4, 0.2, -0.15), (0.4, -0.3, -0.05), (0.35, -0.75, 0.15)]]),
    "ATR": (0.112, [[(0.12, -0.15, 0.05), (0.2, 0.2, 0.08), (0.3, 0.6, 0.25)]]),
}  # fmt: skip
PHANTOM_TRACTS = (*_CENTRAL, *(f"{name}_{side}" for name in _RIGHT for side in ("left", "right")))
THIN_TRACTS = ("CA", "FX_left", "FX_right")
_MOVED = 0.03  # sd of control points, in radii
_BENT = 0.03  # amplitude of the bending
_TURN_DEGREES, _SHIFT_MM = 6.0, 3.0  # largest pose of the diffusion image
_GM, _WM_MARGIN = 0.72, 0.05  # GM's intensity (WM 1); white matter reaches this much beyond the tracts, in radii
_TEXTURE_STEPS, _TEXTURE = 5, 0.2  # voxels along the fibre each way; sd, relative to WM
_GRAIN = 1.2  # FWHM of the texture across fibres, voxels


@dataclass(frozen=True)
class TractHead:
    """A synthetic head."""

    t1w: Volume  # (1, X, Y, Z): brain, WM at 1, 0 outside
    wm: Volume  # (1, X, Y, Z): white matter, 0 or 1, on the same grid
    references: Volume  # (18, A, B, C): mask of each of ``PHANTOM_TRACTS`` on the diffusion grid
    peaks: Volume  # (9, A, B, C): three unit vectors a voxel, 0 for none, on the diffusion grid
    truth: Volume  # (18, X, Y, Z): masks on the grid of the T1w image
    to_diffusion: np.ndarray  # (4, 4): T1w mm -> diffusion mm, rigid


@dataclass(frozen=True)
class _Field:
    """What the curves say of each voxel: distance to each tract over its radius, and its direction there."""

    distance: torch.Tensor  # (n_tracts, X, Y, Z)
    direction: torch.Tensor  # (n_tracts, 3, X, Y, Z)


def tract_head(seed: int, voxel_mm: float = 3.0, side: int = 32, noise_percent: float = 3.0) -> TractHead:
    """A head with its own tracts.

    Parameters
    ----------
    seed : int
        Same seed, same head.
    voxel_mm : float
        Voxel size of both images.
    side : int
        Voxels of an edge of both cubic images.
    noise_percent : float
        Rician noise of the T1w image, in percent of WM.
    """
    rng = np.random.default_rng(seed)
    curves = _curves(rng)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = -voxel_mm * (side - 1) / 2
    grid = Grid((side, side, side), affine)
    pose = np.eye(4)
    turn = Rotation.from_euler("xyz", rng.uniform(-_TURN_DEGREES, _TURN_DEGREES, 3), degrees=True)
    pose[:3, :3], pose[:3, 3] = turn.as_matrix(), rng.uniform(-_SHIFT_MM, _SHIFT_MM, 3)
    here, there = _field(curves, grid, np.eye(4)), _field(curves, grid, np.linalg.inv(pose))
    radii = torch.tensor([curve.radius for curve in curves]).reshape(-1, 1, 1, 1)
    brain = apply_affine(grid.affine, voxel_indices(grid.shape)).norm(dim=0) < RADIUS_MM
    wm = ((here.distance - 1) * radii < _WM_MARGIN).any(0) & brain
    thinnest = torch.where(here.distance < 1, radii, 9 + here.distance).argmin(0)  # beside tracts, the nearest
    along = here.direction.gather(0, thinnest[None, None].expand(1, 3, -1, -1, -1))[0]
    texture = _along_fibres(along * wm, rng) * wm
    signal = torch.where(wm, 1.0, _GM) + _TEXTURE / texture[wm].std() * texture
    noisy = rician((signal * brain).numpy(), noise_percent / 100, rng)
    t1w = Volume(torch.from_numpy(noisy)[None] * brain, grid)
    masks, peaks = _masks(there), _peaks(there)
    return TractHead(t1w, Volume(wm[None].float(), grid), Volume(masks, grid), Volume(peaks, grid),
                     Volume(_masks(here), grid), pose)  # fmt: skip


@dataclass(frozen=True)
class _Tube:
    """Points on the curves of a tract and their tangents, (n, 3), mm, and the radius in units of the brain's."""

    points: np.ndarray
    tangents: np.ndarray
    radius: float


def _curves(rng: np.random.Generator) -> list[_Tube]:
    """The tracts of one head, in the order of ``PHANTOM_TRACTS``."""
    phase, waves = rng.uniform(0, 2 * np.pi, (3, 3)), rng.normal(0, 1.2, (3, 3))
    scale = rng.normal(1, 0.03, 3)

    def bent(points: np.ndarray) -> np.ndarray:
        """Smoothly bent and scaled points, (n, 3)."""
        moved = points * scale + _BENT * np.sin(points @ waves.T + phase[:, 0])
        return np.asarray(moved)

    tubes = []
    for name in PHANTOM_TRACTS:
        stem, _, hemisphere = name.partition("_")
        radius, curves = _CENTRAL[stem] if stem in _CENTRAL else _RIGHT[stem]
        flip = np.array([-1.0 if hemisphere == "left" else 1.0, 1.0, 1.0])
        moved = rng.normal(0, _MOVED, (len(curves[0]), 3))  # the same for all curves of a sheet
        points, tangents = [], []
        for curve in curves:
            spline = CubicSpline(np.linspace(0, 1, len(curve)), bent(np.array(curve) * flip + moved))
            at = np.linspace(0, 1, _POINTS_PER_CURVE)
            points.append(RADIUS_MM * spline(at))
            tangents.append(spline(at, 1) / np.linalg.norm(spline(at, 1), axis=1, keepdims=True))
        tubes.append(_Tube(np.concatenate(points), np.concatenate(tangents), radius))
    return tubes


def _field(tubes: list[_Tube], grid: Grid, to_head: np.ndarray) -> _Field:
    """Distances and directions on a grid whose mm are moved to the head's by a rigid matrix."""
    at = apply_affine(to_head @ grid.affine, voxel_indices(grid.shape)).reshape(3, -1).T.numpy()
    distances, directions = [], []
    for tube in tubes:
        distance, nearest = KDTree(tube.points).query(at, distance_upper_bound=_REACH * RADIUS_MM)
        nearest[nearest == len(tube.points)] = 0  # beyond reach: the distance is infinite
        distances.append(distance / (RADIUS_MM * tube.radius))
        directions.append((tube.tangents[nearest] @ to_head[:3, :3]).T)  # rows: turned back to the grid's axes
    shape = (len(tubes), -1, *grid.shape)
    return _Field(
        torch.from_numpy(np.stack(distances)).float().reshape(shape)[:, 0],
        torch.from_numpy(np.stack(directions)).float().reshape(shape),
    )


def _masks(field: _Field) -> torch.Tensor:
    return (field.distance < 1).float()


def _peaks(field: _Field) -> torch.Tensor:
    """Directions of up to three tracts in each voxel, those whose axes are nearest first, (9, X, Y, Z)."""
    nearest = field.distance.argsort(0)[:3]  # (3, X, Y, Z)
    inside = field.distance.gather(0, nearest) < 1
    vectors = field.direction.gather(0, nearest[:, None].expand(-1, 3, -1, -1, -1))
    return (vectors * inside[:, None]).flatten(0, 1)


def _along_fibres(directions: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """White noise averaged along a field of directions (3, X, Y, Z)."""
    noise = torch.from_numpy(rng.standard_normal((1, *directions.shape[1:]), dtype=np.float32))
    noise = smooth(noise, np.full(3, _GRAIN), 3.0)
    total = noise.clone()
    start = voxel_indices(directions.shape[1:])
    for sign in (-1.0, 1.0):
        at, heading = start, sign * directions
        for _ in range(_TEXTURE_STEPS):
            at = at + heading
            total += sample(noise, at, padding_mode="border")
            there = sample(directions, at, padding_mode="border")
            there = torch.where((there * heading).sum(0) < 0, -there, there)  # an axis has no sign
            heading = there / there.norm(dim=0).clamp(min=1e-3)
    return total[0]
