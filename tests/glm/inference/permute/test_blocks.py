"""Exchangeability blocks by hand, and against all permutations of a few rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.inference.permute.blocks import block_tree, level_tree, orbits
from vbmstat.glm.inference.permute.rearrangements import all_arrangements, count_arrangements

DISTINCT = np.arange(6)
PAIRS = list("aabbcc")
FAMILY, OBSERVATION = np.repeat([1, 2, 3], 2), np.tile([1, 2], 3)


def as_set(sources):
    return {tuple(int(i) for i in row) for row in sources}


def by_definition(labels, exchange):
    """Rearrangements of rows that keep blocks together (whole, both) or in their place (within)."""
    n = len(labels)
    found = set()
    for order in itertools.permutations(range(n)):
        blocks = {label: [i for i in range(n) if labels[i] == label] for label in labels}
        moved = {label: [order[i] for i in rows] for label, rows in blocks.items()}
        stays = all(sorted(moved[label]) == blocks[label] for label in blocks)
        whole = all(sorted(rows) in list(blocks.values()) for rows in moved.values())
        in_order = all(rows == sorted(rows) for rows in moved.values())
        if (
            (exchange == "within" and stays)
            or (exchange == "whole" and whole and in_order)
            or (exchange == "both" and whole)
        ):
            found.add(order)
    return found


@pytest.mark.parametrize("exchange", ["within", "whole", "both"])
@pytest.mark.parametrize("labels", [PAIRS, list("aaabbb"), list("abcabc"), list("aabbbc")])
def test_blocks_by_definition(labels, exchange):
    tree = block_tree(labels, exchange, range(6))
    expected = by_definition(labels, exchange)
    assert as_set(all_arrangements(tree, DISTINCT)) == expected
    assert count_arrangements(tree, DISTINCT) == len(expected)


def test_rows_in_any_order():
    tree = block_tree(PAIRS, "whole", [5, 2, 0, 4, 1, 3])
    every = as_set(all_arrangements(tree, DISTINCT))
    assert len(every) == 6
    assert tuple(range(6)) in every


def test_levels_follow_palm():
    """Two families of two twin pairs: families change places, pairs inside them, and twins inside pairs, or not."""
    families = np.repeat([1, 2], 4)
    pairs = np.repeat([1, 2, 3, 4], 2)
    twins = np.arange(1, 9)
    keys = np.arange(8)

    def count(*columns):
        return count_arrangements(level_tree(np.column_stack(columns), range(8)), keys)

    one = np.ones(8, int)
    assert count(one, families, pairs, twins) == 2 * (2 * 2 * 2) ** 2
    assert count(-one, families, pairs, twins) == (2 * 2 * 2) ** 2  # families stay where they are
    assert count(one, -families, pairs, twins) == 2 * (2 * 2) ** 2  # pairs stay
    assert count(one, families, -pairs, twins) == 2 * 2**2  # twins stay
    assert count(one, -families, -pairs, twins) == 2  # families as wholes only
    for exchange, columns in (("within", (-one, families)), ("whole", (one, -families)), ("both", (one, families))):
        expected = count_arrangements(block_tree(families.tolist(), exchange, range(8)), keys)
        assert count(*columns, twins) == count(*columns, -twins) == expected


def test_levels_that_are_none():
    with pytest.raises(DesignError, match="2 values in the first column and 0 zeros"):
        level_tree(np.column_stack([[1, 1, 2], [1, 2, 3]]), range(3))
    with pytest.raises(DesignError, match="1 zeros"):
        level_tree(np.column_stack([[1, 1, 1], [1, 0, 3]]), range(3))
    with pytest.raises(DesignError, match="expected one of within, whole, both"):
        block_tree("ab", "around", range(2))


@pytest.mark.parametrize(("exchange", "expected"), [("within", [0, 0, 1, 1, 2, 2]), ("both", [0] * 6),
                                                    ("whole", [0, 1, 0, 1, 0, 1])])  # fmt: skip
def test_orbits_are_the_places_a_row_can_take(exchange, expected):
    labels = orbits(block_tree(PAIRS, exchange, range(6)))
    assert (labels[:, None] == labels).tolist() == (np.array(expected)[:, None] == expected).tolist()


def test_the_sign_of_a_block_of_one_scan_does_not_matter():
    """Two families of a pair and two single children, whose signs differ."""
    family = np.array([1, 1, 2, 2, 3, 4])
    same = level_tree(np.column_stack([np.ones(6, int), family, np.arange(1, 7)]), range(6))
    families, scans = family * [1, 1, 1, 1, 1, -1], np.arange(1, 7) * [1, -1, -1, 1, 1, 1]
    other = level_tree(np.column_stack([np.ones(6, int), families, scans]), range(6))
    assert count_arrangements(same, DISTINCT) == count_arrangements(other, DISTINCT) == 2 * 2**2 * 2


def test_short_block_files():
    """Example 3 of PALM's manual has no observation column: PALM exchanges whole blocks, the sign says both."""
    with pytest.raises(DesignError, match="must tell scans apart: 2 scans of one block share the value 1; add the obs"):
        level_tree(np.column_stack([np.ones(6, int), FAMILY]), range(6))
    pairs = np.column_stack([np.ones(8, int), -np.repeat([1, 2], 4), np.repeat([1, 2, 3, 4], 2)])
    with pytest.raises(DesignError, match="add the observation column"):
        level_tree(pairs, range(8))
    for short, full in (((-1, FAMILY), (-1, FAMILY, OBSERVATION)), ((1, -FAMILY), (1, -FAMILY, OBSERVATION))):
        one, several = (
            level_tree(np.column_stack([np.broadcast_to(column, 6) for column in columns]), range(6))
            for columns in (short, full)
        )
        assert as_set(all_arrangements(one, DISTINCT)) == as_set(all_arrangements(several, DISTINCT))


def test_the_observation_column_is_the_order_inside_a_block():
    """As in PALM: where whole blocks change places, the scans numbered 1 correspond, wherever they stand."""
    observation = np.array([1, 2, 2, 1])
    tree = level_tree(np.column_stack([np.ones(4, int), [-1, -1, -2, -2], observation]), range(4))
    assert as_set(all_arrangements(tree, np.arange(4))) == {(0, 1, 2, 3), (3, 2, 1, 0)}
