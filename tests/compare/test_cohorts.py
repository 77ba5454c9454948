"""A small comparison from maps to tables: same subsets, restarts, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.compare import cohorts as module
from vbmstat.compare import models, pipelines
from vbmstat.compare.cohorts import compare_cohorts
from vbmstat.compare.config import read_plan
from vbmstat.errors import TableError, VbmstatError
from vbmstat.evaluate.folders import Evaluation
from vbmstat.figures import side_by_side
from vbmstat.figures.mosaic import Image
from vbmstat.glm.design.subsets import read_draws
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume

N = 14
PLAN = """
tissues = ["gm"]
atlas = "labels.nii.gz"
[glm]
repeats = 5
[cohorts.one]
participants = "people.tsv"
pipelines = { CAT12 = "cat", ours = "ours" }
[variables.age]
formula = "age + tiv"
contrast = "age"
paper = "age"
[variables.sex]
formula = "sex + tiv"
contrast = "sex[T.M]"
paper = "sex"
"""


@pytest.fixture(autouse=True)
def coarse(monkeypatch, request):
    """No average brain and no template: neither is on the small grid of these maps. Pictures in one test alone."""
    if "figures" not in request.node.name:
        monkeypatch.setattr(side_by_side, "panels_figure", lambda *_: None)
        monkeypatch.setattr(side_by_side, "roi_figure", lambda *_: None)
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr(side_by_side, "grey_average_brain", lambda: Image(np.ones(GRID.shape), GRID))
    monkeypatch.setattr(module, "save_publication", lambda stem, _: DRAWN.append(stem.name))
    monkeypatch.setattr(module, "evaluate_folders", fake_evaluation)
    DRAWN.clear()


DRAWN: list[str] = []


def fake_evaluation(folders, report, names):
    """Numbers of the two pipelines under the names that they are given."""
    assert len(folders) == len(names)
    rows = [(f"{scan}_T1w", names[1], names[0], 0.9) for scan in make_table(N)["participant_id"]]
    table = pd.DataFrame(rows, columns=["scan", "folder", "reference", "dice_gm"])
    return Evaluation(table, table, {}, [])


def write_pipeline(folder, images, people, kind="s6mwp1", tiv=True):
    for scan, image in zip(people["participant_id"], images, strict=True):
        for prefix in {kind, "mwp1"}:
            volume = Volume(torch.from_numpy(image)[None], GRID)
            io.write_volume(folder / "mri" / f"{prefix}{scan}_T1w.nii.gz", volume)
    if tiv:
        storage.write_table(folder / "volumes.tsv", people[["participant_id", "tiv_ml"]])


@pytest.fixture
def folder(tmp_path):
    people = make_table(N)
    images = make_images(people)
    again = (0.8 * images + np.random.default_rng(5).normal(0, 0.01, images.shape) * (images > 0)).astype(np.float32)
    write_pipeline(tmp_path / "cat", images, people)
    write_pipeline(tmp_path / "ours", again[:-1], people[:-1])  # ours failed for the last scan
    storage.write_table(tmp_path / "people.tsv", people.drop(columns="tiv_ml")[::-1])
    labels = torch.zeros(1, *GRID.shape)
    labels[0, :5], labels[0, 6:] = 1, 2
    io.write_volume(tmp_path / "labels.nii.gz", Volume(labels, GRID), dtype="uint8")
    (tmp_path / "labels.tsv").write_text("label\tname\tregion\n1\tLeft half\tHalf\n2\tRight half\tOther half\n")
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def run(folder, old="", new=""):
    (folder / "plan.toml").write_text(PLAN.replace(old, new, 1) if old else PLAN)
    return compare_cohorts(read_plan(folder / "plan.toml"))


def test_every_model_runs_in_both_pipelines_on_the_same_subsets(folder):
    found = run(folder)
    assert (found.n_fitted, found.n_kept) == (4, 0)
    models = folder / "comparison" / "glm" / "one"
    ids = list(make_table(N)["participant_id"][:-1])
    for variable in ("age", "sex"):
        draws = [read_draws(models / f"{variable}_gm" / name / "draws.tsv", ids) for name in ("CAT12", "ours")]
        assert draws[0].sum(axis=1).tolist() == [10] * 5  # floor(0.8 · 13)
        assert np.array_equal(*draws)
    assert "one: CAT12 has 1 more scans (sub-013)" in found.notes
    rows = found.tables["tmaps"].set_index(["variable", "statistic"])
    assert rows.loc[("age", "median t"), "n_scans"] == 13
    assert rows.loc[("age", "t"), "r"] > 0.9
    maps = [io.read_volume(models / "age_gm" / name / "contrast-age_stat-mediant_statmap.nii.gz").data[0].numpy()
            for name in ("CAT12", "ours")]  # fmt: skip
    both = (maps[0] != 0) & (maps[1] != 0)
    r = np.corrcoef(maps[0][both], maps[1][both])[0, 1]
    table = found.tables["correlation"].set_index("cohort")
    assert table.loc["one", "age"] == pytest.approx(r, abs=6e-4)
    assert table.loc["paper", "age"] == "> .8"
    largest = found.tables["max_t"].set_index("pipeline")
    assert largest.loc["ours", "age"] == pytest.approx(np.abs(maps[1]).max(), abs=6e-3)


def test_tables_figures_and_summary_are_written(folder):
    found = run(folder)
    out = folder / "comparison"
    for name in ("tmaps", "rois", "correlation", "max_t", "roi_correlation", "segmentation"):
        assert (out / f"{name}.tsv").is_file()
        described = json.loads((out / f"{name}.json").read_text())
        assert not [c for c, entry in described.items() if "participants table" in entry.get("Description", "")]
    assert DRAWN == ["slices_one_gm", "rois_one_gm_CAT12_ours"]
    text = (out / "summary.md").read_text()
    assert "one: 13 scans." in text
    assert "the median t over 5 subsets of 80 %" in text
    assert "| paper | gm | CAT12 | deepmriprep | > .8 | > .8 |" in text
    assert found.tables["segmentation"]["pipeline"].tolist() == ["ours"]
    assert found.tables["segmentation"]["n_scans"].tolist() == [13]
    assert json.loads((out / "summary.json").read_text())["tables"]["max_t"][0]["pipeline"] == "CAT12"


def test_figures_of_a_variable_or_cohort_that_is_no_more_in_the_plan_go(folder, monkeypatch):
    monkeypatch.setattr(module, "save_publication", lambda stem, _: storage.write_text(f"{stem}.svg", "picture"))
    run(folder)
    out = folder / "comparison"
    assert {path.name for path in (out / "figures").iterdir()} == {"slices_one_gm.svg", "rois_one_gm_CAT12_ours.svg"}
    (out / "mine.txt").write_text("")
    run(folder, "[cohorts.one]", "[cohorts.first]")
    names = {"slices_first_gm.svg", "rois_first_gm_CAT12_ours.svg"}
    assert {path.name for path in (out / "figures").iterdir()} == names
    listed = json.loads((out / "summary.json").read_text())["files"]
    assert {f"figures/{name}" for name in names} | {"tmaps.tsv", "summary.md"} <= set(listed)
    assert (out / "mine.txt").is_file()


def test_regions_agree_as_the_maps_do(folder):
    found = run(folder)
    rows = found.tables["rois"].set_index("region")
    assert list(rows.index) == ["Half", "Other half"]
    assert rows["n_scans"].tolist() == [13, 13]
    assert rows["slope"].tolist() == pytest.approx([0.8, 0.8], abs=0.03)
    people = make_table(N)
    image = make_images(people)[0]
    roi = pd.read_csv(folder / "comparison/roi/one/CAT12/roi_labels_regions.tsv", sep="\t")
    first = roi[(roi["participant_id"] == "sub-000") & (roi["region"] == "Other half")]["roi_gm_ml"].item()
    assert first == pytest.approx(image[6:].sum() * GRID.voxel_volume_ml, rel=1e-5)


def test_what_is_done_is_not_done_again_until_something_changes(folder):
    run(folder)
    stamp = folder / "comparison/glm/one/age_gm/ours/stamp.json"
    before = stamp.stat().st_mtime_ns
    again = run(folder)
    assert (again.n_fitted, again.n_kept) == (0, 4)
    assert stamp.stat().st_mtime_ns == before
    assert run(folder, 'contrast = "age"', 'contrast = "-1 * age"').n_fitted == 2
    changed = folder / "ours" / "mri" / "s6mwp1sub-000_T1w.nii.gz"
    volume = io.read_volume(changed)
    io.write_volume(changed, Volume(volume.data * 1.1, volume.grid))
    stamp.write_text("{half")
    touched = run(folder, 'contrast = "age"', 'contrast = "-1 * age"')
    assert (touched.n_fitted, touched.n_kept) == (2, 2)
    assert run(folder, "repeats = 5", "repeats = 5\nseed = 1").n_fitted == 4


def test_a_run_that_broke_off_goes_on_where_it_was(folder, monkeypatch):
    fitted = []
    real = models.fit_glm

    def break_at_third(*args, **keywords):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(args[1])
        return real(*args, **keywords)

    monkeypatch.setattr(models, "fit_glm", break_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    monkeypatch.setattr(models, "fit_glm", real)
    found = run(folder)
    assert (found.n_fitted, found.n_kept) == (2, 2)


def test_unsmoothed_maps_are_smoothed_first_and_once(folder, monkeypatch):
    for path in (folder / "cat" / "mri").glob("s6*"):
        path.unlink()
    run(folder)
    made = sorted((folder / "comparison" / "smoothed" / "CAT12").iterdir())
    assert [path.name for path in made[:2]] == ["s6mwp1one_sub-000.nii.gz", "s6mwp1one_sub-001.nii.gz"]
    assert len(made) == 13
    raw = io.read_volume(folder / "cat" / "mri" / "mwp1sub-000_T1w.nii.gz")
    smoothed = io.read_volume(made[0])
    expected = pipelines.smooth_map(raw, 6.0)
    assert torch.allclose(smoothed.data, expected.data, atol=1e-6)
    monkeypatch.setattr(pipelines, "smooth_map", lambda *_: pytest.fail("smoothed again"))
    assert run(folder).n_fitted == 0


def test_pooled_cohorts_keep_scans_of_one_name_apart(folder):
    people = make_table(N, seed=3)
    write_pipeline(folder / "cat2", make_images(people, seed=4), people)
    write_pipeline(folder / "ours2", make_images(people, seed=4), people)
    storage.write_table(folder / "people2.tsv", people.drop(columns="tiv_ml"))
    pooled = """
[cohorts.two]
participants = "people2.tsv"
pipelines = { CAT12 = "cat2", ours = "ours2" }
variables = []
[cohorts.both]
pool = ["one", "two"]
variables = ["age"]
"""
    found = run(folder, "[variables.age]", pooled + "[variables.age]")
    record = json.loads((folder / "comparison/glm/both/age_gm/ours/glm.json").read_text())
    assert record["n_scans"] == 13 + 14
    assert {"one_sub-000", "two_sub-000"} <= set(record["scan_ids"])
    assert set(found.tables["rois"]["cohort"]) == {"one", "two", "both"}
    assert found.tables["rois"].set_index("cohort").loc["both", "n_scans"].tolist() == [27, 27]
    table = found.tables["correlation"].set_index("cohort")
    assert np.isnan(table.loc["both", "sex"])


def test_scans_that_pooling_would_take_for_one_are_refused(folder):
    for number, ids in ((2, ["b_x", "y"]), (3, ["x", "z"])):
        people = make_table(2).assign(participant_id=ids)
        for name in ("cat", "ours"):
            write_pipeline(folder / f"{name}{number}", make_images(people), people)
    rows = pd.DataFrame({"participant_id": ["b_x", "x", "y", "z"], "age": [1.0, 2, 3, 4]})
    storage.write_table(folder / "people2.tsv", rows)
    other = "".join(
        f'[cohorts.{name}]\nparticipants = "people2.tsv"\npipelines = {{ CAT12 = "cat{n}", ours = "ours{n}" }}\n'
        for name, n in (("a", 2), ("a_b", 3))
    )
    with pytest.raises(TableError, match="scan x of a_b and b_x of a would both be a_b_x; rename a cohort"):
        run(folder, "[variables.age]", other + "[variables.age]")


def test_missing_covariates_leave_the_same_scans_out_of_both(folder):
    run(folder)
    people = pd.read_csv(folder / "people.tsv", sep="\t")
    people.loc[people["participant_id"] == "sub-004", "age"] = np.nan
    storage.write_table(folder / "people.tsv", people)
    found = run(folder)
    assert found.n_fitted == 4
    counts = found.tables["tmaps"].groupby("variable")["n_scans"].first()
    assert counts.to_dict() == {"age": 12, "sex": 13}


@pytest.mark.parametrize("name", ["tiv", "TIV", "log(tiv_ml)"])
def test_tiv_is_each_pipelines_own_and_missed_where_it_is_missing(folder, name):
    (folder / "ours" / "volumes.tsv").unlink()
    (folder / "plan.toml").write_text(PLAN.replace("+ tiv", f"+ {name}"))
    found = compare_cohorts(read_plan(folder / "plan.toml"))
    assert len(found.failures) == 2
    assert "no TIV in one: ours for sub-000, " in found.failures[0]
    assert "report/cat_*.xml" in found.failures[0]
    assert "correlation" not in found.tables
    assert "roi_correlation" in found.tables


def test_models_that_cannot_be_fitted_name_cohort_variable_and_pipeline(folder):
    run(folder)
    found = run(folder, 'formula = "age + tiv"', 'formula = "weight + tiv"')
    assert len(found.failures) == 1
    assert found.failures[0].startswith("one, age, gm, ours: formula: no column weight")
    assert f"not fitted: {found.failures[0]}" in found.notes
    assert set(found.tables["tmaps"]["variable"]) == {"sex"}  # not the maps of the run before
    tested = run(folder, 'contrast = "age"', 'contrast = "F(age, tiv)"')
    assert tested.failures == ("one, age: contrast 'F(age, tiv)' is an F-test; give a t-contrast",)


def test_maps_that_cannot_be_packed_are_a_failure_of_their_pipeline(folder):
    path = folder / "ours" / "mri" / "s6mwp1sub-000_T1w.nii.gz"
    io.write_volume(path, Volume(torch.zeros(1, *GRID.shape), GRID))
    found = run(folder)
    assert [failure.split(":")[0] for failure in found.failures] == ["one, age, gm, ours", "one, sex, gm, ours"]
    assert "maps with the same value at every voxel read: sub-000 (0)" in found.failures[0]


def test_scans_that_no_other_pipeline_has_are_an_error_with_the_reason(folder):
    for path in (folder / "ours" / "mri").iterdir():
        path.rename(path.with_name(path.name.replace("sub-0", "sub-")))
    with pytest.raises(TableError, match="would match without 'sub-' and leading zeros"):
        run(folder)


def test_an_evaluation_that_fails_leaves_a_note_and_the_rest(folder, monkeypatch):
    def refuse(*_, **__):
        msg = "grids differ"
        raise VbmstatError(msg)

    monkeypatch.setattr(module, "evaluate_folders", refuse)
    found = run(folder)
    assert "one: segmentation and registration were not compared: grids differ" in found.notes
    assert "correlation" in found.tables
    assert "segmentation" not in found.tables
