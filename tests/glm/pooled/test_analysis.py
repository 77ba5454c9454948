"""A pooled model from files to files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vbmstat.errors import DesignError, VbmstatError
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.pooled.analysis import PoolSpec, by_name, pool_sites
from vbmstat.glm.pooled.file import write_sums
from vbmstat.glm.spec import InferenceSpec
from vbmstat.image.io import read_volume


@pytest.fixture
def files(three, tmp_path):
    for name, sums in three[2].items():
        write_sums(tmp_path / f"{name}.vbm", sums)
    return [tmp_path / f"{name}.vbm" for name in ("ulm", "köln", "berlin")]


def test_maps_tables_and_record(files, three, tmp_path):
    asked = InferenceSpec(("fdr",), cluster_threshold=2.0)
    results = pool_sites(files, PoolSpec(["age", "site"], asked, has_meta=True))
    results.to_directory(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"glm.json", "sites.tsv", "sites.json", "design_report.tsv", "mask.nii.gz", "contrast-age_peaks.tsv",
            "contrast-age_clusters.tsv", "contrast-age_stat-t_statmap.nii.gz", "contrast-age_stat-qfdr_statmap.nii.gz",
            "contrast-age_stat-dleffect_statmap.nii.gz", "contrast-site_stat-F_statmap.nii.gz"} <= names  # fmt: skip
    assert not {"design.tsv", "scans.tsv", "draws.tsv"} & names
    record = json.loads((tmp_path / "out" / "glm.json").read_text(encoding="utf-8"))
    assert record["command"] == "pool"
    assert record["formula"] == "gm ~ age + sex + group + site"
    assert (record["n_scans"], record["df_resid"], record["scan_ids"]) == (124, 117, [])
    assert [site["site"] for site in record["sites"]] == ["berlin", "köln", "ulm"]
    assert {"n_scans": 23, "n_voxels": 200}.items() <= record["sites"][1].items()
    assert "fitted from the sums of 3 sites (berlin 60, köln 23, ulm 41 scans), not from scans" in record["notes"]
    assert any("by Bonferroni, two-sided" in note for note in record["notes"])
    assert "group[T.mci]: no such scans in köln; is the level spelt otherwise there?" in record["notes"]
    table = three[0]
    assert results.sites["mean_age"].to_list() == pytest.approx(table.groupby("site")["age"].mean().to_list(), abs=1e-6)
    image = read_volume(tmp_path / "out" / "contrast-age_stat-t_statmap.nii.gz").data.numpy().ravel()
    np.testing.assert_allclose(
        image[results.space.voxel_index], results.maps["age"]["t"].values.astype(np.float32), rtol=1e-6
    )  # fmt: skip


def test_variance_inflation_is_that_of_all_scans(files, three):
    table = three[0]
    joint = variance_inflation(build_design("age + sex + group + site", table, list(table["participant_id"])))
    report, _ = pool_sites(files).design_tables()["design_report.tsv"]
    assert report["column"].to_list() == joint["column"].to_list()
    np.testing.assert_allclose(report["vif"], joint["vif"], rtol=1e-8)


def test_default_contrasts_are_the_shared_columns(files):
    assert [one.name for one in pool_sites(files).contrasts] == ["age", "sex[T.M]", "group[T.hc]", "group[T.mci]"]
    every = pool_sites(files, PoolSpec("all"))
    assert "site[T.ulm]" in [one.name for one in every.contrasts]


def test_one_intercept_changes_the_result_and_is_noted(files):
    each, common = pool_sites(files), pool_sites(files, PoolSpec(has_intercepts=False))
    assert common.df_resid == each.df_resid + 2
    assert not np.allclose(each.maps["age"]["t"].values, common.maps["age"]["t"].values, atol=0.01)
    assert any("all sites have one intercept" in note for note in common.record["notes"])


def test_bonferroni_counts_voxels(files):
    results = pool_sites(files, PoolSpec(["age"]))
    (note,) = [note for note in results.record["notes"] if "Bonferroni" in note]
    p = results.maps["age"]["p"].values
    assert note.endswith(f"{(p < 0.05 / 200).sum()} of 200 voxels are beyond")


@pytest.mark.parametrize(
    ("kind", "why"), [("fwe", "permutations need the scans"), ("rft", "smoothness"), ("tfce", "need")]
)
def test_inference_that_needs_scans_is_refused(kind, why):
    with pytest.raises(DesignError, match=rf"--inference {kind}: .*{why}"):
        PoolSpec(inference=InferenceSpec((kind,)))


def test_two_files_of_one_name(tmp_path):
    with pytest.raises(VbmstatError, match="would both be the site share; name each file after its site"):
        by_name([tmp_path / "a" / "share.vbm", tmp_path / "b" / "share.vbm"])
