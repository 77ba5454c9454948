from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from tests.glm.conftest import make_table
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import build_design


def test_variance_inflation_and_correlation_with_tiv():
    table = make_table()
    design = build_design("age + sex + tiv", table, list(table["participant_id"]))
    report = variance_inflation(design).set_index("column")
    for index, name in enumerate(design.columns[1:], start=1):
        assert report.loc[name, "vif"] == pytest.approx(variance_inflation_factor(design.matrix, index), rel=1e-9)
        expected = np.corrcoef(design.matrix[:, index], design.matrix[:, 3])[0, 1]
        assert report.loc[name, "r_tiv"] == pytest.approx(expected, rel=1e-9)
