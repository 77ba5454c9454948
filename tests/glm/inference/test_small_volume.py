"""Small volumes: against formulas, against the whole mask, and those that cannot be."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.glm.inference.test_rft import GRID, SHAPE, cohort
from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.inference.places import Regions
from vbmstat.glm.inference.random_field import Field, SearchVolume, height_threshold, p_height
from vbmstat.glm.inference.resels import resel_counts
from vbmstat.glm.inference.small_volume import small_volumes
from vbmstat.image.grid import Grid
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume

LABELS = np.zeros(SHAPE, np.float32)
LABELS[2:12, 2:12, 2:12] = 7
LABELS[14:20, 14:20, 14:20] = 8
ATLAS = Regions(Volume(torch.from_numpy(LABELS)[None], GRID), {7: "Left Corner", 8: "Right Corner"}, None, "blocks")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    table = cohort(tmp_path_factory.mktemp("cohort"))
    return fit_glm(None, "gm ~ age", table, ["age"], inference="rft", repeats=0)


def test_the_whole_mask_as_a_small_volume_changes_nothing(results, tmp_path):
    write_volume(tmp_path / "all.nii.gz", Volume(torch.ones(1, *SHAPE), GRID))
    svc = results.with_volumes([str(tmp_path / "all.nii.gz")], None).svc_table()
    pd.testing.assert_frame_equal(svc.drop(columns="volume"), results.spm_table())


def test_a_sphere_by_formulas(results):
    """Peak p by hand: the voxels of the sphere, their lattice, the smoothness of the whole mask."""
    centre, radius = np.array([9.0, 9.0, 9.0]), 6.0
    mm = np.indices(SHAPE).reshape(3, -1).T * 1.5
    ball = (((mm - centre) ** 2).sum(axis=1) <= radius**2).reshape(SHAPE)
    found = results.with_volumes(["sphere:9,9,9,6"], None)
    table = found.svc_table()
    fwhm = results.inference["age"].random_field.where.fwhm_voxels
    search = SearchVolume(resel_counts(ball, fwhm), int(ball.sum()), 2)
    assert table["search_voxels"][0] == ball.sum()
    assert table["height_p_fwe"][0] == pytest.approx(height_threshold(Field("t", 38), search), abs=1e-4)
    t = found.volume("age", "t").data[0].numpy()
    assert table["peak_value"][0] == pytest.approx(t[ball].max(), abs=1e-4)
    assert table["peak_p_fwe"][0] == pytest.approx(p_height(Field("t", 38), t[ball].max(), search), rel=1e-4)
    assert table["peak_p_fwe"][0] < results.spm_table()["peak_p_fwe"].min()  # a smaller search
    assert (table["cluster_k_e"] <= ball.sum()).all()  # cut at the border


def test_regions_by_name_and_nothing_found(results):
    found = results.with_volumes(["left corner", "Corner", "Right Corner", "Right Corner"], ATLAS)
    table = found.svc_table().groupby("volume", sort=False).first()
    assert table["search_voxels"].tolist() == [1000, 1216, 216]
    assert table.loc["Right Corner", "set_c"] == 0
    assert table.loc["Right Corner", "set_p"] == 1
    assert np.isnan(table.loc["Right Corner", "peak_p_fwe"])


def test_files_and_record(results, tmp_path):
    found = results.with_volumes(["left corner"], ATLAS)
    names = {path.name for path in found.to_directory(tmp_path, regions=ATLAS)}
    assert {"spm_table.tsv", "svc.tsv", "contrast-age_regions.tsv"} <= names
    assert json.loads((tmp_path / "glm.json").read_text())["small_volumes"] == ["left corner"]
    described = json.loads((tmp_path / "svc.json").read_text())
    written = pd.read_csv(tmp_path / "svc.tsv", sep="\t")
    assert not [name for name in written if "participants" in described[name]["Description"]]
    assert not (tmp_path / "spm_table.tsv").read_text().count("nan")
    results.to_directory(tmp_path)  # without small volumes, their table goes
    assert not (tmp_path / "svc.tsv").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("left cornr", "'left cornr': no region of the atlases, no mask image, .*nearest regions: Left Corner"),
        ("sphere:1,2,3", "expected sphere:x,y,z,r with the centre and a positive radius"),
        ("sphere:1,2,3,-4", "expected sphere"),
        ("sphere:900,0,0,4", "sphere:900,0,0,4: no voxel in the mask of the model"),
        ("absent.nii.gz", "absent.nii.gz: no such mask image"),
        ("empty.nii.gz", "empty.nii.gz: no voxel in the mask"),
        ("grid.nii.gz", "grid.nii.gz: grid .* differs from"),
    ],
)
def test_volumes_that_cannot_be(results, text, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "empty.nii.gz", Volume(torch.zeros(1, *SHAPE), GRID))
    coarse = Grid((8, 8, 8), np.diag([4.0, 4.0, 4.0, 1.0]))
    write_volume(tmp_path / "grid.nii.gz", Volume(torch.ones(1, 8, 8, 8), coarse))
    with pytest.raises(DesignError, match=match):
        results.with_volumes([text], ATLAS)


def test_small_volumes_belong_to_random_fields():
    with pytest.raises(DesignError, match=r"belong to random fields: add --inference rft \(asked: fwe\)"):
        small_volumes(["sphere:0,0,0,5"], None, ("fwe",))


def test_two_masks_of_one_name(tmp_path):
    for folder in ("a", "b"):
        write_volume(tmp_path / folder / "roi.nii.gz", Volume(torch.ones(1, *SHAPE), GRID))
    with pytest.raises(DesignError, match=r"two mask images are named roi\.nii\.gz; rename one"):
        small_volumes([str(tmp_path / "a" / "roi.nii.gz"), str(tmp_path / "b" / "roi.nii.gz")], None, ("rft",))
