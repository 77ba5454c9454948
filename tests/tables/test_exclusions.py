"""Changes to ``exclusions.tsv``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vbmstat.errors import TableError
from vbmstat.tables.cohort import Cohort, index_by_id
from vbmstat.tables.exclusions import exclude, exclusion_rows, include, read_exclusions
from vbmstat.tables.selection import Selection, select

BY_HAND = "participant_id\twho\treason\n001\tAB\tscanner 1.50\nsub-002\tn/a\tn/a\n"


def cohort(*ids: str, sessions: tuple[str, ...] = ()) -> Cohort:
    table = pd.DataFrame({"participant_id": list(ids), "age": range(len(ids))})
    if sessions:
        table["session_id"] = sessions
    return Cohort(index_by_id(table, "the table"), Path())


def left_out(path: Path, scans: Cohort) -> set[str]:
    """What glm leaves out for this list."""
    return set(select(scans, Selection(exclude=(str(path),), exclusions=False)).left_out)


def test_rows_of_a_person_s_hand_stay_as_they_are(tmp_path):
    path = tmp_path / "exclusions.tsv"
    path.write_text(BY_HAND)
    exclude(path, ("sub-003", ""), "motion")
    assert path.read_text() == BY_HAND + "sub-003\tn/a\tmotion\n"
    include(path, ("sub-003", ""))
    assert path.read_text() == BY_HAND


def test_what_is_saved_is_what_glm_leaves_out(tmp_path):
    path, scans = tmp_path / "exclusions.tsv", cohort("sub-001", "sub-002", "sub-003", "sub-004")
    for scan, why in (("sub-001", "motion"), ("sub-003", "wrong  \n person")):
        exclude(path, (scan, ""), why)
    assert read_exclusions(path, scans) == ({"sub-001": "motion", "sub-003": "wrong person"}, [])
    assert left_out(path, scans) == {"sub-001", "sub-003"}
    exclude(path, ("sub-001", ""), "too young")
    assert read_exclusions(path, scans)[0]["sub-001"] == "too young"
    assert len(exclusion_rows(path)) == 2


def test_one_session_of_several(tmp_path):
    path = tmp_path / "exclusions.tsv"
    scans = cohort("sub-1", "sub-1", "sub-2", "sub-2", sessions=("ses-1", "ses-2", "ses-1", "ses-2"))
    exclude(path, ("sub-1", "ses-2"), "motion")
    assert left_out(path, scans) == {"sub-1_ses-2"}
    exclude(path, ("sub-1", "ses-1"), "noise")
    include(path, ("sub-1", "ses-2"))
    assert left_out(path, scans) == {"sub-1_ses-1"}


def test_a_row_of_the_whole_person_is_not_taken_away_for_one_session(tmp_path):
    path = tmp_path / "exclusions.tsv"
    path.write_text("participant_id\treason\nsub-1\tno consent\n")
    with pytest.raises(TableError, match="the whole participant, so edit the file"):
        include(path, ("sub-1", "ses-1"))
    assert path.read_text().count("sub-1") == 1


def test_spellings_of_one_id_are_one_row(tmp_path):
    path = tmp_path / "exclusions.tsv"
    path.write_text("participant_id\treason\n01\tby hand\n")
    exclude(path, ("sub-01", ""), "motion")
    assert path.read_text() == "participant_id\treason\n01\tmotion\n"
    include(path, ("sub-01", ""))
    assert not path.exists()  # a table without rows would be refused


def test_what_cannot_be_saved_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "exclusions.tsv"
    with pytest.raises(TableError, match="a reason"):
        exclude(path, ("sub-1", ""), " \n ")
    assert not path.exists()
    with pytest.raises(TableError, match="no such scan"):
        include(path, ("sub-1", ""))
    for content in ("participant_id;reason\nsub-1;x\n", "who\treason\nsub-1\tx\n"):
        path.write_text(content)
        with pytest.raises(TableError, match="participant_id and reason with tabs"):
            exclude(path, ("sub-2", ""), "motion")
        assert path.read_text() == content


def test_of_no_file_there_are_no_rows(tmp_path):
    assert exclusion_rows(tmp_path / "exclusions.tsv") == []
    assert read_exclusions(tmp_path / "exclusions.tsv", cohort("a")) == ({}, [])
