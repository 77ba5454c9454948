"""The lesion network: what it sees, where its answer goes, which files it comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.preproc.networks.test_deep_t1_wmh import published
from vbmstat import assets
from vbmstat.errors import AssetError
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks import lesions
from vbmstat.preproc.networks.lesion_net import N_DESCRIPTORS, LesionNet, candidates, describe
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


def test_the_inputs_are_intensity_and_priors_in_the_template_frame(evidence):
    inputs = lesions.network_inputs(evidence)
    view = lesions.view()
    assert inputs.shape == (3, *view.shape)
    template = assets.template()
    expected = resample(template.data, template.grid, view)
    assert float((inputs[1:] - expected).abs().mean()) < 0.03
    wm, gm = expected[1] > 0.97, expected[0] > 0.9
    assert float(inputs[0][wm].mean()) == pytest.approx(1, abs=0.1)
    assert float(inputs[0][gm].mean()) == pytest.approx(0, abs=0.15)
    assert float(inputs[0].min()) >= lesions.CONTRAST_RANGE[0] - 1e-5


def test_the_answer_lies_where_the_network_said(evidence):
    def network(inputs: torch.Tensor) -> torch.Tensor:
        logits = torch.full_like(inputs[:, :1], -20.0)
        logits[..., 90:96, 80:86, 70:76] = 20.0  # at template (26.5…31.5, -21.5…, 22…) mm
        return logits

    answer = lesions.LesionNetwork(network, {})(evidence)
    assert answer.shape == evidence.brain.data.shape[1:]
    centre = (answer.nonzero().double() * answer[answer > 0][:, None]).sum(0) / answer.sum()
    mm = evidence.brain.grid.affine @ np.append(centre.numpy(), 1)
    np.testing.assert_allclose(mm[:3], SHIFT[:3, 3] + np.array([29.0, -19.0, 24.5]), atol=0.5)
    assert float(answer.sum()) * 8 == pytest.approx(216, rel=0.05)


def test_the_network_is_small_and_answers_for_candidates_only(evidence):
    network = LesionNet()
    assert n_parameters(network) < 1_000_000
    image = lesions.network_inputs(evidence)[:, 20:60, 40:90, 40:80]
    at = candidates(image)
    with torch.inference_mode():
        logits = network(image[None])
    elsewhere = torch.ones(logits.shape[2:], dtype=torch.bool)
    elsewhere[tuple(at.T)] = False
    assert logits.shape == (1, 1, 40, 50, 40)
    assert 0 < len(at) < elsewhere.numel() / 2
    assert float(logits[0, 0][elsewhere].max()) < -10
    descriptors = describe(image, at)
    assert descriptors.shape == (len(at), N_DESCRIPTORS)
    assert bool(torch.isfinite(descriptors).all())
    with torch.inference_mode():
        again = network(descriptors.T[None, :, :, None, None])
    torch.testing.assert_close(again[0, 0, :, 0, 0], logits[0, 0][tuple(at.T)])


def test_left_and_right_are_described_alike(evidence):
    image = lesions.network_inputs(evidence)[:, :, 40:90, 40:80]
    at = candidates(image)[::50]
    mirrored = at.clone()
    mirrored[:, 0] = image.shape[1] - 1 - mirrored[:, 0]
    torch.testing.assert_close(describe(image, at), describe(image.flip(1), mirrored), atol=1e-4, rtol=1e-4)


def test_networks_are_found_by_name_and_file(tmp_path, evidence):
    path = tmp_path / "mine.safetensors"
    save_network(path, build_network("wmh", {"n_channels": 8, "depth": 1}), "wmh", {"n_channels": 8, "depth": 1})
    network = lesions.find_network(str(path))
    assert network.sha256 == {"mine.safetensors": assets.sha256(path)}
    assert lesions.find_network("none") is None
    torch.save(published(), tmp_path / "theirs.pt")
    theirs = lesions.find_network(str(tmp_path / "theirs.pt"))
    assert theirs.sha256 == {"theirs.pt": assets.sha256(tmp_path / "theirs.pt")}


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


def test_the_grid_of_the_view_holds_the_white_matter():
    template = assets.template()
    wm = template.data[1:2].clone()
    inside = resample(torch.ones(1, *lesions.VIEW_SHAPE), lesions.view(), template.grid)[0] > 0.5
    assert float((wm[0] * inside).sum() / wm.sum()) > 0.95
