"""Folders of outputs compared: what is matched, what is measured, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vbmstat import assets, evaluate, io
from vbmstat.cli import app
from vbmstat.errors import ScanError
from vbmstat.evaluate_folders import evaluate_folders
from vbmstat.grid import Grid, apply_affine, voxel_indices
from vbmstat.volume import Volume

NATIVE = Grid((6, 5, 4), np.eye(4))
LINEAR = np.diag([1.1, 1.0, 0.9, 1.0])


def label_map(seed):
    return torch.randint(0, 4, (1, *NATIVE.shape), generator=torch.Generator().manual_seed(seed)).float()


def write_folder(folder, labels, gain=1.0, sidecar=True):
    template = assets.template()
    mm = apply_affine(template.grid.affine, voxel_indices(template.grid.shape))
    for stem, label in labels.items():
        io.write_volume(folder / "mri" / f"p0{stem}.nii.gz", Volume(label, NATIVE), space="scanner")
        for tissue in (1, 2):
            volume = template.channel(tissue - 1)
            io.write_volume(folder / "mri" / f"wp{tissue}{stem}.nii", Volume(volume.data * gain, volume.grid))
            io.write_volume(folder / "mri" / f"mwp{tissue}{stem}.nii", Volume(volume.data * gain, volume.grid))
        if sidecar:
            io.write_volume(folder / "mri" / f"y_{stem}.nii", Volume(apply_affine(LINEAR, mm), template.grid))
            content = {"affine": {"template_mm_to_scan_mm": LINEAR.tolist()}}
            io.write_json(folder / "report" / f"vbmstat_{stem}.json", content)
    return folder


@pytest.fixture
def pair(tmp_path):
    one = write_folder(tmp_path / "one", {"sub-01_T1w": label_map(0), "sub-02_T1w": label_map(1)})
    other = write_folder(tmp_path / "other", {"sub-02_T1w": label_map(2)}, gain=0.5, sidecar=False)
    return one, other


def test_rows_are_matched_by_name_and_hold_what_the_functions_say(pair, tmp_path):
    truth = tmp_path / "truth"
    io.write_volume(truth / "sub-02_T1w.nii.gz", Volume(label_map(3), NATIVE), space="scanner")
    found = evaluate_folders(pair, truth)
    assert set(found.scans["scan"]) == {"sub-02_T1w"}
    assert found.left_out == {"one": ["sub-01_T1w"], "other": []}
    rows = found.scans.set_index(["folder", "reference"])
    expected = evaluate.dice(label_map(2) == 2, label_map(1) == 2)
    assert rows.loc[("other", "one"), "dice_gm"] == pytest.approx(expected)
    assert rows.loc[("one", "truth"), "jaccard_wm"] == pytest.approx(
        evaluate.jaccard(label_map(1) == 3, label_map(3) == 3)
    )
    assert rows.loc[("other", "one"), "r_mwp1"] == pytest.approx(1.0)  # a gain changes no correlation
    assert rows.loc[("one", "template"), "mse_to_template"] == pytest.approx(0.0)
    template = assets.template().data
    assert rows.loc[("other", "template"), "mse_to_template"] == pytest.approx(
        float(template.square().mean()) / 4, rel=1e-4
    )
    assert rows.loc[("one", "template"), "linear_elasticity"] == pytest.approx(0, abs=1e-6)  # the affine is taken out
    assert rows.loc[("one", "template"), "jacobian_min"] == pytest.approx(1, abs=1e-3)
    assert np.isnan(rows.loc[("other", "template"), "linear_elasticity"])
    summary = found.summary.set_index(["folder", "reference", "measure"])
    assert summary.loc[("other", "one", "dice_gm"), "n_scans"] == 1


def test_folders_without_a_common_scan_are_refused(tmp_path):
    one = write_folder(tmp_path / "one", {"a": label_map(0)}, sidecar=False)
    other = write_folder(tmp_path / "other", {"b": label_map(0)}, sidecar=False)
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


def test_the_command_writes_both_tables(pair, tmp_path):
    done = CliRunner().invoke(app, ["evaluate", *map(str, pair), "--out", str(tmp_path / "tables")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "tables" / "evaluation_scans.tsv").read_text().startswith("scan\tfolder\treference\t")
    assert "dice_gm" in (tmp_path / "tables" / "evaluation_summary.tsv").read_text()
