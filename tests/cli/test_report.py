from __future__ import annotations

from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from vbmstat import io
from vbmstat.cli import app


def test_the_page_and_its_size_are_named(tmp_path) -> None:
    io.write_table(tmp_path / "cohort.tsv", pd.DataFrame({"participant_id": ["a", "b"], "gm_ml": [600.0, 700.0]}))
    said = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "page.html")]).output
    page = Path(said.split(" (")[0])
    assert page == tmp_path / "page.html"
    assert page.is_file()
    assert " MB), figures in " in said
