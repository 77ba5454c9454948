"""Jobs outlive the server: a fit whose server is killed is found again, stopped, and goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.ui.conftest import Browser, signed_in
from vbmstat.errors import VbmstatError
from vbmstat.ui import child, jobs
from vbmstat.ui.jobs import Job, Jobs
from vbmstat.ui.study import MissingError

LINE = "$ vbmstat glm 'gm ~ age' --cohort {}/cohort.tsv"
LONG = {"formula": "gm ~ age", "repeats": 0, "inference": ["fwe"], "permutations": 2_000_000, "atlas": "none"}


def wait_until(true, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def instead(monkeypatch, code: str) -> None:
    """Processes of jobs run a line of Python in place of vbmstat, which takes seconds to import."""
    own = f"import sys; from vbmstat.ui import child; child._RUN = {code!r}; child.run(child.Path(sys.argv[1]))"
    monkeypatch.setattr(jobs, "_CHILD", ("-c", own))


def of_script(study, monkeypatch, code: str) -> Job:
    """A job that is not started yet."""
    instead(monkeypatch, code)
    job = Job(study.root / ".vbmstat-ui" / "jobs" / "one", study)
    job.folder.mkdir(parents=True)
    spec = {"command": "glm", "options": {"formula": "gm ~ age"}, "title": "x", "result": None}
    (job.folder / jobs.SPEC).write_text(json.dumps(spec))
    return job


def run_until_killed(study, monkeypatch, start) -> None:
    """Another process calls `start` as a server would, and is killed without a chance to tidy up."""
    server = multiprocessing.get_context("fork").Process(target=lambda: (start(), time.sleep(600)))
    server.start()
    wait_until(lambda: Jobs(study).all() and Jobs(study).all()[0].lines())
    os.kill(server.pid, signal.SIGKILL)
    server.join()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_server_that_is_killed_in_the_middle_of_a_fit(study, monkeypatch):
    """Another process starts the fit and is killed; this one finds it, stops it and lets it go on."""
    run_until_killed(study, monkeypatch, lambda: Jobs(study).start("glm", LONG))
    (job,) = Jobs(study).all()
    try:
        told = job.record()
        assert (told["state"], told["title"], told["result"]) == ("running", "glm gm ~ age", "glm/gm_age")
        with pytest.raises(VbmstatError, match="runs already"):
            Jobs(study).start("glm", LONG)
        checkpoint = study.root / "glm" / "gm_age" / "contrast-age_permutations.npz"
        wait_until(checkpoint.exists)
        browser = signed_in(study)
        assert browser.delete(f"/api/jobs/{job.folder.name}").status_code == 200
        wait_until(lambda: job.state != "running")
        assert job.state == "stopped"
        with np.load(checkpoint) as saved:
            done = int(saved["done"])
        assert 0 < done < LONG["permutations"]
        assert browser.post(f"/api/jobs/{job.folder.name}/resume").json()["state"] == "running"
        begun = len(job.lines())
        wait_until(lambda: any("permutations:" in line for line in job.lines()[begun:]))
        first = next(line for line in job.lines()[begun:] if "permutations:" in line)
        assert jobs.progress_of(first)["done"] > done  # it went on, and did not begin again
    finally:
        end(job)


def end(job: Job) -> None:
    """Stop a job as Ctrl-C does, then at once."""
    for _ in range(2):
        job.stop()
    wait_until(lambda: job.state != "running")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_job_is_found_again_after_its_server_was_killed(study, monkeypatch):
    job = of_script(study, monkeypatch, "import time; print('permutations: 3 of 9', flush=True); time.sleep(600)")
    run_until_killed(study, monkeypatch, job.start)
    (found,) = Jobs(study).all()
    try:
        wait_until(lambda: found.record()["progress"])
        assert found.record()["progress"] == {"done": 3, "total": 9, "text": "permutations"}
        assert found.state == "running"
        with pytest.raises(VbmstatError, match="runs already"):
            found.start()
        seen = signed_in(study).get("/api/jobs").json()
        assert [one["state"] for one in seen] == ["running"]
    finally:
        end(found)
    assert found.state == "stopped"
    assert found.record()["exit_code"] != 0


def test_a_job_whose_process_was_killed_was_interrupted_and_can_be_resumed(study, monkeypatch):
    job = of_script(study, monkeypatch, "import time; print('begun', flush=True); time.sleep(600)")
    job.start()
    wait_until(lambda: "begun" in job.lines())
    os.killpg(json.loads((job.folder / jobs.STATUS).read_text())["pid"], signal.SIGKILL)  # as when the machine goes off
    wait_until(lambda: job.state != "running")
    assert job.state == "interrupted"
    assert signed_in(study).post("/api/jobs/one/resume").json()["state"] == "running"
    try:
        wait_until(lambda: job.lines().count("begun") == 2)
    finally:
        end(job)


@pytest.mark.parametrize(("code", "state"), [("print('9 of 9')", "done"), ("raise SystemExit(3)", "failed")])
def test_how_a_command_ended_is_written_down(study, monkeypatch, code, state):
    job = of_script(study, monkeypatch, code)
    job.start()
    wait_until(lambda: job.state != "running")
    told = job.record()
    assert (told["state"], told["exit_code"]) == (state, 3 if state == "failed" else 0)
    assert told["started"] <= told["ended"]
    assert job.lines()[0] == LINE.format(study.root)


def test_events_begin_with_what_was_said_so_far(study, monkeypatch):
    code = "import sys; print('packing: 3 of 4'); print('[1/2] done sub-01', file=sys.stderr); raise SystemExit(1)"
    job = of_script(study, monkeypatch, code)
    job.start()
    browser = signed_in(study)
    answer = browser.get("/api/jobs/one/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    said = {one["line"] for one in told}
    assert {LINE.format(study.root), "packing: 3 of 4", "[1/2] done sub-01"} <= said
    assert told[-1]["state"] == "failed"
    assert {"done": 1, "total": 2, "text": "done sub-01"} in [one["progress"] for one in told]
    again = browser.get("/api/jobs/one/events").text  # after a reload
    assert sum(line.startswith("data: ") and '"line": "' in line for line in again.splitlines()) == 3
    rest = browser.get("/api/jobs/one/events", headers={"last-event-id": "2"}).text  # the connection was lost
    assert sum('"line": "' in line for line in rest.splitlines()) == 1


def test_files_of_the_folder_do_not_stand_in_for_modules(study, monkeypatch):
    (study.root / "numpy.py").write_text("open('owned', 'w')")
    (study.root / "json.py").write_text("open('owned', 'w')")
    code = "import sys; sys.path = [one for one in sys.path if one]; import json, numpy; print(numpy.__name__)"
    assert child._RUN.startswith(code.partition("import json")[0])
    job = of_script(study, monkeypatch, code)
    job.start()
    wait_until(lambda: job.state != "running")
    assert (job.state, job.lines()[-1]) == ("done", "numpy")
    assert not list(study.root.rglob("owned"))


def test_a_job_that_came_with_a_folder_is_not_run_as_it_is(study, monkeypatch):
    """Somebody else's study may hold anything in .vbmstat-ui; a click on resume must not run it."""
    job = of_script(study, monkeypatch, "import sys; print(sys.argv)")
    spec = job.spec | {"arguments": ["glm", "x ~ y", "--out", "/"], "cwd": "/", "command_line": "vbmstat harmless"}
    (job.folder / jobs.SPEC).write_text(json.dumps(spec))
    assert signed_in(study).post("/api/jobs/one/resume").status_code == 200
    wait_until(lambda: job.state != "running")
    assert job.lines()[-1] == str(["-c", "glm", "gm ~ age", "--cohort", f"{study.root}/cohort.tsv"])
    assert job.spec["command_line"] == LINE.format(study.root).removeprefix("$ ")
    (job.folder / jobs.SPEC).write_text(json.dumps(spec | {"options": {"formula": "gm ~ age", "out": "/"}}))
    assert "has no option 'out'" in signed_in(study).post("/api/jobs/one/resume").json()["error"]
    for options in ([1], 7, "x"):
        (job.folder / jobs.SPEC).write_text(json.dumps(spec | {"options": options}))
        assert signed_in(study).post("/api/jobs/one/resume").status_code == 400


def test_a_command_is_started_with_its_options(study, monkeypatch):
    instead(monkeypatch, "import sys; print(sys.argv)")
    browser = signed_in(study)
    body = {"command": "glm", "options": {"formula": "gm ~ age", "repeats": 0}}
    name = browser.post("/api/jobs", json=body).json()["id"]
    job = Jobs(study).find(name)
    wait_until(lambda: job.state != "running")
    (told,) = browser.get("/api/jobs").json()
    assert told["command"] == f"vbmstat glm 'gm ~ age' --cohort {study.root}/cohort.tsv --repeats 0"
    assert job.lines()[-1] == str(["-c", "glm", "gm ~ age", "--cohort", f"{study.root}/cohort.tsv", "--repeats", "0"])
    assert (told["title"], told["result"], told["state"]) == ("glm gm ~ age", "glm/gm_age", "done")


def test_of_two_clicks_at_once_only_one_starts_a_job(study, monkeypatch):
    instead(monkeypatch, "import time; time.sleep(600)")
    body = {"command": "glm", "options": {"formula": "gm ~ age", "repeats": 0}}
    first = signed_in(study)
    tabs = [first, Browser(first.app, first.cookies), signed_in(study)]  # two tabs of a server, and another server
    try:
        with ThreadPoolExecutor() as all_of_them:
            answers = [one.result() for one in [all_of_them.submit(tab.post, "/api/jobs", json=body) for tab in tabs]]
        assert sorted(one.status_code for one in answers) == [200, 400, 400]
        (job,) = Jobs(study).all()
        other = {"command": "glm", "options": {"formula": "gm ~ age", "repeats": 0, "inference": "fdr"}}
        assert "same results runs already" in first.post("/api/jobs", json=other).json()["error"]
        assert Jobs(study).all() == [job]
    finally:
        for job in Jobs(study).all():
            end(job)


def test_looking_at_a_job_does_not_make_a_folder_that_has_gone(study, monkeypatch):
    job = of_script(study, monkeypatch, "pass")
    job.start()
    wait_until(lambda: job.state != "running")
    shutil.rmtree(study.root)
    assert job.state == "interrupted"
    assert not study.root.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [({"command": "rm"}, "expected one of"), ({}, "expected one of"), ({"command": "glm"}, "such as 'gm ~ age"),
     ({"command": "glm", "options": {"formula": "gm ~ age", "fwhm": "wide"}}, "--fwhm: expected a number"),
     ({"command": "glm", "options": {"formula": "gm ~ age", "fwhm": [6, 8]}}, "--fwhm: expected a number"),
     ({"command": "glm", "options": 3}, "options: expected"), ({"command": "preprocess"}, "the folder of the scans")],
)  # fmt: skip
def test_what_is_no_job_is_a_sentence(study, body, message):
    answer = signed_in(study).post("/api/jobs", json=body)
    assert (answer.status_code, message in answer.json()["error"]) == (400, True)
    assert Jobs(study).all() == []


def test_a_job_that_is_not_there(study):
    browser = signed_in(study)
    for name in ("nix", "..%2F..", "%2Fetc"):
        assert browser.delete(f"/api/jobs/{name}").status_code == 404
        assert browser.get(f"/api/jobs/{name}/events").status_code == 404
    with pytest.raises(MissingError, match="no such job"):
        Jobs(study).find("nix")


@pytest.mark.parametrize(
    "line",
    ["gm ~ age: 3", "", "age: number, 20–70", "of", "3 of 4", "FWE-corrected p of the peak: 3 of 99 voxels at 0.05"],
)
def test_other_lines_tell_no_progress(line):
    assert jobs.progress_of(line) is None
