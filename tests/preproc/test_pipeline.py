"""The whole engine on one simulated person of 2 mm, on real scans where they are, and in four axis orders."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat import assets, simulate
from vbmstat.errors import ScanError
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc import lesions
from vbmstat.preproc.engines import classic
from vbmstat.preproc.lesions import LesionPlan
from vbmstat.preproc.pipeline import preprocess_scan, segment_scan
from vbmstat.preproc.results import Preprocessed
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps.warp import Warp
from vbmstat.simulate.labels import GM, WM

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real scans at {DATA}")
ASEG_GM = (3, 42, 8, 47, 10, 11, 12, 13, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58)
ASEG_WM = (2, 41, 7, 46, 16, 28, 60, 77, 85, 251, 252, 253, 254, 255)


def check_contract(result: Preprocessed) -> None:
    """What holds for every scan."""
    volumes_ml = result.segmented.volumes_ml
    for modulated_ml, own_ml in zip(result.modulated.sums_ml, volumes_ml, strict=True):
        assert modulated_ml == pytest.approx(own_ml, rel=0.01)
    assert float(result.warp.forward.jacobian_determinant.min()) > 0
    assert result.smoothed[6.0].grid.matches(assets.template().grid)
    assert result.smoothed[6.0].sums_ml[0] == pytest.approx(volumes_ml[0], rel=0.02)
    assert 1000 < sum(volumes_ml) < 2000
    assert 450 < volumes_ml[0] < 950


def overlap(found: torch.Tensor, known: torch.Tensor) -> float:
    """Dice of two masks."""
    return 2 * float((found & known).sum()) / float(found.sum() + known.sum())


def tissue_masks(result: Preprocessed) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxels that are mostly GM, and mostly WM."""
    label = result.segmented.label.data[0].round()
    return label == 2, label == 3


def test_contract(preprocessed):
    check_contract(preprocessed)
    assert not preprocessed.segmented.was_stripped
    assert preprocessed.segmented.engine == "classic"
    assert list(preprocessed.seconds)[:3] == ["brain", "affine", "denoise"]


def test_the_segmentation_stops_before_the_warp_and_has_the_volumes(segmented, preprocessed):
    assert list(segmented.seconds) == ["brain", "affine", "denoise", "priors", "segment", "quality"]
    assert list(preprocessed.seconds) == [*segmented.seconds, "warp", "normalise"]
    assert preprocessed.segmented is segmented
    assert segmented.tissues.sums_ml == pytest.approx(list(segmented.volumes_ml), rel=1e-5)
    assert segmented.image.noise_percent == preprocessed.quality.noise_percent


def test_a_few_hot_voxels_change_nothing(segmented, simulated):
    t1w = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    hot = torch.rand(t1w.data.shape, generator=torch.Generator().manual_seed(0)) < 1e-5
    assert 5 < int(hot.sum()) < 100
    found = segment_scan(Volume(torch.where(hot, torch.tensor(1e6), t1w.data), t1w.grid))
    gm, known = found.tissues.data[0], segmented.tissues.data[0]
    assert float(torch.corrcoef(torch.stack([gm[known > 0.1], known[known > 0.1]]))[0, 1]) > 0.999


def test_quality_of_the_simulated_scan_is_what_was_simulated(segmented):
    """2 mm, noise of 3 % drawn on voxels of 1 mm: what is left of it after averaging, and the texture."""
    image = segmented.image
    assert image.resolution_mm == pytest.approx(2.0, abs=0.01)
    assert 0.5 < image.noise_percent < 4
    assert 20 < image.contrast_percent < 40


def test_volumes_are_those_of_the_simulation(segmented, simulated):
    """Known limits of the engine at 2 mm: thin cortex loses 8 % to CSF."""
    truth = pd.read_csv(simulated / "derivatives" / "truth" / "volumes.tsv", sep="\t").iloc[0]
    gm_ml, wm_ml, csf_ml = segmented.volumes_ml
    assert gm_ml + wm_ml + csf_ml == pytest.approx(truth["tiv_ml"], rel=0.03)
    assert wm_ml == pytest.approx(truth["wm_ml"], rel=0.06)
    assert gm_ml == pytest.approx(truth["gm_ml"], rel=0.12)


def test_tissues_are_those_of_the_simulation(segmented, simulated):
    folder = simulated / "derivatives" / "truth" / "sub-01" / "anat"
    for channel, (tissue, least) in enumerate({"GM": 0.86, "WM": 0.90, "CSF": 0.70}.items()):
        known = io.read_volume(folder / f"sub-01_label-{tissue}_probseg.nii.gz").data[0]
        found = segmented.tissues.data[channel]
        assert 2 * float(torch.minimum(found, known).sum()) / float(found.sum() + known.sum()) > least


def test_the_person_lies_on_the_template(preprocessed):
    """At 6 mm the warped GM is the template's; the affine alone would be worse."""
    warped, template = preprocessed.warped.data[0], assets.template().data[0]
    both = (warped > 0.1) | (template > 0.1)
    assert float(torch.corrcoef(torch.stack([warped[both], template[both]]))[0, 1]) > 0.88
    assert preprocessed.quality.warnings() == []


@pytest.fixture
def reoriented(simulated, stored_as, tmp_path):
    """``reoriented("PIR")``: the person's scan in a file of that axis order."""
    image = nib.load(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")

    def write(axcodes: str) -> Path:
        path = tmp_path / f"{axcodes}.nii.gz"
        nib.save(stored_as(np.asanyarray(image.dataobj), image.affine, axcodes), path)
        assert io.read_axcodes(path) == axcodes
        return path

    return write


@pytest.mark.parametrize("axcodes", ["LAS", "LPS", "PIR"])
def test_every_axis_order_is_read_as_the_same_scan(simulated, reoriented, axcodes):
    """The engine sees the very same numbers, whence the same maps; the slow test runs it."""
    scan = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    other = io.read_scan(reoriented(axcodes))
    assert torch.equal(other.data, scan.data)
    assert other.grid.matches(scan.grid, tolerance_mm=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("axcodes", ["LAS", "LPS", "PIR"])
def test_every_axis_order_gives_the_same_maps(preprocessed, reoriented, axcodes):
    other = preprocess_scan(io.read_scan(reoriented(axcodes)), PreprocSpec(device="cpu"))
    pair = torch.stack([preprocessed.smoothed[6.0].data[0].ravel(), other.smoothed[6.0].data[0].ravel()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.999


@pytest.mark.parametrize(
    ("data", "size_mm", "message"),
    [
        (torch.full((1, 40, 40, 40), 5.0), 4.0, "every voxel is 5"),
        (torch.full((1, 40, 40, 40), torch.nan), 4.0, "NaN or infinite"),
        (torch.rand(1, 12, 14, 10), 2.0, r"field of view .* got \[24 28 20\] mm"),
        (torch.rand(1, 40, 40, 40), 20.0, "80 to 600 mm along each axis"),
    ],
)
def test_what_is_no_scan_of_a_head_is_refused(data, size_mm, message):
    scan = Volume(data, Grid(tuple(data.shape[1:]), np.diag([size_mm, size_mm, size_mm, 1.0])))
    with pytest.raises(ScanError, match=message):
        preprocess_scan(scan)


@needs_data
def test_a_real_scan_agrees_with_freesurfer():
    folder = DATA / "single" / "aomic-sub-0001"
    result = preprocess_scan(io.read_scan(folder / "orig.mgz"))
    check_contract(result)
    aseg = io.read_volume(folder / "aseg.mgz").data[0].round()
    gm, wm = tissue_masks(result)
    assert overlap(gm, torch.isin(aseg, torch.tensor(ASEG_GM))) > 0.80
    assert overlap(wm, torch.isin(aseg, torch.tensor(ASEG_WM))) > 0.87


@needs_data
@pytest.mark.slow
def test_a_rendered_head_agrees_with_its_labels():
    labels = io.read_volume(DATA / "labelmaps" / "training_seg_01.nii.gz")
    result = preprocess_scan(simulate.render_t1w(labels, noise_percent=3.0, bias_percent=40.0))
    check_contract(result)
    known = simulate.tissue_labels(labels).data[0]
    gm, wm = tissue_masks(result)
    assert overlap(gm, known == GM) > 0.90
    assert overlap(wm, known == WM) > 0.90


@pytest.fixture
def ball_of_lesion(monkeypatch):
    """A finder that reports 20 mm around a point, and a registration that takes no time."""

    def find(evidence, *_):
        mm = apply_affine(evidence.brain.grid.affine, voxel_indices(evidence.brain.grid.shape))
        centre = torch.as_tensor(evidence.linear[:3] @ [-27.0, -10.0, 28.0, 1.0], dtype=torch.float32)
        near = (mm - centre[:, None, None, None]).square().sum(0) < 20**2
        return Volume(near[None].float(), evidence.brain.grid)

    still = Displacement(torch.zeros(3, *assets.template().grid.shape), assets.template().grid)
    monkeypatch.setattr(lesions, "find_lesions", find)
    monkeypatch.setattr(classic.warp, "register_both_ways", lambda *_: Warp(still, still))


def test_hypointensities_reach_tissues_and_maps(simulated, segmented, ball_of_lesion):
    scan = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    result = preprocess_scan(scan, PreprocSpec(device="cpu", wmh=True, wmh_as="class"))
    found = result.segmented
    lesion_ml = found.wmh.sums_ml[0]
    assert 10 < lesion_ml < 34
    assert found.tiv_ml == pytest.approx(sum(segmented.volumes_ml), rel=1e-5)
    assert result.modulated.sums_ml[3] == pytest.approx(lesion_ml, rel=0.02)
    assert result.smoothed[6.0].sums_ml[3] == pytest.approx(lesion_ml, rel=0.02)
    inside, outside = found.wmh.data[0] > 0.99, found.wmh.data[0] == 0
    assert float(found.fractions.data[:, inside].abs().max()) < 0.01
    share = found.on_scan(found.wmh).data[0]
    assert float((found.label.data[0] - 3)[share > 0.99].abs().max()) < 0.05
    torch.testing.assert_close(found.fractions.data[:, outside], segmented.fractions.data[:, outside])


def test_a_brought_lesion_is_left_out_of_the_fits_and_of_the_maps(simulated, segmented):
    scan = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    label = segmented.label.data[0]
    mm = apply_affine(scan.grid.affine, voxel_indices(scan.grid.shape))
    centre = torch.as_tensor(segmented.linear[:3] @ [-38.0, -10.0, 30.0, 1.0], dtype=torch.float32)
    lesion = ((mm - centre[:, None, None, None]).square().sum(0) < 22**2) & (label > 1.5)
    hurt = Volume(torch.where(lesion, 0.3 * scan.data[scan.data > 0].median(), scan.data[0])[None], scan.grid)
    plan = LesionPlan(mask=Volume(lesion[None].float(), scan.grid))
    found = segment_scan(hurt, lesion_plan=plan)
    assert found.brought_ml == pytest.approx(float(lesion.sum()) * scan.grid.voxel_volume_ml, rel=0.02)
    assert found.tiv_ml == pytest.approx(sum(segmented.volumes_ml), rel=0.01)
    in_tissues = found.tissues.data.sum(0)[lesion]
    assert float(in_tissues.mean()) == pytest.approx(0.0, abs=0.1)  # resampled edges
    gm, known = found.tissues.data[0][~lesion], segmented.tissues.data[0][~lesion]
    blind = segment_scan(hurt).tissues.data[0][~lesion]
    assert float((gm - known).abs().mean()) < 0.6 * float((blind - known).abs().mean())
