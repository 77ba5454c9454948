"""Models and tables of lesion maps: sparse, of very different amounts, empty in people without lesions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat.errors import DesignError, ScanError
from vbmstat.glm.analysis import fit_glm
from vbmstat.harmonize.run import HarmonizeSpec, harmonize_maps
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.maps.lesions import LESION_THRESHOLD, lesion_share
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.regions.models import fit_roi_glm
from vbmstat.regions.volumes import RegionSpec
from vbmstat.tables.cohort import Cohort, index_by_id

N, SHAPE = 24, (8, 6, 5)
GRID = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def lesions() -> np.ndarray:
    """24 people: 4 without lesions, the others with 2 to 60 voxels, the loads a factor of hundreds apart."""
    rng = np.random.default_rng(3)
    maps = np.zeros((N, *SHAPE), np.float32)
    for scan in range(4, N):
        reach = 2 + scan // 5
        maps[scan, :reach, :3, :3] = rng.uniform(0.001 if scan == 4 else 0.1, 1.0 if scan > 20 else 0.2, (reach, 3, 3))
    return maps


@pytest.fixture(scope="module")
def folder(lesions, tmp_path_factory) -> Cohort:
    """Their maps, smoothed and unsmoothed, and a table with age."""
    out = tmp_path_factory.mktemp("lesions")
    rows = []
    for scan, image in enumerate(lesions):
        name = f"sub-{scan:02d}_T1w.nii.gz"
        for prefix in ("s6mwp7", "mwp7"):
            io.write_volume(out / "mri" / f"{prefix}{name}", Volume(torch.from_numpy(image)[None], GRID))
        rows.append({
            "participant_id": f"sub-{scan:02d}", "age": 40.0 + scan % 7 + scan, "tiv_ml": 1400.0 + 11 * (scan % 5),
            "wmh_ml": float(image.sum()) * GRID.voxel_volume_ml, "s6mwp7": f"mri/s6mwp7{name}",
            "mwp7": f"mri/mwp7{name}",
        })  # fmt: skip
    return Cohort(index_by_id(pd.DataFrame(rows), "test"), out)


@pytest.mark.parametrize("with_folder", [False, True])
def test_voxels_with_a_lesion_in_enough_scans_are_analysed(folder, lesions, with_folder):
    fit = fit_glm(folder.folder if with_folder else None, "wmh ~ age", folder, repeats=0)
    expected = (lesions > LESION_THRESHOLD).sum(0) >= 5
    assert 0 < expected.sum() < expected.size
    inside = np.zeros(expected.size, bool)
    at = fit.space.voxel_index[fit.mask]
    inside[at] = True
    assert np.array_equal(inside.reshape(SHAPE), expected)
    design = np.column_stack([np.ones(N), folder.table["age"]])
    values = lesions.reshape(N, -1)[:, at]
    beta, *_ = np.linalg.lstsq(design, values.astype(np.float64), rcond=None)
    assert fit.maps["age"]["effect"].values[fit.mask] == pytest.approx(beta[1], abs=1e-6)
    (note,) = [note for note in fit.record["notes"] if "lesion maps" in note]
    assert "at least 5 of 24 scans exceed 0.05" in note
    assert not any("same map" in note for note in fit.record["notes"])
    assert fit.record["mask_rule"]["share"] == pytest.approx(5 / 24)
    assert fit.record["spec"]["mask"]["threshold"] == LESION_THRESHOLD


def test_a_threshold_and_share_of_the_user_hold(folder, lesions):
    fit = fit_glm(None, "wmh ~ age", folder, repeats=0, mask_threshold=0.15, mask_share=0.5)
    assert fit.mask.sum() == ((lesions > 0.15).sum(0) >= N / 2).sum()


def test_the_same_maps_of_a_tissue_would_be_refused(folder):
    """Empty maps, and maps of another unit, are errors for tissues."""
    paths = dict(zip(folder.scan_ids, folder.paths("s6mwp7"), strict=True))
    with pytest.raises(ScanError, match=r"same value at every voxel|another unit"):
        pack_maps(paths, folder.folder / "refused", MaskRule(0.05, lesion_share(N)))


def test_the_share_is_five_scans_or_five_percent():
    assert [lesion_share(n) for n in (3, 10, 100, 1000)] == [1.0, 0.5, 0.05, 0.05]


def test_lesion_load_is_a_covariate(folder):
    volumes = np.random.default_rng(0).normal(size=(N, 1))
    fit = fit_glm(volumes, "region ~ age + log1p(wmh_ml)", folder, repeats=0)
    design = np.column_stack([np.ones(N), folder.table["age"], np.log1p(folder.table["wmh_ml"])])
    assert fit.design.matrix == pytest.approx(design)


def test_regions_of_lesions(folder):
    path = folder.folder / "own.nii.gz"
    labels = torch.zeros(1, *SHAPE)
    labels[:, :4], labels[:, 4:] = 1, 2
    io.write_volume(path, Volume(labels, GRID), dtype="int16")
    (folder.folder / "own.tsv").write_text("label\tname\n1\tOne\n2\tTwo\n")
    found = fit_roi_glm("wmh ~ age", folder, regions=RegionSpec(path), inference="fdr")
    rows = found.table.set_index("name")
    total = folder.table["wmh_ml"].mean()
    assert rows["mean_ml"].sum() == pytest.approx(total, rel=1e-4)


def test_harmonizing_lesions_is_refused(folder, tmp_path):
    with pytest.raises(DesignError, match="mostly zero"):
        harmonize_maps(folder, HarmonizeSpec("age", response="wmh"), tmp_path)
