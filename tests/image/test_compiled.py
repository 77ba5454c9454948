"""Compiled loops against torch's functions, which other devices use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.image import compiled
from vbmstat.image.grid import sample, sample_displaced
from vbmstat.image.volume import jacobian_determinant


@pytest.fixture
def source():
    return torch.Generator().manual_seed(0)


def by_torch(work):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "takes", lambda *_: False)
        return work()


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 9, 3), (1, 4, 4)])
def test_sampling_is_torchs(source, shape, padding):
    images = torch.randn(3, *shape, generator=source)
    points = torch.rand(3, 8, 9, 10, generator=source) * 14 - 4
    points[:, 0, 0, 0], points[0, 0, 0, 1], points[1, 0, 0, 2] = torch.nan, torch.inf, -1e30
    expected = by_torch(lambda: sample(images, points, padding_mode=padding))
    expected[:, 0, 0, :3] = 0 if padding == "zeros" else expected[:, 0, 0, :3]
    found = sample(images, points, padding_mode=padding)
    torch.testing.assert_close(found[:, 0, 0, 3:], expected[:, 0, 0, 3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], atol=1e-5, rtol=0)
    assert torch.isfinite(found).all()


def test_a_displacement_is_taken_from_each_voxel(source):
    images, moved = torch.randn(2, 6, 7, 8, generator=source), torch.randn(3, 6, 7, 8, generator=source)
    expected = by_torch(lambda: sample_displaced(images, moved, "border"))
    torch.testing.assert_close(sample_displaced(images, moved, "border"), expected, atol=1e-5, rtol=0)


def test_arrays_that_are_not_contiguous(source):
    images, points = torch.randn(6, 7, 8, 2, generator=source), torch.rand(4, 5, 6, 3, generator=source) * 6
    views = images.permute(3, 0, 1, 2), points.permute(3, 0, 1, 2)
    assert torch.equal(sample(*views), sample(*(view.contiguous() for view in views)))


def test_determinants_are_torchs(source):
    moved = torch.randn(3, 6, 2, 7, generator=source)
    for spacing in ((1.0, 1.0, 1.0), (1.5, 0.7, 2.0)):
        expected = by_torch(lambda spacing=spacing: jacobian_determinant(moved, spacing))
        torch.testing.assert_close(jacobian_determinant(moved, spacing), expected, atol=1e-5, rtol=1e-5)


def test_threads_do_not_matter(source):
    images, points = torch.randn(2, 9, 8, 7, generator=source), torch.rand(3, 5, 6, 7, generator=source) * 8
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 2, 7):
            torch.set_num_threads(n_threads)
            results.append(sample(images, points))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_torch_samples_where_a_gradient_is_wanted(source):
    images = torch.randn(1, 4, 4, 4, generator=source, requires_grad=True)
    sample(images, torch.full((3, 1, 1, 1), 1.5)).sum().backward()
    assert float(images.grad.sum()) == pytest.approx(1)


def test_a_folder_that_cannot_be_written_only_costs_the_cache(monkeypatch):
    import numba  # noqa: PLC0415

    real = numba.njit

    def refuses(cache=False, **options):
        if cache:
            raise RuntimeError
        return real(**options)

    monkeypatch.setattr(numba, "njit", refuses)

    @compiled.compiled
    def double(start, stop, array):
        for i in range(start, stop):
            array[i] *= 2

    array = torch.ones(5)
    compiled.in_slabs(double, 5, array)
    np.testing.assert_array_equal(array, 2)
