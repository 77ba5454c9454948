"""One statistic of one contrast, ready to write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StatMap:
    """One statistic of one contrast over voxels or features.

    Attributes
    ----------
    stat : str
        ``"t"``, ``"p"``, ``"effect"``, …
    values : ndarray, (n_voxels,), float64
        Zero outside the mask (one for p).
    intent : (str, tuple of float) or None
        NIfTI intent with its degrees of freedom.
    description : str
        SPM's description string, or what the map is.
    """

    stat: str
    values: np.ndarray
    intent: tuple[str, tuple[float, ...]] | None
    description: str
