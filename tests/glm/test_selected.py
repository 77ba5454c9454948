"""A model of selected scans is that of a table without the others; its record repeats it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import ScanError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import ModelSpec

OUT = ["sub-003", "sub-007"]


def t_of(results):
    return results.maps["age"]["t"].values


@pytest.fixture
def fewer(cohort_folder, table):
    """The fit of a table without the two, made by hand beside the maps."""
    rows = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    rows[~rows["participant_id"].isin(OUT)].to_csv(cohort_folder / "fewer.tsv", sep="\t", index=False)
    return fit_glm(None, "gm ~ age + sex", cohort_folder / "fewer.tsv", ["age"], repeats=3)


@pytest.mark.parametrize("way", ["table", "folder", "template", "array", "frame"])
def test_maps_of_any_kind_without_the_excluded(cohort_folder, fewer, table, images, way):
    whole = fit_glm(None, "gm ~ age + sex", cohort_folder / "cohort.tsv", ["age"], repeats=0)
    flat = images.reshape(len(images), -1)[:, whole.space.voxel_index]
    maps = {
        "table": None, "folder": cohort_folder / "mri", "array": flat,
        "frame": pd.DataFrame(flat, table["participant_id"]),
        "template": str(cohort_folder / "mri" / "s6mwp1{participant_id}_T1w.nii.gz"),
    }[way]  # fmt: skip
    found = fit_glm(maps, "gm ~ age + sex", cohort_folder / "cohort.tsv", ["age"], repeats=3, exclude=OUT)
    assert list(found.design.scan_ids) == list(fewer.design.scan_ids)
    if way in ("table", "folder", "template"):
        np.testing.assert_array_equal(t_of(found), t_of(fewer))
    flow = [(step["step"], step["n_left"]) for step in found.record["flow"]]
    assert flow == [("rows of cohort.tsv", 26), ("--exclude", 24)]


def test_exclusions_conditions_and_further_tables_are_in_the_record(cohort_folder, table, tmp_path):
    (cohort_folder / "exclusions.tsv").write_text("participant_id\treason\nsub-003\tmotion\n", encoding="utf-8")
    extra = table[["participant_id"]].assign(iq=np.linspace(80, 130, len(table)), rating=[50, *[80] * 25])
    extra.to_csv(cohort_folder / "extra.csv", index=False)
    rules = {"where": "rating > 60", "tables": cohort_folder / "extra.csv"}
    told = []
    found = fit_glm(
        None, "gm ~ age + iq", cohort_folder / "cohort.tsv", ["age"], repeats=0, announce=told.append, **rules
    )
    assert len(found.design.scan_ids) == 24
    assert told[:2] == [
        "left out 1 scan by exclusions.tsv: sub-003 (motion); 25 are left",
        "left out 1 scan by --where 'rating > 60': sub-000 (rating = 50); 24 are left",
    ]
    record = json.loads(json.dumps(found.record["spec"]))
    assert [one["file"] for one in record["selection"]["exclude"] + record["selection"]["tables"]] == [
        "exclusions.tsv", "extra.csv",
    ]  # fmt: skip
    (cohort_folder / "exclusions.tsv").rename(cohort_folder / "then.tsv")
    names = {"exclusions.tsv": "then.tsv"}  # found by its content, though the folder's list has changed since
    (cohort_folder / "exclusions.tsv").write_text("participant_id\nsub-001\n", encoding="utf-8")
    spec = ModelSpec.from_record(record, lambda name, _: cohort_folder / names.get(name, name))
    again = fit_glm(None, spec, cohort_folder / "cohort.tsv")
    np.testing.assert_array_equal(t_of(again), t_of(found))


def test_a_scan_without_a_covariate_is_in_the_flow(cohort_folder):
    rows = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    rows.loc[2, "age"] = np.nan
    rows.to_csv(cohort_folder / "cohort.tsv", sep="\t", index=False, na_rep="n/a")
    found = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=0, missing="drop")
    assert found.record["flow"][-1] == {
        "step": "no value of a covariate", "n_left": 25, "left_out": {"sub-002": "no age"},
    }  # fmt: skip


def test_a_copy_of_the_table_elsewhere_gets_the_right_advice(cohort_folder, tmp_path):
    copy = tmp_path / "elsewhere" / "filtered.tsv"
    copy.parent.mkdir()
    copy.write_bytes((cohort_folder / "cohort.tsv").read_bytes())
    with pytest.raises(ScanError, match=r"filtered.tsv: no map of .*start from its own folder.*--exclude or --where"):
        fit_glm(None, "gm ~ age", copy, repeats=0)


def test_a_selection_that_leaves_no_map(cohort_folder, table):
    people = pd.concat([table, table.iloc[:3].assign(participant_id=["x1", "x2", "x3"])])
    with pytest.raises(TableError, match="the selection leaves out every map"):
        fit_glm(cohort_folder / "mri", "gm ~ age", people, where="participant_id in ['x1', 'x2', 'x3']")


def test_scans_with_and_without_counted_lesions_are_not_mixed(cohort_folder):
    """Tissues of a scan run without --wmh are those of --wmh-as none."""
    path = cohort_folder / "cohort.tsv"
    rows = pd.read_csv(path, sep="\t")
    rows.assign(wmh_as=["wm"] * 20 + [None] * 6).to_csv(path, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(TableError, match=r"mix wmh_as values \(none: 6 scans, wm: 20 scans\)"):
        fit_glm(None, "gm ~ age", path, repeats=0)
    assert fit_glm(None, "gm ~ age", path, repeats=0, allow_mixed=True).df_resid == 24
    rows.assign(wmh_as=["none"] * 20 + [None] * 6).to_csv(path, sep="\t", index=False, na_rep="n/a")
    assert fit_glm(None, "gm ~ age", path, repeats=0).df_resid == 24


def test_counted_lesions_are_known_from_sidecars(cohort_folder, table):
    (cohort_folder / "report").mkdir()
    for row, scan in enumerate(table["participant_id"]):
        content = {"engine": "classic", "versions": {"vbmstat": "0.1.0"}, "row": {"wmh_as": "wm"} if row < 4 else {}}
        (cohort_folder / "report" / f"vbmstat_{scan}_T1w.json").write_text(json.dumps(content))
    with pytest.raises(TableError, match=r"mix wmh_as values \(none: 22 scans, wm: 4 scans\)"):
        fit_glm(cohort_folder / "mri", "gm ~ age", table, repeats=0)
