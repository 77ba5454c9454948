"""Covariates of a batch; what becomes of them is tested with whole runs in test_run.py."""

from __future__ import annotations

import pandas as pd

from vbmstat.batch.collect import People, _with_people


def test_participants_json_describes_the_covariates_of_a_batch(tmp_path):
    people = People(pd.DataFrame(), str(tmp_path / "participants.tsv"))
    assert people.descriptions() == {}
    words = tmp_path / "participants.json"
    words.write_text('{"bdi": {"Units": "points"}, "comment": "not a column"}')
    assert people.descriptions() == {"bdi": {"Units": "points"}}
    for broken in ("{broken", "[1]"):
        words.write_text(broken)
        assert people.descriptions() == {}


def test_a_covariate_of_the_name_of_our_own_column_is_not_lost_without_a_word(caplog):
    ids = pd.MultiIndex.from_tuples([("sub-1", "")], names=["participant_id", "session_id"])
    people = People(pd.DataFrame({"age": [40], "years": [12]}, index=ids), "participants.tsv")
    table = _with_people(pd.DataFrame({"years": [0.0]}, index=ids), people, [])
    assert table.to_dict("list") == {"age": [40], "years": [0.0]}
    assert "columns of participants.tsv that cohort.tsv has of its own are left out: years; rename" in caplog.text
