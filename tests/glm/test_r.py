"""Designs, contrasts and engine together against values of R 4 (its data sets, its commands, its printed digits)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.glm.fit.test_engine import run
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design

WARPBREAKS = pd.DataFrame(
    {
        "breaks": [
            26, 30, 54, 25, 70, 52, 51, 26, 67, 18, 21, 29, 17, 12, 18, 35, 30, 36, 36, 21, 24, 18, 10, 43, 28, 15, 26,
            27, 14, 29, 19, 29, 31, 41, 20, 44, 42, 26, 19, 16, 39, 28, 21, 39, 29, 20, 21, 24, 17, 13, 15, 15, 16, 28,
        ],
        "wool": np.repeat(["A", "B"], 27),
        "tension": np.tile(np.repeat(["1 low", "2 medium", "3 high"], 9), 2),  # R's order of the levels: L, M, H
    }
)  # fmt: skip
MTCARS = pd.DataFrame(
    {
        "mpg": [
            21, 21, 22.8, 21.4, 18.7, 18.1, 14.3, 24.4, 22.8, 19.2, 17.8, 16.4, 17.3, 15.2, 10.4, 10.4, 14.7, 32.4,
            30.4, 33.9, 21.5, 15.5, 15.2, 13.3, 19.2, 27.3, 26, 30.4, 15.8, 19.7, 15, 21.4,
        ],
        "wt": [
            2.62, 2.875, 2.32, 3.215, 3.44, 3.46, 3.57, 3.19, 3.15, 3.44, 3.44, 4.07, 3.73, 3.78, 5.25, 5.424, 5.345,
            2.2, 1.615, 1.835, 2.465, 3.52, 3.435, 3.84, 3.845, 1.935, 2.14, 1.513, 3.17, 2.77, 3.57, 2.78,
        ],
        "hp": [
            110, 110, 93, 110, 175, 105, 245, 62, 95, 123, 123, 180, 180, 180, 205, 215, 230, 66, 52, 65, 97, 150, 150,
            245, 175, 66, 91, 113, 264, 175, 335, 109,
        ],
        "cyl": [6, 6, 4, 6, 8, 6, 8, 4, 4, 6, 6, 8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4, 8, 6, 8, 4],
    }
)  # fmt: skip
CARS = pd.DataFrame(
    {
        "speed": [
            4, 4, 7, 7, 8, 9, 10, 10, 10, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 16, 16,
            17, 17, 17, 18, 18, 18, 18, 19, 19, 19, 20, 20, 20, 20, 20, 22, 23, 24, 24, 24, 24, 25,
        ],
        "dist": [
            2, 10, 4, 22, 16, 10, 18, 26, 34, 17, 28, 14, 20, 24, 28, 26, 34, 34, 46, 26, 36, 60, 80, 20, 26, 54, 32,
            40, 32, 40, 50, 42, 56, 76, 84, 36, 46, 68, 32, 48, 52, 56, 64, 66, 54, 70, 92, 93, 120, 85,
        ],
    }
)  # fmt: skip


def fit(table, right, response, contrasts, **options):
    ids = [f"{i:02d}" for i in range(len(table))]
    design = build_design(right, table.astype({response: float}), ids)
    y = table[[response]].to_numpy(float)
    return run(y, design, build_contrasts(contrasts, design), **options)


def test_factors_with_interaction():
    # R: m <- lm(breaks ~ wool * tension, warpbreaks); summary(m)$coefficients[, 1:3]
    names = ["wool[T.B]", "tension[T.2 medium]", "wool[T.B]:tension[T.2 medium]", "wool[T.B]:tension[T.3 high]"]
    found = fit(WARPBREAKS, "wool * tension", "breaks", names)
    assert found.effect[:, 0] == pytest.approx([-16.33333333, -20.55555556, 21.11111111, 10.55555556], rel=1e-9)
    deviations = [5.157299354, 5.157299354, 7.293522691, 7.293522691]
    assert np.sqrt(found.variance[:, 0]) == pytest.approx(deviations, rel=1e-9)
    t = [-3.167032242, -3.985720848, 2.894501327, 1.447250664]
    assert found.statistic[:, 0] == pytest.approx(t, rel=1e-9)
    assert found.df_resid == 48
    # R: drop1(m, ~ ., test = "F")
    terms = fit(WARPBREAKS, "wool * tension", "breaks", ["F(wool[T.B])", "tension", "wool:tension"])
    assert terms.statistic[:, 0] == pytest.approx([10.03009, 10.31215, 4.18907], abs=5e-6)


def test_f_of_a_term():
    # R: anova(lm(breaks ~ wool, warpbreaks), lm(breaks ~ wool + tension, warpbreaks))
    found = fit(WARPBREAKS, "wool + tension", "breaks", ["tension"])
    assert found.statistic[0, 0] == pytest.approx(7.53665, abs=5e-6)
    assert found.df_resid == 50


def test_weights():
    # R: summary(lm(mpg ~ wt + hp, mtcars, weights = cyl))$coefficients[, 1:3]
    found = fit(MTCARS, "wt + hp", "mpg", ["wt", "hp"], weights=MTCARS["cyl"].to_numpy(float))
    assert found.effect[:, 0] == pytest.approx([-3.604009589, -0.030213924], rel=1e-7)
    assert np.sqrt(found.variance[:, 0]) == pytest.approx([0.583533551467, 0.008140617473], rel=1e-9)
    assert found.statistic[:, 0] == pytest.approx([-6.176182295, -3.711502733], rel=1e-9)


def test_hc3():
    # R: x <- lm(mpg ~ wt + hp, mtcars); X <- model.matrix(x); B <- solve(crossprod(X))
    # V <- B %*% crossprod(X * resid(x) / (1 - hatvalues(x))) %*% B; sqrt(diag(V)); coef(x) / sqrt(diag(V))
    found = fit(MTCARS, "wt + hp", "mpg", ["wt", "hp"], robust=True)
    assert np.sqrt(found.variance[:, 0]) == pytest.approx([0.768519050358, 0.009385137909], rel=1e-9)
    assert found.statistic[:, 0] == pytest.approx([-5.045848558, -3.385453394], rel=1e-9)


def test_splines():
    # R: s <- lm(dist ~ splines::bs(speed, df = 4), cars); anova(s); summary(s)$sigma
    found = fit(CARS, "bs(speed, df=4)", "dist", ["bs(speed, df=4)"])
    assert found.statistic[0, 0] == pytest.approx(24.42436, abs=5e-6)
    assert np.sqrt(found.residual_variance[0]) == pytest.approx(15.10058856, rel=1e-9)


def test_orthogonal_polynomials():
    # R: p <- lm(dist ~ poly(speed, 2), cars); summary(p)$coefficients[, 1:3]; anova(p)
    found = fit(CARS, "poly(speed, 2)", "dist", ["poly(speed, 2)[1]", "poly(speed, 2)[2]", "poly(speed, 2)"])
    assert found.effect[:2, 0] == pytest.approx([145.5522550, 22.9957636], rel=1e-8)
    assert found.statistic[:2, 0] == pytest.approx([9.590905541, 1.515264717], rel=1e-9)
    assert found.statistic[2, 0] == pytest.approx(47.14075, abs=5e-6)


def test_rank_deficient_design():
    # R: d <- transform(warpbreaks, coarse = ifelse(tension == "L", "low", "not low"))
    # r <- lm(breaks ~ tension + coarse, d)  # coarse: NA
    # v <- vcov(r, complete = FALSE); a <- c(0, 1, -1); e <- sum(a * coef(r)[1:3]); s <- sqrt(a %*% v %*% a); e / s
    table = WARPBREAKS.assign(coarse=np.where(WARPBREAKS["tension"] == "1 low", "low", "not low"))
    found = fit(table, "tension + coarse", "breaks", ["tension[T.2 medium] - tension[T.3 high]"])
    assert found.df_resid == 51
    assert found.effect[0, 0] == pytest.approx(4.722222222, rel=1e-9)
    assert np.sqrt(found.variance[0, 0]) == pytest.approx(3.960192871, rel=1e-9)
    assert found.statistic[0, 0] == pytest.approx(1.192422283, rel=1e-9)
