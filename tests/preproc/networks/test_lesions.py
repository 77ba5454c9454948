"""The lesion network: what it sees, where its answer goes, which files it comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.preproc.networks.test_deep_t1_wmh import published
from vbmstat import assets
from vbmstat.errors import AssetError
from vbmstat.image.grid import Grid, apply_affine, resample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks import lesions
from vbmstat.preproc.networks.unet import n_parameters
from vbmstat.preproc.networks.weights import build_network, save_network
from vbmstat.preproc.steps.lesions import Evidence

SHIFT = np.array([[1, 0, 0, 5], [0, 1, 0, -8], [0, 0, 1, 3], [0, 0, 0, 1]], float)  # template -> scan mm


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """The template as a scan of 2 mm, shifted, with a dark lesion in the white matter."""
    template = assets.template()
    grid = template.grid.with_voxel_size(2.0)
    gm_wm = resample(template.data, template.grid, grid, np.linalg.inv(SHIFT)).clamp(0, 1)
    csf = (1 - gm_wm.sum(0, keepdim=True)).clamp(0, 1)
    tissues = torch.cat([gm_wm, csf])
    image = 0.7 * tissues[0] + tissues[1] + 0.25 * tissues[2]
    return Evidence(Volume(image[None], grid), tissues, tissues, SHIFT, Volume(image[None], grid))


def test_the_inputs_are_intensity_priors_and_position(evidence):
    inputs, grid = lesions.network_inputs(evidence)
    assert inputs.shape == (6, *grid.shape)
    np.testing.assert_allclose(
        grid.voxel_size_mm, 1.0, atol=0.01
    )  # the scan's voxels of 2 mm are too coarse for the network
    template = assets.template()
    expected = resample(template.data, template.grid, grid, np.linalg.inv(SHIFT))
    assert float((inputs[1:3] - expected).abs().mean()) < 0.03
    wm, gm = expected[1] > 0.97, expected[0] > 0.9
    assert float(inputs[0][wm].mean()) == pytest.approx(1, abs=0.1)
    assert float(inputs[0][gm].mean()) == pytest.approx(0, abs=0.15)
    assert float(inputs[0].min()) >= lesions.CONTRAST_RANGE[0] - 1e-5
    corner = (np.linalg.inv(SHIFT) @ grid.affine)[:3, 3]
    np.testing.assert_allclose(inputs[3:, 0, 0, 0], [abs(corner[0]) / 70, (corner[1] + 18) / 90, (corner[2] - 10) / 70])


def test_voxels_of_about_1_mm_are_seen_as_they_are():
    for size, kept in ((0.8, True), (1.0, True), (1.3, True), (0.6, False), (2.0, False)):
        grid = Grid((40, 40, 40), np.diag([size, 1.0, 1.0, 1.0]))
        assert (lesions.seen_grid(grid) is grid) is kept


def test_the_answer_lies_where_the_network_said(evidence):
    def network(inputs: torch.Tensor) -> torch.Tensor:
        x, y, z = inputs[0, 3] * 70, inputs[0, 4] * 90 - 18, inputs[0, 5] * 70 + 10  # template mm; x without its side
        inside = ((x - 29).abs() < 4) & ((y + 19).abs() < 4) & ((z - 24.5).abs() < 4)
        return torch.where(inside, 20.0, -20.0)[None, None]

    answer = lesions.LesionNetwork(network, {})(evidence)
    assert answer.shape == evidence.brain.data.shape[1:]
    assert float(answer.sum()) * 8 == pytest.approx(2 * 8**3, rel=0.15)
    mm = [(evidence.brain.grid.affine @ np.append(at, 1))[:3] - SHIFT[:3, 3] for at in (answer > 0.5).nonzero().numpy()]
    np.testing.assert_allclose(np.abs(mm).mean(0), [29.0, 19.0, 24.5], atol=1.0)


def test_the_network_is_small():
    assert n_parameters(build_network("wmh", {"n_channels": 8, "depth": 3})) < 1_000_000


def test_networks_are_found_by_name_and_file(tmp_path, evidence):
    path = tmp_path / "mine.safetensors"
    save_network(path, build_network("wmh", {"n_channels": 8, "depth": 1}), "wmh", {"n_channels": 8, "depth": 1})
    network = lesions.find_network(str(path))
    assert network.sha256 == {"mine.safetensors": assets.sha256(path)}
    assert lesions.find_network("none") is None
    torch.save(published(), tmp_path / "theirs.pt")
    theirs = lesions.find_network(str(tmp_path / "theirs.pt"))
    assert theirs.sha256 == {"theirs.pt": assets.sha256(tmp_path / "theirs.pt")}


def test_only_the_shipped_network_is_corrected(tmp_path):
    """The threshold of a network that someone trained is what it learned."""
    path = tmp_path / "mine.safetensors"
    save_network(path, build_network("wmh", {"n_channels": 8, "depth": 1}), "wmh", {"n_channels": 8, "depth": 1})
    mine, shipped = (lesions.find_network(weights) for weights in (str(path), "vbmstat"))
    assert (mine.more_likely, mine.sure) == (0.0, 0.0)
    assert shipped.more_likely > 0
    assert shipped.sure > 0.5


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "warp.safetensors"
    save_network(
        path, build_network("gm-mask", {"n_channels": 2, "depth": 1}), "gm-mask", {"n_channels": 2, "depth": 1}
    )
    with pytest.raises(AssetError, match="expected a network of 'vbmstat train wmh', got one of kind gm-mask"):
        lesions.find_network(str(path))
    with pytest.raises(AssetError, match="missing"):
        lesions.find_network(str(tmp_path / "none.safetensors"))


def test_the_published_network_must_be_fetched_first(tmp_path, monkeypatch):
    monkeypatch.setenv("VBMSTAT_ASSETS", str(tmp_path))
    with pytest.raises(AssetError, match="run 'vbmstat assets fetch deep-t1-wmh' where there is internet"):
        lesions.find_network("deep-t1-wmh")


def test_the_network_sees_all_cerebral_white_matter(evidence):
    _, grid = lesions.network_inputs(evidence)
    inside = resample(torch.ones(1, *grid.shape), grid, evidence.brain.grid)[0] > 0.5
    at = voxel_indices(evidence.brain.grid.shape)
    z = apply_affine(np.linalg.inv(SHIFT) @ evidence.brain.grid.affine, at)[2]
    wm = evidence.fractions[1] * (z > -20)  # above the cerebellum
    assert float((wm * inside).sum() / wm.sum()) > 0.98
