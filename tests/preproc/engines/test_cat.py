"""Engine `cat`: what is asked of CAT12's functions, and that their conventions are understood."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import vbmstat
from vbmstat.errors import AssetError, ScanError
from vbmstat.image.grid import Grid, sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines import cat
from vbmstat.preproc.engines.cat import Cat

installed = pytest.mark.skipif(
    find_spec("cat_surf") is None, reason='the optional package cat-surf is absent: pip install "vbmstat[cat]"'
)
SHAPE = (44, 52, 40)
MEANS = {"csf": 0.25, "gm": 0.7, "wm": 1.0}


def ball(radius, shape=SHAPE, centre=(22.0, 26.0, 20.0)):
    at = voxel_indices(shape) - torch.tensor(centre).reshape(3, 1, 1, 1)
    return (radius + 0.5 - at.square().sum(0).sqrt()).clamp(0, 1)  # with partial volume at the surface


@pytest.fixture
def onion():
    """WM within GM within CSF: image in odd units, brain, priors, and the true fractions of GM, WM, CSF."""
    wm, gm_wm, brain = ball(10), ball(15), ball(18)
    truth = torch.stack([gm_wm - wm, wm, brain - gm_wm])
    image = MEANS["gm"] * truth[0] + MEANS["wm"] * truth[1] + MEANS["csf"] * truth[2]
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.02
    mask = brain == 1
    priors = smooth(truth, np.full(3, 4.0)) + 0.02
    return Volume(300 * (image + noise)[None], Grid(SHAPE, np.eye(4))), mask, priors / priors.sum(0), truth


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cat_surf", None)
    cat._cat_surf.cache_clear()
    yield
    cat._cat_surf.cache_clear()


@pytest.mark.usefixtures("without_package")
def test_a_missing_extra_says_what_to_install_before_anything_is_read():
    with pytest.raises(AssetError, match=r'pip install "vbmstat\[cat\]"') as caught:
        vbmstat.preprocess("no-such-folder", engine="cat")
    assert "\n" not in str(caught.value)


@installed
def test_the_sidecar_names_the_package_and_its_settings():
    assert set(Cat().parameters()) == {"cat_surf", "amap", "shooting", "shooting_template_fwhm_mm"}


@installed
def test_sanlm_denoises_and_keeps_the_axes(onion):
    image, mask, _, truth = onion
    clean = 300 * (MEANS["gm"] * truth[0] + MEANS["wm"] * truth[1] + MEANS["csf"] * truth[2])
    before = (image.data[0] - clean)[mask].std()
    after = (cat.denoise(image.data[0]) - clean)[mask].std()
    assert after < 0.7 * before


@installed
def test_amap_finds_the_fractions_in_any_unit(onion):
    image, mask, priors, truth = onion
    found = cat.segment(image, mask, priors)
    assert found.fractions[:, mask].sum(0) == pytest.approx(1.0, abs=1e-5)
    assert float(found.fractions[:, ~mask].abs().max()) == 0
    assert found.means.tolist() == pytest.approx([300 * m for m in (0.25, 0.7, 1.0)], rel=0.05)
    assert float((found.fractions - truth)[:, mask].abs().mean()) < 0.05
    inner = cat.segment(Volume(image.data * 7, image.grid), mask, priors).fractions
    assert torch.allclose(inner, found.fractions, atol=0.02)


@installed
def test_an_image_without_white_matter_above_grey_is_refused(onion):
    image, mask, priors, _ = onion
    with pytest.raises(ScanError, match="expected CSF < GM < WM"):
        cat.segment(Volume(torch.where(mask, 300.0, 0.0)[None], image.grid), mask, priors)


@installed
def test_shooting_returns_both_directions_in_mm_along_the_right_axes():
    shape, size = (32, 40, 28), np.array([3.0, 3.0, 3.0])
    centre, shift = (16.0, 20.0, 14.0), (2.0, -1.0, 0.0)  # voxels
    grid = Grid(shape, np.array([[3.0, 0, 0, -40], [0, 3.0, 0, -60], [0, 0, 3.0, -30], [0, 0, 0, 1]]))

    def tissues(at):
        inner, outer = ball(5, shape, at), ball(9, shape, at)
        return smooth(torch.stack([outer - inner, inner]), np.full(3, 2.0))

    template, scan = tissues(centre), tissues(tuple(c + s for c, s in zip(centre, shift, strict=True)))
    warp = cat.register(Volume(scan, grid), Volume(template, grid))
    core = ball(8, shape, centre) == 1
    assert all(bool(torch.isfinite(field.data).all()) for field in (warp.forward, warp.inverse))
    forward, inverse = (field.data[:, core].mean(1).numpy() for field in (warp.forward, warp.inverse))
    wanted = np.array(shift) * size
    along = float(forward @ wanted) / float(wanted @ wanted)
    assert 0.4 < along < 1.1  # its regularisation holds some back
    assert np.abs(forward - along * wanted).max() < 0.5  # and the rest is in no other direction
    assert inverse == pytest.approx(-forward, abs=1.0)
    warped = sample(scan, voxel_indices(shape) + warp.forward.data / 3.0)
    before, after = ((image - template)[:, core].square().mean() for image in (scan, warped))
    assert after < 0.5 * before


@installed
def test_coordinates_that_are_not_known_take_the_nearest_displacement():
    at = np.moveaxis(voxel_indices((4, 3, 3)).numpy(), 0, -1) + np.float32([1, 0, 0])
    at[3] = np.nan
    moved = cat._displacement(at, np.diag([2.0, 3.0, 1.0, 1.0]), torch.device("cpu"))
    assert moved.reshape(3, -1).T.unique(dim=0).tolist() == [[2.0, 0.0, 0.0]]
