"""The part of a page on each contrast."""

from __future__ import annotations

import pandas as pd

from vbmstat.image import storage
from vbmstat.report.contrasts import _discoveries, _thresholds
from vbmstat.report.model import write_model_report
from vbmstat.report.model_folder import read_model


def test_the_median_is_never_given_a_p(model_page) -> None:
    page = model_page.read_text()
    part = page[page.index("Stability over subsets") : page.index('id="methods"')]
    assert "p =" not in part
    assert "p &lt;" not in part


def test_degrees_of_freedom_stand_beside_their_contrasts(copied, tmp_path) -> None:
    plain = " ".join(write_model_report(copied, tmp_path / "plain.html").read_text().split())
    assert "residual degrees of freedom</p>" in plain or "residual degrees of freedom ·" in plain
    record = storage.read_json(copied / "glm.json")
    record["contrasts"][0]["df"] = 4.25
    storage.write_json(copied / "glm.json", {**record, "n_subsets": 0})
    page = " ".join(write_model_report(copied, tmp_path / "own.html").read_text().split())
    assert "with 4.25 degrees of freedom; " in page
    assert "residual degrees of freedom</p>" not in page
    overview = page[page.index('id="overview"') : page.index('id="scans"')]
    assert ">none</td>" in overview


def test_thresholds_and_regions_with_discoveries(copied) -> None:
    record = storage.read_json(copied / "glm.json")
    thresholds = [{"by": "FDR q = 0.05", "height": None, "voxels": 0}, {"by": "FWE", "height": 5.126, "voxels": 12}]
    inference = {"contrasts": [{"name": "age", "two_sided": True, "thresholds": thresholds}]}
    storage.write_json(copied / "glm.json", {**record, "inference": inference})
    rows = [("a", "Left Insula", 40, 3, 0.075), ("a", "Right Insula", 40, 0, 0.0), ("b", "none", 9, 9, 1.0)]
    columns = ["atlas", "region", "size_voxels", "true_discoveries", "share"]
    storage.write_table(copied / "contrast-age_regions.tsv", pd.DataFrame(rows, columns=columns))
    model = read_model(copied)
    entry = model.record["contrasts"][0]
    [heights], [regions] = _thresholds(model, entry), _discoveries(model, entry)
    assert [[cell.text for cell in row] for row in heights.rows] == [["FDR q = 0.05", "–", "0"], ["FWE", "5.13", "12"]]
    assert heights.columns[1] == "|t|"
    assert [[cell.text for cell in row] for row in regions.rows] == [
        ["Left Insula", "a", "40", "3", "8 %"], ["none", "b", "9", "9", "100 %"],
    ]  # fmt: skip
    assert "regions without one: 1" in regions.caption
