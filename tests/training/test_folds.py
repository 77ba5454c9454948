"""Folds: groups stay together, sizes are even, the same groups give the same folds."""

from __future__ import annotations

from collections import Counter

import pytest

from vbmstat.training.folds import grouped_folds

GROUPS = [f"ds{n % 13:02d}" for n in range(60)] + ["large"] * 20


def test_a_group_is_never_split_and_folds_are_even():
    folds = grouped_folds(GROUPS, 5)
    assert all(len({f for f, g in zip(folds, GROUPS, strict=True) if g == group}) == 1 for group in set(GROUPS))
    sizes = Counter(folds)
    assert set(sizes) == set(range(5))
    assert max(sizes.values()) - min(sizes.values()) <= 6


def test_order_of_cases_does_not_matter_and_the_seed_does():
    folds = dict(zip(GROUPS, grouped_folds(GROUPS, 5), strict=True))
    turned = dict(zip(GROUPS[::-1], grouped_folds(GROUPS[::-1], 5), strict=True))
    assert folds == turned
    assert folds != dict(zip(GROUPS, grouped_folds(GROUPS, 5, seed=1), strict=True))


def test_too_few_groups():
    with pytest.raises(ValueError, match=r"at least 3 groups for 3 folds, got 2 \(a, b\)"):
        grouped_folds(["a", "b", "b"], 3)
