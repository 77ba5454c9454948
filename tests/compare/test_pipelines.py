"""What is found in pipelines' folders: scans, TIV, times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat.compare.config import CohortPlan, ComparisonPlan
from vbmstat.compare.pipelines import by_scan, load_cohort, pool_cohorts, scan_rows, smoothed_maps
from vbmstat.errors import ScanError, TableError
from vbmstat.files import runlog
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

GRID = Grid((4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0]))


def write(folder, names, prefix="mwp1"):
    for name in names:
        io.write_volume(folder / "mri" / f"{prefix}{name}.nii", Volume(torch.rand(1, *GRID.shape), GRID))
    return folder


def people(path, ids):
    storage.write_table(path, pd.DataFrame({"participant_id": ids, "age": range(len(ids)), "tiv_ml": 1.0}))
    return path


def test_scans_are_called_by_participant_and_session_or_by_their_stem(tmp_path):
    assert list(by_scan({"sub-1_ses-2_T1w": tmp_path})) == ["sub-1_ses-2"]
    runs = {"sub-1_run-1_T1w": tmp_path, "sub-1_run-2_T1w": tmp_path}
    assert list(by_scan(runs)) == ["sub-1_run-1", "sub-1_run-2"]


def test_tiv_comes_from_sidecars_then_tables_then_cat12s_report(tmp_path):
    stems = {f"sub-{i}": f"sub-{i}_T1w" for i in range(1, 5)}
    (tmp_path / "report").mkdir()
    for i in (1, 2, 3):
        text = f"<S><subjectmeasures><vol_TIV>{1500 + i}.25</vol_TIV></subjectmeasures></S>"
        (tmp_path / "report" / f"cat_sub-{i}_T1w.xml").write_text(text)
    volumes = pd.DataFrame({"participant_id": ["sub-2", "sub-1"], "tiv_ml": [20.0, 10]})
    storage.write_table(tmp_path / "volumes.tsv", volumes)
    sidecar = {"row": {"tiv_ml": 1.5}, "engine": "cat", "versions": {"vbmstat": "9"}}
    storage.write_json(tmp_path / "report" / "vbmstat_sub-1_T1w.json", sidecar)
    runlog.append(tmp_path / runlog.FOLDER / "a.jsonl", {"scan": "sub-1_T1w", "seconds": {"a": 2, "b": 3.5}})
    rows = scan_rows(tmp_path, stems)
    assert rows["tiv_ml"].iloc[:3].tolist() == [1.5, 20.0, 1503.25]
    assert np.isnan(rows["tiv_ml"].astype(float).iloc[3])
    assert rows.loc["sub-1", ["engine", "vbmstat_version", "seconds"]].tolist() == ["cat", "9", 5.5]
    assert rows["engine"].isna().tolist() == [False, True, True, True]


def test_cat12_keeps_its_reports_beside_mri(tmp_path):
    write(tmp_path, ["sub-1_T1w"])
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "cat_sub-1_T1w.xml").write_text("<vol_TIV>1400</vol_TIV>")
    assert scan_rows(tmp_path / "mri", {"sub-1": "sub-1_T1w"}).loc["sub-1", "tiv_ml"] == 1400.0


def test_a_cohort_is_what_all_pipelines_and_the_table_have(tmp_path):
    one = write(tmp_path / "one", ["sub-1_T1w", "sub-2_T1w", "sub-3_T1w", "sub-4_T1w"])
    other = write(tmp_path / "other", ["sub-4_T1w", "sub-3_T1w", "sub-2_T1w"])
    table = people(tmp_path / "p.tsv", ["3", "2", "1"])
    data = load_cohort(CohortPlan("c", {"A": one, "B": other}, table, (), ()), ("gm",))
    assert data.scans == ("sub-2", "sub-3")
    assert data.covariates["age"].tolist() == [1, 0]  # by id, not in the table's order
    assert "tiv_ml" not in data.covariates
    assert data.pairs == [("A", "B")]
    assert data.notes == (
        "c: 1 scans have no row in p.tsv (sub-4)", "c: A has 2 more scans (sub-1, sub-4)",
        "c: B has 1 more scans (sub-4)",
    )  # fmt: skip


def test_maps_of_several_longitudinal_models_are_refused_if_their_scans_are_compared(tmp_path):
    one = write(tmp_path / "one", ["sub-1_T1w", "sub-2_T1w"], "mwp1r")
    other = write(write(tmp_path / "other", ["sub-1_T1w"], "mwp1r"), ["sub-2_T1w"], "mwmwp1r")
    plan = CohortPlan("c", {"A": one, "B": other}, people(tmp_path / "p.tsv", ["1"]), (), ())
    assert load_cohort(plan, ("gm",)).scans == ("sub-1",)
    both = replace(plan, participants=people(tmp_path / "p.tsv", ["1", "2"]))
    with pytest.raises(ScanError, match=r"ageing: .*mwmwp1rsub-2_T1w\.nii, plasticity: .*mwp1rsub-1_T1w\.nii\); comp"):
        load_cohort(both, ("gm",))


def test_scans_that_a_pipeline_excludes_are_left_out_of_all(tmp_path):
    one, other = (write(tmp_path / name, ["sub-1", "sub-2", "sub-3"]) for name in ("one", "other"))
    (tmp_path / "other" / "exclusions.tsv").write_text("participant_id\treason\nsub-2\tmotion\n")
    table = people(tmp_path / "p.tsv", ["sub-1", "sub-2", "sub-3"])
    data = load_cohort(CohortPlan("c", {"A": one, "B": other}, table, (), ()), ("gm",))
    assert data.scans == ("sub-1", "sub-3")
    assert "c: left out 1 scan by exclusions.tsv: sub-2 (motion); 2 are left" in data.notes


def test_a_pipeline_without_maps_of_every_tissue_is_refused(tmp_path):
    one = write(tmp_path / "one", ["sub-1_T1w"])
    plan = CohortPlan("c", {"A": one, "B": one}, people(tmp_path / "p.tsv", ["sub-1"]), (), ())
    with pytest.raises(TableError, match=r"c: .*one \(A\) has no scan with all of mwp1\*, mwp2\*"):
        load_cohort(plan, ("gm", "wm"))


def test_pooled_cohorts_need_two_pipelines_of_the_same_names(tmp_path):
    one = write(tmp_path / "one", ["sub-1_T1w"])
    table = people(tmp_path / "p.tsv", ["sub-1"])
    first = load_cohort(CohortPlan("c", {"A": one, "B": one}, table, (), ()), ("gm",))
    second = load_cohort(CohortPlan("d", {"A": one, "X": one}, table, (), ()), ("gm",))
    with pytest.raises(TableError, match=r"p: expected at least two pipelines .* \(c: A, B; d: A, X\)"):
        pool_cohorts("p", [first, second])
    both = pool_cohorts("p", [first, first])
    assert set(both.scans) == {"c_sub-1"}
    assert both.covariates["cohort"].tolist() == ["c", "c"]


def test_smoothing_that_a_name_does_not_say_is_told(tmp_path):
    one = write(tmp_path / "one", ["sub-1_T1w"], "smwp1")
    plan = CohortPlan("c", {"A": one, "B": one}, people(tmp_path / "p.tsv", ["sub-1"]), (), ())
    data = load_cohort(plan, ("gm",))
    whole = ComparisonPlan(tmp_path / "out", ("gm",), 6.0, "lpba40", {}, {})
    maps, note = smoothed_maps(data, "A", "gm", whole)
    assert maps.paths["sub-1"].name == "smwp1sub-1_T1w.nii"
    assert note == "c: A's gm maps are used as they are; their names do not say s6"
    write(tmp_path / "one", ["sub-1_T1w"])
    maps, note = smoothed_maps(load_cohort(plan, ("gm",)), "A", "gm", replace(whole, fwhm_mm=8.0))
    assert maps.paths["sub-1"] == tmp_path / "out" / "smoothed" / "A" / "s8mwp1c_sub-1.nii.gz"
    assert note is None
