"""What a site may share, and what is refused because it shows a person or cannot be pooled exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.glm.conftest import cohort_folder, images, table  # noqa: F401 - fixtures
from tests.glm.pooled.conftest import people
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.pooled.file import read_sums, write_sums
from vbmstat.glm.pooled.share import check_design, check_spec, share_sums
from vbmstat.glm.spec import ModelSpec


def spec_of(formula: str = "gm ~ age", **options) -> ModelSpec:
    return ModelSpec.make(formula, options.pop("contrasts", None), **options)


def design_of(formula: str, table: pd.DataFrame):  # noqa: F811
    """Design and plan of some people."""
    design = build_design(formula, table, list(table["participant_id"]))
    return design, make_plan(design, [], np.empty((0, len(table)), dtype=bool))


def test_the_file_holds_no_id_no_value_of_a_scan(cohort_folder, tmp_path, table):  # noqa: F811
    sums, notes = share_sums(None, spec_of("gm ~ age + sex", exclude=["sub-003"]), cohort_folder / "cohort.tsv")
    write_sums(tmp_path / "shared" / "ulm.vbm", sums)
    content = (tmp_path / "shared" / "ulm.vbm").read_bytes().replace(b"\0", b"")  # numpy's text has four bytes a letter
    assert sums.about.n_scans == 25
    assert b"age" in content
    assert b"s6mwp1*" in content
    for hidden in ("sub-0", str(cohort_folder), *table["age"].astype(str)):
        assert hidden.encode() not in content
    assert sums.about.made_from == {
        "kind of maps": ("s6mwp1*",), "engine": ("classic",), "vbmstat_version": ("0.1.0",),
        "group_template": ("standard",),
    }  # fmt: skip
    assert sums.about.fwhm_mm == 6
    assert isinstance(notes, tuple)
    assert list((tmp_path / "shared").iterdir()) == [tmp_path / "shared" / "ulm.vbm"]
    assert read_sums(tmp_path / "shared" / "ulm.vbm").about == sums.about


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formula": "gm ~ center(age) + sex"}, r"center\(\) depends on the scans of a site"),
        ({"formula": "gm ~ poly(age, 2)"}, r"poly\(\) depends"),
        ({"formula": "gm ~ scale(age)"}, r"scale\(\) depends"),
        ({"formula": "gm ~ bs(age, df=4)"}, r"bs\(\) depends"),
        ({"formula": "gm ~ C(sex, contr.sum)"}, r"contr\.sum depend on the levels"),
        ({"formula": "gm ~ C(sex, Helmert)"}, "Helmert depend on the levels"),
        ({"formula": "gm ~ age + map(wm)"}, r"map\(\) has a column for each voxel"),
        ({"variance": "hc3"}, "--variance hc3 needs the scans"),
        ({"variance": "sandwich:participant_id"}, "--variance sandwich:participant_id needs"),
        ({"variance": "groups:sex"}, "--variance groups:sex needs"),
        ({"variance": "spm"}, "--variance spm needs"),
        ({"formula": "gm ~ I(center (age)**2)"}, r"center\(\) depends"),
        ({"formula": "gm ~ C(sex, contr . sum)"}, "depend on the levels"),
        ({"tiv": "by-group"}, "--tiv by-group centres TIV at the mean of a site"),
        ({"tiv": "proportional"}, "--tiv proportional divides by the mean TIV of a site"),
        ({"global_scaling": True}, "--global-scaling divides by the mean of a site"),
        ({"contrasts": ["age"]}, "give --contrast to vbmstat pool"),
        ({"inference": "fwe"}, "give --inference to vbmstat pool"),
        ({"fraction": 0.5}, "sums have no subsets: leave out --fraction"),
    ],
)
def test_what_sums_cannot_give_is_refused(options, message):
    with pytest.raises(DesignError, match=message):
        check_spec(spec_of(**options))


@pytest.mark.parametrize("formula", ["gm ~ age + log(tiv)", "gm ~ C(sex, contr.treatment('M')) + I((age - 50)**2)"])
def test_what_they_can_give_is_not(formula):
    check_spec(spec_of(formula, tiv="covariate", weights="w"))


@pytest.mark.parametrize(
    ("n", "formula", "message"),
    [
        (19, "age", "19 scans with 17 residual degrees of freedom; sums of fewer than 20"),
        (22, "age + sex + group + tiv + " + " + ".join(f"x{i}" for i in range(8)), "22 scans with 8 residual degrees"),
        (40, "0 + age", "no intercept"),
    ],
)
def test_too_few_scans_or_no_intercept(n, formula, message):
    some = people({"berlin": n})
    rng = np.random.default_rng(0)
    some = some.assign(**{f"x{i}": rng.normal(size=n) for i in range(8)}, tiv=rng.normal(1400, 90, n))
    with pytest.raises(DesignError, match=message):
        check_design(*design_of(formula, some))


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("age + stage", "stage: 4 scans have 'late'"),
        ("age + smoker", "smoker: 4 scans have '1'"),
        ("age + lesions", "column lesions: 4 scans differ from all others"),
        ("age + half * six", r"column \w+\[T\.\w\]:\w+\[T\.\w\]: 3 scans differ from all others"),
    ],
)
def test_rare_levels_values_and_cells(formula, message):
    number = np.arange(60)
    some = people({"berlin": 60}).assign(
        smoker=number < 4.0,
        stage=np.where(number < 4, "late", "early"),
        lesions=np.where(number < 4, number + 1.0, 0.0),
        half=np.where(number < 30, "a", "b"),
        six=np.where((number > 26) & (number < 33), "y", "x"),
    )
    some["smoker"] = some["smoker"].astype(float)
    with pytest.raises(DesignError, match=message):
        check_design(*design_of(formula, some))
    check_design(*design_of("age + half + six + sex", some))


def test_an_extreme_covariate_shows_its_scan():
    some = people({"berlin": 40})
    some.loc[11, "age"] = 2000.0
    with pytest.raises(DesignError, match=r"the map of berlin0011 \(1\.00\) could nearly be read"):
        check_design(*design_of("age + sex", some))


def test_a_matrix_has_no_voxels(table):  # noqa: F811
    with pytest.raises(ScanError, match="needs maps in files"):
        share_sums(np.random.default_rng(0).normal(size=(len(table), 5)), spec_of("gm ~ age"), table)


def test_maps_with_nan_and_mixed_maps_are_refused_as_by_glm(cohort_folder):  # noqa: F811
    cohort = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    cohort.loc[3, "engine"] = "deep"
    cohort.to_csv(cohort_folder / "cohort.tsv", sep="\t", index=False)
    with pytest.raises(TableError, match="the maps mix engine values"):
        share_sums(None, spec_of("gm ~ age"), cohort_folder / "cohort.tsv")
    sums, _ = share_sums(None, spec_of("gm ~ age", allow_mixed=True), cohort_folder / "cohort.tsv")
    assert sums.about.made_from["engine"] == ("classic", "deep")
