"""A covariate that is a map, against statsmodels voxel by voxel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch

from tests.glm import oracle
from tests.glm.conftest import GRID
from tests.glm.fit.test_engine import TOLERANCE, design_of
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.formula import split_map_term
from vbmstat.glm.design.matrix import with_map_column
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit.map_covariate import fit_voxels_with_map
from vbmstat.glm.fit.plan import make_covariate_plan, make_plan
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.store import ArrayMaps


@pytest.fixture
def two_tissues(cohort_folder, table, images):
    """The cohort with a white-matter map for every scan."""
    rng = np.random.default_rng(4)
    white = (0.4 * (images > 0.1) - 0.3 * images + rng.normal(0, 0.05, images.shape)).astype(np.float32)
    paths = [f"mri/s6mwp2{scan}_T1w.nii.gz" for scan in table["participant_id"]]
    for path, image in zip(paths, white, strict=True):
        write_volume(cohort_folder / path, Volume(torch.from_numpy(image)[None], GRID))
    rows = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t").assign(s6mwp2=paths)
    rows.to_csv(cohort_folder / "cohort.tsv", sep="\t", index=False)
    return cohort_folder / "cohort.tsv", white


def test_statsmodels_with_a_column_a_voxel(two_tissues, images):
    path, white = two_tissues
    weights = "2 * map(wm) - 0.01 * age"
    results = fit_glm(None, "gm ~ age + map(wm) + sex", path, ["age", "map(wm)", f"both = {weights}"], repeats=7)
    assert results.df_resid == 22
    x = results.design.matrix
    index = results.space.voxel_index[results.mask]
    y, w = (a.reshape(26, -1)[:, index].astype(float) for a in (images, white))
    cs = np.array([[0, 1.0, 0, 0], [0, 0, 0, 1.0], [0, -0.01, 0, 2.0]])
    for v in range(0, len(index), 29):
        wide = np.column_stack([x, w[:, v]])
        model = sm.OLS(y[:, v], wide).fit()
        subsets = [sm.OLS(y[r, v], wide[r]).fit() for r in results.draws]
        for name, c in zip(("age", "map(wm)", "both"), cs, strict=True):
            found = {stat: one.values[results.mask][v] for stat, one in results.maps[name].items()}
            test = model.t_test(c)
            assert found["t"] == pytest.approx(float(test.tvalue.item()), rel=1e-5, abs=1e-5)
            assert found["effect"] == pytest.approx(float(test.effect.item()), rel=1e-4, abs=1e-6)
            assert found["variance"] == pytest.approx(float(test.sd.item()) ** 2, rel=1e-5)
            median = np.median([float(m.t_test(c).tvalue.item()) for m in subsets])
            assert found["mediant"] == pytest.approx(median, rel=1e-5, abs=1e-5)
        assert results.maps["age"]["sigma2"].values[results.mask][v] == pytest.approx(model.mse_resid, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hostile_scales_and_lost_levels(dtype):
    design = design_of("age + site", 80)
    rng = np.random.default_rng(1)
    y = (1e3 + rng.standard_normal((80, 60))).astype(dtype)
    w = (np.float32(1e-4) * rng.standard_normal((80, 60)) + 1e-4 * (y - 1e3)).astype(dtype)
    w[:, 5] = y[:, 5] * dtype(0.5)  # an exact copy
    w[:, 6] = y[:, 6] * dtype(0.5) + (1e-3 * rng.standard_normal(80)).astype(dtype)  # nearly a copy
    w[:, 7] = 3.0
    contrasts = build_contrasts(["map(wm)", "age"], with_map_column(design, "wm"))
    draws = draw_subsets(design.scan_ids, 9, 0.8, 0)
    plan = make_covariate_plan(make_plan(design, (), draws), design, contrasts)
    fit = fit_voxels_with_map(ArrayMaps(y, design.scan_ids), ArrayMaps(w, design.scan_ids), plan)
    assert np.flatnonzero(~fit.mask).tolist() == [7]
    for v in (0, 1, 2, 6, 59):
        wide = np.column_stack([design.matrix, w[:, v].astype(float)])
        for k, contrast in enumerate(contrasts):
            t = oracle.fit(wide, y[:, [v]], contrast.weights)[2]
            assert oracle.error(fit.statistic[k, [v]], t) < TOLERANCE
            ts = [oracle.fit(wide[r], y[r][:, [v]], contrast.weights)[2] for r in draws]
            assert oracle.error(fit.quantiles["median"][k, [v]], np.median(ts, axis=0)) < TOLERANCE
    assert np.isfinite(fit.statistic).all()


def test_default_contrasts_hold_the_map(two_tissues):
    results = fit_glm(None, "gm ~ age + map(wm)", two_tissues[0], repeats=0)
    assert list(results.maps) == ["age", "map(wm)"]
    folder = fit_glm(two_tissues[0].parent / "mri", "gm ~ age + map(wm)", two_tissues[0], repeats=0)
    assert np.array_equal(folder.maps["age"]["t"].values, results.maps["age"]["t"].values)


def test_where_the_term_may_stand():
    assert split_map_term("map(wm)") == ("1", "wm")
    assert split_map_term("age + map(wm) + bs(tiv, df=4)") == ("age + bs(tiv, df=4)", "wm")
    for right in ("age * map(wm)", "map(wm) + map(csf)", "log(map(wm))", "map(wm) - 1"):
        with pytest.raises(DesignError, match=r"map\(\) stands once and as a term of its own"):
            split_map_term(right)


def test_what_a_map_cannot_be_combined_with(two_tissues, table):
    path = two_tissues[0]
    with pytest.raises(DesignError, match="takes t-contrasts only"):
        fit_glm(None, "gm ~ age + map(wm)", path, ["F(age)"])
    with pytest.raises(DesignError, match=r"map\(\) takes --variance ols, got hc3"):
        fit_glm(None, "gm ~ age + map(wm)", path, variance="hc3")
    with pytest.raises(TableError, match="csf needs a column s6mwp3"):
        fit_glm(None, "gm ~ age + map(csf)", path)
    with pytest.raises(TableError, match="needs maps from a cohort table or a folder"):
        fit_glm(np.random.default_rng(0).random((26, 2)), "v ~ age + map(wm)", table)
