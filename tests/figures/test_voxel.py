"""The figure of one voxel: scans named, groups coloured, lines and levels, few and many scans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from vbmstat.figures.style import BLUE, ORANGE
from vbmstat.figures.voxel import voxel_figure
from vbmstat.glm.voxel import VoxelFit


def made(n_scans: int, is_factor: bool = False, levels: int = 2) -> VoxelFit:
    """Numbers as `voxel_fit` gives them, invented."""
    rng = np.random.default_rng(0)
    groups = np.resize([f"group {i}" for i in range(levels)], n_scans)
    age, residual = rng.uniform(20, 80, n_scans), rng.normal(0, 0.02, n_scans)
    fit = 0.6 - 0.002 * age
    scans = pd.DataFrame({
        "scan_id": [f"sub-{i:03d}" for i in range(n_scans)],
        "participant_id": [f"sub-{i:03d}" for i in range(n_scans)],
        "covariate": groups if is_factor else age, "group": groups,
        "adjusted": fit + residual, "fitted": fit, "residual": residual, "cooks_distance": residual**2,
    }).sort_values("cooks_distance", ascending=False, ignore_index=True)  # fmt: skip
    if is_factor:
        names = sorted(set(groups))
        line = pd.DataFrame({"covariate": names, "group": names, "fit": 0.5, "lower": 0.48, "upper": 0.52})
    else:
        x = np.linspace(20, 80, 50)
        line = pd.DataFrame({"covariate": x, "group": "", "fit": 0.6 - 0.002 * x})
        line = line.assign(lower=line["fit"] - 0.01, upper=line["fit"] + 0.01)
    return VoxelFit(
        "age", "t", -3.2, 95.0, 0.0019, "group" if is_factor else "age", is_factor, "group", scans, line,
        ("sex", "tiv"), "one variance for all scans", (),
    )  # fmt: skip


def drawn(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("n_scans", [10, 500])
@pytest.mark.parametrize("is_factor", [False, True])
def test_the_worst_scans_are_named_in_both_panels(n_scans, is_factor, tmp_path):
    fit = made(n_scans, is_factor)
    figure = voxel_figure(fit, "peak at −24, −18, −15 mm", "gm (mL/mL)", "years")
    assert drawn(figure) == 2 * fit.scans["scan_id"][:3].tolist()
    left, right = figure.axes
    assert left.get_title() == "age: t(95) = −3.20, uncorrected p = 0.0019"
    assert left.get_ylabel() == "gm (mL/mL)\nadjusted for sex, tiv"
    assert right.get_ylabel() == "residual"
    figure.savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize("is_factor", [False, True])
def test_a_thin_line_joins_the_scans_of_a_person_in_the_order_of_the_axis(is_factor):
    fit = made(7, is_factor)
    alone = len(voxel_figure(fit, "at", "gm").axes[0].lines)
    owner = fit.scans["scan_id"].replace({"sub-004": "sub-002", "sub-005": "sub-002"})
    left = voxel_figure(replace(fit, scans=fit.scans.assign(participant_id=owner)), "at", "gm").axes[0]
    (line,) = [one for one in left.lines if one.get_linewidth() < 0.5]
    assert len(left.lines) == alone + 1
    of_one = fit.scans[owner == "sub-002"]
    assert sorted(line.get_ydata()) == sorted(of_one["adjusted"])
    assert (np.diff(line.get_xdata()) > 0).all()
    if not is_factor:
        np.testing.assert_array_equal(line.get_xdata(), sorted(of_one["covariate"]))


def test_points_have_the_colour_of_their_group():
    fit = made(30)
    figure = voxel_figure(fit, "at", "gm")
    (cloud, *_) = [one for one in figure.axes[1].collections if len(one.get_offsets()) == 30]
    expected = [{"group 0": BLUE, "group 1": ORANGE}[group] for group in fit.scans["group"]]
    assert [to_hex(colour).upper() for colour in cloud.get_facecolors()] == expected
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["group 0", "group 1"]


def test_levels_have_means_and_counts():
    figure = voxel_figure(made(30, is_factor=True, levels=3), "at", "gm")
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == ["group 0\nn = 10", "group 1\nn = 10", "group 2\nn = 10"]
    assert not figure.legends  # the axis says it


def test_many_groups_have_no_legend():
    figure = voxel_figure(made(60, levels=20), "at", "gm")
    assert not figure.legends
