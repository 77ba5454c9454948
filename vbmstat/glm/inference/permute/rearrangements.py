"""Rearrangements of scans: permutations or sign flips that exchangeability blocks allow, all of them or random ones."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.inference.permute.blocks import Node, branch_rows

BLOCK = 128  # random rearrangements drawn from one seed, so that any range of them can be drawn again


def count_arrangements(tree: Node, keys: np.ndarray) -> int:
    """Number of distinguishable rearrangements of rows, those with equal keys being alike.

    Examples
    --------
    >>> count_arrangements(Node(True, tuple(range(6))), np.array([0, 0, 0, 1, 1, 1]))  # 6 choose 3
    20
    """
    total = math.prod(count_arrangements(branch, keys) for branch in tree.branches if isinstance(branch, Node))
    if tree.swaps:
        for group in tree.groups:
            alike = Counter(_canonical(member, keys) for member in group)
            total *= math.factorial(len(group)) // math.prod(math.factorial(n) for n in alike.values())
    return total


def _canonical(branch: Node | int, keys: np.ndarray) -> Any:
    """Equal for branches whose rearrangements are the same."""
    if isinstance(branch, int):
        return int(keys[branch])
    inner = [[_canonical(member, keys) for member in group] for group in branch.groups]
    return tuple(tuple(sorted(part)) if branch.swaps else tuple(part) for part in inner)


def all_arrangements(tree: Node, keys: np.ndarray) -> np.ndarray:
    """All distinguishable rearrangements, the identity first, (count, n_scans), int: row i moves to row ``[.., i]``."""
    of_leaves = np.array(list(_arrangements(tree, keys)))
    sources = np.empty_like(of_leaves)
    sources[:, tree.rows] = of_leaves
    same = (keys[sources] == keys).all(axis=1)
    return np.concatenate([np.arange(len(keys))[None], sources[~same]])


def _arrangements(branch: Node | int, keys: np.ndarray) -> Iterator[tuple[int, ...]]:
    if isinstance(branch, int):
        yield (branch,)
        return
    for order in itertools.product(*(_orders(group, keys, branch.swaps) for group in branch.groups)):
        members = [member for group in order for member in group]
        for parts in itertools.product(*(_arrangements(member, keys) for member in members)):
            yield tuple(itertools.chain.from_iterable(parts))


def _orders(group: Sequence[Node | int], keys: np.ndarray, swaps: bool) -> Iterator[list[Node | int]]:
    """Distinguishable orders of branches."""
    if not swaps:
        yield list(group)
        return
    alike: dict[Any, list[Node | int]] = {}
    for member in group:
        alike.setdefault(_canonical(member, keys), []).append(member)
    classes = list(alike.values())

    def place(left: list[int]) -> Iterator[list[int]]:
        if not any(left):
            yield []
        for i, n in enumerate(left):
            if n:
                for others in place([m - (i == j) for j, m in enumerate(left)]):
                    yield [i, *others]

    for sequence in place([len(members) for members in classes]):
        supply = [iter(members) for members in classes]
        yield [next(supply[i]) for i in sequence]


def random_arrangements(tree: Node, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rearrangements drawn uniformly, with replacement, (count, n_scans), int."""
    sources = np.empty((count, len(tree.rows)), dtype=np.int64)
    sources[:, tree.rows] = _draw(tree, count, generator)
    return sources


def _draw(branch: Node | int, count: int, generator: np.random.Generator) -> np.ndarray:
    if isinstance(branch, int):
        return np.full((count, 1), branch)
    parts = []
    for group in branch.groups:
        if all(isinstance(member, int) for member in group):
            drawn = np.broadcast_to(np.array(group)[None, :, None], (count, len(group), 1))
        else:
            drawn = np.stack([_draw(member, count, generator) for member in group], axis=1)  # (count, g, rows)
        if branch.swaps:
            order = np.argsort(generator.random((count, len(group))), axis=1)
            drawn = np.take_along_axis(drawn, order[:, :, None], axis=1)
        parts.append(drawn.reshape(count, -1))
    return np.concatenate(parts, axis=1)


def flip_basis(tree: Node) -> np.ndarray:
    """Independent sign flips, (n_flips, n_scans), 0 or 1; each scan is in one of them.

    As in PALM, the branches of a node that swaps flip as wholes, and nothing below them does. Where no block moves as a
    whole, each scan flips on its own, as if the scans of a block were independent.
    """
    flips = [rows for _, rows in _flipped_together(tree)]
    basis = np.zeros((len(flips), len(tree.rows)), dtype=np.int8)
    for flip, rows in zip(basis, flips, strict=True):
        flip[rows] = 1
    return basis


def blocks_flipped_apart(tree: Node) -> int:
    """Number of blocks of several scans whose scans flip one by one."""
    return len({id(block) for block, rows in _flipped_together(tree)
                if len(rows) == 1 and block is not tree and len(block.rows) > 1})  # fmt: skip


def _flipped_together(block: Node) -> Iterator[tuple[Node, np.ndarray]]:
    """Rows of each flip, with the block that they flip in."""
    for branch in block.branches:
        if block.swaps or isinstance(branch, int):
            yield block, branch_rows(branch)
        elif len(branch.rows) == 1:
            yield block, branch.rows
        else:
            yield from _flipped_together(branch)


@dataclass(frozen=True)
class Rearrangements:
    """The rearrangements of a test, the identity first; any range of them can be drawn again."""

    tree: Node  # what may be exchanged
    # how many there are, the identity among them, and how many distinguishable ones exist
    count: int
    existing: int
    flips: np.ndarray | None  # (n_flips, n_scans): sign flips in place of permutations
    seed: int  # of the random ones, and of the order of all that exist
    listed: np.ndarray | None = None  # (count, n_scans): all permutations, if no more exist

    @property
    def is_exhaustive(self) -> bool:
        """Whether they are all that exist."""
        return self.count == self.existing

    def sources(self, start: int, stop: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Row indices (b, n_scans) or None, and signs (b, n_scans) or None, of rearrangements `start` to `stop`."""
        if self.listed is not None:
            return self.listed[start:stop], None
        if self.flips is None:
            drawn = self._draw(start, stop, lambda rng: random_arrangements(self.tree, BLOCK, rng))
            if start == 0:
                drawn[0] = np.arange(drawn.shape[1])
            return drawn, None
        n_flips = len(self.flips)
        if self.is_exhaustive:
            chosen = (self._all_flips[start:stop, None] >> np.arange(n_flips)) & 1
        else:
            chosen = self._draw(start, stop, lambda rng: rng.integers(0, 2, (BLOCK, n_flips)))
            if start == 0:
                chosen[0] = 0
        is_flipped = np.rint(chosen.astype(np.float32) @ self.flips.astype(np.float32)) % 2
        return None, 1.0 - 2.0 * is_flipped

    @cached_property
    def _all_flips(self) -> np.ndarray:
        """All flips in random order, the identity first."""
        return _shuffled(self.count, self.seed)

    def _draw(self, start: int, stop: int, draw: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [draw(np.random.default_rng([self.seed, block])) for block in range(first, last)]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]


def make_rearrangements(tree: Node, keys: np.ndarray, wanted: int, seed: int, flip: bool) -> Rearrangements:
    """All rearrangements in random order, identity first, if no more exist than wanted, else random ones.

    `keys` (n_scans,) are equal for rows whose exchange changes nothing; the seed is of PCG64; `flip` flips signs
    in place of permuting.

    Raises
    ------
    DesignError
        If fewer than two are wanted, or only one exists.
    """
    if wanted < 2:
        msg = f"permutations={wanted}: expected at least 2, the unpermuted data being one of them"
        raise DesignError(msg)
    flips = flip_basis(tree) if flip else None
    existing = count_arrangements(tree, keys) if flips is None else 2 ** len(flips)
    if existing < 2:
        verb = "flip" if flip else "permute"
        msg = f"the exchangeability blocks leave nothing to {verb}: only one arrangement exists"
        raise DesignError(msg)
    if existing > wanted:
        return Rearrangements(tree, wanted, existing, flips, seed)
    listed = all_arrangements(tree, keys)[_shuffled(existing, seed)] if flips is None else None
    return Rearrangements(tree, existing, existing, flips, seed, listed)


def _shuffled(count: int, seed: int) -> np.ndarray:
    """0, then the other numbers in random order, so that the first are a sample of all, (count,)."""
    return np.append(0, 1 + np.random.default_rng([seed, count]).permutation(count - 1))
