"""Exchangeability blocks by hand, and against all permutations of a few rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.blocks import (
    BLOCK,
    all_arrangements,
    block_tree,
    count_arrangements,
    flip_basis,
    free_tree,
    level_tree,
    make_rearrangements,
    orbits,
    random_arrangements,
)

DISTINCT = np.arange(6)
PAIRS = list("aabbcc")


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
        if (exchange == "within" and stays) or (exchange == "whole" and whole and in_order) or (
            exchange == "both" and whole
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


@pytest.mark.parametrize("keys", [[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 2, 2, 1, 0]])
@pytest.mark.parametrize("exchange", ["within", "whole", "both", "free"])
def test_equal_rows_are_not_told_apart(keys, exchange):
    keys = np.array(keys)
    tree = free_tree(range(6)) if exchange == "free" else block_tree(PAIRS, exchange, range(6))
    every = as_set(all_arrangements(tree, DISTINCT))
    distinguishable = {tuple(keys[list(order)]) for order in every}
    listed = all_arrangements(tree, keys)
    assert len(listed) == count_arrangements(tree, keys) == len(distinguishable)
    assert {tuple(keys[row]) for row in listed} == distinguishable
    assert listed[0].tolist() == list(range(6))


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
        assert count(*columns) == count_arrangements(block_tree(families.tolist(), exchange, range(8)), keys)


def test_levels_that_are_none():
    with pytest.raises(DesignError, match="2 values in the first column and 0 zeros"):
        level_tree(np.column_stack([[1, 1, 2], [1, 2, 3]]), range(3))
    with pytest.raises(DesignError, match="1 zeros"):
        level_tree(np.column_stack([[1, 1, 1], [1, 0, 3]]), range(3))
    with pytest.raises(DesignError, match="expected one of within, whole, both"):
        block_tree("ab", "around", range(2))


def test_blocks_of_unequal_size_stay():
    tree = block_tree(list("aabbbc"), "whole", range(6))
    assert count_arrangements(tree, DISTINCT) == 1
    with pytest.raises(DesignError, match="leave nothing to permute"):
        make_rearrangements(tree, DISTINCT, 100, 0, flip=False)


@pytest.mark.parametrize("exchange", ["within", "whole", "both", "free"])
def test_random_arrangements_are_uniform(exchange):
    tree = free_tree(range(4)) if exchange == "free" else block_tree(list("aabb"), exchange, range(4))
    drawn = random_arrangements(tree, 12_000, np.random.default_rng(1))
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert as_set(found) == as_set(all_arrangements(tree, np.arange(4)))
    expected = len(drawn) / len(found)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(("exchange", "expected"), [("within", [0, 0, 1, 1, 2, 2]), ("both", [0] * 6),
                                                    ("whole", [0, 1, 0, 1, 0, 1])])  # fmt: skip
def test_orbits_are_the_places_a_row_can_take(exchange, expected):
    labels = orbits(block_tree(PAIRS, exchange, range(6)))
    assert (labels[:, None] == labels).tolist() == (np.array(expected)[:, None] == expected).tolist()


def test_sign_flips():
    assert len(flip_basis(free_tree(range(6)))) == 6
    assert len(flip_basis(block_tree(PAIRS, "within", range(6)))) == 6
    whole = flip_basis(block_tree(PAIRS, "whole", range(6)))
    assert len(whole) == 3
    assert (whole[:, ::2] == whole[:, 1::2]).all()  # the scans of a block flip together
    assert len(flip_basis(block_tree(PAIRS, "both", range(6)))) == 6  # a block's flip is the sum of its scans'


def test_all_flips_or_random_ones():
    every = make_rearrangements(free_tree(range(4)), np.zeros(4), 20, 0, flip=True)
    assert (every.count, every.is_exhaustive) == (16, True)
    signs = every.sources(0, 16)[1]
    assert len(np.unique(signs, axis=0)) == 16
    assert (signs[0] == 1).all()
    some = make_rearrangements(free_tree(range(12)), np.zeros(12), 300, 3, flip=True)
    assert (some.count, some.is_exhaustive) == (300, False)
    signs = some.sources(0, 300)[1]
    assert (signs[0] == 1).all()
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.06


def test_any_range_is_drawn_again():
    found = make_rearrangements(free_tree(range(9)), np.arange(9), 3 * BLOCK, 5, flip=False)
    whole = found.sources(0, 3 * BLOCK)[0]
    assert whole[0].tolist() == list(range(9))
    assert (np.sort(whole, axis=1) == np.arange(9)).all()
    for start, stop in ((0, 1), (1, 7), (BLOCK - 2, BLOCK + 3), (200, 3 * BLOCK)):
        assert (found.sources(start, stop)[0] == whole[start:stop]).all()
    other = make_rearrangements(free_tree(range(9)), np.arange(9), 3 * BLOCK, 6, flip=False)
    assert (other.sources(0, 5)[0] != whole[:5]).any()


def test_no_fewer_than_two():
    with pytest.raises(DesignError, match="permutations=1: expected at least 2"):
        make_rearrangements(free_tree(range(4)), np.arange(4), 1, 0, flip=False)
