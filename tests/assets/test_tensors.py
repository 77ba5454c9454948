"""Networks as files."""

import pytest
import torch

from vbmstat.assets.tensors import read_tensors, write_tensors
from vbmstat.errors import AssetError


def test_weights_and_settings_come_back(tmp_path):
    weights = {"a": torch.rand(2, 3).T, "n": torch.tensor(4)}
    write_tensors(tmp_path / "x.safetensors", weights, {"kind": "wmh", "shape": [1, 2]})
    tensors, settings = read_tensors(tmp_path / "x.safetensors", "a network")
    assert settings == {"kind": "wmh", "shape": [1, 2]}
    assert all(torch.equal(tensors[name], weights[name]) for name in weights)


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(AssetError, match=r"not a network of vbmstat .*; expected a network"):
        read_tensors(tmp_path / "x.safetensors", "a network")
    with pytest.raises(AssetError, match="missing"):
        read_tensors(tmp_path / "y.safetensors", "a network")
