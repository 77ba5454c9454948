from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.design.rank import collinear_columns, combined_columns, matrix_rank, spaces, unit_columns


def build(formula: str, table: pd.DataFrame | None = None, **options):
    table = make_table() if table is None else table
    return build_design(formula, table, list(table["participant_id"]), **options)


def test_constant_covariate():
    with pytest.raises(DesignError, match=r"covariate age is constant \(40\) in these 26 scans"):
        build("age + sex", make_table().assign(age=40.0))


def test_collinear_covariate_names_its_partners():
    table = make_table()
    table["months"] = table["age"] * 12 + 3
    with pytest.raises(DesignError, match="covariate months is a linear combination of Intercept, age; leave"):
        build("sex + age + months", table)


def test_scales_do_not_make_columns_collinear():
    table = make_table()
    table["tiny"] = table["age"] * 1e-9 + np.sin(np.arange(26)) * 1e-10
    assert build("age + tiny + tiv", table).rank == 4
    assert collinear_columns(build("age + tiny + tiv", table).matrix) == []


def test_fewer_scans_than_columns():
    with pytest.raises(DesignError, match="3 scans cannot estimate 3 columns"):
        build("age + tiv", make_table().head(3))


def test_rank_is_numpy_s_whatever_the_units():
    rng = np.random.default_rng(0)
    free = rng.standard_normal((12, 3))
    matrix = np.column_stack([free, free @ [1, 2, 0], np.zeros(12), free[:, 0] * 1e9])
    assert matrix_rank(matrix) == np.linalg.matrix_rank(free) == 3
    assert collinear_columns(matrix) == [3, 4, 5]
    assert combined_columns(matrix, 3, "abcdef") == ["a", "b"]
    columns, rows = spaces(unit_columns(matrix)[0])
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(unit_columns(matrix)[0] @ rows.T @ rows, unit_columns(matrix)[0], atol=1e-9)
    assert matrix_rank(np.empty((4, 0))) == 0
