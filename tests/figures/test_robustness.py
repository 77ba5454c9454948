"""Pictures of robustness: what is in the tables is in the axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat.figures.robustness import artefacts_figure, atrophy_figure, contact_sheet
from vbmstat.figures.style import save_png
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

GRID = Grid((20, 24, 18), np.diag([2.0, 2.0, 2.0, 1.0]))


def artefact_rows(engine: str, head: str, loss: float) -> list[dict]:
    rows = [{"head": head, "artefact": "none", "strength": "none", "engine": engine, "dice_gm": 0.95}]
    for name in ("noise", "bias $x_"):
        for strength, factor in (("medium", 1), ("strong", 2)):
            rows.append({
                "head": head, "artefact": name, "strength": strength, "engine": engine, "dice_gm": 0.95 - factor * loss,
            })  # fmt: skip
    return rows


def test_medians_of_medium_and_strong_are_drawn_for_each_engine(tmp_path):
    table = pd.DataFrame([*artefact_rows("a", "x", 0.1), *artefact_rows("a", "y", 0.2), *artefact_rows("b", "x", 0.01)])
    table = pd.concat([table, pd.DataFrame(artefact_rows("a", "w", 0.11))], ignore_index=True)
    table.loc[len(table)] = ["z", "noise", "medium", "a", np.nan]  # one that failed
    figure = artefacts_figure(table)
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_ydata())]
    medians = [float(dot.get_ydata()[0]) for dot in dots]
    assert medians == pytest.approx([0.84, 0.73, 0.84, 0.73, 0.94, 0.93, 0.94, 0.93])
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [True, False] * 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    save_png(tmp_path / "a.png", figure)


def test_the_sheet_shows_every_image_on_one_grey_scale(tmp_path):
    data = torch.zeros(1, *GRID.shape)
    data[:, 4:16, 5:20, 3:15] = 100.0
    figure = contact_sheet(
        [("none", Volume(data, GRID)), *((f"n{n}", Volume(data * n, GRID)) for n in range(6))], "t_$"
    )
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["none", *(f"n{n}" for n in range(6))]
    assert all(axes.images[0].get_clim() == pytest.approx((0.0, 105.0)) for axes in shown)
    assert shown[2].images[0].get_array().shape == (15, 12)
    save_png(tmp_path / "a.png", figure)


def test_a_panel_an_engine_and_a_line_a_head(tmp_path):
    table = pd.DataFrame({
        "head": ["x", "x", "y", "y", "x", "x"], "engine": ["a"] * 4 + ["b"] * 2,
        "true_change_percent": [0, -5.0, 0, -6.0, 0, -5.0], "found_change_percent": [0, -4.0, 0, -7.0, 0, np.nan],
    })  # fmt: skip
    figure = atrophy_figure(table)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 2]  # the identity, too
    assert figure.axes[0].lines[1].get_ydata().tolist() == [-4.0, 0.0]
    save_png(tmp_path / "a.png", figure)
