from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests.report.conftest import GRID, blob
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.figures.view import View
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.report.show import minus_log10_p, peak_of, show_map, statistic_symbol

pytestmark = pytest.mark.usefixtures("coarse_drawing")  # drawing takes long


def write(path, values: np.ndarray, **header):
    io.write_volume(path, Volume(torch.from_numpy(values.astype(np.float32))[None], GRID), **header)
    return path


@pytest.mark.parametrize(
    ("values", "header", "expected"),
    [
        (blob((0, 0, 0)), {"intent": ("t test", (9.0,))}, "t"),
        (blob((0, 0, 0)), {"intent": ("f test", (2.0, 9.0))}, "F"),
        (blob((0, 0, 0)), {"intent": ("p value", ())}, "−log10 p"),
        (-1.0 * blob((0, 0, 0)), {}, ""),
        (blob((0, 0, 0)), {}, None),
    ],
)
def test_what_a_file_is(tmp_path, values, header, expected) -> None:
    path = write(tmp_path / "x.nii.gz", values, **header)
    assert statistic_symbol(path, io.read_volume(path).data) == expected


def test_a_statistic_is_coloured_and_any_other_image_grey(tmp_path) -> None:
    statistic = write(tmp_path / "t.nii.gz", 5.0 * blob((0, 0, 12)), intent=("t test", (9.0,)))
    tissue = write(tmp_path / "gm.nii.gz", blob((0, 0, 12), 50.0))

    def tint(path) -> float:
        image = imread(path)
        return float(np.abs(image[..., 0] - image[..., 2]).max())

    assert tint(show_map(statistic, tmp_path / "t.png")) > 0.3
    assert tint(show_map(tissue, tmp_path / "gm.png")) < 0.02


def p_map(smallest: float, outside: float = 1.0) -> np.ndarray:
    """p of 0.5 in a ball of 60 mm, in whose middle is one of 12 mm with a small p."""
    inside = np.where(blob((0, 0, 12)), smallest, 0.5)
    return np.where(blob((0, 0, 12), 60.0), inside, outside)


def drawn(path, threshold=0.0) -> np.ndarray:
    return imread(show_map(path, path.with_suffix(".png"), threshold))[..., :3]


@pytest.mark.parametrize("outside", [1.0, 0.0, np.nan])
def test_a_p_map_is_coloured_where_p_is_small_over_the_brain(tmp_path, outside) -> None:
    values = {"small": 1e-6, "large": 0.06, "none": 0.5}
    pictures = {
        name: drawn(write(tmp_path / f"{name}.nii.gz", p_map(p, outside), intent=("p value", ())))
        for name, p in values.items()
    }
    bar = slice(0, pictures["small"].shape[1] * 5 // 6)  # without the colour scale

    def n_coloured(picture: np.ndarray) -> int:
        return int((np.ptp(picture[:, bar], axis=-1) > 0.2).sum())

    assert n_coloured(pictures["small"]) > 50
    assert n_coloured(pictures["large"]) == n_coloured(pictures["none"]) == 0
    for picture in pictures.values():  # the brain is grey on white
        assert 0.1 < (picture[:, bar].max(axis=-1) < 0.95).mean() < 0.9


def test_the_threshold_of_a_p_map_is_a_p(tmp_path) -> None:
    path = write(tmp_path / "p.nii.gz", p_map(0.01), intent=("p value", ()))
    assert np.ptp(drawn(path, 0.02), axis=-1).max() > 0.2 > np.ptp(drawn(path, 0.005)[:, :300], axis=-1).max()
    with pytest.raises(VbmstatError, match=r"--threshold 3.1: for a p map expected a p between 0 and 1"):
        show_map(path, tmp_path / "p.png", 3.1)
    assert "<canvas" in show_map(path, tmp_path / "p.html").read_text()


def test_minus_log10_p() -> None:
    p = torch.tensor([1.0, 0.0, 0.001, 0.06])
    assert minus_log10_p(p, 0.05).tolist() == pytest.approx([0, 37.93, 3, 0], abs=0.01)  # too small for float32
    assert minus_log10_p(torch.tensor([0.0, 0.001, 0.0]), 0.05).tolist() == pytest.approx([0, 3, 0])  # background


def test_a_page_to_click_through(tmp_path) -> None:
    page = show_map(write(tmp_path / "t.nii.gz", -5.0 * blob((0, 0, 12))), tmp_path / "t.html", 2.0)
    assert "<canvas" in page.read_text()


def test_what_cannot_be_shown_is_one_line(tmp_path) -> None:
    empty = write(tmp_path / "zero.nii.gz", 0.0 * blob((0, 0, 0)))
    with pytest.raises(VbmstatError, match="every value is 0 or NaN"):
        show_map(empty, tmp_path / "x.png")
    with pytest.raises(VbmstatError, match=r"expected a path ending in .png, .svg, .pdf, .html"):
        show_map(empty, tmp_path / "x.jpg")
    with pytest.raises(VbmstatError, match="no such file"):
        show_map(tmp_path / "none.nii", tmp_path / "x.png")
    assert not list(tmp_path.glob("x.*"))


def test_pictures_of_chosen_slices_in_every_form(tmp_path) -> None:
    path = write(tmp_path / "t.nii.gz", 5.0 * blob((-40, -20, 12)), intent=("t test", (9.0,)))
    view = View(("z=0,12",), title="Age")
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        first = show_map(path, tmp_path / f"a.{suffix}", 2.0, view).read_bytes()
        assert first.startswith(start)
        assert first == show_map(path, tmp_path / f"b.{suffix}", 2.0, view).read_bytes()
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert ">z = 12<" in svg  # text stays text
    assert ">Age<" in svg
    assert "<canvas" in show_map(path, tmp_path / "t.html", 2.0, View(title="Age")).read_text()
    with pytest.raises(VbmstatError, match="are for pictures"):
        show_map(path, tmp_path / "t.html", 2.0, view)
    x, y, z = peak_of(path)
    assert np.linalg.norm(np.array([x, y, z]) - [-40, -20, 12]) < 15
    p = write(tmp_path / "p.nii.gz", p_map(0.001), intent=("p value", ()))
    assert abs(peak_of(p)[2] - 12) < 15


def test_one_volume_of_several_is_drawn_and_has_its_own_peak(tmp_path):
    both = torch.from_numpy(np.stack([blob((0, 0, 12)), 2 * blob((-30, 0, 0))]).astype(np.float32))
    io.write_volume(tmp_path / "both.nii.gz", Volume(both, GRID))
    for number, data in enumerate(both, 1):
        one = write(tmp_path / "one.nii.gz", data.numpy())
        assert peak_of(tmp_path / "both.nii.gz", number) == pytest.approx(peak_of(one))
        untitled = View(title="")
        pictures = [
            imread(show_map(path, tmp_path / "out.png", view=untitled, number=which))
            for path, which in ((tmp_path / "both.nii.gz", number), (one, None))
        ]
        np.testing.assert_array_equal(*pictures)
    for number in (None, 3):
        with pytest.raises(ScanError, match=r"both\.nii\.gz: the image has 2 volumes; choose one of 1 to 2 with --vol"):
            show_map(tmp_path / "both.nii.gz", tmp_path / "never.png", number=number)
