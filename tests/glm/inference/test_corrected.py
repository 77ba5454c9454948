"""Corrected inference through the whole analysis: options, maps, tables, notes, what is refused."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, special, stats

from tests.glm.conftest import GRID, make_images
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.inference.corrected import forming_threshold
from vbmstat.glm.inference.places import Regions
from vbmstat.image.io import read_volume
from vbmstat.image.volume import Volume

ALL = {"inference": "fdr,fwe,tfce,cluster", "permutations": 40, "repeats": 0, "cluster_threshold": 0.01}


@pytest.fixture
def path(cohort_folder):
    return cohort_folder / "cohort.tsv"


@pytest.mark.parametrize("one_sided", [False, True])
def test_several_contrasts_are_each_as_alone(path, one_sided):
    asked = {"repeats": 0, "inference": "rft,fdr,fwe,tfce,cluster", "permutations": 30, "cluster_threshold": 0.05}
    names = ["F(age, tiv)", "age", "sex[T.M]"]
    together = fit_glm(None, "gm ~ age + sex + tiv", path, names, one_sided=one_sided, **asked)
    for name in names:
        alone = fit_glm(None, "gm ~ age + sex + tiv", path, [name], one_sided=one_sided, **asked)
        assert together.maps[name].keys() == alone.maps[name].keys()
        for stat, expected in alone.maps[name].items():
            np.testing.assert_array_equal(together.maps[name][stat].values, expected.values, err_msg=f"{name} {stat}")
        pd.testing.assert_frame_equal(together.clusters(name), alone.clusters(name))
        pd.testing.assert_frame_equal(together.peaks(name), alone.peaks(name))


def test_everything_at_once(path, tmp_path):
    results = fit_glm(None, "gm ~ age + sex + tiv", path, ["age", "F(age, tiv)"], **ALL)
    t, mask = results.maps["age"]["t"].values, results.mask
    p = {stat: results.maps["age"][stat].values for stat in ("pperm", "pfwe", "ptfce", "pextent", "pmass", "qfdr", "p")}
    for values in p.values():
        assert ((values > 0) & (values <= 1)).all()
        assert (values[~mask] == 1).all()
    largest = np.argmax(np.abs(t))
    assert t[largest] < -5  # age thins one side
    assert p["pfwe"][largest] == p["ptfce"][largest] == p["pextent"][largest] == 1 / 40
    assert (p["pfwe"] >= p["pperm"]).all()
    np.testing.assert_allclose(p["qfdr"][mask], stats.false_discovery_control(p["p"][mask]))
    assert (results.maps["age"]["tfce"].values[t < 0] <= 0).all()
    assert results.maps["age"]["dlow"].values[largest] < results.maps["age"]["d"].values[largest] < 0
    assert abs(results.maps["age"]["g"].values[largest]) < abs(results.maps["age"]["d"].values[largest])
    assert results.record["inference"]["contrasts"][1]["two_sided"] is False
    assert (
        max(results.record["inference"]["smoothness"]["fwhm_mm"]) < 4.5
    )  # independent noise, 3 mm voxels, by differences
    atlas = np.ones(GRID.shape, np.float32)
    atlas[GRID.shape[0] // 2 :] = 2
    regions = Regions(Volume(torch.from_numpy(atlas)[None], GRID), {1: "west", 2: "east"})
    written = {file.name for file in results.to_directory(tmp_path, regions=regions)}
    names = ("_clusters.tsv", "_peaks.tsv", "_nullmaxima.tsv", "_clusters.nii.gz", "_stat-pfwe_statmap.nii.gz")
    assert {f"contrast-{label}{name}" for label in ("age", "FAgeTiv") for name in names} <= written
    clusters = pd.read_csv(tmp_path / "contrast-age_clusters.tsv", sep="\t")
    assert clusters.loc[0, "peak_t"] == pytest.approx(t[largest], abs=1e-3)
    assert clusters.loc[0, "p_extent_fwe"] == clusters.loc[0, "peak_p_fwe"] == 1 / 40
    assert clusters.loc[0, "regions"].startswith("east")
    labels = nib.load(tmp_path / "contrast-age_clusters.nii.gz")
    assert labels.get_data_dtype() == np.int32
    assert (np.asanyarray(labels.dataobj) == 1).sum() == clusters.loc[0, "size_voxels"]
    nulls = pd.read_csv(tmp_path / "contrast-age_nullmaxima.tsv", sep="\t")
    assert list(nulls) == ["statistic", "tfce", "extent", "mass"]
    assert len(nulls) == 40
    assert nulls["statistic"][0] == pytest.approx(np.abs(t).max())
    p_map = read_volume(tmp_path / "contrast-age_stat-pfwe_statmap.nii.gz").data
    assert (p_map[read_volume(tmp_path / "mask.nii.gz").data == 0] == 1).all()
    peaks = pd.read_csv(tmp_path / "contrast-FAgeTiv_peaks.tsv", sep="\t")
    assert {"F", "p_uncorrected", "p_fwe", "p_tfce_fwe", "q_fdr", "region"} <= set(peaks)
    record = json.loads((tmp_path / "glm.json").read_text())["inference"]
    assert record["contrasts"][0]["smallest_p"] == 1 / 40
    assert record["contrasts"][0]["cluster_forming_threshold"] == pytest.approx(stats.t.isf(0.005, 22))


def test_only_what_is_asked(path):
    plain = fit_glm(None, "gm ~ age", path, repeats=0)
    assert plain.inference == {}
    assert "inference" not in plain.record
    fdr = fit_glm(None, "gm ~ age", path, repeats=0, inference="fdr")
    assert "qfdr" in fdr.maps["age"]
    assert not {"pfwe", "pperm", "tfce"} & set(fdr.maps["age"])
    assert len(fdr.clusters("age"))  # a table needs no permutations
    fwe = fit_glm(None, "gm ~ age", path, repeats=0, inference=["fwe"], permutations=20)
    assert {"pfwe", "pperm"} <= set(fwe.maps["age"])
    assert not {"qfdr", "tfce", "pextent"} & set(fwe.maps["age"])
    with pytest.raises(DesignError, match="no clusters for 'age'"):
        plain.clusters("age")


@pytest.mark.parametrize("option", [
    {"permutations": 39}, {"seed": 1}, {"scheme": "smith"}, {"one_sided": True}, {"sign_flip": True},
    {"blocks": "site"}, {"cluster_threshold": 3.1}, {"blocks": "sex", "exchange": "both"},
    {"permutations": 300, "stop_after": 5},
])  # fmt: skip
def test_every_option_changes_the_result(path, option):
    base, changed = (fit_glm(None, "gm ~ age + sex", path, ["age"], **ALL | o).inference["age"] for o in ({}, option))
    same = all(np.array_equal(base.nulls.maxima[name], changed.nulls.maxima[name]) for name in base.nulls.maxima)
    assert not same


def test_exchange_changes_the_result(path):
    table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
    table["pair"] = np.repeat([f"p{i}" for i in range(13)], 2)
    table.to_csv(path, sep="\t", index=False)
    found = [
        fit_glm(None, "gm ~ age", path, repeats=0, inference="fwe", permutations=30, blocks="pair", exchange=exchange)
        .inference["age"].nulls.maxima["statistic"] for exchange in ("within", "whole", "both")
    ]  # fmt: skip
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


def test_several_block_columns_are_palm_s(path):
    table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
    table["root"], table["family"] = -1, np.repeat(np.arange(13), 2) + 1
    table["pair"] = [f"p{i}" for i in table["family"]]
    table.to_csv(path, sep="\t", index=False)
    options = {"repeats": 0, "inference": "fwe", "permutations": 30}
    one = fit_glm(None, "gm ~ age", path, blocks="pair", **options).inference["age"].nulls
    several = fit_glm(None, "gm ~ age", path, blocks=["root", "family"], **options).inference["age"].nulls
    np.testing.assert_array_equal(one.maxima["statistic"], several.maxima["statistic"])
    with pytest.raises(DesignError, match="hold PALM's whole numbers"):
        fit_glm(None, "gm ~ age", path, blocks=["root", "pair"], **options)


def test_row_order_does_not_matter(path):
    options = {"repeats": 0, "inference": "fwe", "permutations": 30, "blocks": "site"}
    first = fit_glm(None, "gm ~ age", path, **options).inference["age"].nulls
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    second = fit_glm(None, "gm ~ age", path, **options).inference["age"].nulls
    np.testing.assert_allclose(first.maxima["statistic"], second.maxima["statistic"], rtol=1e-5)


def test_more_permutations_than_exist(table, images):
    """Six scans, three a sex: 20 permutations; nothing can be below 2/20 and the notes say so."""
    few = table.iloc[:6]
    values = images[:6].reshape(6, -1)[:, 400:430].astype(float)
    results = fit_glm(values, "v ~ sex", few, repeats=0, inference="fwe", permutations=5000)
    notes = " ".join(results.record["notes"])
    assert "5000 permutations were asked and 20 exist; all of them were used, and no p can be below 0.1" in notes
    assert "nothing can reach p = 0.05: the smallest is 0.1" in notes
    assert "too few permutations for a critical value at p = 0.05" in notes
    assert "n80fwe" not in results.maps["sex[T.M]"]
    assert results.record["inference"]["contrasts"][0]["statistic_at_p_fwe_0.05"] is None
    assert results.maps["sex[T.M]"]["pfwe"].values.min() >= 0.1
    assert "pfwe" in results.table("sex[T.M]")


def test_approximated_p_are_named(path, tmp_path):
    options = ALL | {"permutations": 120, "cluster_threshold": 0.2}
    results = fit_glm(None, "gm ~ age + sex", path, ["age"], **options, tail="gpd")
    notes = " ".join(results.record["notes"])
    assert "small p of the largest statistic, " in notes
    assert " are approximated by a generalised Pareto distribution" in notes
    assert "fitted to 120 permutations, down to 0.00083; the smallest p that can be counted is 0.0083" in notes
    record = results.record["inference"]["contrasts"][0]
    assert 0 < record["approximated"]["number_of_p"]["statistic"] < results.mask.sum()
    assert record["approximated"]["tails"]["mass"]["kind"] == "gpd"
    assert record["smallest_p"] == 1 / 120
    results.to_directory(tmp_path)
    clusters = pd.read_csv(tmp_path / "contrast-age_clusters.tsv", sep="\t")
    assert "peak_p_fwe" in clusters.loc[0, "approximated"].split()
    assert 1 / 1200 <= clusters.loc[0, "peak_p_fwe"] < 1 / 120
    peaks = pd.read_csv(tmp_path / "contrast-age_peaks.tsv", sep="\t")
    assert peaks.loc[0, "approximated"] == "p_fwe p_tfce_fwe"
    header = nib.load(tmp_path / "contrast-age_stat-pfwe_statmap.nii.gz").header
    assert "(Pareto tail, 120 perm.)" in str(header["descrip"])
    described = json.loads((tmp_path / "contrast-age_peaks.json").read_text())
    assert "fitted tail" in described["approximated"]["Description"]
    largest = np.argmax(np.abs(results.maps["age"]["t"].values))
    flags = results.approximated("age")
    assert flags["pperm"][largest]
    assert flags["pfwe"][largest]
    assert results.maps["age"]["pperm"].values[largest] < 1 / 120
    assert not flags["pfwe"].all()
    assert results.peaks("age")["approximated"].iloc[-1] != peaks.loc[0, "approximated"]  # a weak peak's p is counted
    assert "approximated" not in fit_glm(None, "gm ~ age + sex", path, ["age"], **options).peaks("age")


def test_approximated_p_of_a_matrix(table, images):
    values = images.reshape(len(images), -1)[:, 400:430].astype(float)
    results = fit_glm(values, "v ~ age", table, repeats=0, inference="fwe", permutations=200, tail="gpd")
    rows = results.table("age")
    assert set(rows["approximated"].dropna()) <= {"pperm pfwe", "pperm", "pfwe"}
    assert rows.loc[rows["pperm"] < 1 / 200, "approximated"].str.contains("pperm").all()


def test_early_stop_is_told(path):
    results = fit_glm(None, "gm ~ sex", path, repeats=0, inference="fwe", permutations=500, stop_after=5)
    told = "stopped after 128 of 500 permutations: at least 5 of them reach the strongest finding"
    assert told in " ".join(results.record["notes"])


def test_all_that_exist_need_no_tail(table, images):
    values = images[:10].reshape(10, -1)[:, 400:430].astype(float)
    results = fit_glm(
        values, "v ~ sex", table.iloc[:10], repeats=0, inference="fwe", permutations=500, tail="gpd"
    )  # 10 choose 5 are 252
    told = "all permutations that exist were done, so that p are exact; no tail was fitted"
    assert told in " ".join(results.record["notes"])


def families(path):
    table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
    table["family"], table["root"] = np.repeat(np.arange(13), 2) + 1, 1
    table["negative"], table["scan"] = -table["family"], np.tile([1, 2], 13)
    table.to_csv(path, sep="\t", index=False)


@pytest.mark.parametrize(("options", "is_noted"), [
    ({"blocks": "family"}, True), ({"blocks": "family", "exchange": "whole"}, False),
    ({"blocks": "family", "exchange": "both"}, False), ({"blocks": ["root", "negative", "scan"]}, False), ({}, False),
])  # fmt: skip
def test_scans_of_a_block_that_flip_apart_are_noted(path, options, is_noted):
    families(path)
    results = fit_glm(None, "gm ~ 1", path, repeats=0, inference="fwe", permutations=30, sign_flip=True, **options)
    notes = [note for note in results.record["notes"] if note.startswith("Signs are flipped scan by scan, as if")]
    assert bool(notes) == is_noted
    permuted = fit_glm(None, "gm ~ age", path, repeats=0, inference="fwe", permutations=30, **options)
    assert "flipped scan by scan" not in " ".join(permuted.record["notes"])


def test_the_order_inside_blocks_is_recorded(path):
    families(path)
    options = {"repeats": 0, "inference": "fwe", "permutations": 30}
    for blocks, expected in (("family", "scan id"), (["root", "negative", "scan"], "last block column, then scan id"),
                             ((), None)):  # fmt: skip
        record = fit_glm(None, "gm ~ age", path, blocks=blocks, **options).record["inference"]
        assert record["order_inside_blocks"] == expected


def test_a_short_block_file_is_refused(path):
    families(path)
    with pytest.raises(DesignError, match="the last block column must tell scans apart: 2 scans of one block share"):
        fit_glm(None, "gm ~ age", path, blocks=["root", "family"], repeats=0, inference="fwe", permutations=30)


def test_one_sample(table, images):
    values = images.reshape(len(images), -1)[:, 400:430].astype(float)
    with pytest.raises(DesignError, match=r"tests a mean.*--sign-flip"):
        fit_glm(values, "v ~ 1", table, repeats=0, inference="fwe", permutations=100)
    results = fit_glm(values, "v ~ 1", table, repeats=0, inference="fwe", permutations=100, sign_flip=True)
    assert results.maps["Intercept"]["pfwe"].values[results.mask].min() == 1 / 100


@pytest.mark.parametrize(("formula", "options", "message"), [
    ("gm ~ site", {"blocks": "site", "inference": "fwe"}, "blocks leave nothing to permute"),
    ("gm ~ age", {"blocks": "family", "inference": "fwe"}, "no column 'family'"),
    ("gm ~ age", {"inference": "bonferroni"}, "inference='bonferroni': expected one of fdr, rft, fwe, tfce, cluster"),
    ("gm ~ age", {"blocks": "site"}, "blocks and sign flips need permutations"),
    ("gm ~ age", {"inference": "fdr", "sign_flip": True}, "blocks and sign flips need permutations"),
    ("gm ~ age", {"inference": "fwe", "exchange": "whole"}, "is for one column of blocks, got 0"),
    ("gm ~ age", {"inference": "fwe", "permutations": 1}, "permutations=1: expected at least 2"),
    ("gm ~ age", {"inference": "fwe", "scheme": "kennedy"}, "scheme='kennedy'"),
    ("gm ~ age", {"inference": "cluster", "cluster_threshold": 0}, "cluster_threshold=0: expected a p below 1"),
    ("gm ~ age", {"inference": "fwe", "variance": "hc3"}, "permutations take --variance ols"),
    ("gm ~ age", {"inference": "tfce", "variance": "spm"}, "permutations take --variance ols"),
    ("gm ~ age", {"inference": "fwe", "tail": "weibull"}, "tail='weibull': expected one of none, gpd"),
    ("gm ~ age", {"inference": "fwe", "tail": "gpd", "permutations": 99}, "at least 100 permutations"),
    ("gm ~ age", {"inference": "fdr", "tail": "gpd"}, "tail and stop_after need permutations"),
    ("gm ~ age", {"stop_after": 5}, "tail and stop_after need permutations"),
    ("gm ~ age", {"inference": "fwe", "stop_after": -1}, "stop_after=-1: expected 0"),
    ("gm ~ age", {"inference": "fwe", "stop_after": 50, "permutations": 50}, "or below permutations=50"),
])  # fmt: skip
def test_what_is_refused(path, formula, options, message):
    with pytest.raises((DesignError, TableError), match=message):
        fit_glm(None, formula, path, repeats=0, **options)


def test_a_matrix_has_no_neighbours(table):
    values = make_images(table).reshape(len(table), -1)[:, 400:430].astype(float)
    with pytest.raises(DesignError, match="the columns of a matrix have no neighbours"):
        fit_glm(values, "v ~ age", table, repeats=0, inference="tfce", permutations=10)


def test_a_block_without_a_value(path):
    table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
    table["family"] = ["a", None] * 13
    table.to_csv(path, sep="\t", index=False)
    with pytest.raises(TableError, match=r"no family \(block\) for sub-001"):
        fit_glm(None, "gm ~ age", path, repeats=0, inference="fwe", blocks="family")


def test_forming_thresholds():
    assert forming_threshold(0.001, "t", True, 1, 20) == pytest.approx(3.8495, abs=1e-4)  # R: qt(.0005, 20, lower=F)
    assert forming_threshold(0.001, "t", False, 1, 20) == pytest.approx(3.5518, abs=1e-4)  # R: qt(.001, 20, lower=F)
    assert forming_threshold(0.001, "F", False, 2, 20) == pytest.approx(9.9526, abs=1e-4)  # R: qf(.001, 2, 20, lower=F)
    assert forming_threshold(3.1, "t", True, 1, 20) == 3.1


def test_interrupted_analysis_goes_on(path, tmp_path, monkeypatch):
    calls = []

    def stop(stage, done, total):
        if stage == "permutations":
            calls.append(done)
            if len(calls) == 3:
                raise KeyboardInterrupt

    options = {"repeats": 0, "inference": "fwe,tfce", "permutations": 60, "checkpoint": tmp_path / "glm"}
    monkeypatch.setattr("vbmstat.glm.inference.permute.run._MAPS_BYTES", 4 * 20 * 400)
    monkeypatch.setattr("vbmstat.glm.inference.permute.run._SAVE_SECONDS", 0.0)
    whole = fit_glm(None, "gm ~ age", path, **options | {"checkpoint": None}).inference["age"].nulls
    with pytest.raises(KeyboardInterrupt):
        fit_glm(None, "gm ~ age", path, progress=stop, **options)
    file = tmp_path / "glm" / "contrast-age_permutations.npz"
    fit_glm(None, "gm ~ age", path, **options)
    with np.load(file) as stored:
        assert int(stored["done"]) == 60
    seen = []
    again = fit_glm(None, "gm ~ age", path, progress=lambda *a: seen.append(a[0]), **options).inference["age"].nulls
    assert "permutations" not in seen
    for name, maxima in whole.maxima.items():
        np.testing.assert_allclose(again.maxima[name], maxima, rtol=1e-5)
    fit_glm(None, "gm ~ age", path, progress=lambda *a: seen.append(a[0]), **options | {"seed": 4})
    assert "permutations" in seen  # another analysis begins anew


def pairs(n_people=8):
    """Two scans of each person, and 30 columns of noise with a mean of each person's own."""
    rng = np.random.default_rng(0)
    person = np.repeat([f"p{i:02d}" for i in range(n_people)], 2)
    table = pd.DataFrame({"participant_id": person, "session_id": ["1", "2"] * n_people})
    table["time"], table["person"] = np.tile(["pre", "post"], n_people), person
    return table, rng.standard_normal((2 * n_people, 30)) + np.repeat(rng.standard_normal((n_people, 30)), 2, axis=0)


@pytest.mark.parametrize(("formula", "options", "share"), [
    ("v ~ time + C(participant_id)", {}, r"5\d"),  # a pair's flip leaves half
    ("v ~ time + C(participant_id)", {"blocks": "participant_id", "exchange": "whole"}, None),
    ("v ~ time + C(participant_id)", {"scheme": "smith"}, None),
    ("v ~ 1", {"blocks": "participant_id", "exchange": "whole"}, None), ("v ~ 1", {}, None),
])  # fmt: skip
def test_flips_that_move_residuals_into_the_model_are_noted(formula, options, share):
    table, values = pairs()
    contrast = ["Intercept"] if formula == "v ~ 1" else ["time[T.pre]"]
    asked = {"repeats": 0, "inference": "fwe", "permutations": 100, "sign_flip": True}
    notes = " ".join(fit_glm(values, formula, table, contrast, **asked, **options).record["notes"])
    assert ("of the residuals into the other columns" in notes) == (share is not None)
    if share:
        expected = rf"sign flips move {share} % of the residuals .*so p are too small; .*--exchange whole"
        assert re.search(expected, notes)


@pytest.mark.parametrize(("formula", "options", "is_noted"), [
    ("v ~ 1", {}, True),  # the pair is in a column that nothing names
    ("v ~ 1", {"blocks": "site", "exchange": "within"}, True),
    ("v ~ 1", {"blocks": "site", "exchange": "whole"}, False),
    ("v ~ 1", {"blocks": "pair", "exchange": "whole"}, False),
    ("v ~ time + pair", {"scheme": "smith"}, False),  # the model has the pairs' means
])  # fmt: skip
def test_flips_of_scans_that_depend_on_one_another_are_noted(formula, options, is_noted):
    table, values = pairs()
    table["participant_id"] = [f"sub-{i:02d}" for i in range(len(table))]
    table = table.rename(columns={"person": "pair"}).assign(site=np.repeat(["a", "b", "c", "d"], 4))
    contrast = ["Intercept"] if formula == "v ~ 1" else ["time[T.pre]"]
    asked = {"repeats": 0, "inference": "fwe", "permutations": 16, "sign_flip": True}
    notes = fit_glm(values, formula, table, contrast, **asked, **options).record["notes"]
    expected = "Signs of scans with the same pair are flipped one by one"
    apart = "Signs are flipped scan by scan, as if a person's scans (site)"
    assert any(note.startswith((expected, apart)) for note in notes) == is_noted
    assert any(note.startswith(expected) for note in notes) == (is_noted and not options)


@pytest.mark.parametrize(("formula", "options", "is_noted"), [
    ("v ~ time", {"blocks": "person"}, True), ("v ~ time", {}, False),
    ("v ~ time + person", {"blocks": "person"}, False),
])  # fmt: skip
def test_p_that_do_not_know_the_blocks_are_noted(formula, options, is_noted):
    table, values = pairs()
    found = fit_glm(values, formula, table, ["time[T.pre]"], repeats=0, inference="fwe", permutations=50, **options)
    note = "p, z and confidence limits take scans as independent; use the permutation p (pperm, pfwe)"
    assert (note in found.record["notes"]) == is_noted


@pytest.mark.parametrize("name", ["participant_id", "person"])
def test_ids_may_be_blocks(name):
    table, values = pairs()
    asked = {"repeats": 0, "inference": "fwe", "permutations": 50}
    found = fit_glm(values, "v ~ time", table, blocks=name, **asked)
    expected = fit_glm(values, "v ~ time", table, blocks="person", **asked)
    np.testing.assert_array_equal(found.maps["time[T.pre]"]["pfwe"].values, expected.maps["time[T.pre]"]["pfwe"].values)


def test_peaks_have_effect_size_limits_effect_and_threshold(path):
    """Limits of g: scipy's noncentral t inverted by hand, times Hedges' factor, as R's effectsize does."""
    results = fit_glm(None, "gm ~ age + sex", path, ["age"], repeats=0, inference="fwe", permutations=40)
    peaks, df = results.peaks("age", None), 23
    maps = results.maps["age"]
    factor = np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    for row in peaks.head(3).to_dict("records"):
        for name, p in (("g_low", 0.975), ("g_high", 0.025)):
            noncentral = optimize.brentq(
                lambda n, p=p, t=row["t"]: stats.nct.cdf(t, df, n) - p, row["t"] - 9, row["t"] + 9
            )
            assert row[name] == pytest.approx(factor * 2 * noncentral / np.sqrt(df), abs=2e-3)
        at = int(np.argmin(np.abs(maps["t"].values - row["t"])))
        assert row["effect"] == pytest.approx(maps["effect"].values[at], rel=1e-5)
    nulls = np.sort(results.inference["age"].nulls.maxima["statistic"])[::-1]
    assert set(peaks["threshold"]) == {round(nulls[2], 4)}  # 2 of 40 exceed it
    assert set(peaks["threshold_by"]) == {"FWE p = 0.05 by 40 permutations, two-sided"}
    assert set(results.clusters("age", None)) > {"peak_g_low", "peak_g_high", "peak_effect"}
    fdr = fit_glm(None, "gm ~ age + sex", path, ["age"], repeats=0, inference="fdr")
    (threshold,) = set(fdr.peaks("age", None)["threshold"])
    called = fdr.maps["age"]["qfdr"].values <= 0.05
    assert threshold == pytest.approx(np.abs(fdr.maps["age"]["t"].values[called]).min(), abs=1e-4)
    nothing = fit_glm(None, "gm ~ sex", path, ["sex"], repeats=0, inference="fdr", cluster_threshold=2.0)
    assert set(nothing.peaks("sex", None)["threshold"]) == {2.0}
