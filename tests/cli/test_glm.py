"""vbmstat glm and vbmstat pack, as a user types them."""

from __future__ import annotations

import json

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from tests.glm.conftest import GRID, cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat.cli import glm, pack
from vbmstat.errors import VbmstatError
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume
from vbmstat.rerun import rerun_model

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
    assert record["spec"]["subsets"]["repeats"] == 5


def test_unsmoothed_maps_by_several_widths(vbmstat, cohort_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    for path in (cohort_folder / "mri").iterdir():
        path.rename(path.with_name(path.name.removeprefix("s6")))
    monkeypatch.chdir(tmp_path)
    maps = ("--maps", cohort_folder / "mri", "--participants", cohort_folder / "cohort.tsv", "--repeats", 0)
    said = {width: vbmstat("glm", "gm ~ age", *maps, "--fwhm", width) for width in (6, 7.5)}
    assert "smoothed with a Gaussian of 7.5 mm FWHM before they are masked" in said[7.5]
    warned = vbmstat("glm", "gm ~ age", *maps)
    assert warned.index("WARNING: the maps are not smoothed") < warned.index("26 scans, ")  # before the maps are read
    folders = [cohort_folder / "glm" / f"gm_age{end}" for end in ("", "-s6", "-s7.5")]
    t = [read_volume(folder / "contrast-age_stat-t_statmap.nii.gz").data for folder in folders]
    assert not torch.equal(t[0], t[1])
    assert not torch.equal(t[1], t[2])
    said = vbmstat("pack", "gm", *maps[:-2], "--fwhm", 6, "--out", tmp_path / "gm.maps")
    assert "6 mm FWHM" in said
    vbmstat("glm", "gm ~ age", *maps, "--fwhm", 6, "--store", tmp_path / "gm.maps", "--out", tmp_path / "stored")
    assert torch.equal(read_volume(tmp_path / "stored" / "contrast-age_stat-t_statmap.nii.gz").data, t[1])
    with pytest.raises(VbmstatError, match=r"--fwhm -6\.0: expected 0\.1 to 50 mm"):
        vbmstat("pack", "gm", *maps[:-2], "--fwhm", -6, "--out", tmp_path / "gm.maps")
    path = folders[2] / "glm.json"
    compared = rerun_model(json.loads(path.read_text()), path, [cohort_folder], tmp_path / "again")
    assert {one.status for one in compared} == {"same bytes"}
    with pytest.raises(VbmstatError, match="sums over unsmoothed maps"):
        vbmstat("glm", "gm ~ age", *maps, "--fwhm", 6, "--level", "roi")


def test_pack_then_glm(vbmstat, cohort_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
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
        (("gm ~ age", "--participants", cohort_folder / "cohort.tsv"), "no cohort table: looked for cohort.tsv"),
        (
            ("gm ~ age", "--cohort", cohort_folder / "cohort.tsv", "--inference", "rft", "--svc", "left hipocampus"),
            "no region of the atlases.*Left Hippocampus",
        ),
        (
            ("gm ~ age", "--cohort", cohort_folder / "cohort.tsv", "--inference", "fwe", "--svc", "sphere:0,0,0,9"),
            "add --inference rft",
        ),
    ):
        with pytest.raises(VbmstatError, match=match) as caught:
            vbmstat("glm", *arguments, "--out", tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def held(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_second_model_takes_the_place_of_the_first(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    """Maps, tables, pictures and the report of the first go; a checkpoint and what is not listed stay."""

    def picture(results, place):
        for contrast in results.contrasts:
            (place / f"contrast-{contrast.label}_glassbrain.png").write_bytes(b"")

    monkeypatch.setattr("vbmstat.report.results.write_figures", picture)
    monkeypatch.chdir(cohort_folder)
    out = cohort_folder / "out"
    vbmstat("glm", "gm ~ age + sex", "--repeats", 3, "--inference", "fdr", "--spm-names", "--out", out)
    record = json.loads((out / "glm.json").read_text())
    assert held(out) == {*record["files"], "glm.json"}
    assert {"contrast-sexM_glassbrain.png", "spmT_0002.nii", "draws.tsv", "design.json"} <= held(out)
    for name in ("contrast-sexM_permutations.npz", "my notes.txt", "report.html", "figures/report.json"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("")
    (out / "figures" / "report.json").write_text('{"made_from": "glm.json", "files": ["report.html"]}')
    with pytest.raises(VbmstatError, match="no column agee"):
        vbmstat("glm", "gm ~ agee", "--out", out)
    assert held(out) > {*record["files"], "glm.json", "report.html"}
    said = vbmstat("glm", "gm ~ age + tiv", "--contrast", "tiv", "--repeats", 0, "--out", out)
    assert "files of the earlier run in" in said
    record = json.loads((out / "glm.json").read_text())
    assert record["formula"] == "gm ~ age + tiv"
    assert held(out) == {*record["files"], "glm.json", "contrast-sexM_permutations.npz", "my notes.txt"}
    assert not [name for name in record["files"] if "sexM" in name or name.startswith(("spm", "draws"))]


def test_a_model_of_regions_takes_the_place_of_one_of_voxels(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    monkeypatch.chdir(cohort_folder)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(1, 4, (1, *GRID.shape))).float()
    write_volume(cohort_folder / "own.nii.gz", Volume(labels, GRID), dtype="uint8")
    (cohort_folder / "own.tsv").write_text("label\tname\n1\ta\n2\tb\n3\tc\n")
    for path in (cohort_folder / "mri").iterdir():
        (cohort_folder / "mri" / path.name.replace("s6mwp1", "mwp1")).write_bytes(path.read_bytes())
    data = pd.read_csv("cohort.tsv", sep="\t")
    data.assign(mwp1=data["s6mwp1"].str.replace("s6mwp1", "mwp1")).to_csv("cohort.tsv", sep="\t", index=False)
    vbmstat("glm", "gm ~ age", "--repeats", 0, "--out", "out")
    vbmstat("glm", "gm ~ age", "--level", "roi", "--atlas", "own.nii.gz", "--permutations", 20, "--out", "out")
    names = held(cohort_folder / "out")
    assert "roi_own_glm.tsv" in names
    assert not [name for name in names if name.endswith(("_statmap.nii.gz", "mask.nii.gz"))]
    vbmstat("glm", "gm ~ age", "--repeats", 0, "--out", "out")
    assert not [name for name in held(cohort_folder / "out") if name.startswith("roi") or "roimap" in name]


def test_results_that_do_not_list_their_files_are_not_mixed_with_new_ones(vbmstat, cohort_folder):  # noqa: F811
    out = cohort_folder / "out"
    out.mkdir()
    (out / "glm.json").write_text('{"contrasts": []}')
    with pytest.raises(VbmstatError, match=r"glm.json: the record of an earlier run does not list its files"):
        vbmstat("glm", "gm ~ age", "--cohort", cohort_folder / "cohort.tsv", "--out", out)
    assert held(out) == {"glm.json"}


def test_levels_that_differ_in_signs_have_maps_of_their_own(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    monkeypatch.chdir(cohort_folder)
    data = pd.read_csv("cohort.tsv", sep="\t")
    data.assign(grp=np.resize(["=65", "<65", ">65"], len(data))).to_csv("cohort.tsv", sep="\t", index=False)
    said = vbmstat("glm", "gm ~ age + grp", "--repeats", 0, "--out", "out")
    record = json.loads((cohort_folder / "out" / "glm.json").read_text())
    maps = {path.name: read_volume(path).data for path in (cohort_folder / "out").glob("*_stat-t_*")}
    assert len(maps) == len(record["contrasts"]) == 3
    by_name = {c["name"]: maps[f"contrast-{c['label']}_stat-t_statmap.nii.gz"] for c in record["contrasts"]}
    assert not torch.equal(by_name["grp[T.=65]"], by_name["grp[T.>65]"])
    for contrast in record["contrasts"][1:]:
        assert f"files of {contrast['name']}: contrast-{contrast['label']}_*" in said


def test_no_cohort_anywhere(vbmstat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VbmstatError, match=r"no cohort table: looked for cohort\.tsv"):
        vbmstat("glm", "gm ~ age")


@pytest.mark.filterwarnings("ignore::UserWarning:nilearn")
def test_corrected_inference_is_told_and_tabulated(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
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


def test_degrees_of_freedom_stand_where_they_hold(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.chdir(cohort_folder)
    common = ["glm", "gm ~ age + sex", "--repeats", 0, "--atlas", "none"]
    assert "3 columns (Intercept, age, sex[T.M]), 23 degrees of freedom\n" in vbmstat(*common)
    said = vbmstat(*common, "--variance", "groups:sex")
    header = next(line for line in said.splitlines() if line.startswith("26 scans"))
    assert header.endswith("3 columns (Intercept, age, sex[T.M])")
    record = json.loads((cohort_folder / "glm" / "gm_age_sex" / "glm.json").read_text())
    for entry in record["contrasts"]:
        line = next(line for line in said.splitlines() if line.startswith(f"  {entry['name']}: "))
        assert line.endswith(f", {entry['df']:.4g} degrees of freedom (median over voxels)")
    assert "1 column (Intercept), 25 degrees" in vbmstat("glm", "gm ~ 1", "--repeats", 0, "--atlas", "none")


def test_scans_are_left_out_and_tables_joined(vbmstat, cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    monkeypatch.chdir(cohort_folder)
    (cohort_folder / "mri" / "exclusions.tsv").write_text("participant_id\treason\nsub-001\tmotion\n")
    (cohort_folder / "iq.csv").write_text("ID,iq\n" + "".join(f"{i:03d},{80 + i}\n" for i in range(26)))
    asked = ("--maps", "mri", "--participants", "cohort.tsv", "--table", "iq.csv", "--repeats", 0, "--out", "out")
    said = vbmstat(
        "glm", "gm ~ age + iq", *asked, "--exclude", "002,003", "--exclude", "sub-004", "--where", "iq < 100"
    )
    assert said.count("left out 1 scan by exclusions.tsv: sub-001 (motion); 25 are left") == 1
    assert "left out 3 scans by --exclude: sub-002, sub-003, sub-004; 22 are left" in said
    assert "left out 6 scans by --where 'iq < 100': sub-020 (iq = 100), " in said
    assert "16 scans, " in said
    assert said.index("left out 1 scan") < said.index("age: number")  # before any map is read
    people = (cohort_folder / "out" / "scans.tsv").read_text().splitlines()
    assert people[0].split("\t") == ["scan_id", "age", "iq", "sex", "tiv_ml"]
    assert len(people) == 17
    said = vbmstat("glm", "gm ~ age", *asked, "--no-exclusions")
    assert "26 scans, " in said
    with pytest.raises(VbmstatError, match=r"no column aeg in the table \(aeg: nearest age, engine\)$"):
        vbmstat("glm", "gm ~ aeg", *asked)
