"""Least squares the slow way, float64, one voxel matrix at a time: what the engine must agree with."""

from __future__ import annotations

import numpy as np


def fit(x: np.ndarray, y: np.ndarray, c: np.ndarray, kind: str = "t") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effect (first row), its variance and t or F for designs (n, p), values (n, v) and contrasts (m, p)."""
    y = np.asarray(y, dtype=np.float64)
    norms = np.linalg.norm(x, axis=0)
    norms[norms == 0] = 1
    beta, _, rank, _ = np.linalg.lstsq(x / norms, y, rcond=1e-10)
    residual = y - (x / norms) @ beta
    variance = (residual**2).sum(axis=0) / (len(x) - rank)
    c = np.atleast_2d(c) / norms
    spread = c @ np.linalg.pinv((x / norms).T @ (x / norms), rcond=1e-12) @ c.T  # (m, m)
    effect = c @ beta
    if kind == "t":
        return effect[0], variance * spread[0, 0], effect[0] / np.sqrt(variance * spread[0, 0])
    m = np.linalg.matrix_rank(c)
    f = np.einsum("iv,ij,jv->v", effect, np.linalg.pinv(spread), effect) / m / variance
    return effect[0], variance, f


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest |Δt| / max(1, |t|)."""
    assert np.isfinite(found).all()
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())
