"""The slice network, the merging of orientations, and prediction on a scan's grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vbmstat.assets.tensors import write_tensors
from vbmstat.errors import AssetError, ScanError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.tracts.network import (
    build_tract_network,
    cube_around,
    directions_on,
    load_tract_network,
    merge_orientations,
    needed_side,
    predict_tracts,
)  # fmt: skip
from vbmstat.tracts.structure_tensor import Widths

SETTINGS = {
    "kind": "tracts", "tracts": ["CST_left", "CST_right"], "n_channels": 2, "depth": 2, "voxel_mm": 2.0,
    "shape": [20, 20, 20], "widths": [0.5, 0.5, 1.0],
}  # fmt: skip


def brain() -> Volume:
    source = torch.Generator().manual_seed(0)
    data = torch.zeros(1, 30, 34, 24)
    data[:, 4:24, 5:29, 3:20] = 1 + 0.2 * torch.rand(20, 24, 17, generator=source)
    affine = np.diag([1.5, 1.2, 1.4, 1.0])
    affine[:3, 3] = (-20, 11, 3)
    return Volume(data, Grid((30, 34, 24), affine))


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    write_tensors(tmp_path / "tracts.safetensors", build_tract_network(SETTINGS).state_dict(), SETTINGS)
    return tmp_path / "tracts.safetensors"


def test_slices_of_any_shape_keep_it():
    network = build_tract_network(SETTINGS)
    assert network(torch.rand(2, 3, 13, 10)).shape == (2, 2, 13, 10)


def test_merging_averages_the_three_orientations():
    class RowMean(nn.Module):
        def forward(self, slices):
            return slices.mean(2, keepdim=True).expand_as(slices)  # over the first axis of the slice

    image = torch.rand(1, 4, 5, 6)
    y, x, z = image.mean(2, keepdim=True), image.mean(1, keepdim=True), image.mean(1, keepdim=True)
    expected = (y.sigmoid() + x.sigmoid() + z.sigmoid()) / 3  # slices along x have y first; the others x
    assert torch.allclose(merge_orientations(RowMean(), image), expected.expand_as(image), atol=1e-6)


def predicted(scan: Volume, weights, grid: Grid | None = None) -> torch.Tensor:
    return torch.stack(list(predict_tracts(scan, weights, grid or scan.grid)))


def test_prediction_equals_the_whole_network_in_float32(weights):
    scan = brain()
    found = predicted(scan, weights)
    network, _ = load_tract_network(weights)
    image = directions_on(cube := cube_around(scan, 2.0, 20), scan, Widths(0.5, 0.5, 1.0))
    each = [network(image.movedim(axis, 0)).sigmoid().movedim(0, axis) for axis in (1, 2, 3)]  # all slices at once
    expected = resample(torch.stack(each).mean(0), cube, scan.grid)
    assert found.std() > 1e-4
    assert torch.allclose(found, expected, atol=1e-3)  # float16; files have steps of 1/255
    assert torch.equal(found, predicted(scan, weights.parent))


def test_prediction_on_another_grid_is_that_of_the_same_place(weights):
    scan = brain()
    inner = scan.grid.crop((5, 6, 4), (20, 25, 18))
    assert torch.allclose(predicted(scan, weights, inner), predicted(scan, weights)[:, 5:20, 6:25, 4:18], atol=1e-5)


def test_a_brain_larger_than_the_trained_cube_is_not_cut(weights, tmp_path):
    scan = brain()
    small = tmp_path / "small.safetensors"
    write_tensors(small, load_tract_network(weights)[0].state_dict(), {**SETTINGS, "shape": [8, 8, 8]})
    assert needed_side(scan, 2.0) == 15  # 20 × 1.5, 24 × 1.2 and 17 × 1.4 mm
    outside = (predicted(scan, small) == 0).all(0) & (scan.data[0] != 0)
    assert not outside.any()


def test_an_image_of_zeros_is_refused():
    scan = brain()
    with pytest.raises(ScanError, match="expected a brain, got an image of zeros"):
        cube_around(Volume(0 * scan.data, scan.grid), 2.0, 20)


def test_intensity_unit_does_not_matter(weights):
    scan = brain()
    expected = predicted(scan, weights)
    assert torch.allclose(predicted(Volume(500 * scan.data, scan.grid), weights), expected, atol=1e-3)


def test_cube_is_centred_on_the_brain():
    scan = brain()
    cube = cube_around(scan, 2.0, 20)
    middle = scan.grid.affine @ np.array([(4 + 23) / 2, (5 + 28) / 2, (3 + 19) / 2, 1])
    assert np.allclose(cube.affine @ np.array([9.5, 9.5, 9.5, 1]), middle)
    assert np.allclose(cube.voxel_size_mm, 2)


def test_a_file_of_another_kind_is_refused(weights, tmp_path):
    with pytest.raises(AssetError, match="expected a network of kind tracts-teacher, got tracts"):
        load_tract_network(weights, "tracts-teacher")
    with pytest.raises(AssetError, match="missing; expected a file written by 'vbmstat train tracts'"):
        load_tract_network(tmp_path / "none.safetensors")
    write_tensors(weights, {"a": torch.zeros(1)}, SETTINGS)
    with pytest.raises(AssetError, match="do not fit its settings"):
        load_tract_network(weights)
