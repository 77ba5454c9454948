"""The whole analysis against every rearrangement of a few scans, written out: what PALM does with ``-n 0``."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.glm import enumerated
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.grid import Grid
from vbmstat.maps.store import ArrayMaps, Space

SHAPE = (4, 4, 3)
SPACE = Space(Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])), np.arange(48))
GROUP = np.array([0, 1, 1, 0, 1, 0, 0])
BLOCK = np.repeat(np.arange(4), 2)
VISIT = np.tile([0.0, 1.0], 4)
AGE = np.array([31.0, 64, 45, 58, 27, 70, 39, 52])


def maps(n_scans, seed=0):
    values = np.random.default_rng(seed).standard_normal((n_scans, 48))
    values[:, :8] += values[:, [0]]  # neighbours that resemble one another
    return ArrayMaps(values, tuple(f"s{i}" for i in range(n_scans)), SPACE)


def analysed(data, formula, contrast, table, **options):
    table = pd.DataFrame(table).assign(participant_id=list(data.scan_ids))
    options = {"inference": "fwe", "permutations": 6000, "repeats": 0, **options}
    results = fit_glm(data, f"gm ~ {formula}", table, [f"tested = {contrast}"], **options)
    return {name: one.values for name, one in results.maps["tested"].items()}, results


CASES = {  # formula, contrast, table, rearrangements, options
    "two groups": ("group", "group", {"group": GROUP}, lambda: enumerated.relabellings(GROUP), {}),
    "covariate": ("age + time", "age", {"age": AGE[:6], "time": np.arange(6.0) ** 2}, lambda: enumerated.orders(6), {}),
    "three groups": (
        "level", "level", {"level": list("abcabc")}, lambda: enumerated.orders(6), {},
    ),
    "within blocks": (
        "time + C(block)", "time", {"time": VISIT, "block": BLOCK}, lambda: enumerated.within(BLOCK),
        {"blocks": "block"},
    ),
    "whole blocks": (
        "age + time", "age", {"age": AGE[BLOCK], "time": VISIT, "block": BLOCK}, lambda: enumerated.whole(BLOCK),
        {"blocks": "block", "exchange": "whole"},
    ),
    "sign flips": ("1", "Intercept", {"age": AGE}, lambda: enumerated.flips(8), {"sign_flip": True}),
}  # fmt: skip


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_family_wise_p_is_the_share_of_all_rearrangements(case, one_sided):
    formula, contrast, table, rearrangements, options = CASES[case]
    data = maps(len(next(iter(table.values()))))
    found, results = analysed(data, formula, contrast, table, one_sided=one_sided, **options)
    kind = results.contrasts[0].kind
    values = enumerated.statistics(
        results.design.matrix, results.contrasts[0].weights, data.data, rearrangements(), kind
    )
    np.testing.assert_allclose(found[kind], values[0], rtol=1e-6)
    counted = np.abs(values) if kind == "t" and not one_sided else values
    np.testing.assert_allclose(found["pfwe"], enumerated.corrected(counted), atol=1e-12)


def test_tfce_is_integrated_exactly_and_counted_over_all_relabellings():
    data = maps(7, seed=3)
    found, results = analysed(data, "group", "group", {"group": GROUP}, inference="tfce")
    t = enumerated.statistics(results.design.matrix, [0, 1], data.data, enumerated.relabellings(GROUP))
    # positive and negative values are enhanced apart, and the largest of both is kept
    both = np.array([[enumerated.enhanced(np.maximum(sign * row, 0), SHAPE) for sign in (1, -1)] for row in t])
    np.testing.assert_allclose(found["tfce"], both[0, 0] - both[0, 1], rtol=1e-4)
    np.testing.assert_allclose(found["ptfce"], enumerated.corrected(both.max(axis=1)), atol=1e-12)


def test_unequal_variances_are_counted_over_all_relabellings():
    """Welch's v of every relabelling, from scipy."""
    data = maps(7, seed=4)
    found, _ = analysed(data, "group", "group", {"group": GROUP, "spread": GROUP}, variance="groups:spread")
    values = []
    for chosen in sorted(itertools.combinations(range(7), 3), key=lambda way: way != tuple(np.flatnonzero(GROUP))):
        one, rest = data.data[list(chosen)], np.delete(data.data, chosen, axis=0)
        values.append(stats.ttest_ind(one, rest, equal_var=False).statistic)
    np.testing.assert_allclose(found["t"], values[0], rtol=1e-6)
    counted = (np.abs(values).max(axis=1)[:, None] >= np.abs(values[0]) * (1 - 1e-9)).mean(axis=0)
    np.testing.assert_allclose(found["pfwe"], counted, atol=1e-12)
