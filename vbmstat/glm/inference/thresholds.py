"""Heights that a voxel must reach (of permutations: exceed), by each correction, and how many voxels do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vbmstat.glm.inference.permute.nulls import ALPHA, Nulls

UNCORRECTED_P = 0.001


class Threshold(NamedTuple):
    """How it was found; t or F, None where there is no single one; voxels that are significant by it."""

    by: str
    height: float | None
    voxels: int


def height_thresholds(
    size: np.ndarray, p: np.ndarray, q: np.ndarray, height_of_p: Callable[[float], float] | None, nulls: Nulls | None
) -> tuple[Threshold, ...]:
    """Thresholds by every correction but random fields.

    Parameters
    ----------
    size : ndarray, (n_inside,)
        T or F in the tested direction: absolute values of a two-sided test.
    p, q : ndarray, (n_inside,)
        Uncorrected p, and q of FDR.
    height_of_p : callable, optional
        From p to t or F; None where degrees of freedom differ between voxels, so that no height fits all.
    nulls : Nulls, optional
        Permutations.
    """
    called = size[q <= ALPHA]
    of_called = float(called.min()) if called.size and height_of_p is not None else None
    raw, bonferroni = (
        Threshold(by, None if height_of_p is None else height_of_p(at), int((p <= at).sum()))
        for by, at in (
            (f"uncorrected p = {UNCORRECTED_P:g}", UNCORRECTED_P), (f"FWE p = {ALPHA:g}, Bonferroni", ALPHA / len(p)),
        )
    )  # fmt: skip
    found = (raw, Threshold(f"FDR q = {ALPHA:g}", of_called, called.size), bonferroni)
    if nulls is None:
        return found
    by = f"FWE p = {ALPHA:g}, {nulls.count} permutations"
    return (*found, Threshold(by, nulls.critical(), int((nulls.p_fwe <= ALPHA).sum())))
