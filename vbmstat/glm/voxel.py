"""The fit of one voxel or region as numbers: adjusted data, the fitted line with its band, influential scans.

The axis of the figure is a covariate that the contrast tests: a number, or the levels of its factors. Nuisance
columns are held at their means over the scans. A scan's adjusted value is the fit at its own place on the axis plus its
residual (partial residuals); without interactions that is y - Σ (x - mean x) b over the nuisance columns. Every point
of the line is a t-contrast of the same model, so that its band has the model's own variance and degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.glm.axis import Axis, choose_axis, is_number
from vbmstat.glm.design.contrast import Contrast, estimable_rows
from vbmstat.glm.design.matrix import Design, with_map_column
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.inference.p_values import p_of_f, p_two_sided
from vbmstat.glm.setup import Setup
from vbmstat.glm.spec import Compute
from vbmstat.lazy import stats
from vbmstat.maps.store import ArrayMaps
from vbmstat.tables import cells

CONFIDENCE = 0.95
_MOST_ROWS = 150  # different points whose limits are computed; those of more scans are interpolated along the line


@dataclass(frozen=True)
class VoxelFit:
    """One contrast at one voxel or region."""

    # its name, and ``t`` or ``F``
    contrast: str
    kind: str
    # t or F, its (denominator) degrees of freedom, and the (two-sided) uncorrected p
    statistic: float
    df: float
    p: float
    # what the axis shows: a number, or factors whose levels are compared; empty for a contrast of the mean
    covariate: str
    is_factor: bool  # whether the axis has levels
    grouped_by: str  # what the groups are: a column of the table; empty if there are none
    # one row a scan, largest Cook's distance first: scan_id, participant_id, value, covariate, group (colour of the
    # point), adjusted, adjusted_fit, lower, upper, fitted, residual, studentized_residual, leverage, cooks_distance
    scans: pd.DataFrame
    # points of the line, or the levels: covariate, group, fit, lower, upper (NaN where not estimable)
    line: pd.DataFrame
    adjusted_for: tuple[str, ...]  # covariates held at their means
    variance: str  # whose variance the band has
    notes: tuple[str, ...]  # what the reader should know
    df_contrast: int | None = None  # of F, its numerator degrees of freedom

    @property
    def result(self) -> str:
        """The test in words, ``t(97) = −3.21, p = 0.0018`` or ``F(2, 97) = …``."""
        p = f"p = {self.p:.2g}" if self.p >= 1e-4 else f"p = {self.p:.1e}"
        df = f"{self.df:.4g}" if self.df_contrast is None else f"{self.df_contrast}, {self.df:.4g}"
        return f"{self.kind}({df}) = {self.statistic:.2f}, uncorrected {p}".replace("-", "−")

    def worst(self, count: int = 3) -> pd.DataFrame:
        """The scans with the largest Cook's distances."""
        return self.scans.head(count)

    def record(self) -> dict[str, Any]:
        """All numbers for JSON, with None for NaN."""
        tables = {
            name: table.astype(object).where(table.notna(), None).to_dict("list")
            for name, table in (("scans", self.scans), ("line", self.line))
        }
        return {**vars(self), "adjusted_for": list(self.adjusted_for), "notes": list(self.notes), **tables}


def voxel_fit(values: np.ndarray, setup: Setup, contrast: Contrast, by: pd.Series | None = None) -> VoxelFit:
    """Fit one voxel, or the mean of a region, for a figure.

    Parameters
    ----------
    values : ndarray, (n_scans,)
        In the order of the design; not yet scaled.
    setup : Setup
        The model; of one with a voxelwise covariate :func:`with_map_values`.
    contrast : Contrast
        Of its design.
    by : Series, optional
        Named group of each scan, for the colour of its point; by default that of the line, or the model's first factor.
    """
    design, values = setup.design, np.asarray(values, dtype=np.float64)
    y = values if setup.scale is None else values * setup.scale
    axis, notes = choose_axis(design, contrast, y)
    own = axis.positions(design)
    line = axis.line(design, own).reset_index(drop=True)
    rows, n_scans = axis.rows(design, pd.concat([own, line], ignore_index=True)), len(y)
    of_scans, of_line = _estimates(rows, n_scans, y, setup)
    line = pd.concat([line[["covariate", "group"]], of_line], axis=1)
    if (of_scans["lower"].isna() & of_scans["fit"].notna()).any():
        of_scans = _between(line, own, of_scans)
    tested = _Fitted.of([contrast], y, setup)
    statistic, df = float(tested.statistic[0]), float(tested.df[0])
    rank = None if contrast.kind == "t" else int(np.linalg.matrix_rank(contrast.weights))
    p = p_two_sided(np.array(statistic), df) if rank is None else p_of_f(np.array(statistic), float(rank), df)
    owner = setup.source.table.index.get_level_values("participant_id")
    scans = pd.DataFrame({"scan_id": list(design.scan_ids), "participant_id": owner, "value": values})
    scans = pd.concat([scans, own[["covariate", "group"]]], axis=1)
    scans = pd.concat([scans, of_scans.rename(columns={"fit": "adjusted_fit"})], axis=1)
    scans = scans.assign(**_diagnostics(y, setup))
    scans.insert(5, "adjusted", scans["adjusted_fit"] + scans["residual"])
    by = _colours(design, axis, own) if by is None else by
    scans["group"] = by.to_list()
    if axis.is_factor:
        line = line.assign(group=line["covariate"])
    if not axis.shows(contrast, rows[n_scans:], design):
        notes.append(
            f"{contrast.name} is tested where covariates that it does not name are 0 or at the reference level; the "
            "figure shows their means, so that its slope or difference is another"
        )
    exact = scans.loc[scans["leverage"] > 1 - 1e-9, "scan_id"].tolist()
    if exact:
        notes.append(f"leverage 1, fitted exactly: {', '.join(exact)}")
    if setup.scale is not None:
        notes.append("fits and adjusted values are of the scaled maps, `value` is not")
    variance = setup.variance.alone.in_words + ("" if setup.spec.weights is None else f", weights {setup.spec.weights}")
    return VoxelFit(
        contrast.name, contrast.kind, statistic, df, float(p), axis.name, axis.is_factor, str(by.name or ""),
        scans.sort_values("cooks_distance", ascending=False, na_position="first", kind="stable", ignore_index=True),
        line, tuple(map(str, (name for name in design.covariates if name not in axis.free))), variance, tuple(notes),
        rank,
    )  # fmt: skip


def with_map_values(setup: Setup, values: np.ndarray) -> Setup:
    """The model of one voxel whose voxelwise covariate has these values, (n_scans,)."""
    if setup.covariate is None:
        return setup
    design, label = with_map_column(setup.design, setup.covariate[0]), f"map({setup.covariate[0]})"
    matrix = np.column_stack([setup.design.matrix, values])
    design = replace(design, matrix=matrix, covariates=design.covariates.assign(**{label: values}))
    return replace(setup, design=design, covariate=None)


def _colours(design: Design, axis: Axis, own: pd.DataFrame) -> pd.Series:
    """Group of each scan: that of its line, else the level of the model's first factor, else none."""
    factor = next((str(name) for name in design.covariates if not is_number(str(name), design)), None)
    if axis.factors or factor is None:
        return own["group"].rename(" × ".join(axis.factors))
    return pd.Series(cells.labels(design.covariates[factor]), name=factor)


@dataclass(frozen=True)
class _Fitted:
    """Contrasts of one voxel: effect, variance, statistic and degrees of freedom, (n_contrasts,) each."""

    effect: np.ndarray
    variance: np.ndarray
    statistic: np.ndarray
    df: np.ndarray

    @classmethod
    def of(cls, contrasts: Sequence[Contrast], y: np.ndarray, setup: Setup) -> _Fitted:
        """By the model's engine, in float64; NaN where the variance of a contrast cannot be estimated."""
        if not contrasts:
            return cls(*np.empty((4, 0)))
        ids, variance = setup.design.scan_ids, setup.variance.alone
        no_draws = np.empty((0, len(y)), dtype=bool)
        plan = make_plan(setup.design, contrasts, no_draws, setup.weights)
        kept = np.array([not without for without in variance.unestimated(plan, ids)], dtype=bool)
        result = np.full((4, len(contrasts)), np.nan)
        if kept.any():
            plan = replace(
                plan, contrasts=tuple(one for one, is_kept in zip(plan.contrasts, kept, strict=True) if is_kept)
            )
            fit = variance.fit(ArrayMaps(y[:, None], ids), variance.prepare(plan, ids), Compute(n_threads=1))
            df = fit.df[:, 0] if fit.has_local_df else fit.df
            result[:, kept] = fit.effect[:, 0], fit.variance[:, 0], fit.statistic[:, 0], df
        return cls(*result)


def _estimates(rows: np.ndarray, n_scans: int, y: np.ndarray, setup: Setup) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates of rows of weights (k, n_regressors), fit, lower, upper: of the first `n_scans`, and of the line.

    Many different scans have no limits: each takes the engine some milliseconds.
    """
    unique, back = np.unique(rows, axis=0, return_inverse=True)
    fit, half, back = *np.full((2, len(unique)), np.nan), back.ravel()
    estimable = estimable_rows(unique, setup.design)
    roots = np.ones(len(y)) if setup.weights is None else np.sqrt(setup.weights)
    beta = np.linalg.lstsq(setup.design.matrix * roots[:, None], y * roots, rcond=None)[0]
    fit[estimable] = unique[estimable] @ beta
    if len(unique) > _MOST_ROWS:
        estimable &= np.isin(np.arange(len(unique)), back[n_scans:])
    at = np.flatnonzero(estimable)
    own = _Fitted.of([Contrast(f"row {i}", unique[[i]], "t", f"row{i}") for i in at], y, setup)
    half[at] = stats.t.isf((1 - CONFIDENCE) / 2, own.df) * np.sqrt(own.variance)
    table = pd.DataFrame({"fit": fit, "lower": fit - half, "upper": fit + half}).iloc[back].reset_index(drop=True)
    return table.iloc[:n_scans], table.iloc[n_scans:].reset_index(drop=True)


def _between(line: pd.DataFrame, scans: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """The fits of scans with limits interpolated along the line of their group."""
    half = np.full(len(scans), np.nan)
    for group, points in line.groupby("group"):
        inside = (scans["group"] == group).to_numpy()
        width = (points["upper"] - points["fit"]).to_numpy()
        half[inside] = np.interp(scans.loc[inside, "covariate"].astype(float), points["covariate"].astype(float), width)
    return fits.assign(lower=fits["fit"] - half, upper=fits["fit"] + half)


def _diagnostics(y: np.ndarray, setup: Setup) -> dict[str, np.ndarray]:
    """Fit, residual and influence of each scan by (weighted) least squares, whatever the variance of the band.

    The studentized residual is the external one (R's ``rstudent``). Cook 1977, doi:10.1080/00401706.1977.10489493.
    """
    plan = make_plan(setup.design, (), np.empty((0, len(y)), dtype=bool), setup.weights)
    weighted, rank = y * plan.scan_weights, plan.basis.shape[1]
    residual = weighted - plan.basis @ (plan.basis.T @ weighted)
    leverage = (plan.basis**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        free = np.where(leverage < 1 - 1e-9, 1 - leverage, np.nan)
        internal = residual / np.sqrt(residual @ residual / plan.df_resid * free)
        external = internal * np.sqrt((plan.df_resid - 1) / (plan.df_resid - internal**2))
        cook = internal**2 * leverage / free / rank
    residual = residual / plan.scan_weights
    return {
        "fitted": y - residual, "residual": residual, "studentized_residual": external, "leverage": leverage,
        "cooks_distance": cook,
    }  # fmt: skip
