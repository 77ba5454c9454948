"""Collinearity of a design: how much of each covariate the others explain."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vbmstat.glm.design.matrix import INTERCEPT, Design
from vbmstat.glm.design.rank import unit_columns
from vbmstat.glm.design.sites import site_column, site_confounding
from vbmstat.tables.cohort import is_tiv_name


def variance_inflation(design: Design) -> pd.DataFrame:
    """Variance inflation factor of each column and its correlation with TIV.

    Returns
    -------
    DataFrame
        One row per column but the intercept: ``column``, ``vif`` = 1 / (1 − R²) of the column on all others (infinite
        in a rank-deficient design), ``r_tiv`` (missing where the table used has no TIV), ``r2_site`` of the column on
        the sites (missing where the formula uses none).
    """
    site = site_column(design.covariates)
    sites = None if site is None else design.covariates[site].tolist()
    numbers = design.covariates.select_dtypes("number")
    tiv = next((numbers[name].to_numpy(float) for name in numbers if is_tiv_name(str(name))), None)
    constant = np.ones(len(design.matrix)) if design.constant is None else design.constant
    rows = []
    for index, name in enumerate(design.columns):
        if name == INTERCEPT:
            continue
        column = design.matrix[:, index]
        scaled, _ = unit_columns(np.delete(design.matrix, index, axis=1))
        residuals = column - scaled @ np.linalg.lstsq(scaled, column, rcond=None)[0]
        total = float(((column - constant * (constant @ column) / (constant @ constant)) ** 2).sum())
        unexplained = float((residuals**2).sum())
        vif = total / unexplained if unexplained > 1e-12 * total else np.inf
        r_tiv = _correlation(column, tiv) if tiv is not None else np.nan
        r2 = np.nan if sites is None else site_confounding(column[:, None], [name], sites)["r2_site"][0]
        rows.append({"column": name, "vif": vif, "r_tiv": r_tiv, "r2_site": r2})
    return pd.DataFrame(rows, columns=["column", "vif", "r_tiv", "r2_site"])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else float("nan")
