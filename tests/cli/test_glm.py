"""vbmstat glm and vbmstat pack, as a user types them."""

from __future__ import annotations

import json

import matplotlib as mpl
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.glm.conftest import cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat.cli import glm, pack
from vbmstat.errors import VbmstatError
from vbmstat.io import read_volume

mpl.use("Agg")


@pytest.fixture
def vbmstat():
    app = typer.Typer()
    app.command("glm")(glm.command)
    app.command("pack")(pack.command)

    def run(*arguments) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if isinstance(result.exception, VbmstatError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.mark.filterwarnings("ignore::UserWarning:nilearn")
def test_glm_writes_maps_tables_and_pictures(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.chdir(cohort_folder)
    said = vbmstat("glm", "gm ~ age + sex + tiv", "--repeats", 5, "--contrast", "age", "--contrast", "F(age, tiv)")
    assert "26 scans" in said
    assert "median over 5 of 5 subsets" in said
    assert "tiv is read from the column tiv_ml" in said
    assert said.index("sex: factor F 13 (reference), M 13") < said.index("26 scans")
    out = cohort_folder / "glm" / "gm_age_sex_tiv"
    names = {path.name for path in out.iterdir()}
    assert {"glm.json", "design.tsv", "design.png", "mask.nii.gz", "contrast-age_glassbrain.png",
            "contrast-FAgeTiv_glassbrain.png", "contrast-age_stat-mediant_statmap.nii.gz"} <= names  # fmt: skip
    assert not [name for name in names if name.startswith(".")]
    t = read_volume(out / "contrast-age_stat-t_statmap.nii.gz").data[0].numpy()
    assert t[8, 6, 4] < -3  # the simulated decline with age is on the right
    record = json.loads((out / "glm.json").read_text())
    assert record["options"]["repeats"] == 5


def test_pack_then_glm(vbmstat, cohort_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.cli.glm._write_figures", lambda *_: None)
    cohort = cohort_folder / "cohort.tsv"
    assert "26 scans" in vbmstat("pack", "gm", "--cohort", cohort, "--out", tmp_path / "gm.maps")
    stored = ("--store", tmp_path / "gm.maps")
    vbmstat("glm", "gm ~ age", "--cohort", cohort, *stored, "--repeats", 0, "--out", tmp_path / "a")
    vbmstat("glm", "gm ~ age", "--maps", cohort_folder / "mri", "--participants", cohort, "--repeats", 0, "--out",
            tmp_path / "b", "--spm-names", "--outside", "nan")  # fmt: skip
    a, b = (read_volume(tmp_path / x / "contrast-age_stat-t_statmap.nii.gz").data.numpy() for x in "ab")
    assert np.array_equal(a[np.isfinite(b)], b[np.isfinite(b)])
    assert (tmp_path / "b" / "spmT_0001.nii").is_file()


def test_bad_input_is_one_line_and_writes_nothing(vbmstat, cohort_folder, tmp_path):  # noqa: F811
    for arguments, match in (
        (("gm ~ agee", "--cohort", cohort_folder / "cohort.tsv"), "no column agee"),
        (("gm ~ age", "--cohort", tmp_path / "none.tsv"), "none.tsv: no such table"),
        (("gm ~ age", "--cohort", cohort_folder / "cohort.tsv", "--mask-threshold", 9), "no voxel is above 9"),
        (("gm ~ age", "--maps", cohort_folder), "--maps needs --participants"),
        (("gm ~ age", "--participants", cohort_folder / "cohort.tsv"), "goes with --maps"),
    ):
        with pytest.raises(VbmstatError, match=match) as caught:
            vbmstat("glm", *arguments, "--out", tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_no_cohort_anywhere(vbmstat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VbmstatError, match=r"no cohort table: looked for cohort\.tsv"):
        vbmstat("glm", "gm ~ age")


@pytest.mark.filterwarnings("ignore::UserWarning:nilearn")
def test_corrected_inference_is_told_and_tabulated(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.cli.glm._write_figures", lambda *_: None)
    monkeypatch.chdir(cohort_folder)
    said = vbmstat("glm", "gm ~ age", "--repeats", 0, "--inference", "fdr,fwe,tfce,cluster", "--permutations", 50,
                   "--cluster-threshold", 0.01, "--one-sided", "--blocks", "site", "--scheme", "smith",
                   "--contrast", "younger = -1 * age", "--out", "out")  # fmt: skip
    assert "50 permutations, one-sided, smallest p 0.02" in said
    assert "FWE-corrected p of TFCE" in said
    assert "non-commercial" in said  # the atlas that names the places
    names = {path.name for path in (cohort_folder / "out").iterdir()}
    assert not [name for name in names if name.endswith(".npz")]  # the checkpoint has done its work
    lines = (cohort_folder / "out" / "contrast-younger_clusters.tsv").read_text().splitlines()
    assert lines[0].endswith("regions")
    record = json.loads((cohort_folder / "out" / "glm.json").read_text())
    asked = record["inference"]
    assert (asked["scheme"], asked["blocks"], asked["exchange"]) == ("smith", ["site"], "within")
    assert asked["contrasts"][0]["two_sided"] is False
    vbmstat("glm", "gm ~ age", "--repeats", 0, "--inference", "fdr", "--atlas", "none", "--out", "plain")
    assert not (cohort_folder / "plain" / "contrast-age_clusters.tsv").read_text().splitlines()[0].endswith("regions")
