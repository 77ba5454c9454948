"""Figures of a training run."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vbmstat.figures.style import BLUE, ORANGE

_SCORE = "validation_"


def curves_figure(log: pd.DataFrame) -> Figure:
    """Loss, validation scores and learning rate by epoch, one row of axes per measure.

    Parameters
    ----------
    log : DataFrame
        ``log.tsv`` of a run: one row per epoch, stages in order.
    """
    scores = [name for name in log if str(name).startswith(_SCORE)]
    measures = ["loss", *scores, "learning_rate"]
    figure = Figure(figsize=(7, 1.3 * len(measures) + 0.6), dpi=100, layout="constrained")
    epochs = range(1, len(log) + 1)
    axes = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
    for axis, measure in zip(axes, measures, strict=True):
        axis.plot(epochs, log[measure], color=ORANGE if measure in scores else BLUE, marker=".", markersize=4)
        axis.set_ylabel(measure.removeprefix(_SCORE).replace("_", "\n"), rotation=0, ha="right", va="center")
        axis.grid(alpha=0.3)
        for begin in _stage_begins(log):
            axis.axvline(begin, color="0.6", linewidth=0.8)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    stages = list(dict.fromkeys(log["stage"]))
    figure.suptitle(" → ".join(stages) if len(stages) < 4 else f"{len(stages)} stages", fontsize=10)
    return figure


def _stage_begins(log: pd.DataFrame) -> list[float]:
    """Starts of stages, between two epochs."""
    stages = list(log["stage"])
    return [row + 0.5 for row in range(1, len(stages)) if stages[row] != stages[row - 1]]
