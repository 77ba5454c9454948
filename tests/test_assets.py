"""Assets: proof of what they are, and clear words when they are not."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.errors import AssetError


@pytest.mark.parametrize("name", assets.ASSETS)
def test_installed_assets_are_the_tested_ones(name):
    assert assets.asset_path(name).is_file()
    assert assets.ASSETS[name].licence


def test_sha256_is_that_of_all_bytes(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * (2 * (1 << 20) + 1))
    assert assets.sha256(tmp_path / "large") == hashlib.sha256(b"x" * (2 * (1 << 20) + 1)).hexdigest()


def test_changed_asset_is_refused(monkeypatch):
    monkeypatch.setitem(assets.ASSETS, "changed", replace(assets.ASSETS["deepbet-box"], sha256="0" * 64))
    with pytest.raises(AssetError, match=r"sha256 39a7b2b5f799… differs from the tested 000000000000…; install"):
        assets.asset_path("changed")


def test_unknown_asset():
    with pytest.raises(AssetError, match=r"expected the name of an asset \(template, .*\), got 'tempalte'"):
        assets.asset_path("tempalte")


def test_missing_distribution_and_missing_file():
    with pytest.raises(AssetError, match="which is not installed; pip install no-such-distribution"):
        assets.distribution_file("no-such-distribution", "file")
    with pytest.raises(AssetError, match="missing from package deepbet; pip install --force-reinstall deepbet"):
        assets.distribution_file("deepbet", "no/such/file")


def test_template_is_cat12s():
    template = assets.template()
    assert template.data.shape == (2, 113, 137, 113)
    np.testing.assert_allclose(template.grid.voxel_size_mm, 1.5)
    assert (np.diag(template.grid.affine)[:3] > 0).all()  # RAS+
    gm, wm = template.sums_ml
    assert 500 < gm < 900
    assert 450 < wm < 800
    left = template.data[:, : 113 // 2].sum()
    assert 0.95 < float(left / template.data[:, -(113 // 2) :].sum()) < 1.05


def test_template_brain_lies_where_the_template_lies():
    template, brain = assets.template(), assets.template_brain()

    def centre_mm(volume):
        weight = volume.data.sum(0)
        index = [
            float((weight.sum([d for d in range(3) if d != axis]) * torch.arange(n)).sum() / weight.sum())
            for axis, n in enumerate(volume.grid.shape)
        ]
        return (volume.grid.affine @ [*index, 1])[:3]

    np.testing.assert_allclose(centre_mm(template), centre_mm(brain), atol=4)
