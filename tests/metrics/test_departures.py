"""Places where a scan departs from the others: made ones are found, with volume and place; nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.image import io
from vbmstat.image.grid import apply_affine, resample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.metrics import departures
from vbmstat.metrics.departures import find_departures

N_SCANS = 20
AT_MM = (-38.0, 2.0, 2.0)  # left insula


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Smooth maps of people who differ by 8 %, sizes apart by a third; those of scan 4 lack 90 % in a ball."""
    folder, template = tmp_path_factory.mktemp("maps"), assets.template()
    grid = template.grid.with_voxel_size(3.0)
    tissue = resample(smooth(template.data, np.full(3, 3.0), 2.0), template.grid, grid)
    distance = (apply_affine(grid.affine, voxel_indices(grid.shape)) - torch.tensor(AT_MM).reshape(3, 1, 1, 1)).norm(
        dim=0
    )
    paths = [[], []]
    for scan in range(N_SCANS):
        source = torch.Generator().manual_seed(scan)
        own = smooth(torch.randn(1, *grid.shape, generator=source), np.full(3, 3.0), 3.0)
        own = tissue * (1 + 0.08 * own / own.std()) * (1 + scan / 60)
        if scan == 4:
            own = own * (1 - 0.9 * (distance < 15))
        for number, (data, of_tissue) in enumerate(zip(own, paths, strict=True), 1):
            of_tissue.append(folder / f"s6mwp{number}sub-{scan:02d}.nii.gz")
            io.write_volume(of_tissue[-1], Volume(data[None], grid))
    return paths


def test_a_hole_in_one_scan_is_found_and_named(scans):
    found = find_departures(*scans)
    assert [index for index, one in enumerate(found) if one is not None] == [4]
    departure = found[4]
    assert 5 < departure.volume_ml < 16  # of 14 mL, part of it beyond the brain's edge
    assert departure.z < -departures.BEYOND_Z
    assert np.linalg.norm(np.subtract(departure.at_mm, AT_MM)) < 16
    assert departure.region == "Left Insula"
    assert "less GM + WM" in departure.warning()


def test_a_sample_gives_the_spread_of_a_large_cohort(scans, monkeypatch):
    whole = find_departures(*scans)
    monkeypatch.setattr(departures, "_MOST_READ", 12)
    sampled = find_departures(*scans)
    assert [one is None for one in sampled] == [one is None for one in whole]
    assert sampled[4].volume_ml == pytest.approx(whole[4].volume_ml, rel=0.3)


def test_few_scans_are_not_judged(scans):
    assert find_departures(scans[0][:9], scans[1][:9]) == [None] * 9


def test_other_voxel_sizes(scans, tmp_path):
    """Every second voxel of 1.5 mm, or every voxel of 3 mm: the same places."""
    grid = assets.template().grid
    fine = [[tmp_path / path.name for path in of_tissue] for of_tissue in scans]
    for old, new in zip([*scans[0], *scans[1]], [*fine[0], *fine[1]], strict=True):
        volume = io.read_volume(old)
        io.write_volume(new, Volume(resample(volume.data, volume.grid, grid), grid))
    found = find_departures(*fine)
    assert [index for index, one in enumerate(found) if one is not None] == [4]
    assert found[4].volume_ml == pytest.approx(find_departures(*scans)[4].volume_ml, rel=0.2)
