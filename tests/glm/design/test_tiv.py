"""TIV as covariate, by group and as a factor on the maps."""

from __future__ import annotations

import numpy as np
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.tables.cohort import read_cohort


def t_of(results, name="age"):
    return results.maps[name]["t"].values


def test_tiv_recipes(cohort_folder, table, images):
    path = cohort_folder / "cohort.tsv"
    covariate = fit_glm(None, "gm ~ age", path, ["age"], repeats=0, tiv="covariate")
    assert covariate.design.columns == ("Intercept", "age", "tiv")
    group = fit_glm(None, "gm ~ age + sex", path, ["age"], repeats=0, tiv="by-group")
    assert group.design.columns == ("Intercept", "age", "sex[T.M]", "center(tiv):sex[F]", "center(tiv):sex[M]")
    scaled = fit_glm(None, "gm ~ age", path, ["age"], repeats=0, tiv="proportional", mask_threshold=0.4)
    factor = (table["tiv_ml"].mean() / table["tiv_ml"]).to_numpy()
    by_hand = images * factor[:, None, None, None]
    assert np.array_equal(scaled.space.unmask(scaled.mask) > 0, (by_hand > 0.4).all(axis=0))
    index = scaled.space.voxel_index[scaled.mask]
    x = np.column_stack([np.ones(26), table["age"]])
    y = by_hand.reshape(26, -1)[:, index]
    beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
    t = beta[1] / np.sqrt(rss / 24 * np.linalg.inv(x.T @ x)[1, 1])
    np.testing.assert_allclose(t_of(scaled)[scaled.mask], t, rtol=1e-5, atol=1e-5)
    with pytest.raises(DesignError, match="--tiv proportional adds TIV itself"):
        fit_glm(None, "gm ~ age + tiv", path, tiv="proportional")
    with pytest.raises(DesignError, match="needs one factor in the formula, got none"):
        fit_glm(None, "gm ~ age", path, tiv="by-group")


def test_by_group_takes_what_is_a_factor_in_the_model(cohort_folder):
    """Numbers of a site are one, quoted numbers are none."""
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    cohort.table["site"] = [1 + i % 3 for i in range(26)]
    cohort.table["edu"] = [f"'{8 + i % 5}'" for i in range(26)]
    results = fit_glm(None, "gm ~ age + edu + site", cohort, ["age"], repeats=0, tiv="by-group")
    assert "TIV was added with its own slope in each level of site" in results.record["notes"]
    assert len(results.design.terms["center(tiv):site"]) == 3


@pytest.mark.parametrize("recipe", ["covariate", "proportional", "by-group"])
def test_tiv_recipes_take_a_column_in_capitals(table, images, recipe):
    values = images.reshape(len(images), -1)[:, 400:430].astype(float)
    shouted = table.rename(columns={"tiv_ml": "TIV"})
    found, expected = (fit_glm(values, "v ~ sex", one, repeats=0, tiv=recipe) for one in (shouted, table))
    assert found.record["columns"] == expected.record["columns"]
    np.testing.assert_array_equal(found.maps["sex[T.M]"]["t"].values, expected.maps["sex[T.M]"]["t"].values)
    with_tiv = fit_glm(values, "v ~ sex + TIV", shouted, repeats=0, tiv="covariate")
    assert len(with_tiv.record["columns"]) == 3


def test_by_group_takes_codes_and_names_the_factors(table, images):
    values = images.reshape(len(images), -1)[:, 400:430].astype(float)
    coded = table.assign(group=1 + (table["sex"] == "M"))
    by_name = fit_glm(values, "v ~ sex", coded, repeats=0, tiv="by-group")
    by_code = fit_glm(values, "v ~ C(group)", coded, repeats=0, tiv="by-group")
    np.testing.assert_allclose(by_code.design.matrix, by_name.design.matrix)
    with pytest.raises(DesignError) as caught:
        fit_glm(values, "v ~ C(group) + site", coded, repeats=0, tiv="by-group")
    assert "needs one factor in the formula, got C(group), site; choose one and write" in str(caught.value)
    written = "C(group) + site + center(tiv):C(group)"
    assert str(caught.value).endswith(f"'gm ~ {written}'")
    assert fit_glm(values, f"v ~ {written}", coded, repeats=0).record["rank"] == 6
