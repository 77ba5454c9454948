"""The whole analysis: joins, recipes, outputs, and what is refused."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
import torch

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.assets import sha256
from vbmstat.errors import ScanError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import ModelSpec
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.paths import map_column
from vbmstat.tables.cohort import Cohort, index_by_id, read_cohort


def t_of(results, name="age"):
    return results.maps[name]["t"].values


def test_maps_agree_with_statsmodels_formulas(cohort_folder, table, images):
    results = fit_glm(None, "gm ~ age + sex + tiv", cohort_folder / "cohort.tsv", repeats=10)
    mask = results.space.unmask(results.mask) > 0
    assert np.array_equal(mask, (images > 0.1).all(axis=0))
    found = {name: results.volume("age", name).data[0].numpy() for name in ("t", "p", "effect", "variance", "r")}
    data = table.rename(columns={"tiv_ml": "tiv"})
    for x, y, z in np.argwhere(mask)[::37]:
        model = smf.ols("v ~ age + sex + tiv", data.assign(v=images[:, x, y, z].astype(float))).fit()
        assert found["t"][x, y, z] == pytest.approx(model.tvalues["age"], rel=5e-6, abs=5e-6)
        assert found["p"][x, y, z] == pytest.approx(model.pvalues["age"], rel=1e-4)
        assert found["effect"][x, y, z] == pytest.approx(model.params["age"], rel=1e-4, abs=1e-9)
        assert found["variance"][x, y, z] == pytest.approx(model.bse["age"] ** 2, rel=1e-5)
        r = model.tvalues["age"] / np.sqrt(model.tvalues["age"] ** 2 + model.df_resid)
        assert found["r"][x, y, z] == pytest.approx(r, rel=1e-5, abs=1e-6)
    assert results.df_resid == 22


def test_row_order_does_not_matter(cohort_folder):
    path = cohort_folder / "cohort.tsv"
    first = fit_glm(None, "gm ~ age + sex", path, repeats=10)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    second = fit_glm(None, "gm ~ age + sex", path, repeats=10, n_threads=1)
    for name in ("age", "sex[T.M]"):
        for stat in ("t", "mediant", "p"):
            assert np.array_equal(first.maps[name][stat].values, second.maps[name][stat].values)
    assert first.record["draws_sha256"] == second.record["draws_sha256"]


def test_the_record_names_the_table_that_was_read(cohort_folder):
    path = cohort_folder / "cohort.tsv"
    digest = sha256(path)
    results = fit_glm(None, "gm ~ age", path, repeats=0, progress=lambda *_: path.write_text("changed"))
    assert results.record["data"]["table"] == {"file": "cohort.tsv", "sha256": digest}


def test_p_comes_from_the_full_sample(cohort_folder):
    with_subsets = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=10)
    without = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=0)
    assert np.array_equal(with_subsets.maps["age"]["p"].values, without.maps["age"]["p"].values)
    assert "mediant" not in without.maps["age"]
    inside = with_subsets.mask & (np.abs(t_of(without)) > 4)
    shrunk = with_subsets.maps["age"]["mediant"].values[inside] / t_of(without)[inside]
    assert 0.8 < np.median(shrunk) < 0.95  # about sqrt(0.8)


def test_the_record_repeats_the_fit(cohort_folder, tmp_path):
    results = fit_glm(
        None, "gm ~ age + sex", cohort_folder / "cohort.tsv", ["age"], repeats=7, fraction=0.7, seed=3, stratify="sex"
    )
    results.to_directory(tmp_path)
    record = json.loads((tmp_path / "glm.json").read_text())
    assert len(record["maps"]) == record["n_scans"] == 26
    assert all(len(entry["sha256"]) == 64 for entry in record["maps"].values())
    assert record["versions"]["vbmstat"]
    assert "/" not in record["maps"]["sub-003"]["path"]  # no folder of this machine
    spec = ModelSpec.from_record(record["spec"], lambda name, digest: tmp_path / name)
    again = fit_glm(None, spec, cohort_folder / "cohort.tsv")
    assert again.record["draws_sha256"] == record["draws_sha256"]
    assert np.array_equal(again.maps["age"]["mediant"].values, results.maps["age"]["mediant"].values)
    reused = fit_glm(None, "gm ~ age + sex", cohort_folder / "cohort.tsv", ["age"], draws=tmp_path / "draws.tsv")
    assert np.array_equal(reused.maps["age"]["mediant"].values, results.maps["age"]["mediant"].values)


@pytest.mark.parametrize(
    "option",
    [
        {"repeats": 9}, {"fraction": 0.6}, {"seed": 1}, {"stratify": "site"}, {"mask_threshold": 0.4},
        {"mask_threshold": 0.5, "mask_share": 0.5}, {"tiv": "covariate"}, {"tiv": "by-group"}, {"tiv": "proportional"},
        {"global_scaling": True}, {"weights": "w"}, {"variance": "hc3"}, {"variance": "spm"},
    ],
)  # fmt: skip
def test_every_option_changes_the_result(cohort_folder, option):
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    cohort.table["w"] = np.linspace(0.2, 2, 26)
    plain = fit_glm(None, "gm ~ age + sex", cohort, ["age"], repeats=8)
    other = fit_glm(None, "gm ~ age + sex", cohort, ["age"], **{"repeats": 8, **option})
    same = all(
        plain.maps["age"][stat].values.shape == other.maps["age"][stat].values.shape
        and np.array_equal(plain.maps["age"][stat].values, other.maps["age"][stat].values)
        for stat in ("t", "mediant")
    )
    assert not same


def test_matrices_and_tables_of_rois(table):
    rng = np.random.default_rng(0)
    volumes = rng.normal(5, 1, (26, 3))
    frame = pd.DataFrame(volumes, index=table["participant_id"], columns=["left", "right", "stem"])
    shuffled = fit_glm(frame.iloc[::-1], "volume ~ age + sex", table, repeats=5)
    for matrix in (volumes, torch.from_numpy(volumes), volumes.astype(np.float32)):
        bare = fit_glm(matrix, "volume ~ age + sex", table, repeats=5)
        np.testing.assert_allclose(t_of(bare), t_of(shuffled), rtol=1e-5, atol=1e-5)
    rows = shuffled.table("age")
    assert rows["feature"].tolist() == ["left", "right", "stem"]
    model = smf.ols("v ~ age + sex", table.assign(v=volumes[:, 1])).fit()
    assert rows.loc[1, "t"] == pytest.approx(model.tvalues["age"], rel=1e-9)
    assert rows.loc[1, "p"] == pytest.approx(model.pvalues["age"], rel=1e-9)


def test_matrices_of_the_wrong_size_and_unknown_ids(table):
    with pytest.raises(ScanError, match="one row for each of the 26 scans"):
        fit_glm(np.zeros((25, 3)), "v ~ age", table)
    frame = pd.DataFrame(np.ones((2, 1)), index=["sub-001", "sub-001"])
    with pytest.raises(TableError, match="duplicate id sub-001"):
        fit_glm(frame, "v ~ age", table)


@pytest.mark.parametrize(
    "name",
    ["s6mwp1{}_T1w.nii.gz", "smwp1{}.nii", "mwp1r{}.nii.gz", "smwc1{}.nii", "{}_s6mwp1.nii.gz",
     "{}_space-MNI152NLin2009cAsym_label-GM_desc-modulatedS6_probseg.nii.gz"],
)  # fmt: skip
def test_maps_of_any_program(tmp_path, table, images, name):
    for scan, image in zip(table["participant_id"], images, strict=True):
        path = tmp_path / "maps" / scan / name.format(scan)
        write_volume(path, Volume(torch.from_numpy(image)[None], GRID))
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    results = fit_glm(tmp_path / "maps", "gm ~ age", tmp_path / "participants.tsv", repeats=0)
    assert len(results.design.scan_ids) == 26
    warned = any("WARNING: the maps are not smoothed" in note for note in results.record["notes"])
    assert warned == name.startswith("mwp1r")
    template = str(tmp_path / "maps" / "{participant_id}" / name.format("{participant_id}"))
    again = fit_glm(template, "gm ~ age", tmp_path / "participants.tsv", repeats=0)
    assert np.array_equal(t_of(results), t_of(again))


def test_joins_by_folder(tmp_path, cohort_folder, table):
    people = table.drop(index=[3]).copy()
    people.loc[99] = ["sub-777", 50.0, "F", "ulm", 1500.0]
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    results = fit_glm(cohort_folder / "mri", "gm ~ age", tmp_path / "p.tsv", repeats=0)
    assert len(results.design.scan_ids) == 25
    steps = [(step["step"], step["n_left"], list(step["left_out"])) for step in results.record["flow"]]
    assert steps == [
        ("rows of p.tsv", 26, []), ("maps without a row in the table", 25, ["sub-003"]), ("no map", 25, ["sub-777"])
    ]  # fmt: skip
    notes = " ".join(results.record["notes"])
    assert "left out 1 maps without a row in the table: sub-003" in notes
    assert "1 rows of the table have no map and are not used: sub-777" in notes


def test_names_with_and_without_their_suffix(tmp_path, images):
    stem = [f"person{i:02d}_T1w" for i in range(26)]
    for name, image in zip(stem, images, strict=True):
        write_volume(tmp_path / "maps" / f"s6mwp1{name}.nii", Volume(torch.from_numpy(image)[None], GRID))
    for ids in (stem, [name.removesuffix("_T1w") for name in stem]):
        results = fit_glm(tmp_path / "maps", "gm ~ age", make_table().assign(participant_id=ids), repeats=0)
        assert list(results.design.scan_ids) == ids


def test_ids_are_strings(tmp_path, images):
    table = make_table().assign(participant_id=[f"{i:03d}" for i in range(26)])
    table.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    for i, image in enumerate(images):
        write_volume(tmp_path / "maps" / f"mwp1{i}.nii", Volume(torch.from_numpy(image)[None], GRID))
    with pytest.raises(TableError, match="'000' of the table differs in leading zeros only; write its ids as"):
        fit_glm(tmp_path / "maps", "gm ~ age", tmp_path / "p.tsv")


def test_tables_from_spreadsheets(tmp_path, cohort_folder, table):
    with_commas = table.assign(age=table["age"].astype(str).str.replace(".", ","))
    with_commas.to_csv(tmp_path / "p.csv", sep=";", index=False, encoding="utf-8-sig")
    results = fit_glm(cohort_folder / "mri", "gm ~ age + site", tmp_path / "p.csv", repeats=0)
    plain = fit_glm(None, "gm ~ age + site", cohort_folder / "cohort.tsv", repeats=0)
    assert np.array_equal(t_of(results), t_of(plain))
    assert "site[T.köln]" in results.maps


def test_smoothed_maps_of_one_width_are_taken_and_of_several_refused(cohort_folder):
    """A column of 8 mm must not be passed over for unsmoothed maps."""
    data = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t").rename(columns={"s6mwp1": "s8mwp1"})
    table = index_by_id(data.assign(mwp1=data["s8mwp1"]), "cohort.tsv")
    assert map_column("gm", table) == "s8mwp1"
    with pytest.raises(TableError, match=r"gm may be any of the columns s6mwp1, s8mwp1; choose one width with --fwhm"):
        map_column("gm", table.assign(s6mwp1=table["s8mwp1"]))


def test_no_effect_gives_uniform_p():
    table = make_table(40, 3)
    noise = np.random.default_rng(8).standard_normal((40, 20000))
    p = fit_glm(noise, "v ~ age + sex", table, ["age"], repeats=0).maps["age"]["p"].values
    for level in (0.01, 0.05, 0.5):
        assert (p < level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 20000))
    assert make_images(table).shape[0] == 40


def test_text_beside_numbers_is_not_a_traceback(cohort_folder):
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    cohort.table["tiv_ml"] = ["large", "small"] * 13
    results = fit_glm(None, "gm ~ age + tiv", cohort, repeats=0)
    assert np.isnan([row["r_tiv"] or np.nan for row in results.record["design_report"]]).all()


def test_numbers_of_sites_are_the_same_factor_as_their_names(cohort_folder):
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    named = fit_glm(None, "gm ~ age + site", cohort, repeats=0)
    codes = {"berlin": 1, "köln": 2, "ulm": 10}
    numbered = Cohort(cohort.table.assign(site=cohort.table["site"].map(codes)), cohort.folder)
    found = fit_glm(None, "gm ~ age + site", numbered, repeats=0)
    np.testing.assert_array_equal(t_of(found), t_of(named))
    np.testing.assert_array_equal(t_of(found, "site[T.10]"), t_of(named, "site[T.ulm]"))


def test_ids_of_file_names_are_in_composed_unicode(tmp_path, images):
    table = make_table().assign(participant_id=[f"\u00c5se{i:02d}" for i in range(26)])
    for scan, image in zip(table["participant_id"], images, strict=True):
        name = unicodedata.normalize("NFD", f"s6mwp1{scan}.nii.gz")
        write_volume(tmp_path / name, Volume(torch.from_numpy(image)[None], GRID))
    results = fit_glm(tmp_path, "gm ~ age", table, repeats=0)
    assert results.design.scan_ids == tuple(table["participant_id"])


def test_what_the_reader_of_the_table_passed_over_is_noted(cohort_folder):
    path = cohort_folder / "cohort.tsv"
    path.write_text("A cohort\n" + path.read_text())
    results = fit_glm(None, "gm ~ age", path, repeats=0)
    assert "cohort.tsv: the header is line 2; skipped above it: 'A cohort'" in results.record["notes"]


def test_values_that_do_not_differ_between_scans_are_refused():
    table = pd.DataFrame({"participant_id": list("abcde"), "age": [20.0, 35.0, 50.0, 65.0, 80.0]})
    with pytest.raises(ScanError, match="expected values that differ between the 5 scans, but none do"):
        fit_glm(np.ones((5, 3)), "volume ~ age", table, repeats=0, inference="fdr")
