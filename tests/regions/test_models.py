from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from tests.regions.small_study import N_SCANS, fit
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.image import storage
from vbmstat.regions.mixed import fit_mixed
from vbmstat.regions.models import fit_roi_glm
from vbmstat.regions.volumes import RegionSpec
from vbmstat.roi.table import measure_rois
from vbmstat.tables.cohort import read_cohort


def test_agrees_with_statsmodels_on_measured_volumes(study):
    table = fit(study, repeats=0, inference="fdr").table
    volumes = measure_rois(read_cohort(study / "cohort.tsv"), study / "own.nii.gz", ["gm"]).labels
    covariates = pd.read_csv(study / "cohort.tsv", sep="\t")
    for label in (3, 7, 9):
        values = covariates.merge(volumes[volumes["label"] == label], on="participant_id")
        expected = smf.ols("roi_gm_ml ~ age + sex", values).fit()
        row = table[(table["label"] == label) & (table["contrast"] == "age")].iloc[0]
        found = row[["effect", "se", "value", "p_uncorrected", "df", "mean_ml"]].astype(float)
        wanted = [expected.params["age"], expected.bse["age"], expected.tvalues["age"], expected.pvalues["age"],
                  expected.df_resid, values["roi_gm_ml"].mean()]  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        joint = table[(table["label"] == label) & (table["statistic"] == "F")].iloc[0]
        test = expected.f_test("age = 0, sex[T.M] = 0")
        np.testing.assert_allclose([joint["value"], joint["p_uncorrected"]], [test.fvalue, test.pvalue], rtol=1e-6)
        assert np.isnan(joint["effect"])
    ours = table[table["contrast"] == "age"]
    np.testing.assert_allclose(ours["q_fdr"], stats.false_discovery_control(ours["p_uncorrected"]))
    ordered = ours["p_uncorrected"].sort_values()
    holm = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)  # R: p.adjust(p, "holm")
    np.testing.assert_allclose(ours["p_holm"], holm.sort_index())
    np.testing.assert_allclose(ours["partial_r"], ours["value"] / np.sqrt(ours["value"] ** 2 + 17))
    assert ours.set_index("label")["p_uncorrected"].idxmin() == 3  # the only label whose volume falls with age


def test_rows_are_named_by_label_and_the_absent_one_is_noted(study):
    results = fit(study, repeats=4, inference="fdr")
    first = results.table[results.table["contrast"] == "age"]
    assert first["label"].tolist() == [3, 7, 9]
    assert first["name"].tolist() == ["Left A", "Right A", "B"]
    assert first["median_t"].notna().all()
    assert any("lacks 5" in note for note in results.record["notes"])


def test_merged_regions(study):
    table = fit(study, level="region", repeats=0, permutations=50).table
    assert table["region"].tolist() == ["A", "B", "A", "B"]
    assert "label" not in table


def test_maps_of_another_program(study):
    covariates = study / "participants.tsv"
    pd.read_csv(study / "cohort.tsv", sep="\t").drop(columns="mwp1").to_csv(covariates, sep="\t", index=False)
    ours = fit(study, repeats=0, permutations=50).table
    regions = RegionSpec(study / "own.nii.gz", maps=study)
    contrasts = ["age", "F(age, sex)"]
    theirs = fit_roi_glm("gm ~ age + sex", covariates, contrasts, regions=regions, repeats=0, permutations=50).table
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_scan_that_cannot_be_measured(study):
    (study / "mwp1sub-07_T1w.nii.gz").write_bytes(b"no image")
    with pytest.raises(ScanError, match=r"sub-07 cannot be measured: .*--missing drop"):
        fit(study)
    results = fit(study, missing="drop", repeats=0, inference="fdr")
    assert len(results.design.scan_ids) == N_SCANS - 1
    assert any("sub-07" in note for note in results.record["notes"])


def test_files(study, tmp_path):
    written = fit(study, repeats=3, permutations=50).to_directory(tmp_path / "out")
    assert written[-1].name == "glm.json"
    assert all(path.is_file() for path in written)
    table = pd.read_csv(tmp_path / "out" / "roi_own_glm.tsv", sep="\t", na_values="n/a")
    words = json.loads((tmp_path / "out" / "roi_own_glm.json").read_text())
    assert set(table.columns) == set(words) - {"vbmstat"}
    assert words["mean_ml"]["Units"] == "mL"
    record = json.loads((tmp_path / "out" / "glm.json").read_text())
    assert (record["level"], record["atlas"]) == ("roi", "own")
    assert (tmp_path / "out" / "roi_own_LICENCE.txt").read_text().startswith("Atlas own")


def test_family_wise_error_over_regions(study):
    """The p of each region is the share of permutations, the unpermuted one among them, with as large a maximum."""
    table = fit(study, contrasts=["age"], repeats=0, permutations=200).table.set_index("label")
    assert table.loc[3, "p_fwe"] == pytest.approx(1 / 200)
    assert (table["p_fwe"] >= table["p_uncorrected"] - 0.05).all()
    assert (table.loc[[7, 9], "p_fwe"] > 0.05).all()
    assert "p_fwe" not in fit(study, repeats=0, inference="fdr").table
    with pytest.raises(DesignError, match="regions have no neighbours, so there is no tfce inference"):
        fit(study, inference="fwe,tfce")


@pytest.fixture
def sessions(study):
    """The same scans as five visits of four people."""
    table = pd.read_csv(study / "cohort.tsv", sep="\t")
    table["session_id"] = [f"ses-{i % 5}" for i in range(N_SCANS)]
    table["participant_id"] = [f"sub-{i // 5}" for i in range(N_SCANS)]
    table.to_csv(study / "cohort.tsv", sep="\t", index=False)
    return study


def test_the_change_of_each_person(sessions):
    """Volumes of five visits of four people: slopes of numpy over the volumes of roi."""
    cohort_table = read_cohort(sessions / "cohort.tsv")
    volumes = measure_rois(cohort_table, sessions / "own.nii.gz", ["gm"]).labels
    found = fit_roi_glm("change(gm, age) ~ 1", cohort_table, ["Intercept"], regions=RegionSpec(sessions / "own.nii.gz"),
                        repeats=0, inference="fdr")  # fmt: skip
    wide = volumes.pivot_table(index=["participant_id", "session_id"], columns="label", values="roi_gm_ml")
    age = cohort_table.table["age"].reindex(wide.index)
    people = wide.index.get_level_values("participant_id")
    slope = np.array([np.polyfit(age[people == one], wide[people == one], 1)[0] for one in sorted(set(people))])
    table = found.table.set_index("label")
    np.testing.assert_allclose(table["effect"], slope.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(table["mean_ml"], wide.mean(), rtol=1e-6)
    assert set(found.record["maps"]) == set(cohort_table.scan_ids)
    with pytest.raises(DesignError, match="change\\(\\) has one row a person, --random several scans of each"):
        fit_roi_glm("change(gm, age) ~ 1", cohort_table, regions=RegionSpec(sessions / "own.nii.gz", random="age"))


def test_mixed_model(sessions):
    results = fit(sessions, "gm ~ age", ["age", "Intercept"], random="participant_id", repeats=100)
    table = results.table
    volumes = measure_rois(read_cohort(sessions / "cohort.tsv"), sessions / "own.nii.gz", ["gm"]).labels
    values = volumes[volumes["label"] == 7]["roi_gm_ml"].to_numpy()
    expected = fit_mixed(values[:, None], results.design, build_contrasts(["age"], results.design),
                         [f"{i // 5}" for i in range(N_SCANS)])  # fmt: skip
    row = table[(table["label"] == 7) & (table["contrast"] == "age")].iloc[0]
    assert (row["statistic"], row["name"]) == ("t", "Right A")
    np.testing.assert_allclose(
        row[["effect", "se", "value", "df", "p_uncorrected", "random_variance"]].astype(float),
        [expected.effect[0, 0], expected.se[0, 0], expected.statistic[0, 0], expected.df[0, 0], expected.p[0, 0],
         expected.random_variance[0]], rtol=1e-9,
    )  # fmt: skip
    assert any("few subjects" in note for note in results.record["notes"])
    between = row["random_variance"] / (row["random_variance"] + row["residual_variance"])
    assert row["icc"] == pytest.approx(between)
    assert results.record["mixed_model"]["n_subjects"] == 4
    written = results.to_directory(sessions / "out")
    assert all(path.is_file() for path in written)
    words = json.loads((sessions / "out" / "roi_own_glm.json").read_text())
    assert words["icc"]["Description"].startswith("Share of the variance")


def test_a_variance_that_cannot_be_known_is_refused_for_regions_too(study):
    table = pd.read_csv(study / "cohort.tsv", sep="\t").assign(flag=[1] + [0] * (N_SCANS - 1))
    table.to_csv(study / "cohort.tsv", sep="\t", index=False)
    with pytest.raises(DesignError, match=r"contrast 'flag': HC3 cannot estimate its variance, .* fits sub-00 exactly"):
        fit(study, "gm ~ age + flag", ["flag"], variance="hc3", repeats=0)
    found = fit(study, "gm ~ age + flag", None, variance="hc3", repeats=0)
    assert found.table["contrast"].unique().tolist() == ["age"]
    assert any(note.startswith("contrast 'flag' left out") for note in found.record["notes"])


def test_sandwich_variances(sessions):
    ours = fit(sessions, "gm ~ age", ["age"], variance="sandwich:participant_id")
    table = ours.table.set_index("label")
    plain = fit(sessions, "gm ~ age", ["age"], repeats=0).table.set_index("label")
    np.testing.assert_allclose(table["effect"], plain["effect"], rtol=1e-9)
    assert (table["se"] != plain["se"]).all()
    assert table["df"].nunique() == 1
    assert table["df"].iloc[0] < 4
    np.testing.assert_allclose(table["p_uncorrected"], 2 * stats.t.sf(table["value"].abs(), table["df"]), rtol=1e-9)
    assert table["p_fwe"].ge(2 / 2**4).all()  # sign flips of four people


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variance": "hc3"}, "a mixed model takes no variance"),
        ({"inference": "fwe"}, "a mixed model has no permutations"),
        ({"tiv": "proportional"}, "a mixed model takes TIV as a covariate"),
    ],
)
def test_what_a_mixed_model_does_not_take(sessions, options, match):
    with pytest.raises(DesignError, match=match):
        fit(sessions, "gm ~ age", ["age"], random="participant_id", **options)


@pytest.mark.parametrize(
    ("formula", "options", "match"),
    [("bmi ~ age", {}, "regions are measured in gm, wm, csf"), ("gm ~ age", {"level": "lobe"}, "level='lobe'")],
)
def test_bad_input(study, formula, options, match):
    with pytest.raises(DesignError, match=match):
        fit(study, formula, **options)


def test_a_folder_with_maps_of_several_engines_is_refused_by_their_sidecars(study):
    covariates = study / "participants.tsv"
    pd.read_csv(study / "cohort.tsv", sep="\t").drop(columns="mwp1").to_csv(covariates, sep="\t", index=False)
    for number in range(N_SCANS):
        record = {"engine": "deep" if number == 3 else "classic", "versions": {"vbmstat": "1"}}
        storage.write_json(study / f"sub-{number:02d}_T1w_desc-vbmstat_provenance.json", record)
    regions, options = RegionSpec(study / "own.nii.gz", maps=study), {"repeats": 0, "inference": "fdr"}
    expected = rf"the maps mix engine values \(classic: {N_SCANS - 1} scans, deep: 1 scans\); preprocess all"
    with pytest.raises(TableError, match=expected):
        fit_roi_glm("gm ~ age + sex", covariates, ["age"], regions=regions, **options)
    fit_roi_glm("gm ~ age + sex", covariates, ["age"], regions=regions, allow_mixed=True, **options)
