"""Random field inference on fitted maps."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, stats

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.inference.clusters import Clusters, find_clusters, neighbour_table
from vbmstat.glm.inference.random_field import Field
from vbmstat.glm.inference.rft import SmoothSpace, field_inference, validity_notes
from vbmstat.glm.inference.smoothness import Smoothness, smoothness
from vbmstat.image.grid import Grid
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.store import Space

SHAPE = (24, 26, 22)
GRID = Grid(SHAPE, np.diag([1.5, 1.5, 1.5, 1.0]))


def cohort(folder, n=40, effect=1.2, sigma=2.0):
    """Smooth maps with an effect of age in one corner."""
    rng = np.random.default_rng(3)
    age = rng.uniform(20, 80, n).round(1)
    names = []
    for i in range(n):
        noise = ndimage.gaussian_filter(rng.standard_normal([m + 16 for m in SHAPE]), sigma)[8:-8, 8:-8, 8:-8]
        noise /= 0.28 / sigma**1.5  # about 1
        noise[3:10, 3:10, 3:10] += effect * (age[i] - 50) / 18
        names.append(f"mri/s6mwp1sub-{i:02d}.nii.gz")
        data = (0.5 + 0.05 * noise).astype(np.float32)
        write_volume(folder / names[-1], Volume(torch.from_numpy(data)[None], GRID))
    table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(n)], "age": age, "s6mwp1": names})
    table.to_csv(folder / "cohort.tsv", sep="\t", index=False)
    return folder / "cohort.tsv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return cohort(tmp_path_factory.mktemp("cohort"))


def test_a_model_with_random_fields(table, tmp_path):
    results = fit_glm(None, "gm ~ age", table, ["age"], inference="rft", repeats=0)
    t, p = (results.maps["age"][stat].values[results.mask] for stat in ("t", "prft"))
    assert ((p <= 0.05) == (np.abs(t) >= results.inference["age"].random_field.critical_height)).all()
    assert p.min() < 1e-4
    high = np.flatnonzero(p < 0.5)
    assert (np.diff(p[high[np.argsort(-np.abs(t[high]))]]) >= -1e-12).all()
    clusters, peaks = results.clusters("age"), results.peaks("age")
    first = clusters.iloc[0]
    assert first["p_extent_fwe_rft"] < 0.01
    assert first["p_extent_rft"] <= first["p_extent_fwe_rft"]
    assert 100 < first["true_discoveries"] <= first["size_voxels"]
    assert first["peak_p_fwe_rft"] == pytest.approx(p.min(), rel=1e-6)
    assert peaks["q_rft"].iloc[0] < 0.01
    results.to_directory(tmp_path)
    record = json.loads((tmp_path / "glm.json").read_text())["inference"]
    resels = record["contrasts"][0]["random_field"]["resels"]
    assert resels[0] == 1  # one block without holes
    local = read_volume(tmp_path / "resels_per_voxel.nii.gz").data[0].numpy()
    assert local[local > 0].mean() == pytest.approx(
        1 / np.prod(np.array(record["smoothness"]["fwhm_mm"]) / 1.5), rel=1e-3
    )
    assert any("smoothed by less than 12 mm (here 6 mm)" in note for note in results.record["notes"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variance": "hc3"}, "hc3 gives no field of t or F"),
        ({"variance": "groups:group"}, "groups gives no field"),
        ({"variance": "sandwich:participant_id"}, "sandwich gives no field"),
    ],
)
def test_variances_without_a_field_are_refused(table, options, match):
    rows = pd.read_csv(table, sep="\t")
    rows["group"] = ["a", "b"] * 20
    rows["s6mwp1"] = [str(table.parent / name) for name in rows["s6mwp1"]]
    with pytest.raises(DesignError, match=match):
        fit_glm(None, "gm ~ age", rows, ["age"], inference="rft", repeats=0, **options)


def test_a_mask_without_neighbours_is_refused(table, tmp_path):
    one_slice = np.zeros(SHAPE, np.float32)
    one_slice[:, :, 8] = 1
    write_volume(tmp_path / "slice.nii.gz", Volume(torch.from_numpy(one_slice)[None], GRID))
    with pytest.raises(DesignError, match="rft needs voxels with neighbours"):
        fit_glm(None, "gm ~ age", table, ["age"], inference="rft", repeats=0, mask=tmp_path / "slice.nii.gz")


def test_a_matrix_has_no_neighbours(table):
    ages = pd.read_csv(table, sep="\t").set_index("participant_id")
    with pytest.raises(DesignError, match="rft, tfce and cluster need maps in files"):
        fit_glm(np.random.default_rng(0).random((40, 5)), "y ~ age", ages.reset_index(), inference="rft", repeats=0)


def space_and_clusters(statistic, threshold):
    space = Space(GRID, np.arange(int(np.prod(SHAPE))))
    return space, find_clusters(statistic.ravel(), threshold, False, neighbour_table(space))


def test_extents_follow_the_local_roughness():
    """Two clusters of one size: where the map is rough, a cluster has more resels and a smaller p."""
    statistic = np.zeros(SHAPE)
    statistic[3:8, 3:8, 3:8] = 4.0
    statistic[15:20, 15:20, 12:17] = 4.0
    space, clusters = space_and_clusters(statistic, 3.3)
    roughness = np.full(SHAPE, 1 / 6.0**3)
    roughness[12:] = 1 / 3.0**3
    mask = np.ones(roughness.size, bool)
    where = SmoothSpace(space, mask, Smoothness((6.0, 6.0, 6.0), roughness.ravel()), 1)
    result = field_inference(statistic.ravel(), Field("t", 60), clusters, 3.3, where)
    rough, smooth = sorted(result.extents, reverse=True)
    assert rough / smooth == pytest.approx(8, rel=0.05)
    by_hand = np.array([1 / 2, 2 / 3, 2 / 3, 1]) @ [1, 3 * 4, 3 * 16, 64]  # intrinsic volumes of a cube of 5 voxels
    assert smooth == pytest.approx(by_hand / 6.0**3, rel=0.01)
    assert result.p_extent.min() < result.p_extent.max()


def test_one_side_finds_no_negative_effects(table):
    rows = pd.read_csv(table, sep="\t").assign(age=lambda people: -people["age"])
    rows["s6mwp1"] = [str(table.parent / name) for name in rows["s6mwp1"]]
    options = {"inference": "rft", "repeats": 0}
    results = fit_glm(None, "gm ~ age", rows, ["age"], one_sided=True, **options)
    t = results.maps["age"]["t"].values
    assert t.min() < -6
    assert results.maps["age"]["prft"].values[t < 0].min() == 1
    assert fit_glm(None, "gm ~ age", rows, ["age"], **options).maps["age"]["prft"].values[t < 0].min() < 1e-4


def test_the_lines_under_spms_table(table):
    """Expected numbers and thresholds of the record, from the formulas and the tables of clusters and peaks."""
    results = fit_glm(None, "gm ~ age", table, ["age"], inference="rft", one_sided=True, repeats=0)
    record = results.record["inference"]["contrasts"][0]["random_field"]
    fwhm = np.array(record["fwhm_voxels"])
    height, p = record["forming_height"], record["forming_p"]
    assert (height, p) == (pytest.approx(stats.t.isf(0.001, 38)), pytest.approx(0.001))
    c = (1 + height**2 / 38) ** (-37 / 2)
    density = (4 * np.log(2)) ** 1.5 / (2 * np.pi) ** 2 * (37 / 38 * height**2 - 1) * c
    assert record["expected_voxels_per_cluster"] == pytest.approx(0.001 / density * fwhm.prod(), rel=1e-3)
    assert record["expected_clusters"] == pytest.approx(
        np.array(record["resels"]) @ Field("t", 38).densities(height), rel=1e-3
    )
    clusters, t = results.clusters("age"), results.maps["age"]["t"].values
    assert (
        record["smallest_cluster_at_p_fwe_0.05_voxels"]
        == clusters["size_voxels"][clusters["p_extent_fwe_rft"] <= 0.05].min()
    )
    assert record["peak_at_q_fdr_0.05"] == t[results.inference["age"].random_field.q_peak <= 0.05].min()


def test_notes_where_it_does_not_hold():
    empty = Clusters(np.zeros(int(np.prod(SHAPE)), np.int32), *(np.empty(0, int),) * 2, np.empty(0))
    space = Space(GRID, np.arange(empty.labels.size))
    smooth = Smoothness((3.0, 6.0, 6.0), np.full(empty.labels.size, 0.01))
    where = SmoothSpace(space, np.ones(empty.labels.size, bool), smooth, 1)
    result = field_inference(np.zeros(empty.labels.size), Field("t", 20), empty, 2.5, where)
    assert result.p_set == 1
    notes = " ".join(validity_notes(result, 8.0))
    for part in (
        "FWHM 2.0 voxels; at least 3 are needed",
        "20 residual degrees of freedom",
        "formed at p = 0.011",
        "(here 8 mm)",
    ):
        assert part in notes
    fine = SmoothSpace(space, where.mask, Smoothness((9.0,) * 3, smooth.resels_per_voxel), 1)
    height = float(stats.t.isf(0.001, 60))
    assert validity_notes(field_inference(np.zeros(empty.labels.size), Field("t", 60), empty, height, fine), 12) == ()


@pytest.mark.slow
def test_error_rates_of_smooth_noise():
    """One-sample t of noise of 5 voxels' FWHM: at most 5 % of the maps have a p of heights or extents below .05."""
    rng = np.random.default_rng(8)
    space = Space(GRID, np.arange(int(np.prod(SHAPE))))
    neighbours, mask = neighbour_table(space), np.ones(int(np.prod(SHAPE)), bool)
    found = np.zeros(2)
    for _ in range(100):
        wide = rng.standard_normal((32, *(m + 16 for m in SHAPE)))
        y = ndimage.gaussian_filter(wide, (0, 2.1, 2.1, 2.1))[:, 8:-8, 8:-8, 8:-8].reshape(32, -1)
        residuals = y - y.mean(axis=0)
        sigma = np.sqrt((residuals**2).sum(axis=0) / 31)
        t = y.mean(axis=0) / sigma * np.sqrt(32)
        where = SmoothSpace(space, mask, smoothness(residuals / sigma, mask, space, 31, 32), 2)
        forming = float(stats.t.isf(0.0005, 31))
        result = field_inference(t, Field("t", 31), find_clusters(t, forming, True, neighbours), forming, where)
        found += result.p_fwe.min() <= 0.05, result.p_extent_fwe.min(initial=1) <= 0.05
    assert (found <= 10).all()
