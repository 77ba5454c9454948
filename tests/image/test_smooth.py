import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import gaussian_kernel, smooth, smooth_map, smooth_onto
from vbmstat.image.volume import Volume


@pytest.mark.parametrize("fwhm", [2.0, 4.0, 9.5])
def test_kernel_has_unit_sum_and_its_width(fwhm):
    kernel = gaussian_kernel(fwhm)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    position = torch.arange(len(kernel)) - len(kernel) // 2
    variance = float((kernel * position**2).sum())
    sigma = fwhm / np.sqrt(8 * np.log(2))
    assert variance == pytest.approx(sigma**2 + 1 / 12, rel=1e-3)  # the voxel's own width adds 1/12


def test_zero_width_is_the_identity():
    data = torch.rand(1, 4, 5, 6)
    assert torch.equal(smooth(data, np.zeros(3)), data)


def test_matches_scipy_along_each_axis():
    data = torch.rand(2, 9, 11, 13)
    expected = data.numpy()
    widths = np.array([2.0, 3.0, 5.0])
    for axis, width in enumerate(widths):
        expected = correlate1d(expected, gaussian_kernel(width).numpy(), axis + 1, mode="constant")
    np.testing.assert_allclose(smooth(data, widths).numpy(), expected, atol=1e-6)


def test_map_keeps_its_sum_and_reaches_six_sigma():
    grid = Grid((41, 41, 41), np.diag([1.5, 1.5, 1.5, 1]))
    point = torch.zeros(1, 41, 41, 41)
    point[0, 20, 20, 20] = 1
    spread = smooth_map(Volume(point, grid), 6.0).data[0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert float(spread[20 + 10, 20, 20]) > 0  # 15 mm is 5.9 sigma; deepmriprep's kernel ends at 6 mm
    half = float(spread[22, 20, 20] / spread[20, 20, 20])  # 3 mm from the peak, half of 6 mm FWHM
    assert half == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("turn", [0.0, 0.2])
def test_smooth_onto_resamples_the_smoothed_image(turn):
    source = Grid((19, 24, 21), np.array([[1.2, 0, 0, -3], [0, 0.9, 0, 5], [0, 0, 1, 2], [0, 0, 0, 1.0]]))
    target = source.with_voxel_size([1.2, 2.6, 3.1])  # beyond the first and the last centres, too
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    target = Grid((target.shape[0] + 1, *target.shape[1:]), rotation @ target.affine)
    data, width = torch.rand(2, *source.shape), np.array([0.0, 2.0, 3.0])
    expected = resample(smooth(data, width, 3.0), source, target)
    np.testing.assert_allclose(smooth_onto(data, source, target, width, 3.0), expected, atol=1e-6)
