"""How a p is counted, and the height beyond which it is at most .05."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vbmstat.glm.inference.permute.nulls import ALPHA, Nulls, reach

NULLS = Nulls(1, 1, False, 1.0, {}, np.ones(1), np.ones(1))


@pytest.mark.parametrize("count", [19, 20, 39, 40, 99, 1000, 5000])
def test_heights_beyond_the_critical_one_are_those_with_a_small_p(count):
    """p = (1 + number of the others that reach it) / count, counted by hand; also of heights between two maxima."""
    rng = np.random.default_rng(count)
    maxima = rng.gamma(4.0, size=count)
    heights = np.concatenate([rng.uniform(0, maxima.max() * 1.1, 2000), maxima])
    p = (maxima >= heights[:, None]).sum(axis=1) / count
    critical = replace(NULLS, maxima={"statistic": maxima}).critical()
    if critical is None:
        assert count < 1 / ALPHA
        return
    np.testing.assert_array_equal(heights > critical, p <= ALPHA)
    assert (reach(maxima, heights, 0.0) == p).all()


def test_mirror_images_count_together():
    maxima = np.repeat(np.arange(1.0, 21.0), 2) * (1 + 1e-6 * np.tile([0, 1], 20))  # 40, equal in pairs up to rounding
    nulls = replace(NULLS, maxima={"statistic": maxima})
    assert nulls.critical() == pytest.approx(19, rel=1e-5)  # the largest pair has p = .05
    assert replace(NULLS, maxima={"statistic": maxima[2:]}).critical() is None  # 2 / 38
