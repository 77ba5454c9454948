"""Exchangeability blocks by hand, and against all permutations of a few rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.inference.permute.blocks import (
    BLOCK,
    all_arrangements,
    block_tree,
    blocks_flipped_apart,
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
        expected = count_arrangements(block_tree(families.tolist(), exchange, range(8)), keys)
        assert count(*columns, twins) == count(*columns, -twins) == expected


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


def flips_of(*columns, n=6):
    """Sets of scans that flip together."""
    basis = flip_basis(level_tree(np.column_stack([np.broadcast_to(column, n) for column in columns]), range(n)))
    return {tuple(np.flatnonzero(flip).tolist()) for flip in basis}


FAMILY, OBSERVATION = np.repeat([1, 2, 3], 2), np.tile([1, 2], 3)
WHOLE, SINGLE = {(0, 1), (2, 3), (4, 5)}, {(i,) for i in range(6)}


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
