"""Fitted tails: against distributions whose p is known, and what is not approximated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vbmstat.glm.inference.permute.tails import fit_tails, smallest_tail_p
from vbmstat.glm.spec import FEWEST_FOR_TAIL

FLOOR = 1e-9
LAWS = {"exponential": stats.expon(2, 3), "light tail": stats.genpareto(-0.2, 1, 2), "Gumbel": stats.gumbel_r(4, 0.4)}


def fit_tail(null, floor=FLOOR):
    """The tail of one null distribution, (count,)."""
    return fit_tails(null[:, None], floor)


@pytest.mark.parametrize("name", LAWS)
def test_p_of_a_known_law(name):
    """From 500 draws, p of the 1 % and 0.5 % points: right in the median, nearly always within a factor of three."""
    law, rng = LAWS[name], np.random.default_rng(3)
    true = np.array([0.01, 0.005])
    found = []
    for _ in range(100):
        tail = fit_tail(law.rvs(500, random_state=rng))
        found.append(tail.p(law.isf(true))[0] / true)
    np.testing.assert_allclose(np.median(found, axis=0), 1, atol=0.15)
    assert (np.abs(np.log(found)) < np.log(3)).mean() > 0.9


def test_pareto_meets_the_counted_p_at_its_threshold():
    null = np.random.default_rng(0).exponential(size=500)
    tail = fit_tail(null)
    beyond = float(tail.beyond[0])
    p, is_approximated = tail.p(np.array([beyond, beyond + 1e-9]))
    assert tail.share[0] == p[0] == 0.25 == (1 + (null[1:] > beyond).sum()) / 500
    assert is_approximated.tolist() == [False, True]
    p, _ = tail.p(np.linspace(beyond, 20, 50))
    assert (np.diff(p) <= 0).all()


def test_the_threshold_rises_until_it_fits():
    """A null that is a Pareto law only beyond its 88 % point."""
    rng = np.random.default_rng(1)
    body, far = rng.normal(0, 0.02, 440), 3 + rng.exponential(size=60)
    null = np.append(0, rng.permutation(np.concatenate([body, far])))
    tail = fit_tail(null)
    assert tail.share[0] < 0.125
    np.testing.assert_allclose(tail.p(np.array([3 + np.log(10)]))[0], 0.12 / 10, rtol=0.5)


def test_nothing_fits():
    """Values on few steps, as the extents of tiny clusters: no Pareto law, so p stay counted."""
    null = np.random.default_rng(2).integers(0, 3, 500).astype(float)
    assert fit_tail(null) is None
    assert fit_tail(np.ones(500)) is None
    assert fit_tail(np.arange(FEWEST_FOR_TAIL - 1.0)) is None
    both = np.column_stack([null, np.random.default_rng(0).exponential(size=500)])
    assert fit_tails(both, FLOOR).p(np.array([9.0, 9.0]))[1].tolist() == [False, True]


def test_p_is_never_zero():
    null = np.random.default_rng(0).uniform(size=500)  # ends at 1
    tail = fit_tail(null, smallest_tail_p(500, 10**40))
    assert tail.p(np.array([50.0]))[0] == 0.1 / 500
    assert smallest_tail_p(500, 2**4000) == 0.1 / 500  # more than a float can hold
    assert smallest_tail_p(500, 924) == 1 / 924


def test_the_data_are_not_their_own_null():
    null = np.random.default_rng(0).gumbel(size=500)
    with_finding = null.copy()
    with_finding[0] = 40
    assert fit_tail(with_finding).record() == fit_tail(null).record()


def test_many_tests_are_single_tests():
    rng = np.random.default_rng(5)
    null, observed = np.abs(rng.standard_t(30, (300, 40))), np.linspace(0, 5, 40)
    p, is_approximated = fit_tails(null, FLOOR).p(observed)
    assert 0.3 < is_approximated.mean() < 1
    for i in range(40):
        tail = fit_tail(null[:, i])
        expected, covered = (0, False) if tail is None else tail.p(observed[[i]])
        assert is_approximated[i] == covered
        if is_approximated[i]:
            assert p[i] == pytest.approx(expected)


def test_five_percent_of_good_fits_are_refused():
    """The critical values of A²: thresholds rise at once in about 5 % of exponential samples."""
    null = np.random.default_rng(7).exponential(size=(500, 1500))
    shares = fit_tails(null, FLOOR).share
    assert 0.03 < np.mean(np.array(shares) < 0.25) < 0.08
