"""The maps of a model as one matrix: stores, mixtures, scaling."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import DesignError, TableError, VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.storage import write_json
from vbmstat.maps.pack import pack_maps
from vbmstat.tables.cohort import Cohort, read_cohort


def t_of(results, name="age"):
    return results.maps[name]["t"].values


def test_packed_maps_and_kept_stores(tmp_path, cohort_folder):
    path = cohort_folder / "cohort.tsv"
    first = fit_glm(None, "gm ~ age", path, repeats=5, store=tmp_path / "gm.maps")
    stamp = (tmp_path / "gm.maps" / "segment-0000.f32").stat().st_mtime_ns
    second = fit_glm(None, "gm ~ age", path, repeats=5, store=tmp_path / "gm.maps")
    assert (tmp_path / "gm.maps" / "segment-0000.f32").stat().st_mtime_ns == stamp
    assert np.array_equal(t_of(first), t_of(second))
    cohort = read_cohort(path)
    paths = dict(zip(cohort.scan_ids, cohort.paths("s6mwp1"), strict=True))
    third = fit_glm(pack_maps(paths, tmp_path / "gm.maps"), "gm ~ age", path, repeats=5)
    assert np.array_equal(t_of(first), t_of(third))
    fewer = Cohort(cohort.table.iloc[:20], cohort.folder)
    fourth = fit_glm(None, "gm ~ age", fewer, repeats=0, store=tmp_path / "gm.maps")
    assert "the mask is that of all 26 packed scans" in fourth.record["notes"]
    assert np.array_equal(fourth.mask, first.mask)
    with pytest.raises(DesignError, match="are masked already"):
        fit_glm(pack_maps(paths, tmp_path / "gm.maps"), "gm ~ age", path, mask_threshold=0.2)


def test_packed_maps_are_deleted_unless_kept(tmp_path, cohort_folder):
    (tmp_path / "scratch").mkdir()
    fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=0, scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("column", ["engine", "vbmstat_version"])
def test_mixtures_are_refused(cohort_folder, column):
    path = cohort_folder / "cohort.tsv"
    rows = pd.read_csv(path, sep="\t", dtype=str)
    rows.loc[:4, column] = "other"
    rows.to_csv(path, sep="\t", index=False)
    with pytest.raises(TableError, match=rf"mix {column} values .*other: 5 scans"):
        fit_glm(None, "gm ~ age", path)
    assert fit_glm(None, "gm ~ age", path, allow_mixed=True, repeats=0).df_resid == 24


@pytest.mark.parametrize("layout", ["cat12", "bids"])
def test_mixtures_in_a_folder_are_told_by_sidecars(cohort_folder, table, layout):
    for i, scan in enumerate(table["participant_id"]):
        engine = "deep" if i < 5 else "classic"
        sidecar = cohort_folder / "report" / f"vbmstat_{scan}_T1w.json"
        if layout == "bids":
            stem = f"{scan}_space-MNI152NLin2009cAsym_label-GM_desc-modulatedS6_probseg.nii.gz"
            (cohort_folder / "mri" / f"s6mwp1{scan}_T1w.nii.gz").rename(cohort_folder / "mri" / stem)
            sidecar = cohort_folder / "mri" / f"{scan}_desc-vbmstat_provenance.json"
        sidecar.parent.mkdir(exist_ok=True)
        sidecar.write_text(json.dumps({"engine": engine, "versions": {"vbmstat": "0.1.0"}}))
    folder = cohort_folder / "mri"
    with pytest.raises(TableError, match=r"mix engine values \(classic: 21 scans, deep: 5 scans\).*--allow-mixed"):
        fit_glm(folder, "gm ~ age", table)
    assert fit_glm(folder, "gm ~ age", table, allow_mixed=True, repeats=0).df_resid == 24
    assert fit_glm(folder, "gm ~ age", table.assign(engine="one"), repeats=0).df_resid == 24  # the table knows better
    sidecar.unlink()
    with pytest.raises(TableError, match=r"classic: 20 scans, deep: 5 scans, no sidecar: 1 scans"):
        fit_glm(folder, "gm ~ age", table)


def test_global_scaling_by_hand(cohort_folder, images, table):
    results = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=0, global_scaling=True)
    values = images.reshape(26, -1)[:, results.space.voxel_index[results.mask]].astype(float)
    means = values.mean(axis=1)
    scaled = fit_glm(values * (means.mean() / means)[:, None], "v ~ age", table, repeats=0)
    np.testing.assert_allclose(t_of(results)[results.mask], t_of(scaled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "template", "expected"), [
    ("s6mwmwp1r{}_T1w.nii.gz", None, r"several kinds \(s6mwmwp1r\*: 3 scans.*; s6mwp1\*: 23 scans"),
    ("s6mwp1{}_T1w.nii.gz", {"name": "a", "sha256": "b"}, r"group_template values \(a b: 3 scans, standard: 23 scans"),
])  # fmt: skip
def test_packed_maps_of_several_kinds_or_templates_are_refused(cohort_folder, table, name, template, expected):
    """Packed maps were once taken without a look at the files that they came from."""
    paths = {scan: cohort_folder / "mri" / f"s6mwp1{scan}_T1w.nii.gz" for scan in table["participant_id"]}
    for number, (scan, path) in enumerate(paths.items()):
        paths[scan] = path.rename(path.with_name((name if number < 3 else "s6mwp1{}_T1w.nii.gz").format(scan)))
        parameters = {"template": template if number < 3 else None}
        record = {"engine": "classic", "versions": {"vbmstat": "0.1.0"}, "parameters": parameters}
        write_json(cohort_folder / "report" / f"vbmstat_{scan}_T1w.json", record)
    packed = pack_maps(paths, cohort_folder / "store")
    with pytest.raises(VbmstatError, match=expected):
        fit_glm(packed, "gm ~ age", table, repeats=0)
    assert fit_glm(packed, "gm ~ age", table, repeats=0, allow_mixed=True).df_resid == 24
