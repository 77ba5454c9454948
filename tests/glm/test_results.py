"""How results are written."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import read_axcodes, read_grid, read_volume


def test_outputs_are_written_with_their_meaning(cohort_folder, tmp_path):
    results = fit_glm(
        None, "gm ~ age + sex + tiv", cohort_folder / "cohort.tsv", ["age", "F(age, tiv)", "men = sex[T.M] - sex[T.F]"],
        repeats=5,
    )  # fmt: skip
    written = results.to_directory(tmp_path / "out", spm_names=True)
    assert all(path.is_file() for path in written)
    names = {path.name for path in written}
    assert {"mask.nii.gz", "design.tsv", "design_report.tsv", "draws.tsv", "glm.json", "spmT_0001.nii",
            "spmF_0002.nii", "spmT_0003.nii", "con_0001.nii", "ResMS.nii",
            "contrast-men_stat-t_statmap.nii.gz"} <= names  # fmt: skip
    for stat in ("t", "z", "p", "effect", "variance", "r", "d", "mediant", "q25t", "q75t"):
        assert f"contrast-age_stat-{stat}_statmap.nii.gz" in names
    image = nib.load(tmp_path / "out" / "contrast-age_stat-t_statmap.nii.gz")
    assert image.header.get_intent() == ("t test", (22.0,), "")
    assert image.header["descrip"].item().decode() == "SPM{T_[22.0]} - contrast 1: age"
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4
    assert image.get_data_dtype() == np.float32
    f = nib.load(tmp_path / "out" / "contrast-FAgeTiv_stat-F_statmap.nii.gz")
    assert f.header.get_intent()[:2] == ("f test", (2.0, 22.0))
    assert f.header["descrip"].item().decode().startswith("SPM{F_[2.0,22.0]}")
    median = nib.load(tmp_path / "out" / "contrast-age_stat-mediant_statmap.nii.gz")
    assert median.header.get_intent()[0] == "estimate"  # a median t must not be turned into p by a viewer
    assert nib.load(tmp_path / "out" / "contrast-age_stat-p_statmap.nii.gz").header.get_intent()[0] == "p value"
    first = cohort_folder / "mri" / "s6mwp1sub-000_T1w.nii.gz"
    assert read_axcodes(tmp_path / "out" / "mask.nii.gz") == read_axcodes(first) == "LAS"
    assert read_grid(tmp_path / "out" / "mask.nii.gz").matches(read_grid(first))
    design = pd.read_csv(tmp_path / "out" / "design.tsv", sep="\t", dtype={"scan_id": str})
    assert list(design.columns) == ["scan_id", "Intercept", "age", "sex[T.M]", "tiv"]


def test_outside_the_mask(cohort_folder, tmp_path):
    results = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=0)
    results.to_directory(tmp_path / "a")
    results.to_directory(tmp_path / "b", outside="nan")
    outside = read_volume(tmp_path / "a" / "mask.nii.gz").data == 0
    assert (read_volume(tmp_path / "a" / "contrast-age_stat-t_statmap.nii.gz").data[outside] == 0).all()
    assert (read_volume(tmp_path / "a" / "contrast-age_stat-p_statmap.nii.gz").data[outside] == 1).all()
    b = nib.load(tmp_path / "b" / "contrast-age_stat-t_statmap.nii.gz").get_fdata()
    assert np.isnan(b).sum() == int(outside.sum())
    with pytest.raises(DesignError, match="'zero' or 'nan'"):
        results.to_directory(tmp_path / "c", outside="one")


def test_tables_are_written_for_matrices(table, tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(5, 1, (26, 2)), index=table["participant_id"])
    fit_glm(frame, "v ~ age", table, repeats=0).to_directory(tmp_path)
    written = pd.read_csv(tmp_path / "contrast-age_stats.tsv", sep="\t")
    assert len(written) == 2
    with pytest.raises(DesignError, match="the fit was of a matrix"):
        fit_glm(frame, "v ~ age", table, repeats=0).volume("age", "t")
