"""Sets of networks: their files, and no code of an archive runs before its hash is checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.preproc.networks import archives
from vbmstat import assets
from vbmstat.assets import downloads
from vbmstat.errors import AssetError
from vbmstat.preproc.networks import weights
from vbmstat.preproc.networks.patches import PATCH_SHAPE, REGION_SHAPE
from vbmstat.preproc.networks.symnet import SymNet


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of fetched files."""
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return archives.write_published(tmp_path_factory.mktemp("archives"))


def test_fetched_archives_are_loaded_with_their_hashes(cache, published):
    downloads.fetch("deepmriprep", str(published))
    networks = weights.find_set("deepmriprep")
    assert len(networks.tissue.patches) == 18
    assert len(networks.tissue.positions) == 27
    assert networks.sha256 == downloads.weights_sha256("deepmriprep")
    assert networks.sha256["warp_model.pt"] == assets.sha256(published / "warp_model.pt")
    assert not networks.refine_warp
    torch.manual_seed(0)
    same = nn.Conv3d(1, 1, 1)  # same seed as the first archive
    image = torch.rand(1, 1, 4, 4, 4)
    assert torch.equal(networks.tissue.whole(image), same(image))
    assert networks.tissue.patches[7](torch.rand(1, 2, 4, 4, 4)).shape == (1, 1, 4, 4, 4)


def test_archives_of_a_folder_load_once_their_hashes_are_recorded(cache, published):
    with pytest.raises(AssetError, match=r"is not recorded, and TorchScript files run code; if you trust .*--source"):
        weights.find_set(str(published))
    downloads.fetch("deepmriprep", str(published))
    assert weights.find_set(str(published)).sha256 == downloads.weights_sha256("deepmriprep")


def test_no_archive_is_loaded_before_its_hash_is_checked(cache, published, tmp_path, monkeypatch):
    folder = archives.write_published(tmp_path / "exchanged", {"warp_model.pt": archives.Shift([0.5] * 3, [0.0] * 3)})
    downloads.fetch("deepmriprep", str(published))
    loaded = []
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: loaded.append(1) or nn.Identity())
    with pytest.raises(AssetError, match=r"warp_model.pt: its sha256 .* differs from the recorded") as caught:
        weights.find_set(str(folder))
    assert "\n" not in str(caught.value)
    assert len(loaded) == 20  # the others match their record


def test_positions_are_those_of_the_published_package():
    positions = weights.published_positions()
    assert len(positions) == 27
    for index, (x, y, z) in enumerate(positions[:9]):
        assert positions[18 + index] == (REGION_SHAPE[0] - PATCH_SHAPE[0] - x, y, z)
        assert positions[9 + index][0] == 104  # in the middle
    for position in positions:
        assert all(0 <= a <= n - p for a, n, p in zip(position, REGION_SHAPE, PATCH_SHAPE, strict=True))


def test_another_list_of_positions_is_refused(monkeypatch):
    monkeypatch.setattr(weights, "_POSITIONS_SHA256", "0" * 64)
    with pytest.raises(AssetError, match="not the patches tested with vbmstat"):
        weights.published_positions()


def test_own_networks_come_back_as_they_were_saved(tmp_path):
    folder = archives.write_own(tmp_path, ("segmentation", "patches", "gm-mask", "registration"))
    networks = weights.find_set(str(folder))
    assert networks.tissue.whole_shape == networks.tissue.mask_shape == (56, 64, 56)
    assert len(networks.tissue.patches) == 18
    assert networks.tissue.positions[18:] == tuple((208 - x, y, z) for x, y, z in networks.tissue.positions[:9])
    assert isinstance(networks.warp, SymNet)
    assert len(networks.sha256) == 21
    torch.manual_seed(1)
    first = weights.build_network("segmentation", archives.SMALL).eval()
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(networks.tissue.whole(image), first(image), atol=1e-6)


def test_a_set_needs_only_the_whole_view(tmp_path):
    networks = weights.find_set(str(archives.write_own(tmp_path, ("segmentation",))))
    assert networks.tissue.patches == ()
    assert networks.tissue.gm_mask is None
    assert networks.warp is None


@pytest.mark.parametrize("refine", [True, False])
def test_a_registration_records_whether_to_refine_its_velocity(tmp_path, refine):
    archives.write_own(tmp_path, ("segmentation",))
    settings = {**archives.SMALL, "refine": refine}
    network = weights.build_network("registration", settings)
    weights.save_network(weights.own_file(tmp_path, "registration"), network, "registration", settings)
    assert weights.find_set(str(tmp_path)).refine_warp is refine


def test_a_missing_set_is_an_error_that_says_what_to_do(tmp_path, cache):
    with pytest.raises(AssetError, match="there is no folder nowhere"):
        weights.find_set("nowhere")
    with pytest.raises(AssetError, match="has neither"):
        weights.find_set(str(tmp_path))
    with pytest.raises(AssetError, match="not fetched; run 'vbmstat assets fetch deepmriprep'"):
        weights.find_set("deepmriprep")


def test_the_shipped_networks_are_the_released_ones(tmp_path, monkeypatch):
    networks = weights.find_set("vbmstat")
    assert dict(networks.sha256) == weights.SHIPPED
    assert networks.tissue.is_coarse
    assert networks.refine_warp
    assert all((weights.shipped_folder() / name).stat().st_size < 10e6 for name in weights.SHIPPED)
    shutil.copytree(weights.shipped_folder(), tmp_path / "weights")
    archives.write_own(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "segmentation.safetensors", tmp_path / "weights")
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path / "weights")
    with pytest.raises(AssetError, match=r"segmentation\.safetensors differs from the released version"):
        weights.find_set("vbmstat")


def test_files_of_other_programs_are_named(tmp_path):
    from safetensors.torch import save_file  # noqa: PLC0415 - heavy

    path = weights.own_file(tmp_path, "segmentation")
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(AssetError, match=r"segmentation.safetensors: not a network of vbmstat \(SafetensorError\)"):
        weights.find_set(str(tmp_path))
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(AssetError, match=r"not a network of vbmstat \(KeyError\)"):
        weights.find_set(str(tmp_path))
    save_file({"a": torch.zeros(1)}, path, {"vbmstat": json.dumps({"kind": "segmentation", "shape": [1, 1, 1]})})
    with pytest.raises(AssetError, match=r"not a network of vbmstat \(RuntimeError\)"):
        weights.find_set(str(tmp_path))
    with pytest.raises(AssetError, match=r"gm-mask\.safetensors: missing"):
        weights.load_network(weights.own_file(tmp_path, "gm-mask"))
