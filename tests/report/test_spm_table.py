"""SPM's table in the page: what SPM prints, where it prints it."""

from __future__ import annotations

import pandas as pd
import pytest

from vbmstat.image import storage
from vbmstat.report.model_folder import Model
from vbmstat.report.page import _environment
from vbmstat.report.spm_table import spm_tables

FIELD = {  # of 51 scans
    "resels": [1, 20, 150, 600], "fwhm_voxels": [6.0, 6.0, 5.0], "df": [1.0, 50.0], "height_at_p_fwe_0.05": 5.18106,
    "voxels": 108000, "voxel_size_mm": [1.5, 1.5, 1.5], "resel_voxels": 180.0, "forming_height": 3.26141,
    "forming_p": 0.001, "forming_p_fwe": 0.99873, "expected_voxels_per_cluster": 18.4221, "expected_clusters": 6.67028,
    "peak_at_q_fdr_0.05": 4.9, "smallest_cluster_at_p_fwe_0.05_voxels": 149,
    "smallest_cluster_at_q_fdr_0.05_voxels": None,
}  # fmt: skip
ENTRY = {"name": "age", "kind": "t", "label": "age"}
ROW = {
    "contrast": "age", "statistic": "t", "set_p": 0.123, "set_c": 2, "cluster": 2, "cluster_p_fwe": 1e-5,
    "cluster_q_fdr": 0.002, "cluster_k_e": 420, "cluster_p_uncorrected": 1e-7, "peak_p_fwe": 0.00049,
    "peak_q_fdr": 0.0123, "peak_value": -7.126, "peak_z": -5.9, "peak_p_uncorrected": 1e-9, "x_mm": -24.0,
    "y_mm": 3.0, "z_mm": 0.0, "search_voxels": 108000, "search_resels": 600.0, "height_p_fwe": 5.181,
}  # fmt: skip
EMPTY = {name: None if name.startswith(("cluster", "peak", "x_", "y_", "z_")) else value for name, value in ROW.items()}


@pytest.fixture
def model(tmp_path):
    rows = [ROW, {**ROW, "peak_value": -5.0}, {**ROW, "cluster": 1}, {**ROW, "contrast": "sex", "set_c": 9}]
    storage.write_table(tmp_path / "spm_table.tsv", pd.DataFrame(rows))
    svc = [{**ROW, "volume": "left <b>"}, {**EMPTY, "volume": "sphere:1,2,3,4", "set_p": 1.0, "set_c": 0}]
    storage.write_table(tmp_path / "svc.tsv", pd.DataFrame(svc))
    return Model(
        tmp_path,
        {"inference": {"contrasts": [{"name": "age", "two_sided": True, "random_field": FIELD}]}},
        pd.DataFrame(),
    )


def test_values_of_a_set_and_of_a_cluster_stand_once(model):
    table = spm_tables(model, ENTRY)[0]
    assert [first for first, _ in table.rows] == [True, False, True]
    cells = [list(row) for _, row in table.rows]
    assert cells[0] == ["0.123", "2", "<0.001", "0.002", "420", "<0.001", "<0.001", "0.012", "−7.13", "−5.90",
                        "<0.001", "−24", "3", "0"]  # fmt: skip
    assert cells[1][:6] == [""] * 6
    assert cells[1][8] == "−5.00"
    assert cells[2][:3] == ["", "", "<0.001"]


def test_the_lines_below_are_spms(model):
    assert spm_tables(model, ENTRY)[0].lines == (
        "Height threshold: T = 3.26, p = 0.001 (0.999)",
        "Extent threshold: k = 0 voxels, p = 1.000 (0.999)",
        "Expected voxels per cluster, <k> = 18.422",
        "Expected number of clusters, <c> = 6.67",
        "FWEp: 5.181, FDRp: 4.900, FWEc: 149, FDRc: Inf",
        "Degrees of freedom = [1.0, 50.0]",
        "FWHM = 9.0 9.0 7.5 mm mm mm; 6.0 6.0 5.0 {voxels}",
        "Volume: 364500 mm³ = 108000 voxels = 600.0 resels",
        "Voxel size: 1.5 1.5 1.5 mm mm mm; (resel = 180.00 voxels)",
    )


def test_small_volumes_have_their_own_tables(model):
    _, left, sphere = spm_tables(model, ENTRY)
    assert left.title.endswith("small volume left <b> (two-sided)")
    assert left.lines == ("Small volume left <b>: 108,000 voxels = 600.0 resels; FWEp: 5.181",)
    assert sphere.rows == ((False, ("1.000", "0", *[""] * 12)),)


def test_nothing_without_random_fields(model):
    assert spm_tables(model, {**ENTRY, "name": "sex"}) == ()
    (model.folder / "svc.tsv").unlink()
    assert len(spm_tables(model, ENTRY)) == 1


def test_the_page_escapes_names(model):
    template = "{% import 'macros.html' as part %}{% for one in spm %}{{ part.spm(one) }}{% endfor %}"
    html = _environment().from_string(template).render(spm=spm_tables(model, ENTRY))
    assert "left &lt;b&gt;" in html
    assert "cluster-level" in html
    assert html.count('<tr class="first">') == 3
