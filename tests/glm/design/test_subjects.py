from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.glm.conftest import GRID, SHAPE
from tests.glm.variance.test_sandwich import COLUMNS, visits
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.matrix import build_design, design_rows
from vbmstat.glm.design.subjects import made_of
from vbmstat.glm.spec import ModelSpec
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume
from vbmstat.regions.mixed_analysis import fit_mixed_glm

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
        "9 participants have several scans, which this fit takes as independent; give --variance "
        "sandwich:participant_id, or for regions --random participant_id"
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
        ({"inference": "rft"}, "--variance sandwich gives no field of t or F"),
        (
            {"inference": "fwe", "blocks": "group"},
            "sandwich:id flips the signs of all scans with one id together; leave",
        ),
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


@pytest.fixture
def ageing(sessions) -> pd.DataFrame:
    """With the age at each scan; the number and spacing of visits differ between persons."""
    rng = np.random.default_rng(3)
    return sessions.assign(age=sessions["age"] + sessions["time"] + rng.uniform(0, 0.4, len(sessions)))


def test_within_is_the_slope_of_a_model_with_a_mean_of_each_person(ageing):
    """Mundlak 1978: beside between(age), within(age) has the coefficient and t of age in age + C(participant_id)."""
    values = matrix(ageing)
    split = fit_glm(values, "gm ~ within(age) + between(age)", ageing, ["within(age)"], repeats=0)
    own = fit_glm(values, "gm ~ age + C(participant_id)", ageing, ["age"], repeats=0)
    effect = [one.maps[name]["effect"].values for one, name in ((split, "within(age)"), (own, "age"))]
    np.testing.assert_allclose(*effect, rtol=1e-9)
    mixed = fit_mixed_glm(values, ModelSpec("gm ~ within(age) + between(age)", ["within(age)"]), ageing, "id")
    usual = mixed.fit.converged
    assert usual.any()
    np.testing.assert_allclose(mixed.fit.effect[0][usual], effect[1][usual], rtol=1e-6)


def test_columns_are_those_of_pandas(ageing):
    ids = list(ageing["participant_id"] + "_" + ageing["session_id"])
    design = build_design("group * within(age) + between(age, id) + I(within(age)**2)", ageing, ids)
    assert design.columns == (
        "Intercept", "group[T.p]", "within(age)", "between(age, id)", "I(`within(age)` ** 2)", "group[T.p]:within(age)",
    )  # fmt: skip
    mean = ageing.groupby("id")["age"].transform("mean")
    np.testing.assert_allclose(design.matrix[:, 2], ageing["age"] - mean, atol=1e-12)
    np.testing.assert_allclose(design.matrix[:, 3], mean)
    np.testing.assert_allclose(design.matrix[:, 4], (ageing["age"] - mean) ** 2, atol=1e-12)
    np.testing.assert_allclose(design_rows(design, design.covariates), design.matrix)
    assert "age minus its mean over a person's scans" in next(c.line for c in design.taken if c.name == "within(age)")


def test_the_mean_is_that_of_the_scans_analysed(ageing):
    ageing.loc[1, "age"] = np.nan
    ids = list(ageing["participant_id"] + "_" + ageing["session_id"])
    kept = ageing.drop(index=1)
    whole = build_design("within(age)", ageing, ids, "drop")
    alone = build_design("within(age)", kept, [scan for i, scan in enumerate(ids) if i != 1])
    np.testing.assert_array_equal(whole.matrix, alone.matrix)
    found = fit_glm(matrix(ageing), "gm ~ within(age)", ageing, repeats=0, missing="drop")
    assert {"no age"} == {why for step in found.record["flow"] for why in step["left_out"].values()}


def test_within_as_a_contrast_of_the_sandwich(ageing):
    """The difference of the slopes within and between persons (a Hausman test), as with columns made by hand."""
    mean = ageing.groupby("participant_id")["age"].transform("mean")
    by_hand = ageing.assign(mean_age=mean, deviation=ageing["age"] - mean)
    options = {"variance": "sandwich:participant_id"}
    ours = fit_glm(matrix(ageing), "gm ~ within(age) + between(age)", ageing, ["within(age) - between(age)"], **options)
    theirs = fit_glm(matrix(ageing), "gm ~ deviation + mean_age", by_hand, ["deviation - mean_age"], **options)
    (one,), (other,) = ours.maps.values(), theirs.maps.values()
    np.testing.assert_allclose(one["t"].values, other["t"].values, rtol=1e-9)


@pytest.mark.parametrize(
    ("formula", "match"),
    [
        ("within(log(age))", r"'within\(log\(age\)'; expected a column of numbers, within\(age\), or with its person"),
        ("within(age, nobody)", "no column nobody"),
        ("between(group)", "column group: expected numbers"),
        ("within(score)", r"within\(score\): score is the same at all scans of each participant_id"),
    ],
)
def test_what_within_does_not_take(ageing, formula, match):
    table = ageing.assign(score=ageing.groupby("id").ngroup())
    with pytest.raises((DesignError, TableError), match=match):
        build_design(formula, table, list(map(str, range(len(table)))))


def test_between_takes_a_number_of_persons(ageing):
    """TIV of a person, which a table has for each person or for each scan."""
    table = ageing.assign(tiv=1400.0 + ageing.groupby("id").ngroup())
    design = build_design("between(tiv)", table, list(map(str, range(len(table)))))
    np.testing.assert_allclose(design.matrix[:, 1], table["tiv"])


@pytest.mark.parametrize("kind", ["within", "between"])
def test_one_scan_of_each_person_has_no_within(ageing, kind):
    once = ageing.drop_duplicates("participant_id")
    with pytest.raises(DesignError, match=rf"every participant_id has one scan .*{kind}\(age, COLUMN\)"):
        build_design(f"{kind}(age)", once, list(once["participant_id"]))


def test_a_column_with_brackets_of_its_own_is_itself():
    assert made_of("within(age") == ("within(age",)
    assert made_of("between(my age, id)") == ("my age", "id")
