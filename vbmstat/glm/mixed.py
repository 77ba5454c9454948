"""Linear mixed models with a random intercept, for tables of regions (statsmodels' ``MixedLM``, REML).

Y = X β + b_i + ε with b_i ~ N(0, σ_b²) of each subject and ε ~ N(0, σ²). statsmodels finds the variances; β and its
covariance are those of generalised least squares given them, (X'V⁻¹X)⁻¹, as in R's ``lmer(y ~ ... + (1 | subject))``
(statsmodels' own covariance comes from a Hessian that mixes in the variances). Tests are Wald tests, z and χ²/m, whose
p hold for many subjects; lme4 gives none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from vbmstat.errors import DesignError
from vbmstat.glm.contrast import Contrast
from vbmstat.glm.design import Design


@dataclass(frozen=True)
class MixedFit:
    """A mixed model of each column.

    Attributes
    ----------
    effect, se, statistic, p : ndarray, (n_contrasts, n_columns), float64
        For t-contrasts c'β, its standard error, z and two-sided p; for F-contrasts the Wald χ²/m and its p, without
        effect and standard error (NaN). NaN where the fit failed.
    random_variance, residual_variance : ndarray, (n_columns,)
        σ_b² and σ².
    converged : ndarray, (n_columns,), bool
        Whether the likelihood was maximised.
    """

    effect: np.ndarray
    se: np.ndarray
    statistic: np.ndarray
    p: np.ndarray
    random_variance: np.ndarray
    residual_variance: np.ndarray
    converged: np.ndarray


def fit_mixed(
    values: np.ndarray,
    design: Design,
    contrasts: Sequence[Contrast],
    subjects: Sequence[str],
    progress: Callable[[str, int, int], None] | None = None,
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
        If every subject has one scan, or the design has collinear columns.
    """
    groups = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)[1]
    if np.bincount(groups).max() == 1:
        msg = "every subject has one scan: a random intercept cannot be told from the residual; leave --random out"
        raise DesignError(msg)
    if design.rank < len(design.columns):
        msg = f"a mixed model needs independent columns; {', '.join(design.columns)} have rank {design.rank}"
        raise DesignError(msg)
    norms = np.linalg.norm(design.matrix, axis=0)
    x = design.matrix / norms
    n_columns = values.shape[1]
    effect, se, statistic, p = np.full((4, len(contrasts), n_columns), np.nan)
    random_variance, residual_variance = np.full((2, n_columns), np.nan)
    converged = np.zeros(n_columns, dtype=bool)
    for column, y in enumerate(np.asarray(values, dtype=np.float64).T):
        scale = y.std()
        found = _fit_one(y / scale, x, groups) if scale > 0 else None
        if found is not None:
            of_subject, of_scan, converged[column] = found
            random_variance[column], residual_variance[column] = of_subject * scale**2, of_scan * scale**2
            beta, covariance = _generalised(y / scale, x, groups, of_subject, of_scan)
            for k, contrast in enumerate(contrasts):
                tested = _test(contrast, beta * scale / norms, covariance * scale**2 / np.outer(norms, norms))
                effect[k, column], se[k, column], statistic[k, column], p[k, column] = tested
        if progress:
            progress("fitting regions", column + 1, n_columns)
    return MixedFit(effect, se, statistic, p, random_variance, residual_variance, converged)


def _fit_one(y: np.ndarray, x: np.ndarray, groups: np.ndarray) -> tuple[float, float, bool] | None:
    """σ_b², σ² and convergence of one column; None if it cannot be fitted."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # noqa: PLC0415 - heavy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance of zero is a result; convergence is reported
        try:
            found = MixedLM(y, x, groups).fit(reml=True, method=["bfgs", "lbfgs", "powell"], gtol=1e-8)
        except np.linalg.LinAlgError:
            return None
    return float(np.asarray(found.cov_re)[0, 0]), float(found.scale), bool(found.converged)


def _generalised(
    y: np.ndarray, x: np.ndarray, groups: np.ndarray, of_subject: float, of_scan: float
) -> tuple[np.ndarray, np.ndarray]:
    """β and its covariance for V_i = σ² I + σ_b² 11': V_i⁻¹ z = (z - z̄ · n σ_b² / (σ² + n σ_b²)) / σ²."""
    counts = np.bincount(groups)
    share = (of_subject / (of_scan + counts * of_subject))[groups, None]
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, groups, x)
    weighted = (x - share * sums[groups]) / of_scan  # V⁻¹ X
    covariance = np.linalg.inv(x.T @ weighted)
    return covariance @ (weighted.T @ y), covariance


def _test(contrast: Contrast, beta: np.ndarray, covariance: np.ndarray) -> tuple[float, float, float, float]:
    """Effect, standard error, statistic and p of one contrast."""
    rows = contrast.weights
    estimate, spread = rows @ beta, rows @ covariance @ rows.T
    if contrast.kind == "t":
        error = float(np.sqrt(spread[0, 0]))
        z = float(estimate[0] / error)
        return float(estimate[0]), error, z, float(2 * stats.norm.sf(abs(z)))
    m = int(np.linalg.matrix_rank(rows))
    wald = float(estimate @ np.linalg.pinv(spread, hermitian=True) @ estimate)
    return np.nan, np.nan, wald / m, float(stats.chi2.sf(wald, m))
