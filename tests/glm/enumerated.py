"""Corrected p by every rearrangement, one after another: an oracle for a few scans.

A rearrangement is an order of the scans (n,) and a sign of each (n,). The statistic of each is that of the whole model,
fitted anew (:func:`tests.glm.permutation_oracle.permuted_statistic`); nothing is skipped or sampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from tests.glm.permutation_oracle import permuted_statistic

Rearrangement = tuple[Sequence[int], Sequence[int]]
_TIES = 1e-9  # relative; a statistic that is smaller by less is equal


def orders(n: int) -> Iterator[Rearrangement]:
    """All n! orders."""
    return ((order, (1,) * n) for order in itertools.permutations(range(n)))


def relabellings(group: np.ndarray) -> Iterator[Rearrangement]:
    """One order for each distinct way to deal two labels, 0 and 1, the given one first."""
    zeros, ones = np.flatnonzero(group == 0), np.flatnonzero(group == 1)
    ways = itertools.combinations(range(len(group)), len(ones))
    for chosen in sorted(ways, key=lambda way: way != tuple(ones)):
        order = np.empty(len(group), int)
        order[ones], order[zeros] = chosen, [i for i in range(len(group)) if i not in chosen]
        yield tuple(order.tolist()), (1,) * len(group)


def within(block: np.ndarray) -> Iterator[Rearrangement]:
    """All orders inside blocks."""
    rows = [np.flatnonzero(block == label) for label in np.unique(block)]
    for parts in itertools.product(*(list(itertools.permutations(part)) for part in rows)):
        order = np.empty(len(block), int)
        for part, moved in zip(rows, parts, strict=True):
            order[part] = moved
        yield tuple(order.tolist()), (1,) * len(block)


def whole(block: np.ndarray) -> Iterator[Rearrangement]:
    """All orders of blocks of equal size, the order inside them kept."""
    rows = [np.flatnonzero(block == label) for label in np.unique(block)]
    for moved in itertools.permutations(rows):
        order = np.empty(len(block), int)
        order[np.concatenate(rows)] = np.concatenate(moved)
        yield tuple(order.tolist()), (1,) * len(block)


def flips(n: int) -> Iterator[Rearrangement]:
    """All 2ⁿ signs."""
    return ((range(n), signs) for signs in itertools.product((1, -1), repeat=n))


def statistics(
    x: np.ndarray, contrast: np.ndarray, y: np.ndarray, rearrangements: Iterator[Rearrangement], kind: str = "t"
) -> np.ndarray:
    """T or F of every rearrangement by Freedman and Lane, (k, v); the first is that of the data as they are."""
    matrices = (np.eye(len(x))[list(order)] * np.asarray(signs)[:, None] for order, signs in rearrangements)
    return np.array([permuted_statistic("freedman-lane", x, contrast, y, p, kind) for p in matrices])


def corrected(values: np.ndarray) -> np.ndarray:
    """Family-wise p (v,) of the first row by the largest value of each row, (k, v)."""
    largest, own = values.max(axis=1), values[0]
    return (largest[:, None] >= own - _TIES * np.abs(own)).mean(axis=0)


def enhanced(statistic: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """TFCE (H = 2, E = 0.5, 26 neighbours) of one map of values >= 0, integrated exactly between its values."""
    box = statistic.reshape(shape)
    found, below = np.zeros(shape), 0.0
    for height in np.unique(box[box > 0]):
        labels, _ = ndimage.label(box >= height, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.reshape(-1)).astype(float)
        sizes[0] = 0.0
        found += np.sqrt(sizes)[labels] * (height**3 - below**3) / 3
        below = height
    return found.reshape(-1)
