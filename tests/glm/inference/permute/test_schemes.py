"""Permutation schemes: partition, rows, what does not move, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.api import OLS

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.inference.permute.blocks import block_tree, free_tree, orbits
from vbmstat.glm.inference.permute.schemes import (
    Resampling,
    kept_by_flips,
    make_permuted,
    moving_directions,
    orthonormal_rows,
    partition,
    row_keys,
    smallest_p,
)

N = 12


@pytest.fixture
def design():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.uniform(20, 80, N), "group": list("ab") * 6, "tiv": rng.normal(1400, 90, N),
                          "person": np.repeat(list("uvwxyz"), 2)})  # fmt: skip
    return lambda formula: build_design(formula, table, [f"s{i:02d}" for i in range(N)])


def prepared(design, spec, tree=None, **options):
    contrasts = build_contrasts([spec], design)
    plan = make_plan(design, contrasts, np.empty((0, N), bool))
    return make_permuted(plan, 0, Resampling(tree or free_tree(range(N)), **{"permutations": 50} | options))


@pytest.mark.parametrize("spec", ["age", "F(age, group[T.b])", "age - 2 * tiv"])
def test_partition_spans_the_design(design, spec):
    x = design("age + group + tiv")
    contrasts = build_contrasts([spec], x)
    parts = partition(make_plan(x, contrasts, np.empty((0, N), bool)), 0)
    m = len(contrasts[0].weights)
    both = np.column_stack([parts.tested, parts.nuisance])
    np.testing.assert_allclose(both.T @ both, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(both @ both.T @ x.matrix, x.matrix, atol=1e-9)
    null = np.linalg.svd(contrasts[0].weights)[2][m:].T
    np.testing.assert_allclose(parts.tested.T @ x.matrix @ null, 0, atol=1e-9)  # Q1 sees nothing of X β with C β = 0
    np.testing.assert_allclose(contrasts[0].weights @ np.linalg.pinv(x.matrix) @ parts.interest, np.eye(m), atol=1e-9)
    if m == 1:
        assert (parts.tested.T @ parts.interest)[0, 0] > 0  # the sign of t


def test_freedman_lane_needs_no_row_for_what_stays(design):
    x = design("age + group + tiv")
    assert prepared(x, "age").moving.shape == (N, 2)  # of three nuisance directions the constant stays
    assert prepared(x, "age", flip=True).moving.shape == (N, 3)
    people = design("group + person")
    tree = block_tree(np.repeat(list("uvwxyz"), 2).tolist(), "within", range(N))
    assert prepared(people, "group", tree).moving.shape == (N, 0)  # all people are orbits
    assert prepared(people, "group").moving.shape == (N, 5)


def test_still_directions_are_constant_on_orbits():
    rng = np.random.default_rng(1)
    orbit = orbits(block_tree(list("aaabbb"), "within", range(6)))
    a = (np.arange(6) < 3).astype(float)
    z = np.linalg.qr(np.column_stack([np.ones(6), a, rng.standard_normal(6)]))[0]
    z = z @ np.linalg.qr(rng.standard_normal((3, 3)))[0]  # any basis of the space
    moving = moving_directions(z, orbit)
    assert moving.shape == (6, 1)
    np.testing.assert_allclose(moving.T @ np.column_stack([a, 1 - a]), 0, atol=1e-12)


def test_identity_rows_are_the_design(design):
    x = design("age + group + tiv")
    lane = prepared(x, "age")
    np.testing.assert_allclose(lane.rows(0, 1)[0, 0], lane.parts.tested[:, 0])
    rows = prepared(x, "age", scheme="smith").rows(0, 1)
    np.testing.assert_allclose(rows[0, 0], lane.parts.tested[:, 0], atol=1e-9)


def test_rows_are_orthonormal_and_clear_of_nuisance(design):
    x = design("age + group + tiv")
    for spec in ("age", "F(age, group[T.b])"):
        found = prepared(x, spec, scheme="smith")
        rows = found.rows(0, 20)
        for b in range(20):
            np.testing.assert_allclose(rows[:, b] @ rows[:, b].T, np.eye(len(rows)), atol=1e-9)
            np.testing.assert_allclose(rows[:, b] @ found.parts.nuisance, 0, atol=1e-9)


def test_a_permuted_regressor_inside_the_nuisance_counts_nothing():
    nuisance = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 2)))[0]
    inside = (nuisance @ [2.0, 1.0])[None, None]
    other = np.random.default_rng(1).standard_normal((1, 1, 8))
    assert (orthonormal_rows(np.concatenate([inside, other], axis=1), nuisance)[:, 0] == 0).all()
    rows = orthonormal_rows(np.concatenate([inside, other], axis=0), nuisance)  # m = 2, one of them lost
    assert np.linalg.matrix_rank(rows[:, 0], tol=1e-6) == 1


def test_row_keys():
    keys = row_keys(np.array([[1.0, 2.0], [1.0, 2.0 + 1e-13], [1.0, 3.0], [-0.0, 3.0], [0.0, 3.0]]))
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == keys[4]


def test_exhaustive_where_fewer_exist(design):
    found = prepared(design("group"), "group", permutations=1000).rearrangements
    assert (found.count, found.is_exhaustive) == (924, True)  # 12 choose 6
    assert prepared(design("group"), "group", permutations=923).rearrangements.is_exhaustive is False


def test_the_smallest_p(design):
    balanced = prepared(design("group"), "group", permutations=1000)
    assert smallest_p(balanced, two_sided=True) == 2 / 924  # groups exchanged: the same |t|
    assert smallest_p(balanced, two_sided=False) == 1 / 924
    assert smallest_p(prepared(design("age"), "age", permutations=50), two_sided=True) == 1 / 50
    flips = prepared(design("1"), "Intercept", permutations=5000, flip=True)
    assert smallest_p(flips, two_sided=True) == 2 / 2**12


@pytest.mark.parametrize(("spec", "scheme"), [("Intercept", "freedman-lane"), ("age", "smith"), ("F(age, tiv)", None)])
def test_all_signs_changed_are_the_same_size_whatever_the_nuisance(design, spec, scheme):
    """Statsmodels' t and F of every flip of the residuals, of data with a strong effect."""
    x = design("age + tiv")
    flips = prepared(x, spec, permutations=5000, flip=True, scheme=scheme or "freedman-lane")
    contrast = build_contrasts([spec], x)[0].weights
    y = x.matrix @ np.linalg.pinv(contrast) @ np.ones(len(contrast)) * 50 + np.random.default_rng(0).normal(0, 1, N)
    z = flips.parts.nuisance
    residuals = y - z @ (z.T @ y)
    found = []
    for row in flips.rearrangements.sources(0, flips.rearrangements.count)[1][::16]:
        fit = OLS(row * residuals, x.matrix).fit()
        found.append(np.abs(fit.f_test(contrast).fvalue))
    own = OLS(residuals, x.matrix).fit().f_test(contrast).fvalue
    changed = OLS(-residuals, x.matrix).fit().f_test(contrast).fvalue
    assert changed == pytest.approx(own)
    assert (np.array(found[1:]) >= own * (1 - 1e-9)).sum() <= 1  # but the first, only its mirror image
    assert smallest_p(flips, two_sided=True) == 2 / 2**12
    assert smallest_p(flips, two_sided=False) == 1 / 2**12


def test_what_cannot_be_permuted(design):
    with pytest.raises(DesignError, match=r"'Intercept' tests a mean.*--sign-flip"):
        prepared(design("age"), "Intercept")
    people = np.repeat(list("uvwxyz"), 2).tolist()
    with pytest.raises(DesignError, match="'person': the exchangeability blocks leave nothing to permute"):
        prepared(design("person"), "person", block_tree(people, "within", range(N)))
    with pytest.raises(DesignError, match="scheme='huh'"):
        prepared(design("age"), "age", scheme="huh")


@pytest.mark.parametrize("formula", ["age", "1 + age + group", "0 + person + age"])
def test_what_flips_keep_of_the_residuals(design, formula):
    """The mean of tr(R S R S) / tr(R), and its expectation Σ R_ii² / tr(R) where scans flip for themselves."""
    permuted = prepared(design(formula), "age", flip=True, permutations=65)
    nuisance = permuted.parts.nuisance
    rest = np.eye(N) - nuisance @ nuisance.T
    signs = permuted.rearrangements.sources(1, 65)[1]
    shares = [np.trace(rest @ np.diag(s) @ rest @ np.diag(s)) / np.trace(rest) for s in signs]
    assert kept_by_flips(permuted) == pytest.approx(np.mean(shares))
    assert kept_by_flips(permuted) == pytest.approx((np.diag(rest) ** 2).sum() / np.trace(rest), abs=0.06)


def test_whole_people_keep_their_residuals(design):
    x = design("0 + person + age")
    whole = block_tree(np.repeat(list("uvwxyz"), 2).tolist(), "whole", range(N))
    assert kept_by_flips(prepared(x, "age", tree=whole, flip=True)) == pytest.approx(1)
    assert kept_by_flips(prepared(x, "age")) == 1  # permutations
