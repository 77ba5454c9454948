from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import TableError
from vbmstat.regions.mixed_analysis import fit_mixed_glm


def test_scans_without_a_subject_are_refused_or_dropped():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(24)], "age": rng.uniform(20, 80, 24).round(1)})
    table["family"] = [f"f{i // 2}" for i in range(24)]
    table.loc[5, "family"] = "n/a"
    values = pd.DataFrame({"a": rng.standard_normal(24)}, index=table["participant_id"])
    with pytest.raises(TableError, match=r"no family \(subject\) for s5; fill it in or leave .* --missing drop"):
        fit_mixed_glm(values, "gm ~ age", table, random="family")
    results = fit_mixed_glm(values, "gm ~ age", table, random="family", missing="drop")
    assert "dropped 1 scans without family: s5" in results.record["notes"]
    assert len(results.design.scan_ids) == 23
    assert results.record["covariates"][0]["line"].startswith("age: number, ")
