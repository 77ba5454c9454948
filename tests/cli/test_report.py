from __future__ import annotations

from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from vbmstat.cli import app, glm
from vbmstat.image import storage


def test_the_page_and_its_size_are_named(tmp_path) -> None:
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame({"participant_id": ["a", "b"], "gm_ml": [600.0, 700.0]}))
    said = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "page.html")]).output
    page = Path(said.split(" (")[0])
    assert page == tmp_path / "page.html"
    assert page.is_file()
    assert " MB), figures in " in said


def test_glm_writes_its_report_when_asked(tmp_path, monkeypatch, capsys) -> None:
    asked = []

    def write(folder, cohort):
        asked.append(cohort)
        return folder / "report.html"

    monkeypatch.setattr("vbmstat.report.write.write_report", write)
    glm._write_report(tmp_path, None, wanted=False)
    assert capsys.readouterr().out == ""
    for table in (tmp_path / "cohort.tsv", tmp_path / "participants.tsv", None):
        glm._write_report(tmp_path, table, wanted=True)
        assert capsys.readouterr().out == f"report in {tmp_path / 'report.html'}\n"
    assert asked == [tmp_path / "cohort.tsv", None, None]  # only a run's own table tells how the maps were made
