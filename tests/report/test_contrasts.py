"""The part of a page on each contrast."""

from __future__ import annotations

from vbmstat.image import storage
from vbmstat.report.model import write_model_report


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
