"""nilearn's interactive slice viewer as a self-contained page that needs no network."""

from __future__ import annotations

import re
import warnings
from functools import cache

import numpy as np
import torch

from vbmstat.figures.mosaic import average_brain
from vbmstat.figures.style import DIVERGING, SEQUENTIAL
from vbmstat.image.io import as_nifti
from vbmstat.image.volume import Volume

_BACKGROUND_MM = 2.0  # voxels of the average brain: a viewer of 0.5 MB
_BRAIN_FROM = 0.05  # intensity of the average brain, 0 to 1
_OUTSIDE_LINK = re.compile(r"<link[^>]*\bhref=[\"']?https?:[^>]*>")


def viewer_html(statistic: Volume, title: str, threshold: float) -> str:
    """An interactive page of three linked slices, opened at the largest absolute value.

    Parameters
    ----------
    statistic : Volume, (1, X, Y, Z)
        In MNI space; 0 or NaN where nothing was estimated.
    title : str
        Shown in the picture.
    threshold : float
        Voxels with a smaller absolute value are transparent.
    """
    from nilearn.plotting import view_img  # noqa: PLC0415 - slow import, only for this page

    values = torch.nan_to_num(statistic.data[:1])
    peak_mm = peak_position_mm(Volume(values, statistic.grid))
    one_sided = bool(values.min() >= 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # from numpy, about nilearn's masked arrays
        view = view_img(
            as_nifti(Volume(values, statistic.grid)), bg_img=as_nifti(_background()), black_bg=False,
            threshold=min(threshold, float(values.abs().max()) * 0.999) or 1e-6, title=title,
            cut_coords=tuple(peak_mm), symmetric_cmap=not one_sided, vmin=0 if one_sided else None,
            cmap=SEQUENTIAL if one_sided else DIVERGING, resampling_interpolation="nearest",
        )  # fmt: skip
    return _OUTSIDE_LINK.sub("", view.get_standalone())


@cache
def _background() -> Volume:
    """The average brain in light grey on white."""
    brain = average_brain(_BACKGROUND_MM)
    return Volume(torch.where(brain.data > _BRAIN_FROM, brain.data.clamp(max=0.95) + 0.3, 1.4), brain.grid)


def peak_position_mm(statistic: Volume) -> np.ndarray:
    """RAS+ mm of the voxel with the largest absolute value, (3,)."""
    flat = int(torch.nan_to_num(statistic.data[0]).abs().argmax())
    index = np.unravel_index(flat, statistic.grid.shape)
    return np.asarray((statistic.grid.affine @ [*index, 1.0])[:3])
