"""Covariates of a batch; what becomes of them is tested with whole runs in test_run.py."""

from __future__ import annotations

import pandas as pd

from vbmstat.batch.collect import People


def test_participants_json_describes_the_covariates_of_a_batch(tmp_path):
    people = People(pd.DataFrame(), str(tmp_path / "participants.tsv"))
    assert people.descriptions() == {}
    words = tmp_path / "participants.json"
    words.write_text('{"bdi": {"Units": "points"}, "comment": "not a column"}')
    assert people.descriptions() == {"bdi": {"Units": "points"}}
    for broken in ("{broken", "[1]"):
        words.write_text(broken)
        assert people.descriptions() == {}
