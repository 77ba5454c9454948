from __future__ import annotations

import pytest

from tests.regions.small_study import fit, write_study
from vbmstat.figures import publication
from vbmstat.report.model_folder import read_model
from vbmstat.report.regions import region_pictures, region_tables


@pytest.fixture
def model(tmp_path):
    fit(write_study(tmp_path), repeats=0, permutations=50).to_directory(tmp_path / "out")
    return read_model(tmp_path / "out")


def test_each_contrast_is_painted_and_regions_that_pass_are_outlined(model, tmp_path, monkeypatch):
    drawn, draw = [], publication.stat_map_figure
    monkeypatch.setattr(publication, "stat_map_figure", lambda *a, **k: drawn.append((a, k)) or draw(*a, **k))
    pictures = region_pictures(model, tmp_path / "figures")
    (table,) = region_tables(model)
    assert len(table.rows) == 6
    assert [one.caption.split(":")[0] for one in pictures] == ["age", "F(age, sex)"]
    assert "family-wise error" in pictures[0].caption
    (statistic, _, symbol), options = drawn[0]
    passes = options["view"].contour_of.data > 0
    assert symbol == "t"
    assert statistic.data[passes].unique().tolist() == [statistic.data.min()]  # label 3 alone falls with age


def test_results_of_before_painting_have_no_picture(model, tmp_path):
    for path in model.folder.glob("*_roimap.nii.gz"):
        path.unlink()
    assert region_pictures(model, tmp_path / "figures") == []
