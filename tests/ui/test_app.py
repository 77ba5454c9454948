"""Routes: files as they are, and every fault a sentence."""

from __future__ import annotations

import pytest

from tests.ui.conftest import signed_in
from vbmstat.ui import app, cohort


def test_files_are_served_as_they_are_and_kept_by_the_browser(client, folder):
    first = client.get("/api/file/mri/s6mwp1scan0_T1w.nii.gz")
    assert first.content == (folder / "mri" / "s6mwp1scan0_T1w.nii.gz").read_bytes()
    assert first.headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in first.headers  # the viewer unpacks it
    assert "no-cache" in first.headers["cache-control"]
    again = client.get("/api/file/mri/s6mwp1scan0_T1w.nii.gz", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "immutable" in client.get("/api/file/cohort.tsv?v=1").headers["cache-control"]


def test_a_page_that_was_not_built_says_what_to_run(client, monkeypatch, tmp_path):
    monkeypatch.setattr(app, "STATIC", tmp_path)
    answer = client.get("/")
    assert "make ui" in answer.text
    (tmp_path / "index.html").write_text("<p>built</p>")
    (tmp_path / "app.js").write_text("1")
    (tmp_path.parent / "secret.txt").write_text("secret")
    page = client.get("/")
    assert (page.text, page.headers["content-type"].split(";")[0]) == ("<p>built</p>", "text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert client.get("/app/app.js").headers["content-type"].startswith("text/javascript")
    for path in ("/app/nothing.js", "/app/..%2Fsecret.txt", "/app/%2Fetc%2Fpasswd"):
        assert client.get(path).status_code == 404


def test_a_fault_of_the_program_is_a_sentence_and_no_trace(client, monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(cohort, "cohort", broken)
    answer = client.get("/api/cohort")
    assert (answer.status_code, "the terminal says more" in answer.json()["error"]) == (500, True)
    assert "Traceback" not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    client.raises = True
    with pytest.raises(ZeroDivisionError):  # uvicorn writes it to the terminal
        client.get("/api/cohort")


def test_what_is_not_there_or_not_so_asked_is_a_sentence(client):
    for answer in (client.get("/api/nothing"), client.post("/api/cohort", json={}), client.delete("/")):
        assert answer.status_code in (404, 405)
        assert answer.json()["error"]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"{", b"[]", b"9" * 5000])
def test_a_body_that_is_no_object_is_a_sentence(client, body):
    answer = client.post("/api/designs", content=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "expected a JSON object as the body of the request")


def test_a_folder_that_cannot_be_written_to_is_a_sentence(study, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "exclusions.tsv")

    monkeypatch.setattr("vbmstat.tables.exclusions.storage.write_table", full)
    answer = signed_in(study).put("/api/exclusions/sub-01", json={"reason": "motion"})
    assert answer.json()["error"] == "exclusions.tsv: No space left on device; check the folder and load the page again"
