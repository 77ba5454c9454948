"""A phantom seen from several poses, with several shadings: motions, gains and frames are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import groupwise
from vbmstat.preproc.steps.working import Brain
from vbmstat.simulate import render

POSES = ((4.0, -6.0, 3.0, 2.0, -5.0, 1.0), (-3.0, 2.0, 8.0, -4.0, 3.0, 6.0), (7.0, 5.0, -2.0, 0.5, 1.5, -8.0))


SMALL = np.diag([0.6, 0.6, 0.6, 1.0])


def pose(angles_and_mm: tuple[float, ...]) -> np.ndarray:
    """Phantom mm -> scan mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_and_mm[:3], degrees=True).as_matrix()
    matrix[:3, 3] = angles_and_mm[3:]
    return matrix


def small(phantom):
    """The phantom at three fifths of its size, which takes a fifth of the time."""
    grid = phantom.image.grid
    return replace(phantom, image=Volume(phantom.image.data, Grid(grid.shape, SMALL @ grid.affine)))


def seen_from(phantom, to_scan: np.ndarray, seed: int) -> Brain:
    """The small phantom in a scanner's frame, 1.5 mm, with 20 % shading, another gain and 2 % noise."""
    box = phantom.image.grid
    grid = Grid((84, 100, 82), np.array([[1.5, 0, 0, -63], [0, 1.5, 0, -84], [0, 0, 1.5, -60], [0, 0, 0, 1.0]]))
    both = torch.cat([phantom.image.data, phantom.mask.float()[None]])
    image, mask = resample(both, box, grid, np.linalg.inv(to_scan))
    rng = np.random.default_rng(seed)
    shading = torch.from_numpy(render.bias_field(mask.numpy() > 0.5, grid, 20.0, rng))
    noisy = (image * shading + 2 * torch.from_numpy(rng.standard_normal(grid.shape, np.float32))) * (1 + seed)
    return Brain(Volume(noisy.clamp(min=0.1)[None] * (mask > 0.5), grid), mask > 0.5)


@pytest.fixture(scope="module")
def poses() -> list[np.ndarray]:
    return [pose(each) for each in POSES]


@pytest.fixture(scope="module")
def brains(phantom, poses) -> list[Brain]:
    return [seen_from(small(phantom), each, seed) for seed, each in enumerate(poses)]


@pytest.fixture(scope="module")
def linears(poses) -> list[np.ndarray]:
    """Registrations as they come: a size that differs from the template's, and errors of about 1 degree and 1 mm."""
    rng = np.random.default_rng(1)
    errors = [expm(groupwise._generator(rng.normal(0, (1, 1, 1, 0.015, 0.015, 0.015, 0)), np.zeros(3))) for _ in poses]
    return [each @ error @ SMALL @ np.diag([1.1, 0.95, 1.05, 1]) for each, error in zip(poses, errors, strict=True)]


@pytest.fixture(scope="module")
def alignment(brains, linears) -> groupwise.Alignment:
    return groupwise.align(brains, linears)


def largest_error_mm(found: np.ndarray, known: np.ndarray) -> float:
    corners = np.array([[x, y, z, 1] for x in (-36, 36) for y in (-54, 36) for z in (-24, 42)]).T
    return float(np.linalg.norm(((found - known) @ corners)[:3], axis=0).max())


def test_motions_between_scans_are_recovered(alignment, poses):
    for first in range(3):
        for second in range(3):
            found = alignment.rigids[second] @ np.linalg.inv(alignment.rigids[first])
            known = poses[second] @ np.linalg.inv(poses[first])
            assert largest_error_mm(found @ poses[first], known @ poses[first]) < 0.05


def test_motions_are_rigid_and_the_mean_of_their_lie_parameters_is_zero(alignment, linears, brains):
    centre = np.mean([groupwise._centre(b, m) for b, m in zip(brains, linears, strict=True)], axis=0)
    frames = [groupwise.rigid_part(matrix, centre) for matrix in linears]
    logs = [np.real(logm(np.linalg.inv(f) @ r)) for f, r in zip(frames, alignment.rigids, strict=True)]
    assert np.abs(np.mean(logs, axis=0)).max() < 1e-8
    for rigid in alignment.rigids:
        assert np.allclose(rigid[:3, :3].T @ rigid[:3, :3], np.eye(3), atol=1e-9)


def test_the_size_of_a_brain_that_shrank_is_found_and_stays_out_of_its_motion(phantom, poses, linears):
    shrunk = [pose @ np.diag([*[size] * 3, 1]) for pose, size in zip(poses, (1.0, 1.0, 0.98), strict=True)]
    brains = [seen_from(small(phantom), matrix, seed) for seed, matrix in enumerate(shrunk)]
    found = groupwise.align(brains, linears)
    sizes = np.array([np.cbrt(np.linalg.det(size)) for size in found.sizes])
    assert sizes / sizes[0] == pytest.approx([1, 1, 0.98], abs=0.002)
    assert np.log(sizes).mean() == pytest.approx(0, abs=1e-6)
    for rigid in found.rigids:
        assert np.allclose(rigid[:3, :3].T @ rigid[:3, :3], np.eye(3), atol=1e-9)


def test_alignment_does_not_depend_on_the_order(alignment, brains, linears):
    reversed_ = groupwise.align(brains[::-1], linears[::-1])
    for one, other in zip(alignment.rigids, reversed_.rigids[::-1], strict=True):
        assert largest_error_mm(one, other) < 1e-3


def test_a_scan_is_not_blurred_where_its_voxels_lie_between_those_of_the_average():
    grid = Grid((24, 24, 24), np.eye(4))
    wave = 100 + 20 * torch.cos(torch.arange(24) * 2 * np.pi / 4).reshape(-1, 1, 1).expand(grid.shape)
    brain = Brain(Volume(wave[None].contiguous(), grid), torch.ones(grid.shape, dtype=torch.bool))
    shifted = np.eye(4)
    shifted[0, 3] = 0.5
    image = groupwise.bring([brain], groupwise.Alignment(grid, (shifted,), (np.eye(4),), (0.0,)))[0][0, 6:-6, 12, 12]
    truth = 100 + 20 * torch.cos((torch.arange(24) + 0.5) * 2 * np.pi / 4)[6:-6]
    assert float((image - truth).abs().max()) < 1.0  # trilinear interpolation would lose 4.1


def test_differential_bias_is_the_gain_between_scans_and_has_no_mean(alignment, brains):
    images, mask = groupwise.bring(brains, alignment)
    fields = groupwise.differential_bias(images, mask, alignment.grid)
    assert float(fields.log().mean(0).abs().max()) < 1e-5
    assert groupwise.similarity(images / fields, mask)[0] > groupwise.similarity(images, mask)[0]

    def shading(pair: torch.Tensor) -> torch.Tensor:
        """Log ratio of the third to the first scan, in blocks of 12 mm in the brain."""
        blocks = torch.nn.functional.avg_pool3d(pair * mask, 8)[
            :, torch.nn.functional.avg_pool3d(mask[None].float(), 8)[0] > 0.9
        ]
        return (blocks[2] / blocks[0]).log()

    assert float(shading(images).std()) > 0.05
    assert float(shading(images / fields).std()) < 0.012
    assert float(shading(images / fields).mean().exp()) == pytest.approx(1, abs=0.01)


def test_tissue_that_has_changed_is_no_bias(alignment, brains):
    images, mask = groupwise.bring(brains, alignment)
    before = groupwise.differential_bias(images, mask, alignment.grid)
    changed = images.clone()
    middle = tuple(slice(n // 2 - 8, n // 2 + 8) for n in mask.shape)
    changed[(0, *middle)] *= 0.6
    moved = (groupwise.differential_bias(changed, mask, alignment.grid) / before).log().abs()
    assert float(moved[:, mask].max()) < 0.03
