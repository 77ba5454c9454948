"""Which scans may be exchanged: trees of exchangeability blocks.

A tree's leaves are the rows of the design. At every node the branches may be swapped with one another (only those of
equal structure are) or not: shuffling inside blocks is a root that does not swap over nodes that do, whole-block
shuffling is the reverse. Numbering and signs are PALM's. Winkler et al. 2014 (doi:10.1016/j.neuroimage.2014.01.060),
2015 (doi:10.1016/j.neuroimage.2015.05.092).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.spec import EXCHANGES


@dataclass(frozen=True)
class Node:
    """A node of the tree."""

    swaps: bool  # whether branches of equal structure may change places
    branches: tuple[Node | int, ...]  # branches, ordered by structure; an int is a row

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows under the node, in the order of the leaves."""
        return np.concatenate([branch_rows(branch) for branch in self.branches])

    @cached_property
    def structure(self) -> str:
        """Equal for nodes that may change places."""
        counts = Counter(_structure(branch) for branch in self.branches)
        return ("+" if self.swaps else "-") + "(" + ",".join(f"{n}{s}" for s, n in sorted(counts.items())) + ")"

    @cached_property
    def groups(self) -> list[tuple[Node | int, ...]]:
        """Branches of equal structure."""
        return [tuple(group) for _, group in itertools.groupby(self.branches, _structure)]


def branch_rows(branch: Node | int) -> np.ndarray:
    """Rows under a branch, in the order of the leaves."""
    return np.array([branch]) if isinstance(branch, int) else branch.rows


def _structure(branch: Node | int) -> str:
    return "." if isinstance(branch, int) else branch.structure


def _node(swaps: bool, branches: Sequence[Node | int]) -> Node:
    """A node with its branches in order of structure; with a single scan there is nothing to swap."""
    n_scans = sum(len(branch_rows(branch)) for branch in branches)
    return Node(swaps and n_scans > 1, tuple(sorted(branches, key=_structure)))


def free_tree(order: Sequence[int]) -> Node:
    """All rows may be exchanged; `order` as in :func:`block_tree`."""
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
            "it, and the sign says whether what lies under a block may be exchanged; got "
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
