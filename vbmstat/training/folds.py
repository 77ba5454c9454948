"""Folds whose groups (datasets, sites) stay together, so that a network is judged on datasets that it never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def grouped_folds(groups: Sequence[str], n_folds: int, seed: int = 0) -> list[int]:
    """The fold of each case; cases of one group share it, and folds have about as many cases as each other.

    Parameters
    ----------
    groups : sequence of str
        Group of each case.
    n_folds : int
        Number of folds.
    seed : int
        Order of groups of the same size. The same groups and seed give the same folds for every network, so that no
        step of a pipeline has seen what another is judged on.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.

    Examples
    --------
    >>> grouped_folds(["a", "a", "b", "c"], 2) in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    sizes = Counter(groups)
    if len(sizes) < n_folds:
        msg = f"expected at least {n_folds} groups for {n_folds} folds, got {len(sizes)} ({', '.join(sorted(sizes))})"
        raise ValueError(msg)
    shuffled = np.random.default_rng(seed).permutation(sorted(sizes))
    load, fold = [0] * n_folds, {}
    for group in sorted(shuffled, key=lambda group: -sizes[group]):  # large ones first, each to the emptiest fold
        fold[group] = load.index(min(load))
        load[fold[group]] += sizes[group]
    return [fold[group] for group in groups]
