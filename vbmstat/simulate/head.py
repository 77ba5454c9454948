"""A person's scan: tissue fractions and noise-free intensities of the whole head on the scan's grid.

Around the brain lie CSF, compact bone with marrow, fat and skin; below, a neck with the spinal cord and a simple face
with eyes and airways: enough for a brain extraction network to recognise a head. Distances are in template mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vbmstat.image import grid
from vbmstat.image.grid import Grid
from vbmstat.simulate.anatomy import TemplateHead
from vbmstat.simulate.render import smooth_noise

FIELD_OF_VIEW_MM = (192.0, 240.0, 228.0)
FIELD_CENTRE_MM = (0.0, -16.0, -8.0)  # of the scan's RAS+ frame
_SIGNAL_WM, _SIGNAL_CSF = 1.0, 0.25
_BONE, _MARROW, _FAT, _MUSCLE, _SKIN, _CORD, _EYE = 0.07, 0.70, 1.20, 0.50, 0.50, 0.92, 0.20
_CSF_MM, _SKULL_MM, _SCALP_MM, _SKIN_MM = 1.5, 5.5, 5.0, 2.0
_EDGE_MM = 0.4  # half-width of the soft edges between tissues


@dataclass(frozen=True)
class Person:
    """A noise-free scan of a person, with its ground truth."""

    # (3, X, Y, Z), float32: true GM, WM and CSF fractions; their sum is below 1 at the edge of the brain and 0 outside
    fractions: torch.Tensor
    signal: np.ndarray  # (X, Y, Z), float32: T1w intensity relative to WM
    grid: Grid  # grid of the scan, scanner RAS+ mm


def scan_grid(voxel_size_mm: float) -> Grid:
    """A whole-head field of view with cubic voxels of the given size."""
    shape = tuple(round(extent / voxel_size_mm) for extent in FIELD_OF_VIEW_MM)
    affine = np.diag([voxel_size_mm] * 3 + [1.0])
    affine[:3, 3] = np.array(FIELD_CENTRE_MM) - voxel_size_mm * (np.array(shape) - 1) / 2
    return Grid(shape, affine)  # type: ignore[arg-type]


def draw_person(
    head: TemplateHead, scores: torch.Tensor, points: torch.Tensor, on: Grid, rng: np.random.Generator
) -> Person:
    """A person's tissue fractions and signal on a scan's grid.

    Parameters
    ----------
    head : TemplateHead
        The template's head.
    scores : Tensor, (3, X, Y, Z)
        The person's tissue scores on the head's grid, effect included.
    points : Tensor, (3, X, Y, Z)
        Template point (mm) of each voxel of the scan, from the person's shape.
    on : Grid
        Grid of the scan.
    rng : Generator
        Random numbers for the thickness of skull and scalp and the pattern of fat.
    """
    layers = torch.cat([scores, head.gm_signal])
    sampled = grid.sample(layers, grid.apply_affine(np.linalg.inv(head.grid.affine), points), padding_mode="border")
    distance = _distance(head, points)
    thickness = 1.0 + 0.25 * smooth_noise(on, 30.0, rng)
    brain = _inside(distance - _CSF_MM * thickness)
    fractions = torch.softmax(sampled[:3], dim=0)
    signal = (fractions[0] * sampled[3] + _SIGNAL_WM * fractions[1] + _SIGNAL_CSF * fractions[2]).numpy()
    outside = _outer_head(points.numpy(), distance, thickness, smooth_noise(on, 9.0, rng))
    whole = (brain * signal + (1.0 - brain) * outside).astype(np.float32)
    return Person(fractions * torch.from_numpy(brain), whole, on)


def _distance(head: TemplateHead, points: torch.Tensor) -> np.ndarray:
    """Signed distance to the hull of the brain at template points; it keeps growing beyond the head's grid."""
    voxels = grid.apply_affine(np.linalg.inv(head.grid.affine), points)
    last = torch.tensor(head.grid.shape).reshape(3, 1, 1, 1) - 1
    beyond = (voxels - voxels.clamp(min=0).minimum(last)).square().sum(0).sqrt() * float(head.grid.voxel_size_mm[0])
    return (grid.sample(head.distance_mm, voxels, padding_mode="border")[0] + beyond).numpy()


def _outer_head(points: np.ndarray, distance: np.ndarray, thickness: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Intensity of everything but the brain at template points (mm), (X, Y, Z)."""
    x, y, z = points
    skull_in = _CSF_MM * thickness
    skull_out = skull_in + _SKULL_MM * thickness
    neck = _ellipse((x, y + 42.0 - 0.25 * (z + 70.0)), (56.0, 60.0))
    neck = np.maximum(neck, z + 60.0)
    face = _ellipse((x, y - 38.0, z + 62.0), (58.0, 52.0, 62.0))
    surface = np.minimum(np.minimum(distance - skull_out - _SCALP_MM * thickness, neck), face)  # < 0 in the head

    fat = np.clip(0.5 + patches - 1.0 + 3.0 * _inside(-(surface + _SKIN_MM + 4.0)), 0.0, 1.0)
    signal = _MUSCLE + (_FAT - _MUSCLE) * fat
    signal = _blend(signal, _SKIN, _inside(-(surface + _SKIN_MM)))
    is_skull = _inside(distance - skull_out) * (1.0 - _inside(distance - skull_in))
    signal = _blend(signal, _BONE, is_skull)
    middle = np.abs(distance - (skull_in + skull_out) / 2) - 0.9 * thickness
    signal = _blend(signal, _MARROW, _inside(middle) * (z > -40.0) * np.clip(0.5 + patches, 0.0, 1.0))
    for side in (-33.0, 33.0):
        signal = _blend(signal, _EYE, _inside(_ellipse((x - side, y - 66.0, z + 36.0), (12.0, 12.0, 12.0))))
    signal = _blend(signal, 0.0, _inside(_ellipse((x, y - 56.0, z + 62.0), (12.0, 26.0, 20.0))))  # nose
    signal = _blend(signal, 0.0, _inside(np.maximum(_ellipse((x, y - 22.0), (9.0, 7.0)), z + 70.0)))  # throat
    axis_y = y + 46.0 - 0.2 * (z + 70.0)  # the spinal canal goes down and backwards from the brainstem
    below = z + 66.0
    signal = _blend(signal, _SIGNAL_CSF, _inside(np.maximum(_ellipse((x, axis_y), (11.0, 10.0)), below)))
    signal = _blend(signal, _CORD, _inside(np.maximum(_ellipse((x, axis_y), (6.5, 5.5)), below)))
    head: np.ndarray = signal * _inside(surface)
    return head


def _inside(distance: np.ndarray) -> np.ndarray:
    """1 where a signed distance (mm) is negative, 0 where positive, with a soft edge; float32."""
    return np.clip(0.5 - distance / (4.0 * _EDGE_MM), 0.0, 1.0).astype(np.float32)


def _blend(signal: np.ndarray, value: float, share: np.ndarray) -> np.ndarray:
    """Replace a share of the signal by a value."""
    return signal + share * (value - signal)


def _ellipse(offsets: tuple[np.ndarray, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Approximate signed distance (mm) to an ellipsoid or elliptic cylinder."""
    norm: np.ndarray = np.linalg.norm([o / r for o, r in zip(offsets, radii, strict=True)], axis=0)
    return (norm - 1.0) * min(radii)
