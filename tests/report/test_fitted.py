"""A model that is held: the same maps as ``fit_glm``, contrast by contrast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.assets import sha256
from vbmstat.errors import DesignError, VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.report.fitted import Model

FORMULA = "gm ~ age + sex + site"
CONTRASTS = ("age", "sex[T.M] - age", "site", "F(age, site)")


@pytest.fixture(scope="module")
def table():
    return make_table().assign(weight=np.linspace(0.5, 2, 26), family=[f"f{i // 2}" for i in range(26)])


@pytest.fixture(scope="module")
def maps(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("maps")
    for scan, image in zip(table["participant_id"], make_images(table), strict=True):
        write_volume(folder / f"mwp1{scan}.nii", Volume(torch.from_numpy(image)[None], GRID))
    return folder


def assert_equal(found, expected):
    assert found.maps.keys() == expected.maps.keys()
    for name, maps in expected.maps.items():
        assert found.maps[name].keys() == maps.keys()
        for stat, one in maps.items():
            np.testing.assert_allclose(found.maps[name][stat].values, one.values, rtol=1e-9, atol=1e-12, err_msg=stat)
            assert found.maps[name][stat].description.split(":")[1:] == one.description.split(":")[1:]


@pytest.mark.parametrize(
    ("options", "contrasts"),
    [
        ({}, CONTRASTS),
        ({"weights": "weight"}, CONTRASTS),
        ({"tiv": "proportional"}, CONTRASTS),
        ({"global_scaling": True}, CONTRASTS[:1]),
        ({"variance": "spm"}, CONTRASTS),
        ({"variance": "hc3"}, CONTRASTS[:2]),
        ({"variance": "sandwich:family"}, CONTRASTS),
    ],
)
def test_contrasts_are_those_of_one_fit(maps, table, options, contrasts):
    expected = fit_glm(maps, FORMULA, table, list(contrasts), repeats=0, fwhm_mm=0, **options)
    model = Model(FORMULA, table, maps, fwhm_mm=0, **options).fit()
    one_by_one = [model.contrast(contrast) for contrast in contrasts]
    together = model.results()
    assert_equal(together, expected)
    for results, contrast in zip(one_by_one, contrasts, strict=True):
        alone, beside = (one.maps[contrast]["p"].values for one in (results, together))
        np.testing.assert_allclose(
            alone, beside, rtol=1e-5, err_msg=contrast
        )  # float32 products of HC3 differ in shape
    assert model.table()["contrast"].tolist() == list(contrasts)


def test_maps_are_read_once(maps, table, monkeypatch):
    model = Model(FORMULA, table, maps, fwhm_mm=0)
    model.contrast("age")
    monkeypatch.setattr("vbmstat.report.fitted.Packer", None)
    assert model.contrast("site").contrasts[0].kind == "F"
    assert "site" in model._repr_html_()


def test_a_place(maps, table):
    model = Model(FORMULA, table, maps, fwhm_mm=0)
    found = model.at("peak", "age", by="family")
    t = model.contrast("age").maps["age"]["t"].values
    assert abs(found.statistic) == pytest.approx(np.abs(t).max(), rel=1e-4)
    assert found.grouped_by == "family"
    figure = model.plot((6, 1, 3), "age")
    assert figure.get_suptitle() == "at 6, 1, 3 mm"
    with pytest.raises(VbmstatError, match=r"at 6,1,300: outside the analysis mask; the nearest voxel in it is at 6,1"):
        model.plot("6,1,300", "age")


def test_the_record_names_the_table_that_was_read(maps, table, tmp_path):
    path = tmp_path / "people.tsv"
    table.to_csv(path, sep="\t", index=False)
    model, digest = Model(FORMULA, path, maps, fwhm_mm=0), sha256(path)
    table.assign(age=50.0).to_csv(path, sep="\t", index=False)
    assert model.contrast("age").record["data"]["table"] == {"file": "people.tsv", "sha256": digest}


def test_a_folder_that_can_be_read_again(maps, table, tmp_path):
    table.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    model = Model(FORMULA, tmp_path / "people.tsv", maps, fwhm_mm=0)
    model.contrast("age")
    model.contrast("site")
    written = {path.name for path in model.to_directory(tmp_path / "out")}
    assert {"contrast-age_stat-t_statmap.nii.gz", "contrast-site_stat-F_statmap.nii.gz", "glm.json"} <= written


def test_the_packed_maps_go_with_the_model(maps, table, tmp_path):
    model = Model(FORMULA, table, maps, fwhm_mm=0, scratch=tmp_path).fit()
    assert list(tmp_path.iterdir())
    del model
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        (FORMULA, {"inference": "fwe"}, "fwe: a Model has uncorrected p over all scans; take vbmstat.fit_glm"),
        (FORMULA, {"repeats": 50}, "--repeats: a Model has"),
        ("gm ~ age + map(gm)", {}, r"map\(gm\): a Model has the same columns at every voxel"),
    ],
)
def test_what_it_does_not_do(maps, table, formula, options, message):
    with pytest.raises(DesignError, match=message):
        Model(formula, table, maps, fwhm_mm=0, **options)
