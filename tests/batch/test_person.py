"""A person's scans from files to files, with a stand-in for the computation."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel as nib
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from tests.batch.conftest import left_behind
from tests.batch.light import STRANGER, asked, cut_short, light, read_failures, write_dates, write_people
from vbmstat import rerun
from vbmstat.batch import plan, run
from vbmstat.batch.claim import FOLDER, claim
from vbmstat.batch.person import PersonTask, draw_change
from vbmstat.batch.task import run_task
from vbmstat.batch.workers import Workers
from vbmstat.files import map_kinds, naming
from vbmstat.files.outputs import output_kinds
from vbmstat.files.search import find_inputs
from vbmstat.image import io, storage
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Volume
from vbmstat.tables.cohort import read_cohort

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def folder(tmp_path):
    """Two people with two sessions, of whom one has dates, and one with a single session."""
    folder = write_people(tmp_path / "data", {"sub-1": 2, "sub-2": 2, "sub-3": 1})
    write_dates(folder, "sub-1", "acq_time", ["1901-03-01T12:00:00", "1903-03-01T12:00:00"])
    return folder


def preprocess(folder, out, **options):
    """A longitudinal run without comparison of the scans."""
    spec, execution = asked(**{"longitudinal": "both", **options})
    return run.run_plan(plan.make_plan(folder, out, spec, execution))


def person_of(tmp_path, n_sessions=2, marks=None, years=(0.0, 2.0), **options):
    folder = write_people(tmp_path / "data", {"sub-1": n_sessions}, marks)
    scans = find_inputs([folder]).scans
    return PersonTask(scans, tmp_path / "out", *asked(longitudinal="both", **options), {}, years)


def table_of(out):
    return read_cohort(out / "cohort.tsv").table


def test_each_session_is_a_row_and_a_person_of_one_session_is_marked(folder, tmp_path):
    result = preprocess(folder, tmp_path / "out", fwhm_mm=(6, 8))
    table = table_of(tmp_path / "out")
    assert table.index.tolist() == [
        ("sub-1", "ses-1"), ("sub-1", "ses-2"), ("sub-2", "ses-1"), ("sub-2", "ses-2"), ("sub-3", "ses-1"),
    ]  # fmt: skip
    assert table["time_points"].tolist() == [2, 2, 2, 2, 1]
    assert table["years"].tolist()[:2] == [0.0, pytest.approx(1.9986, abs=1e-3)]
    assert table["years"].isna().tolist() == [False, False, True, True, True]
    assert table["s8mwmwp1r"].notna().tolist() == [True] * 4 + [False]
    assert table["s6mwp1"].notna().tolist() == [False] * 4 + [True]
    assert table.loc[("sub-1", "ses-2"), "s6mwmwp1r"] == "mri/s6mwmwp1rsub-1_ses-2_T1w.nii.gz"
    first, second = table.iloc[0], table.iloc[1]
    assert second["gm_change_percent"] == pytest.approx(100 * (second["gm_ml"] / first["gm_ml"] - 1), abs=0.01)
    assert result.n_complete == 5
    described = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert described["s6mwmwp1r"]["Description"] == "Path of mwmwp1r, smoothed by 6 mm FWHM"
    assert described["years"]["Units"] == "years"


@pytest.mark.parametrize("names", naming.NAME_STYLES)
@pytest.mark.parametrize("model", ["plasticity", "ageing", "both"])
def test_the_maps_of_each_model_the_average_and_the_rates(tmp_path, names, model):
    task = replace(person_of(tmp_path), spec=asked(longitudinal=model, names=names)[0])
    storage.write_json(tmp_path / "data" / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.8.0"})
    outcomes = run_task(task)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    models = {"plasticity": ("plasticity",), "ageing": ("ageing",)}.get(model, ("plasticity", "ageing"))
    for scan in task.scans:
        kinds = output_kinds((6.0,), models=models)
        assert ("mwp1r" in kinds, "mwmwp1r" in kinds) == ("plasticity" in models, "ageing" in models)
        assert not {"mwp1", "wp1", "s6mwp1"} & set(kinds)
        assert all(naming.output_path(task.out, scan, kind, names).is_file() for kind in kinds)
        expected = light(io.read_scan(scan.path), task.spec, lambda _: None).modulated
        for each in models:
            path = naming.output_path(task.out, scan, map_kinds.modulated_kind(1, each), names)
            share = 0.5 if each == "ageing" else 1.0
            torch.testing.assert_close(io.read_volume(path).data[0], share * expected.data[0], atol=1e-3, rtol=0)
    person = naming.Scan(task.scans[0].path, "sub-1", "sub-1")
    for kind in ("avg", "rate1", "rate2"):
        assert naming.output_path(task.out, person, kind, names).is_file()
    average, rate = (nib.load(naming.output_path(task.out, person, kind, names)) for kind in ("avg", "rate1"))
    assert (int(average.header["sform_code"]), int(rate.header["sform_code"])) == (1, 4)
    known = [light(io.read_scan(scan.path), task.spec, lambda _: None).modulated.data[0] for scan in task.scans]
    stored = io.read_volume(naming.output_path(task.out, person, "rate1", names)).data[0]
    torch.testing.assert_close(stored, (known[1] - known[0]) * 1e-5, atol=2e-7, rtol=0)
    if names == "bids":
        about = storage.read_json(task.out / "sub-1" / "anat" / "sub-1_desc-average_T1w.json")
        assert about == {"Description": about["Description"], "Sources": [
            f"bids:raw:sub-1/ses-{n}/anat/sub-1_ses-{n}_T1w.nii.gz" for n in (1, 2)]}  # fmt: skip
    record = storage.read_json(naming.output_path(task.out, task.scans[1], "sidecar", names))
    assert record["longitudinal"]["models"] == list(models)
    assert [entry["scan"] for entry in record["longitudinal"]["scans"]] == ["sub-1_ses-1_T1w", "sub-1_ses-2_T1w"]
    assert all(len(entry["sha256"]) == 64 for entry in record["longitudinal"]["scans"])
    assert record["longitudinal"]["years"] == [0.0, 2.0]
    assert left_behind(task.out) == [task.out / FOLDER]


def test_a_finished_person_is_resumed_and_goes_to_other_processes(tmp_path):
    task = person_of(tmp_path)
    outcomes = run_task(task)
    assert [list(outcome.seconds) for outcome in outcomes] == [["read", "person", "write"]] * 2
    again = run_task(pickle.loads(pickle.dumps(task)))  # noqa: S301
    assert [outcome.status for outcome in again] == ["resumed", "resumed"]
    assert task.finished() == {outcome.scan: outcome.completed for outcome in outcomes}
    assert task.finished() == {outcome.scan: outcome.completed for outcome in again}
    forced = replace(task, execution=replace(task.execution, force=True))
    assert forced.finished() == {}
    assert [outcome.status for outcome in run_task(forced)] == ["done", "done"]


@pytest.mark.parametrize(
    "lost", ["mri/avg_sub-1.nii.gz", "mri/rate2_sub-1.nii.gz", "report/vbmstat_sub-1_ses-1_T1w.json"]
)
def test_a_person_is_complete_only_with_all_its_files(tmp_path, lost):
    task = person_of(tmp_path)
    run_task(task)
    (task.out / lost).unlink()
    assert task.finished() == {}
    assert [outcome.status for outcome in run_task(task)] == ["done", "done"]
    assert len(task.finished()) == 2


def test_further_widths_are_made_of_the_modulated_maps_of_both_models(tmp_path):
    task = person_of(tmp_path)
    run_task(task)
    wider = replace(
        task, spec=replace(task.spec, fwhm_mm=(8.0,)), execution=replace(task.execution, process_person=None)
    )
    outcomes = run_task(wider)
    assert [outcome.completed.fwhm_mm for outcome in outcomes] == [(6.0, 8.0)] * 2
    both = [io.read_volume(task.out / "mri" / f"s8{kind}sub-1_ses-2_T1w.nii.gz").data for kind in ("mwp1r", "mwmwp1r")]
    torch.testing.assert_close(both[1], both[0] / 2, atol=2e-3, rtol=0)


def test_a_session_more_or_less_makes_the_person_run_again_and_says_so(tmp_path, caplog):
    folder, out = write_people(tmp_path / "data", {"sub-1": 2, "sub-2": 2}), tmp_path / "out"
    preprocess(folder, out)
    write_people(folder, {"sub-1": 3})
    with caplog.at_level(logging.WARNING):
        preprocess(folder, out)
    assert (
        "sub-1 is run again: its scans are sub-1_ses-1_T1w, sub-1_ses-2_T1w, sub-1_ses-3_T1w, and were" in caplog.text
    )
    assert "sub-2 is run again" not in caplog.text
    assert table_of(out)["time_points"].tolist() == [3, 3, 3, 2, 2]
    shutil.rmtree(folder / "sub-1" / "ses-3")
    caplog.clear()
    preprocess(folder, out)
    assert "left out of cohort.tsv, as the other sessions" in caplog.text
    assert table_of(out)["time_points"].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("names", naming.NAME_STYLES)
def test_a_person_of_whom_one_session_is_left_keeps_no_average_and_no_rates(tmp_path, names):
    """They once stayed, beside maps that were made without them."""
    folder, out = write_people(tmp_path / "data", {"sub-1": 2, "sub-2": 2}), tmp_path / "out"
    for person in ("sub-1", "sub-2"):
        write_dates(folder, person, "age", [70, 72.5])
    preprocess(folder, out, names=names)
    person = naming.Scan(folder, "sub-1", "sub-1")
    of_person = [naming.output_path(out, person, kind, names) for kind in ("avg", "rate1", "rate2")]
    assert all(path.is_file() for path in of_person)
    before = {path for path in out.rglob("*") if path.is_file()}
    shutil.rmtree(folder / "sub-1" / "ses-2")
    preprocess(folder, out, names=names)
    gone = {path.name for path in before if not path.is_file()}
    assert {path.name for path in of_person} <= gone
    assert not any("sub-2" in name for name in gone)
    assert table_of(out)["time_points"].tolist() == [1, 2, 2]


def test_new_dates_make_the_rates_without_dates_none_stay(tmp_path, caplog):
    folder, out = write_people(tmp_path / "data", {"sub-1": 2}), tmp_path / "out"
    preprocess(folder, out)
    assert not (out / "mri" / "rate1_sub-1.nii.gz").exists()
    assert "no yearly rates, only maps, for 1 of 1 people: sub-1 (no date or age of ses-1, ses-2)" in caplog.text
    write_dates(folder, "sub-1", "age", [70, 72.5])
    preprocess(folder, out)
    assert "sub-1 is run again: the dates of its sessions have changed" in caplog.text
    assert (out / "mri" / "rate1_sub-1.nii.gz").exists()
    (folder / "sub-1" / "sub-1_sessions.tsv").unlink()
    preprocess(folder, out)
    assert not (out / "mri" / "rate1_sub-1.nii.gz").exists()


def test_another_model_says_that_it_replaces_maps(tmp_path, caplog):
    folder, out = write_people(tmp_path / "data", {"sub-1": 2}), tmp_path / "out"
    preprocess(folder, out)
    caplog.clear()
    preprocess(folder, out, longitudinal="plasticity")
    assert "sub-1 is run again: its maps of plasticity and ageing are replaced by those of plasticity" in caplog.text
    assert not (out / "mri" / "mwmwp1rsub-1_ses-1_T1w.nii.gz").exists()


def test_single_scans_of_an_earlier_run_are_replaced_without_leftovers(tmp_path):
    folder, out = write_people(tmp_path / "data", {"sub-1": 2}), tmp_path / "out"
    preprocess(folder, out, longitudinal=None)
    assert (out / "mri" / "s6mwp1sub-1_ses-1_T1w.nii.gz").is_file()
    preprocess(folder, out)
    assert not (out / "mri" / "s6mwp1sub-1_ses-1_T1w.nii.gz").exists()
    assert table_of(out)["time_points"].tolist() == [2, 2]


def test_a_person_that_fails_names_the_scan_and_the_others_go_on(tmp_path):
    folder = write_people(tmp_path / "data", {"sub-1": 3, "sub-2": 2, "sub-3": 2}, {"sub-1_ses-2": STRANGER})
    (folder / "sub-3" / "ses-1" / "anat" / "sub-3_ses-1_T1w.nii.gz").write_bytes(b"broken")
    out = tmp_path / "out"
    result = preprocess(folder, out)
    assert result.n_complete == 2
    reasons = read_failures(out).set_index("scan")["reason"]
    assert list(reasons.index) == [
        "sub-1_ses-1_T1w", "sub-1_ses-2_T1w", "sub-1_ses-3_T1w", "sub-3_ses-1_T1w", "sub-3_ses-2_T1w",
    ]  # fmt: skip
    stranger = "sub-1_ses-2_T1w and sub-1_ses-3_T1w: not the same head as the other scans"
    assert reasons["sub-1_ses-2_T1w"] == reasons["sub-1_ses-3_T1w"] == stranger
    assert reasons["sub-1_ses-1_T1w"] == f"sub-1_ses-1_T1w: not made, as another scan of sub-1 failed ({stranger})"
    assert "sub-3_ses-1_T1w.nii.gz: " in reasons["sub-3_ses-1_T1w"]
    assert reasons["sub-3_ses-2_T1w"].startswith("sub-3_ses-2_T1w: not made, as another scan of sub-3 failed (/")
    assert left_behind(out) == []
    stopped = preprocess(folder, out, stop_on_first_failure=True)
    assert (stopped.is_whole, len(stopped.failures)) == (False, 3)
    assert table_of(out).index.get_level_values(0).tolist() == ["sub-2", "sub-2"]


def test_a_person_of_whom_another_process_has_a_scan_is_busy(tmp_path):
    task = person_of(tmp_path)
    held = claim(task.out, task.scans[1].stem)
    assert [outcome.status for outcome in run_task(task)] == ["busy", "busy"]
    held.release()
    assert [outcome.status for outcome in run_task(task)] == ["done", "done"]


@pytest.mark.parametrize("n_renamed", [1, 20, 43])
def test_whenever_the_renaming_is_cut_short_the_person_counts_as_incomplete(tmp_path, n_renamed):
    task = person_of(tmp_path)
    older = replace(task, parameters={"older": True})
    run_task(older)
    with cut_short(n_renamed):
        run_task(task)
    assert task.finished() == older.finished() == {}
    left = [storage.read_json(path) for path in naming.find_sidecars(task.out)]  # none beside files of another run
    assert not any(record["parameters"] for record in left)
    assert [outcome.status for outcome in run_task(task)] == ["done", "done"]


@pytest.mark.parametrize("model", ["plasticity", "ageing"])
def test_the_picture_of_a_person_shows_the_change_from_the_first_to_the_last_scan(tmp_path, monkeypatch, model):
    drawn = []
    monkeypatch.setattr("vbmstat.batch.person.draw_change", draw_change)
    monkeypatch.setattr("vbmstat.figures.publication.stat_map_figure", lambda *given: drawn.append(given) or Figure())
    task = replace(person_of(tmp_path, 3, years=(0.0, 1.0, 2.5)), spec=asked(longitudinal=model)[0])
    assert [outcome.status for outcome in run_task(task)] == ["done"] * 3
    ((change, title, unit),) = drawn
    assert (title, unit) == ("sub-1: change of grey matter, sub-1_ses-1_T1w to sub-1_ses-3_T1w, 2.5 years", "mL/mL")
    first, *_, last = (light(io.read_scan(scan.path), task.spec, lambda _: None).modulated for scan in task.scans)
    share = 0.5 if model == "ageing" else 1.0  # as light_person makes them
    expected = smooth_map(Volume(share * (last.data - first.data)[:1], first.grid), 6.0)
    torch.testing.assert_close(change.data, expected.data, atol=1e-5, rtol=0)
    assert (task.out / "report" / "vbmchange_sub-1.png").stat().st_size > 100


def test_a_shard_has_all_scans_of_a_person(folder, tmp_path):
    parts = [
        plan.make_plan(folder, tmp_path / "out", *asked(longitudinal="both", shard=(number, 3))).scans
        for number in (1, 2, 3)
    ]
    assert [[scan.stem for scan in part] for part in parts] == [
        ["sub-1_ses-1_T1w", "sub-1_ses-2_T1w"], ["sub-2_ses-1_T1w", "sub-2_ses-2_T1w"], ["sub-3_ses-1_T1w"],
    ]  # fmt: skip


def test_other_scanners_and_heads_are_warned_of(tmp_path, monkeypatch):
    task = person_of(tmp_path)
    for session, software in (("1", "N4"), ("2", "XA30")):
        path = task.scans[int(session) - 1].path
        storage.write_json(path.with_name(f"sub-1_ses-{session}_T1w.json"), {"SoftwareVersions": software})
    first, second = (outcome.completed.row for outcome in run_task(task))
    assert first["scanner_change"] is None
    assert second["scanner_change"] == "software N4 -> XA30"
    assert "other scanner than at the person's first scan (software N4 -> XA30)" in second["qc_warnings"]
    assert second["qc_time_point_r"] == 0.97
    monkeypatch.setattr("vbmstat.batch.person._LEAST_R", 0.98)
    forced = replace(task, execution=replace(task.execution, force=True))
    warnings = run_task(forced)[1].completed.row["qc_warnings"]
    assert "unlike the person's other scans (r = 0.97)" in warnings


def test_a_copy_of_a_scan_as_another_session_is_warned_of(tmp_path):
    task = person_of(tmp_path, 3, years=None)
    shutil.copy(task.scans[0].path, task.scans[2].path)
    warnings = [outcome.completed.row["qc_warnings"] or "" for outcome in run_task(task)]
    assert ["same image as sub-1_ses-1_T1w" in text for text in warnings] == [False, False, True]


def test_people_go_to_any_executor_as_those_of_a_cluster(folder, tmp_path):
    whole = plan.make_plan(folder, tmp_path / "out", *asked(longitudinal="both"))
    result = run.run_plan(whole, Workers(ThreadPoolExecutor, 2))
    assert result.n_complete == 5
    assert set(plan.completed(whole)) == set(whole.scans)


def test_a_time_point_is_run_again_from_its_record(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    preprocess(folder, out)
    sidecar = out / "report" / "vbmstat_sub-1_ses-2_T1w.json"
    (folder / "sub-1" / "sub-1_sessions.tsv").unlink()  # the years are those of the record
    monkeypatch.setattr("vbmstat.batch.person.preprocess_person", asked()[1].process_person)
    compared = rerun.rerun_scan(rerun.read_record(sidecar), sidecar, [folder], tmp_path / "again")
    assert {one.status for one in compared} == {"same bytes"}
    assert "mri/mwmwp1rsub-1_ses-2_T1w.nii.gz" in {one.name for one in compared}


def test_hypointensities_of_time_points_are_written_under_their_names(tmp_path):
    task = person_of(tmp_path)
    task = replace(task, spec=replace(task.spec, wmh=True))
    outcomes = run_task(task)
    assert [outcome.reason for outcome in outcomes] == ["", ""]
    names = {path.name for path in (task.out / "mri").iterdir()}
    assert {f"{kind}sub-1_ses-1_T1w.nii.gz" for kind in ("p7", "wp7r", "mwp7r", "mwmwp7r", "s6mwmwp7r")} <= names
    assert "mwp7sub-1_ses-1_T1w.nii.gz" not in names
    assert pd.notna(outcomes[0].completed.row["wmh_ml"])
