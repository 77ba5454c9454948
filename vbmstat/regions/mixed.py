"""Linear mixed models with a random intercept, for tables of regions: REML, with t and F as R's lmerTest has them.

Y = X β + b_i + ε with b_i ~ N(0, σ_b²) of each subject and ε ~ N(0, σ²), in R ``lmer(y ~ ... + (1 | subject))``. With
Z the indicators of the subjects and γ = σ_b² / σ², the covariance of Y is σ² (I + γ ZZ'), and γ, which may be 0, has
the largest restricted likelihood (:mod:`vbmstat.regions.reml`). β is that of generalised least squares given γ, its
covariance σ² (X'(I + γ ZZ')⁻¹X)⁻¹, and degrees of freedom are Satterthwaite's (Kuznetsova et al. 2017,
doi:10.18637/jss.v082.i13). Float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast, check_estimable
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.plan import ContrastPlan, make_plan
from vbmstat.lazy import stats
from vbmstat.progress import OnProgress
from vbmstat.regions.reml import Likelihood, is_maximum, maximise

_CHUNK = 512  # columns at a time
_EXACT_FIT = 1e-26  # sum of squares within subjects over the column's sum of squares below: rounding, as in the engine
_NO_EIGENVALUE = 1e-10  # of the largest number of scans of a subject
_SAME_DF = 1e-8  # degrees of freedom that differ by less are equal, as in lmerTest


@dataclass(frozen=True)
class MixedFit:
    """A mixed model of each column; NaN where `converged` is False."""

    # (n_contrasts, n_columns), float64: for t-contrasts c'β, its standard error, t, Satterthwaite's degrees of freedom
    # and two-sided p; for F-contrasts F, its denominator degrees of freedom and p, without effect and standard error
    # (NaN)
    effect: np.ndarray
    se: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    p: np.ndarray
    # (n_columns,): σ_b², which may be 0, and σ²
    random_variance: np.ndarray
    residual_variance: np.ndarray
    # (n_columns,), bool: whether the restricted likelihood has its maximum there: its derivative by γ vanishes, or does
    # not rise at γ = 0. False for columns without variance within subjects, such as constant ones
    converged: np.ndarray
    # degrees of freedom that the fixed effects leave between and within subjects
    df_between: int
    df_within: int


def fit_mixed(
    values: np.ndarray,
    design: Design,
    contrasts: Sequence[Contrast],
    subjects: Sequence[str],
    progress: OnProgress | None = None,
) -> MixedFit:
    """Fit a random intercept of each subject to every column of a table.

    Parameters
    ----------
    values : ndarray, (n_scans, n_columns)
        One region a column.
    design : Design
        Fixed effects.
    contrasts : sequence of Contrast
        What is tested.
    subjects : sequence of str
        Subject of each scan.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    MixedFit

    Raises
    ------
    DesignError
        If every subject has one scan, the fixed effects leave no difference between or within subjects, or a contrast
        cannot be estimated.
    """
    for contrast in contrasts:
        check_estimable(contrast, design)
    plan = make_plan(design, contrasts, np.empty((0, len(design.matrix)), dtype=bool))
    model = _Subjects(plan.basis, subjects)
    n_columns = values.shape[1]
    tests = np.full((5, len(contrasts), n_columns), np.nan)
    variances = np.full((2, n_columns), np.nan)
    converged = np.zeros(n_columns, dtype=bool)
    for start in range(0, n_columns, _CHUNK):
        y = np.asarray(values[:, start : start + _CHUNK], dtype=np.float64)[model.order]
        likelihood = model.likelihood(y)
        usable = np.flatnonzero(likelihood.within > _EXACT_FIT * (y**2).sum(axis=0))
        likelihood, y, at = likelihood.select(usable), y[:, usable], usable + start
        ratio = maximise(likelihood)
        generalised = model.generalised(y, ratio)
        for k, planned in enumerate(plan.contrasts):
            tests[:, k, at] = _test(planned, likelihood, ratio, generalised)
        residual = likelihood.residual_variance(ratio)
        variances[:, at] = ratio * residual, residual
        converged[at] = is_maximum(likelihood, ratio)
        if progress:
            progress("fitting regions", min(start + _CHUNK, n_columns), n_columns)
    tests[:, :, ~converged], variances[:, ~converged] = np.nan, np.nan
    (effect, se, statistic, df, p), (of_subject, of_scan) = tests, variances
    df_within = model.df_resid - model.df_between
    return MixedFit(effect, se, statistic, df, p, of_subject, of_scan, converged, model.df_between, df_within)


class _Subjects:
    """What the design and the subjects alone determine; rows are ordered so that scans of a subject are together."""

    def __init__(self, basis: np.ndarray, subjects: Sequence[str]) -> None:
        groups = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)[1]
        counts = np.bincount(groups)
        if counts.max() == 1:
            msg = (
                "every subject has one scan: a random intercept cannot be separated from residuals; leave --random out"
            )
            raise DesignError(msg)
        self.order = np.argsort(groups, kind="stable")  # (n_scans,)
        self.counts = counts  # scans of each subject
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])  # first row of each subject
        self.basis = basis = basis[self.order]  # Q, (n_scans, r)
        self.df_resid = basis.shape[0] - basis.shape[1]  # m
        sums = np.add.reduceat(basis, self.starts)  # Z'Q, (n_subjects, r)
        values, vectors = np.linalg.eigh(np.diag(counts) - sums @ sums.T)  # Z'PZ
        kept = values > _NO_EIGENVALUE * counts.max()
        if not 0 < kept.sum() < self.df_resid:
            where = "between subjects" if not kept.any() else "within subjects"
            msg = f"the formula leaves no differences {where} to estimate their variance; leave terms or --random out"
            raise DesignError(msg)
        self.eigenvalues = values[kept, None]  # λ, (s, 1)
        self.eigenvectors = vectors[:, kept]  # of Z'PZ, (n_subjects, s); u = P Z eigenvectors / √λ
        self.sizes, size_of = np.unique(counts, return_inverse=True)  # numbers of scans that subjects have
        each = [sums[size_of == k] for k in range(len(self.sizes))]
        self.squares = np.stack([one.T @ one for one in each])  # Q'ZZ'Q of the subjects of each size, (n_sizes, r, r)
        deviations = basis - (sums / counts[:, None]).repeat(counts, axis=0)
        self.within = deviations.T @ deviations  # Q'Q of deviations from the subjects' means, (r, r)

    @property
    def df_between(self) -> int:
        """Number of eigenvalues."""
        return len(self.eigenvalues)

    def likelihood(self, y: np.ndarray) -> Likelihood:
        """The restricted likelihood of columns y, (n_scans, v)."""
        residuals = y - self.basis @ (self.basis.T @ y)
        scaled = self.eigenvectors.T @ np.add.reduceat(residuals, self.starts) / self.eigenvalues  # η / √λ, (s, v)
        of_subject = self.eigenvectors @ scaled  # (n_subjects, v)
        explained = of_subject.repeat(self.counts, axis=0)
        residuals -= explained - self.basis @ (self.basis.T @ explained)
        return Likelihood(self.eigenvalues, scaled**2 * self.eigenvalues, (residuals**2).sum(axis=0), self.df_resid)

    def generalised(self, y: np.ndarray, ratio: np.ndarray) -> _Generalised:
        """Generalised least squares: (I + γ ZZ')⁻¹ divides the mean of a subject with k scans by 1 + γ k."""
        grown = 1 + self.sizes[:, None] * ratio  # (n_sizes, v)
        precision = self.within + np.einsum("kv,kij->vij", 1 / (grown * self.sizes[:, None]), self.squares)
        covariance = np.linalg.inv(precision)
        slope = covariance @ np.einsum("kv,kij->vij", 1 / grown**2, self.squares) @ covariance
        means = np.add.reduceat(y, self.starts) / self.counts[:, None]  # (n_subjects, v)
        shrunk = (means / (1 + self.counts[:, None] * ratio)).repeat(self.counts, axis=0)
        weighted = self.basis.T @ (y - means.repeat(self.counts, axis=0) + shrunk)  # (r, v)
        return _Generalised(np.einsum("vij,jv->vi", covariance, weighted), covariance, slope)


class _Generalised(NamedTuple):
    """Generalised least squares given γ."""

    coefficients: np.ndarray  # of Q, (v, r)
    covariance: np.ndarray  # of the coefficients, over σ², (v, r, r)
    slope: np.ndarray  # d covariance / dγ


def _test(contrast: ContrastPlan, likelihood: Likelihood, ratio: np.ndarray, fit: _Generalised) -> np.ndarray:
    """Effect, standard error, statistic, degrees of freedom and p of one contrast, (5, v)."""
    rows = contrast.rows
    estimate = fit.coefficients @ rows.T  # (v, q)
    spread, axes = np.linalg.eigh(rows @ fit.covariance @ rows.T)  # (v, q), (v, q, q)
    change = np.einsum("vij,vik,vkj->vj", axes, rows @ fit.slope @ rows.T, axes)  # d spread / dγ of each axis
    along = np.einsum("vi,vij->vj", estimate, axes)
    variance = likelihood.residual_variance(ratio)
    nu = _satterthwaite(likelihood, ratio, spread.T, change.T)
    if contrast.kind == "t":
        error = np.sqrt(spread[:, 0] * variance)
        t = estimate[:, 0] / error
        return np.stack([estimate[:, 0], error, t, nu[0], 2 * stats.t.sf(np.abs(t), nu[0])])
    f = (along**2 / spread).mean(axis=1) / variance
    df, missing = joint_df(nu), np.full(len(f), np.nan)
    return np.stack([missing, missing, f, df, stats.f.sf(f, len(rows), df)])


def _satterthwaite(likelihood: Likelihood, ratio: np.ndarray, spread: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Degrees of freedom of variances V = σ² `spread`, (q, v), with derivative `change` of `spread` by γ."""
    # 2 V² / var(V) with var(V) = g' (H / 2)⁻¹ g, H the Hessian of -2 log L and g the gradient of V by γ and log σ²;
    # where γ = 0 it is no parameter, and they are those of least squares, m
    lam, m = likelihood.eigenvalues, likelihood.df_resid
    shrunk = lam / (1 + ratio * lam)
    explained = likelihood.between * shrunk / (1 + ratio * lam) / likelihood.residual_variance(ratio)
    h_ratio, h_both = (2 * explained * shrunk - shrunk**2).sum(axis=0), explained.sum(axis=0)
    inverse = h_ratio * spread**2 - 2 * h_both * spread * change + m * change**2
    determinant = h_ratio * m - h_both**2
    interior = (ratio > 0) & (determinant > 0)
    nu = spread**2 * np.where(interior, determinant, 1.0) / np.where(interior, inverse, 1.0)
    return np.where(interior, nu, np.where(ratio > 0, np.nan, float(m)))


def joint_df(nu: np.ndarray) -> np.ndarray:
    """Denominator degrees of freedom of F, the mean of q squared t with nu (q, v) degrees of freedom.

    Such that F has the mean Σ ν / (ν - 2) / q; 2 where one of them has no mean (Fai & Cornelius 1996,
    doi:10.1080/00949659608811740; lmerTest's ``contestMD``).
    """
    q = len(nu)
    mean = np.where(nu > 2, nu / np.where(nu > 2, nu - 2, 1.0), np.inf).sum(axis=0)
    different = np.where(np.isfinite(mean), 2 * mean / np.where(np.isfinite(mean), mean - q, 1.0), 2.0)
    return np.where(np.ptp(nu, axis=0) < _SAME_DF, nu.mean(axis=0), different)
