"""The studies in the given folder: found, opened, and nothing outside it."""

from __future__ import annotations

import shutil
from urllib.parse import quote

import pytest

from tests.report.conftest import N_SCANS
from tests.ui.conftest import OLD, signed_in
from vbmstat.ui.study import Study


@pytest.fixture
def given(tmp_path, finished):
    """A run of preprocess, a BIDS folder, two models side by side, images, and a folder of texts."""
    given = tmp_path / "data"
    shutil.copytree(finished, given / "a" / "run", ignore=shutil.ignore_patterns("glm", "mri", "scratch"))
    for name in ("age", "again"):
        shutil.copytree(finished / OLD, given / "models" / name)
    (given / "bids" / "sub-01" / "anat").mkdir(parents=True)
    (given / "images").mkdir()
    (given / "images" / "one.nii.gz").write_bytes(b"scan")
    (given / "texts").mkdir()
    (given / "texts" / "notes.txt").write_text("hello")
    (tmp_path / "outside").mkdir()
    (given / "link").symlink_to(tmp_path / "outside")
    return given.resolve()


def test_studies_are_found_and_said_what_they_are(given):
    told = signed_in(Study(given)).get("/api/folders").json()
    assert (told["given"], told["open"]) == (str(given), ".")
    assert {one["path"]: one["what"] for one in told["folders"]} == {
        "a/run": f"{N_SCANS} scans, preprocessed", "bids": "BIDS: 1 participant", "images": "1 image",
        "models": "2 models",
    }  # fmt: skip


def test_what_is_opened_is_served_and_nothing_outside_the_given_folder(given):
    client = signed_in(Study(given))
    assert client.get("/api/folder").json()["kind"] == "results"  # those of models
    assert client.put("/api/folders", json={"path": "a/run"}).json() == {"path": str(given / "a/run")}
    assert client.get("/api/folder").json()["kind"] == "cohort"
    assert client.get("/api/folders").json()["open"] == "a/run"
    assert client.get("/api/file/cohort.tsv").status_code == 200
    assert client.get("/api/file/../../images/one.nii.gz").status_code in (403, 404)
    for path in ("..", "/", "../outside", "a/../../outside", "link"):
        assert client.put("/api/folders", json={"path": path}).status_code == 403, path
    assert "no such file" in client.put("/api/folders", json={"path": "none"}).json()["error"]
    assert "expected a folder" in client.put("/api/folders", json={"path": "texts/notes.txt"}).json()["error"]
    assert client.get("/api/folder").json()["path"] == str(given / "a/run")  # after all those
    client.put("/api/folders", json={"path": "models"})
    assert client.get("/api/folder").json()["results"] == ["again", "age"]
    client.put("/api/folders", json={"path": "."})
    assert client.get("/api/folder").json()["path"] == str(given)


def test_a_page_of_another_folder_is_told_so(given):
    """Two tabs: what the second opened must not get the exclusions of the first."""
    first = signed_in(Study(given))
    first.put("/api/folders", json={"path": "a/run"})
    shown = {"vbmstat-folder": quote(str(given / "a/run"))}
    assert first.get("/api/cohort", headers=shown).status_code == 200
    first.put("/api/folders", json={"path": "models"})
    refused = first.put("/api/exclusions/sub-01", json={"reason": "motion"}, headers=shown)
    assert refused.status_code == 409
    assert "load the page again" in refused.json()["error"]
    assert not (given / "a/run" / "exclusions.tsv").is_file()
