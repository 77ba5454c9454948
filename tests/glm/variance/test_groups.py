"""Variance groups: Welch's tests, the definition, permutations by hand; what is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vbmstat.errors import DesignError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.permute import grouped_scores, run
from vbmstat.glm.inference.permute.blocks import block_tree, free_tree, orbits
from vbmstat.glm.inference.permute.checkpoint import Checkpoint, analysis_key
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted, smallest_p
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.groups import fit_grouped, group_labels
from vbmstat.maps.store import ArrayMaps


def definition(x, c, y, groups):
    """V or G, and its degrees of freedom, at every column of Y (Winkler 2014)."""
    c = np.atleast_2d(c)
    s = len(c)
    rest = np.eye(len(x)) - x @ np.linalg.pinv(x)
    found = []
    for column in y.T:
        beta, e = np.linalg.pinv(x) @ column, rest @ column
        w, lost = np.zeros(len(x)), 0.0
        for g in np.unique(groups):
            w[groups == g] = np.diag(rest)[groups == g].sum() / (e[groups == g] ** 2).sum()
        for g in np.unique(groups):
            lost += (1 - w[groups == g].sum() / w.sum()) ** 2 / np.diag(rest)[groups == g].sum()
        middle = np.linalg.inv(c @ np.linalg.inv(x.T @ np.diag(w) @ x) @ c.T)
        square = (c @ beta) @ middle @ (c @ beta) / s / (1 + 2 * (s - 1) / (s * (s + 2)) * lost)
        found.append((np.sign(c @ beta)[0] * np.sqrt(square) if s == 1 else square, s * (s + 2) / (3 * lost)))
    return np.array(found).T


class Case:
    """A model of three groups of unequal variance, and its fit."""

    def __init__(self, formula="age + group", spec="age", n=21, voxels=12, groups="group", weights=None):
        rng = np.random.default_rng(4)
        self.table = pd.DataFrame({
            "group": np.array(list("aabbbcc"))[np.arange(n) % 7], "age": rng.uniform(20, 80, n),
            "pair": np.arange(n) // 3, "place": np.arange(n) % 3,
        })  # fmt: skip
        spread = self.table["group"].map({"a": 1.0, "b": 3.0, "c": 0.5}).to_numpy()[:, None]
        self.values = 20 + rng.standard_normal((n, voxels)) * spread + 0.01 * self.table["age"].to_numpy()[:, None]
        ids = tuple(f"s{i:02d}" for i in range(n))
        self.n, self.design = n, build_design(formula, self.table, ids)
        self.contrasts = build_contrasts([spec], self.design)
        self.kind, self.maps = self.contrasts[0].kind, ArrayMaps(self.values, ids)
        self.plan = make_plan(self.design, self.contrasts, np.empty((0, n), bool), weights)
        self.groups = group_labels(self.table[groups].astype(str).tolist(), self.plan, groups)
        self.fit = fit_grouped(self.maps, self.plan, self.groups)

    def permuted(self, tree=None, **options):
        tree = tree or free_tree(range(self.n))
        return make_permuted(self.plan, 0, Resampling(tree, **{"permutations": 60, "groups": self.groups} | options))

    def nulls(self, permuted, settings=None, **options):
        checkpoint = Checkpoint(options.pop("checkpoint"), options.pop("key")) if "checkpoint" in options else None
        fitted = Fitted(self.maps, self.plan, self.fit)
        return permutation_nulls(fitted, permuted, settings or NullSettings(), Compute(**options), checkpoint)

    def naive(self, permuted):
        """V or G of every rearrangement: (P R_Z + H_Z) Y on the design, whose rows keep their groups."""
        x, c = self.design.matrix, self.contrasts[0].weights
        z = x @ np.linalg.svd(c)[2][len(c) :].T
        hat = z @ np.linalg.pinv(z)
        found = permuted.rearrangements
        sources, signs = found.sources(0, found.count)
        rows = []
        for i in range(found.count):
            p = np.eye(self.n) if sources is None else np.eye(self.n)[sources[i]].T
            p = p if signs is None else p @ np.diag(signs[i])
            rows.append(definition(x, c, (p @ (np.eye(self.n) - hat) + hat) @ self.values, self.groups)[0])
        return np.array(rows)


def test_two_groups_are_welch_s_t():
    case = Case("group", "group[T.b]", groups="group")
    table = case.table[case.table["group"] != "c"]
    design = build_design("group", table, tuple(f"s{i:02d}" for i in table.index))
    contrasts = build_contrasts(["group[T.b]"], design)
    plan = make_plan(design, contrasts, np.empty((0, len(table)), bool))
    labels, values = group_labels(table["group"].tolist(), plan, "group"), case.values[table.index]
    fit = fit_grouped(ArrayMaps(values, design.scan_ids), plan, labels)
    b, a = (values[(table["group"] == name).to_numpy()] for name in "ba")
    welch = stats.ttest_ind(b, a, equal_var=False)
    np.testing.assert_allclose(fit.statistic[0], welch.statistic)
    np.testing.assert_allclose(fit.df[0], welch.df)
    np.testing.assert_allclose(fit.effect[0], b.mean(axis=0) - a.mean(axis=0))
    np.testing.assert_allclose(fit.variance[0], b.var(axis=0, ddof=1) / len(b) + a.var(axis=0, ddof=1) / len(a))


def test_three_groups_are_welch_s_f():
    case = Case("group", "group")
    welch = stats.f_oneway(*(case.values[(case.table["group"] == name).to_numpy()] for name in "abc"), equal_var=False)
    np.testing.assert_allclose(case.fit.statistic[0], welch.statistic)
    np.testing.assert_allclose(stats.f.sf(case.fit.statistic[0], 2, case.fit.df[0]), welch.pvalue)


@pytest.mark.parametrize("spec", ["age", "group[T.b]", "age - 2 * group[T.c]", "F(age, group[T.b])", "group"])
def test_fit_is_the_definition(spec):
    case = Case("age + group", spec)
    expected = definition(case.design.matrix, case.contrasts[0].weights, case.values, case.groups)
    np.testing.assert_allclose(case.fit.statistic[0], expected[0])
    np.testing.assert_allclose(case.fit.df[0], expected[1])
    if case.kind == "t":
        np.testing.assert_allclose(case.fit.effect[0] / np.sqrt(case.fit.variance[0]), case.fit.statistic[0])
    with_one_variance = stats.ttest_ind(case.values[:9], case.values[9:]).statistic
    assert not np.allclose(case.fit.statistic[0], with_one_variance)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("spec", ["age", "F(age, group[T.b])", "group[T.b] - age"])
def test_permutations_are_their_definition(spec, flip, two_sided):
    case = Case("age + group", spec)
    permuted = case.permuted(flip=flip)
    expected = case.naive(permuted)
    np.testing.assert_allclose(expected[0], case.fit.statistic[0])
    nulls = case.nulls(permuted, NullSettings(two_sided=two_sided))
    expected = np.abs(expected) if two_sided and case.kind == "t" else expected
    np.testing.assert_allclose(nulls.maxima["statistic"], expected.max(axis=1))
    level = expected[0] - 1e-9 * np.abs(expected[0])
    np.testing.assert_allclose(nulls.p_uncorrected, (expected >= level).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(nulls.p_fwe, (expected.max(axis=1)[:, None] >= level).mean(axis=0), atol=1e-12)


@pytest.mark.parametrize(("exchange", "groups"), [("within", "pair"), ("whole", "place")])
def test_blocks_and_the_groups_they_make(exchange, groups):
    """PALM's auto: a variance for each block where scans are shuffled within, for each place in whole blocks."""
    case = Case("age", "age", groups=groups)
    tree = block_tree(case.table["pair"].tolist(), exchange, range(case.n))
    auto = orbits(tree)
    assert len(np.unique(auto)) == len(np.unique(auto * 100 + case.groups)) == (7 if exchange == "within" else 3)
    permuted = case.permuted(tree)
    nulls = case.nulls(permuted)
    np.testing.assert_allclose(nulls.maxima["statistic"], np.abs(case.naive(permuted)).max(axis=1))


def test_all_relabellings_by_hand():
    """Four against three: 35 ways, Welch's t of each; no relabelling mirrors another, groups being unequal."""
    y = np.array([3.1, 2.9, 3.4, 3.0, 6.0, 1.5, 8.2])
    table = pd.DataFrame({"g": list("aaaabbb")})
    ids = tuple(f"s{i}" for i in range(7))
    design = build_design("g", table, ids)
    contrasts = build_contrasts(["g"], design)
    plan = make_plan(design, contrasts, np.empty((0, 7), bool))
    labels, maps = group_labels(table["g"].tolist(), plan, "g"), ArrayMaps(y[:, None], ids)
    fit = fit_grouped(maps, plan, labels)
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(7)), 1000, groups=labels))
    nulls = permutation_nulls(Fitted(maps, plan, fit), permuted, NullSettings())
    every = [
        stats.ttest_ind(y[list(b)], np.delete(y, list(b)), equal_var=False).statistic
        for b in itertools.combinations(range(7), 3)
    ]
    assert (nulls.count, nulls.is_exhaustive, nulls.smallest_p) == (35, True, 1 / 35)
    np.testing.assert_allclose(np.sort(nulls.maxima["statistic"]), np.sort(np.abs(every)))
    assert nulls.p_uncorrected[0] == (np.abs(every) >= abs(every[-1]) * (1 - 1e-9)).mean()


def test_the_smallest_p_with_groups():
    """Three against three exchanged: the same |v| if the groups are those exchanged, not if they are others."""
    table = pd.DataFrame({"g": list("aaabbb"), "scanner": list("xxyyyy"), "side": list("xyxyxy")})
    design = build_design("g", table, tuple(f"s{i}" for i in range(6)))
    contrasts = build_contrasts(["g"], design)
    plan = make_plan(design, contrasts, np.empty((0, 6), bool))

    def smallest(column):
        labels = group_labels(table[column].tolist(), plan, column)
        permuted = make_permuted(plan, 0, Resampling(free_tree(range(6)), 1000, groups=labels))
        return smallest_p(permuted, True) * permuted.rearrangements.count, permuted.rearrangements.count

    assert smallest("g") == (2, 20)  # 6 choose 3
    assert smallest("scanner") == (1, 60)  # rows of one group on two scanners are not alike: 6! / (2! 1! 3!)
    assert smallest("side")[1] == 180


def test_v_keeps_its_level_where_t_does_not():
    """The smaller group varies more: t finds far too much, v hardly (6,000 voxels without effect, 8 against 20)."""
    rng = np.random.default_rng(0)
    n, wild = 28, np.arange(28) < 8
    values = rng.standard_normal((n, 6000)) * np.where(wild, 4, 1)[:, None]
    table = pd.DataFrame({"participant_id": [f"s{i:02d}" for i in range(n)], "wild": wild.astype(str)})
    options = {"repeats": 0, "inference": "fwe", "permutations": 200}
    share = {}
    for groups in (None, "wild"):
        found = fit_glm(values, "v ~ wild", table, variance="ols" if groups is None else f"groups:{groups}", **options)
        share[groups] = (found.inference["wild[T.True]"].nulls.p_uncorrected <= 0.05).mean()
    assert share[None] > 0.15
    assert 0.04 < share["wild"] < 0.075


def test_cutting_the_work_does_not_matter(monkeypatch, tmp_path):
    case = Case("age + group", "F(age, group[T.b])", voxels=700)
    permuted = case.permuted(permutations=150)
    whole = case.nulls(permuted, n_threads=1)
    monkeypatch.setattr(grouped_scores, "_BYTES", 2**19)
    monkeypatch.setattr(run, "_ROWS_BYTES", 2**17)
    other = case.nulls(permuted, n_threads=2, chunk_voxels=512, checkpoint=tmp_path / "p", key="k")
    np.testing.assert_allclose(other.maxima["statistic"], whole.maxima["statistic"], rtol=1e-9)
    np.testing.assert_array_equal(other.p_uncorrected, whole.p_uncorrected)


def test_other_groups_are_another_analysis():
    case = Case("age", "age")
    keys = {
        analysis_key(case.maps, case.plan, case.permuted(groups=groups), NullSettings())
        for groups in (None, case.groups, case.groups[::-1])
    }
    assert len(keys) == 3


def test_a_group_without_variance_at_a_voxel():
    case = Case("group", "group[T.b]")
    case.values[:, 3] = 7.0
    case.values[(case.table["group"] == "c").to_numpy(), 4] = 0.0
    fit = fit_grouped(case.maps, case.plan, case.groups)
    assert fit.statistic[0, 3] == 0
    welch = stats.ttest_ind(*(case.values[(case.table["group"] == g).to_numpy(), 4] for g in "ba"), equal_var=False)
    np.testing.assert_allclose(fit.statistic[0, 4], welch.statistic, rtol=1e-5)
    case.fit = fit
    nulls = case.nulls(case.permuted())
    assert nulls.p_fwe[3] == 1
    assert np.isfinite(nulls.maxima["statistic"]).all()


@pytest.fixture
def path(cohort_folder):
    return cohort_folder / "cohort.tsv"


def test_whole_analysis(path, tmp_path):
    options = {"inference": "fdr,fwe,tfce,cluster", "permutations": 120, "cluster_threshold": 0.01}
    results = fit_glm(None, "gm ~ age + sex", path, ["age", "F(age, sex[T.M])"], variance="groups:sex", **options)
    plain = fit_glm(None, "gm ~ age + sex", path, ["age"], repeats=0, **options)
    t, df = results.maps["age"]["t"].values, results.maps["age"]["df"].values
    assert not np.array_equal(t, plain.maps["age"]["t"].values)
    assert np.corrcoef(t, plain.maps["age"]["t"].values)[0, 1] > 0.98
    assert 8 < df[results.mask].min() < df[results.mask].max() < 23
    assert len(results.draws) == 0
    assert not {"d", "g", "n80fwe"} & set(results.maps["age"])
    assert results.record["variance_groups"]["column"] == "sex"
    assert any("swap scans between groups" in note for note in results.record["notes"])
    q = stats.false_discovery_control(2 * stats.t.sf(np.abs(t), df)[results.mask])
    np.testing.assert_allclose(results.maps["age"]["qfdr"].values[results.mask], q)
    assert results.maps["age"]["ptfce"].values.min() == 1 / 120
    results.to_directory(tmp_path)
    assert json.loads((tmp_path / "glm.json").read_text())["variance_groups"]["scans_per_group"] == [13, 13]
    assert len(pd.read_csv(tmp_path / "contrast-age_peaks.tsv", sep="\t"))
    tails = fit_glm(None, "gm ~ age + sex", path, ["age"], variance="groups:sex", tail="gpd", **options)
    assert tails.maps["age"]["pperm"].values.min() < 1 / 120
    auto = fit_glm(
        None, "gm ~ age", path, variance="groups:auto", blocks="sex", inference="fwe", permutations=30, one_sided=True
    )
    assert auto.record["variance_groups"]["scans_per_group"] == [13, 13]
    assert not any("swap scans between groups" in note for note in auto.record["notes"])
    alone = fit_glm(None, "gm ~ age + sex", path, variance="groups:sex")
    np.testing.assert_allclose(alone.maps["age"]["t"].values, t)


@pytest.mark.parametrize(("formula", "options", "message"), [
    ("gm ~ age", {"variance": "groups:scanner"}, "no column 'scanner'"),
    ("gm ~ age", {"variance": "groups:engine"}, r"variance groups \(engine\): only one group"),
    ("gm ~ age", {"variance": "groups:participant"}, "no residuals to estimate the variance of p0"),
    ("gm ~ age", {"variance": "groups:hole"}, r"no hole \(variance group\) for sub-000"),
    ("gm ~ age", {"variance": "groups:auto"}, "give --blocks, or name a column"),
    ("gm ~ age", {"variance": "groups:sex", "scheme": "smith", "inference": "fwe"}, "is for --scheme freedman-lane"),
])  # fmt: skip
def test_what_is_refused(path, formula, options, message):
    table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
    table["participant"] = ["p0", *["p1"] * 25]
    table["hole"] = [None, *["h"] * 25]
    table.to_csv(path, sep="\t", index=False)
    if options["variance"] == "groups:participant":
        formula += " + participant"
    with pytest.raises((DesignError, TableError), match=message):
        fit_glm(None, formula, path, **options)
