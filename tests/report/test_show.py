from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests.report.conftest import GRID, blob
from vbmstat.errors import VbmstatError
from vbmstat.figures import publication
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.report.show import show_map, statistic_symbol


def write(path, values: np.ndarray, **header):
    io.write_volume(path, Volume(torch.from_numpy(values.astype(np.float32))[None], GRID), **header)
    return path


@pytest.mark.parametrize(
    ("values", "header", "expected"),
    [
        (blob((0, 0, 0)), {"intent": ("t test", (9.0,))}, "t"),
        (blob((0, 0, 0)), {"intent": ("f test", (2.0, 9.0))}, "F"),
        (-1.0 * blob((0, 0, 0)), {}, ""),
        (blob((0, 0, 0)), {}, None),
    ],
)
def test_what_a_file_is(tmp_path, values, header, expected) -> None:
    path = write(tmp_path / "x.nii.gz", values, **header)
    assert statistic_symbol(path, io.read_volume(path).data) == expected


def test_a_statistic_is_coloured_and_any_other_image_grey(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(publication, "DPI", 60)
    statistic = write(tmp_path / "t.nii.gz", 5.0 * blob((0, 0, 12)), intent=("t test", (9.0,)))
    tissue = write(tmp_path / "gm.nii.gz", blob((0, 0, 12), 50.0))

    def tint(path) -> float:
        image = imread(path)
        return float(np.abs(image[..., 0] - image[..., 2]).max())

    assert tint(show_map(statistic, tmp_path / "t.png")) > 0.3
    assert tint(show_map(tissue, tmp_path / "gm.png")) < 0.02


def test_a_page_to_click_through(tmp_path) -> None:
    page = show_map(write(tmp_path / "t.nii.gz", -5.0 * blob((0, 0, 12))), tmp_path / "t.html", 2.0)
    assert "<canvas" in page.read_text()


def test_what_cannot_be_shown_is_one_line(tmp_path) -> None:
    empty = write(tmp_path / "zero.nii.gz", 0.0 * blob((0, 0, 0)))
    with pytest.raises(VbmstatError, match="every value is 0 or NaN"):
        show_map(empty, tmp_path / "x.png")
    with pytest.raises(VbmstatError, match=r"expected a path ending in .png or .html"):
        show_map(empty, tmp_path / "x.pdf")
    with pytest.raises(VbmstatError, match="no such file"):
        show_map(tmp_path / "none.nii", tmp_path / "x.png")
    assert not list(tmp_path.glob("x.*"))
