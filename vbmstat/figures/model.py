"""Figures of a linear model: design matrix and glass brains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from vbmstat.figures.style import DIVERGING, plain
from vbmstat.image.io import as_nifti
from vbmstat.image.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_ROWS_LABELLED = 40


def scaled_columns(matrix: np.ndarray) -> np.ndarray:
    """Each column of a matrix from 0 to 1 over its own range; 1 where it is constant."""
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (matrix - low) / spread, 1.0)


def design_figure(matrix: np.ndarray, columns: Sequence[str], scan_ids: Sequence[str]) -> Figure:
    """The design matrix (n_scans, n_regressors) in grey levels, each column scaled to its own range as in SPM."""
    n_scans, n_regressors = matrix.shape
    shades = scaled_columns(matrix)
    width = 2.0 + 0.6 * n_regressors
    figure = Figure(figsize=(width, max(4.0, min(0.16 * n_scans, 9.0)) + 1.2), dpi=120, layout="constrained")
    axes: Axes = figure.subplots()
    axes.imshow(shades, aspect="auto", cmap="gray", interpolation="nearest", vmin=0, vmax=1)
    axes.xaxis.tick_top()
    axes.set_xticks(range(n_regressors), [plain(name) for name in columns], rotation=45, ha="left")
    if n_scans <= _MAX_ROWS_LABELLED:
        axes.set_yticks(range(n_scans), [plain(name) for name in scan_ids], fontsize=6)
    else:
        axes.set_ylabel(f"{n_scans} scans")
    axes.set_xticks(np.arange(n_regressors - 1) + 0.5, minor=True)
    axes.grid(which="minor", axis="x", color="tab:blue", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    return figure


def glass_brain_figure(statistic: Volume, title: str, threshold: float, symbol: str = "t") -> Figure:
    """Maximum-intensity projections of a statistic in MNI space, of voxels beyond ±threshold.

    Parameters
    ----------
    statistic : Volume, (1, X, Y, Z)
        In MNI space.
    title : str
        Title.
    threshold : float
        Voxels with a smaller absolute value are not shown.
    symbol : str
        Label of the colour bar.
    """
    from nilearn.plotting import plot_glass_brain  # noqa: PLC0415 - slow import, only for this picture

    values = torch.nan_to_num(statistic.data)
    figure = Figure(figsize=(9.0, 3.4), dpi=120)
    peak = float(values.abs().max())
    if peak <= threshold:
        axes: Axes = figure.subplots()
        axes.set_axis_off()
        axes.text(
            0.5, 0.5, f"no voxel with |{symbol}| > {threshold:.2f} (largest {peak:.2f})", ha="center", va="center"
        )
        axes.set_title(plain(title))
        return figure
    plot_glass_brain(
        as_nifti(Volume(values, statistic.grid)),
        figure=figure,
        threshold=threshold,
        colorbar=True,
        plot_abs=False,
        vmax=peak,
        cmap=DIVERGING,
        symmetric_cbar=True,
        display_mode="lyrz",
    )
    figure.suptitle(plain(f"{title}: |{symbol}| > {threshold:.2f}"), fontsize=10, y=0.99)
    return figure
