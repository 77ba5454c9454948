"""HC3 variances of t-contrasts: when they exist, and their degrees of freedom.

V = Σ_i (g_i / (1 - h_i))² e_i² with g = D Q' of the contrast, leverages h and residuals e (MacKinnon & White 1985,
doi:10.1016/0304-4076(85)90158-7). If a contrast depends on a scan of leverage 1, V cannot be estimated, in the whole
sample or in a subset. If a few scans of high leverage dominate, V varies more than n - r degrees of freedom imply;
:func:`hc3_df` gives the number that t needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.fit.leverage import hc3_weights, leave_out, null_share, spread_of_variance, unestimated_blocks
from vbmstat.glm.fit.plan import ContrastPlan, Plan, critical_values
from vbmstat.lazy import optimize, stats

ESTIMATOR = "HC3"
CURE = "leave the scan or the column out, or test it without --variance hc3"
_ALLOWED = {
    0.05: 0.06,
    0.001: 0.002,
}  # largest share of null voxels below these p for which n - r degrees of freedom are kept
_FEWEST = 1.0  # degrees of freedom: no variance is worse than χ²(1)


def unestimated_scans(plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
    """For each contrast, scans whose part of its HC3 variance cannot be estimated; mostly none."""
    starts = np.arange(len(plan.basis))
    return [[scan_ids[i] for i in unestimated_blocks(one.rows, plan.basis, starts)] for one in plan.contrasts]


def hc3_plan(plan: Plan, scan_ids: Sequence[str]) -> Plan:
    """The plan with degrees of freedom for HC3, without the subsets in which a variance cannot be estimated.

    Raises
    ------
    DesignError
        If the variance of a contrast cannot be estimated in the whole sample, or in no subset.
    """
    leave_out(plan.contrasts, unestimated_scans(plan, scan_ids), ESTIMATOR, CURE)
    return replace(plan, contrasts=tuple(_with_hc3(one, plan) for one in plan.contrasts), is_hc3=True)


def _with_hc3(contrast: ContrastPlan, plan: Plan) -> ContrastPlan:
    df = hc3_df(contrast.rows[0], plan.basis, plan.df_resid)
    positions, of_subset = [], []
    for position, (subset, on_basis) in enumerate(zip(contrast.repetitions, contrast.on_residual, strict=True)):
        basis = plan.subset_basis[subset][:, plan.members[subset]].T  # (n_S, r)
        if not unestimated_blocks(on_basis, basis, np.arange(len(basis))).size:
            positions.append(position)
            of_subset.append(hc3_df(on_basis[0], basis, plan.subset_df[subset]))
    if len(contrast.repetitions) and not positions:
        msg = (
            f"contrast {contrast.name!r}: in every subset the model fits a scan exactly (leverage 1), so that HC3 "
            "cannot estimate its variance; raise --fraction, use --stratify, or --repeats 0"
        )
        raise DesignError(msg)
    kept = np.array(positions, dtype=np.intp)
    return replace(
        contrast, repetitions=contrast.repetitions[kept], whiten=contrast.whiten[kept],
        on_residual=contrast.on_residual[kept], critical=critical_values(np.array(of_subset), 1, "t"), df=df,
    )  # fmt: skip


def hc3_df(on_basis: np.ndarray, basis: np.ndarray, df_resid: float) -> float:
    """Degrees of freedom of an HC3 t, from the design alone: the contrast on the basis (r,), Q (n, r) and n - r.

    They are n - r as usual (R's ``coeftest``), unless with these more than 6 % of null voxels would reach p < .05, or
    more than .2 % p < .001, for independent normal errors of equal variance. Then they are the most with which at most
    5 % and .1 % do. The shares are exact (:func:`vbmstat.glm.fit.leverage.null_share`).
    """
    form = spread_of_variance(hc3_weights(on_basis, basis), basis, float((on_basis**2).sum()))

    def share(log_df: float, level: float) -> float:
        return null_share(float(stats.t.isf(level / 2, np.exp(log_df))), form)

    df = float(df_resid)
    if df <= _FEWEST or all(share(np.log(df), level) <= allowed for level, allowed in _ALLOWED.items()):
        return df
    for level in _ALLOWED:
        if share(np.log(df), level) > level:
            if share(np.log(_FEWEST), level) > level:
                return _FEWEST
            root = optimize.brentq(
                lambda x, level: share(x, level) - level, np.log(_FEWEST), np.log(df), args=(level,), xtol=1e-4
            )
            df = float(np.exp(root))
    return df
