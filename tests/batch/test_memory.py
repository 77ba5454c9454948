"""The peak of this process, from where one starts to count."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vbmstat.batch.memory import peak_bytes, start_peak


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it is the peak since the start")
def test_the_peak_rises_with_what_is_taken_and_starts_anew():
    size = 200 << 20
    start_peak()
    before = peak_bytes()
    taken = np.ones(size, dtype=np.uint8)
    assert peak_bytes() - before > 0.9 * size
    del taken
    assert peak_bytes() - before > 0.9 * size
    start_peak()
    assert peak_bytes() - before < 0.5 * size
