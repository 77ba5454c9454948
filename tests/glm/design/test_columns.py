from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.columns import read_groups, read_labels


def test_subjects_come_from_ids_or_columns():
    table = pd.DataFrame({"family": [1.0, 1.0, 2.0], "participant_id": ["a", "b", "c"]}).set_index("participant_id")
    assert read_labels("family", table) == ["1", "1", "2"]
    assert read_labels("Family", table) == ["1", "1", "2"]
    assert read_labels("participant_id", table) == ["a", "b", "c"]
    with pytest.raises(TableError, match=r"no column 'famly' in the table \(nearest family"):
        read_labels("famly", table)


def test_a_scan_without_a_subject_is_named(table):
    families = table.assign(family=["f1"] * 13 + ["f2"] * 12 + [None])
    with pytest.raises(TableError, match=r"no family \(subject\) for sub-025"):
        fit_glm(np.ones((26, 2)), "v ~ age", families, variance="sandwich:family")


def test_subjects_with_long_numbers_stay_apart():
    numbers = pd.DataFrame({"family": [1_000_000.0 + i // 2 for i in range(8)]})
    assert len(set(read_labels("family", numbers))) == 4


def test_groups_that_differ_in_letter_case_are_refused_and_subjects_are_not():
    table = make_table(4).assign(family=["a", "A", "b", "b"])
    assert read_labels("family", table) == ["a", "A", "b", "b"]
    with pytest.raises(DesignError, match="differ only in letter case"):
        read_groups("family", table)
