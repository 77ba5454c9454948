"""Numbers about hypointensities, on the template as if it were a scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.metrics import lesions
from vbmstat.metrics.lesions import lesion_figures, lesion_frequency, lesion_volumes, lesion_words

# a point in each place, MNI mm, with zone, lobe and side
PLACES = {
    (-30.0, -32.0, 28.0): ("periventricular", "parietal", "left"),
    (20.0, 30.0, 2.0): ("periventricular", "frontal", "right"),
    (-27.0, 8.0, 34.0): ("deep", "frontal", "left"),
    (36.0, 30.0, 23.0): ("juxtacortical", "frontal", "right"),
    (-48.0, -10.0, -22.0): ("juxtacortical", "temporal", "left"),
    (2.0, -28.0, -34.0): ("deep", "infratentorial", "right"),
}


@pytest.fixture(scope="module")
def scan() -> tuple[Volume, torch.Tensor]:
    """The template's GM, WM and CSF, and the mm of its voxels."""
    template = assets.template()
    csf = 1 - template.data.sum(0, keepdim=True)
    return Volume(torch.cat([template.data, csf]), template.grid), apply_affine(
        template.grid.affine, voxel_indices(template.grid.shape)
    )


def spots(grid: Grid, places: list[tuple[float, float, float]], value: float = 1.0) -> Volume:
    """A cube of 3 voxels at each place."""
    data = torch.zeros(1, *grid.shape)
    for mm in places:
        x, y, z = np.rint(np.linalg.inv(grid.affine) @ [*mm, 1.0])[:3].astype(int)
        data[:, x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = value
    return Volume(data, grid)


@pytest.mark.parametrize(("mm", "expected"), PLACES.items())
def test_each_lesion_is_in_its_zone_lobe_and_side(scan, mm, expected):
    fractions, template_mm = scan
    found = lesion_volumes(spots(fractions.grid, [mm]), fractions, template_mm)
    assert len(found) == 30
    assert found["wmh_ml"].sum() == pytest.approx(27 * 1.5**3 / 1000, abs=1e-5)
    most = found.loc[found["wmh_ml"].idxmax()]
    assert (most["zone"], most["lobe"], most["hemisphere"]) == expected


def test_columns_of_the_cohort_table(scan):
    fractions, template_mm = scan
    share = spots(fractions.grid, list(PLACES))
    row = lesion_figures(share, lesion_volumes(share, fractions, template_mm))
    assert row["wmh_count"] == len(PLACES)
    assert row["wmh_ml"] == pytest.approx(6 * 27 * 1.5**3 / 1000, abs=1e-3)
    assert sum(row[f"wmh_{zone}_ml"] for zone in lesions.ZONES) == pytest.approx(row["wmh_ml"], abs=2e-3)
    assert row["wmh_detectable"] == (row["wmh_ml"] >= lesions.FLOOR_ML)


def test_no_lesion_and_no_measurement_are_told_apart(scan):
    fractions, template_mm = scan
    none = Volume(torch.zeros(1, *fractions.grid.shape), fractions.grid)
    row = lesion_figures(none, lesion_volumes(none, fractions, template_mm))
    assert (row["wmh_ml"], row["wmh_count"], row["wmh_detectable"]) == (0, 0, False)
    assert lesion_words(row).startswith("not detectable (0.00 mL, less than ")
    unknown = lesion_figures(None)
    assert unknown.keys() == row.keys()
    assert set(unknown.values()) == {None}
    assert lesion_words(unknown) == "not measured"
    assert lesion_words({**row, "wmh_ml": 12.34, "wmh_count": 3, "wmh_detectable": True}) == "12.3 mL in 3"


def test_a_third_of_a_voxel_counts_as_a_third(scan):
    fractions, template_mm = scan
    found = lesion_volumes(spots(fractions.grid, [next(iter(PLACES))], 1 / 3), fractions, template_mm)
    assert found["wmh_ml"].sum() == pytest.approx(9 * 1.5**3 / 1000, abs=1e-5)


def test_frequency_is_the_share_of_scans_with_a_lesion(tmp_path):
    grid = Grid((4, 4, 4), np.eye(4))
    for number in range(4):
        data = torch.zeros(1, 4, 4, 4)
        data[0, :number] = 0.9
        io.write_volume(tmp_path / f"wp7{number}.nii.gz", Volume(data, grid))
    found = lesion_frequency(sorted(tmp_path.glob("wp7*")))
    assert sorted(found.data.unique().tolist()) == [0.0, 0.25, 0.5, 0.75]
    assert lesion_frequency([]) is None
    io.write_volume(tmp_path / "wp79.nii.gz", Volume(torch.zeros(1, 3, 4, 4), Grid((3, 4, 4), np.eye(4))))
    with pytest.raises(ScanError, match=r"wp79\.nii\.gz: grid .*differs"):
        lesion_frequency(sorted(tmp_path.glob("wp7*")))
