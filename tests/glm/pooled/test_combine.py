"""Which sites belong together, over which voxels; models from sums against models of all scans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.glm.pooled.conftest import SPACE, about, all_sums, maps_of, people, sums_of
from vbmstat.errors import DesignError, ScanError, VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.pooled.combine import check_sites, common_voxels, fit_rows, stack_rows
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.maps.store import ArrayMaps, Space


@pytest.fixture
def two(three):
    return {name: three[2][name] for name in ("berlin", "ulm")}


def test_the_sites_of_a_study_pass(three):
    check_sites(three[2])


def test_sites_alone_and_twice(two):
    with pytest.raises(VbmstatError, match="two sites or more, got 1"):
        check_sites({"ulm": two["ulm"]})
    with pytest.raises(VbmstatError, match="ulm and ulm2 hold the same scans"):
        check_sites(two | {"ulm2": about(two["ulm"], version="0.0.9")})


def other_site(formula, **changed):
    table = people({"x": 50}, seed=5).assign(**changed)
    return sums_of(table, maps_of(table, seed=6), formula)


def test_columns_that_one_site_lacks(two):
    with pytest.raises(DesignError, match=r"berlin has the column sex\[T\.M\], which x lacks; fit the same formula"):
        check_sites(two | {"x": other_site("age + group")})
    with pytest.raises(DesignError, match="x has the column w, which berlin lacks"):
        check_sites(two | {"x": other_site("age + sex + group + w")})


def test_a_number_that_is_a_factor_elsewhere(two):
    table = people({"x": 50}, seed=5)
    with pytest.raises(DesignError, match=r"berlin has the column sex\[T\.M\], which x lacks"):
        check_sites(two | {"x": other_site("age + sex + group", sex=(table["sex"] == "M") * 1.0)})


@pytest.mark.parametrize("spelt", ["hC", "h c"])
def test_a_level_that_is_spelt_in_two_ways(two, spelt):
    """Two levels would be fitted; also if the first site has neither."""
    other = other_site("age + sex + group", group=people({"x": 50}, seed=5)["group"].replace("hc", spelt))
    other = about(other, references=two["ulm"].about.references)
    message = rf"ulm has the level group\[T\.hc\] and x group\[T\.{spelt}\]; spell it alike"
    with pytest.raises(DesignError, match=message):
        check_sites({"ulm": two["ulm"], "x": other})
    without = people({"a": 60}, seed=9)
    without["group"] = without["group"].replace("hc", "mci")
    first = sums_of(without, maps_of(without, seed=9), "age + sex + group")
    with pytest.raises(DesignError, match=message):
        check_sites({"a": first, "ulm": two["ulm"], "x": other})


def test_other_references(two):
    table = people({"x": 50}, seed=5)
    renamed = table["group"].replace("ad", "zz")
    with pytest.raises(DesignError, match=r"berlin and x: the reference levels differ \(group\[T\.\w+\] is not"):
        check_sites(two | {"x": other_site("age + sex + group", group=renamed)})


def test_other_references_of_a_factor_in_interactions_only():
    """The slope `age` is that of the reference level, which is another at each site."""
    formula, seen = "age + age:group", []
    for groups in (["ad", "hc"], ["hc", "mci"]):
        table = people({"x": 50}, seed=5)
        table["group"] = np.resize(groups, 50)
        seen.append(sums_of(table, maps_of(table, seed=len(seen)), formula))
    assert [site.about.columns[-1] for site in seen] == ["age:group[T.hc]", "age:group[T.mci]"]
    with pytest.raises(DesignError, match=r"a and b: the reference levels differ \(group\[T\.ad\] is not that of both"):
        check_sites(dict(zip("ab", seen, strict=True)))


def test_a_level_that_no_site_shares_with_the_others_is_a_column_of_its_own(three):
    table = people({"x": 50}, seed=5)
    site = other_site("age + sex + group", group=table["group"].replace("mci", "ftd"))
    sites = three[2] | {"x": site}
    check_sites(sites)
    design = stack_rows(sites).design
    assert design.terms["group"] == ("group[T.ftd]", "group[T.hc]", "group[T.mci]")
    column = design.matrix[:, design.columns.index("group[T.mci]")]
    is_x = np.array([label.startswith("x ") for label in design.scan_ids])
    assert not column[is_x].any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"response": "wm"}, r"the sites differ in maps \(left of the formula\) \(berlin: gm; ulm: wm\)"),
        ({"weights": "w"}, r"differ in weights \(berlin: none; ulm: w\)"),
        ({"fwhm_mm": 8.0}, r"differ in smoothing \(berlin: 6 mm; ulm: 8 mm\); make all maps alike"),
        ({"made_from": {"kind of maps": ("mwp1*",)}}, r"differ in kind of maps \(berlin: s6mwp1\*; ulm: mwp1\*\)"),
        ({"made_from": {"engine": ("deep",)}}, "differ in engine .*--allow-mixed"),
        ({"made_from": {"engine": ("classic", "deep")}}, "differ in engine"),
    ],
)
def test_maps_that_differ(two, changed, message):
    sites = two | {"ulm": about(two["ulm"], **changed)}
    with pytest.raises(ScanError, match=message):
        check_sites(sites)
    if "allow-mixed" in message:
        check_sites(sites, allow_mixed=True)


def test_units_and_grids(two):
    scaled = replace(two["ulm"], coordinates=two["ulm"].coordinates * 1000)
    with pytest.raises(ScanError, match="maps in another unit"):
        check_sites(two | {"ulm": scaled})
    moved = Space(Grid(SPACE.grid.shape, SPACE.grid.affine @ np.diag([2.0, 1, 1, 1])), SPACE.voxel_index)
    with pytest.raises(ScanError, match=r"ulm: grid .* differs from .* of berlin"):
        check_sites(two | {"ulm": replace(two["ulm"], space=moved)})


def test_voxels_are_those_that_all_sites_have(two):
    kept = np.arange(5, 150)
    ulm, space = two["ulm"], Space(SPACE.grid, SPACE.voxel_index[kept])
    cut = replace(
        ulm, space=space, coordinates=ulm.coordinates[:, kept], residual_squares=ulm.residual_squares[kept]
    )  # fmt: skip
    np.testing.assert_array_equal(common_voxels(two | {"ulm": cut}), SPACE.voxel_index[kept])
    whole, part = stack_rows(two), stack_rows(two | {"ulm": cut})
    np.testing.assert_array_equal(part.maps.data, whole.maps.data[:, kept])
    other = replace(cut, space=Space(SPACE.grid, SPACE.voxel_index[kept] + 1))
    with pytest.raises(ScanError, match="no voxel is in the masks of all sites"):
        common_voxels(two | {"ulm": other})


def test_a_model_with_a_column_called_site(three):
    table = people({"x": 50}, seed=5).assign(site=lambda one: np.resize(["a", "b"], len(one)))
    sums = {name: sums_of(table, maps_of(table, seed=seed), "age + site") for name, seed in (("x", 1), ("y", 2))}
    design = stack_rows(sums).design
    assert design.columns == ("Intercept", "age", "site[T.b]", "file[T.y]")


CONTRASTS = ["age", "sex", "group[T.mci] - group[T.hc]", "group", "site[T.ulm]", "site", "F(age, site)"]


def by_least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Effect or mean square, variance and t or F of C β = 0 in float64."""
    beta, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    sigma2 = ((y - x @ beta) ** 2).sum(axis=0) / (len(x) - rank)
    inverse = weights @ np.linalg.pinv(x)  # of X, not X'X, whose condition is the square
    covariance = inverse @ inverse.T
    effect = weights @ beta
    if len(weights) == 1:
        return effect[0], sigma2 * covariance[0, 0], effect[0] / np.sqrt(sigma2 * covariance[0, 0])
    square = np.einsum("iv,ij,jv->v", effect, np.linalg.inv(covariance), effect) / len(weights)
    return square, sigma2, square / sigma2


def check_against_all_scans(table, maps, formula="age + sex + group", *, texts=CONTRASTS, rtol=1e-8):
    """Compare contrasts with least squares over all scans."""
    rows = stack_rows(all_sums(table, maps, formula=formula))
    contrasts = build_contrasts(texts, rows.design)
    _, fit = fit_rows(rows, contrasts, Compute())
    joint = build_design(f"{formula} + site", table, list(table["participant_id"]))
    assert set(rows.design.columns) == set(joint.columns)
    assert rows.design.terms == joint.terms
    assert set(rows.design.references) == set(joint.references)
    assert fit.df_resid == len(table) - joint.rank
    x = joint.matrix[:, [joint.columns.index(name) for name in rows.design.columns]]
    for index, contrast in enumerate(contrasts):
        expected = by_least_squares(x, maps.astype(np.float64), contrast.weights)
        for name, value in zip(("effect", "variance", "statistic"), expected, strict=True):
            np.testing.assert_allclose(getattr(fit, name)[index], value, rtol, atol=1e-8 * np.abs(value).max())


def test_t_and_f_of_three_unbalanced_sites_are_those_of_all_scans(three):
    check_against_all_scans(*three[:2])


def test_they_are_those_of_the_engine(three):
    table, maps, sites = three
    rows = stack_rows(sites)
    contrasts = build_contrasts(CONTRASTS, rows.design)
    _, fit = fit_rows(rows, contrasts, Compute())
    matrix = ArrayMaps(maps, tuple(table["participant_id"]), SPACE)
    joint = fit_glm(matrix, "gm ~ age + sex + group + site", table, CONTRASTS, repeats=0)
    for index, contrast in enumerate(joint.contrasts):
        expected = joint.maps[contrast.name][contrast.kind].values
        np.testing.assert_allclose(fit.statistic[index], expected, rtol=1e-5, atol=2e-6)  # the engine's are float32


def test_interactions_of_a_factor_whose_level_a_site_lacks(three):
    check_against_all_scans(*three[:2], formula="age * group + sex")


def test_four_thousand_scans():
    table = people({"berlin": 3500, "köln": 430, "ulm": 70})
    check_against_all_scans(table, maps_of(table))


def test_columns_that_are_nearly_collinear(three):
    table, maps, _ = three
    rng = np.random.default_rng(3)
    table = table.assign(nearly=table["age"] + 1e-4 * rng.standard_normal(len(table)))
    check_against_all_scans(table, maps, "age + sex + group + nearly", rtol=1e-5)


def test_weights_are_exact(three):
    table, maps, _ = three
    rows = stack_rows(all_sums(table, maps, weights="w"))
    contrasts = build_contrasts(["age", "site"], rows.design)
    _, fit = fit_rows(rows, contrasts, Compute())
    root = np.sqrt(table["w"].to_numpy())[:, None]
    joint = build_design("age + sex + group + site", table, list(table["participant_id"])).matrix
    for index, contrast in enumerate(contrasts):
        expected = by_least_squares(joint * root, maps * root, contrast.weights)
        np.testing.assert_allclose(fit.statistic[index], expected[2], rtol=1e-7)


def test_one_intercept_for_all_sites(three):
    table, maps, sites = three
    rows = stack_rows(sites, has_intercepts=False)
    (contrast,) = build_contrasts(["age"], rows.design)
    _, fit = fit_rows(rows, [contrast], Compute())
    joint = build_design("age + sex + group", table, list(table["participant_id"])).matrix
    np.testing.assert_allclose(fit.statistic[0], by_least_squares(joint, maps, contrast.weights)[2], rtol=1e-7)


def test_formula_without_an_intercept_but_with_all_levels(three):
    check_against_all_scans(*three[:2], "0 + group + age", texts=["group[mci] - group[hc]", "age", "site"])


def test_a_voxel_that_the_model_fits_exactly_has_no_t(three):
    table, maps, _ = three
    exact = maps.copy()
    exact[:, 3] = (table["sex"] == "M") * 0.25 + 0.25
    rows = stack_rows(all_sums(table, exact))
    _, fit = fit_rows(rows, build_contrasts(["sex"], rows.design), Compute())
    assert fit.statistic[0, 3] == 0
    assert fit.residual_variance[3] == 0
