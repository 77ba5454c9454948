"""Least squares over the rows of sites by the engine that fits scans; degrees of freedom are those of the scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.pooled.combine import Rows
from vbmstat.glm.spec import Compute


def fit_rows(rows: Rows, contrasts: Sequence[Contrast], compute: Compute) -> tuple[Plan, Fit]:
    """The plan and the fit of the model over all scans behind some rows.

    Raises
    ------
    DesignError
        If no degree of freedom is left.
    """
    no_draws = np.empty((0, len(rows.design.matrix)), dtype=bool)
    plan = make_plan(rows.design, contrasts, no_draws)
    df = float(rows.n_scans - plan.basis.shape[1])
    if df <= 0:
        msg = f"{rows.n_scans} scans leave no degree of freedom beside {plan.basis.shape[1]} columns"
        raise DesignError(msg)
    plan = replace(plan, df_resid=df, contrasts=tuple(replace(one, df=df) for one in plan.contrasts))
    return plan, fit_voxels(rows.maps, plan, compute)
