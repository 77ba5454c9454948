"""Permutation schemes the slow way: the permuted model is fitted anew, by definition (Winkler 2014, table 2)."""

from __future__ import annotations

import numpy as np

from tests.glm import oracle


def permuted_statistic(
    scheme: str, x: np.ndarray, c: np.ndarray, y: np.ndarray, p: np.ndarray, kind: str
) -> np.ndarray:
    """T or F (v,) of the model under the rearrangement matrix P (n, n) for X (n, p), C (m, p), Y (n, v).

    Freedman-Lane: (P R_Z + H_Z) Y on [X1 Z]; Smith: Y on [P R_Z X1, Z].
    """
    c = np.atleast_2d(np.asarray(c, dtype=float))
    _, singular, right = np.linalg.svd(c)
    null = right[(singular > 1e-10).sum() :]
    x1, z = x @ np.linalg.pinv(c), x @ null.T
    hat = z @ np.linalg.pinv(z) if z.shape[1] else np.zeros((len(x), len(x)))
    rest = np.eye(len(x)) - hat
    if scheme == "freedman-lane":
        y = (p @ rest + hat) @ y
    else:
        x1 = p @ rest @ x1
    model = np.column_stack([x1, z])
    rows = np.eye(len(c), model.shape[1])
    return oracle.fit(model, y, rows, kind)[2]
