from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import Atlas, load_atlas
from vbmstat.roi.measure import label_shares, measure_map


def random_atlas(seed: int, flip: bool = False) -> Atlas:
    """A 6 × 5 × 7 mm block of random labels 0 to 3 at 1 mm."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (6, 5, 7)).astype(np.float32))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-2.0, 1.0, 3.0)
    if flip:
        affine[0, 0], affine[0, 3] = -1.0, 3.0
        labels = labels.flip(0)
    table = pd.DataFrame({"hemisphere": "both", "name": list("abc"), "region": list("abc")}, index=[1, 2, 3])
    return Atlas("random", Volume(labels[None], Grid((6, 5, 7), affine)), table, (), "")


def around(size_mm: float, offset_mm: float) -> Grid:
    """A grid that covers the block."""
    n = int(np.ceil(16.0 / size_mm))
    affine = np.diag([size_mm] * 3 + [1.0])
    affine[:3, 3] = (-6.0 + offset_mm, -4.0, -2.0)
    return Grid((n, n, n), affine)


@given(seed=st.integers(0, 99), size_mm=st.floats(0.4, 3.0), offset_mm=st.floats(-1.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_a_map_of_ones_has_each_labels_own_volume(seed: int, size_mm: float, offset_mm: float) -> None:
    atlas = random_atlas(seed)
    on = around(size_mm, offset_mm)
    volumes = measure_map(Volume(torch.ones(1, *on.shape), on), label_shares(atlas, on))
    expected = [float((atlas.image.data == label).sum()) / 1000 for label in (1, 2, 3)]
    assert np.allclose(volumes, expected, rtol=1e-4)


def test_shares_agree_with_fine_sampling() -> None:
    atlas, on = random_atlas(5), around(1.7, 0.31)
    shares = label_shares(atlas, on).toarray().reshape(3, *on.shape)
    n = 20  # points an edge
    labels = atlas.image.data[0].numpy().astype(int)
    steps = (np.arange(n) + 0.5) / n - 0.5
    for voxel in np.ndindex(4, 4, 4):
        voxel_mm = [on.affine[a, a] * (voxel[a] + 2 + steps) + on.affine[a, 3] for a in range(3)]
        index = [np.rint(mm - atlas.image.grid.affine[a, 3]).astype(int) for a, mm in enumerate(voxel_mm)]
        inside = [(i >= 0) & (i < s) for i, s in zip(index, labels.shape, strict=True)]
        found = labels[np.ix_(*(np.clip(i, 0, s - 1) for i, s in zip(index, labels.shape, strict=True)))]
        found = np.where(inside[0][:, None, None] & inside[1][:, None] & inside[2], found, 0)
        for row, label in enumerate((1, 2, 3)):
            assert shares[(row, *(v + 2 for v in voxel))] == pytest.approx((found == label).mean(), abs=0.08)


def test_axis_direction_of_atlas_and_map_does_not_matter() -> None:
    on = around(1.5, 0.2)
    values = torch.from_numpy(np.random.default_rng(1).random((1, *on.shape), dtype=np.float32))
    affine = on.affine @ np.array([[-1, 0, 0, on.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    flipped = Grid(on.shape, affine)
    straight = measure_map(Volume(values, on), label_shares(random_atlas(2), on))
    for atlas in (random_atlas(2), random_atlas(2, flip=True)):
        turned = measure_map(Volume(values.flip(1), flipped), label_shares(atlas, flipped))
        assert np.allclose(straight, turned, rtol=1e-5)
    assert straight.std() > 0


def test_lpba40_on_the_template_grid_keeps_every_labels_volume() -> None:
    atlas, on = load_atlas("lpba40"), assets.template().grid
    shares = label_shares(atlas, on)
    volumes = shares.sum(axis=1) * on.voxel_volume_ml
    counts = torch.bincount(atlas.image.data.to(torch.int64).flatten())
    assert np.allclose(volumes, [float(counts[int(label)]) / 1000 for label in atlas.table.index], rtol=1e-4)
    assert float(shares.sum(axis=0).max()) <= 1 + 1e-5


def test_nan_counts_as_none() -> None:
    atlas, on = random_atlas(3), around(1.0, 0.0)
    values = torch.ones(1, *on.shape)
    shares = label_shares(atlas, on)
    values[0, 6] = torch.nan
    gone = values.nan_to_num(0.0)
    assert np.array_equal(measure_map(Volume(values, on), shares), measure_map(Volume(gone, on), shares))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [((0, 3, 3, 3), np.inf, "with 1 infinite values"), (..., -1.0, "with a negative sum"), (..., 0.0, "without any")],
)
def test_maps_that_are_no_tissue_are_refused(at, value: float, message: str) -> None:
    atlas, on = random_atlas(3), around(1.0, 0.0)
    values = torch.ones(1, *on.shape)
    values[at] = value
    with pytest.raises(ScanError, match=f"expected a modulated tissue map, got one {message}"):
        measure_map(Volume(values, on), label_shares(atlas, on))


def test_a_map_elsewhere_than_the_atlas_is_refused() -> None:
    """An origin in a corner of the image, as of a scan that was never normalised: all volumes were 0."""
    atlas, on = random_atlas(3), Grid((8, 8, 8), np.array([[1.0, 0, 0, 90], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    with pytest.raises(ScanError, match="without any voxel in a label of the atlas: is it"):
        measure_map(Volume(torch.ones(1, *on.shape), on), label_shares(atlas, on))


def test_empty_and_oblique_maps_are_refused() -> None:
    atlas, on = random_atlas(3), around(1.0, 0.0)
    with pytest.raises(ScanError, match="without any tissue"):
        measure_map(Volume(torch.full((1, *on.shape), torch.nan), on), label_shares(atlas, on))
    oblique = on.affine.copy()
    oblique[0, 1] = 0.2
    with pytest.raises(ScanError, match="in template space"):
        label_shares(atlas, Grid(on.shape, oblique))
