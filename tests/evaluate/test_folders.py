"""Comparing output folders: matching of scans, measures, refusals."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

from vbmstat import assets
from vbmstat.cli import app
from vbmstat.errors import ScanError
from vbmstat.evaluate.folders import evaluate_folders, read_pair, short_names
from vbmstat.evaluate.summary import side_by_side, with_ages, worst_scans
from vbmstat.figures import worst_case
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, apply_affine, resample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy

NATIVE = Grid((6, 5, 4), np.eye(4))
LINEAR = np.diag([1.1, 1.0, 0.9, 1.0])


def sidecar(linear=LINEAR):
    return {"affine": {"template_mm_to_scan_mm": linear.tolist()}}


@pytest.fixture(autouse=True, scope="module")
def coarse_template():
    """A 6 mm template: nothing here depends on the voxel size, and full size takes seconds per scan."""
    fine = assets.template()
    grid = fine.grid.with_voxel_size(6.0)
    coarse = Volume(resample(fine.data, fine.grid, grid), grid)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(assets, "template", lambda: coarse)
        yield


def label_map(seed):
    return torch.randint(0, 4, (1, *NATIVE.shape), generator=torch.Generator().manual_seed(seed)).float()


def write_folder(folder, labels, gain=1.0, with_field=True):
    template = assets.template()
    mm = apply_affine(template.grid.affine, voxel_indices(template.grid.shape))
    for stem, label in labels.items():
        io.write_volume(folder / "mri" / f"p0{stem}.nii.gz", Volume(label, NATIVE), space="scanner")
        for tissue in (1, 2):
            volume = template.channel(tissue - 1)
            io.write_volume(folder / "mri" / f"wp{tissue}{stem}.nii", Volume(volume.data * gain, volume.grid))
            io.write_volume(folder / "mri" / f"mwp{tissue}{stem}.nii", Volume(volume.data * gain, volume.grid))
        if with_field:
            io.write_volume(folder / "mri" / f"y_{stem}.nii", Volume(apply_affine(LINEAR, mm), template.grid))
            storage.write_json(folder / "report" / f"vbmstat_{stem}.json", sidecar())
    return folder


@pytest.fixture
def pair(tmp_path):
    one = write_folder(tmp_path / "one", {"sub-01_T1w": label_map(0), "sub-02_T1w": label_map(1)})
    other = write_folder(tmp_path / "other", {"sub-02_T1w": label_map(2)}, gain=0.5, with_field=False)
    return one, other


def test_rows_are_matched_by_name_and_hold_the_measures(pair, tmp_path):
    truth = tmp_path / "truth"
    io.write_volume(truth / "sub-02_T1w.nii.gz", Volume(label_map(3), NATIVE), space="scanner")
    evaluation = evaluate_folders(pair, truth)
    assert set(evaluation.scans["scan"]) == {"sub-02_T1w"}
    assert evaluation.left_out == {"one": ["sub-01_T1w"], "other": []}
    rows = evaluation.scans.set_index(["folder", "reference"])
    expected = accuracy.dice(label_map(2) == 2, label_map(1) == 2)
    assert rows.loc[("other", "one"), "dice_gm"] == pytest.approx(expected)
    assert rows.loc[("one", "truth"), "jaccard_wm"] == pytest.approx(
        accuracy.jaccard(label_map(1) == 3, label_map(3) == 3)
    )
    assert rows.loc[("other", "one"), "r_mwp1"] == pytest.approx(1.0)  # a gain changes no correlation
    assert rows.loc[("one", "template"), "mse_to_template"] == pytest.approx(0.0)
    template = assets.template().data
    assert rows.loc[("other", "template"), "mse_to_template"] == pytest.approx(
        float(template.square().mean()) / 4, rel=1e-4
    )
    assert rows.loc[("one", "template"), "linear_elasticity"] == pytest.approx(0, abs=1e-6)  # without linear part
    assert rows.loc[("one", "template"), "jacobian_min"] == pytest.approx(1, abs=1e-3)
    assert np.isnan(rows.loc[("other", "template"), "linear_elasticity"])
    summary = evaluation.summary.set_index(["folder", "reference", "measure"])
    assert summary.loc[("other", "one", "dice_gm"), "n_scans"] == 1


def test_folders_without_a_common_scan_are_refused(tmp_path):
    one = write_folder(tmp_path / "one", {"a": label_map(0)}, with_field=False)
    other = write_folder(tmp_path / "other", {"b": label_map(0)}, with_field=False)
    with pytest.raises(ScanError, match="none in common \\(one: a; other: b\\)"):
        evaluate_folders([one, other])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="found none"):
        evaluate_folders([one, tmp_path / "empty"])


def test_label_maps_on_different_grids_are_refused(tmp_path, pair):
    moved = Grid(NATIVE.shape, np.diag([2.0, 2, 2, 1]))
    io.write_volume(tmp_path / "third" / "p0sub-02_T1w.nii", Volume(label_map(1), moved), space="scanner")
    with pytest.raises(ScanError, match=r"p0sub-02_T1w\.nii: grid"):
        evaluate_folders([pair[0], tmp_path / "third"])


def one_hot(labels):
    return [(labels == value).float() for value in (2, 3, 1)]  # GM, WM, CSF


def field(shift_mm=0.0):
    """Deformation of LINEAR plus a smooth bump."""
    grid = assets.template().grid
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    bump = shift_mm * torch.exp(-(mm**2).sum(0) / 40.0**2)
    return Volume(apply_affine(LINEAR, mm + bump), grid)


def spm_folder(folder, stem="sub-02_T1w", labels=None):
    """Outputs of SPM's unified segmentation: c1 to c3, y_, mwc1 and mwc2 on their own grid."""
    labels = label_map(2) if labels is None else labels
    for tissue, data in enumerate(one_hot(labels), 1):
        io.write_volume(folder / f"c{tissue}{stem}.nii", Volume(data, NATIVE), space="scanner")
    io.write_volume(folder / f"y_{stem}.nii", field(4.0))
    template = assets.template()
    grid = template.grid.with_voxel_size(3.0)
    for tissue in (1, 2):
        data = resample(template.channel(tissue - 1).data, template.grid, grid)
        io.write_volume(folder / f"mwc{tissue}{stem}.nii", Volume(data, grid))
    return folder


def test_spm_names_and_grids_are_understood(pair, tmp_path):
    evaluation = evaluate_folders([pair[0], spm_folder(tmp_path / "spm")])
    rows = evaluation.scans.set_index(["folder", "reference"])
    row = rows.loc[("spm", "one")]
    assert row["dice_wm"] == pytest.approx(accuracy.dice(label_map(2) == 3, label_map(1) == 3))
    assert row["pdice_csf"] == pytest.approx(row["dice_csf"])  # equal for masks
    assert row["r_mwp1"] > 0.9  # the same map, interpolated twice
    assert rows.loc[("spm", "template"), "linear_elasticity"] > 1e-4
    assert 0 < rows.loc[("spm", "template"), "mse_to_template"] < 0.2
    assert evaluation.notes == [
        "the linear part of all fields was fitted: spm does not record it",
        "spm: no warped maps (wp1, wp2): the tissues were warped with the fields for the MSE",
    ]


def test_tissues_are_warped_with_the_field_if_warped_maps_are_missing(tmp_path):
    """The template moved by a linear map: warped back, it is the template."""
    template = assets.template()
    scan_grid = Grid(template.grid.shape, LINEAR @ template.grid.affine)
    fractions = [template.data[:1], template.data[1:2], torch.zeros_like(template.data[:1])]
    for tissue, data in enumerate(fractions, 1):
        io.write_volume(tmp_path / "a" / f"c{tissue}x.nii", Volume(data, scan_grid), space="scanner")
    io.write_volume(tmp_path / "a" / "y_x.nii", field())
    (row,) = evaluate_folders([tmp_path / "a"]).scans.to_dict("records")
    nothing = float(template.data[:2].square().mean())
    assert row["mse_to_template"] < 0.1 * nothing  # the mean over octants blurs a little
    assert row["linear_elasticity"] == pytest.approx(0, abs=1e-6)


def test_nan_voxels_of_a_field_are_left_out(tmp_path):
    """CAT12 and SPM leave NaN where a field is not defined."""
    whole = field()
    holed = whole.data.clone()
    holed[:, :2] = float("nan")
    io.write_volume(tmp_path / "a" / "p0x.nii", Volume(label_map(0), NATIVE), space="scanner")
    io.write_volume(tmp_path / "a" / "y_x.nii", Volume(holed, whole.grid))
    (row,) = evaluate_folders([tmp_path / "a"]).scans.to_dict("records")
    assert row["linear_elasticity"] == pytest.approx(0, abs=1e-6)
    assert row["jacobian_min"] == pytest.approx(1, abs=1e-3)
    assert np.isfinite(row["mse_to_template"])


def test_the_linear_part_of_fields_is_removed_in_one_way_for_all_folders(pair, tmp_path):
    """If one folder does not record its linear parts, those of the others are fitted too, so that all compare alike."""
    skewed = np.diag([1.3, 1.0, 0.9, 1.0])
    storage.write_json(pair[0] / "report" / "vbmstat_sub-02_T1w.json", sidecar(skewed))
    recorded = evaluate_folders([pair[0]]).scans.iloc[-1]["linear_elasticity"]
    assert recorded > 0.01
    fitted = evaluate_folders([pair[0], spm_folder(tmp_path / "spm")]).scans
    assert fitted.set_index(["folder", "reference"]).loc[("one", "template"), "linear_elasticity"] < 1e-6


def test_bids_derivatives_match_cat12_names(pair, tmp_path):
    out, (scan,) = tmp_path / "bids", [naming.Scan(tmp_path, "sub-02_T1w", "sub-02")]
    template = assets.template()
    io.write_volume(naming.output_path(out, scan, "p0", "bids"), Volume(label_map(2), NATIVE), space="scanner")
    for kind, tissue in (("wp1", 0), ("wp2", 1), ("mwp1", 0), ("mwp2", 1)):
        io.write_volume(naming.output_path(out, scan, kind, "bids"), template.channel(tissue))
    io.write_volume(naming.output_path(out, scan, "y", "bids"), field())
    storage.write_json(naming.output_path(out, scan, "sidecar", "bids"), sidecar())
    evaluation = evaluate_folders([pair[0], out])
    rows = evaluation.scans.set_index(["folder", "reference"])
    assert set(evaluation.scans["scan"]) == {"sub-02_T1w"}
    assert rows.loc[("bids", "template"), "mse_to_template"] == pytest.approx(0)
    assert rows.loc[("bids", "one"), ["dice_gm", "r_mwp1", "r_mwp2"]].notna().all()
    assert evaluation.notes == []


def test_deepmriprep_names_are_understood(pair, tmp_path):
    template = assets.template()
    folder = tmp_path / "deepmriprep"
    io.write_volume(folder / "sub-02_T1w_p0.nii.gz", Volume(label_map(2), NATIVE), space="scanner")
    for tissue in (1, 2):
        for kind in ("wp", "mwp"):
            io.write_volume(folder / f"sub-02_T1w_{kind}{tissue}.nii.gz", template.channel(tissue - 1))
    evaluation = evaluate_folders([pair[0], folder])
    row = evaluation.scans.set_index(["folder", "reference"]).loc[("deepmriprep", "one")]
    assert row[["dice_gm", "r_mwp2"]].notna().all()
    assert evaluation.notes == ["deepmriprep: no fields (y_, u_): no linear elasticity, no Jacobian"]


def test_each_missing_kind_of_file_is_noted_once(tmp_path):
    labels = {"sub-01_T1w": label_map(0), "sub-02_T1w": label_map(1)}
    for stem, label in labels.items():
        io.write_volume(tmp_path / "bare" / f"p0{stem}.nii", Volume(label, NATIVE), space="scanner")
    evaluation = evaluate_folders([write_folder(tmp_path / "one", labels), tmp_path / "bare"])
    assert [note.split(": ")[0] for note in evaluation.notes] == ["bare"] * 3
    assert len(set(evaluation.notes)) == 3


def test_any_folder_may_be_the_reference(pair):
    evaluation = evaluate_folders(pair, reference=pair[1])
    assert set(evaluation.scans["reference"]) == {"template", "other"}
    with pytest.raises(ScanError, match="expected the reference among the folders"):
        evaluate_folders(pair, reference=pair[1].parent)


def test_folders_can_be_named(pair):
    evaluation = evaluate_folders(pair, names=["ours", "theirs"])
    assert set(evaluation.scans["reference"]) <= {"ours", "template"}
    assert "theirs" in set(evaluation.scans["folder"])


def test_links_keep_their_own_names(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    assert short_names([tmp_path / "one", tmp_path / "two"]) == ["one", "two"]


def test_the_worst_scan_is_named(tmp_path):
    good, bad = label_map(0), label_map(1)
    one = write_folder(tmp_path / "one", {"sub-01_T1w": good, "sub-02_T1w": good}, gain=0.9)
    other = write_folder(tmp_path / "other", {"sub-01_T1w": good, "sub-02_T1w": bad}, gain=0.5)
    write_folder(other, {"sub-01_T1w": good}, gain=0.1)
    evaluation = evaluate_folders([one, other])
    summary = evaluation.summary.set_index(["folder", "reference", "measure"])
    assert summary.loc[("other", "one", "dice_gm"), "worst_scan"] == "sub-02_T1w"
    assert summary.loc[("other", "template", "mse_to_template"), "worst_scan"] == "sub-01_T1w"
    table = side_by_side(evaluation.summary)
    assert list(table.columns) == ["one", "other"]
    row = summary.loc[("other", "template", "mse_to_template")]
    assert table.loc[("template", "mse_to_template"), "other"] == f"{row['median']:.4g} [{row['max']:.4g}]"
    assert table.loc[("one", "dice_gm"), "one"] == "n/a"


def damaged(labels, n):
    """Labels with the first n planes set to zero."""
    changed = labels.clone()
    changed[:, :n] = 0
    return changed


@pytest.fixture
def trio(tmp_path):
    """Three scans: the folder `other` differs from `one` most in the third scan, and from the truth in the second."""
    maps = {f"sub-0{number}_T1w": label_map(number) for number in (1, 2, 3)}
    planes = dict(zip(maps, (0, 1, 3), strict=True))
    write_folder(tmp_path / "one", maps, with_field=False)
    write_folder(tmp_path / "other", {scan: damaged(maps[scan], n) for scan, n in planes.items()}, with_field=False)
    for scan, labels in maps.items():
        true = torch.zeros_like(labels) if scan == "sub-02_T1w" else damaged(labels, planes[scan])
        true[0, 5, 4] = torch.tensor([1, 2, 3, 2])
        io.write_volume(tmp_path / "labels" / f"p0{scan}.nii.gz", Volume(true, NATIVE), space="scanner")
    return tmp_path


def test_the_worst_case_is_the_scan_with_the_lowest_gm_dice(trio):
    evaluation = evaluate_folders([trio / "one", trio / "other"])
    (row,) = worst_scans(evaluation.summary).to_dict("records")
    assert (row["folder"], row["reference"], row["worst_scan"]) == ("other", "one", "sub-03_T1w")
    case = read_pair(evaluation, "other", "one", "sub-03_T1w")
    assert case.reference_tissue.data.equal(label_map(3))
    assert case.tissue.data.equal(damaged(label_map(3), 3))
    assert case.dice["gm"] == pytest.approx(row["min"])
    assert case.dice["wm"] == pytest.approx(accuracy.dice(case.tissue.data == 3, label_map(3) == 3))


def test_with_a_truth_each_folder_is_compared_with_it(trio):
    evaluation = evaluate_folders([trio / "one", trio / "other"], trio / "labels", reference=trio / "other")
    rows = worst_scans(evaluation.summary)
    assert rows["folder"].tolist() == ["other", "one"]
    assert set(rows["reference"]) == {"truth"}
    assert set(rows["worst_scan"]) == {"sub-02_T1w"}
    assert read_pair(evaluation, "one", "truth", "sub-02_T1w").reference_tissue.data.sum() == 8


def test_mixed_tissue_is_kept_for_the_figure(tmp_path):
    mixed = label_map(0) * 0.75 + 0.25
    for name in ("one", "other"):
        io.write_volume(tmp_path / name / "p0a.nii", Volume(mixed, NATIVE), space="scanner")
    evaluation = evaluate_folders([tmp_path / "one", tmp_path / "other"])
    torch.testing.assert_close(read_pair(evaluation, "other", "one", "a").tissue.data, mixed)


def test_a_scan_without_label_maps_is_no_case(pair, tmp_path):
    io.write_volume(tmp_path / "bare" / "wp1sub-02_T1w.nii", assets.template().channel(0))
    evaluation = evaluate_folders([pair[0], tmp_path / "bare"])
    with pytest.raises(ScanError, match=r"sub-02_T1w: expected label maps in bare and one, found none in bare"):
        read_pair(evaluation, "bare", "one", "sub-02_T1w")


def test_the_command_draws_the_worst_scan_of_each_compared_folder(trio, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        worst_case, "worst_case_figure", lambda *values: drawn.append(values[2:]) or Figure(figsize=(1, 1))
    )
    out = trio / "tables"
    done = CliRunner().invoke(app, ["evaluate", "folders", str(trio / "one"), str(trio / "other"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert [path.name for path in out.glob("*.png")] == ["worst_other.png"]
    assert str(out / "worst_other.png") in done.output.replace("\n", "")
    ((names, title, metrics),) = drawn
    assert names == ("other", "one")
    assert title == "sub-03_T1w: other against one, lowest Dice of GM among 3 scans"
    assert list(metrics) == ["Dice of GM", "Dice of WM", "Dice of CSF"]
    assert metrics["Dice of GM"] == f"{accuracy.dice(damaged(label_map(3), 3) == 2, label_map(3) == 2):.3f}"


def test_folders_named_by_their_paths_get_separate_figures(trio, monkeypatch):
    monkeypatch.setattr(worst_case, "worst_case_figure", lambda *_: Figure(figsize=(1, 1)))
    monkeypatch.chdir(trio)
    shutil.copytree("other", "again/other")
    done = CliRunner().invoke(app, ["evaluate", "folders", "one", "other", "again/other", "--out", "tables"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (trio / "tables").glob("*.png")} == {"worst_other.png", "worst_again_other.png"}


def test_figures_of_an_earlier_run_go(trio, monkeypatch):
    monkeypatch.setattr(worst_case, "worst_case_figure", lambda *_: Figure(figsize=(1, 1)))
    monkeypatch.chdir(trio)
    shutil.copytree("other", "third")
    for arguments, names in ((["one", "other", "third"], {"worst_other.png", "worst_third.png"}),
                             (["one", "third"], {"worst_third.png"})):  # fmt: skip
        done = CliRunner().invoke(app, ["evaluate", "folders", *arguments, "--out", "tables"])
        assert done.exit_code == 0, done.output
        (trio / "tables" / "worst_mine.svg").write_text("")
        assert {path.name for path in (trio / "tables").glob("*.png")} == names
    assert "removed 1 files of the earlier run in tables: worst_other.png" in done.output
    assert (trio / "tables" / "worst_mine.svg").exists()


def test_without_label_maps_the_worst_scan_is_named_and_nothing_drawn(tmp_path):
    template = assets.template()
    for name, gains in (("one", (1.0, 1.0)), ("other", (0.5, 0.9))):
        for scan, gain in zip("ab", gains, strict=True):
            for tissue in (1, 2):
                volume = template.channel(tissue - 1)
                for kind in ("wp", "mwp"):
                    io.write_volume(
                        tmp_path / name / f"{kind}{tissue}{scan}.nii", Volume(volume.data * gain, volume.grid)
                    )
    out = tmp_path / "tables"
    done = CliRunner().invoke(
        app, ["evaluate", "folders", str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "other: worst scan a (highest mse_to_template, " in done.output
    assert "one: worst" not in done.output
    assert list(out.glob("*.png")) == []


def test_the_command_writes_both_tables(pair, tmp_path):
    done = CliRunner().invoke(
        app, ["evaluate", "folders", *map(str, pair), "--reference", str(pair[1]), "--out", str(tmp_path / "tables")]
    )
    assert done.exit_code == 0, done.output
    assert "note: other: no fields (y_, u_): no linear elasticity, no Jacobian" in done.output
    assert (tmp_path / "tables" / "evaluation_scans.tsv").read_text().startswith("scan\tfolder\treference\t")
    assert "dice_gm" in (tmp_path / "tables" / "evaluation_summary.tsv").read_text()
    assert (tmp_path / "tables" / "worst_one.png").read_bytes().startswith(b"\x89PNG")


def test_children_and_old_people_are_flagged(tmp_path):
    scans = pd.DataFrame({"scan": ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w", "sub-04_T1w", "sub-01_T1w"]})
    assert with_ages(scans, [tmp_path]) is scans
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "cohort.tsv").write_text("scan\tage\nsub-01_T1w\t9.5\nsub-02_T1w\t18\n")
    (tmp_path / "b" / "participants.tsv").write_text("participant_id\tage\nsub-01\t44\nsub-03\t81\nsub-04\tn/a\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "cohort.tsv").write_text("scan\tage\nsub-02_T1w\t90\n")
    table = with_ages(scans, [tmp_path / name for name in "abc"])
    assert table["age"].fillna(-1).tolist() == [9.5, 18, 81, -1, 9.5]
    assert table["age_flag"].fillna("").tolist() == ["child", "", "old", "", "child"]
