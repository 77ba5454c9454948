"""Which scans are a person's sessions, and when they were made."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.batch.light import light, light_person, write_dates, write_people
from vbmstat.batch import run
from vbmstat.batch.visits import in_order_of_time, people_of, read_subjects, rows_by_session, scanner_changes
from vbmstat.errors import ScanError, TableError
from vbmstat.files.search import Inputs, find_inputs
from vbmstat.image import storage


def scans_of(folder, n_sessions=2):
    return find_inputs([write_people(folder, {"sub-01": n_sessions})]).scans


def years_of(scans, table=None):
    ordered, years, why = in_order_of_time(scans, rows_by_session(table))
    return [scan.session_id for scan in ordered], years, why


@pytest.mark.parametrize(
    ("column", "values", "years"),
    [
        ("acq_time", ["2010-01-01T08:30:00", "2011-01-01T23:59:59.000000Z"], (0.0, 365 / 365.25)),
        ("acq_time", ["1867-06-01", "1870-06-01T00:00:00"], (0.0, 1096 / 365.25)),  # moved for privacy; a leap year
        ("scan_date", ["2019-12-31", "2021-01-01"], (0.0, 367 / 365.25)),
        ("age", [70.25, 73.5], (0.0, 3.25)),
        ("years", [0, 1.5], (0.0, 1.5)),
    ],
)
def test_years_from_sessions_tsv(tmp_path, column, values, years):
    scans = scans_of(tmp_path)
    write_dates(tmp_path, "sub-01", column, values)
    sessions, found, why = years_of(scans)
    assert (sessions, why) == (["ses-1", "ses-2"], "")
    np.testing.assert_allclose(found, years, atol=1e-4)


def test_the_earliest_scan_is_first_whatever_its_name(tmp_path):
    scans = scans_of(tmp_path, 3)
    write_dates(tmp_path, "sub-01", "age", [72, 70, 71])
    assert years_of(scans) == (["ses-2", "ses-3", "ses-1"], (0.0, 1.0, 2.0), "")


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("acq_time", ["2010-01-01", "n/a"], "no date or age of ses-2"),
        (
            "acq_time",
            ["08:30:00", "09:30:00"],
            "no date or age of ses-1, ses-2; 08:30:00 is no date such as 2003-12-31",
        ),
        (
            "date",
            ["2003-12-01", "31.12.2004"],
            "no date or age of ses-2; 31.12.2004 is no date such as 2003-12-31",
        ),
        ("acq_time", ["1900-01-01", "1900-01-01"], "date: the sessions are 0 years apart"),
        ("acq_time", ["1900-01-01", "2010-01-01"], "date: the sessions are 110 years apart"),
        ("handedness", ["r", "r"], "no date or age of ses-1, ses-2"),
    ],
)
def test_times_that_cannot_be_used(tmp_path, column, values, why):
    scans = scans_of(tmp_path)
    write_dates(tmp_path, "sub-01", column, values)
    sessions, years, found = years_of(scans)
    assert (sessions, years) == (["ses-1", "ses-2"], None)
    assert found == why


def test_dates_of_scans_tsv_and_of_the_users_table(tmp_path):
    scans = scans_of(tmp_path)
    for session, day in (("ses-1", "2010-01-01"), ("ses-2", "2010-07-02")):
        pd.DataFrame({"filename": [f"anat/sub-01_{session}_T1w.nii.gz"], "acq_time": [f"{day}T10:00:00"]}).to_csv(
            tmp_path / "sub-01" / session / f"sub-01_{session}_scans.tsv", sep="\t", index=False
        )
    assert years_of(scans)[1] == pytest.approx((0.0, 182 / 365.25), abs=1e-4)
    long = pd.DataFrame({"p": ["01", "01"], "s": ["1", "2"], "age": [30.0, 31.5]}).set_index(["p", "s"])
    assert years_of(scans, long)[1] == pytest.approx((0.0, 182 / 365.25), abs=1e-4)  # dates before ages
    for path in tmp_path.rglob("*_scans.tsv"):
        path.unlink()
    assert years_of(scans, long)[1] == (0.0, 1.5)
    one_age = pd.DataFrame({"p": ["sub-01"], "s": [""], "age": [30.0]}).set_index(["p", "s"])
    assert years_of(scans, one_age)[2] == "no date or age of ses-1, ses-2"


def test_times_of_two_columns_are_not_mixed(tmp_path):
    """Dates of the user's table for one session and, moved for privacy, of sessions.tsv for the other."""
    scans = scans_of(tmp_path)
    long = pd.DataFrame({"p": ["01", "01"], "s": ["1", "2"], "date": ["2010-01-01", None]}).set_index(["p", "s"])
    write_dates(tmp_path, "sub-01", "acq_time", ["1990-01-01", "1991-01-01"])
    assert years_of(scans, long)[1] == (0.0, 0.9993)
    write_dates(tmp_path, "sub-01", "acq_time", ["n/a", "1991-01-01"])
    assert years_of(scans, long)[1:] == (None, "no date or age of the same kind for all sessions")


def test_sessions_are_grouped_and_second_runs_of_a_session_left_out(tmp_path):
    names = [
        "sub-2_ses-10_T1w", "sub-2_ses-2_T1w", "sub-1_run-1_T1w", "sub-1_run-2_T1w", "sub-2_ses-2_run-2_T1w",
        "sub-3_ses-1_T1w",
    ]  # fmt: skip
    for name in names:
        (tmp_path / f"{name}.nii").touch()
    inputs, people = people_of(find_inputs([tmp_path]))
    assert [[scan.stem for scan in scans] for scans in people] == [
        ["sub-1_run-1_T1w"], ["sub-1_run-2_T1w"], ["sub-2_ses-2_T1w", "sub-2_ses-10_T1w"], ["sub-3_ses-1_T1w"],
    ]  # fmt: skip
    (why,) = inputs.skipped.values()
    assert why == "second scan of ses-2; longitudinal: one a session (sub-2_ses-2_T1w)"
    with pytest.raises(ScanError, match="--longitudinal: no participant has scans of two sessions"):
        people_of(inputs.without(lambda scan: "other" * (scan.session_id == "ses-10")))


def subjects(folder, rows):
    table = folder / "subjects.tsv"
    pd.DataFrame(rows).to_csv(table, sep="\t", index=False)
    return table


def test_a_table_of_subjects_takes_the_place_of_folders(tmp_path, undrawn):
    files = scans_of(tmp_path / "data")
    table = subjects(tmp_path, [
        {"participant_id": "002_S_1", "session_id": session, "path": scan.path.relative_to(tmp_path), "age": age,
         "sex": "f"}
        for session, scan, age in zip(("bl", "m12"), files, (70.0, 71.0), strict=True)
    ])  # fmt: skip
    how = {"device": "cpu", "process": light, "process_person": light_person}
    cohort = run.preprocess(subjects=table, out=tmp_path / "out", longitudinal=True, **how)
    assert cohort.scan_ids == ["sub-002S1_ses-bl", "sub-002S1_ses-m12"]
    assert cohort.table["years"].tolist() == [0.0, 1.0]
    assert cohort.table["sex"].tolist() == ["f", "f"]
    assert "path" not in cohort.table
    assert (tmp_path / "out" / "mri" / "mwp1rsub-002S1_ses-m12_T1w.nii.gz").is_file()
    for places in ({}, {"inputs": tmp_path, "subjects": table}):
        with pytest.raises(TypeError, match="takes inputs or subjects, one of them"):
            run.preprocess(**places)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"participant_id": "a", "file": "x.nii"}],
            "session_id and path .*the table has participant_id, .*file",
        ),
        ([{"participant_id": "a", "path": None}, {"participant_id": "b", "path": "x.nii"}], "no path for a"),
        (
            [{"participant_id": "a-1", "path": "x"}, {"participant_id": "a1", "path": "y"}],
            "ids a-1 .*and a1 .*become equal",
        ),
        (
            [{"participant_id": "a", "session_id": n, "path": path} for n, path in ((1, "x"), (2, "./x"), (3, "y"))],
            "x is the scan of a_1, a_2; expected a file of its own for each",
        ),
    ],
)
def test_tables_of_subjects_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(TableError, match=message):
        read_subjects(subjects(tmp_path, rows))


def test_files_of_a_table_that_are_not_there_are_named_at_once(tmp_path, caplog):
    rows = [{"participant_id": "a", "session_id": n, "path": f"{n}.nii"} for n in (1, 2)]
    (tmp_path / "1.nii").touch()
    read_subjects(subjects(tmp_path, rows))
    assert f"1 of 2 files are not there: {tmp_path / '2.nii'}; paths start from" in caplog.text


def test_ids_that_a_spreadsheet_made_numbers_are_whole(tmp_path):
    """1.0 once became sub-10, and got the covariates of that person."""
    rows = [{"participant_id": 1.0, "session_id": n, "path": f"{n}.nii"} for n in (1.0, 2.0)]
    scans = read_subjects(subjects(tmp_path, rows)).scans
    assert [scan.stem for scan in scans] == ["sub-1_ses-1_T1w", "sub-1_ses-2_T1w"]


def test_changes_of_scanner_and_voxels_since_the_first_scan(tmp_path):
    facts = [
        {"Manufacturer": "Siemens", "ManufacturersModelName": "Trio", "MagneticFieldStrength": 3},
        {"Manufacturer": "Siemens", "ManufacturersModelName": "Prisma", "SoftwareVersions": "XA30"},
        {"Manufacturer": "Siemens", "ManufacturersModelName": "Trio", "MagneticFieldStrength": 3},
    ]
    paths = []
    for n, (content, size) in enumerate(zip(facts, (1.0, 1.0, 1.2), strict=True)):
        paths.append(tmp_path / f"{n}.nii")
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.diag([size, 1, 1, 1])), paths[-1])
        storage.write_json(tmp_path / f"{n}.json", content)
    assert scanner_changes(paths) == ["", "model Trio -> Prisma", "voxel size 1 x 1 x 1 mm -> 1.2 x 1 x 1 mm"]
    assert scanner_changes([tmp_path / "absent.nii"] * 2) == ["", ""]


def test_inputs_keep_their_table(tmp_path):
    table = pd.DataFrame({"age": [1.0]})
    assert Inputs((), {}, table).without(lambda _: "").table is table
