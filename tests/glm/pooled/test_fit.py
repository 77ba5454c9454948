"""Models from sums against models of all scans, by least squares in float64 and by the engine."""

from __future__ import annotations

import numpy as np

from tests.glm.pooled.conftest import SPACE, all_sums, maps_of, people
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.pooled.combine import stack_rows
from vbmstat.glm.pooled.fit import fit_rows
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import ArrayMaps

CONTRASTS = ["age", "sex", "group[T.mci] - group[T.hc]", "group", "site[T.ulm]", "site", "F(age, site)"]


def by_least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Effect or mean square, variance and t or F of C β = 0 in float64."""
    beta, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    sigma2 = ((y - x @ beta) ** 2).sum(axis=0) / (len(x) - rank)
    inverse = weights @ np.linalg.pinv(x)  # of X, not X'X, whose condition is the square
    covariance = inverse @ inverse.T
    effect = weights @ beta
    if len(weights) == 1:
        return effect[0], sigma2 * covariance[0, 0], effect[0] / np.sqrt(sigma2 * covariance[0, 0])
    square = np.einsum("iv,ij,jv->v", effect, np.linalg.inv(covariance), effect) / len(weights)
    return square, sigma2, square / sigma2


def check_against_all_scans(table, maps, formula="age + sex + group", *, texts=CONTRASTS, rtol=1e-8):
    """Compare contrasts with least squares over all scans."""
    rows = stack_rows(all_sums(table, maps, formula=formula))
    contrasts = build_contrasts(texts, rows.design)
    _, fit = fit_rows(rows, contrasts, Compute())
    joint = build_design(f"{formula} + site", table, list(table["participant_id"]))
    assert set(rows.design.columns) == set(joint.columns)
    assert rows.design.terms == joint.terms
    assert set(rows.design.references) == set(joint.references)
    assert fit.df_resid == len(table) - joint.rank
    x = joint.matrix[:, [joint.columns.index(name) for name in rows.design.columns]]
    for index, contrast in enumerate(contrasts):
        expected = by_least_squares(x, maps.astype(np.float64), contrast.weights)
        for name, value in zip(("effect", "variance", "statistic"), expected, strict=True):
            np.testing.assert_allclose(getattr(fit, name)[index], value, rtol, atol=1e-8 * np.abs(value).max())


def test_t_and_f_of_three_unbalanced_sites_are_those_of_all_scans(three):
    check_against_all_scans(*three[:2])


def test_they_are_those_of_the_engine(three):
    table, maps, sites = three
    rows = stack_rows(sites)
    contrasts = build_contrasts(CONTRASTS, rows.design)
    _, fit = fit_rows(rows, contrasts, Compute())
    matrix = ArrayMaps(maps, tuple(table["participant_id"]), SPACE)
    joint = fit_glm(matrix, "gm ~ age + sex + group + site", table, CONTRASTS, repeats=0)
    for index, contrast in enumerate(joint.contrasts):
        expected = joint.maps[contrast.name][contrast.kind].values
        np.testing.assert_allclose(fit.statistic[index], expected, rtol=1e-5, atol=2e-6)  # the engine's are float32


def test_interactions_of_a_factor_whose_level_a_site_lacks(three):
    check_against_all_scans(*three[:2], formula="age * group + sex")


def test_four_thousand_scans():
    table = people({"berlin": 3500, "köln": 430, "ulm": 70})
    check_against_all_scans(table, maps_of(table))


def test_columns_that_are_nearly_collinear(three):
    table, maps, _ = three
    rng = np.random.default_rng(3)
    table = table.assign(nearly=table["age"] + 1e-4 * rng.standard_normal(len(table)))
    check_against_all_scans(table, maps, "age + sex + group + nearly", rtol=1e-5)


def test_weights_are_exact(three):
    table, maps, _ = three
    rows = stack_rows(all_sums(table, maps, weights="w"))
    contrasts = build_contrasts(["age", "site"], rows.design)
    _, fit = fit_rows(rows, contrasts, Compute())
    root = np.sqrt(table["w"].to_numpy())[:, None]
    joint = build_design("age + sex + group + site", table, list(table["participant_id"])).matrix
    for index, contrast in enumerate(contrasts):
        expected = by_least_squares(joint * root, maps * root, contrast.weights)
        np.testing.assert_allclose(fit.statistic[index], expected[2], rtol=1e-7)


def test_one_intercept_for_all_sites(three):
    table, maps, sites = three
    rows = stack_rows(sites, has_intercepts=False)
    (contrast,) = build_contrasts(["age"], rows.design)
    _, fit = fit_rows(rows, [contrast], Compute())
    joint = build_design("age + sex + group", table, list(table["participant_id"])).matrix
    np.testing.assert_allclose(fit.statistic[0], by_least_squares(joint, maps, contrast.weights)[2], rtol=1e-7)


def test_formula_without_an_intercept_but_with_all_levels(three):
    check_against_all_scans(*three[:2], "0 + group + age", texts=["group[mci] - group[hc]", "age", "site"])


def test_a_voxel_that_the_model_fits_exactly_has_no_t(three):
    table, maps, _ = three
    exact = maps.copy()
    exact[:, 3] = (table["sex"] == "M") * 0.25 + 0.25
    rows = stack_rows(all_sums(table, exact))
    _, fit = fit_rows(rows, build_contrasts(["sex"], rows.design), Compute())
    assert fit.statistic[0, 3] == 0
    assert fit.residual_variance[3] == 0
