"""The engine against slow float64 least squares, other packages, certified values, and itself."""

from __future__ import annotations

import time
from threading import Lock

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nilearn.glm import compute_contrast
from nilearn.glm.first_level import run_glm

from tests.glm import oracle
from tests.glm.conftest import make_table
from vbmstat import device
from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast, build_contrasts
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit import product
from vbmstat.glm.fit.engine import SPM_RESMS_FLOOR, fit_voxels
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.product import choose_product, matmul, through_onednn
from vbmstat.glm.fit.stream import Layout, stream, tile_layout
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.hc3 import hc3_plan
from vbmstat.maps.store import ArrayMaps

TOLERANCE = 5e-6  # |Δt| / max(1, |t|) in float32
PATHS = ["stacked", "compiled"]  # stacked products, and the compiled loops that `auto` takes for much work


def design_of(formula: str, n_scans: int = 60, seed: int = 0) -> Design:
    table = make_table(n_scans, seed)
    return build_design(formula, table, list(table["participant_id"]))


def from_matrix(x: np.ndarray) -> Design:
    return Design(x, tuple(f"x{i}" for i in range(x.shape[1])), tuple(f"{i:04d}" for i in range(len(x))))


def run(y, design, contrasts, draws=None, weights=None, scale=None, *, robust=False, spm_floor=False, **options):
    draws = np.empty((0, len(y)), dtype=bool) if draws is None else draws
    plan = make_plan(design, contrasts, draws, weights, scale)
    if robust:
        plan = hc3_plan(plan, design.scan_ids)
    return fit_voxels(ArrayMaps(y, design.scan_ids), plan, Compute(**options), spm_floor=spm_floor)


def medians(y, design, contrast, draws, quantile=0.5):
    values = []
    for rows in draws:
        values.append(oracle.fit(design.matrix[rows], y[rows], contrast.weights, contrast.kind)[2])
    return np.quantile(values, quantile, axis=0)


def hostile_values(name: str, n_scans: int, age: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((n_scans, 700))
    return {
        "mean 1e4, sd 1": 1e4 + noise,
        "sd 1e-6": 1e-6 * noise,
        "mean 1, sd 1e-6": 1 + 1e-5 * noise,
        "99 % zeros": np.where(rng.random(noise.shape) < 0.99, 0, noise),
        "t of 300": age[:, None] + noise * age.std() * np.sqrt(n_scans) / 300,
        "strong nuisance": 1e3 * age[:, None] + noise,
        "one outlier": noise + 1e4 * (np.arange(n_scans) == 3)[:, None],
    }[name].astype(np.float32)


@pytest.mark.parametrize(
    "name",
    ["mean 1e4, sd 1", "sd 1e-6", "mean 1, sd 1e-6", "99 % zeros", "t of 300", "strong nuisance", "one outlier"],
)
@pytest.mark.parametrize("backend", PATHS)
def test_float32_numerics(name, backend):
    design = design_of("age + sex + tiv", 200)
    y = hostile_values(name, 200, design.matrix[:, 1])
    contrasts = build_contrasts(["age", "sex", "tiv", "F(age, tiv)"], design)
    draws = draw_subsets(design.scan_ids, 12, 0.8, 3)
    keep = np.array([y[rows].std(axis=0) > 0 for rows in draws]).all(axis=0)  # a subset of zeros has no t
    y = np.ascontiguousarray(y[:, keep])
    assert y.shape[1] > 300
    fit = run(y, design, contrasts, draws, backend=backend)
    for k, contrast in enumerate(contrasts):
        effect, variance, statistic = oracle.fit(design.matrix, y, contrast.weights, contrast.kind)
        assert oracle.error(fit.statistic[k], statistic) < TOLERANCE
        assert oracle.error(fit.quantiles["median"][k], medians(y, design, contrast, draws)) < TOLERANCE
        if contrast.kind == "t":
            np.testing.assert_allclose(fit.effect[k], effect, rtol=1e-5, atol=1e-5 * np.abs(effect).max())
            np.testing.assert_allclose(fit.variance[k], variance, rtol=1e-5)


@pytest.mark.parametrize("repeats", [10, 11])
def test_quartiles_and_median_of_even_and_odd_counts(repeats):
    design = design_of("age + sex")
    y = np.random.default_rng(0).standard_normal((60, 40))
    draws = draw_subsets(design.scan_ids, repeats, 0.8, 0)
    contrasts = build_contrasts(["age"], design)
    fit = run(y, design, contrasts, draws)
    for name, quantile in (("median", 0.5), ("q25", 0.25), ("q75", 0.75)):
        np.testing.assert_allclose(fit.quantiles[name][0], medians(y, design, contrasts[0], draws, quantile), rtol=1e-9)


@pytest.mark.parametrize("backend", PATHS)
def test_constant_and_exactly_fitted_voxels_have_t_zero(backend):
    age = np.arange(60.0)
    design = from_matrix(np.column_stack([np.ones(60), age]))
    y = np.column_stack([np.full(60, 7.3), np.zeros(60), 2 + 0.5 * age, age + np.cos(np.arange(60))]).astype(np.float32)
    draws = draw_subsets(design.scan_ids, 5, 0.8, 0)
    fit = run(y, design, [Contrast("age", np.array([[0.0, 1.0]]), "t")], draws, backend=backend)
    assert fit.mask.tolist() == [False, False, True, True]
    assert fit.statistic[0, :2].tolist() == [0, 0]
    assert abs(fit.statistic[0, 2]) == 0
    assert fit.statistic[0, 3] > 50


@pytest.mark.parametrize("backend", PATHS)
def test_subsets_of_constant_values_have_t_zero(backend):
    design = design_of("age")
    y = np.zeros((60, 2), dtype=np.float32)
    y[[3, 17], 0] = 1.0
    y[:, 1] = np.sin(np.arange(60))
    draws = np.ones((3, 60), dtype=bool)
    draws[:, [3, 17]] = False
    fit = run(y, design, build_contrasts(["age"], design), draws, backend=backend)
    assert fit.quantiles["median"][0, 0] == 0
    assert fit.statistic[0, 0] != 0


@pytest.mark.parametrize(("dtype", "backend"), [(np.float64, "stacked"), *((np.float32, path) for path in PATHS)])
def test_nothing_depends_on_chunks_or_threads(dtype, backend):
    design = design_of("age + sex + tiv")
    y = np.random.default_rng(2).standard_normal((60, 2500)).astype(dtype)
    draws = draw_subsets(design.scan_ids, 10, 0.8, 0)
    contrasts = build_contrasts(["age", "tiv"], design)
    first = run(y, design, contrasts, draws, backend=backend)
    for chunk, threads in ((1, 2), (997, 1), (997, 2), (2500, 1), (4096, 2)):
        other = run(y, design, contrasts, draws, chunk_voxels=chunk, n_threads=threads, backend=backend)
        assert np.array_equal(other.statistic, first.statistic), (chunk, threads)
        assert np.array_equal(other.quantiles["median"], first.quantiles["median"])
        assert np.array_equal(other.residual_variance, first.residual_variance)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = run(y, design, contrasts, draws, backend=backend)
        assert np.array_equal(again.quantiles["median"], first.quantiles["median"])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_tiles_at_a_time_than_threads(workers):
    lock, now, most = Lock(), 0, 0

    def work(tiles, inside):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    maps = ArrayMaps(np.random.default_rng(0).standard_normal((4, 20 * 512)), tuple("abcd"))
    assert len(list(stream([maps], Layout(512, 512, workers), work))) == 20
    assert most == workers


def test_tiles_of_a_device_are_bounded_by_their_bytes():
    assert tile_layout(Compute("cpu", 2, None), 10**6) == Layout(512, 512, 2)
    assert tile_layout(Compute("cpu", 2, 700)) == Layout(1024, 512, 2)
    assert tile_layout(Compute("cuda", None, None), 4017).tile == 16384
    assert tile_layout(Compute("cuda", None, None), 10**5).tile == 3072  # 1.2 GB
    assert tile_layout(Compute("cuda", None, 100), 10**5).tile == 512


def test_threads_of_torch_are_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        test_constant_and_exactly_fitted_voxels_have_t_zero("stacked")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("multiply", [matmul, through_onednn])
def test_every_backend_and_product_is_right(backend, multiply, monkeypatch):
    monkeypatch.setattr("vbmstat.glm.fit.stacked.choose_product", lambda _: multiply)
    design = design_of("age + sex")
    y = np.random.default_rng(2).standard_normal((60, 100)).astype(np.float32)
    draws = draw_subsets(design.scan_ids, 10, 0.8, 0)
    contrasts = build_contrasts(["age"], design)
    fit = run(y, design, contrasts, draws, backend=backend)
    assert oracle.error(fit.quantiles["median"][0], medians(y, design, contrasts[0], draws)) < TOLERANCE


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8, 1.0])
def test_rows_in_or_out_of_a_subset_and_many_columns(fraction):
    """The compiled loops sum the fewer rows, and directions in groups of four."""
    design = design_of("bs(age, df=7) + site + tiv", 203)
    y = (5 + np.random.default_rng(2).standard_normal((203, 700))).astype(np.float32)
    contrasts = build_contrasts(["tiv", "site", "F(tiv)"], design)
    draws = draw_subsets(design.scan_ids, 9, fraction, 0)
    fit = run(y, design, contrasts, draws, backend="compiled")
    for k, contrast in enumerate(contrasts):
        expected = oracle.fit(design.matrix, y, contrast.weights, contrast.kind)[2]
        assert oracle.error(fit.statistic[k], expected) < TOLERANCE
        kept = draws[make_plan(design, contrasts, draws).contrasts[k].repetitions]
        assert oracle.error(fit.quantiles["median"][k], medians(y, design, contrast, kept)) < TOLERANCE


def test_auto_takes_the_compiled_loops_for_much_work_only(monkeypatch):
    design = design_of("age")
    y = np.random.default_rng(2).standard_normal((60, 600)).astype(np.float32)
    draws = draw_subsets(design.scan_ids, 5, 0.8, 0)
    contrasts = build_contrasts(["age"], design)
    products, compiled = (run(y, design, contrasts, draws, backend=path) for path in PATHS)
    assert not np.array_equal(products.quantiles["median"], compiled.quantiles["median"])  # or this shows nothing
    little = run(y, design, contrasts, draws)
    monkeypatch.setattr("vbmstat.glm.fit.engine._WORTH_COMPILING", 0)
    much = run(y, design, contrasts, draws)
    assert np.array_equal(much.quantiles["median"], compiled.quantiles["median"])
    assert not np.array_equal(little.quantiles["median"], compiled.quantiles["median"])


@pytest.mark.parametrize("options", [{"robust": True}, {"device": "cuda"}])
def test_what_the_compiled_loops_cannot_do(options):
    design = design_of("age")
    y = np.random.default_rng(2).standard_normal((60, 5)).astype(np.float32)
    with pytest.raises(DesignError, match="float32 maps on the CPU without HC3"):
        run(y, design, build_contrasts(["age"], design), backend="compiled", **options)


@pytest.mark.parametrize(
    ("vendor", "expected"), [("AuthenticAMD", through_onednn), ("GenuineIntel", matmul), ("", matmul)]
)
def test_the_product_goes_by_the_processor(vendor, expected, monkeypatch):
    monkeypatch.setattr(product, "_is_amd", lambda: vendor == "AuthenticAMD")
    assert choose_product("cpu") is expected
    assert choose_product("cuda") is matmul


def test_reparametrised_design_gives_the_same_contrasts():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(40), rng.standard_normal((40, 3))])
    mixing = rng.standard_normal((4, 4))
    y = rng.standard_normal((40, 50))
    c = np.array([[0.0, 1.0, -1.0, 0.5]])
    draws = draw_subsets([f"{i:04d}" for i in range(40)], 7, 0.8, 0)
    one = run(y, from_matrix(x), [Contrast("c", c, "t")], draws)
    # X β = (X M)(M⁻¹ β), so that c'β = (c'M)(M⁻¹ β)
    two = run(y, from_matrix(x @ mixing), [Contrast("c", c @ mixing, "t")], draws)
    np.testing.assert_allclose(two.statistic, one.statistic, rtol=1e-9)
    np.testing.assert_allclose(two.quantiles["median"], one.quantiles["median"], rtol=1e-9)
    np.testing.assert_allclose(two.effect, one.effect, rtol=1e-8, atol=1e-10)


def test_statsmodels_ols():
    design = design_of("age * sex + tiv")
    y = np.random.default_rng(3).standard_normal((60, 20))
    contrasts = build_contrasts(["age", "age:sex[T.M] - tiv", "F(age, sex)"], design)
    fit = run(y, design, contrasts)
    for v in range(20):
        model = sm.OLS(y[:, v], design.matrix).fit()
        for k in (0, 1):
            test = model.t_test(contrasts[k].weights)
            assert fit.statistic[k, v] == pytest.approx(float(test.tvalue.item()), rel=1e-9)
            assert fit.effect[k, v] == pytest.approx(float(test.effect.item()), rel=1e-9)
        assert fit.statistic[2, v] == pytest.approx(float(model.f_test(contrasts[2].weights).fvalue), rel=1e-9)
        assert fit.residual_variance[v] == pytest.approx(model.mse_resid, rel=1e-10)


@pytest.mark.parametrize(("dtype", "backend"), [(np.float64, "stacked"), *((np.float32, path) for path in PATHS)])
def test_statsmodels_wls_and_subsets_with_weights(dtype, backend):
    design = design_of("age + sex")
    rng = np.random.default_rng(3)
    y = (5 + rng.standard_normal((60, 8))).astype(dtype)
    weights = rng.uniform(0.2, 5, 60)
    draws = draw_subsets(design.scan_ids, 4, 0.8, 1)
    fit = run(y, design, build_contrasts(["age", "sex"], design), draws, weights=weights, backend=backend)
    tolerance = TOLERANCE if dtype == np.float32 else 1e-9
    for v in range(8):
        model = sm.WLS(y[:, v].astype(float), design.matrix, weights=weights).fit()
        assert fit.statistic[:, v] == pytest.approx(model.tvalues[[1, 2]], rel=tolerance, abs=tolerance)
        ts = [sm.WLS(y[r, v].astype(float), design.matrix[r], weights=weights[r]).fit().tvalues[1] for r in draws]
        assert fit.quantiles["median"][0, v] == pytest.approx(np.median(ts), rel=tolerance, abs=tolerance)


def test_statsmodels_hc3():
    design = design_of("age + sex + tiv")
    rng = np.random.default_rng(3)
    y = rng.standard_normal((60, 10)) * design.matrix[:, [1]]
    contrasts = build_contrasts(["age", "sex - tiv"], design)
    fit = run(y, design, contrasts, robust=True)
    for v in range(10):
        robust = sm.OLS(y[:, v], design.matrix).fit(cov_type="HC3")
        for k, contrast in enumerate(contrasts):
            assert fit.statistic[k, v] == pytest.approx(float(robust.t_test(contrast.weights).tvalue.item()), rel=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statsmodels_hc3_in_subsets(dtype):
    design = design_of("age + sex + tiv")
    rng = np.random.default_rng(3)
    y = (100 + rng.standard_normal((60, 4)) * design.matrix[:, [1]]).astype(dtype)
    contrasts = build_contrasts(["age", "sex - tiv"], design)
    draws = draw_subsets(design.scan_ids, 6, 0.8, 1)
    fit = run(y, design, contrasts, draws, robust=True)
    tolerance = TOLERANCE if dtype == np.float32 else 1e-8
    for v in range(4):
        models = [sm.OLS(y[r, v].astype(float), design.matrix[r]).fit(cov_type="HC3") for r in draws]
        for k, contrast in enumerate(contrasts):
            median = np.median([float(m.t_test(contrast.weights).tvalue.item()) for m in models])
            assert fit.quantiles["median"][k, v] == pytest.approx(median, rel=tolerance, abs=tolerance)


def test_nilearn_run_glm():
    design = design_of("age + sex + tiv")
    y = np.random.default_rng(4).standard_normal((60, 30))
    labels, results = run_glm(y, design.matrix, noise_model="ols")
    fit = run(y, design, build_contrasts(["age", "F(age, tiv)"], design))
    t = compute_contrast(labels, results, np.array([0, 1.0, 0, 0]), stat_type="t")
    np.testing.assert_allclose(fit.statistic[0], t.stat(), rtol=1e-8)
    np.testing.assert_allclose(fit.variance[0], np.squeeze(t.effect_variance()), rtol=1e-8)
    f = compute_contrast(labels, results, np.eye(4)[[1, 3]], stat_type="F")
    np.testing.assert_allclose(fit.statistic[1], f.stat(), rtol=1e-8)


def test_nist_longley_to_nine_digits():
    # https://www.itl.nist.gov/div898/strd/lls/data/LINKS/v-Longley.shtml, certified values
    data = sm.datasets.longley.load_pandas().data
    predictors = data[["GNPDEFL", "GNP", "UNEMP", "ARMED", "POP", "YEAR"]].to_numpy(float)
    x = np.column_stack([np.ones(16), predictors])
    design = from_matrix(x)
    contrasts = [Contrast(f"b{i}", np.eye(7)[[i]], "t") for i in range(7)]
    fit = run(data[["TOTEMP"]].to_numpy(float), design, contrasts)
    certified = [
        (-3482258.63459582, 890420.383607373),
        (15.0618722713733, 84.9149257747669),
        (-0.358191792925910e-01, 0.334910077722432e-01),
        (-2.02022980381683, 0.488399681651699),
        (-1.03322686717359, 0.214274163161675),
        (-0.511041056535807e-01, 0.226073200069370),
        (1829.15146461355, 455.478499142212),
    ]
    for k, (estimate, deviation) in enumerate(certified):
        assert fit.effect[k, 0] == pytest.approx(estimate, rel=1e-9)
        assert np.sqrt(fit.variance[k, 0]) == pytest.approx(deviation, rel=1e-9)
    assert np.sqrt(fit.residual_variance[0]) == pytest.approx(304.854073561965, rel=1e-9)


def test_r_on_cars():
    # R: summary(lm(dist ~ speed, cars))$coefficients["speed", 1:3]; 3.932409 0.4155128 9.463990
    cars = np.array(
        [4, 2, 4, 10, 7, 4, 7, 22, 8, 16, 9, 10, 10, 18, 10, 26, 10, 34, 11, 17, 11, 28, 12, 14, 12, 20, 12, 24, 12, 28,
         13, 26, 13, 34, 13, 34, 13, 46, 14, 26, 14, 36, 14, 60, 14, 80, 15, 20, 15, 26, 15, 54, 16, 32, 16, 40, 17, 32,
         17, 40, 17, 50, 18, 42, 18, 56, 18, 76, 18, 84, 19, 36, 19, 46, 19, 68, 20, 32, 20, 48, 20, 52, 20, 56, 20, 64,
         22, 66, 23, 54, 24, 70, 24, 92, 24, 93, 24, 120, 25, 85], dtype=float,
    ).reshape(-1, 2)  # fmt: skip
    design = build_design("speed", pd.DataFrame({"speed": cars[:, 0]}), [f"{i:02d}" for i in range(50)])
    fit = run(cars[:, 1:], design, build_contrasts(["speed"], design))
    assert fit.effect[0, 0] == pytest.approx(3.932409, abs=5e-7)
    assert np.sqrt(fit.variance[0, 0]) == pytest.approx(0.4155128, abs=5e-8)
    assert fit.statistic[0, 0] == pytest.approx(9.463990, abs=5e-7)


@pytest.mark.parametrize("backend", PATHS)
def test_spm_variance_floor_in_sample_and_subsets(backend):
    design = design_of("age + sex")
    y = np.random.default_rng(3).standard_normal((60, 1300)) * np.geomspace(0.01, 1, 1300)
    draws = draw_subsets(design.scan_ids, 5, 0.8, 1)
    contrasts = build_contrasts(["age"], design)
    y[7, -3:] += 1e4  # subsets without this scan cancel in float32, and must not set the floor
    draws[:4, 7] = False
    fit = run(y.astype(np.float32), design, contrasts, draws, spm_floor=True, backend=backend)

    def floored(rows):
        effect, variance, _ = oracle.fit(design.matrix[rows], y[rows].astype(np.float32), contrasts[0].weights)
        x = design.matrix[rows]
        spread = np.linalg.inv(x.T @ x)[1, 1]
        sigma2 = variance / spread
        return effect / np.sqrt((sigma2 + SPM_RESMS_FLOOR * sigma2.max()) * spread)

    assert oracle.error(fit.statistic[0], floored(np.ones(60, dtype=bool))) < TOLERANCE
    assert oracle.error(fit.quantiles["median"][0], np.median([floored(r) for r in draws], axis=0)) < TOLERANCE
    plain = run(y.astype(np.float32), design, contrasts, draws)
    assert (np.abs(plain.statistic) > np.abs(fit.statistic)).mean() > 0.99


@pytest.mark.parametrize(("dtype", "backend"), [(np.float64, "stacked"), *((np.float32, path) for path in PATHS)])
def test_lost_levels_are_counted_and_left_out(dtype, backend):
    table = make_table(40)
    table["site"] = ["rare"] * 2 + ["a", "b"] * 19
    design = build_design("age + site", table, list(table["participant_id"]))
    y = np.random.default_rng(3).standard_normal((40, 15)).astype(dtype)
    draws = draw_subsets(design.scan_ids, 60, 0.5, 1)
    contrasts = build_contrasts(["age", "site[T.rare]", "site"], design)
    fit = run(y, design, contrasts, draws, backend=backend)
    tolerance = TOLERANCE if dtype == np.float32 else 1e-8
    has_rare = draws[:, :2].any(axis=1)
    assert 0 < has_rare.sum() < 60
    assert fit.repetitions == (60, int(has_rare.sum()), int(has_rare.sum()))
    ts = [oracle.fit(design.matrix[r], y[r], contrasts[0].weights)[2] for r in draws]
    assert oracle.error(fit.quantiles["median"][0], np.median(ts, axis=0)) < tolerance
    ts = [oracle.fit(design.matrix[r], y[r], contrasts[1].weights)[2] for r in draws[has_rare]]
    assert oracle.error(fit.quantiles["median"][1], np.median(ts, axis=0)) < tolerance


def test_scan_scale_multiplies_rows():
    design = design_of("age + sex")
    rng = np.random.default_rng(3)
    y, scale = rng.uniform(1, 2, (60, 9)), rng.uniform(0.5, 2, 60)
    contrasts = build_contrasts(["age"], design)
    scaled = run(y, design, contrasts, scale=scale)
    np.testing.assert_allclose(scaled.statistic, run(y * scale[:, None], design, contrasts).statistic, rtol=1e-9)
    assert not np.allclose(scaled.statistic, run(y, design, contrasts).statistic)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_scans=st.integers(6, 40),
    n_numeric=st.integers(0, 3),
    n_levels=st.integers(0, 3),
    has_intercept=st.booleans(),
    seed=st.integers(0, 10_000),
    path=st.sampled_from([(np.float64, "stacked"), *((np.float32, path) for path in PATHS)]),
)
def test_any_design(n_scans, n_numeric, n_levels, has_intercept, seed, path):
    """Random designs, rank-deficient ones among them: estimable contrasts agree with least squares."""
    dtype, backend = path
    rng = np.random.default_rng(seed)
    blocks = [np.ones((n_scans, int(has_intercept))), rng.normal(5, 2, (n_scans, n_numeric))]
    blocks.append(np.eye(max(n_levels, 1))[rng.integers(0, max(n_levels, 1), n_scans)][:, : n_levels or 0])
    x = np.column_stack(blocks)
    if x.shape[1] == 0 or np.linalg.matrix_rank(x) >= n_scans - 2:
        return
    row = rng.standard_normal(n_scans) @ x  # in the row space: estimable
    if not np.abs(row).max() > 1e-6:
        return
    design = from_matrix(x)
    y = (3 + rng.standard_normal((n_scans, 5))).astype(dtype)
    draws = draw_subsets(design.scan_ids, 6, 0.8, seed)
    contrast = Contrast("c", row[None], "t")
    try:
        fit = run(y, design, [contrast], draws, backend=backend)
    except DesignError as error:
        if "cannot be estimated in any subset" not in str(error):
            raise
        return
    tolerance = TOLERANCE if dtype == np.float32 else 1e-7
    assert oracle.error(fit.statistic[0], oracle.fit(x, y, row)[2]) < tolerance
    if fit.repetitions == (6,):
        ranks = [np.linalg.matrix_rank(x[r]) for r in draws]
        if all(rank < rows.sum() for rank, rows in zip(ranks, draws, strict=True)):
            ts = [oracle.fit(x[r], y[r], row)[2] for r in draws]
            assert oracle.error(fit.quantiles["median"][0], np.median(ts, axis=0)) < tolerance


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    design = design_of("age + sex + tiv", 200)
    y = hostile_values("mean 1e4, sd 1", 200, design.matrix[:, 1])
    draws = draw_subsets(design.scan_ids, 20, 0.8, 0)
    contrasts = build_contrasts(["age", "F(age, tiv)"], design)
    cpu, gpu = run(y, design, contrasts, draws), run(y, design, contrasts, draws, device="cuda")
    assert oracle.error(gpu.statistic, cpu.statistic) < TOLERANCE
    assert oracle.error(gpu.quantiles["median"], cpu.quantiles["median"]) < TOLERANCE


def test_threads_within_the_quota_of_a_container(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert tile_layout(Compute("cpu", None, None)).workers == 3
    assert tile_layout(Compute("cpu", 7, None)).workers == 7
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert tile_layout(Compute("cpu", None, None)).workers == 2
