"""The published lesion network: its state dict's layout, its frame, its rescaling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.errors import AssetError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks import deep_t1_wmh
from vbmstat.preproc.networks.unet import n_parameters
from vbmstat.preproc.steps.lesions import Evidence

CONVOLUTIONS = {  # name in the authors' state dict -> filters before, after
    "block0.0": (1, 24), "block0.3": (24, 64),
    "block1.0": (64, 64), "block1.3": (64, 64), "block2.0": (64, 64), "block2.3": (64, 64),
    "block3.0": (64, 64), "block3.3": (64, 64), "block4.0": (64, 64), "block4.3": (64, 64),
    "block5.0": (64, 128), "block5.3": (128, 64),
    "blockUp4_a.0": (64, 64), "blockUp4_b.0": (64, 64), "blockUp3_a.0": (64, 64), "blockUp3_b.0": (64, 64),
    "blockUp2_a.0": (64, 64), "blockUp2_b.0": (64, 64), "blockUp1_a.0": (64, 64), "blockUp1_b.0": (64, 64),
    "blockUp0_a.0": (64, 64), "blockUp0_b1.0": (64, 64), "blockUp0_b2.0": (64, 24),
}  # fmt: skip


def published(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the published layout with random numbers."""
    source = torch.Generator().manual_seed(seed)
    shapes = {f"{name}.weight": (after, before, 3, 3, 3) for name, (before, after) in CONVOLUTIONS.items()}
    shapes |= {f"{name}.bias": (after,) for name, (_, after) in CONVOLUTIONS.items()}
    shapes |= {"conv1x.weight": (2, 24, 1, 1, 1), "conv1x.bias": (2,)}
    return {name: 0.05 * torch.randn(shape, generator=source) for name, shape in shapes.items()}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / deep_t1_wmh.FILE
    torch.save(published(), path)
    return path


@pytest.fixture(scope="module")
def crop() -> torch.Tensor:
    """An image with sizes that do not halve evenly, as the published view."""
    return torch.randn(1, 1, 40, 42, 24, generator=torch.Generator().manual_seed(1))


def test_a_file_of_the_published_layout_is_loaded_completely(weights):
    network = deep_t1_wmh.load_published(weights)
    tensors = published()
    assert network.state_dict().keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    assert n_parameters(network) == 2_518_122  # "about 2.5 M"


def test_every_layer_takes_part(weights, crop):
    network = deep_t1_wmh.load_published(weights)
    with torch.inference_mode():
        before = network(crop)
        assert before.shape == (1, 2, 40, 42, 24)
        for name, value in network.state_dict().items():
            if name.endswith("weight"):
                kept = value.clone()
                value.mul_(torch.linspace(0.2, 2.0, value.numel()).reshape(value.shape))
                assert not torch.equal(network(crop), before), name
                value.copy_(kept)
        assert torch.equal(network(crop), before)


def test_further_entries_are_ignored_and_old_torch_files_read(tmp_path, crop):
    path = tmp_path / "old.pt"
    torch.save({**published(), "head.weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    deep_t1_wmh.load_published(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block3.0.weight": None}, r"expected block3.0.weight of shape \(64, 64, 3, 3, 3\), got none"),
        ({"conv1x.bias": torch.zeros(4)}, r"expected conv1x.bias of shape \(2,\), got \(4,\)"),
    ],
)
def test_another_layout_is_refused(tmp_path, change, message):
    path = tmp_path / "other.pt"
    torch.save({name: value for name, value in {**published(), **change}.items() if value is not None}, path)
    with pytest.raises(AssetError, match=message):
        deep_t1_wmh.load_published(path)


def test_code_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 2), path)  # a pickled module runs code when it is loaded
    with pytest.raises(AssetError, match="not a state dict of torch"):
        deep_t1_wmh.load_published(path)
    with pytest.raises(AssetError, match="no such file"):
        deep_t1_wmh.load_published(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("p", "expected"), [(0.3, 0.0), (0.5, 0.0), (0.51, 0.52), (0.625, 0.75), (0.75, 1.0), (0.9, 1.0)]
)
def test_probabilities_are_stretched_as_by_the_authors(p, expected):
    assert float(deep_t1_wmh.stretched(torch.tensor(p))) == pytest.approx(expected, abs=1e-6)


def test_the_frame_is_mni_in_las_and_the_input_z_scored():
    """The scan's brightest voxel reaches the network where the linear registration says it lies in MNI."""
    linear = np.eye(4)
    linear[:3, 3] = (4.0, -6.0, 10.0)  # template -> scan mm
    grid = Grid(
        (90, 110, 90), np.diag([2.0, 2.0, 2.0, 1.0]) + np.pad(np.array([[-90.0], [-126.0], [-72.0]]), ((0, 1), (3, 0)))
    )
    scan = torch.zeros(1, *grid.shape)
    scan[0, 60, 50, 55] = 1000.0  # at (30, -26, 38) mm: MNI (26, -20, 28)
    seen = {}

    def network(image: torch.Tensor) -> torch.Tensor:
        seen["image"] = image
        return torch.cat([image.gt(image.max() / 2).float(), torch.zeros_like(image)], dim=1)

    evidence = Evidence(
        Volume(scan, grid), torch.zeros(3, *grid.shape), torch.zeros(3, *grid.shape), linear, Volume(scan, grid)
    )
    proposed = deep_t1_wmh.PublishedNetwork(network, {})(evidence)
    image = seen["image"][0, 0]
    assert image.shape == (184, 202, 72)
    assert float(image.mean()) == pytest.approx(0, abs=1e-3)
    assert float(image.std()) == pytest.approx(1, abs=1e-3)
    brightest = np.unravel_index(int(image.argmax()), image.shape)
    at = np.array([[-1, 0, 0], [0, 1, 0], [0, 0, 1.5]]) @ brightest + np.array([90, -117, -33])
    assert np.abs(at - (26, -20, 28)).max() <= 1.0
    back = np.array(np.unravel_index(int(proposed.argmax()), proposed.shape))
    assert np.abs(back - (60, 50, 55)).max() <= 1
