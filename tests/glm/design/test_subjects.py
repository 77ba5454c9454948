from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.glm.conftest import GRID, SHAPE
from tests.glm.variance.test_sandwich import COLUMNS, visits
from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume

FORMULA = "gm ~ group * time + age"


@pytest.fixture
def sessions() -> pd.DataFrame:
    """The visits as sessions of participants."""
    table = visits()
    table["participant_id"] = "sub-" + table["id"]
    table["session_id"] = [f"ses-{int(t)}" for t in table["time"]]
    return table


def matrix(table: pd.DataFrame, n_columns: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = np.column_stack([table["y"], rng.standard_normal((len(table), n_columns - 1))])
    ids = table["participant_id"] + "_" + table["session_id"]
    return pd.DataFrame(values, index=ids, columns=[f"r{i}" for i in range(n_columns)])


def test_t_and_p_are_those_of_r(sessions):
    """As test_sandwich: clubSandwich's coef_test(m, vcov = "CR2", test = "Satterthwaite") and its p_Satt."""
    results = fit_glm(matrix(sessions), FORMULA, sessions, list(COLUMNS[1:]), variance="sandwich:participant_id")
    t = [-0.6403336209, -3.9153241027, 2.8303135594, -0.1358742939]
    p = [0.549173878083, 0.031656313894, 0.056067665151, 0.897739445552]
    found = [results.maps[name] for name in COLUMNS[1:]]
    np.testing.assert_allclose([one["t"].values[0] for one in found], t, rtol=1e-8)
    np.testing.assert_allclose([one["p"].values[0] for one in found], p, rtol=1e-7)
    np.testing.assert_allclose([stats.norm.sf(abs(one["z"].values[0])) * 2 for one in found], p, rtol=1e-7)
    assert results.record["sandwich"]["n_subjects"] == 10
    assert results.record["sandwich"]["df"]["time"] == pytest.approx(2.891347166, abs=1e-4)
    assert len(results.draws) == 0
    assert "qfdr" not in found[0]


def test_f_and_fdr(sessions):
    contrast = "F(time, group[T.p]:time)"
    options = {"variance": "sandwich:id", "inference": "fdr"}
    found = fit_glm(matrix(sessions), FORMULA, sessions, [contrast], **options).maps[contrast]
    assert found["p"].values[0] == pytest.approx(0.03923586134, rel=1e-6)  # Wald_test(..., test = "HTZ")
    np.testing.assert_allclose(found["qfdr"].values, stats.false_discovery_control(found["p"].values))
    assert stats.norm.sf(found["z"].values[0]) == pytest.approx(0.03923586134, rel=1e-6)


def test_maps_in_files(sessions, tmp_path):
    rng = np.random.default_rng(1)
    images = 0.5 + 0.1 * rng.standard_normal((len(sessions), *SHAPE)).astype(np.float32)
    paths = [f"s6mwp1{scan}_T1w.nii.gz" for scan in matrix(sessions).index]
    for path, image in zip(paths, images, strict=True):
        write_volume(tmp_path / path, Volume(torch.from_numpy(image)[None], GRID))
    sessions.assign(s6mwp1=paths).to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    results = fit_glm(None, FORMULA, tmp_path / "cohort.tsv", ["time"], variance="sandwich:participant_id")
    results.to_directory(tmp_path / "glm")
    ours = results.maps["time"]["t"].values
    back = read_volume(tmp_path / "glm" / "contrast-time_stat-t_statmap.nii.gz").data[0].numpy()
    voxel = np.flatnonzero(results.mask)[7]
    assert back.reshape(-1)[results.space.voxel_index[voxel]] == pytest.approx(ours[voxel], rel=1e-6)
    record = json.loads((tmp_path / "glm" / "glm.json").read_text())
    assert record["sandwich"]["subject"] == "participant_id"
    assert record["spec"]["variance"] == "sandwich:participant_id"


def test_repeated_scans_that_pass_for_independent_are_told(sessions):
    def notes(**options):
        found = fit_glm(matrix(sessions), FORMULA, sessions, ["age"], repeats=0, **options)
        return [note for note in found.record["notes"] if "several scans" in note]

    expected = (
        "9 participants have several scans, which this fit takes as independent; see --variance "
        "sandwich:participant_id and --blocks"
    )
    assert notes() == [expected]
    shuffled = notes(blocks="id", exchange="whole", inference="fwe", permutations=5)
    assert notes(variance="sandwich:participant_id") == shuffled == []
    once = sessions.drop_duplicates("participant_id")
    found = fit_glm(matrix(once), "gm ~ age", once, repeats=0)
    assert not [note for note in found.record["notes"] if "several scans" in note]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inference": "fwe"}, "permutations take --variance ols or groups:COLUMN, got sandwich:id"),
        ({"variance": "sandwich:group"}, "2 subjects are too few"),
    ],
)
def test_what_does_not_go_together(sessions, options, match):
    with pytest.raises(DesignError, match=match):
        fit_glm(matrix(sessions), FORMULA, sessions, ["age"], **{"variance": "sandwich:id", **options})


NOTE = "participants have several scans, which this fit takes as independent"


@pytest.mark.parametrize("person", ["C(participant_id)", "id", "0 + id"])
def test_a_model_with_the_person_in_it_knows_of_repeated_scans(sessions, person):
    known = fit_glm(matrix(sessions), f"gm ~ time + {person}", sessions, ["time"], repeats=0)
    assert not [note for note in known.record["notes"] if NOTE in note]
    unknown = fit_glm(matrix(sessions), "gm ~ time + group", sessions, ["time"], repeats=0)
    assert [note for note in unknown.record["notes"] if NOTE in note]


def test_persons_that_a_model_joins_are_counted(sessions):
    """Two persons under one label: the others have a mean of their own."""
    first, second = sorted(set(sessions["id"]))[:2]
    joined = sessions.assign(person=sessions["id"].replace(second, first))
    notes = fit_glm(matrix(joined), "gm ~ time + person", joined, ["time"], repeats=0).record["notes"]
    assert [note for note in notes if note.startswith(f"2 {NOTE}")]
