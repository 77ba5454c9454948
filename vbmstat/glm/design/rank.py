"""The rank of a matrix, and columns that are linear combinations of others; columns count at unit length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RANK_TOLERANCE = 1e-9  # of the largest singular value, columns scaled to unit length (as for lm's 1e-7 in R, stricter)


def unit_columns(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (n, p) scaled to unit length, and their lengths (p,); a column of zeros stays and has length 1."""
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0] = 1.0
    return matrix / norms, norms


def spaces(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the column space (n, rank) and the row space (rank, p) of a matrix, columns as they are."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    kept = singular > RANK_TOLERANCE * singular.max(initial=0.0)
    return left[:, kept], right[kept]


def matrix_rank(matrix: np.ndarray) -> int:
    """Rank of a matrix (n, p) whose columns are first scaled to unit length."""
    return len(spaces(unit_columns(matrix)[0])[1])


def collinear_columns(matrix: np.ndarray) -> list[int]:
    """Indices of columns that are linear combinations of those before them, for a matrix (n, p)."""
    basis = np.empty((matrix.shape[0], 0))
    collinear = []
    for index, column in enumerate(unit_columns(matrix)[0].T):
        for _ in range(2):  # twice is enough (Kahan): reorthogonalisation
            column = column - basis @ (basis.T @ column)  # noqa: PLW2901 - what the columns before leave of it
        norm = np.linalg.norm(column)
        if norm <= RANK_TOLERANCE:
            collinear.append(index)
        else:
            basis = np.column_stack([basis, column / norm])
    return collinear


def combined_columns(matrix: np.ndarray, index: int, names: Sequence[str]) -> list[str]:
    """Names of the columns before `index` whose combination is the column at `index`."""
    scaled, _ = unit_columns(matrix[:, :index])
    weights = np.linalg.lstsq(scaled, matrix[:, index], rcond=None)[0]
    return [name for name, w in zip(names, weights, strict=False) if abs(w) > 1e-6 * np.abs(weights).max()]
