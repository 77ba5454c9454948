from __future__ import annotations

import io as bytes_io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from vbmstat.figures import scans
from vbmstat.figures.scans import Overlay
from vbmstat.figures.style import save_png
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

SHAPE = (40, 50, 30)
GRID = Grid(SHAPE, np.diag([2.0, 1.5, 3.0, 1.0]))


def nested() -> np.ndarray:
    """p0 of nested boxes: CSF, GM, WM."""
    tissue = np.zeros(SHAPE, np.float32)
    for inset, value in ((5, 1), (8, 2), (11, 3)):
        tissue[inset:-inset, inset:-inset, inset:-inset] = value
    return tissue


def volume(data: np.ndarray, grid: Grid = GRID) -> Volume:
    return Volume(torch.from_numpy(data.astype(np.float32))[None], grid)


def report(scan: np.ndarray | Overlay | None = None, tissue: np.ndarray | None = None, **changes) -> Figure:
    tissue = nested() if tissue is None else tissue
    gm = volume((nested() == 2).astype(np.float32))
    if not isinstance(scan, Overlay):
        scan = Overlay(volume(100 * nested() if scan is None else scan), volume(tissue))
    arguments = {
        "scan": scan,
        "warped": Overlay(gm, gm), "title": "sub-01", "metrics": {"GM": "700 mL"},
    }  # fmt: skip
    return scans.scan_report(**{**arguments, **changes})


def pixels(figure: Figure) -> np.ndarray:
    stream = bytes_io.BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    stream.seek(0)
    return imread(stream)[..., :3]


def tinted(image: np.ndarray, colour: str) -> np.ndarray:
    """Pixels whose tint (red minus blue) is that of a colour, however thin its line."""
    red, _, blue = to_rgb(colour)
    return (image[..., 0] - image[..., 2]) * np.sign(red - blue) > 0.2


def test_the_picture_is_1600_pixels_wide_and_has_both_outlines() -> None:
    image = pixels(report())
    assert image.shape[1] == 1600
    assert tinted(image, scans.ORANGE).sum() > 10_000
    assert tinted(image, scans.SKY_BLUE).sum() > 5_000
    bare = pixels(report(tissue=np.zeros(SHAPE)))  # the captions keep their colours, and the template its outline
    assert tinted(image, scans.SKY_BLUE).sum() > 5 * tinted(bare, scans.SKY_BLUE).sum()


def test_six_rows_of_seven_panels_with_sides_marked() -> None:
    figure = report()
    assert [len(axes.images) for axes in figure.axes] == [7] * 6
    marks = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert marks == ["L", "R", "L", "R", "P", "A"] * 2


@pytest.mark.parametrize(
    ("axis", "end", "row", "across"),
    [(0, 0, 0, "left"), (0, -1, 0, "right"), (1, 0, 2, "left"), (2, -1, 1, "top"), (1, -1, 0, "top")],
)
def test_each_end_of_the_scan_is_drawn_where_the_letters_say(axis: int, end: int, row: int, across: str) -> None:
    scan = np.zeros(SHAPE, np.float32)
    part = [slice(None)] * 3
    part[axis] = slice(0, SHAPE[axis] // 2) if end == 0 else slice(SHAPE[axis] // 2, None)
    scan[tuple(part)] = 100.0
    image = report(scan=scan).axes[row].images[3]
    data = np.asarray(image.get_array())
    assert image.origin == "lower"
    rows, columns = data.shape
    bright = {
        "left": data[:, : columns // 3], "right": data[:, -(columns // 3) :],
        "top": data[-(rows // 3) :], "bottom": data[: rows // 3],
    }  # fmt: skip
    opposite = {"left": "right", "right": "left", "top": "bottom"}[across]
    assert bright[across].mean() > 90
    assert bright[opposite].mean() < 10


def test_voxels_keep_their_proportions() -> None:
    figure = report()
    width, height = figure.get_size_inches()
    for axes, mm in zip(figure.axes, ((2.0, 1.5), (2.0, 3.0), (1.5, 3.0)), strict=False):
        assert not axes.axison
        box = axes.get_position(original=True)  # before matplotlib shrinks it to the aspect
        expected = np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim())
        assert box.height * height / (box.width * width) == pytest.approx(expected)
        assert axes.get_aspect() == 1.0
        rows, columns = np.asarray(axes.images[0].get_array()).shape
        left, right, bottom, top = axes.images[0].get_extent()
        assert (right - left, top - bottom) == pytest.approx((columns * mm[0], rows * mm[1]))


def test_title_and_metrics_are_plain_text() -> None:
    figure = report(title=r"sub-$\no$", metrics={"GM": "700 mL", "noise": r"3 % of $\WM$"})
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == r"sub-$\no$"
    assert texts[1] == r"GM 700 mL  ·  noise 3 % of $\WM$"
    pixels(figure)  # as mathtext these names would raise


def test_many_metrics_wrap_and_make_the_picture_taller() -> None:
    many = {f"measure {number}": "123.4 mL" for number in range(30)}
    assert report(metrics=many).get_size_inches()[1] > report().get_size_inches()[1]


def test_empty_segmentation_and_constant_scan_still_draw() -> None:
    pixels(report(tissue=np.zeros(SHAPE), scan=np.zeros(SHAPE)))


def test_images_of_a_pair_must_share_their_grid() -> None:
    other = Grid(SHAPE, np.diag([1.0, 2.0, 3.0, 1.0]))
    with pytest.raises(ValueError, match=r"expected the grid .* of the image below"):
        Overlay(volume(nested()), volume(nested(), other))


def test_save_writes_a_whole_png(tmp_path) -> None:
    save_png(tmp_path / "new" / "report.png", report())
    assert imread(tmp_path / "new" / "report.png").shape[1] == 1600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.png"]


def test_lesions_have_outlines_of_their_own_and_a_legend() -> None:
    lesion = np.zeros(SHAPE, np.float32)
    lesion[14:26, 18:32, 12:18] = 1
    marked = {"hypointensities": volume(lesion), "lesion mask": volume(0.4 * lesion)}
    figure = report(scan=Overlay(volume(100 * nested()), volume(nested()), marked))
    assert {"hypointensities", "lesion mask"} <= {text.get_text() for text in figure.texts}
    drawn = [collection.get_edgecolor()[0][:3] for axes in figure.axes for collection in axes.collections]
    counts = {name: sum(np.allclose(c, to_rgb(c0)) for c in drawn) for name, c0 in (
        ("wmh", scans.PURPLE), ("mask", scans.VERMILLION))}  # fmt: skip
    assert counts["wmh"] > 3
    assert counts["mask"] == 0  # below one half
    other = {"mask": volume(lesion[1:], Grid((39, 50, 30), GRID.affine))}
    with pytest.raises(ValueError, match="expected the grid"):
        Overlay(volume(nested()), volume(nested()), other)
