"""Two of a kind compared from files, and what is written."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.compare.test_statistics import result_folder, t_values, write_spm
from vbmstat import assets
from vbmstat.compare.files import compare_files, short_names
from vbmstat.compare.output import write_comparison
from vbmstat.errors import ScanError, TableError
from vbmstat.figures import side_by_side
from vbmstat.figures.mosaic import Image
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.tables.selection import Selection

COARSE = Grid((24, 28, 24), np.array([[6.0, 0, 0, -70], [0, 6, 0, -104], [0, 0, 6, -60], [0, 0, 0, 1]]))


@pytest.fixture(autouse=True)
def coarse_brain(monkeypatch):
    monkeypatch.setattr(side_by_side, "grey_average_brain", lambda: Image(np.ones(COARSE.shape), COARSE))


def write_map(path, seed, gain=1.0, grid=COARSE):
    data = torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(seed)) * gain
    io.write_volume(path, Volume(data, grid))


def test_names_are_what_the_paths_differ_in(tmp_path):
    assert short_names(tmp_path / "cat" / "x" / "t.nii", tmp_path / "ours" / "x" / "t.nii") == ("cat", "ours")
    assert short_names(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz") == ("a", "b")


def test_two_result_folders_give_a_row_a_contrast_and_statistic(tmp_path):
    one, other = (result_folder(tmp_path / name, ["age", "sex[T.M]"]) for name in ("cat", "ours"))
    found = compare_files(one, other)
    assert found.names == ("cat", "ours")
    assert set(zip(found.table["statistic"], found.table["r"].round(6), strict=True)) == {("t", 1), ("median t", 1)}
    assert len(found.table) == 4
    files = write_comparison(tmp_path / "out", found, [one, other])
    names = {path.name for path in files}
    assert {"comparison.tsv", "summary.json", "slices_t.png", "slices_mediant.svg"} <= names
    assert sum(name.startswith("agreement_") for name in names) == 8
    assert all(path.is_file() for path in files)
    described = json.loads((tmp_path / "out" / "comparison.json").read_text())
    columns = pd.read_csv(tmp_path / "out" / "comparison.tsv", sep="\t").columns
    assert set(columns) == set(described) - {"vbmstat"}
    assert not [name for name, entry in described.items() if "participants" in entry.get("Description", "")]
    assert described["n_a_t2"]["Description"] == "Voxels of map a beyond ±2"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["kind"] == "results"


def scan_folders(tmp_path):
    template = assets.template()
    for number, name in enumerate(("sub-01_T1w", "sub-02_T1w", "sub-03_T1w")):
        data = template.data[:1] * (1 + 0.1 * number)
        io.write_volume(tmp_path / "a" / "mri" / f"mwp1{name}.nii", Volume(data, template.grid))
        if number:
            io.write_volume(tmp_path / "b" / f"mwp1{name}.nii.gz", Volume(0.5 * data + 0.1, template.grid))
    return tmp_path / "a", tmp_path / "b"


def test_maps_of_the_same_scans_are_matched_by_name(tmp_path):
    a, b = scan_folders(tmp_path)
    found = compare_files(a, b)
    assert found.kind == "scans"
    assert list(found.table["scan"]) == ["sub-02", "sub-03"]
    assert found.table["slope"].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert found.table["intercept"].tolist() == pytest.approx([0.1, 0.1], abs=1e-4)
    assert found.table["a_ml"].iloc[1] == pytest.approx(found.table["a_ml"].iloc[0] * 1.2 / 1.1, rel=1e-5)
    assert "gm: only A has 1 scans (sub-01)" in found.notes
    assert any(note.startswith("wm: the folders do not both have smoothed maps") for note in found.notes)
    names = {path.name for path in write_comparison(tmp_path / "out", found, [a, b])}
    assert {"comparison.tsv", "comparison_values.tsv", "volumes_gm.png", "volumes_gm.svg", "summary.json"} == names


def spoil(path, at, value):
    volume = io.read_volume(path)
    volume.data[at] = value
    io.write_volume(path, volume)


def test_odd_maps_of_scans_are_named(tmp_path):
    a, b = scan_folders(tmp_path)
    odd = b / "mwp1sub-02_T1w.nii.gz"
    before = compare_files(a, b).table
    spoil(odd, assets.template().data[:1] <= 0, float("nan"))  # no values outside the brain, as in SPM's maps
    after = compare_files(a, b).table
    assert after["r"].tolist() == pytest.approx(before["r"].tolist(), abs=1e-6)
    assert 0 < after["b_ml"].iloc[0] < before["b_ml"].iloc[0]
    spoil(odd, (0, 60, 70, 60), float("inf"))
    with pytest.raises(ScanError, match=r"b/mwp1sub-02_T1w.nii.gz: 1 values are infinite"):
        compare_files(a, b)
    spoil(odd, ..., float("nan"))
    with pytest.raises(ScanError, match=r"b/mwp1sub-02_T1w.nii.gz: no value where the template has this tissue"):
        compare_files(a, b)
    spoil(odd, ..., 0.0)
    assert any("no correlation" in note and "b/mwp1sub-02_T1w.nii.gz" in note for note in compare_files(a, b).notes)


def test_folders_whose_ids_nearly_match_are_refused(tmp_path):
    write_map(tmp_path / "a" / "mwp1sub-01_T1w.nii", 0)
    write_map(tmp_path / "b" / "mwp1sub-1_T1w.nii", 0)
    with pytest.raises(TableError, match="would match without 'sub-' and leading zeros"):
        compare_files(tmp_path / "a", tmp_path / "b")


def test_smoothed_maps_are_not_compared_with_unsmoothed_ones(tmp_path):
    write_map(tmp_path / "a" / "s6mwp1sub-01.nii", 0)
    write_map(tmp_path / "b" / "mwp1sub-01.nii", 0)
    with pytest.raises(ScanError, match="do not both have smoothed maps"):
        compare_files(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("kinds", [("mwp1r", "mwmwp1r"), ("mwp1", "mwp1r"), ("s6mwp1", "s6mwmwp1r")])
def test_maps_of_several_longitudinal_models_are_not_compared(tmp_path, kinds):
    for folder, kind in zip("ab", kinds, strict=True):
        write_map(tmp_path / folder / f"{kind}sub-01.nii", 0)
    with pytest.raises(ScanError, match=r"several longitudinal models \(.*sub-01\.nii.*\); compare maps of one"):
        compare_files(tmp_path / "a", tmp_path / "b")


def roi_table(path, labels, scans=("s1", "s2", "s3"), gain=1.0, atlas="lpba40", names=None):
    rows = [
        {"participant_id": scan, "label": label, "hemisphere": "left",
         "name": (names or {}).get(label, f"Left R{label}"), "region": f"R{label}",
         "roi_gm_ml": gain * (10 * label + number), "roi_wm_ml": np.nan, "roi_csf_ml": np.nan}
        for number, scan in enumerate(scans) for label in labels
    ]  # fmt: skip
    storage.write_table(path, pd.DataFrame(rows))
    storage.write_json(path.with_suffix(".json"), {"vbmstat": {"atlas": atlas}})
    return path


def test_roi_tables_join_by_label_and_name_what_is_missing(tmp_path):
    a = roi_table(tmp_path / "a.tsv", (21, 22, 23))
    b = roi_table(tmp_path / "b.tsv", (21, 23), ("s3", "s2", "s1", "s4"), gain=2.0)
    table = pd.read_csv(b, sep="\t")
    number = table["participant_id"].str.removeprefix("s").astype(int) - 1
    table["roi_gm_ml"] = 2.0 * (10 * table["label"] + number)
    storage.write_table(b, table)
    found = compare_files(a, b)
    assert found.table["label"].tolist() == [21, 23]
    assert found.table["slope"].tolist() == pytest.approx([2.0, 2.0])
    assert found.table["name"].tolist() == ["Left R21", "Left R23"]
    assert "only A has the labels 22; they are left out" in found.notes
    assert "only B has 1 scans (s4)" in found.notes
    names = {path.name for path in write_comparison(tmp_path / "out", found, [a, b])}
    assert {"rois_gm.png", "rois_gm.svg", "comparison_values.tsv"} <= names
    values = pd.read_csv(tmp_path / "out" / "comparison_values.tsv", sep="\t")
    assert (values["b_ml"] == 2 * values["a_ml"]).all()
    assert found.summary["n_regions"].tolist() == [2]


def test_volumes_that_are_missing_in_some_scans_are_told(tmp_path):
    a = roi_table(tmp_path / "a.tsv", (21, 22), ("s1", "s2", "s3", "s4"))
    table = pd.read_csv(a, sep="\t", na_values="n/a")
    table.loc[(table["label"] == 22) & (table["participant_id"] == "s2"), "roi_gm_ml"] = np.nan
    storage.write_table(tmp_path / "b.tsv", table)
    found = compare_files(a, tmp_path / "b.tsv")
    assert "volumes are missing in some scans: 22 gm (3 scans)" in found.notes
    assert found.table["r"].tolist() == pytest.approx([1.0, 1.0])


def test_tables_of_other_atlases_names_or_shapes_are_refused(tmp_path):
    a = roi_table(tmp_path / "a.tsv", (21, 22))
    b = roi_table(tmp_path / "b.tsv", (21, 22), atlas="aal3")
    with pytest.raises(TableError, match=r"a\.tsv is of the atlas lpba40, .*b\.tsv of aal3"):
        compare_files(a, b)
    c = roi_table(tmp_path / "c.tsv", (21, 22), names={22: "Right Insula"})
    with pytest.raises(TableError, match="label 22 is 'Left R22' in A and 'Right Insula' in B"):
        compare_files(a, c)
    d = roi_table(tmp_path / "d.tsv", (21, 22), scans=("1", "2"))
    with pytest.raises(TableError, match=r"no scan in common \(A: s1, s2, s3; B: 1, 2\)"):
        compare_files(a, d)
    regions = pd.read_csv(a, sep="\t").drop(columns=["label", "name", "hemisphere"])
    storage.write_table(tmp_path / "e.tsv", regions)
    with pytest.raises(TableError, match="one has labels, the other merged regions"):
        compare_files(a, tmp_path / "e.tsv")
    storage.write_table(tmp_path / "f.tsv", pd.DataFrame({"participant_id": ["s1"], "insula_gm_ml": [3.0]}))
    with pytest.raises(TableError, match="expected the tidy table"):
        compare_files(a, tmp_path / "f.tsv")


def test_two_of_different_kinds_are_refused(tmp_path):
    path = write_spm(tmp_path / "spm" / "spmT_0001.nii", t_values())
    table = roi_table(tmp_path / "a.tsv", (21,))
    with pytest.raises(ScanError, match=r"spmT_0001\.nii is a statistic map, .*a\.tsv is a table"):
        compare_files(path, table)
    with pytest.raises(ScanError, match="is a folder of statistic maps, "):
        compare_files(tmp_path / "spm", path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="found neither; there is no image"):
        compare_files(tmp_path / "empty", tmp_path / "spm")
    with pytest.raises(ScanError, match="no such file or folder"):
        compare_files(tmp_path / "gone", path)
    with pytest.raises(ScanError, match="--mask is for statistic maps"):
        compare_files(table, table, mask=path)


def test_scans_are_left_out_of_maps_and_regions(tmp_path):
    for name, gain in (("a", 1.0), ("b", 1.2)):
        for number in (1, 2, 3):
            write_map(tmp_path / name / f"mwp1sub-0{number}.nii", number, gain)
    (tmp_path / "b" / "exclusions.tsv").write_text("participant_id\treason\nsub-02\tmotion\n")
    found = compare_files(tmp_path / "a", tmp_path / "b", selection=Selection(exclude="sub-03"))
    assert set(found.table["scan"]) == {"sub-01"}
    assert "left out 1 scan by exclusions.tsv: sub-02 (motion); 2 are left" in found.notes
    (tmp_path / "a" / "cohort.tsv").write_text("participant_id\tage\nsub-01\t20\nsub-02\t30\nsub-03\t40\n")
    older = compare_files(tmp_path / "a", tmp_path / "b", selection=Selection(where="age > 25", exclusions=False))
    assert set(older.table["scan"]) == {"sub-02", "sub-03"}  # the cohort table of A is known


def test_lists_beside_the_folder_of_maps_count_for_its_maps(tmp_path):
    for name in ("a", "b"):
        for number in (1, 2):
            write_map(tmp_path / name / "mri" / f"mwp1sub-0{number}.nii", number, 1.0)
    (tmp_path / "a" / "exclusions.tsv").write_text("participant_id\nsub-02\n")
    (tmp_path / "a" / "cohort.tsv").write_text("participant_id\tage\nsub-01\t20\nsub-02\t30\n")
    found = compare_files(tmp_path / "a" / "mri", tmp_path / "b" / "mri")
    assert set(found.table["scan"]) == {"sub-01"}
    young = Selection(where="age > 25", exclusions=False)
    older = compare_files(tmp_path / "a" / "mri", tmp_path / "b" / "mri", selection=young)
    assert set(older.table["scan"]) == {"sub-02"}


def test_scans_are_left_out_of_regions(tmp_path):
    a, b = roi_table(tmp_path / "a.tsv", (21, 23)), roi_table(tmp_path / "b.tsv", (21, 23), gain=2.0)
    rois = compare_files(a, b, selection=Selection(exclude="s2"))
    assert rois.table["n_scans"].tolist() == [2, 2]
    with pytest.raises(TableError, match="--exclude: s9 not in the table"):
        compare_files(a, b, selection=Selection(exclude="s9"))


def test_statistic_maps_have_no_scans_to_leave_out(tmp_path):
    a = write_spm(tmp_path / "spmT_0001.nii", t_values())
    with pytest.raises(ScanError, match="--exclude, --where and --table are for maps of scans"):
        compare_files(a, a, selection=Selection(exclude="s2"))
