"""What a recorded model says of itself."""

from __future__ import annotations

import pytest

from vbmstat.glm.record import has_own_df


@pytest.mark.parametrize(("record", "expected"), [
    ({"df_resid": 20.0, "contrasts": [{"df": 20.0}, {"df": 20.0}]}, False),
    ({"df_resid": 20.0, "contrasts": [{"df": 20.0}, {"df": 2.9}]}, True),  # HC3
    ({"df_resid": 5.00004, "contrasts": [{"df": 5.0}], "sandwich": {}}, True),
    ({"contrasts": [{"df": None}], "mixed_model": {}}, False), ({"df_resid": 20.0, "contrasts": [{}]}, False),
])  # fmt: skip
def test_degrees_of_freedom_of_contrasts(record, expected):
    assert has_own_df(record) == expected
