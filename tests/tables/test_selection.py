"""Who takes part: lists, conditions, exclusions.tsv, further tables; each with its flow."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vbmstat.errors import TableError
from vbmstat.tables.cohort import Cohort, read_cohort
from vbmstat.tables.selection import Selection, is_left_out, select, select_ids

PEOPLE = (
    "participant_id\tsession_id\tage\tqc_image_rating\n"
    "sub-01\tses-1\t20\t80\nsub-01\tses-2\t21\t60\nsub-02\tses-1\t30\tn/a\nsub-03\tses-1\t40\t75\n"
)


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    (tmp_path / "cohort.tsv").write_text(PEOPLE, encoding="utf-8")
    return read_cohort(tmp_path / "cohort.tsv")


def chosen(cohort: Cohort, *folders: Path, **rules) -> Cohort:
    return select(cohort, Selection(**rules).resolved(cohort, folders))


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ("sub-01", ["sub-02_ses-1", "sub-03_ses-1"]), ("01", ["sub-02_ses-1", "sub-03_ses-1"]),
        ("sub-01_ses-2", ["sub-01_ses-1", "sub-02_ses-1", "sub-03_ses-1"]),
        ("01_2,sub-03", ["sub-01_ses-1", "sub-02_ses-1"]),
        (["02", "03_ses-1"], ["sub-01_ses-1", "sub-01_ses-2"]),
    ],
)  # fmt: skip
def test_ids_name_scans_and_people(cohort, ids, left):
    assert chosen(cohort, exclude=ids).scan_ids == left


def test_the_flow_says_how_many_were_left_at_each_step(cohort, tmp_path):
    (tmp_path / "exclusions.tsv").write_text(
        "participant_id\treason\nsub-03\tmotion\nsub-77\ttumour\n", encoding="utf-8"
    )
    found = chosen(cohort, where=["qc_image_rating > 70"])
    assert [(step.name, step.n_left, dict(step.left_out)) for step in found.flow] == [
        ("rows of cohort.tsv", 4, {}),
        ("exclusions.tsv", 3, {"sub-03_ses-1": "motion"}),
        ("--where 'qc_image_rating > 70'", 1,
         {"sub-01_ses-2": "qc_image_rating = 60", "sub-02_ses-1": "no qc_image_rating"}),
    ]  # fmt: skip
    assert found.scan_ids == ["sub-01_ses-1"]
    assert "left out 1 scan by exclusions.tsv: sub-03_ses-1 (motion); 3 are left" in found.notes
    assert "exclusions.tsv: not in the table, so not needed: sub-77" in found.notes
    assert chosen(cohort, exclusions=False).scan_ids == cohort.scan_ids


def test_exclusions_beside_the_maps_count_too_and_once(cohort, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "exclusions.tsv").write_text("participant_id\nsub-02\n", encoding="utf-8")
    found = chosen(cohort, maps, maps / ".." / "maps")
    assert found.scan_ids == ["sub-01_ses-1", "sub-01_ses-2", "sub-03_ses-1"]
    assert [step.name for step in found.flow] == ["rows of cohort.tsv", "exclusions.tsv"]
    in_memory = Cohort(cohort.table, Path())
    assert chosen(in_memory).scan_ids == cohort.scan_ids  # the working folder is no table's folder


@pytest.mark.parametrize("name", ["bad.txt", "bad.csv"])
def test_files_list_ids(cohort, tmp_path, name):
    (tmp_path / name).write_text(
        "# a comment\nsub-01\n" if name.endswith("txt") else "ID,session\n01,ses-2\n", encoding="utf-8"
    )
    n_left = 2 if name.endswith("txt") else 3
    found = chosen(cohort, exclude=str(tmp_path / name))
    assert len(found.scan_ids) == n_left
    assert found.flow[-1].name == name


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ({"exclude": "sub-9"}, r"--exclude: sub-9 not in the table \(nearest to the first: sub-0"),
        ({"exclude": "none.tsv"}, "none.tsv: no such table"), ({"exclude": "none.txt"}, "cannot be read"),
        ({"where": "age > 99"}, "leaves no scan of cohort.tsv"), ({"where": "ag > 9"}, "no column 'ag'.*nearest age"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_meant(cohort, rules, match):
    with pytest.raises(TableError, match=match):
        chosen(cohort, **rules)


def test_maps_of_those_left_out_are_known_by_any_spelling(cohort):
    gone = chosen(cohort, exclude="sub-01").left_out
    assert is_left_out("sub-01_ses-1", gone)
    assert not is_left_out("sub-02_ses-1", gone)
    assert is_left_out("sub-02_ses-1", {"02"})  # a table of people without sub- and sessions


def test_a_further_table_is_joined_by_id(cohort, tmp_path):
    (tmp_path / "tiv.csv").write_text("ID,TIV,age\n03,1600,40\n01,1500,n/a\n", encoding="utf-8")
    found = chosen(cohort, tables=tmp_path / "tiv.csv")
    assert found.table["TIV"].fillna(0).tolist() == [1500, 1500, 0, 1600]
    assert found.table["age"].tolist() == [20, 21, 30, 40]
    assert "tiv.csv: TIV, age joined by id for 3 of 4 scans; not in it: sub-02_ses-1" in found.notes
    (tmp_path / "tiv.csv").write_text("ID,age\n03,41\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"tiv.csv: age of sub-03_ses-1 is 41, but 40 in the other table \(1 scans"):
        chosen(cohort, tables=tmp_path / "tiv.csv")
    (tmp_path / "tiv.csv").write_text("ID,age\nSUB-03,41\n", encoding="utf-8")
    with pytest.raises(TableError, match="no scan has a row in this table"):
        chosen(cohort, tables=tmp_path / "tiv.csv")


def test_volumes_of_spm_are_litres_by_file(cohort, tmp_path):
    """As spm_run_tissue_volumes writes them."""
    rows = "".join(f"'/data/x/sub-0{i}_ses-1_T1w_seg8.mat',6.{i}e-01,5e-01,3e-01\n" for i in (1, 2, 3))
    (tmp_path / "tiv.csv").write_text(f"File,Volume1,Volume2,Volume3\n{rows}", encoding="utf-8")
    found = chosen(cohort, tables=tmp_path / "tiv.csv")
    assert found.table["tiv_ml"].fillna(0).round(6).tolist() == [1410, 0, 1420, 1430]
    (tmp_path / "TIV.txt").write_text("1481.3\t600.1\t500.2\n1500.2\t610.0\t505.1\n", encoding="utf-8")
    with pytest.raises(TableError, match="numbers without ids cannot be joined"):
        chosen(cohort, tables=tmp_path / "TIV.txt")


def test_a_list_whose_last_row_was_deleted_names_nobody(cohort, tmp_path):
    (tmp_path / "bad.tsv").write_text("participant_id\treason\n\n", encoding="utf-8")
    assert len(chosen(cohort, exclude=str(tmp_path / "bad.tsv")).table) == len(cohort.table)


def test_sessions_of_a_list_count_only_where_scans_have_sessions(cohort, tmp_path):
    """A column `session` of people with one row each once left out every session of them."""
    (tmp_path / "bad.tsv").write_text("ID\tvisit\n02\tbaseline\n", encoding="utf-8")
    plain = Cohort(
        cohort.table.iloc[2:].droplevel(1).assign(session_id="").set_index("session_id", append=True), tmp_path
    )
    assert chosen(plain, exclude=str(tmp_path / "bad.tsv")).scan_ids == ["sub-03"]
    with pytest.raises(TableError, match="02_baseline not in the table"):
        chosen(cohort, exclude=str(tmp_path / "bad.tsv"))


def test_ids_alone_are_selected_with_a_table(tmp_path):
    (tmp_path / "t.tsv").write_text("participant_id\tage\n01\t20\n02\t50\n", encoding="utf-8")
    rules = Selection(where="age < 30", tables=tmp_path / "t.tsv")
    assert select_ids(["sub-01", "sub-02"], rules).scan_ids == ["sub-01"]


def test_the_record_names_files_by_their_content(tmp_path):
    (tmp_path / "a.tsv").write_text("participant_id\nsub-01\n", encoding="utf-8")
    record = Selection(exclude=["sub-02", str(tmp_path / "a.tsv")], tables=(tmp_path / "a.tsv",)).record()
    assert record["exclude"][0] == "sub-02"
    assert record["exclude"][1] == record["tables"][0] == {"file": "a.tsv", "sha256": record["tables"][0]["sha256"]}


def test_a_selection_of_a_selection_keeps_the_flow(cohort):
    once = chosen(cohort, exclude="sub-01")
    again = select(once, Selection(where="age > 35", exclusions=False))
    assert [step.n_left for step in again.flow] == [4, 2, 1]
    assert pd.Series(again.scan_ids).tolist() == ["sub-03_ses-1"]


@pytest.mark.parametrize("written", ["SUB-02", "sub-2", "2"])
def test_a_listed_id_in_another_spelling_is_refused(cohort, tmp_path, written):
    """It would only be noted as not needed, and the scan would stay."""
    (tmp_path / "exclusions.tsv").write_text(f"participant_id\n{written}\nsub-03\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"exclusions\.tsv: .* differs in (letter case|leading zeros) only"):
        chosen(cohort)


def test_a_list_in_a_folder_with_a_comma_in_its_name(cohort, tmp_path):
    folder = tmp_path / "Smith, J"
    folder.mkdir()
    (folder / "exclusions.tsv").write_text("participant_id\nsub-02\n", encoding="utf-8")
    assert chosen(cohort, folder).scan_ids == chosen(cohort, exclude="sub-02").scan_ids
