"""Runs of many scans with a stand-in for the engine: shards, stops, and other runs on the same folder."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from tests.batch.conftest import left_behind
from tests.batch.interrupt import fingerprint
from tests.batch.light import asked, light, read_failures, write_scans
from vbmstat.batch import run
from vbmstat.batch.claim import claim
from vbmstat.batch.plan import make_plan
from vbmstat.batch.run import preprocess, run_plan
from vbmstat.batch.workers import Workers
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files import map_kinds
from vbmstat.files.search import find_inputs
from vbmstat.image import io
from vbmstat.preproc.spec import PreprocSpec

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def scans(tmp_path) -> Path:
    return write_scans(tmp_path / "scans", 5)


def batch(scans: Path, out: Path, **options):
    return preprocess(scans, out, device="cpu", **{"process": light, **options})


def log_lines(out: Path, name: str = "status.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / "logs" / name).read_text().splitlines()]


def test_shards_and_a_last_run_make_what_one_run_makes(scans, tmp_path):
    one, parts = tmp_path / "one", tmp_path / "parts"
    batch(scans, one)
    for number in (1, 2):
        table = batch(scans, parts, shard=(number, 2)).table
        assert len(table) == (3, 2)[number - 1]
        assert not (parts / "cohort.tsv").exists()
        assert not (parts / "failures.tsv").exists()
    assert (parts / "logs" / "failures_shard-1of2.tsv").is_file()
    whole = batch(scans, parts)
    assert len(whole.table) == 5
    assert [line["complete"] for line in log_lines(parts) if line["event"] == "start"] == [5]
    assert fingerprint(parts) == fingerprint(one)
    assert batch(scans, parts, shard=(9, 9)).table.empty  # more shards than scans


def test_inputs_that_were_chosen_elsewhere(scans, tmp_path):
    chosen = find_inputs([scans]).without(lambda scan: "not asked for" if scan.participant_id == "sub-03" else "")
    assert batch(chosen, tmp_path / "out").scan_ids == ["sub-01", "sub-02", "sub-04", "sub-05"]
    listed = pd.read_csv(tmp_path / "out" / "inputs.tsv", sep="\t")
    assert listed.loc[listed["status"] == "skipped", ["path", "reason"]].to_numpy().tolist() == [
        ["sub-03_T1w.nii.gz", "not asked for"]
    ]


def test_the_first_failure_may_stop_the_rest(scans, tmp_path):
    (scans / "sub-02_T1w.nii.gz").write_bytes(b"broken")
    plan = make_plan(scans, tmp_path / "out", *asked(stop_on_first_failure=True))
    result = run_plan(plan)
    assert not result.is_whole
    assert [failure["scan"] for failure in result.failures] == ["sub-02_T1w"]
    assert result.cohort.scan_ids == ["sub-01"]
    assert read_failures(tmp_path / "out")["scan"].tolist() == ["sub-02_T1w"]
    assert len(batch(scans, tmp_path / "out").table) == 4


def test_failures_stand_in_the_order_of_names(scans, tmp_path):
    def fails(t1w, spec, on_step):
        is_second = float(t1w.data.sum()) == float(io.read_scan(scans / "sub-02_T1w.nii.gz").data.sum())
        is_fourth = float(t1w.data.sum()) == float(io.read_scan(scans / "sub-04_T1w.nii.gz").data.sum())
        if is_second or is_fourth:
            time.sleep(0.5 * is_second)  # it fails last
            msg = "no brain"
            raise ScanError(msg)
        return light(t1w, spec, on_step)

    batch(scans, tmp_path / "out", process=fails, workers=Workers(ThreadPoolExecutor, 5))
    assert read_failures(tmp_path / "out")["scan"].tolist() == ["sub-02_T1w", "sub-04_T1w"]


def test_every_scan_failing_is_an_error_after_the_table_of_failures(scans, tmp_path):
    for path in scans.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(ScanError, match=r"none of 5 scans could be preprocessed; first reason: .*sub-01"):
        batch(scans, tmp_path / "out")
    assert len(read_failures(tmp_path / "out")) == 5


def test_a_scan_of_another_run_comes_again_when_that_has_let_it_go(scans, tmp_path, monkeypatch):
    out, told = tmp_path / "out", []
    monkeypatch.setattr(run, "_BUSY_POLL_S", 0.05)
    held = claim(out, "sub-01_T1w")

    def let_go():
        while len(list(out.glob("report/vbmstat_*.json"))) < 4:  # all others are done first
            time.sleep(0.05)
        held.release()

    other = threading.Thread(target=let_go)
    other.start()
    cohort = batch(scans, out, on_event=lambda event: told.append((event.scan.participant_id, event.what)))
    other.join()
    assert len(cohort.table) == 5
    assert [what for scan, what in told if scan == "sub-01" and what in ("busy", "done")] == ["busy", "done"]
    assert told.index(("sub-05", "done")) < told.index(("sub-01", "done"))
    assert left_behind(out) == []


def test_what_killed_runs_left_is_removed(scans, tmp_path):
    out = tmp_path / "out"
    for name in (".partial/scans/gone_T1w/mri/half.nii", ".partial/locks/gone_T1w", ".partial-x.tsv"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    before_the_work = []
    plan = make_plan(scans, out, *asked())
    run_plan(plan, on_start=lambda _: before_the_work.extend(left_behind(out)))
    assert before_the_work == []
    assert left_behind(out) == []


def test_an_interruption_is_logged_and_leaves_nothing_unfinished(scans, tmp_path):
    def interrupted(t1w, spec, on_step):
        if len(list((tmp_path / "out").glob("report/vbmstat_*.json"))) == 2:
            raise KeyboardInterrupt
        return light(t1w, spec, on_step)

    with pytest.raises(KeyboardInterrupt):
        batch(scans, tmp_path / "out", process=interrupted)
    assert left_behind(tmp_path / "out") == []
    last = log_lines(tmp_path / "out")[-1]
    assert (last["event"], last["failed"]) == ("stopped", 0)
    assert len(batch(scans, tmp_path / "out").table) == 5


def test_the_log_says_how_it_was_run(scans, tmp_path):
    batch(scans, tmp_path / "out")
    batch(scans, tmp_path / "out")
    lines = log_lines(tmp_path / "out")
    starts = [line for line in lines if line["event"] == "start"]
    assert [(line["scans"], line["complete"], line["jobs"]) for line in starts] == [(5, 0, 1), (5, 5, 1)]
    (manifest,) = (tmp_path / "out" / "logs").glob("manifest-*.json")
    assert {f"manifest-{line['run']}.json" for line in lines} == {manifest.name}
    done = [line for line in lines if line["event"] == "done"]
    assert len(done) == 5
    assert all(line["peak_mb"] > 50 and "write" in line["seconds"] for line in done)


def test_options_reach_the_run(scans, tmp_path):
    with pytest.raises(VbmstatError, match="--memory above 0"):
        batch(scans, tmp_path / "out", memory_gb=-1.0)
    with pytest.raises(VbmstatError, match="--jobs of 1 or more"):
        batch(scans, tmp_path / "out", jobs=0)
    shares = []
    plan = make_plan(scans, tmp_path / "out", *asked(jobs=None, memory_gb=0.1))
    run_plan(plan, on_start=shares.append)
    (said,) = shares
    assert said.startswith("one scan at a time, ")
    assert "1 at once may take" in said


def test_the_table_has_the_maps_of_every_width_that_a_scan_has(scans, tmp_path):
    out = tmp_path / "out"
    table = batch(scans, out, fwhm_mm=8).table
    assert [name for name in table if map_kinds.is_map_column(name)] == ["mwp1", "mwp2", "mwp3", "s8mwp1", "s8mwp2"]
    table = batch(scans / "sub-01_T1w.nii.gz", out, fwhm_mm=[7.5]).table
    assert table["s8mwp1"].notna().all()
    assert table["s7.5mwp1"].notna().tolist() == [True, False, False, False, False]
    assert (out / table["s7.5mwp1"].iloc[0]).is_file()
    assert "smoothed by 7.5 mm FWHM" in json.loads((out / "cohort.json").read_text())["s7.5mwp1"]["Description"]


def test_a_spec_and_keywords_that_replace_its_fields(scans, tmp_path):
    spec = PreprocSpec(device="cpu", fwhm_mm=(4, 8), names="bids")
    preprocess(scans, tmp_path / "out", spec, names="cat12", process=light)
    (sidecar, *_) = sorted((tmp_path / "out" / "report").glob("vbmstat_*.json"))
    assert json.loads(sidecar.read_text())["spec"] == {**spec.record(), "names": "cat12"}
