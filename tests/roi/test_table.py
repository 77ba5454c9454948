from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from vbmstat import assets
from vbmstat.errors import ScanError, TableError
from vbmstat.files.filenames import same_file_key
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import SOURCES, load_atlas
from vbmstat.roi.output import column_name, to_wide, write_rois
from vbmstat.roi.table import cohort_of_maps, measure_rois
from vbmstat.tables.cohort import Cohort, index_by_id, read_cohort

GRID = Grid((6, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture
def own_atlas(tmp_path):
    """Labels 3 (left), 7 (right) of one region and 9 of another, in slabs of 2 voxels; 5 has no voxel."""
    data = torch.zeros(1, *GRID.shape)
    for position, label in enumerate((3, 7, 9)):
        data[0, 2 * position : 2 * position + 2] = label
    path = tmp_path / "own.nii.gz"
    io.write_volume(path, Volume(data, GRID), dtype="int16")
    rows = ["9\tboth\tBase\tBase", "5\tboth\tGone\tGone", "7\tright\tRight T\tT", "3\tleft\tLeft T\tT"]
    (tmp_path / "own.tsv").write_text("label\themisphere\tname\tregion\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def maps(tmp_path) -> Cohort:
    """Two scans whose GM is 0.1, 0.2, 0.3 and WM 0.5 in the slabs; the second has twice the GM."""
    slabs = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]).reshape(6, 1, 1).expand(GRID.shape)[None]
    rows = []
    for number, participant in enumerate(("001", "002")):
        io.write_volume(tmp_path / "mri" / f"mwp1{participant}.nii.gz", Volume(slabs * (number + 1), GRID))
        io.write_volume(tmp_path / "mri" / f"mwp2{participant}.nii.gz", Volume(torch.full_like(slabs, 0.5), GRID))
        rows.append(
            {"participant_id": participant, "mwp1": f"mri/mwp1{participant}.nii.gz",
             "mwp2": f"mri/mwp2{participant}.nii.gz"}
        )  # fmt: skip
    return Cohort(index_by_id(pd.DataFrame(rows), "test"), tmp_path)


SLAB_ML = 2 * 4 * 4 * 0.008


def test_volumes_go_by_label_id_and_an_absent_label_is_missing(maps, own_atlas) -> None:
    labels = measure_rois(maps, own_atlas).labels
    first = labels[labels["participant_id"] == "001"].set_index("label")
    assert first.loc[3, "roi_gm_ml"] == pytest.approx(0.1 * SLAB_ML, abs=1e-6)
    assert first.loc[7, "roi_gm_ml"] == pytest.approx(0.2 * SLAB_ML, abs=1e-6)
    assert first.loc[9, "roi_gm_ml"] == pytest.approx(0.3 * SLAB_ML, abs=1e-6)
    assert np.isnan(first.loc[5, "roi_gm_ml"])
    assert first.loc[3, "name"] == "Left T"
    assert first.loc[9, "roi_wm_ml"] == pytest.approx(0.5 * SLAB_ML, abs=1e-6)


def test_regions_add_left_and_right(maps, own_atlas) -> None:
    regions = measure_rois(maps, own_atlas).regions
    second = regions[regions["participant_id"] == "002"].set_index("region")
    assert list(second.index) == ["Base", "Gone", "T"]
    assert second.loc["T", "roi_gm_ml"] == pytest.approx(0.6 * SLAB_ML, abs=1e-6)
    assert np.isnan(second.loc["Gone", "roi_gm_ml"])


def test_a_tissue_without_maps_is_stated_and_missing(maps, own_atlas) -> None:
    tables = measure_rois(maps, own_atlas)
    assert tables.not_measured == ("csf",)
    assert tables.labels["roi_csf_ml"].isna().all()
    assert "roi_csf_ml" not in measure_rois(maps, own_atlas, tissues=("gm",)).labels


def test_a_bad_map_is_one_failure_and_the_others_go_on(maps, own_atlas) -> None:
    (maps.folder / "mri" / "mwp1001.nii.gz").write_bytes(b"broken")
    maps.table.loc[("002", ""), "mwp2"] = None
    tables = measure_rois(maps, own_atlas)
    assert tables.failures[["scan_id", "tissue"]].to_numpy().tolist() == [["001", "gm"], ["002", "wm"]]
    assert "mwp1001" in tables.failures["reason"][0]
    labels = tables.labels.set_index(["participant_id", "label"])
    assert np.isnan(labels.loc[("001", 3), "roi_gm_ml"])
    assert labels.loc[("001", 3), "roi_wm_ml"] > 0
    assert labels.loc[("002", 3), "roi_gm_ml"] > 0


def test_maps_on_different_grids_are_each_measured_in_mm(maps, own_atlas) -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -0.5  # the same faces at half the voxel size
    fine = io.read_volume(maps.folder / "mri" / "mwp1002.nii.gz").data.repeat_interleave(2, 1)
    fine = fine.repeat_interleave(2, 2).repeat_interleave(2, 3)
    io.write_volume(maps.folder / "mri" / "mwp1002.nii.gz", Volume(fine, Grid((12, 8, 8), affine)))
    labels = measure_rois(maps, own_atlas).labels.set_index(["participant_id", "label"])
    for label in (3, 7, 9):
        assert labels.loc[("002", label), "roi_gm_ml"] == pytest.approx(
            2 * labels.loc[("001", label), "roi_gm_ml"], abs=2e-6
        )


def test_a_table_without_map_columns_is_refused(maps, own_atlas) -> None:
    bare = Cohort(maps.table.drop(columns=["mwp1", "mwp2"]).assign(age=3), maps.folder)
    with pytest.raises(TableError, match="unsmoothed modulated maps"):
        measure_rois(bare, own_atlas)
    with pytest.raises(TableError, match="tissue bone"):
        measure_rois(maps, own_atlas, tissues=("bone",))


def test_wide_holds_the_same_numbers(maps, own_atlas) -> None:
    tables = measure_rois(maps, own_atlas)
    wide = to_wide(tables.labels, "name").set_index("participant_id")
    tidy = tables.labels.set_index(["participant_id", "name"])
    assert list(wide.columns[:4]) == ["base_gm_ml", "gone_gm_ml", "right_t_gm_ml", "left_t_gm_ml"]
    assert wide.shape == (2, 12)
    for participant in ("001", "002"):
        assert wide.loc[participant, "left_t_gm_ml"] == tidy.loc[(participant, "Left T"), "roi_gm_ml"]


def test_files_keep_ids_and_every_column_is_described(maps, own_atlas, tmp_path) -> None:
    written = write_rois(tmp_path / "out", measure_rois(maps, own_atlas))
    assert len(written) == 4
    for path in written:
        table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
        assert table["participant_id"].iloc[0] == "001"
        described = json.loads(path.with_suffix(".json").read_text())
        assert set(table.columns) == set(described) - {"vbmstat"}
        assert all(described[c]["Units"] == "mL" for c in table if c.endswith("_ml"))
        assert described["vbmstat"]["labels_absent_from_the_image"] == [5]
    assert "n/a" in written[0].read_text()
    assert not list((tmp_path / "out").glob("*failures*"))
    assert (tmp_path / "out" / "roi_own_LICENCE.txt").is_file()


@pytest.mark.parametrize(
    ("names", "labels", "regions"),
    [
        (("A 1", "A 1", "Pole"), ("a_1_3", "a_1_7", "pole"), ("a_1", "pole")),  # labels of one name are one region
        (("A 1", "a-1", "Pole"), ("a_1_3", "a_1_7", "pole"), ("a_1_3", "a_1_7", "pole")),
        (("P (L)", "P [l]", "P l 3"), ("p_l_3_3", "p_l_7", "p_l_3_9"), ("p_l_3_3", "p_l_7", "p_l_3_9")),
        (("ß", "SS", "?"), ("ß_3", "ss_7", "label"), ("ß_3", "ss_7", "label")),
        (("?", "!", "b"), ("label_3", "label_7", "b"), ("label_3", "label_7", "b")),
    ],
)
def test_labels_of_like_names_have_columns_of_their_own(maps, own_atlas, tmp_path, names, labels, regions) -> None:
    rows = [f"{label}\t{name}\n" for label, name in zip((3, 7, 9), names, strict=True)]
    (tmp_path / "own.tsv").write_text("label\tname\n" + "".join(rows))
    tables = measure_rois(maps, own_atlas, tissues=("gm",))
    files = {path.name: pd.read_csv(path, sep="\t") for path in write_rois(tmp_path / "out", tables)}
    wide = files["roi_own_labels_wide.tsv"]
    assert list(wide.columns[1:]) == [f"{name}_gm_ml" for name in labels]
    assert wide.iloc[0, 1:].tolist() == pytest.approx([n * 0.1 * SLAB_ML for n in (1, 2, 3)], abs=1e-6)
    wide = files["roi_own_regions_wide.tsv"]
    assert list(wide.columns[1:]) == [f"{name}_gm_ml" for name in regions]
    assert wide.iloc[0, 1:].sum() == pytest.approx(0.6 * SLAB_ML, abs=1e-6)


def test_a_second_measurement_leaves_nothing_of_the_first(maps, own_atlas, tmp_path) -> None:
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / "images" / "001.nii.gz").write_bytes(b"")
    maps.table.loc[("002", ""), "mwp2"] = None
    write_rois(out, measure_rois(maps, own_atlas), label_images=out / "images")
    first = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"roi_own_failures.tsv", "roi_own_failures.json", "roi_own/001.nii.gz", "roi_own.json"} <= first
    assert set(json.loads((out / "roi_own.json").read_text())["files"]) == first - {"roi_own.json"}
    (out / "roi_other_labels.tsv").write_text("of another atlas")
    measured = measure_rois(Cohort(maps.table.iloc[:1], maps.folder), own_atlas)
    write_rois(out, measured)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert first - names == {"roi_own_failures.tsv", "roi_own_failures.json", "roi_own/001.nii.gz"}
    assert names - first == {"roi_other_labels.tsv"}


@pytest.mark.parametrize("name", SOURCES)
def test_wide_tables_of_every_atlas_have_a_column_for_every_label_and_region(name) -> None:
    atlas = load_atlas(name)
    tidy = atlas.table.reset_index().assign(participant_id="01", roi_gm_ml=range(len(atlas.table)))
    labels = to_wide(tidy, "name")
    columns = list(labels.columns[1:])
    assert labels.iloc[0, 1:].tolist() == list(range(len(atlas.table)))
    assert len({same_file_key(column) for column in columns}) == len(atlas.table)
    plain = [f"{column_name(text)}_gm_ml" for text in atlas.table["name"]]
    changed = [p for c, p in zip(columns, plain, strict=True) if c != p]
    assert all(plain.count(name) > 1 for name in changed)
    regions = to_wide(tidy.drop_duplicates("region"), "region")
    assert len({same_file_key(column) for column in regions.columns[1:]}) == atlas.table["region"].nunique()


def test_sessions_stay_apart(maps, own_atlas) -> None:
    table = maps.table.reset_index()
    table["participant_id"], table["session_id"] = "01", ["ses-1", "ses-2"]
    tables = measure_rois(Cohort(index_by_id(table, "test"), maps.folder), own_atlas)
    assert tables.regions.groupby("session_id", sort=False)["roi_gm_ml"].sum().pct_change().iloc[1] == pytest.approx(
        1.0
    )
    assert list(to_wide(tables.regions, "region")["session_id"]) == ["ses-1", "ses-2"]


def test_a_folder_of_cat12_maps_becomes_a_cohort(maps, own_atlas) -> None:
    io.write_volume(maps.folder / "mri" / "s6mwp1003.nii.gz", Volume(torch.ones(1, *GRID.shape), GRID))
    found = cohort_of_maps(maps.folder)
    assert found.scan_ids == ["001", "002"]  # the smoothed map gives no volumes
    assert measure_rois(found, own_atlas).regions["roi_gm_ml"].notna().any()
    empty = maps.folder / "empty"
    empty.mkdir()
    with pytest.raises(ScanError, match="no unsmoothed modulated map"):
        cohort_of_maps(empty)


def test_the_templates_gm_in_lpba40(tmp_path) -> None:
    io.write_volume(tmp_path / "mwp1t.nii.gz", assets.template().channel(0))
    regions = measure_rois(cohort_of_maps(tmp_path), "lpba40", tissues=("gm",)).regions.set_index("region")
    assert len(regions) == 29
    assert regions["roi_gm_ml"].notna().all()
    assert 100 < regions.loc["Cerebellum", "roi_gm_ml"] < 150
    assert 0 < regions.loc["Brainstem", "roi_gm_ml"] < 10
    assert regions["roi_gm_ml"].sum() < assets.template().sums_ml[0]


def test_command_prints_the_licence_and_fails_for_a_bad_map(maps, tmp_path) -> None:
    from vbmstat.cli import app  # noqa: PLC0415

    (maps.folder / "mri" / "mwp1001.nii.gz").write_bytes(b"broken")
    maps.table.reset_index().to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    result = CliRunner().invoke(app, ["roi", "--cohort", str(tmp_path / "cohort.tsv"), "--out", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert result.output.count("non-commercial") == 1
    assert "001 gm:" in result.output
    table = read_cohort(tmp_path / "o" / "roi_lpba40_regions_wide.tsv").table
    assert table.shape[0] == 2


def test_command_finds_what_preprocess_wrote_and_bad_input_is_one_line(maps, own_atlas, monkeypatch) -> None:
    from vbmstat.cli import app  # noqa: PLC0415

    folder = maps.folder / "derivatives" / "vbmstat"
    (maps.folder / "mri").rename(maps.folder / "moved")
    folder.mkdir(parents=True)
    (maps.folder / "moved").rename(folder / "mri")
    maps.table.reset_index().to_csv(folder / "cohort.tsv", sep="\t", index=False)
    monkeypatch.chdir(maps.folder)
    result = CliRunner().invoke(app, ["roi", "--atlas", str(own_atlas)])
    assert result.exit_code == 0, result.output
    assert len(list((folder / "roi").glob("roi_own_*.tsv"))) == 4
    by_folder = CliRunner().invoke(app, ["roi", "--maps", str(folder), "--atlas", str(own_atlas), "--out", "again"])
    assert by_folder.exit_code == 0, by_folder.output
    again = (maps.folder / "again" / "roi_own_regions.tsv").read_text()
    assert again == (folder / "roi" / "roi_own_regions.tsv").read_text()
    (maps.folder / "ages.tsv").write_text("participant_id\tage\n001\t20\n002\t90\n")
    for selection in (["--exclude", "002"], ["--table", "ages.tsv", "--where", "age < 50"]):
        one = CliRunner().invoke(app, ["roi", "--atlas", str(own_atlas), "--out", "one", *selection])
        assert one.exit_code == 0, one.output
        assert "note: left out 1 scan by --" in one.output
        assert set(read_cohort(maps.folder / "one" / "roi_own_regions_wide.tsv").table.index) == {("001", "")}
        about = json.loads((maps.folder / "one" / "roi_own.json").read_text())
        assert [step["n_left"] for step in about["flow"]] == [2, 1]
    both = CliRunner().invoke(app, ["roi", "--cohort", "cohort.tsv", "--maps", "."])
    assert both.exit_code == 2


def test_hypointensities_are_measured_if_there_are_maps_of_them(maps, own_atlas) -> None:
    slabs = torch.tensor([0.0, 0.0, 0.1, 0.1, 0.0, 0.0]).reshape(6, 1, 1).expand(GRID.shape)[None]
    for participant, factor in (("001", 1.0), ("002", 0.0)):  # the second person has none
        io.write_volume(maps.folder / "mri" / f"mwp7{participant}.nii.gz", Volume(slabs * factor, GRID))
    assert "roi_wmh_ml" not in measure_rois(maps, own_atlas).labels
    with_lesions = Cohort(maps.table.assign(mwp7=["mri/mwp7001.nii.gz", "mri/mwp7002.nii.gz"]), maps.folder)
    for cohort in (with_lesions, cohort_of_maps(maps.folder / "mri")):
        found = measure_rois(cohort, own_atlas)
        assert not len(found.failures)
        rows = found.labels.set_index(["participant_id", "label"])["roi_wmh_ml"]
        assert rows["001"].dropna().to_dict() == pytest.approx({9: 0.0, 7: 0.1 * SLAB_ML, 3: 0.0}, abs=1e-6)
        assert (rows["002"].dropna() == 0).all()
        assert not found.labels["roi_gm_ml"].isna().all()
