"""An output folder of preprocess as a report reads it."""

from __future__ import annotations

import pandas as pd
from PIL import Image

from tests.report.conftest import N_SCANS, SCRIPT_ID
from vbmstat.files import naming
from vbmstat.image import storage
from vbmstat.report.run_folder import read_preprocessing


def test_what_a_folder_holds(cohort_folder, model_folder) -> None:
    run = read_preprocessing(cohort_folder)
    assert len(run.table) == len(run.sidecars) == N_SCANS
    assert run.covariates == ["age", "sex", "iq"]
    assert run.quality_columns == ["qc_noise_percent", "qc_contrast_percent"]
    assert run.engine_versions == [("classic", "0.1.0")]
    assert run.flags["sub-03"] == "strong <b>noise</b>"
    assert (run.flags != "").sum() == 1
    assert "(1 scan was already skull-stripped and kept its own mask)" in run.methods.paragraphs[0]
    assert run.output(SCRIPT_ID, "picture").name == f"vbmreport_scan{N_SCANS - 1}_T1w.png"
    assert run.output("sub-01", "mwp1") is None
    assert run.fwhm_mm == [6.0]
    assert "smoothed with a Gaussian of 6 mm full width" in run.methods.paragraphs[0]


def test_a_bids_folder_is_understood(tmp_path) -> None:
    scan = naming.Scan(tmp_path / "sub-1_ses-2_T1w.nii.gz", "sub-1_ses-2_T1w", "sub-1", "ses-2")
    picture = naming.output_path(tmp_path, scan, "picture", "bids")
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(picture)
    row = {"participant_id": "sub-1", "session_id": "ses-2", "scan": scan.stem, "tiv_ml": 1.0}
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame([row]))
    assert read_preprocessing(tmp_path).output("sub-1_ses-2", "picture") == picture


def test_a_damaged_sidecar_is_passed_over(cohort_folder, tmp_path) -> None:
    cohort = pd.DataFrame({"participant_id": ["a"], "scan": ["a"], "gm_ml": [600.0]})
    storage.write_table(tmp_path / "cohort.tsv", cohort)
    storage.write_text(tmp_path / "report" / "vbmstat_a.json", "{")
    assert read_preprocessing(tmp_path).sidecars == {}
