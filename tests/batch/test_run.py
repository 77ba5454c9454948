"""A folder of good and bad scans through `preprocess`.

A quick stand-in takes the place of the engine for the good ones (for the cohort table: its result of a simulated scan),
and everything around it is real: reading, refusing, writing, resuming, the tables.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests import hostile
from tests.batch.light import SCAN, light, read_failures, write_scans
from vbmstat.batch import plan, run
from vbmstat.errors import ScanError, TableError, VbmstatError
from vbmstat.files import map_names, naming, search
from vbmstat.files.outputs import output_kinds
from vbmstat.image import io, storage
from vbmstat.metrics import homogeneity
from vbmstat.preproc import pipeline
from vbmstat.preproc.pipeline import preprocess_scan
from vbmstat.tables.cohort import read_cohort

HOSTILE = {
    "sub-bad1": ("gzip cut at 50.0%", "expected a complete image"),
    "sub-bad2": ("2-D", "expected a 3-D image"),
    "sub-bad3": ("4-D, two volumes", "one 3-D volume, got shape"),
    "sub-bad4": ("some NaN", "NaN or infinite"),
    "sub-bad5": ("constant", "every value is 7"),
    "sub-bad6": ("empty image", "every value is 0"),
    "sub-bad7": ("not gzip", "cannot be read"),
    "sub-bad8": ("plain", "field of view of 80 to 600 mm"),  # readable, but no head
}
GOOD = "sub-01_T1w"


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """The stand-in for the good scans; any other goes through the engine."""

    def stand_in(t1w, spec, on_step):
        return (light if t1w.grid.matches(SCAN) else preprocess_scan)(t1w, spec, on_step)

    monkeypatch.setattr(pipeline, "preprocess_scan", stand_in)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Pictures take a second each: only the test of the command draws them."""
    monkeypatch.setattr("vbmstat.batch.derivatives._write_picture", lambda at, *_: storage.write_text(at, "picture"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the good scan only."""
    return write_scans(tmp_path / "scans", 1)


def add_hostile(folder: Path) -> None:
    cases = {case.name: case for case in (*hostile.BAD, *hostile.ODD)}
    for name, (case, _) in HOSTILE.items():
        written = cases[case].write(folder)
        suffix = ".nii.gz" if written.name.endswith(".gz") else written.suffix
        written.rename(folder / f"{name}_T1w{suffix}")


def events(*arguments, **options) -> list[tuple[str, str]]:
    """(scan, what) of each event that ends a scan."""
    told: list[tuple[str, str]] = []
    run.preprocess(*arguments, **options, on_event=lambda e: told.append((e.scan.stem, e.what)))
    return [(scan, what) for scan, what in told if what in ("done", "resumed", "failed")]


def partial_files(out: Path) -> list[Path]:
    return list(out.rglob(".partial-*"))


def test_bad_scans_get_a_line_and_the_good_one_is_done(folder, tmp_path):
    add_hostile(folder)
    out = tmp_path / "out"
    cohort = run.preprocess(folder, out, device="cpu")
    assert cohort.scan_ids == ["sub-01"]
    failures = read_failures(out).set_index("scan")
    assert list(failures.columns) == ["path", "step", "reason"]
    assert sorted(failures.index) == [f"{name}_T1w" for name in sorted(HOSTILE)]
    for name, (_, reason) in HOSTILE.items():
        row = failures.loc[f"{name}_T1w"]
        assert reason in row["reason"]
        assert "\n" not in row["reason"]
        assert name in row["reason"]
        assert row["step"] == "read"
    assert len((out / "failures.tsv").read_text().splitlines()) == 1 + len(HOSTILE)
    assert partial_files(out) == []
    written = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    (scan,) = search.find_inputs([folder / f"{GOOD}.nii.gz"]).scans
    own = {naming.output_path(Path(), scan, kind) for kind in output_kinds((6.0,))}
    own.add(naming.output_path(Path(), scan, "volumes").with_suffix(".json"))
    tables = ("cohort", "failures", "inputs")
    tables = [*(f"{name}.{kind}" for name in tables for kind in ("tsv", "json")), "dataset_description.json"]
    manifests = [path.relative_to(out).as_posix() for path in (out / "logs").glob("manifest-*.json")]
    assert len(manifests) == 1
    assert written == own | {Path(name) for name in (*tables, "logs/status.jsonl", *manifests)}


def test_cohort_table(simulated, tmp_path, preprocessed, monkeypatch):
    monkeypatch.setattr(pipeline, "preprocess_scan", lambda *_: preprocessed)
    run.preprocess(simulated / "sub-01" / "anat", tmp_path / "out", device="cpu")
    table = pd.read_csv(tmp_path / "out" / "cohort.tsv", sep="\t", dtype=str)
    assert list(table.columns[:6]) == ["participant_id", "scan", "tiv_ml", "gm_ml", "wm_ml", "csf_ml"]
    assert {"engine", "vbmstat_version", "mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2", "came_stripped"} <= set(table)
    row = table.iloc[0]
    assert row["participant_id"] == "sub-01"
    assert row["s6mwp1"] == "mri/s6mwp1sub-01_T1w.nii.gz"
    assert float(row["gm_ml"]) == pytest.approx(preprocessed.segmented.volumes_ml[0], abs=1e-3)
    stored = io.read_volume(tmp_path / "out" / row["mwp1"])
    assert stored.sums_ml[0] == pytest.approx(preprocessed.segmented.volumes_ml[0], rel=0.01)


def test_second_run_resumes_and_force_repeats(folder, tmp_path):
    given = {"out": tmp_path / "out", "device": "cpu"}
    assert events(folder, **given) == [(GOOD, "done")]
    assert events(folder, **given) == [(GOOD, "resumed")]
    sidecar = (tmp_path / "out" / "report" / f"vbmstat_{GOOD}.json").read_bytes()
    assert events(folder, **given, force=True) == [(GOOD, "done")]
    assert (tmp_path / "out" / "report" / f"vbmstat_{GOOD}.json").read_bytes() == sidecar
    (tmp_path / "out" / "mri" / f"p1{GOOD}.nii.gz").unlink()
    assert events(folder, **given) == [(GOOD, "done")]


def test_a_changed_input_is_done_again(folder, tmp_path):
    given = {"out": tmp_path / "out", "device": "cpu"}
    events(folder, **given)
    image = nib.load(folder / f"{GOOD}.nii.gz")
    data = np.asanyarray(image.dataobj).copy()
    data[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(data, image.affine), folder / f"{GOOD}.nii.gz")
    assert events(folder, **given) == [(GOOD, "done")]


def test_an_interrupted_scan_is_redone(folder, tmp_path, monkeypatch):
    given = {"out": tmp_path / "out", "device": "cpu"}
    write, n_written = io.write_volume, 0

    def interrupted(*arguments, **options):
        nonlocal n_written
        n_written += 1
        if n_written > 4:
            raise KeyboardInterrupt
        write(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(io, "write_volume", interrupted)
        with pytest.raises(KeyboardInterrupt):
            events(folder, **given)
    assert n_written == 5
    assert not list((tmp_path / "out").rglob("vbmstat_*.json"))
    assert partial_files(tmp_path / "out") == []
    assert events(folder, **given) == [(GOOD, "done")]


def test_a_full_disk_fails_the_scan_in_one_line(folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(io, "write_volume", full)
    with pytest.raises(ScanError, match=r"none of 1 scans could be preprocessed; first reason: .*No space left"):
        run.preprocess(folder, tmp_path / "out", device="cpu")
    assert read_failures(tmp_path / "out")["step"].tolist() == ["write"]


def test_participants_are_joined_by_id(folder, tmp_path, caplog):
    shutil.copy(folder / f"{GOOD}.nii.gz", folder / "sub-02_T1w.nii.gz")
    people = tmp_path / "people.tsv"
    people.write_text("participant_id\tage\nsub-02\t31\nsub-99\t50\n")
    with caplog.at_level(logging.WARNING):
        cohort = run.preprocess(folder, tmp_path / "out", participants=people, device="cpu")
    assert cohort.table.loc[("sub-02", ""), "age"] == 31
    assert pd.isna(cohort.table.loc[("sub-01", ""), "age"])
    assert [r.getMessage() for r in caplog.records] == [
        "no participants row for sub-01; their covariates are missing in cohort.tsv",
        "1 of 2 scans are outliers: sub-02; see qc_warnings in cohort.tsv",  # it is the same image
    ]


def test_a_duplicate_id_is_refused_before_any_work(folder, tmp_path):
    people = tmp_path / "people.tsv"
    people.write_text("participant_id\tage\nsub-01\t31\nsub-01\t50\n")
    with pytest.raises(TableError, match="duplicate id sub-01"):
        run.preprocess(folder, tmp_path / "out", participants=people, device="cpu")
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_session_are_two_rows_with_ids_of_their_own(folder, tmp_path, caplog):
    for number in (1, 2):
        shutil.copy(folder / f"{GOOD}.nii.gz", folder / f"sub-02_ses-1_run-{number}_T1w.nii.gz")
    people = tmp_path / "people.tsv"
    people.write_text("participant_id\tage\nsub-01\t20\nsub-02\t31\n")
    with caplog.at_level(logging.WARNING):
        cohort = run.preprocess(folder, tmp_path / "out", participants=people, device="cpu")
    assert list(cohort.table.index) == [("sub-01", ""), ("sub-02", "ses-1_run-1"), ("sub-02", "ses-1_run-2")]
    assert cohort.table["age"].tolist() == [20, 31, 31]
    assert "several scans of one participant and session: the rows sub-02_ses-1_run-1" in caplog.text
    assert read_cohort(tmp_path / "out" / "cohort.tsv").scan_ids == cohort.scan_ids


def test_bids_names_are_read_back(folder, tmp_path):
    run.preprocess(folder, tmp_path / "out", names="bids", device="cpu")
    maps = map_names.find_maps(tmp_path / "out", 1)
    assert list(maps) == ["sub-01"]
    assert maps["sub-01"].parent == tmp_path / "out" / "sub-01" / "anat"
    assert "desc-modulatedS6_" in maps["sub-01"].name


def test_bids_names_that_collide_are_refused(folder, tmp_path):
    for name in ("a-b", "ab"):
        shutil.copy(folder / f"{GOOD}.nii.gz", folder / f"{name}.nii.gz")
    with pytest.raises(ScanError, match=r"a-b.nii.gz and .*ab.nii.gz would write the same output names"):
        run.preprocess(folder, tmp_path / "out", names="bids", device="cpu")
    assert len(events(folder, out=tmp_path / "out", device="cpu")) == 3


@pytest.mark.parametrize("force", [False, True])
def test_a_later_run_does_not_replace_another_scan_of_the_same_bids_names(folder, tmp_path, force):
    first, second = (tmp_path / f"{name}.nii.gz" for name in ("a-b", "ab"))
    for path in (first, second):
        shutil.copy(folder / "sub-01_T1w.nii.gz", path)
    out, options = tmp_path / "out", {"names": "bids", "device": "cpu", "process": light}
    run.preprocess(first, out, **options)
    sidecar = next(out.rglob("*_provenance.json"))
    before = sidecar.read_bytes()
    with pytest.raises(ScanError, match=r"ab: its outputs would replace those of a-b .*rename the file"):
        run.preprocess(second, out, **options, force=force)
    assert sidecar.read_bytes() == before
    assert run.preprocess(first, out, **options).scan_ids


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"engine": "spm"}, "expected engine classic, .*got 'spm'"),
        ({"names": "fsl"}, "expected names cat12 or bids, got 'fsl'"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_unknown_options(folder, tmp_path, option, message):
    with pytest.raises(VbmstatError, match=message) as caught:
        run.preprocess(folder, tmp_path / "out", **option)
    assert "\n" not in str(caught.value)


def test_a_misspelt_option_is_named_with_the_nearest(folder, tmp_path):
    with pytest.raises(TypeError, match=r"no option .fwhm. \(nearest fwhm_mm"):
        run.preprocess(folder, tmp_path / "out", fwhm=6)


def test_an_output_folder_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(VbmstatError, match=r"cannot create the output folder .* --out"):
        run.preprocess(folder, tmp_path / "file" / "out", device="cpu")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(VbmstatError, match="the output folder is read-only; give another one with --out"):
        run.preprocess(folder, tmp_path / "out", device="cpu")


def test_default_output(simulated, folder):
    assert plan.default_output([simulated]) == simulated / "derivatives" / "vbmstat"
    assert plan.default_output([folder]) == Path("vbmstat-out")


def named(folder: Path, *names: str) -> list[Path]:
    """The good scan under other names."""
    for name in names:
        shutil.copy(folder / f"{GOOD}.nii.gz", folder / f"{name}_T1w.nii.gz")
    return [folder / f"{name}_T1w.nii.gz" for name in names]


@pytest.mark.parametrize("names", naming.NAME_STYLES)
def test_cohort_table_keeps_the_complete_scans_of_earlier_runs(folder, tmp_path, names):
    one, two, three = named(folder, "sub-11", "sub-12", "sub-13")
    out = tmp_path / "out"
    run.preprocess([one, two], out, device="cpu", names=names)
    earlier = read_cohort(out / "cohort.tsv").table
    (scan,) = search.find_inputs([one]).scans
    naming.output_path(out, scan, "p2", names).unlink()
    cohort = run.preprocess([three], out, device="cpu", names=names)
    assert cohort.scan_ids == ["sub-12", "sub-13"]
    stored = read_cohort(out / "cohort.tsv").table
    own = [name for name in stored if name not in ("qc_mean_correlation", "qc_duplicate_of", "qc_warnings")]
    pd.testing.assert_series_equal(stored.loc["sub-12"].iloc[0][own], earlier.loc["sub-12"].iloc[0][own])


def test_a_scan_that_fails_now_is_not_kept_from_an_earlier_run(folder, tmp_path, monkeypatch):
    one, two = named(folder, "sub-11", "sub-12")
    run.preprocess([one, two], tmp_path / "out", device="cpu")
    one.write_bytes(b"broken")
    assert run.preprocess([one, two], tmp_path / "out", device="cpu").scan_ids == ["sub-12"]


def test_covariates_of_earlier_runs_stay(folder, tmp_path):
    one, two, three = named(folder, "sub-11", "sub-12", "sub-13")
    people = tmp_path / "people.tsv"
    people.write_text("participant_id\tage\tsite\nsub-11\t31\tA\nsub-12\t32\tA\n")
    run.preprocess([one, two], tmp_path / "out", participants=people, device="cpu")
    people.write_text("participant_id\tsex\tage\nsub-12\tf\t52\nsub-13\tm\t33\n")
    table = run.preprocess([three], tmp_path / "out", participants=people, device="cpu").table
    assert table["age"].tolist() == [31, 52, 33]  # what the table given now says counts
    assert table["site"].tolist()[:2] == ["A", "A"]
    assert pd.isna(table["site"].iloc[2])
    assert table["sex"].fillna("").tolist() == ["", "f", "m"]


def test_scans_are_compared_with_one_another(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(homogeneity, "LEAST_SCANS", 2)  # for the picture
    scans = named(folder, "sub-11", "sub-12")
    cohort = run.preprocess(scans, tmp_path / "out", device="cpu")
    stored = pd.read_csv(tmp_path / "out" / "cohort.tsv", sep="\t", dtype=str)
    assert stored["qc_duplicate_of"].fillna("").tolist() == ["", "sub-11"]
    first, second = stored["qc_warnings"]
    assert "same image" not in first
    assert second == f"{first}; same image as sub-11: keep one of them"
    assert cohort.table["qc_mean_correlation"].min() == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "out" / "report" / "cohort.png").is_file()
    again = run.preprocess(scans, tmp_path / "out", device="cpu")
    pd.testing.assert_frame_equal(again.table, cohort.table)


def test_a_map_that_cannot_be_compared_stops_nothing(folder, tmp_path, caplog):
    scans = named(folder, "sub-11", "sub-12")
    out = tmp_path / "out"
    run.preprocess(scans, out, device="cpu")
    (out / "mri" / "s6mwp1sub-12_T1w.nii.gz").write_bytes(b"broken")
    assert run.preprocess(scans, out, device="cpu").scan_ids == ["sub-11", "sub-12"]
    assert "scans were not compared with one another" in caplog.text
    assert "s6mwp1sub-12_T1w.nii.gz" in caplog.text
