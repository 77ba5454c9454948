"""Scans that have the same map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.duplicates import identical_scans
from vbmstat.maps.store import ArrayMaps

NOTE = "scans with the same map under different ids: {}; keep one of each"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_one_map_under_two_ids_is_told(tmp_path, suffix):
    """Also where the files differ: stored in another axis order."""
    table = make_table()
    images = make_images(table)
    images[20], images[21] = images[4], images[7]
    for i, (scan, image) in enumerate(zip(table["participant_id"], images, strict=True)):
        volume = Volume(torch.from_numpy(image)[None], GRID)
        write_volume(tmp_path / f"s6mwp1{scan}{suffix}", volume, axcodes="RAS" if i == 20 else "LAS")
    notes = fit_glm(tmp_path, "gm ~ age", table, repeats=0).record["notes"]
    assert NOTE.format("sub-004 = sub-020, sub-007 = sub-021") in notes
    notes = fit_glm(tmp_path, "gm ~ age", table.drop(index=[20]), repeats=0, missing="drop").record["notes"]
    assert NOTE.format("sub-007 = sub-021") in notes  # of the model's scans alone


def test_equal_in_part_is_not_the_same():
    values = np.random.default_rng(0).normal(size=(6, 5000))
    ids = tuple("abcdef")
    assert identical_scans(ArrayMaps(values, ids)) == []
    values[3] = values[1]
    values[5] = values[1]
    assert identical_scans(ArrayMaps(values, ids)) == [("b", "d", "f")]
    values[3, 100] += 1e-9
    values[5, 4900] += 1e-9
    assert identical_scans(ArrayMaps(values, ids)) == []


def test_few_columns_may_be_equal_by_chance():
    assert identical_scans(ArrayMaps(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]]), ("a", "b", "c"))) == []
