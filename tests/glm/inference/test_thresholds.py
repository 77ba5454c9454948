"""Height thresholds: those of p, FDR, permutations and random fields, and the voxels that reach them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.glm.inference.test_rft import cohort
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.inference.thresholds import height_thresholds


def test_every_correction_of_a_model(tmp_path):
    table = cohort(tmp_path)
    results = fit_glm(None, "gm ~ age", table, ["age"], inference="rft,fwe", permutations=40, repeats=0)
    found = {one["by"]: one for one in results.record["inference"]["contrasts"][0]["thresholds"]}
    t, n = np.abs(results.maps["age"]["t"].values), int(results.mask.sum())
    heights = {
        "uncorrected p = 0.001": stats.t.isf(0.0005, 38), "FWE p = 0.05, Bonferroni": stats.t.isf(0.025 / n, 38),
        "FWE p = 0.05, random fields": results.inference["age"].random_field.critical_height,
        "FWE p = 0.05, 40 permutations": results.inference["age"].nulls.critical(),
        "FDR q = 0.05": t[results.inference["age"].q_fdr <= 0.05].min(),
    }  # fmt: skip
    assert found.keys() == heights.keys()
    for by, height in heights.items():
        assert found[by]["height"] == pytest.approx(height, rel=1e-9)
        significant = results.maps["age"]["pfwe"].values <= 0.05 if "permutations" in by else t >= height * (1 - 1e-9)
        assert found[by]["voxels"] == significant.sum()
    uncorrected, fdr, bonferroni, permuted, fields = (one["voxels"] for one in found.values())
    assert uncorrected > 0
    assert permuted >= fields >= bonferroni > 0
    assert fdr > bonferroni


def test_no_height_where_degrees_of_freedom_differ():
    p = np.array([1e-6, 0.0005, 0.5, 0.9])
    one, two, three = height_thresholds(np.array([9.0, 4.0, 1.0, 0.1]), p, np.array([1e-5, 0.2, 0.6, 0.9]), None, None)
    assert [(one.height, one.voxels), (two.height, two.voxels), (three.height, three.voxels)] == [
        (None, 2), (None, 1), (None, 2),
    ]  # fmt: skip
