"""SPM's table: its rows against the tables of clusters and peaks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.glm.inference.test_rft import GRID, SHAPE, cohort
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.inference.clusters import find_clusters, neighbour_table
from vbmstat.glm.inference.random_field import Field
from vbmstat.glm.inference.rft import SmoothSpace, field_inference
from vbmstat.glm.inference.smoothness import Smoothness
from vbmstat.glm.place_tables import spm_table
from vbmstat.maps.store import Space


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    table = cohort(tmp_path_factory.mktemp("cohort"))
    return fit_glm(None, "gm ~ age", table, ["age"], inference="rft", repeats=0)


def test_rows_of_spms_table_are_those_of_clusters_and_peaks(results):
    table, clusters, peaks = results.spm_table(), results.clusters("age"), results.peaks("age")
    assert (table["contrast"] == "age").all()
    assert len(table) == len(peaks)
    assert table["set_c"].unique().tolist() == [len(clusters)]
    merged = table.merge(peaks, on=["cluster", "x_mm", "y_mm", "z_mm"])
    assert len(merged) == len(table)
    for mine, theirs in {"peak_value": "t", "peak_z": "z", "peak_p_fwe": "p_fwe_rft", "peak_q_fdr": "q_rft"}.items():
        np.testing.assert_allclose(merged[mine], merged[f"{theirs}"].to_numpy(), atol=1e-4)
    first = table.drop_duplicates("cluster").sort_values("cluster").reset_index()
    for mine, theirs in {
        "cluster_k_e": "size_voxels", "cluster_p_fwe": "p_extent_fwe_rft", "cluster_q_fdr": "q_extent_rft",
        "cluster_p_uncorrected": "p_extent_rft",
    }.items():  # fmt: skip
        np.testing.assert_allclose(first[mine].astype(float), clusters[theirs], rtol=1e-9)
    highest = table.groupby("cluster", sort=False)["peak_value"].agg(lambda t: t.abs().max())
    assert highest.is_monotonic_decreasing  # SPM's order
    assert len(highest) > 1


def test_a_contrast_without_clusters_has_one_row(results):
    table = results.with_volumes(["sphere:28,28,28,4"], None).svc_table()
    assert len(table) == 1
    assert table.loc[0, ["set_c", "set_p"]].tolist() == [0, 1]
    assert table.loc[0, ["cluster", "peak_p_fwe", "x_mm"]].isna().all()
    assert table.loc[0, "search_voxels"] > 50


def test_the_highest_cluster_comes_first():
    """SPM's order: by the highest peak, not by size."""
    t = np.zeros(SHAPE)
    t[3:9, 3:9, 3:9] = 4.0
    t[15:18, 15:18, 12:15] = 6.0
    space = Space(GRID, np.arange(t.size))
    clusters = find_clusters(t.ravel(), 3.3, False, neighbour_table(space))
    where = SmoothSpace(space, np.ones(t.size, bool), Smoothness((6.0,) * 3, np.full(t.size, 1 / 64)), 1)
    result = field_inference(t.ravel(), Field("t", 60), clusters, 3.3, where)
    table = spm_table(result, t.ravel(), {})
    assert table["cluster_k_e"].drop_duplicates().tolist() == [27, 216]
    assert table["cluster"].drop_duplicates().tolist() == [2, 1]
