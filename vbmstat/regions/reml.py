"""Restricted maximum likelihood of a random intercept, exact: a function of one number for each column.

Y has the covariance σ² (I + γ ZZ'), Z the indicators of the subjects, γ >= 0. P = I - QQ', X = Q R, removes the fixed
effects; let λ_s > 0 and u_s be the eigenvalues and eigenvectors of P ZZ' P. A column enters the likelihood only
through η_s = u_s'y (between subjects) and the sum of squares w of the remainder (within subjects; Kang et al. 2008,
doi:10.1534/genetics.107.080101, eq. 7):

    -2 log L(γ) = Σ_s log(1 + γ λ_s) + m log(w + Σ_s η_s² / (1 + γ λ_s)),  m = n_scans - rank(X).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

_GRID = 64  # values of γ, spaced evenly on the log scale, between which minima are bracketed
_BISECTIONS = 60  # of a bracket: to the last digit
_STATIONARY = 1e-8  # |γ d(-2 log L)/dγ| / m below: converged


@dataclass(frozen=True)
class Likelihood:
    """The restricted likelihood of each column as a function of γ, (n_columns,); s eigenvalues."""

    eigenvalues: np.ndarray  # (s, 1): λ
    between: np.ndarray  # (s, n_columns): η²
    within: np.ndarray  # (n_columns,): w, positive
    df_resid: int  # m

    def select(self, columns: np.ndarray) -> Likelihood:
        """The likelihood of some of the columns."""
        return replace(self, between=self.between[:, columns], within=self.within[columns])

    def residual_variance(self, ratio: np.ndarray) -> np.ndarray:
        """σ² at γ."""
        left = self.within + (self.between / (1 + ratio * self.eigenvalues)).sum(axis=0)
        return np.asarray(left / self.df_resid)

    def deviance(self, ratio: np.ndarray) -> np.ndarray:
        """-2 log L at γ, up to a constant."""
        determinant = np.log1p(ratio * self.eigenvalues).sum(axis=0)
        return np.asarray(determinant + self.df_resid * np.log(self.residual_variance(ratio)))

    def slope(self, ratio: np.ndarray) -> np.ndarray:
        """d(-2 log L) / dγ."""
        shrunk = self.eigenvalues / (1 + ratio * self.eigenvalues)
        explained = (self.between * shrunk**2 / self.eigenvalues).sum(axis=0) / self.residual_variance(ratio)
        return np.asarray(shrunk.sum(axis=0) - explained)

    def largest_ratio(self) -> np.ndarray:
        """A γ beyond which the slope is positive: for λ_min γ >= 1 it is at least s / (2 γ) - m Σ(η²/λ) / (γ² w)."""
        bound = 2 * self.df_resid * (self.between / self.eigenvalues).sum(axis=0) / (len(self.between) * self.within)
        return np.asarray(np.maximum(bound, 1 / self.eigenvalues.min()))


def maximise(likelihood: Likelihood) -> np.ndarray:
    """γ of the largest restricted likelihood of each column, (n_columns,).

    Notes
    -----
    A minimum of -2 log L is at 0 if the slope there is not negative, or where the slope turns positive. All turns
    between neighbours of a fine grid are bisected, and the lowest minimum is taken: with unequal numbers of scans there
    may be several.
    """
    n_columns = len(likelihood.within)
    smallest = 1e-3 / likelihood.eigenvalues.max()
    steps = np.linspace(0, 1, _GRID)[:, None]
    grid = np.vstack([np.zeros(n_columns), smallest * (likelihood.largest_ratio() / smallest) ** steps])
    slopes = np.array([likelihood.slope(row) for row in grid])
    turn, column = np.nonzero((slopes[:-1] < 0) & (slopes[1:] >= 0))
    low, high = grid[turn, column], grid[turn + 1, column]
    part = likelihood.select(column)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        falls = part.slope(middle) < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    at_zero = np.flatnonzero(slopes[0] >= 0)
    ratios = np.concatenate([np.zeros(len(at_zero)), high])
    columns = np.concatenate([at_zero, column])
    order = np.argsort(-likelihood.select(columns).deviance(ratios), kind="stable")  # the lowest is written last
    best = np.zeros(n_columns)
    best[columns[order]] = ratios[order]
    return best


def is_maximum(likelihood: Likelihood, ratio: np.ndarray) -> np.ndarray:
    """Whether γ fulfils the conditions of a maximum (Karush, Kuhn and Tucker), (n_columns,), bool."""
    slope = likelihood.slope(ratio)
    return np.where(ratio > 0, np.abs(slope * ratio) <= _STATIONARY * likelihood.df_resid, slope >= 0)
