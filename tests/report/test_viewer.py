from __future__ import annotations

import re

import numpy as np
import torch

from tests.report.conftest import GRID, blob
from vbmstat.image.volume import Volume
from vbmstat.report.viewer import peak_position_mm, viewer_html


def test_the_page_asks_for_nothing_and_opens_at_the_peak() -> None:
    values = -5.0 * blob((-36, 0, 12), 5.0) + 2.0 * blob((36, 0, 12))
    statistic = Volume(torch.from_numpy(values.astype(np.float32))[None], GRID)
    page = viewer_html(statistic, "age", 3.0)
    assert re.findall(r"(?:src|href)\s*=\s*[\"']?https?:", page) == []
    assert "<canvas" in page
    assert peak_position_mm(statistic).tolist() == [-36.0, 0.0, 12.0]


def test_a_map_below_its_threshold_still_opens() -> None:
    weak = Volume(torch.from_numpy(0.5 * blob((0, 0, 0)).astype(np.float32))[None], GRID)
    assert "<canvas" in viewer_html(weak, "weak", 9.0)
