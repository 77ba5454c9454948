"""Which paths are inside the folder."""

from __future__ import annotations

import os

import pytest

from tests.ui.conftest import OLD, PLAIN, VOXELS, signed_in
from vbmstat.ui.study import MissingError, RefusedError, Study

OUTSIDE = [
    "../secret.txt", "mri/../../secret.txt", "/etc/passwd", "..", "mri/..\\..\\secret.txt", "a/../../../secret.txt",
    "nul\0.txt",
]  # fmt: skip


@pytest.fixture
def secret(study):
    path = study.root.parent / "secret.txt"
    path.write_text("secret")
    return path


@pytest.mark.parametrize("relative", OUTSIDE)
def test_no_path_leads_out(study, secret, relative):
    with pytest.raises(RefusedError, match=r"without \.\."):
        study.path(relative)


@pytest.mark.parametrize(
    "address",
    ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "mri/..%2f..%2fsecret.txt", "%2e%2e%5csecret.txt",
     "%252e%252e/secret.txt", "/etc/passwd", "%2fetc/passwd", "..%00/secret.txt"],
)  # fmt: skip
def test_no_address_leads_out(study, secret, address):
    answer = signed_in(study).get(f"/api/file/{address}")
    assert answer.status_code in (403, 404)
    assert answer.json()["error"]
    assert "secret" not in answer.text.replace("secret.txt", "")


def test_links_stay_inside(study, secret):
    (study.root / "out.txt").symlink_to(secret)
    (study.root / "up").symlink_to(study.root.parent)
    (study.root / "in.tsv").symlink_to(study.root / "cohort.tsv")
    for name in ("out.txt", "up/secret.txt", "up"):
        with pytest.raises(RefusedError, match="leads out of the folder"):
            study.path(name)
        assert signed_in(study).get(f"/api/file/{name}").status_code == 403
    assert study.path("in.tsv") == study.root / "cohort.tsv"


def test_a_path_of_nothing_and_a_folder_are_no_files(study):
    with pytest.raises(MissingError, match="no such file"):
        study.path("mri/nothing.nii.gz")
    answer = signed_in(study).get("/api/file/mri")
    assert (answer.status_code, "expected a file" in answer.json()["error"]) == (404, True)


def test_a_folder_that_has_gone_is_said(study):
    browser = signed_in(study)
    study.root.rename(study.root.with_name("elsewhere"))
    for path in ("folder", "cohort", "scans/sub-01", "file/cohort.tsv", "results", "results/glm%2Fage", "exclusions",
                 "thumbnails/sub-01"):  # fmt: skip
        answer = browser.get(f"/api/{path}")
        assert answer.status_code == 404, path
        assert "the folder is gone" in answer.json()["error"]
    assert "the folder is gone" in browser.post("/api/designs", json={"formula": "gm ~ age"}).json()["error"]
    body = {"command": "glm", "options": {"formula": "gm ~ age"}}
    assert "the folder is gone" in browser.post("/api/jobs", json=body).json()["error"]
    assert "the folder is gone" in browser.put("/api/exclusions/sub-01", json={"reason": "x"}).json()["error"]
    assert not study.root.exists()


def test_results_are_found_below_but_not_among_maps(study):
    assert [study.relative(path) for path in study.results()] == [OLD, PLAIN, VOXELS]
    for name in ("mri", "a/b/c/d/e", ".hidden", "sub-01"):
        (study.root / name).mkdir(parents=True, exist_ok=True)
        (study.root / name / "glm.json").write_text("{}")
    (study.root / "a/b/glm.json").write_text("{}")
    os.symlink(study.root, study.root / "a/b/round")
    assert [study.relative(path) for path in study.results()] == ["a/b", OLD, PLAIN, VOXELS]


def test_the_run_of_a_bids_folder_is_its_derivative(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    assert Study(tmp_path).run == tmp_path / "derivatives" / "vbmstat"
    (tmp_path / "vbmstat-out").mkdir()
    (tmp_path / "vbmstat-out" / "cohort.tsv").write_text("participant_id\nsub-01\n")
    assert Study(tmp_path).run == tmp_path / "vbmstat-out"
