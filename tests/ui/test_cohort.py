"""The table of scans."""

from __future__ import annotations

import json
import shlex
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from tests.report.conftest import N_SCANS, SCRIPT_ID
from tests.ui.conftest import signed_in, table
from vbmstat.report.preprocessing import unusual_values
from vbmstat.report.run_folder import read_run
from vbmstat.ui import cohort, scan
from vbmstat.ui.study import MissingError, Study


def rows_of(client) -> dict:
    return {row["scan"]: row for row in client.get("/api/cohort").json()["rows"]}


def test_values_are_those_of_the_table(client, folder):
    told, asked = client.get("/api/cohort").json(), table(folder)
    assert [row["scan"] for row in told["rows"] if row["status"] == "done"] == asked["participant_id"].tolist()
    ages = [row["values"]["age"] for row in told["rows"] if row["status"] == "done"]
    assert ages == asked["age"].astype(float).tolist()
    assert rows_of(client)["sub-04"]["values"]["qc_contrast_percent"] is None  # n/a
    assert "s6mwp1" not in rows_of(client)["sub-01"]["values"]


def test_columns_have_the_type_that_glm_takes_them_for_and_their_meaning(client, folder):
    columns = {one["name"]: one for one in client.get("/api/cohort").json()["columns"]}
    assert columns["age"]["type"] == "number"
    assert (columns["sex"]["type"], columns["sex"]["levels"]) == ("category", ["f", "m"])
    assert columns["tiv_ml"]["unit"] == "mL"
    assert "intracranial" in columns["tiv_ml"]["description"]
    design = client.post("/api/designs", json={"formula": "gm ~ sex", "missing": "drop", "repeats": 0}).json()
    assert design["columns"][0]["kind"] == "factor"
    cohort_table = table(folder).assign(site=["1", "2"] * (N_SCANS // 2))
    cohort_table.to_csv(folder / "cohort.tsv", sep="\t", index=False)
    columns = {one["name"]: one for one in client.get("/api/cohort").json()["columns"]}
    assert (columns["site"]["type"], columns["site"]["levels"]) == (
        "category",
        ["1", "2"],
    )  # numbers of sites are names


def test_flags_are_the_warnings_of_the_run_and_what_lies_apart(client, folder):
    rows, run = rows_of(client), read_run(folder)
    assert rows["sub-03"]["flags"] == ["strong <b>noise</b>"]
    assert "gm ml" in unusual_values(run.table[[*run.quality_columns, *run.volumes]])["sub-01"]
    assert [flag.split(" (z")[0] for flag in rows["sub-01"]["flags"]] == ["gm ml"]
    assert rows["sub-02"]["flags"] == []


def test_failed_scans_are_rows_with_their_reason(client):
    failed = rows_of(client)["sub-99"]
    assert failed["status"] == "failed"
    assert failed["flags"] == ["failed at the step read: <img src=x onerror=alert(1)> no image"]
    assert client.get("/api/folder").json()["n_failed"] == 1


def test_ids_that_want_to_be_scripts_are_text(client):
    answer = client.get("/api/cohort")
    assert answer.headers["content-type"] == "application/json"
    assert SCRIPT_ID in rows_of(client)
    address = SCRIPT_ID.replace("/", "%2F")
    details = client.get(f"/api/scans/{address}")
    assert (details.status_code, details.json()["scan"]) == (200, SCRIPT_ID)
    assert client.put(f"/api/exclusions/{address}", json={"reason": "<b>no</b>"}).status_code == 200
    assert rows_of(client)[SCRIPT_ID]["excluded"] == "<b>no</b>"
    missing = client.get("/api/scans/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")


def test_a_scan_has_its_images_in_their_space(client, folder):
    (folder / "mri" / "mscan1_T1w.nii.gz").write_bytes(b"image")
    details = client.get("/api/scans/sub-02").json()
    roles = {(one["role"], one["space"]) for one in details["images"]}
    assert roles == {("t1w", "scan"), ("warped", "template"), ("template", "template")}
    for image in details["images"][:-1]:  # the last is the template, which takes seconds to make
        assert client.get(image["url"]).status_code == 200
    assert client.get(details["images"][0]["url"]).content == b"image"
    path = next((folder / "mri").glob(details["images"][0]["url"].split("?")[0].rpartition("/")[2]))
    assert shlex.split(details["images"][0]["command"]) == ["vbmstat", "show", str(path.resolve()), "--browser"]
    assert client.get(details["picture"]).content[:4] == b"\x89PNG"
    noise = next(one for one in details["quality"] if one["label"] == "noise percent")
    assert (noise["value"], noise["flagged"]) == (9.0, False)
    assert any(one["flagged"] for one in client.get("/api/scans/sub-01").json()["quality"] if one["label"] == "gm ml")
    assert "no such scan" in client.get("/api/scans/sub-77").json()["error"]


def test_exclusions_are_read_and_saved_where_glm_reads_them(client, folder):
    (folder / "exclusions.tsv").write_text("participant_id\treason\nsub-05\tby hand\nsub-66\tnobody\n")
    told = client.get("/api/cohort").json()
    assert any("sub-66 not in the table" in one for one in told["warnings"])
    client.put("/api/exclusions/sub-06", json={"reason": "motion"})
    rows = rows_of(client)
    assert (rows["sub-05"]["excluded"], rows["sub-06"]["excluded"]) == ("by hand", "motion")
    assert client.get("/api/folder").json()["n_excluded"] == 2
    design = client.post("/api/designs", json={"formula": "gm ~ age", "repeats": 0}).json()
    assert design["n_scans"] == N_SCANS - 2
    assert any("exclusions.tsv" in one for one in design["warnings"])
    client.request("DELETE", "/api/exclusions/sub-06")
    assert rows_of(client)["sub-06"]["excluded"] is None
    assert "a reason" in client.put("/api/exclusions/sub-06", json={"reason": " "}).json()["error"]
    assert "no such scan" in client.put("/api/exclusions/sub-77", json={"reason": "x"}).json()["error"]


def test_a_damaged_list_of_exclusions_is_a_warning(client, folder):
    (folder / "exclusions.tsv").write_text("nobody\treason\na\tb\n")
    told = client.get("/api/cohort").json()
    assert any("participant_id" in one for one in told["warnings"])
    assert len(told["rows"]) == N_SCANS + 1


def test_a_bids_folder_shows_what_waits_what_is_done_and_what_failed(tmp_path, folder):
    for name in ("sub-01", "sub-02", "sub-03"):
        anat = tmp_path / "bids" / name / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_T1w.nii.gz").write_bytes(b"scan")
    study = Study(tmp_path / "bids")
    (study.run / "report").mkdir(parents=True)
    (study.run / "failures.tsv").write_text("scan\tpath\tstep\treason\nsub-02_T1w\tx\tread\tno image\n")
    sidecar = {"scan": "sub-03_T1w", "row": {"tiv_ml": 1400.0}}
    (study.run / "report" / "vbmstat_sub-03_T1w.json").write_text(json.dumps(sidecar))
    client = signed_in(study)
    told = client.get("/api/folder").json()
    assert (told["kind"], told["n_scans"], told["n_failed"], told["can_preprocess"]) == ("bids", 3, 1, True)
    assert "1 of 3 T1w scans" in told["messages"][0]
    rows = rows_of(client)
    assert {scan: row["status"] for scan, row in rows.items()} == {
        "sub-01": "waiting", "sub-02": "failed", "sub-03": "done",
    }  # fmt: skip
    assert rows["sub-03"]["values"]["tiv_ml"] == 1400.0
    client.put("/api/exclusions/sub-01", json={"reason": "no consent"})
    assert rows_of(client)["sub-01"]["excluded"] == "no consent"  # before anything is preprocessed
    assert client.get("/api/cohort").json()["warnings"] == []
    (image,) = client.get("/api/scans/sub-01").json()["images"]
    assert client.get(image["url"]).content == b"scan"


def test_covariates_are_shown_before_anything_is_preprocessed(tmp_path):
    for name in ("sub-01", "sub-02"):
        anat = tmp_path / name / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_T1w.nii.gz").write_bytes(b"scan")
    (tmp_path / "participants.tsv").write_text("participant_id\tiq\tsex\nsub-02\t101\tf\nsub-03\t99\tm\n")
    (tmp_path / "participants.json").write_text(json.dumps({"iq": {"Description": "quotient", "Units": "points"}}))
    client = signed_in(Study(tmp_path))
    told = client.get("/api/cohort").json()
    assert [(one["name"], one["type"], one["unit"]) for one in told["columns"]] == [
        ("iq", "number", "points"), ("sex", "category", ""),
    ]  # fmt: skip
    values = {scan: row["values"] for scan, row in rows_of(client).items()}
    assert values == {"sub-01": {"iq": None, "sex": None}, "sub-02": {"iq": 101, "sex": "f"}}
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nother\t61\n")
    told = client.get("/api/cohort").json()
    assert "no scan has a row in the table" in told["warnings"][0]
    assert len(told["rows"]) == 2


def test_a_folder_of_results_or_of_nothing_says_so(tmp_path, finished):
    shutil.copytree(finished / "glm" / "age", tmp_path / "results" / "age")
    told = signed_in(Study(tmp_path / "results")).get("/api/folder").json()
    assert (told["kind"], told["results"]) == ("results", ["age"])
    (tmp_path / "empty").mkdir()
    client = signed_in(Study(tmp_path / "empty"))
    told = client.get("/api/folder").json()
    assert told["kind"] == "empty"
    assert "start vbmstat ui with another one" in told["messages"][0]
    assert client.get("/api/cohort").json()["rows"] == []
    design = client.post("/api/designs", json={"formula": "gm ~ age"}).json()
    assert "no cohort.tsv here" in design["error"]


@pytest.mark.parametrize(
    "content", ["", "nonsense", "participant_id\n", "\0\0", "participant_id\tage\nsub-01\t3\nsub-01\t4\n"]
)
def test_a_table_that_is_none_is_a_sentence(client, folder, content):
    (folder / "cohort.tsv").write_text(content)
    for path in ("/api/folder", "/api/cohort", "/api/scans/sub-01"):
        answer = client.get(path)
        assert answer.status_code == 400
        assert "cohort.tsv" in answer.json()["error"]


def test_a_cohort_without_maps_can_be_looked_at(client, folder):
    table(folder).drop(columns="s6mwp1").to_csv(folder / "cohort.tsv", sep="\t", index=False)
    assert client.get("/api/cohort").json()["responses"] == []
    assert "needs a column s6mwp1" in client.post("/api/designs", json={"formula": "gm ~ age"}).json()["error"]


def test_two_thousand_scans_are_told_in_less_than_a_second(tmp_path):
    rng, n = np.random.default_rng(0), 2000
    people = pd.DataFrame({f"qc_{name}": rng.normal(size=n) for name in range(40)})
    people.insert(0, "participant_id", [f"sub-{i:04d}" for i in range(n)])
    people["scan"] = people["participant_id"] + "_T1w"
    people["group"] = rng.choice(["a", "b"], n)
    people.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    (tmp_path / "report").mkdir()
    for name in people["scan"]:
        (tmp_path / "report" / f"vbmreport_{name}.png").touch()
    start = time.process_time()
    told = cohort.cohort(Study(tmp_path))
    assert time.process_time() - start < 1.5  # 0.5 s on a machine that does nothing else
    assert len(told["rows"]) == n
    assert all(row["thumbnail"] for row in told["rows"])


def test_a_scan_without_picture_has_no_thumbnail(study):
    assert scan.picture(study, "sub-01").name == "vbmreport_scan0_T1w.png"
    (study.root / "report" / "vbmreport_scan0_T1w.png").unlink()
    with pytest.raises(MissingError, match="no picture"):
        scan.picture(study, "sub-01")


def test_an_output_folder_whose_run_goes_on_shows_its_scans(tmp_path):
    (tmp_path / "report").mkdir()
    listed = pd.DataFrame({"path": ["a/sub-01_T1w.nii", "a/sub-02_T1w.nii", "a/sub-03_T1w.nii"], "reason": "n/a"})
    listed = listed.assign(scan=["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"], status=["used", "used", "left out"])
    listed.to_csv(tmp_path / "inputs.tsv", sep="\t", index=False)
    sidecar = {"scan": "sub-02_T1w", "row": {"tiv_ml": 1400.0}}
    (tmp_path / "report" / "vbmstat_sub-02_T1w.json").write_text(json.dumps(sidecar))
    (tmp_path / "mri").mkdir()
    (tmp_path / "mri" / "p1sub-02_T1w.nii.gz").write_bytes(b"grey")
    client = signed_in(Study(tmp_path))
    told = client.get("/api/folder").json()
    assert (told["kind"], told["can_preprocess"]) == ("bids", False)
    assert "1 of 2 T1w scans are preprocessed. cohort.tsv" in told["messages"][0]
    assert {scan: row["status"] for scan, row in rows_of(client).items()} == {"sub-01": "waiting", "sub-02": "done"}
    (image,) = client.get("/api/scans/sub-02").json()["images"]
    assert client.get(image["url"]).content == b"grey"
    assert client.get("/api/scans/sub-01").json()["images"] == []
