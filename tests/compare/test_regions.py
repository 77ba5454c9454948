"""ROI tables side by side: rows are joined by scan and label, never by position."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vbmstat.compare import regions
from vbmstat.errors import TableError


def table(rows, columns=("participant_id", "label", "region", "gm_ml")):
    return pd.DataFrame(rows, columns=list(columns))


def test_a_vanished_region_shifts_no_row():
    a = table([(p, label, f"R{label}", 10.0 * label + i) for i, p in enumerate("xyz") for label in (1, 2, 3)])
    b = table([(p, label, f"R{label}", 20.0 * label + 2 * i) for i, p in enumerate("zyx"[::-1]) for label in (3, 1)])
    joined = regions.join_rois(a, b, "label")
    assert sorted(joined["label"].unique()) == [1, 3]
    assert (joined["b_ml"] == 2 * joined["a_ml"]).all()
    found = regions.roi_agreement(joined, "label").set_index("label")
    assert found.loc[3, "slope"] == pytest.approx(2.0)
    assert found.loc[3, "mean_a_ml"] == pytest.approx(31.0)
    assert found["n_scans"].tolist() == [3, 3]


def test_missing_volumes_are_left_out_of_their_region_alone():
    a = table([("x", 1, "R1", 1.0), ("y", 1, "R1", np.nan), ("x", 2, "R2", 3.0), ("y", 2, "R2", 4.0)])
    joined = regions.join_rois(a, a, "label")
    assert regions.roi_agreement(joined, "label")["n_scans"].tolist() == [1, 2]


def test_tables_that_do_not_belong_together_are_refused():
    a = table([("x", 1, "Insula", 1.0), ("y", 1, "Insula", 2.0)])
    other = a.assign(region="Putamen")
    with pytest.raises(TableError, match="label 1 is 'Insula' in A and 'Putamen' in B"):
        regions.join_rois(a, other, "label")
    with pytest.raises(TableError, match="two rows for x, , 1"):
        regions.join_rois(pd.concat([a, a]), a, "label")
    with pytest.raises(TableError, match="no measured tissue in common"):
        regions.join_rois(a, a.rename(columns={"gm_ml": "wm_ml"}), "label")
    with pytest.raises(TableError, match="no scan and label in common"):
        regions.join_rois(a, a.assign(participant_id=["p", "q"]), "label")
