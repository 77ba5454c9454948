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


def test_only_a_runs_own_table_tells_how_the_maps_were_made() -> None:
    table = Path("out/cohort.tsv")
    assert glm.run_table(table, "voxel", None) == table
    assert glm.run_table(table, "voxel", "cat12/mri") is None
    assert glm.run_table(table, "roi", "cat12/mri") == table
    assert glm.run_table(Path("participants.tsv"), "roi", None) is None
