"""Compiled loops over the products of permuted designs with a tile of voxels."""

from __future__ import annotations

import numpy as np

from vbmstat.glm.fit.kernel import Array, compiled
from vbmstat.maps.store import CHUNK_VOXELS as TILE

_ONE = np.float32(1)


@compiled
def _score(products: Array, i: int, m: int, is_signed: bool, least: np.float32, left: Array, score: Array) -> None:
    """Scores of permutation i into `score` (TILE,); `left` (TILE,) to work in."""
    for v in range(TILE):
        score[v] = products[0, i, v] if is_signed else products[0, i, v] * products[0, i, v]
        left[v] = _ONE
    for j in range(1, m):
        for v in range(TILE):
            score[v] += products[j, i, v] * products[j, i, v]
    for j in range(m, products.shape[0]):
        for v in range(TILE):
            left[v] -= products[j, i, v] * products[j, i, v]
    if products.shape[0] > m:
        for v in range(TILE):
            share = max(left[v], least)
            score[v] /= np.sqrt(share) if is_signed else share


@compiled
def _move_largest_first(values: Array) -> None:
    """Put the largest of the values (TILE,) in the first place; the others are lost."""
    width = TILE // 2
    while width:
        for v in range(width):
            values[v] = values[v] if values[v] > values[v + width] else values[v + width]
        width //= 2


@compiled
def reduce_products(
    products: Array, m: int, is_signed: bool, lowest: np.float32, least: np.float32, outside: Array, level: Array,
    first: Array, largest: Array, counts: Array,
) -> None:  # fmt: skip
    """Scores of b permutations: the largest of each, and how many reach a voxel's level.

    Parameters
    ----------
    products : (k, b, TILE), float32
        With m tested directions and k - m of the nuisance regressors that move.
    is_signed, lowest, least
        Whether scores are s, not s²; a score that no voxel outside exceeds; the least share of a length that
        permuted residuals have once the nuisance is projected out (inside it they have no effect: 0 / 0 is 0).
    outside, level : (TILE,)
        Voxels that are not tested; what a score must reach.
    first : (TILE,) or (0,)
        The first permutation's scores, if they are known.
    largest : (b,), counts : (TILE,), int64
        Receive the largest scores; are added to.
    """
    score, left = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for i in range(products.shape[1]):
        _score(products, i, m, is_signed, least, left, score)
        if i == 0 and len(first):
            score[:] = first
        for v in range(TILE):
            score[v] = lowest if outside[v] else score[v]
            counts[v] += 1 if score[v] >= level[v] else 0
        _move_largest_first(score)
        largest[i] = score[0]


@compiled
def _root(parent: Array, voxel: int) -> int:
    """Root of a voxel's cluster, which the voxel then names as its parent."""
    root: int = parent[voxel]
    while parent[root] != root:
        root = parent[root]
    parent[voxel] = root
    return int(root)


@compiled
def _joined(root: int, other: int, low: float, parent: Array, size: Array, best: Array, cube: Array) -> int:
    """Root of two clusters joined at a height cubed, `low`, to which the second is integrated; -1 for no first."""
    best[other] += np.sqrt(np.float64(size[other])) * (cube[other] - low)
    cube[other] = low
    if root < 0:
        return other
    if size[root] < size[other]:
        root, other = other, root
    parent[other] = root
    size[root] += size[other]
    best[root] = max(best[root], best[other])
    return root


@compiled
def enhance_largest(
    heights: Array, places: Array, offsets: Array, parent: Array, size: Array, best: Array, cube: Array
) -> float:
    """Largest TFCE value of the positive part of a map, exact for H = 2 and E = 0.5.

    Voxels join their clusters from the highest down (union-find). Of each cluster it suffices to know the largest
    integral over its voxels down to the height of its last change: between changes all of them grow alike.

    Parameters
    ----------
    heights : (k,), float32
        Positive, falling.
    places : (k,), int32
        Their voxels in an image with a rim of one voxel.
    offsets : (26,), int32
        From a voxel of that image to its neighbours.
    parent, size : (n,), int32, best, cube : (n,), float64
        To work in, of the size of the image.
    """
    parent[:] = -1
    for i in range(heights.shape[0]):
        voxel, root = places[i], np.int32(-1)
        low = np.float64(heights[i]) ** 3
        for offset in offsets:
            near = voxel + offset
            if parent[near] >= 0 and parent[near] != root:
                top = _root(parent, near)
                if top != root:
                    root = _joined(root, top, low, parent, size, best, cube)
        if root < 0:
            root, size[voxel], best[voxel], cube[voxel] = voxel, 0, 0.0, low
        parent[voxel] = root
        size[root] += 1
    largest = 0.0
    for voxel in places:
        if parent[voxel] == voxel:
            largest = max(largest, best[voxel] + np.sqrt(np.float64(size[voxel])) * cube[voxel])
    return largest / 3
