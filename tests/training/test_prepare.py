"""Cases from preprocessing runs and label maps: positions, values, and velocities that register the scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.preproc.networks.test_symnet import smooth_field
from vbmstat import assets
from vbmstat.cli import app
from vbmstat.errors import VbmstatError
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, apply_affine, resample, sample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks.symnet import Velocities, compose_warps, exponentiate, pull
from vbmstat.training import prepare
from vbmstat.training.cases import CaseFile

LINEAR = np.array([[1.05, 0.02, 0, 3.0], [-0.02, 0.95, 0.05, -4.0], [0, -0.05, 1.0, 6.0], [0, 0, 0, 1]])
BENT_MM = 6.0


@pytest.fixture(scope="module")
def bent():
    """The template after a known warp and a known linear map: p0, GM and WM, deformation."""
    template = assets.template()
    grid = template.grid.with_voxel_size(4.0)
    tissue = resample(template.data, template.grid, grid)[None]
    coarse = smooth_field(BENT_MM / 4.0 / 3, 0)
    velocity = torch.nn.functional.interpolate(coarse, grid.shape, mode="trilinear", align_corners=True)
    scan = pull(tissue, exponentiate(-velocity))[0]
    on = grid.with_voxel_size(3.0)
    moved = Grid(on.shape, LINEAR @ on.affine)  # the scan's frame
    gm, wm = resample(scan, grid, moved, np.linalg.inv(LINEAR)).clamp(0, 1)
    gm, wm = gm * (gm + wm > 0.05), wm * (gm + wm > 0.05)  # the template's background is not quite zero
    csf = (1 - gm - wm).clamp(0, 1) * (gm + wm > 0)
    p0 = Volume((csf + 2 * gm + 3 * wm)[None], moved)
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    deformation = Volume(apply_affine(LINEAR, mm + exponentiate(velocity)[0] * 4.0), grid)
    return p0, Volume(torch.stack([gm, wm]), moved), deformation


def test_the_linear_part_of_a_deformation_is_recovered(bent):
    _, _, deformation = bent
    assert np.allclose(prepare.brain_linear(deformation)[:3, :3], LINEAR[:3, :3], atol=0.1)  # of the warp
    mm = apply_affine(LINEAR @ deformation.grid.affine, voxel_indices(deformation.grid.shape))
    assert np.allclose(prepare.brain_linear(Volume(mm, deformation.grid)), LINEAR, atol=1e-4)


def test_a_registration_case_warps_the_scan_onto_the_template(bent):
    _, gm_wm, deformation = bent
    view = prepare.template_view(4.0)
    arrays = prepare.registration_arrays(gm_wm, deformation, view)
    assert arrays["scan"].shape == (2, *view.shape)
    velocity = arrays["velocity"][None]
    assert velocity.shape == (1, 3, *view.shape)
    template = assets.template()
    known = resample(template.data, template.grid, view)[None]
    scan = arrays["scan"][None]
    warp = compose_warps(Velocities(velocity, -velocity)).forward
    before, after = (float((image - known).square().mean()) for image in (scan, pull(scan, warp)))
    assert after < 0.8 * before


def test_finer_views_keep_velocities_of_3_mm(bent):
    _, gm_wm, deformation = bent
    view = prepare.template_view(2.0)
    arrays = prepare.registration_arrays(gm_wm, deformation, view)
    fine = arrays["velocity"]
    coarse = prepare.registration_arrays(gm_wm, deformation, prepare.template_view(3.0))["velocity"]
    assert fine.shape == coarse.shape
    assert torch.allclose(fine, coarse * 1.5, atol=1e-4)  # in voxels of 2 mm, and of 3 mm


def test_a_tissue_case_lies_in_the_template_s_frame(bent):
    p0, gm_wm, _ = bent
    brain = Volume(100 * p0.data, p0.grid)
    view = prepare.view_of(4.0)
    arrays = prepare.tissue_arrays(brain, p0, LINEAR, view)
    t1w, known = arrays["t1w"], arrays["p0"]
    assert t1w.shape == known.shape == (1, *view.shape)
    at = apply_affine(np.linalg.inv(gm_wm.grid.affine) @ LINEAR @ view.affine, voxel_indices(view.shape))
    wm = sample(gm_wm.data[1:], at)[0]
    assert float(known[0][wm > 0.8].mean()) > 2.5
    assert float(t1w[known > 0].quantile(0.995)) == pytest.approx(1.0, abs=0.02)
    assert float(t1w[known == 0].abs().max()) < 0.01
    inside = torch.corrcoef(torch.stack([t1w[known > 0], known[known > 0]]))[0, 1]
    assert float(inside) > 0.9


@pytest.fixture
def run_folder(tmp_path, bent):
    """The outputs of a preprocessing run that training needs."""
    p0, _, deformation = bent
    folder = tmp_path / "teacher"
    for name in ("sub-01_T1w", "sub-02_T1w"):
        io.write_volume(folder / "mri" / f"p0{name}.nii.gz", p0)
        io.write_volume(folder / "mri" / f"m{name}.nii.gz", Volume(100 * p0.data, p0.grid))
        io.write_volume(folder / "mri" / f"y_{name}.nii.gz", deformation)
    return folder


@pytest.mark.parametrize("kind", ["segmentation", "registration"])
def test_a_network_is_trained_on_a_preprocessing_run(run_folder, tmp_path, kind):
    extra = ["--registration"] if kind == "registration" else []
    arguments = ["train", "prepare", str(tmp_path / "cases.npz"), "--teacher", str(run_folder), "--voxel-size", "8"]
    done = CliRunner().invoke(app, [*arguments, *extra])
    assert done.exit_code == 0, done.output
    cases = CaseFile(tmp_path / "cases.npz")
    assert cases.names == ["teacher_sub-01_T1w", "teacher_sub-02_T1w"]
    assert cases.groups == ["teacher", "teacher"]
    (tmp_path / "run.toml").write_text('data = "cases.npz"\nepochs = 1\nn_channels = 2\ndepth = 2\nn_folds = 1\n')
    arguments = ["train", kind, str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "epoch 1: loss" in done.output
    assert "complete: networks in" in done.output
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(app, [*arguments, "--minutes", "1"])
    assert "complete" in done.output
    assert "epoch" not in done.output  # nothing was left to do


def test_label_maps_give_images_tissue_and_gm_mask(tmp_path, phantom):
    gm, wm, csf = phantom.fractions
    values = torch.zeros(phantom.mask.shape)
    values[csf > 0.5], values[gm > 0.5], values[wm > 0.5] = 24, 3, 2
    z = voxel_indices(values.shape)[2]
    values[(values == 2) & (z < 24)] = 16  # brain stem
    path = tmp_path / "head.nii.gz"
    io.write_volume(path, Volume(values[None], phantom.image.grid))
    reports = []
    view = prepare.view_of(4.0)
    first, second = prepare.cases_of_labels([path], 2, view, 0, reports.append)
    assert reports == ["head, image 1", "head, image 2"]
    assert (first.name, second.name, first.group) == ("head_0", "head_1", "head")
    one, other = (case.arrays["p0"].round() > 0 for case in (first, second))  # two shapes of one head
    assert 0.5 < float(2 * (one & other).sum() / (one.sum() + other.sum())) < 0.99
    fractions = resample(phantom.fractions, phantom.image.grid, view)
    p0 = first.arrays["p0"][0]
    for label, tissue in ((2, fractions[0]), (3, fractions[1])):
        predicted = (p0.round() == label).float()
        assert float(2 * (predicted * tissue).sum() / (predicted + tissue).sum()) > 0.6
    no_gm = first.arrays["no_gm"][0] > 0
    assert no_gm.any()
    assert float(p0[no_gm].mean()) > 2.5
    (again,) = prepare.cases_of_labels([path], 1, view)
    assert torch.equal(again.arrays["t1w"], first.arrays["t1w"])


def test_scans_as_they_came_are_found_by_their_hash(tmp_path, run_folder, bent):
    p0, _, _ = bent
    for stem, brightness in (("sub-01_T1w", 3.0), ("sub-02_T1w", 5.0)):
        scan = tmp_path / "raw" / stem / "scan.nii.gz"
        io.write_volume(scan, Volume(brightness * (4 - p0.data) * (p0.data > 0), p0.grid))
        entry = {"path": "scan.nii.gz", "sha256": assets.sha256(scan)}
        storage.write_json(run_folder / "report" / f"vbmstat_{stem}.json", {"inputs": [entry]})
    view = prepare.view_of(8.0)
    corrected, _ = prepare.cases_of_run(run_folder, False, view)
    first = next(prepare.cases_of_run(run_folder, False, view, inputs=[tmp_path / "raw"]))
    inside = corrected.arrays["p0"] > 1.8
    r = torch.corrcoef(torch.stack([case.arrays["t1w"][inside] for case in (corrected, first)]))[0, 1]
    assert float(r) < -0.8  # the scan is the negative of the corrected brain
    (tmp_path / "raw" / "sub-01_T1w" / "scan.nii.gz").unlink()
    with pytest.raises(VbmstatError, match=r"scan\.nii\.gz \(sha256 .*is not below .*raw; .*has another content"):
        list(prepare.cases_of_run(run_folder, False, view, inputs=[tmp_path / "raw"]))


def test_deformed_labels_keep_their_values_and_volume(phantom):
    labels = Volume((phantom.mask[None] * 3.0), phantom.image.grid)
    one, other = (prepare.bend_labels(labels, np.random.default_rng(seed)).data for seed in (0, 1))
    assert set(one.unique().tolist()) == {0.0, 3.0}
    assert not torch.equal(one, other)
    assert float(one.sum()) == pytest.approx(float(labels.data.sum()), rel=0.2)
    assert torch.equal(one, prepare.bend_labels(labels, np.random.default_rng(0)).data)


def test_missing_files_are_named(tmp_path, run_folder):
    view = prepare.view_of(8.0)
    with pytest.raises(VbmstatError, match=r"expected mri/p0… of 'vbmstat preprocess"):
        list(prepare.cases_of_run(tmp_path, False, view))
    (run_folder / "mri" / "y_sub-02_T1w.nii.gz").unlink()
    with pytest.raises(VbmstatError, match=r"none of y_sub-02_T1w\.nii\.gz, .*is there"):
        list(prepare.cases_of_run(run_folder, False, view))
    for arguments, message in (
        ([], "expected --teacher, --labels or both"),
        (["--labels", "a.nii", "--registration"], "a label map has no warp"),
    ):
        done = CliRunner().invoke(app, ["train", "prepare", str(tmp_path / "a.npz"), *arguments])
        assert message in str(done.exception)
