"""Folds that keep groups (datasets, sites) together, so that a network is validated on datasets it never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def grouped_folds(groups: Sequence[str], n_folds: int, seed: int = 0) -> list[int]:
    """Fold of each case; cases of a group share a fold, and folds have similar numbers of cases.

    Parameters
    ----------
    groups : sequence of str
        Group of each case.
    n_folds : int
        Number of folds.
    seed : int
        Orders groups of equal size. The same groups and seed give the same folds for every network, so that no network
        of a pipeline trains on cases that validate another.

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
    for group in sorted(shuffled, key=lambda group: -sizes[group]):  # large groups first, each to the emptiest fold
        fold[group] = load.index(min(load))
        load[fold[group]] += sizes[group]
    return [fold[group] for group in groups]
