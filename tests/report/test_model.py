from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.report.conftest import EFFECT_AT_MM, GRID
from vbmstat.errors import VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.report import model
from vbmstat.report.model import read_model, region_at, write_model_report
from vbmstat.report.page import Picture
from vbmstat.roi.atlas import Atlas


@pytest.fixture
def copied(model_folder, tmp_path):
    """The results in a folder of their own, without the cohort table above."""
    return shutil.copytree(model_folder, tmp_path / "deep" / "er" / "age")


def test_the_page_tells_the_model(model_page) -> None:
    page = " ".join(model_page.read_text().split())
    assert "<h1>gm ~ age + sex + iq</h1>" in page
    assert "13 scans ·" in page
    assert "dropped 1 scans with missing covariates: sub-01" in page
    assert '<th scope="row" data-sort="sub-01">sub-01</th> <td data-sort="no value of iq">no value of iq</td>' in page
    assert "&lt;i&gt;Insula&lt;/i&gt; 80 %" in page  # the table of clusters
    assert re.search(r"Coding of the covariates.*sex</th>.*factor f \d+ \(reference\), m \d+</td>", page)
    assert page.count("<iframe") == 1
    assert "it has no p-value" in page
    names = {path.name for path in (model_page.parent / "figures").iterdir()}
    stems = ("age_t", "age_glassbrain", "age_r", "age_mediant", "age_stability")
    assert {f"contrast-{stem}.{form}" for stem in stems for form in ("svg", "png")} <= names
    assert {"design.svg", "correlations.png"} <= names


def test_extremes_are_where_the_effect_was_put(model_page) -> None:
    page = model_page.read_text()
    overview = page[page.index('id="overview"') : page.index('id="scans"')]
    numbers = re.findall(r">(−?\d+), (−?\d+), (−?\d+)<", overview)
    places = [[float(number.replace("−", "-")) for number in found] for found in numbers]
    assert np.linalg.norm(np.subtract(places[1], EFFECT_AT_MM)) < 14  # the most negative t


def test_the_median_is_never_given_a_p(model_page) -> None:
    page = model_page.read_text()
    part = page[page.index("Stability over subsets") : page.index('id="methods"')]
    assert "p =" not in part
    assert "p &lt;" not in part


def test_outlines_are_at_the_uncorrected_p_unless_there_is_a_corrected_one(copied) -> None:
    read = read_model(copied)
    contrast = read.record["contrasts"][0]
    statistic = read.map(contrast, "t")
    threshold, meaning = read.outline(contrast, statistic)
    assert threshold == pytest.approx(stats.t.isf(0.0005, 9))
    assert meaning == "two-sided uncorrected p = 0.001"
    f_test = {**contrast, "kind": "F", "weights": [{}, {}]}
    assert read.outline(f_test, statistic)[0] == pytest.approx(stats.f.isf(0.001, 2, 9))
    largest = float(statistic.data.abs().max())
    entry = {"name": "age", "two_sided": True, "statistic_at_p_fwe_0.05": largest - 0.5}
    read.record["inference"] = {"kinds": ["fwe"], "contrasts": [entry]}
    assert read.outline(contrast, statistic)[0] == threshold  # the map is not there
    shutil.copy(read.path(contrast, "p"), read.path(contrast, "pfwe"))
    assert read.outline(contrast, statistic) == (largest - 0.5, "two-sided family-wise error corrected p = 0.05")
    entry["statistic_at_p_fwe_0.05"] = largest + 0.5
    assert read.outline(contrast, statistic)[0] == threshold
    assert f"no voxel reaches {largest + 0.5:.2f}" in read.outline(contrast, statistic)[1]


def test_results_far_from_their_cohort_still_make_a_page(copied, monkeypatch) -> None:
    monkeypatch.setattr(model, "publish", lambda *_: Picture("data:,", "alt", "caption", 1, 1))  # drawing takes long
    monkeypatch.setattr(model, "viewer_html", lambda *_: "")
    for path in copied.glob("*_stat-[dqm]*"):
        path.unlink()  # no subset maps
    page = write_model_report(copied, copied / "report.html").read_text()
    assert "The maps have no vbmstat" in page
    assert "Stability over subsets" not in page
    assert "Scans of the cohort that are not in the model" not in page


@pytest.mark.parametrize("prefix", ["sub-", ""])
def test_the_table_of_a_model_of_maps_in_a_folder_is_matched_as_glm_matches_it(tmp_path, monkeypatch, prefix) -> None:
    """Ids without ``sub-``, a row for both sessions, a row without a map; the table is called as the user likes."""
    monkeypatch.setattr(model, "publish", lambda *_: Picture("data:,", "alt", "caption", 1, 1))  # drawing takes long
    monkeypatch.setattr(model, "viewer_html", lambda *_: "")
    rng = np.random.default_rng(3)
    for person in range(1, 7):
        for session in "12":
            values = torch.from_numpy(rng.random((1, *GRID.shape), dtype=np.float32))
            name = f"s6mwp1sub-{person:02d}_ses-{session}_T1w.nii.gz"
            io.write_volume(tmp_path / "maps" / name, Volume(values, GRID))
    ids = [f"{prefix}{person:02d}" for person in range(1, 8)]
    people = pd.DataFrame({"participant_id": ids, "age": np.arange(7) * 5.5 + 20, "sex": list("fmfmfmf")})
    storage.write_table(tmp_path / "people.tsv", people)
    storage.write_table(tmp_path / "cohort.tsv", people.head(2))  # another table, which must not be read instead
    found = fit_glm(tmp_path / "maps", "gm ~ age + sex", tmp_path / "people.tsv", repeats=0)
    found.to_directory(tmp_path / "out")
    page = write_model_report(tmp_path / "out", tmp_path / "out" / "report.html", tmp_path / "people.tsv")
    text = " ".join(page.read_text().split())
    assert "all (n = 12)" in text
    assert "sex f (n = 6)" in text  # from the table: the design has a column of zeros and ones
    assert "33.8 ± " in text  # the mean age of the six who have maps
    left = text[text.index("Scans of the cohort that are not in the model") :]
    assert f">{prefix}07<" in left
    assert f">{prefix}06<" not in left[: left.index("</table>")]


def test_the_given_cohort_must_hold_the_scans(copied, cohort_folder, tmp_path) -> None:
    with pytest.raises(VbmstatError, match=r"nowhere.tsv: no such cohort table"):
        write_model_report(copied, copied / "report.html", tmp_path / "nowhere.tsv")
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame({"participant_id": ["x"], "gm_ml": [1.0]}))
    with pytest.raises(VbmstatError, match=r"no row for <script>.*, sub-02, sub-03.*which the model used"):
        write_model_report(copied, copied / "report.html", tmp_path / "cohort.tsv")


def test_a_damaged_result_is_one_line(copied) -> None:
    (copied / "glm.json").write_text(json.dumps({"formula": "gm ~ 1"}))
    with pytest.raises(VbmstatError, match=r"expected the results of vbmstat glm, but glm\.json or design\.tsv"):
        read_model(copied)


def test_a_point_has_the_name_of_its_region() -> None:
    data = torch.zeros(1, 10, 10, 10)
    data[0, 2, 3, 4] = 7
    image = Volume(data, Grid((10, 10, 10), np.array([[2.0, 0, 0, -10], [0, 2, 0, -10], [0, 0, 2, -10], [0, 0, 0, 1]])))
    atlas = Atlas("own", image, pd.DataFrame({"name": ["Left Insula"]}, index=[7]), (), "")
    assert region_at(atlas, np.array([-6.4, -4.3, -1.6])) == "Left Insula"
    assert region_at(atlas, np.array([-4.0, -4.0, -2.0])) == ""
    assert region_at(atlas, np.array([500.0, 0.0, 0.0])) == ""
    assert region_at(None, np.zeros(3)) == ""


def test_degrees_of_freedom_stand_beside_their_contrasts(copied, tmp_path) -> None:
    plain = " ".join(write_model_report(copied, tmp_path / "plain.html").read_text().split())
    assert "residual degrees of freedom</p>" in plain or "residual degrees of freedom ·" in plain
    record = storage.read_json(copied / "glm.json")
    record["contrasts"][0]["df"] = 4.25
    storage.write_json(copied / "glm.json", {**record, "n_subsets": 0})
    page = " ".join(write_model_report(copied, tmp_path / "own.html").read_text().split())
    assert "with 4.25 degrees of freedom; " in page
    assert "residual degrees of freedom</p>" not in page
    overview = page[page.index('id="overview"') : page.index('id="scans"')]
    assert ">none</td>" in overview
