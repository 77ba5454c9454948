"""Where results are written."""

from __future__ import annotations

from vbmstat.report.results import folder_name


def test_each_formula_and_level_has_a_folder_of_its_own():
    formulas = ["gm ~ age + sex", "gm ~ age * sex", "gm ~ age + sex + roi", "gm ~ age + sex_roi", "gm ~ Age + sex"]
    names = [folder_name(formula, level) for formula in formulas for level in ("voxel", "roi", "region")]
    assert names[:3] == ["gm_age_sex", "gm_age_sex_roi", "gm_age_sex_region"]
    names += [folder_name(formula, "voxel", width) for formula in [*formulas, "gm ~ age + s8"] for width in (0, 8)]
    assert names[-1] == "gm_age_s8-s8"
    atlases = ["tracts72", "aal3", "mine/my atlas.v2.nii.gz"]
    names += [folder_name("gm ~ age + sex", level, None, atlas) for level in ("roi", "region") for atlas in atlases]
    assert names[-3:] == ["gm_age_sex_region-tracts72", "gm_age_sex_region-aal3", "gm_age_sex_region-my_atlas_v2"]
    assert folder_name("gm ~ age", "voxel", None, "aal3") == folder_name("gm ~ age", "voxel")
    assert len({name.casefold() for name in names}) == len(names)
