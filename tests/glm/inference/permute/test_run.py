"""Null distributions: against the definition, nilearn and tfce; the same however the work is cut."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from scipy import ndimage, stats
from tfce import tfce

from tests.glm.permutation_oracle import permuted_statistic
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.product import through_onednn
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.clusters import neighbour_table
from vbmstat.glm.inference.permute import images, run, scores
from vbmstat.glm.inference.permute.blocks import block_tree, free_tree, level_tree
from vbmstat.glm.inference.permute.checkpoint import Checkpoint
from vbmstat.glm.inference.permute.nulls import NullSettings, is_decided
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import SCHEMES, Resampling, make_permuted
from vbmstat.glm.inference.permute.scores import working_precision
from vbmstat.glm.inference.permute.tails import fit_tails
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.image.io import as_nifti
from vbmstat.image.volume import Volume
from vbmstat.maps.store import ArrayMaps, Space

SHAPE = (9, 11, 8)
GRID = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]))
MASK = np.random.default_rng(7).random(SHAPE) < 0.8
SPACE = Space(GRID, np.flatnonzero(MASK))


class Case:
    """A model and its data, fitted."""

    def __init__(self, formula, spec, n=14, seed=0, dtype=np.float64, values=None, effect=0.0, weights=None):
        rng = np.random.default_rng(seed)
        table = pd.DataFrame({"age": rng.uniform(20, 80, n), "group": np.array(list("aab"))[np.arange(n) % 3],
                              "tiv": rng.normal(1400, 90, n)})  # fmt: skip
        ids = [f"s{i:02d}" for i in range(n)]
        self.design = build_design(formula, table, ids)
        self.contrasts = build_contrasts([spec], self.design)
        if values is None:
            noise = ndimage.gaussian_filter(rng.standard_normal((n, *SHAPE)), (0, 0.8, 0.8, 0.8))[:, MASK]
            values = 100 + noise / noise.std() + effect * np.outer(table["age"] - 50, np.ones(noise.shape[1]))
        self.values = np.asarray(values, dtype=dtype)
        self.maps = ArrayMaps(self.values, tuple(ids), SPACE if self.values.shape[1] == MASK.sum() else None)
        self.plan = make_plan(self.design, self.contrasts, np.empty((0, n), bool), weights)
        self.fit = fit_voxels(self.maps, self.plan)
        self.statistic = self.fit.statistic[0]
        self.n, self.kind = n, self.contrasts[0].kind

    def permuted(self, tree=None, **options):
        tree = tree or free_tree(range(self.n))
        return make_permuted(self.plan, 0, Resampling(tree, **{"permutations": 60} | options))

    def nulls(self, permuted, settings=None, **options):
        checkpoint = Checkpoint(options.pop("checkpoint"), options.pop("key")) if "checkpoint" in options else None
        fitted = Fitted(self.maps, self.plan, self.fit)
        return permutation_nulls(fitted, permuted, settings or NullSettings(), Compute(**options), checkpoint)


def naive(case, permuted):
    """T or F of every rearrangement by its definition, (count, v)."""
    found = permuted.rearrangements
    sources, signs = found.sources(0, found.count)
    rows = []
    for i in range(found.count):
        p = np.eye(case.n) if sources is None else np.eye(case.n)[sources[i]]
        p = p if signs is None else np.diag(signs[i]) @ p
        if permuted.scheme == "freedman-lane":
            p = p.T  # the data, not the design
        c = case.contrasts[0].weights
        rows.append(permuted_statistic(permuted.scheme, case.design.matrix, c, case.values, p, case.kind))
    return np.array(rows)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("spec", ["age", "F(age, group[T.b])", "age - 2 * tiv"])
def test_schemes_are_their_definitions(spec, scheme, flip, two_sided):
    values = np.random.default_rng(3).standard_normal((14, 40)) + 5
    case = Case("age + group + tiv", spec, values=values)
    permuted = case.permuted(scheme=scheme, flip=flip)
    expected = naive(case, permuted)
    nulls = case.nulls(permuted, NullSettings(two_sided=two_sided))
    np.testing.assert_allclose(expected[0], case.statistic, rtol=1e-7, atol=1e-9)
    if two_sided and case.kind == "t":
        expected = np.abs(expected)
    np.testing.assert_allclose(nulls.maxima["statistic"], expected.max(axis=1), rtol=1e-6)
    level = expected[0] - 1e-9 * np.abs(expected[0])
    np.testing.assert_allclose(nulls.p_uncorrected, (expected >= level).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(nulls.p_fwe, (expected.max(axis=1)[:, None] >= level).mean(axis=0), atol=1e-12)


def test_single_precision_agrees_with_double():
    for spec in ("age", "F(age, group[T.b])"):
        double = Case("age + group + tiv", spec)
        single = Case("age + group + tiv", spec, dtype=np.float32)
        permuted = double.permuted(permutations=200)
        a, b = double.nulls(permuted), single.nulls(permuted)
        np.testing.assert_allclose(a.maxima["statistic"], b.maxima["statistic"], rtol=2e-4)
        assert np.abs(a.p_fwe - b.p_fwe).max() <= 2 / 200
        assert np.abs(a.p_uncorrected - b.p_uncorrected).max() <= 2 / 200


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("spec", ["age", "F(age, group[T.b])"])
@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_scores_are_those_of_torch(spec, scheme, two_sided, weighted):
    rng = np.random.default_rng(2)
    values = rng.standard_normal((26, 700)) + 5
    values[:, 3], values[:, 4] = 7.0, 1e4 + 1e-3 * values[:, 4]  # constant; without digits in float32
    weights = rng.uniform(0.5, 2, 26) if weighted else None
    case = Case("age + group + tiv", spec, n=26, dtype=np.float32, values=values, weights=weights)
    case.maps.mask[650:] = False
    permuted = case.permuted(scheme=scheme, permutations=300)
    settings = NullSettings(two_sided=two_sided)
    torches, compiled = (case.nulls(permuted, settings, backend=name) for name in ("stacked", "compiled"))
    np.testing.assert_allclose(compiled.maxima["statistic"], torches.maxima["statistic"], rtol=1e-5)
    for name in ("p_fwe", "p_uncorrected"):
        found, wanted = getattr(compiled, name), getattr(torches, name)
        assert np.abs(found - wanted).max() <= 1 / 300 + 1e-9
        assert (found != wanted).mean() < 0.02  # ties of float32


def test_weights_and_a_voxel_without_digits():
    """A voxel that float32 cannot hold is done in float64; weighted residuals are permuted."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((14, 3)) * [1, 1e-3, 1] + [0, 1e4, 5]).astype(np.float32)
    exact = Case("age + tiv", "age", values=values.astype(np.float64))
    single = Case("age + tiv", "age", values=values, dtype=np.float32)
    permuted = exact.permuted(permutations=100)
    np.testing.assert_allclose(exact.nulls(permuted).p_uncorrected, single.nulls(permuted).p_uncorrected, atol=0.011)
    weights = rng.uniform(0.5, 2, 14)
    weighted = Case("age + tiv", "age", values=values.astype(float), weights=weights)
    by_hand = Case("age + tiv", "age", values=values.astype(float))
    root = np.sqrt(weights)[:, None]
    by_hand.design = replace(by_hand.design, matrix=by_hand.design.matrix * root)
    by_hand.values = by_hand.values * root
    permuted = weighted.permuted(permutations=30)
    np.testing.assert_allclose(
        weighted.nulls(permuted).maxima["statistic"], np.abs(naive(by_hand, permuted)).max(axis=1), rtol=1e-6
    )


def nilearn_order(n, n_perm, seed):
    """The rows that nilearn's design has at each of its permutations, the identity first."""
    rng = np.random.RandomState(np.random.RandomState(seed).randint(1, np.iinfo(np.int32).max - 1))
    rows = [np.arange(n)]
    for _ in range(n_perm):
        rows.append(rows[-1][rng.permutation(n)])
    return np.array(rows)


@pytest.mark.parametrize("two_sided", [True, False])
def test_max_t_is_nilearn_s_with_the_same_permutations(two_sided):
    case = Case("age + group + tiv", "age", effect=0.02)
    permuted = case.permuted(permutations=200)
    rearranged = replace(permuted.rearrangements, listed=nilearn_order(case.n, 199, 11), count=200, existing=200)
    nulls = case.nulls(replace(permuted, rearrangements=rearranged), NullSettings(two_sided=two_sided))
    x = case.design.matrix
    theirs = permuted_ols(
        x[:, [1]], case.values, x[:, 2:], n_perm=199, two_sided_test=two_sided, random_state=11, output_type="dict"
    )
    np.testing.assert_allclose(theirs["t"][0], case.statistic, rtol=1e-6)
    np.testing.assert_allclose(nulls.maxima["statistic"][1:], theirs["h0_max_t"][0], rtol=1e-6)
    np.testing.assert_allclose(nulls.p_fwe, 10 ** -theirs["logp_max_t"][0], rtol=1e-9)
    assert 0.005 <= nulls.p_fwe.min() < 0.2


@pytest.mark.filterwarnings("ignore:Data array used to create a new image contains 64-bit ints")  # nilearn's own
def test_clusters_are_nilearn_s_with_the_same_permutations(monkeypatch):
    """With nilearn's neighbourhood; its TFCE is summed in steps that depend on the map: no equality there."""
    case = Case("age + group + tiv", "age", effect=0.015)
    permuted = case.permuted(permutations=40)
    rearranged = replace(permuted.rearrangements, listed=nilearn_order(case.n, 39, 11), count=40, existing=40)
    threshold = float(stats.t.isf(0.05, case.plan.df_resid))  # two-sided 0.1
    monkeypatch.setattr(images, "neighbour_table", lambda space: neighbour_table(space, 6))
    settings = NullSettings(True, cluster_threshold=threshold)
    nulls = case.nulls(replace(permuted, rearrangements=rearranged), settings)
    x = case.design.matrix
    masker = NiftiMasker(as_nifti(Volume(torch.from_numpy(MASK.astype(np.float32))[None], GRID))).fit()
    theirs = permuted_ols(
        x[:, [1]],
        case.values,
        x[:, 2:],
        n_perm=39,
        random_state=11,
        output_type="dict",
        masker=masker,
        threshold=0.1,
    )
    np.testing.assert_allclose(nulls.maxima["extent"][1:], theirs["h0_max_size"][0])
    np.testing.assert_allclose(nulls.maxima["mass"][1:], theirs["h0_max_mass"][0], rtol=1e-4)
    assert nulls.maxima["extent"].max() > 3


def test_all_permutations_of_seven_scans():
    case = Case("age", "age", n=7, values=np.random.default_rng(5).standard_normal((7, 30)))
    permuted = case.permuted(permutations=6000)
    nulls = case.nulls(permuted)
    assert (nulls.count, nulls.is_exhaustive) == (5040, True)
    x = case.design.matrix[:, 1]
    orders = np.array(list(itertools.permutations(range(7))))
    x = (x - x.mean()) / np.linalg.norm(x - x.mean())
    y = case.values - case.values.mean(axis=0)
    r = np.abs(x[orders] @ (y / np.linalg.norm(y, axis=0)))  # (5040, v)
    own = r[0] * (1 - 1e-9)
    np.testing.assert_allclose(nulls.p_uncorrected, (r >= own).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(nulls.p_fwe, (r.max(axis=1)[:, None] >= own).mean(axis=0), atol=1e-12)


def test_one_sample_by_sign_flips():
    """All 2⁶ flips of six numbers: Fisher's exact test of a mean."""
    values = np.array([[1.2], [0.4], [-0.3], [2.0], [0.9], [1.1]])
    case = Case("1", "Intercept", n=6, values=values)
    nulls = case.nulls(case.permuted(permutations=5000, flip=True), NullSettings(two_sided=False))
    signs = 1 - 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1)
    sums = signs @ values[:, 0]
    assert nulls.count == 64
    assert nulls.p_uncorrected[0] == (sums >= sums[0] - 1e-9).mean() == 2 / 64
    assert nulls.smallest_p == 1 / 64


def test_blocks_by_hand():
    """Three pairs, one of each treated: within pairs there are 2³ designs, and t follows from each."""
    values = np.array([[1.0], [3.0], [2.0], [2.5], [0.0], [4.0]])
    treated = np.array([0, 1, 0, 1, 0, 1])
    table = pd.DataFrame({"drug": treated, "pair": np.repeat(list("abc"), 2)})
    ids = [f"s{i}" for i in range(6)]
    design = build_design("drug + pair", table, ids)
    contrasts = build_contrasts(["drug"], design)
    plan = make_plan(design, contrasts, np.empty((0, 6), bool))
    maps = ArrayMaps(values, tuple(ids))
    tree = block_tree(table["pair"].tolist(), "within", range(6))
    permuted = make_permuted(plan, 0, Resampling(tree, 100))
    nulls = permutation_nulls(Fitted(maps, plan, fit_voxels(maps, plan)), permuted, NullSettings(two_sided=False))
    assert (nulls.count, nulls.is_exhaustive) == (8, True)
    differences = values[1::2, 0] - values[::2, 0]
    flips = 1 - 2 * ((np.arange(8)[:, None] >> np.arange(3)) & 1)
    by_hand = np.sort([stats.ttest_1samp(flip * differences, 0).statistic for flip in flips])
    np.testing.assert_allclose(np.sort(nulls.maxima["statistic"]), by_hand, rtol=1e-6)
    assert nulls.p_uncorrected[0] == 1 / 8


def test_tfce_is_the_package_s():
    case = Case("age", "age", effect=0.02, dtype=np.float32)
    permuted = case.permuted(permutations=20)
    for two_sided in (True, False):
        nulls = case.nulls(permuted, NullSettings(two_sided=two_sided, wants_tfce=True))
        expected = tfce(SPACE.unmask(case.statistic), connectivity=26, two_sided=two_sided)
        inside = case.statistic > 0 if not two_sided else np.ones(len(case.statistic), bool)
        np.testing.assert_array_equal(nulls.tfce[inside], expected[MASK][inside])
        fields = naive(case, permuted)
        largest = [np.abs(tfce(SPACE.unmask(t if two_sided else np.maximum(t, 0)), connectivity=26)).max()
                   for t in fields]  # fmt: skip
        np.testing.assert_allclose(nulls.maxima["tfce"], largest, rtol=1e-4)
        reached = np.array(largest)[:, None] >= np.abs(nulls.tfce) * (1 - 1e-4)
        np.testing.assert_allclose(nulls.p_tfce_fwe[nulls.tfce != 0], reached.mean(axis=0)[nulls.tfce != 0])


def everything(case, permuted, **options):
    return case.nulls(permuted, NullSettings(True, True, 2.0), **options)


def assert_same(a, b):
    for name in a.maxima:
        np.testing.assert_allclose(a.maxima[name], b.maxima[name], rtol=1e-5)
    for name in ("p_fwe", "p_uncorrected", "p_tfce_fwe", "p_extent_fwe", "p_mass_fwe"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_chunks_threads_and_batches_do_not_matter(monkeypatch):
    case = Case("age + group + tiv", "age", dtype=np.float32)
    permuted = case.permuted(permutations=300)
    whole = everything(case, permuted, n_threads=1)
    assert_same(whole, everything(case, permuted, n_threads=2, chunk_voxels=512))
    monkeypatch.setattr(scores, "choose_product", lambda _: through_onednn)
    assert_same(whole, everything(case, permuted))
    monkeypatch.setattr(run, "_MAPS_BYTES", 4 * 37 * int(MASK.sum()))  # 37 maps a batch
    assert_same(whole, everything(case, permuted))


def test_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    case = Case("age + group + tiv", "age", dtype=np.float32)
    permuted = case.permuted(permutations=100)
    monkeypatch.setattr(run, "_MAPS_BYTES", 4 * 30 * int(MASK.sum()))
    monkeypatch.setattr(run, "_SAVE_SECONDS", 0.0)
    whole = everything(case, permuted)
    file = tmp_path / "new" / "permutations.npz"

    def stop_after_two(stage, done, total):
        if done >= 75:  # in the third batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        everything(case, permuted, checkpoint=file, key="this", progress=stop_after_two)
    seen = []
    resumed = everything(case, permuted, checkpoint=file, key="this", progress=lambda *a: seen.append(a[1]))
    assert min(seen) >= 60  # the first two batches are not done again
    assert_same(whole, resumed)
    again = everything(case, permuted, checkpoint=file, key="this", progress=lambda *a: seen.append("again"))
    assert "again" not in seen
    assert_same(whole, again)
    stale = everything(case, permuted, checkpoint=file, key="other", progress=lambda *a: seen.append("anew"))
    assert "anew" in seen
    assert_same(whole, stale)


NOTHING = {"stop_after": 20, "wants_tfce": True, "cluster_threshold": 2.0}


def test_early_stop_is_the_start_of_the_whole_run(tmp_path, monkeypatch):
    """Stops at a multiple of 128, whatever the batches and interruptions; p are those of the permutations so far."""
    case = Case("age + group + tiv", "age", dtype=np.float32)
    permuted = case.permuted(permutations=1000)
    whole = case.nulls(permuted, NullSettings(**NOTHING | {"stop_after": 0}))
    nulls = case.nulls(permuted, NullSettings(**NOTHING))
    assert (nulls.count, nulls.planned, nulls.is_exhaustive) == (128, 1000, False)
    for name, maxima in nulls.maxima.items():
        np.testing.assert_allclose(maxima, whole.maxima[name][:128], rtol=1e-5)
        assert (maxima >= maxima[0] * (1 - 1e-4)).sum() > 20
    np.testing.assert_allclose(nulls.p_fwe.min(), (nulls.maxima["statistic"] >= nulls.maxima["statistic"][0]).mean())
    assert nulls.p_uncorrected.min() >= 1 / 128
    monkeypatch.setattr(run, "_MAPS_BYTES", 4 * 50 * int(MASK.sum()))  # 50 maps a batch
    monkeypatch.setattr(run, "_SAVE_SECONDS", 0.0)
    assert_same(nulls, case.nulls(permuted, NullSettings(**NOTHING)))
    file, seen = tmp_path / "permutations.npz", []

    def stop_at_100(stage, done, total):
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.nulls(permuted, NullSettings(**NOTHING), checkpoint=file, key="this", progress=stop_at_100)
    resumed = case.nulls(
        permuted, NullSettings(**NOTHING), checkpoint=file, key="this", progress=lambda *a: seen.append(a)
    )
    assert seen[0][1] >= 50
    assert seen[-1] == ("permutations", 128, 128)
    assert_same(nulls, resumed)
    again = []
    assert_same(nulls, case.nulls(
        permuted, NullSettings(**NOTHING), checkpoint=file, key="this", progress=lambda *a: again.append(a)
    ))  # fmt: skip
    assert again == [("permutations", 128, 128)]


def test_a_finding_is_never_stopped():
    """The largest t is reached by few, its clusters by none: all permutations are done until everything is decided."""
    case = Case("age + group + tiv", "age", dtype=np.float32, effect=0.02)
    permuted = case.permuted(permutations=300)
    nulls = case.nulls(permuted, NullSettings(**NOTHING))
    assert nulls.count == nulls.planned == 300
    assert nulls.p_tfce_fwe.min() < 0.02
    few = replace(NullSettings(), stop_after=280)
    assert case.nulls(permuted, few).count == 300
    maxima = {"statistic": np.arange(128.0, 0, -1), "tfce": np.arange(128.0)}
    ties = {"statistic": 0.0, "tfce": 0.0}
    for wants_fwe in (True, False):  # what is not asked does not hold it up
        wanted = NullSettings(stop_after=20, wants_tfce=True, wants_fwe=wants_fwe)
        assert is_decided(maxima, 128, wanted, ties) is not wants_fwe


def test_early_stop_of_all_that_exist():
    """Those that were done are a sample of all, in an order that the seed draws."""
    case = Case("group", "group[T.b]", n=14)
    permuted = case.permuted(permutations=5000)
    assert permuted.rearrangements.count == 1001  # 14 choose 4
    whole, some = case.nulls(permuted), case.nulls(permuted, NullSettings(stop_after=20))
    assert (whole.is_exhaustive, some.is_exhaustive, some.count) == (True, False, 256)
    assert abs(some.p_fwe.min() - whole.p_fwe.min()) < 4 * np.sqrt(0.25 / 256)
    assert len(np.unique(permuted.rows(0, 1001)[0].round(9), axis=0)) == 1001
    other = case.permuted(permutations=5000, seed=1)
    assert (other.rows(0, 20) != permuted.rows(0, 20)).any()
    np.testing.assert_allclose(np.sort(case.nulls(other).maxima["statistic"]), np.sort(whole.maxima["statistic"]))


def test_p_of_early_stopping_are_valid():
    """Null maxima in random order: p <= alpha with probability alpha at most (4,000 trials, looks at 128 to 1,024)."""
    rng = np.random.default_rng(0)
    settings = NullSettings(stop_after=10)
    found = []
    for _ in range(4000):
        maxima = {"statistic": rng.random(1024)}
        done = 128
        while done < 1024 and not is_decided(maxima, done, settings, {"statistic": 0.0}):
            done += 128
        found.append(((maxima["statistic"][:done] >= maxima["statistic"][0]).mean(), done))
    p, done = np.array(found).T
    for alpha in (0.01, 0.05, 0.1, 0.5):
        share = (p <= alpha).mean()
        assert share < alpha + 3.3 * np.sqrt(alpha * (1 - alpha) / 4000)
        assert share > 0.7 * alpha
    assert 100 < done.mean() < 300


@pytest.mark.parametrize("spec", ["age", "F(age, group[T.b])"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_tails_are_fitted_to_the_permutations(spec, two_sided):
    case = Case("age + group + tiv", spec, n=24, effect=0.004)
    permuted = case.permuted(permutations=300)
    counted = case.nulls(permuted, NullSettings(two_sided))
    assert not counted.approximated
    t = naive(case, permuted)
    t = np.abs(t) if two_sided else t
    floor = 0.1 / 300
    nulls = case.nulls(permuted, NullSettings(two_sided, tail="gpd"))
    assert nulls.smallest_p == 1 / 300
    p, chosen = fit_tails(t.max(axis=1, keepdims=True), floor).p(t[0])
    np.testing.assert_array_equal(nulls.approximated["statistic"], chosen)
    np.testing.assert_allclose(nulls.p_fwe[chosen], p[chosen], rtol=1e-5)
    np.testing.assert_array_equal(nulls.p_fwe[~chosen], counted.p_fwe[~chosen])
    assert nulls.p_fwe[chosen].size > 0
    p, chosen = fit_tails(t, floor).p(t[0])
    np.testing.assert_array_equal(nulls.approximated["uncorrected"], chosen)
    np.testing.assert_allclose(nulls.p_uncorrected[chosen], p[chosen], rtol=1e-5)
    np.testing.assert_array_equal(nulls.p_uncorrected[~chosen], counted.p_uncorrected[~chosen])
    assert nulls.p_uncorrected.min() < 1 / 300


def test_tails_of_maps_and_none_where_all_exist():
    case = Case("age + group + tiv", "age", dtype=np.float32, effect=0.01)
    settings = NullSettings(True, True, 1.5, tail="gpd")
    nulls = case.nulls(case.permuted(permutations=200), settings)
    for name, p in (("tfce", nulls.p_tfce_fwe), ("extent", nulls.p_extent_fwe), ("mass", nulls.p_mass_fwe)):
        values = {"tfce": np.abs(nulls.tfce), "extent": nulls.clusters.sizes, "mass": nulls.clusters.masses}[name]
        chosen = nulls.approximated[name]
        expected, covered = fit_tails(nulls.maxima[name][:, None], 0.1 / 200).p(values)
        np.testing.assert_array_equal(chosen, (values != 0) & covered)
        assert chosen.any()
        np.testing.assert_allclose(p[chosen], expected[chosen])
    few = Case("group", "group[T.b]", n=14)
    exact = few.nulls(few.permuted(permutations=5000), NullSettings(tail="gpd"))
    assert exact.is_exhaustive
    assert not exact.approximated
    assert not exact.tails


def test_progress_ends_at_the_total():
    case = Case("age", "age")
    for settings in (NullSettings(), NullSettings(wants_tfce=True)):
        seen = []
        case.nulls(case.permuted(), settings, progress=lambda *a: seen.append(a))  # noqa: B023
        assert seen[-1] == ("permutations", 60, 60)
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_constant_voxels_have_no_finding():
    values = np.random.default_rng(0).standard_normal((14, 30))
    values[:, 4] = 3.0
    case = Case("age", "age", values=values)
    nulls = case.nulls(case.permuted())
    assert nulls.p_fwe[4] == nulls.p_uncorrected[4] == 1
    assert nulls.p_uncorrected.min() < 1


def test_the_seed_changes_the_permutations():
    case = Case("age", "age")
    a, b = (case.nulls(case.permuted(seed=seed)).maxima["statistic"] for seed in (0, 1))
    assert a[0] == b[0]
    assert (a[1:] != b[1:]).any()


def test_null_cohorts_keep_five_percent():
    """150 cohorts without effect: 7.5 errors expected at 5 %, 1 to 18 with probability 0.999."""
    errors = dict.fromkeys(("fwe", "tfce", "extent"), 0)
    ps = []
    for seed in range(150):
        case = Case("group + age", "group", n=15, seed=seed, dtype=np.float32)
        permuted = case.permuted(permutations=40, seed=seed)
        nulls = case.nulls(permuted, NullSettings(True, True, 2.5), n_threads=1)
        for name, p in (("fwe", nulls.p_fwe), ("tfce", nulls.p_tfce_fwe), ("extent", nulls.p_extent_fwe)):
            errors[name] += p.min(initial=1.0) <= 0.05 + 1e-9
        ps.append(nulls.p_uncorrected[100])
    assert all(1 <= count <= 18 for count in errors.values()), errors
    spread = np.array(ps) - np.random.default_rng(0).uniform(size=150) / 40
    assert stats.kstest(spread, "uniform").pvalue > 1e-3


def tiny_effects(formula, spec, n, **options):
    """A case in float32 and in float64 whose t are around 0.01 in most voxels."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((n, 1500))
    case = Case(formula, spec, n=n, values=values)
    x = case.design.matrix
    basis = np.linalg.qr(x)[0]
    rest = values - basis @ (basis.T @ values)
    values = (rest + 3e-4 * basis @ rng.standard_normal((x.shape[1], 1500))).astype(np.float32)
    return (Case(formula, spec, n=n, values=values.astype(dtype), dtype=dtype) for dtype in (np.float32, np.float64))


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("spec", ["age", "F(age, group[T.b])"])
def test_the_unpermuted_data_count_themselves(spec, scheme, two_sided):
    """Where t is near 0, rounding must not keep the data from reaching their own value."""
    single, double = tiny_effects("age + group", spec, 20)
    assert np.median(np.abs(double.statistic)) < 0.02
    permuted = double.permuted(permutations=50, scheme=scheme)
    ours, exact = (case.nulls(permuted, NullSettings(two_sided=two_sided)) for case in (single, double))
    assert (ours.p_uncorrected >= exact.p_uncorrected - 1e-9).all()
    assert (ours.p_uncorrected <= exact.p_uncorrected + 0.021).all()


def test_mirror_images_count_as_well():
    """Two groups of six: each division reaches |t| together with its mirror image, so counts are even."""
    table = pd.DataFrame({"group": list("ab") * 6})
    ids = [f"s{i:02d}" for i in range(12)]
    design = build_design("group", table, ids)
    contrasts = build_contrasts(["group"], design)
    plan = make_plan(design, contrasts, np.empty((0, 12), bool))
    rest = np.random.default_rng(1).standard_normal((12, 1500))
    for level in "ab":
        rows = (table["group"] == level).to_numpy()
        rest[rows] -= rest[rows].mean(axis=0)
    rest += 1e-4 * np.random.default_rng(2).standard_normal(1500) * (table["group"] == "b").to_numpy()[:, None]
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(12)), 1000))
    counts = []
    for dtype in (np.float32, np.float64):
        maps = ArrayMaps(rest.astype(np.float32).astype(dtype), tuple(ids))
        nulls = permutation_nulls(Fitted(maps, plan, fit_voxels(maps, plan)), permuted, NullSettings())
        assert nulls.is_exhaustive
        counts.append(np.rint(nulls.p_uncorrected * 924).astype(int))
    assert (np.array(counts) % 2 == 0).all()
    assert (counts[0] >= counts[1]).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_degree_of_freedom(scheme):
    """The largest t are in the thousands, where float32 has no digits of 1 - s² left."""
    values = np.random.default_rng(8).standard_normal((4, 3000)).astype(np.float32)
    case = Case("age + tiv", "age", n=4, values=values, dtype=np.float32)
    permuted = case.permuted(permutations=100, scheme=scheme)
    nulls = case.nulls(permuted)
    case.values = values.astype(np.float64)
    expected = np.abs(naive(case, permuted))
    assert nulls.count == 24
    assert expected.max(axis=1).min() > 200
    np.testing.assert_allclose(nulls.maxima["statistic"], expected.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(
        nulls.p_fwe, (expected.max(axis=1)[:, None] >= expected[0] * (1 - 1e-9)).mean(axis=0), atol=1e-12
    )


def test_few_degrees_of_freedom_are_done_in_double_precision():
    assert working_precision(np.dtype(np.float32), 9.0) == torch.float64
    assert working_precision(np.dtype(np.float32), 10.0) == torch.float32
    assert working_precision(np.dtype(np.float64), 100.0) == torch.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_pairs", [5, 12])
@pytest.mark.parametrize("has_groups", [False, True])
def test_flips_that_leave_nothing_have_no_effect(n_pairs, dtype, has_groups):
    """Pairs with a column each: flips of one scan of every pair move the residuals into the nuisance, 0 / 0."""
    n = 2 * n_pairs
    table = pd.DataFrame({"time": ["pre", "post"] * n_pairs, "person": [f"p{i:02d}" for i in range(n_pairs)
                                                                        for _ in range(2)]})  # fmt: skip
    ids = [f"s{i:02d}" for i in range(n)]
    design = build_design("time + person", table, ids)
    contrasts = build_contrasts(["time"], design)
    plan = make_plan(design, contrasts, np.empty((0, n), bool))
    maps = ArrayMaps((100 + np.random.default_rng(0).standard_normal((n, 50))).astype(dtype), tuple(ids))
    groups = np.arange(n) // 2 % 2 if has_groups else None
    permuted = make_permuted(plan, 0, Resampling(free_tree(range(n)), 400, seed=1, flip=True, groups=groups))
    signs = permuted.rearrangements.sources(0, 400)[1]
    signs[1, ::2], signs[1, 1::2] = 1, -1  # all pairs mixed
    rearranged = replace(permuted.rearrangements, flips=np.eye(n), count=2, existing=3)
    object.__setattr__(rearranged, "sources", lambda start, stop: (None, signs[start:stop]))
    fitted = Fitted(maps, plan, fit_voxels(maps, plan))
    nulls = permutation_nulls(fitted, replace(permuted, rearrangements=rearranged), NullSettings())
    assert nulls.maxima["statistic"][1] < 1e-2
    assert nulls.maxima["statistic"][0] > 1


FAMILY, N_COHORTS = np.repeat(np.arange(1, 11), 3), 800
ONE, SCAN = np.ones(30, int), np.tile([1, 2, 3], 10)
EXPOSED = np.repeat(np.random.default_rng(3).standard_normal(10), 3)  # the same in a family
TRIED = np.random.default_rng(4).standard_normal(30)  # differs inside families


@pytest.mark.parametrize(("columns", "regressor", "flip"), [
    (None, None, True), (None, TRIED, False),
    ("whole", None, True), ("both", None, True), ("whole", EXPOSED, False), ("both", EXPOSED + TRIED, False),
    ("within", TRIED, False), ("whole", TRIED, False),
    ((ONE, -FAMILY, SCAN), None, True), ((ONE, FAMILY, SCAN), None, True), ((ONE, -FAMILY), None, True),
    ((ONE, -FAMILY, SCAN), EXPOSED, False), ((ONE, FAMILY, SCAN), EXPOSED + TRIED, False),
    ((-ONE, FAMILY, SCAN), TRIED, False), ((-ONE, FAMILY), TRIED, False),
    ((-ONE, (FAMILY + 4) // 5, -FAMILY, SCAN), None, True),  # families inside sites that stay
])  # fmt: skip
def test_p_are_uniform_whatever_the_blocks(columns, regressor, flip):
    """800 cohorts without effect, 10 families of 3 with correlation .7 (none without blocks): 5 % have p <= .05."""
    rng = np.random.default_rng(11)
    shared = 0.0 if columns is None else np.sqrt(0.7) * rng.standard_normal((10, N_COHORTS))[FAMILY - 1]
    values = shared + np.sqrt(1.0 if columns is None else 0.3) * rng.standard_normal((30, N_COHORTS))
    if columns is None:
        tree = free_tree(range(30))
    elif isinstance(columns, str):
        tree = block_tree(FAMILY.tolist(), columns, range(30))
    else:
        tree = level_tree(np.column_stack(columns), range(30))
    ids = [f"s{i:02d}" for i in range(30)]
    formula, spec = ("1", "Intercept") if regressor is None else ("x", "x")
    design = build_design(formula, pd.DataFrame({"x": SCAN if regressor is None else regressor}), ids)
    contrasts = build_contrasts([spec], design)
    plan = make_plan(design, contrasts, np.empty((0, 30), bool))
    maps = ArrayMaps(values, tuple(ids))
    permuted = make_permuted(plan, 0, Resampling(tree, 400, seed=5, flip=flip))
    nulls = permutation_nulls(Fitted(maps, plan, fit_voxels(maps, plan)), permuted, NullSettings())
    expected = np.floor(0.05 * nulls.count) / nulls.count
    hits = int((nulls.p_uncorrected <= 0.05).sum())
    assert stats.binomtest(hits, N_COHORTS, expected).pvalue > 1e-3
