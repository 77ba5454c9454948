"""Rules for heights and extents."""

from __future__ import annotations

import pytest

from vbmstat.errors import VbmstatError
from vbmstat.threshold.rules import Rule, read_extent, read_height


@pytest.mark.parametrize("text", ["fwe", "p=0", "p=1.5", "q=0.05", "", "-3", "nan", "fwe=0.05x"])
def test_wrong_heights(text):
    with pytest.raises(VbmstatError, match="expected one of"):
        read_height(text)


def test_extents():
    assert read_extent("50") == Rule("voxels", 50)
    assert read_extent("ml=0.5").label == "ml0.5"
    with pytest.raises(VbmstatError, match=r"--extent fdr=0\.05"):
        read_extent("fdr=0.05")
