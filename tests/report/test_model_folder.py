"""A result folder of glm as a report reads it: outlines, scans of the cohort, damage."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.report.conftest import GRID
from vbmstat.errors import VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.report.model import write_model_report
from vbmstat.report.model_folder import read_model


def test_outlines_are_at_the_uncorrected_p_unless_there_is_a_corrected_one(copied) -> None:
    read = read_model(copied)
    contrast = read.record["contrasts"][0]
    statistic = read.map(contrast, "t")
    threshold, meaning, _ = read.outline(contrast, statistic)
    assert threshold == pytest.approx(stats.t.isf(0.0005, 9))
    assert meaning == "two-sided uncorrected p = 0.001"
    f_test = {**contrast, "kind": "F", "weights": [{}, {}]}
    assert read.outline(f_test, statistic)[0] == pytest.approx(stats.f.isf(0.001, 2, 9))
    largest = float(statistic.data.abs().max())
    entry = {"name": "age", "two_sided": True, "statistic_at_p_fwe_0.05": largest - 0.5}
    read.record["inference"] = {"kinds": ["fwe"], "contrasts": [entry]}
    assert read.outline(contrast, statistic)[0] == threshold  # the map is not there
    shutil.copy(read.path(contrast, "p"), read.path(contrast, "pfwe"))
    assert read.outline(contrast, statistic) == (largest - 0.5, "two-sided family-wise error corrected p = 0.05", False)
    entry["statistic_at_p_fwe_0.05"] = largest + 0.5
    assert read.outline(contrast, statistic)[0] == threshold
    assert f"no voxel reaches {largest + 0.5:.2f}" in read.outline(contrast, statistic)[1]


def test_a_one_sided_test_outlines_and_counts_positive_values_only(copied, tmp_path, undrawn) -> None:
    read = read_model(copied)
    contrast = read.record["contrasts"][0]
    statistic = read.map(contrast, "t")
    entry = {"name": "age", "two_sided": False, "statistic_at_p_fwe_0.05": 1.0}
    read.record["inference"] = {"kinds": ["fwe"], "contrasts": [entry]}
    shutil.copy(read.path(contrast, "p"), read.path(contrast, "pfwe"))
    outline = read.outline(contrast, statistic)
    positive, negative = (int((sign * statistic.data > 1.0).sum()) for sign in (1, -1))
    assert negative > 0
    assert outline.n_beyond(statistic) == positive
    assert float(outline.tested(statistic).data.min()) == 0
    storage.write_json(copied / "glm.json", read.record)
    page = " ".join(write_model_report(copied, tmp_path / "page.html").read_text().split())
    assert f"; {positive:,} of " in page
    assert page.count("positive values only") == 2


@pytest.mark.parametrize("prefix", ["sub-", ""])
def test_the_table_of_a_model_of_maps_in_a_folder_is_matched_as_glm_matches_it(tmp_path, undrawn, prefix) -> None:
    """Ids without ``sub-``, a row for both sessions, a row without a map; the table is called as the user likes."""
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
    assert "all (n = 6)" in text  # people
    assert "sex f (n = 3)" in text  # from the table: the design has a column of zeros and ones
    assert "33.8 ± " in text  # the mean age of the six who have maps
    flow = text[text.index("Flow of scans from the table to the model") :]
    assert f"{prefix}07</td>" in flow[: flow.index("</table>")]
    assert f"{prefix}06" not in flow[: flow.index("</table>")]


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


@pytest.mark.parametrize(
    "damage",
    [
        {"contrasts": []}, {"contrasts": None}, {"contrasts": [{"name": "age", "label": "age", "kind": "t"}]},
        {"n_scans": "<b>"}, {"inference": [1]},
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused_once_for_all(copied, damage) -> None:
    record = storage.read_json(copied / "glm.json") | damage
    (copied / "glm.json").write_text(json.dumps(record))
    with pytest.raises(VbmstatError, match=r"glm\.json or design\.tsv cannot be read"):
        read_model(copied)
