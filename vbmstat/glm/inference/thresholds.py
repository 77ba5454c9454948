"""Heights that a voxel must reach, by each correction, and how many voxels do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vbmstat.glm.inference.permute.nulls import ALPHA, Nulls

UNCORRECTED_P = 0.001


class Threshold(NamedTuple):
    """How it was found; t or F, None where there is no single one; voxels that reach it."""

    by: str
    height: float | None
    voxels: int


def reached(by: str, height: float | None, size: np.ndarray) -> Threshold:
    """A threshold with the voxels of `size` that reach it."""
    return Threshold(by, height, 0 if height is None else int((size >= height).sum()))


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
    found = [
        Threshold(by, None if height_of_p is None else height_of_p(at), int((p <= at).sum()))
        for by, at in (
            (f"uncorrected p = {UNCORRECTED_P:g}", UNCORRECTED_P), (f"FWE p = {ALPHA:g}, Bonferroni", ALPHA / len(p)),
        )
    ]  # fmt: skip
    height = float(called.min()) if called.size and height_of_p is not None else None
    found.insert(1, Threshold(f"FDR q = {ALPHA:g}", height, called.size))
    if nulls is not None:
        found.append(reached(f"FWE p = {ALPHA:g}, {nulls.count} permutations", nulls.critical(), size))
    return tuple(found)
