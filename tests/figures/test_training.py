"""Curves of a training run show every measure of the log, and where a stage ends."""

from __future__ import annotations

import pandas as pd
import pytest

from vbmstat.figures.training import curves_figure

LOG = pd.DataFrame(
    {
        "stage": ["foundation", "foundation", "patch 00"],
        "epoch": [1, 2, 1],
        "loss": [0.5, 0.3, 0.2],
        "validation_dice_gm": [0.4, 0.6, 0.8],
        "learning_rate": [1e-4, 1e-3, 1e-4],
        "seconds": [1.0, 1.0, 1.0],
    }
)


def test_every_measure_has_its_curve():
    figure = curves_figure(LOG)
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["loss", "dice\ngm", "learning\nrate"]
    for axis, name in zip(figure.axes, ("loss", "validation_dice_gm", "learning_rate"), strict=True):
        assert list(axis.lines[0].get_ydata()) == pytest.approx(list(LOG[name]))
        assert axis.lines[1].get_xdata()[0] == 2.5  # the second stage
    assert all(float(tick).is_integer() for tick in figure.axes[-1].get_xticks())


def test_a_run_without_validation_has_curves():
    figure = curves_figure(LOG.drop(columns="validation_dice_gm"))
    assert len(figure.axes) == 2
