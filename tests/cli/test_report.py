from __future__ import annotations

from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from vbmstat import io
from vbmstat.cli import app, glm


def test_the_page_and_its_size_are_named(tmp_path) -> None:
    io.write_table(tmp_path / "cohort.tsv", pd.DataFrame({"participant_id": ["a", "b"], "gm_ml": [600.0, 700.0]}))
    said = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "page.html")]).output
    page = Path(said.split(" (")[0])
    assert page == tmp_path / "page.html"
    assert page.is_file()
    assert " MB), figures in " in said


def test_glm_writes_its_report_when_asked(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("vbmstat.report.write.write_report", lambda folder: folder / "report.html")
    glm._write_report(tmp_path, wanted=False)
    assert capsys.readouterr().out == ""
    glm._write_report(tmp_path, wanted=True)
    assert capsys.readouterr().out == f"report in {tmp_path / 'report.html'}\n"
