"""Rearrangements of trees of blocks: all that exist, random ones, sign flips."""

from __future__ import annotations

import numpy as np
import pytest

from tests.glm.inference.permute.test_blocks import DISTINCT, FAMILY, OBSERVATION, PAIRS, as_set
from vbmstat.errors import DesignError
from vbmstat.glm.inference.permute.blocks import block_tree, free_tree, level_tree
from vbmstat.glm.inference.permute.rearrangements import (
    BLOCK,
    all_arrangements,
    blocks_flipped_apart,
    count_arrangements,
    flip_basis,
    make_rearrangements,
    random_arrangements,
)

WHOLE, SINGLE = {(0, 1), (2, 3), (4, 5)}, {(i,) for i in range(6)}


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


def flips_of(*columns, n=6):
    """Sets of scans that flip together."""
    basis = flip_basis(level_tree(np.column_stack([np.broadcast_to(column, n) for column in columns]), range(n)))
    return {tuple(np.flatnonzero(flip).tolist()) for flip in basis}


@pytest.mark.parametrize(("columns", "expected"), [
    ((1, -FAMILY, OBSERVATION), WHOLE), ((1, -FAMILY, -OBSERVATION), WHOLE), ((1, FAMILY, OBSERVATION), WHOLE),
    ((1, FAMILY, -OBSERVATION), WHOLE), ((1, -FAMILY), WHOLE), ((-1, FAMILY, OBSERVATION), SINGLE),
    ((-1, FAMILY, -OBSERVATION), SINGLE), ((-1, -FAMILY, OBSERVATION), SINGLE), ((-1, -FAMILY, -OBSERVATION), SINGLE),
    ((-1, FAMILY), SINGLE), ((1, np.arange(1, 7)), SINGLE), ((-1, np.arange(1, 7)), SINGLE),
    ((-1, 1, FAMILY, OBSERVATION), WHOLE), ((-1, 1, -FAMILY, OBSERVATION), WHOLE),  # families inside a block that stays
    ((1, 1, FAMILY, OBSERVATION), {tuple(range(6))}),
])  # fmt: skip
def test_nothing_flips_below_what_moves_as_a_whole(columns, expected):
    """PALM's flips (palm_tree.m): at the first level that moves as a whole, else one by one."""
    assert flips_of(*columns) == expected


def test_flips_of_one_column():
    """Three blocks of two: 8 flips of whole blocks, 64 of single scans."""
    for exchange, n_flips in (("whole", 8), ("both", 8), ("within", 64)):
        tree = block_tree(PAIRS, exchange, range(6))
        assert make_rearrangements(tree, np.zeros(6), 100, 0, flip=True).count == n_flips
        assert blocks_flipped_apart(tree) == (3 if exchange == "within" else 0)
    assert len(flip_basis(free_tree(range(6)))) == 6
    assert blocks_flipped_apart(free_tree(range(6))) == 0
    alone = block_tree(list("abcdef"), "within", range(6))  # blocks of one scan have nothing to be flipped apart
    assert (len(flip_basis(alone)), blocks_flipped_apart(alone)) == (6, 0)


def test_flips_do_not_depend_on_the_order_of_the_table():
    order = [3, 1, 5, 0, 2, 4]
    straight, turned = free_tree(range(6)), free_tree(order)
    first, second = (make_rearrangements(tree, np.zeros(6), 30, 1, flip=True).sources(0, 30)[1]
                     for tree in (straight, turned))  # fmt: skip
    np.testing.assert_array_equal(first, second[:, order])


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
