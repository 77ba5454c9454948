"""Which sites belong together; over which voxels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.glm.pooled.conftest import SPACE, about, maps_of, people, sums_of
from vbmstat.errors import DesignError, ScanError, VbmstatError
from vbmstat.glm.pooled.combine import check_sites, common_voxels, stack_rows
from vbmstat.image.grid import Grid
from vbmstat.maps.store import Space


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


def test_other_references(two):
    table = people({"x": 50}, seed=5)
    renamed = table["group"].replace("ad", "zz")
    with pytest.raises(DesignError, match=r"berlin and x: the reference levels differ \(group\[T\.\w+\] is not"):
        check_sites(two | {"x": other_site("age + sex + group", group=renamed)})


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
