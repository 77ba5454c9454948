"""Kinds of maps in the columns of a table; what is refused stands in test_paths.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.maps.test_paths import columns_of
from vbmstat.errors import TableError
from vbmstat.maps.kinds import with_unsmoothed_maps
from vbmstat.tables.cohort import Cohort


def test_regions_of_time_points_are_measured_in_the_maps_of_ageing():
    both = columns_of(mwp1="---", mwp1r="abc", mwmwp1r="def", mwp2r="ghi")
    table = with_unsmoothed_maps(Cohort(both, Path())).table
    assert (table["mwp1"].tolist(), table["mwp2"].tolist()) == (list("def"), list("ghi"))
    single = columns_of(mwp1="abc")
    assert with_unsmoothed_maps(Cohort(single, Path())).table.equals(single)
    with pytest.raises(TableError, match=r"several kinds \(mwmwp1r: 2 scans, mwp1: 1 scans\); leave one out, as with"):
        with_unsmoothed_maps(Cohort(columns_of(mwp1="a--", mwmwp1r="-bc"), Path()))
