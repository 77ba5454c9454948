"""vbmstat rerun of a model, as a user types it."""

from __future__ import annotations

import json
import shutil

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.glm.conftest import GRID, SHAPE, cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat.cli import app
from vbmstat.errors import VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.report.results import Outputs, write_results
from vbmstat.tables.cohort import read_cohort

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:nilearn")


def run(*arguments, code=0) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if isinstance(result.exception, VbmstatError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)


@pytest.fixture
def fitted(cohort_folder, no_pictures):  # noqa: F811
    """A folder with a model of a cohort; contrasts in a file, a mask of one's own, everything else by option."""
    (cohort_folder / "contrasts.json").write_text('{"older": "age"}')
    (cohort_folder / "elsewhere").mkdir()
    run("glm", "gm ~ age + sex", "--cohort", cohort_folder / "cohort.tsv", "--repeats", 4, "--seed", 3,
        "--contrast", cohort_folder / "contrasts.json", "--contrast", "sex", "--mask-share", "0.9", "--one-sided",
        "--spm-names", "--inference", "fdr", "--atlas", "none")  # fmt: skip
    return cohort_folder / "glm" / "gm_age_sex"


def test_a_model_again(fitted, tmp_path):
    said = run("rerun", fitted / "glm.json")
    n = len([path for path in fitted.iterdir() if path.is_file()])
    assert f"{n} of {n} files have the same bytes" in said
    assert not list(tmp_path.glob("again*"))
    said = run("rerun", fitted / "glm.json", "--out", tmp_path / "again")
    assert f"new outputs in {tmp_path / 'again'}" in said
    assert (tmp_path / "again" / "spmT_0001.nii").read_bytes() == (fitted / "spmT_0001.nii").read_bytes()


def test_small_volumes_again(cohort_folder, no_pictures):  # noqa: F811
    mask = np.zeros(SHAPE, np.float32)
    mask[6:9, 4:9, 3:7] = 1
    io.write_volume(cohort_folder / "small.nii.gz", Volume(torch.from_numpy(mask)[None], GRID))
    said = run("glm", "gm ~ age", "--cohort", cohort_folder / "cohort.tsv", "--repeats", 0, "--inference", "rft",
               "--svc", "sphere:9,0,0,7", "--svc", cohort_folder / "small.nii.gz", "--out", cohort_folder / "out",
               "--atlas", "none", "--second-atlas", "none")  # fmt: skip
    inside = np.argwhere(io.read_volume(cohort_folder / "out" / "mask.nii.gz").data[0].numpy() > 0)
    in_ball = np.linalg.norm(inside * 3 - [15, 20, 12] - [9, 0, 0], axis=1) <= 7
    assert f"small volume sphere:9,0,0,7: {in_ball.sum()} voxels" in said
    assert "small volume small.nii.gz: 60 voxels" in said
    rows = pd.read_csv(cohort_folder / "out" / "svc.tsv", sep="\t")
    assert dict(zip(rows["volume"], rows["search_voxels"], strict=True)) == {
        "sphere:9,0,0,7": in_ball.sum(), "small.nii.gz": 60,
    }  # fmt: skip
    said = run("rerun", cohort_folder / "out" / "glm.json")
    n = len([path for path in (cohort_folder / "out").iterdir() if path.is_file()])
    assert f"{n} of {n} files have the same bytes" in said


def test_a_model_of_a_folder_of_maps_moved_elsewhere(cohort_folder, tmp_path, no_pictures):  # noqa: F811
    people = cohort_folder / "people.tsv"
    people.write_text((cohort_folder / "cohort.tsv").read_text())
    out = cohort_folder / "model"
    run("glm", "gm ~ age", "--maps", cohort_folder / "mri", "--participants", people, "--repeats", 0, "--out", out,
        "--atlas", "none")  # fmt: skip
    shutil.move(cohort_folder / "mri", tmp_path / "moved" / "mri")
    shutil.move(people, tmp_path / "moved" / "people.tsv")
    said = run("rerun", out / "glm.json", "--inputs", tmp_path / "moved")
    assert "have the same bytes" in said
    with pytest.raises(VbmstatError, match=r"is not below .*--inputs"):
        run("rerun", out / "glm.json", "--inputs", out)


def test_changed_outputs_inputs_and_versions(fitted):
    effect = fitted / "contrast-older_stat-effect_statmap.nii.gz"
    volume = io.read_volume(effect)
    io.write_volume(effect, type(volume)(volume.data + 1, volume.grid))
    said = run("rerun", fitted / "glm.json", code=1)
    assert "differs: contrast-older_stat-effect_statmap.nii.gz (values differ by at most 1)" in said
    record = json.loads((fitted / "glm.json").read_text())
    record["versions"]["numpy"] = "0.1"
    (fitted / "glm.json").write_text(json.dumps(record))
    with pytest.raises(VbmstatError, match="1 things are not as they were; install those versions, or say --any-ver"):
        run("rerun", fitted / "glm.json")
    assert "not as it was: numpy: 0.1 then" in run("rerun", fitted / "glm.json", "--any-version", code=1)


def test_maps_that_changed_are_named(fitted):
    folder = fitted.parents[1]
    changed = folder / "mri" / "s6mwp1sub-004_T1w.nii.gz"
    volume = io.read_volume(changed)
    io.write_volume(changed, type(volume)(volume.data * 1.01, volume.grid))
    assert "differs: map of sub-004" in run("rerun", fitted / "glm.json", code=1)


def test_a_model_from_python_again(cohort_folder, tmp_path, no_pictures):  # noqa: F811
    results = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=3, variance="hc3")
    write_results(results, cohort_folder / "mine", Outputs("none"))
    said = run("rerun", cohort_folder / "mine" / "glm.json")
    n = len([path for path in (cohort_folder / "mine").iterdir() if path.is_file()])
    assert f"{n} of {n} files have the same bytes" in said


def test_a_model_without_pictures_again(cohort_folder, monkeypatch):  # noqa: F811
    monkeypatch.chdir(cohort_folder)
    run("glm", "gm ~ age", "--repeats", 0, "--no-figures", "--out", "plain")
    assert not list((cohort_folder / "plain").glob("*.png"))
    n = len([path for path in (cohort_folder / "plain").iterdir() if path.is_file()])
    assert f"{n} of {n} files have the same bytes" in run("rerun", cohort_folder / "plain" / "glm.json")


def test_data_from_memory_are_told(cohort_folder, no_pictures):  # noqa: F811
    results = fit_glm(None, "gm ~ age", read_cohort(cohort_folder / "cohort.tsv"), repeats=0)
    write_results(results, cohort_folder / "mine", Outputs("none"))
    with pytest.raises(VbmstatError, match="were in memory, not in files: run the script that made them"):
        run("rerun", cohort_folder / "mine" / "glm.json")


def test_older_records_are_told(fitted):
    record = json.loads((fitted / "glm.json").read_text())
    record.pop("spec")
    (fitted / "glm.json").write_text(json.dumps(record))
    with pytest.raises(VbmstatError, match="it is damaged or older than that"):
        run("rerun", fitted / "glm.json")


def test_the_record_names_no_folder_of_the_machine(fitted):
    text = (fitted / "glm.json").read_text()
    assert str(fitted.parents[1]) not in text
    record = json.loads(text)
    assert record["data"]["maps"] == "table"
    assert record["data"]["table"]["file"] == "cohort.tsv"
    assert record["spec"]["contrasts"][0]["file"] == "contrasts.json"


def test_a_model_of_selected_scans_again(cohort_folder, no_pictures):  # noqa: F811
    (cohort_folder / "exclusions.tsv").write_text("participant_id\nsub-001\n")
    (cohort_folder / "iq.csv").write_text("ID,iq\n" + "".join(f"{i:03d},{80 + i}\n" for i in range(26)))
    run("glm", "gm ~ age + iq", "--cohort", cohort_folder / "cohort.tsv", "--table", cohort_folder / "iq.csv",
        "--repeats", 0, "--where", "iq > 85", "--exclude", "sub-009", "--out", cohort_folder / "out")  # fmt: skip
    assert "have the same bytes" in run("rerun", cohort_folder / "out" / "glm.json")
    (cohort_folder / "exclusions.tsv").write_text("participant_id\nsub-001\nsub-011\n")
    with pytest.raises(VbmstatError, match=r"exclusions.tsv .* has another content"):
        run("rerun", cohort_folder / "out" / "glm.json", "--inputs", cohort_folder)


@pytest.mark.parametrize("more", [("--variance", "sandwich:family"), ("--random", "family")])
def test_regions_of_a_folder_of_maps_again(cohort_folder, no_pictures, more):  # noqa: F811
    people = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t", dtype={"participant_id": str})
    people["family"] = [f"f{i // 2}" for i in range(len(people))]
    people.to_csv(cohort_folder / "p.tsv", sep="\t", index=False)
    raw = cohort_folder / "raw"
    raw.mkdir()
    for path in (cohort_folder / "mri").iterdir():
        shutil.copy(path, raw / path.name.removeprefix("s6"))
    run("glm", "gm ~ age + sex", "--maps", raw, "--participants", cohort_folder / "p.tsv", "--repeats", 0,
        "--level", "roi", *more, "--out", cohort_folder / "regions")  # fmt: skip
    said = run("rerun", cohort_folder / "regions" / "glm.json")
    assert "differs" not in said
    assert "have the same bytes" in said
    shutil.move(raw, cohort_folder / "moved" / "raw")
    shutil.copy(cohort_folder / "moved" / "raw" / "mwp1sub-003_T1w.nii.gz", cohort_folder / "a copy.nii.gz")
    said = run("rerun", cohort_folder / "regions" / "glm.json", "--inputs", cohort_folder)
    assert "differs" not in said
    changed = cohort_folder / "moved" / "raw" / "mwp1sub-004_T1w.nii.gz"
    volume = io.read_volume(changed)
    io.write_volume(changed, type(volume)(volume.data * 1.01, volume.grid))
    said = run("rerun", cohort_folder / "regions" / "glm.json", "--inputs", cohort_folder, code=1)
    assert "differs: map of sub-004 (another file)" in said
    record = json.loads((cohort_folder / "regions" / "glm.json").read_text())
    assert len(record["maps"]) == 26
    (cohort_folder / "regions" / "glm.json").write_text(json.dumps(record | {"maps": {}}))
    with pytest.raises(VbmstatError, match="it is damaged or older than that"):
        run("rerun", cohort_folder / "regions" / "glm.json")
