"""Symmetric alignment of one person's scans: rigid motions, sizes, differential bias, average. None is the reference.

As in Ashburner & Ridgway 2013 (doi:10.3389/fnins.2012.00197), ``scan_i(R_i x) ~ exp(b_i(x)) · average(x)`` is fitted in
the frame of the average. The six Lie parameters of each motion, and the log of the brain's size, are updated by
Gauss-Newton against the current mean; afterwards their mean is subtracted. The size tells where to expect the tissues
of a brain that shrank as a whole; it is not taken out of the scan. The frame of the average is the Karcher mean of the
frames in which the scans' own linear registrations put them, so it has the template's orientation, and every scan is
resampled once, by cubic splines: trilinear interpolation blurs each scan where its voxels happen to lie, and 5 % of a
thinning is lost in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from scipy.linalg import expm, logm

from vbmstat.image.grid import Grid, apply_affine, resample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import linear
from vbmstat.preproc.steps.working import Brain

_LEVELS = ((6.0, 8), (3.0, 5), (1.5, 4))  # voxels, mm, and iterations
_LEVELLED_MM = 1.5  # voxels of the levelled brains that the motions are fitted to
_FINEST_MM, _COARSEST_MM = 0.8, 1.5  # voxels of the average
_MARGIN_VOXELS = 4
_ALL_INSIDE = 0.95  # of every scan's mask, low-passed: where motions are fitted
_HUBER_SD = 2.0  # residuals beyond weigh less: tissue that has changed
_BIAS_MM, _BIAS_FWHM_MM, _N_BIAS = 3.0, 40.0, 5
_TUKEY_SD = 4.0
_LEAST_LOG_SD = 0.01
_LEAST_SUPPORT = 1e-3
_LEAST_SHARE = 0.3  # weight of a voxel of 3 mm whose ratio is used
_BRAIN_RADIUS_MM = 80.0


@dataclass(frozen=True)
class Alignment:
    """Where each scan is.

    Attributes
    ----------
    grid : Grid
        Grid of the average: isotropic, axes of the template, the box of all brains.
    rigids : tuple of ndarray, (4, 4)
        Average mm -> scan mm, each a rotation and a translation.
    sizes : tuple of ndarray, (4, 4)
        Average mm -> average mm: how the average must grow to be as large as each scan's brain.
    residual_mm : tuple of float
        How far the last update moved each scan, at most, within 80 mm of the brain's centre.
    """

    grid: Grid
    rigids: tuple[np.ndarray, ...]
    sizes: tuple[np.ndarray, ...]
    residual_mm: tuple[float, ...]


def align(brains: Sequence[Brain], linears: Sequence[np.ndarray]) -> Alignment:
    """Align the brains of one person rigidly to their mean, and once more when their shading is alike.

    Shading moves the edges of the levelled brains: without the second time, the error is .1 mm in place of .03 mm.

    Parameters
    ----------
    brains : sequence of Brain
        Each on its working grid, any intensity unit, with its bias field.
    linears : sequence of ndarray, (4, 4)
        Template mm -> scan mm, of each scan's own registration.
    """
    centre = np.mean([_centre(brain, matrix) for brain, matrix in zip(brains, linears, strict=True)], axis=0)
    starts = [rigid_part(matrix, centre) for matrix in linears]
    motions, _ = _fitted(brains, starts, centre, _LEVELS)
    motions, moved = _fitted(_evened(brains, motions), motions, centre, _LEVELS[-1:])
    fitted = [rigid_part(motion, centre) for motion in motions]
    rigids = centred(fitted, starts)
    back = np.linalg.inv(fitted[0]) @ rigids[0]
    sizes = [np.linalg.inv(rigid) @ motion @ back for rigid, motion in zip(rigids, motions, strict=True)]
    size = np.clip(np.mean([np.cbrt(brain.image.grid.voxel_size_mm.prod()) for brain in brains]), _FINEST_MM, None)
    return Alignment(
        _grid_around(brains, rigids, min(float(size), _COARSEST_MM)), tuple(rigids), tuple(sizes), tuple(moved)
    )


def rigid_part(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The rotation of a linear matrix (its polar part), about a point that is moved as the matrix moves it, (4, 4)."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = matrix[:3, :3] @ centre + matrix[:3, 3] - rigid[:3, :3] @ centre
    return rigid


def centred(rigids: Sequence[np.ndarray], frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Motions with the average's frame moved to the Karcher mean of the frames.

    Parameters
    ----------
    rigids : sequence of ndarray, (4, 4)
        Average mm -> scan mm.
    frames : sequence of ndarray, (4, 4)
        Frame mm -> scan mm, one frame for each scan.

    Returns
    -------
    list of ndarray
        With ``mean_i log(frames_i⁻¹ rigids_i) = 0``; from one scan to another they are as before.
    """
    rigids = list(rigids)
    for _ in range(5):  # converges cubically
        logs = [np.real(logm(np.linalg.inv(f) @ r)) for f, r in zip(frames, rigids, strict=True)]
        back = expm(-np.mean(logs, axis=0))
        rigids = [rigid @ back for rigid in rigids]
    return rigids


def bring(brains: Sequence[Brain], alignment: Alignment) -> tuple[torch.Tensor, torch.Tensor]:
    """The scans on the average's grid, (n, X, Y, Z), and the brain that most of them agree on, (X, Y, Z), bool."""
    pairs = list(zip(brains, alignment.rigids, strict=True))
    images = torch.stack([_cubic(brain.image, alignment.grid, rigid) for brain, rigid in pairs])
    inside = [resample(brain.mask.float()[None], brain.image.grid, alignment.grid, rigid)[0] for brain, rigid in pairs]
    return images, torch.stack(inside).mean(0) > 0.5


def differential_bias(images: torch.Tensor, weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Smooth gain of each scan relative to their geometric mean, (n, X, Y, Z); the logs have mean zero over scans.

    Parameters
    ----------
    images : Tensor, (n, X, Y, Z)
        Aligned scans.
    weight : Tensor, (X, Y, Z)
        0 to 1: the brain, or its white matter, whose intensity does not fall with atrophy.
    grid : Grid
        Grid of both.

    Notes
    -----
    Low-pass of the log ratio with weights that fall with the noise of a log (1 / intensity²) and, jointly for all
    scans, with the distance from the fit (Tukey's): tissue that has changed is no gain.
    """
    weight = weight.float()[None]
    coarse = linear.at_spacing(Volume(torch.cat([images * weight, weight]), grid), _BIAS_MM)
    share = coarse.data[-1].clamp(min=1e-3)
    logs = (coarse.data[:-1] / share).clamp(min=1e-6).log()
    mean = logs.mean(0)
    known = share > _LEAST_SHARE
    use = share * known * (2 * (mean - mean[known].median()).clamp(max=1)).exp()
    ratio = logs - mean
    field, robust = torch.zeros_like(ratio), torch.ones_like(use)
    for _ in range(_N_BIAS):
        sure = use * robust
        low = smooth(torch.cat([(ratio - field) * sure, sure[None]]), _BIAS_FWHM_MM / coarse.grid.voxel_size_mm, 3.0)
        support = _LEAST_SUPPORT * float(low[-1].max())
        overall = ((ratio - field) * sure).sum(dim=(1, 2, 3), keepdim=True) / sure.sum()
        field = field + (low[:-1] + support * overall) / (low[-1] + support)
        far = (ratio - field).square().mean(0).sqrt()
        limit = _TUKEY_SD * max(1.4826 * float(far[known].median()), _LEAST_LOG_SD)
        robust = (1 - (far / limit).square()).clamp(min=0).square()
    return resample(field, coarse.grid, grid, padding_mode="border").exp()


def similarity(images: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """Correlation of each aligned scan with the mean of the others within the brain."""
    values = images[:, mask].double()
    total = values.sum(0)
    return [float(torch.corrcoef(torch.stack([one, total - one]))[0, 1]) for one in values]


def _cubic(image: Volume, grid: Grid, rigid: np.ndarray) -> torch.Tensor:
    """An image on another grid by cubic splines, (X, Y, Z); 0 beyond it and where they undershoot."""
    voxel = np.linalg.inv(image.grid.affine) @ rigid @ grid.affine
    values = ndimage.affine_transform(image.data[0].cpu().numpy(), voxel[:3, :3], voxel[:3, 3], grid.shape, order=3)
    return torch.from_numpy(values).to(image.data).clamp_(min=0)


def _evened(brains: Sequence[Brain], rigids: Sequence[np.ndarray]) -> list[Brain]:
    """The brains divided by their differential bias."""
    grid = _grid_around(brains, rigids, _BIAS_MM)
    pulled = torch.stack([
        resample(torch.cat([brain.image.data, brain.mask.float()[None]]), brain.image.grid, grid, rigid)
        for brain, rigid in zip(brains, rigids, strict=True)
    ])  # fmt: skip
    gains = differential_bias(pulled[:, 0], pulled[:, 1].mean(0) > 0.5, grid)
    evened = []
    for brain, gain, rigid in zip(brains, gains, rigids, strict=True):
        own = resample(gain[None], grid, brain.image.grid, np.linalg.inv(rigid), padding_mode="border")
        evened.append(replace(brain, image=Volume(brain.image.data / own, brain.image.grid)))
    return evened


def _fitted(
    brains: Sequence[Brain], rigids: list[np.ndarray], centre: np.ndarray, levels: Sequence[tuple[float, int]]
) -> tuple[list[np.ndarray], list[float]]:
    """Motions, with the size, fitted from coarse to fine, and how far the last update moved each brain, mm."""
    images = [linear.shape_and_contrast(brain.image, brain.mask, spacing_mm=_LEVELLED_MM) for brain in brains]
    moved = [0.0] * len(rigids)
    for spacing_mm, n_iterations in levels:
        level = [linear.at_spacing(image, spacing_mm) for image in images]
        grid = _grid_around(brains, rigids, spacing_mm)
        for _ in range(n_iterations):
            updates = _updates(level, rigids, grid, centre)
            rigids = [rigid @ expm(update) for rigid, update in zip(rigids, updates, strict=True)]
            moved = [_largest_mm(update, centre) for update in updates]
    return rigids, moved


def _centre(brain: Brain, matrix: np.ndarray) -> np.ndarray:
    """Centre of a brain, in template mm."""
    voxel = brain.mask.nonzero().double().mean(0).cpu().numpy()
    mm: np.ndarray = (np.linalg.inv(matrix) @ brain.image.grid.affine @ np.append(voxel, 1.0))[:3]
    return mm


def _grid_around(brains: Sequence[Brain], rigids: Sequence[np.ndarray], size_mm: float) -> Grid:
    """An isotropic grid in the average's frame that holds all brains with a margin."""
    ends = []
    for brain, rigid in zip(brains, rigids, strict=True):
        to_average = np.linalg.inv(rigid) @ brain.image.grid.affine
        mm = to_average[:3, :3] @ brain.mask.nonzero().T.cpu().numpy() + to_average[:3, 3:]
        ends.append((mm.min(1), mm.max(1)))
    low, high = np.min([a for a, _ in ends], axis=0), np.max([b for _, b in ends], axis=0)
    shape = np.ceil((high - low) / size_mm).astype(int) + 1 + 2 * _MARGIN_VOXELS
    affine = np.diag([size_mm, size_mm, size_mm, 1.0])
    affine[:3, 3] = (low + high) / 2 - size_mm * (shape - 1) / 2
    return Grid(tuple(shape), affine)


def _updates(images: list[Volume], rigids: list[np.ndarray], grid: Grid, centre: np.ndarray) -> list[np.ndarray]:
    """A Gauss-Newton step of each motion against the mean, in the Lie algebra, (4, 4); their mean is zero."""
    pulled = torch.stack([resample(v.data, v.grid, grid, r) for v, r in zip(images, rigids, strict=True)])
    inside = pulled[:, 0].amin(0) > _ALL_INSIDE
    values = pulled[:, 1] / pulled[:, 1][:, inside].mean(dim=1)[:, None, None, None]
    mean = values.mean(0)
    slope = torch.stack(torch.gradient(mean, spacing=grid.voxel_size_mm.tolist()))[:, inside].double()
    at = apply_affine(grid.affine, voxel_indices(grid.shape, mean.device))[:, inside].double()
    at = at - torch.as_tensor(centre, device=at.device)[:, None]
    along = (at * slope).sum(0, keepdim=True)
    columns = torch.cat([slope, torch.linalg.cross(at, slope, dim=0), along])  # of translations, rotations and the size
    steps = []
    for value in values:
        residual = (value - mean)[inside].double()
        limit = _HUBER_SD * 1.4826 * float(residual.abs().median()) + 1e-12
        weighted = columns * (limit / residual.abs().clamp(min=limit))
        steps.append(np.linalg.solve((weighted @ columns.T).cpu().numpy(), -(weighted @ residual).cpu().numpy()))
    return [_generator(step, centre) for step in np.array(steps) - np.mean(steps, axis=0)]


def _generator(step: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Element of the Lie algebra of a translation, a rotation vector about a centre and a log of size, (4, 4)."""
    x, y, z = step[3:6]
    turn = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) + step[6] * np.eye(3)
    out = np.zeros((4, 4))
    out[:3, :3], out[:3, 3] = turn, step[:3] - turn @ centre
    return out


def _largest_mm(generator: np.ndarray, centre: np.ndarray) -> float:
    """An upper bound of how far a small motion moves points of the brain."""
    turn = np.linalg.norm(generator[:3, :3]) / np.sqrt(2)
    return float(np.linalg.norm(generator[:3, :3] @ centre + generator[:3, 3]) + turn * _BRAIN_RADIUS_MM)
