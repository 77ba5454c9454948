"""Tables: ids stay strings, nothing is recoded or dropped, joins are by id alone."""

from __future__ import annotations

import sys
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbmstat.errors import TableError
from vbmstat.tables import cohort


def write(path, text: str, encoding: str = "utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def scans(*ids: str) -> pd.DataFrame:
    """A table of scans with ids such as sub-01 or sub-01_ses-1."""
    index = pd.MultiIndex.from_tuples(
        [(name.split("_")[0], "_".join(name.split("_")[1:])) for name in ids], names=cohort.ID_COLUMNS
    )
    return pd.DataFrame({"tiv_ml": [1500.0 + n for n in range(len(ids))]}, index=index)


def people(tmp_path, text: str) -> pd.DataFrame:
    return cohort.index_by_id(cohort.read_table(write(tmp_path / "participants.tsv", text)), "participants.tsv")


def test_ids_and_codes_stay_text(tmp_path):
    table = cohort.read_table(
        write(tmp_path / "a.tsv", "participant_id\tsession_id\tsite\tage\n001\t1\t01\t30\n002\t2\t02\t31\n")
    )
    assert list(table["participant_id"]) == ["001", "002"]
    assert list(table["session_id"]) == ["1", "2"]
    assert list(table["site"]) == ["01", "02"]
    assert list(table["age"]) == [30, 31]


@pytest.mark.parametrize("name", ["ID", "Subject", "participant_ID", "subject_id", "Subject ID", "sub", "SubjID"])
def test_other_names_of_the_id_column(tmp_path, name):
    table = cohort.read_cohort(write(tmp_path / "a.csv", f"{name},age\n1e2,30\n2e2,31\n")).table
    assert list(table.index) == [("1e2", ""), ("2e2", "")]


def test_byte_order_mark_spaces_and_missing_values(tmp_path):
    text = "participant_id\t age \tnote\n 01 \t n/a \tx\n\n02\t30.5\t\n"
    table = cohort.read_table(write(tmp_path / "a.tsv", text, "utf-8-sig"))
    assert list(table.columns) == ["participant_id", "age", "note"]
    assert list(table["participant_id"]) == ["01", "02"]
    assert table["age"].isna().tolist() == [True, False]
    assert table["age"].iloc[1] == 30.5
    assert table["note"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "participant_id\tage\n01\t30,5\n02\t31\n"),
        ("a.csv", "participant_id;age\n01;30,5\n02;31\n"),
        ("a.CSV", "participant_id;age\n01;30,5\n02;31\n"),
        ("a.csv", "participant_id,age\n01,30.5\n02,31\n"),
        ("a.csv", 'participant_id,age\n01,"30.5"\n02,"31"\n'),
        ("a.csv", "participant_id\tage\n01\t30.5\n02\t31\n"),
        ("a.tsv", "participant_id\tage\r\n01\t30.5\r\n02\t31\r\n"),
    ],
)
def test_separators_and_decimal_commas(tmp_path, name, text):
    assert list(cohort.read_table(write(tmp_path / name, text))["age"]) == [30.5, 31]


def test_a_comma_is_no_decimal_mark_where_it_separates(tmp_path):
    table = cohort.read_table(write(tmp_path / "a.csv", 'participant_id,dose\n01,"1,5"\n02,"2,5"\n'))
    assert list(table["dose"]) == ["1,5", "2,5"]


@pytest.mark.parametrize("word", [".", "#N/A", "None", "<NA>", "#NULL!", "n/a", ""])
@pytest.mark.parametrize("suffix", ["tsv", "xlsx"])
def test_a_word_for_missing_is_one_among_text_as_among_numbers(tmp_path, word, suffix):
    rows = [("sub-1", "30", "M"), ("sub-2", word, word), ("sub-3", "31", "F")]
    frame = pd.DataFrame(rows, columns=["participant_id", "age", "sex"])
    path = tmp_path / f"a.{suffix}"
    frame.to_excel(path, index=False) if suffix == "xlsx" else frame.to_csv(path, sep="\t", index=False)
    table = cohort.read_table(path)
    assert table["age"].fillna(-1).tolist() == [30, -1, 31]
    assert table["sex"].isna().tolist() == [False, True, False]


def test_thousands_are_not_read_as_decimals(tmp_path):
    text = "participant_id;a;b;c\n1;1,502;1.502;0,5\n2;980;2.125;1,5\n"
    read = cohort.read_cohort(write(tmp_path / "a.csv", text))
    assert list(read.table["a"]) == ["1,502", "980"]
    assert list(read.table["c"]) == [0.5, 1.5]
    (note,) = read.notes  # German thousands, or English decimals?
    assert note.startswith("column b: 1.502 is read with a decimal point, though other columns have decimal commas")


@pytest.mark.parametrize("name", ["session", "ses", "Visit", "SES"])
def test_other_names_of_the_session_column(tmp_path, name):
    text = f"participant_id\t{name}\tage\nsub-01\t1\t20\nsub-01\t2\t21\n"
    read = cohort.read_cohort(write(tmp_path / "a.tsv", text))
    assert read.scan_ids == ["sub-01_1", "sub-01_2"]
    assert list(read.table[name]) == [1, 2]  # and a covariate still


def test_a_visit_of_participants_with_one_row_is_a_covariate(tmp_path):
    read = cohort.read_cohort(write(tmp_path / "a.tsv", "participant_id\tvisit\nsub-01\t1\nsub-02\t2\n"))
    assert read.scan_ids == ["sub-01", "sub-02"]


def test_ids_and_names_are_in_composed_unicode(tmp_path):
    text = unicodedata.normalize("NFD", "participant_id\tÅlder\nÅse\t20\nBjörn\t30\n")
    table = cohort.read_cohort(write(tmp_path / "a.tsv", text)).table
    assert list(table.columns) == ["\u00c5lder"]
    assert list(table.index) == [("\u00c5se", ""), ("Bj\u00f6rn", "")]


def test_nothing_is_recoded(tmp_path):
    text = "participant_id\tsex\tgender\tgroup\thandedness\n01\tM\t1\tpatient\tR\n02\tF\t2\tcontrol\t1\n"
    table = cohort.read_table(write(tmp_path / "a.tsv", text))
    assert list(table["sex"]) == ["M", "F"]
    assert list(table["gender"]) == [1, 2]
    assert list(table["group"]) == ["patient", "control"]
    assert list(table["handedness"]) == ["R", "1"]


def test_excel(tmp_path):
    frame = pd.DataFrame({"participant_id": ["001", "002"], "age": [30.5, None], "sex": ["M", "F"]})
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    table = cohort.read_table(tmp_path / "a.xlsx")
    assert list(table["participant_id"]) == ["001", "002"]
    assert table["age"].iloc[0] == 30.5
    assert table["age"].isna().iloc[1]


def test_excel_without_openpyxl(tmp_path, monkeypatch):
    pd.DataFrame({"participant_id": ["001"]}).to_excel(tmp_path / "a.xlsx", index=False)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(TableError, match=r"a\.xlsx: .*pip install openpyxl"):
        cohort.read_table(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected a UTF-8 table"),
        ("participant_id\tage\n", "the table has no rows"),
        ("participant_id\tage\tage\n01\t3\t4\n", "two columns are called 'age'"),
        ("participant_id\tage\n01\t3\t4\n", "expected a UTF-8 table .* line 2"),
        ("name\tage\n01\t3\n", "expected a column participant_id; the table has name, age"),
        ("participant_id\tage\n01\t3\nn/a\t4\n", "no participant_id in line 3"),
        ("participant_id\tage\n01\t3\n02\t1\n01\t4\n", "duplicate id 01; keep one row per scan"),
        ("participant_id\tsession_id\n01\t1\n01\t1\n02\t1\n02\t1\n", "duplicate id 01_1, 02_1"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, match):
    with pytest.raises(TableError, match=match) as caught:
        cohort.read_cohort(write(tmp_path / "a.tsv", text))
    assert str(tmp_path / "a.tsv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(TableError, match="no such table"):
        cohort.read_table(tmp_path / "absent.tsv")
    with pytest.raises(TableError, match="expected a UTF-8 table"):
        cohort.read_table(write(tmp_path / "a.tsv", "participant_id\tname\n01\tMüller\n", "latin-1"))
    with pytest.raises(TableError, match="expected a UTF-8 table"):
        cohort.read_table(write(tmp_path / "a.xlsx", "no workbook"))
    with pytest.raises(TableError, match="expected a UTF-8 table"):
        cohort.read_table(tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_table_or_a_table_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    path.write_bytes(content)
    try:
        cohort.read_cohort(path)
    except TableError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_written_and_read_again(tmp_path):
    table = scans("sub-01_ses-1", "sub-01_ses-2", "sub-02")
    table["site"], table["sex"], table["s6mwp1"] = ["01", "02", "01"], ["M", None, "F"], ["mri/a.nii.gz"] * 3
    cohort.write_cohort(tmp_path / "cohort.tsv", cohort.Cohort(table, tmp_path))
    read = cohort.read_cohort(tmp_path / "cohort.tsv")
    pd.testing.assert_frame_equal(read.table, table, check_dtype=False)
    assert read.scan_ids == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]
    assert read.paths("s6mwp1") == [tmp_path / "mri/a.nii.gz"] * 3


def test_session_column_is_left_out_where_there_is_none(tmp_path):
    cohort.write_cohort(tmp_path / "cohort.tsv", cohort.Cohort(scans("sub-01"), tmp_path))
    assert (tmp_path / "cohort.tsv").read_text() == "participant_id\ttiv_ml\nsub-01\t1500.0\n"


def test_paths_that_are_missing(tmp_path):
    table = scans("sub-01", "sub-02").assign(s6mwp1=["a.nii", None])
    with pytest.raises(TableError, match="no s6mwp1 path for sub-02; run preprocess"):
        cohort.Cohort(table, tmp_path).paths("s6mwp1")
    with pytest.raises(TableError, match=r"expected a column 's6mwp2' with map paths; .* \(nearest s6mwp1\)"):
        cohort.Cohort(table, tmp_path).paths("s6mwp2")


def test_join_is_by_id_whatever_the_order(tmp_path):
    participants = people(tmp_path, "participant_id\tage\nsub-03\t33\nsub-01\t31\nsub-99\t99\n")
    joined, without = cohort.join_participants(scans("sub-01", "sub-02", "sub-03"), participants, "participants.tsv")
    assert joined["age"].fillna(-1).tolist() == [31, -1, 33]
    assert joined["tiv_ml"].tolist() == [1500, 1501, 1502]
    assert without == ["sub-02"]
    assert list(joined.columns) == ["age", "tiv_ml"]


def test_a_row_without_session_holds_for_all_sessions(tmp_path):
    text = "participant_id\tsession_id\tage\nsub-01\t\t31\nsub-01\tses-2\t32\nsub-02\tses-1\t4\n"
    participants = people(tmp_path, text)
    joined, without = cohort.join_participants(scans("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-2"), participants, "p")
    assert joined["age"].fillna(-1).tolist() == [31, 32, -1]
    assert without == ["sub-02_ses-2"]


@pytest.mark.parametrize("ids", [("01", "02"), ("sub-01", "sub-02")])
def test_sub_may_be_missing_everywhere(tmp_path, ids):
    participants = people(tmp_path, f"participant_id\tage\n{ids[0]}\t31\n{ids[1]}\t32\n")
    joined, _ = cohort.join_participants(scans("sub-02", "sub-01"), participants, "p")
    assert joined["age"].tolist() == [32, 31]


def test_sub_may_not_be_missing_here_and_there(tmp_path):
    participants = people(tmp_path, "participant_id\tage\n01\t31\nsub-02\t32\n")
    joined, without = cohort.join_participants(scans("sub-01", "sub-02"), participants, "p")
    assert without == ["sub-01"]
    assert joined["age"].iloc[1] == 32


def test_ses_may_be_missing_everywhere(tmp_path):
    participants = people(tmp_path, "participant_id\tsession_id\tage\n01\t1\t31\n01\t2\t32\n")
    joined, without = cohort.join_participants(scans("sub-01_ses-2", "sub-01_ses-1"), participants, "p")
    assert (joined["age"].tolist(), without) == ([32, 31], [])


def test_ids_are_equal_or_they_are_not(tmp_path):
    participants = people(tmp_path, "participant_id\tage\nsub-001\t31\nsub-002\t32\n")
    with pytest.raises(TableError, match=r"p: no scan has a row .*'sub-01', nearest id sub-001"):
        cohort.join_participants(scans("sub-01", "sub-02"), participants, "p")
    numbers = people(tmp_path, "participant_id\tage\n7\t31\n8\t32\n")
    with pytest.raises(TableError, match=r"the table, whose first id is '7' \(first scan 'sub-01', nearest id none\)"):
        cohort.join_participants(scans("sub-01", "sub-02"), numbers, "p")


@pytest.mark.parametrize("ses", ["1", "ses-01", "baseline"])
def test_a_session_of_all_rows_is_not_asked_of_maps_without_one(tmp_path, ses):
    participants = people(tmp_path, f"participant_id\tsession_id\tage\n01\t{ses}\t31\n02\t{ses}\t32\n")
    joined, without = cohort.join_participants(scans("sub-02", "sub-01"), participants, "p")
    assert (joined["age"].tolist(), without) == ([32, 31], [])


def test_sessions_that_differ_are_named(tmp_path):
    participants = people(tmp_path, "participant_id\tsession_id\tage\n01\t1\t31\n01\t2\t32\n")
    with pytest.raises(TableError, match=r"sub-01 has session_id '1', '2' in the table, but none in the map's name"):
        cohort.join_participants(scans("sub-01"), participants, "p")
    with pytest.raises(TableError, match=r"sub-01 has session_id 'ses-1', 'ses-2' in the table, but 'ses-3' in"):
        cohort.join_participants(scans("sub-01_ses-3"), participants, "p")


@pytest.mark.parametrize(
    ("ids", "hint"),
    [
        (("SUB-01", "SUB-02"), "'SUB-01' of the table differs in letter case only; write its ids as the maps'"),
        (("1", "2"), r"'sub-1' of the table differs in leading zeros only; .* do \(format them as text in"),
        (("sub-001", "sub-002"), "'sub-001' of the table differs in leading zeros only"),
        (("sub-a1", "sub-a2"), "participant_id must be equal to the scan's"),
    ],
)
def test_ids_that_differ_in_spelling_are_explained(tmp_path, ids, hint):
    participants = people(tmp_path, f"participant_id\tage\n{ids[0]}\t31\n{ids[1]}\t32\n")
    with pytest.raises(TableError, match=hint):
        cohort.join_participants(scans("sub-01", "sub-02"), participants, "p")


def test_points_among_whole_hundreds_are_noted(tmp_path):
    text = "participant_id\tlesion\ttiv\n01\t2.561\t1.502\n02\t595\t1.601\n03\t843\t1.4\n"
    (note,) = cohort.read_cohort(write(tmp_path / "a.tsv", text)).notes
    assert note == (
        "column lesion: 2.561 is read with a decimal point, though all numbers without one lie from 100 to 999; "
        "leave the point out if it separates thousands"
    )


def test_the_nearest_id_is_one_of_the_table(tmp_path):
    participants = people(tmp_path, "participant_id\tage\nSUB-01\t31\nSUB-02\t32\n")
    with pytest.raises(TableError, match=r"nearest id SUB-01, SUB-02\)"):
        cohort.join_participants(scans("sub-01", "sub-02"), participants, "p")


def test_our_own_volumes_are_kept(tmp_path):
    participants = people(tmp_path, "participant_id\ttiv_ml\tage\nsub-01\t1\t31\n")
    joined, _ = cohort.join_participants(scans("sub-01"), participants, "p")
    assert joined["tiv_ml"].tolist() == [1500]


def test_closest_names():
    assert cohort.closest("aeg", ["age", "sex", "tiv"]) == "age"
    assert cohort.closest("zzzzz", ["age", "sex"]) == ""


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_damaged_excel_tables(tmp_path, content):
    (tmp_path / "people.xlsx").write_bytes(content)
    with pytest.raises(TableError, match=r"people\.xlsx: expected a UTF-8 table"):
        cohort.read_table(tmp_path / "people.xlsx")
