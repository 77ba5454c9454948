"""Which scans may be exchanged: trees of exchangeability blocks, their rearrangements and sign flips.

A tree's leaves are the rows of the design. At every node the branches may be swapped with one another (only those of
equal structure are) or not: blocks whose scans are shuffled within are a root that does not swap over nodes that do,
whole-block shuffling is the reverse. Numbering and signs are PALM's. Winkler et al. 2014
(doi:10.1016/j.neuroimage.2014.01.060), 2015 (doi:10.1016/j.neuroimage.2015.05.092).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.spec import EXCHANGES

BLOCK = 128  # random rearrangements drawn from one seed, so that any range of them can be drawn again


@dataclass(frozen=True)
class Node:
    """A node of the tree.

    Attributes
    ----------
    swaps : bool
        Whether branches of equal structure may change places.
    branches : tuple of Node or int
        Branches, ordered by structure; an int is a row.
    """

    swaps: bool
    branches: tuple[Node | int, ...]

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows under the node, in the order of the leaves."""
        return np.concatenate([_rows(branch) for branch in self.branches])

    @cached_property
    def structure(self) -> str:
        """Equal for nodes that may change places."""
        counts = Counter(_structure(branch) for branch in self.branches)
        return ("+" if self.swaps else "-") + "(" + ",".join(f"{n}{s}" for s, n in sorted(counts.items())) + ")"

    @cached_property
    def groups(self) -> list[tuple[Node | int, ...]]:
        """Branches of equal structure."""
        return [tuple(group) for _, group in itertools.groupby(self.branches, _structure)]


def _rows(branch: Node | int) -> np.ndarray:
    return np.array([branch]) if isinstance(branch, int) else branch.rows


def _structure(branch: Node | int) -> str:
    return "." if isinstance(branch, int) else branch.structure


def _node(swaps: bool, branches: Sequence[Node | int]) -> Node:
    """A node with its branches in order of structure; with a single scan there is nothing to swap."""
    n_scans = sum(len(_rows(branch)) for branch in branches)
    return Node(swaps and n_scans > 1, tuple(sorted(branches, key=_structure)))


def free_tree(order: Sequence[int]) -> Node:
    """All rows may be exchanged; `order` numbers them independently of how the table is sorted."""
    return _node(True, [int(row) for row in order])


def block_tree(labels: Sequence[Any], exchange: str, order: Sequence[int]) -> Node:
    """Blocks of one column.

    Parameters
    ----------
    labels : sequence, (n_scans,)
        Equal for the scans of a block.
    exchange : {"within", "whole", "both"}
        What is exchanged: scans inside their block, blocks of equal size as wholes, or both.
    order : sequence of int, (n_scans,)
        Rows in an order that does not depend on how the table is sorted.

    Raises
    ------
    DesignError
        If `exchange` is something else.
    """
    if exchange not in EXCHANGES:
        msg = f"exchange={exchange!r}: expected one of {', '.join(EXCHANGES)}"
        raise DesignError(msg)
    blocks: dict[Any, list[int]] = {}
    for row in order:
        blocks.setdefault(labels[row], []).append(int(row))
    return _node(exchange != "within", [_node(exchange != "whole", rows) for rows in blocks.values()])


def level_tree(levels: np.ndarray, order: Sequence[int]) -> Node:
    """Blocks of several columns, PALM's multi-level notation.

    Parameters
    ----------
    levels : ndarray, (n_scans, n_levels), int
        From the coarsest to the finest; the first column holds one value. A positive number says that what lies
        directly under this block may be exchanged, a negative one that it may not. The last column tells scans apart
        (PALM's observation column), and its numbers are the scans' order inside their block.
    order : sequence of int, (n_scans,)
        As in :func:`block_tree`; the order of scans that no column tells apart.

    Raises
    ------
    DesignError
        If the first column holds several values, or one is zero; or if scans that no column tells apart have a positive
        number inside a block that moves as a whole. PALM adds the missing column and keeps their order, while the sign
        says that they are exchanged.
    """
    if (levels == 0).any() or len(np.unique(levels[:, 0])) != 1:
        msg = (
            "several block columns follow PALM: the first holds one value, each further one splits the blocks before "
            "it, and the sign says whether what lies under a block may be exchanged; found "
            f"{len(np.unique(levels[:, 0]))} values in the first column and {int((levels == 0).sum())} zeros"
        )
        raise DesignError(msg)

    def branch(rows: list[int], level: int, is_moved: bool) -> Node:
        number = int(levels[rows[0], level])
        if level == levels.shape[1] - 1:
            if number > 0 and is_moved and len(rows) > 1:
                msg = (
                    f"the last block column must tell scans apart: {len(rows)} scans of one block share the value "
                    f"{number}; add the observation column (1, 2, ... inside each block). Without it, PALM exchanges "
                    "whole blocks only"
                )
                raise DesignError(msg)
            return _node(number > 0, rows)
        parts: dict[int, list[int]] = {}
        for row in rows:
            parts.setdefault(int(levels[row, level + 1]), []).append(row)
        ordered = sorted(parts, key=lambda value: (abs(value), value))  # their position where a block moves as a whole
        is_moved = is_moved or number > 0
        return _node(number > 0, [branch(parts[value], level + 1, is_moved) for value in ordered])

    return branch([int(row) for row in order], 0, False)


def orbits(tree: Node) -> np.ndarray:
    """Label of each row, equal for rows that can take each other's place, (n_scans,), int."""
    labels = np.empty(len(tree.rows), dtype=np.int64)

    def visit(branch: Node | int) -> list[list[int]]:
        """Sets of rows that mix; those of branches of equal structure correspond."""
        if isinstance(branch, int):
            return [[branch]]
        sets: list[list[int]] = []
        for group in branch.groups:
            parts = [visit(member) for member in group]
            if branch.swaps:
                sets += [list(itertools.chain(*alike)) for alike in zip(*parts, strict=True)]
            else:
                sets += itertools.chain(*parts)
        return sets

    for label, rows in enumerate(visit(tree)):
        labels[rows] = label
    return labels


def count_arrangements(tree: Node, keys: np.ndarray) -> int:
    """Number of distinguishable rearrangements of rows, those with equal keys being alike.

    Examples
    --------
    >>> count_arrangements(free_tree(range(6)), np.array([0, 0, 0, 1, 1, 1]))  # 6 choose 3
    20
    """
    return _count(tree, keys)


def _count(branch: Node | int, keys: np.ndarray) -> int:
    if isinstance(branch, int):
        return 1
    total = math.prod(_count(member, keys) for member in branch.branches)
    if branch.swaps:
        for group in branch.groups:
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
    """Every distinguishable rearrangement, (count, n_scans), int: row i takes the place of row ``[.., i]``.

    The first is the identity.
    """
    found = np.array(list(_arrangements(tree, keys)))  # sources in the order of the leaves
    sources = np.empty_like(found)
    sources[:, tree.rows] = found
    same = (keys[sources] == keys).all(axis=1)
    sources = np.concatenate([np.arange(len(keys))[None], sources[~same]])
    return sources


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
                for rest in place([m - (i == j) for j, m in enumerate(left)]):
                    yield [i, *rest]

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
    """Independent sign flips, (n_flips, n_scans), 0 or 1, in the order of the leaves; each scan is in one of them.

    The branches of a node that swaps flip as wholes, and nothing below them does. Where no block moves as a whole, each
    scan flips for itself. As in PALM; the scans of a block that flip apart would be taken for independent.
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
            yield block, _rows(branch)
        elif len(branch.rows) == 1:
            yield block, branch.rows
        else:
            yield from _flipped_together(branch)


@dataclass(frozen=True)
class Rearrangements:
    """The rearrangements of a test, the identity first; any range of them can be made again.

    Attributes
    ----------
    tree : Node
        What may be exchanged.
    count : int
        How many there are, the identity among them.
    existing : int
        How many distinguishable ones exist.
    flips : ndarray, (n_flips, n_scans), or None
        Sign flips in place of permutations.
    seed : int
        Of the random ones, and of the order of all that exist.
    listed : ndarray, (count, n_scans), or None
        All of them, where they are listed.
    """

    tree: Node
    count: int
    existing: int
    flips: np.ndarray | None
    seed: int
    listed: np.ndarray | None = None

    @property
    def is_exhaustive(self) -> bool:
        """Whether they are all that exist."""
        return self.count == self.existing

    def sources(self, start: int, stop: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Row indices (b, n_scans) or None, and signs (b, n_scans) or None, of rearrangements `start` to `stop`."""
        if self.flips is not None:
            return None, 1.0 - 2.0 * self._flipped(start, stop)
        if self.listed is not None:
            return self.listed[start:stop], None
        drawn = self._blocks(start, stop, lambda rng: random_arrangements(self.tree, BLOCK, rng))
        if start == 0:
            drawn[0] = np.arange(drawn.shape[1])
        return drawn, None

    def _flipped(self, start: int, stop: int) -> np.ndarray:
        """Which rows are flipped, (b, n_scans), 0 or 1."""
        if self.flips is None:
            msg = "expected an arrangement with sign flips, got one of permutations only"
            raise DesignError(msg)
        n_flips = len(self.flips)
        if self.is_exhaustive:
            chosen = (self._order[start:stop, None] >> np.arange(n_flips)) & 1
        else:
            chosen = self._blocks(start, stop, lambda rng: rng.integers(0, 2, (BLOCK, n_flips)))
            if start == 0:
                chosen[0] = 0
        return np.rint(chosen.astype(np.float32) @ self.flips.astype(np.float32)) % 2

    @cached_property
    def _order(self) -> np.ndarray:
        """All flips in random order, the identity first."""
        return _shuffled(self.count, self.seed)

    def _blocks(self, start: int, stop: int, draw: Any) -> np.ndarray:
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [draw(np.random.default_rng([self.seed, block])) for block in range(first, last)]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]


def make_rearrangements(tree: Node, keys: np.ndarray, wanted: int, seed: int, flip: bool) -> Rearrangements:
    """All rearrangements in random order where there are no more than wanted, else random ones.

    Parameters
    ----------
    tree : Node
        What may be exchanged.
    keys : ndarray, (n_scans,), int
        Equal for rows whose exchange changes nothing.
    wanted : int
        How many at most, the identity among them.
    seed : int
        Of NumPy's PCG64.
    flip : bool
        Flip signs in place of permuting.

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
    """0, then the other numbers in random order: what is done first is a sample of what exists, (count,)."""
    return np.append(0, 1 + np.random.default_rng([seed, count]).permutation(count - 1))
