from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.report.conftest import N_SCANS
from vbmstat.files import runlog
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.report import preprocessing
from vbmstat.report.preprocessing import pictured_scans, unusual_values, write_preprocessing_report
from vbmstat.report.run_folder import read_preprocessing


def test_values_far_from_the_cohort_are_found_by_their_robust_z() -> None:
    values = [1.0, 2, 3, 4, 5, 6, 7, 8, 60]
    table = pd.DataFrame({"qc_bias_percent": values, "qc_even": 1.0, "qc_tiv_z": values}, index=list("abcdefghi"))
    found = unusual_values(table)
    assert found["i"] == "bias percent (z = 18.5)"  # (60 - 5) / (1.4826 * 2), by hand
    assert (found[:-1] == "").all()
    assert (unusual_values(table[-7:]) == "").all()  # too few to judge


def test_a_page_of_a_large_cohort_shows_all_marked_scans_and_an_even_sample() -> None:
    scans = [f"s{n}" for n in range(1000)]
    marked = np.zeros(1000, dtype=bool)
    marked[[500, 999]] = True
    shown = pictured_scans(scans, marked, limit=100)
    assert len(shown) == 100
    assert {"s500", "s999", "s0", "s998"} <= set(shown)
    assert np.diff([int(name[1:]) for name in shown]).max() < 15
    all_marked = pictured_scans(scans, ~marked, limit=100)
    assert len(all_marked) <= 100
    assert {"s500", "s999"} <= set(all_marked)


def test_equal_runs_have_equal_pages_whatever_time_they_took(cohort_folder, tmp_path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        shutil.copytree(cohort_folder, folder)
        runlog.append(folder / "logs" / "status.jsonl", {"scan": "scan0_T1w", "seconds": {"warp": 1.0 + number}})
        write_preprocessing_report(folder, folder / "report.html")
    one, two = ({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
                 and path.parent.name != "logs"} for folder in folders)  # fmt: skip
    assert Path("report.html") in one
    assert [name for name in one if one[name] != two[name]] == []


def test_only_so_many_pictures_go_into_a_page(cohort_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preprocessing, "pictured_scans", lambda scans, marked: pictured_scans(scans, marked, limit=6))
    page = write_preprocessing_report(cohort_folder, tmp_path / "few.html").read_text()
    assert page.count("data:image/jpeg") == 6
    assert "The other 8 are in the folder" in " ".join(page.split())


def test_the_page_tells_the_run(run_page) -> None:
    page = run_page.read_text()
    assert "&lt;img src=x onerror=alert(1)&gt; no image" in page
    assert "<b>noise" not in page
    assert f"<b>{N_SCANS + 1}</b><span>scans found" in page
    assert f"{0:064d}" in page  # hash of the first input
    assert "gm ml (z = " in page
    assert (run_page.parent / "figures" / "quality.svg").is_file()


def test_one_scan_is_compared_with_none(cohort_folder, tmp_path) -> None:
    shutil.copytree(cohort_folder / "report", tmp_path / "report")
    first = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t").head(1)
    first.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    page = write_preprocessing_report(tmp_path, tmp_path / "report.html").read_text()
    assert "Preprocessing of 1 scan" in page
    assert not (tmp_path / "figures" / "quality.svg").exists()


def test_an_older_table_without_sidecars_will_do(tmp_path) -> None:
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame({"participant_id": ["a", "b"], "gm_ml": [600.0, 700.0]}))
    page = write_preprocessing_report(tmp_path, tmp_path / "report.html").read_text()
    assert "Preprocessing of 2 scans" in page


def test_participants_with_several_scans_count_once(tmp_path) -> None:
    rows = {
        "participant_id": list("aab"),
        "session_id": list("121"),
        "sex": list("FFM"),
        "gm_ml": [600.0, 590, 700],
    }
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame(rows))
    page = write_preprocessing_report(tmp_path, tmp_path / "report.html").read_text()
    assert "Preprocessing of 3 scans of 2 participants" in page
    table = page[page.index("Participants and volumes, each by the first scan") :]
    assert "all (n = 2)" in table
    assert "650" in table[: table.index("</table>")]


def test_changes_are_those_of_the_last_scans(tmp_path) -> None:
    rows = {
        "participant_id": list("aab"), "session_id": list("121"), "gm_ml": [600.0, 590, 700],
        "years": [0.0, 2.5, None], "gm_change_percent": [0.0, -1.75, None], "scanner_change": [None] * 3,
    }  # fmt: skip
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame(rows))
    page = write_preprocessing_report(tmp_path, tmp_path / "report.html").read_text()
    table = page[page.index("years and changes by the last") :]
    table = table[: table.index("</table>")]
    assert "-1.75" in table.replace("\u2212", "-")
    assert "scanner_change" not in table


def test_lesions_have_columns_a_frequency_map_and_words(cohort_folder, tmp_path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(cohort_folder, folder)
    table = pd.read_csv(folder / "cohort.tsv", sep="\t", dtype={"participant_id": str})
    table = table.drop(columns="iq", errors="ignore")  # there once another test has fitted its model
    table["wmh_ml"], table["wmh_detectable"], table["wmh_as"] = np.linspace(0.1, 9, len(table)), "True", "wm"
    table.loc[0, "wmh_detectable"] = "False"
    table["lesion_ml"] = [31.5] + [np.nan] * (len(table) - 1)
    storage.write_table(folder / "cohort.tsv", table)
    grid = Grid((20, 24, 20), np.array([[9.0, 0, 0, -84], [0, 9, 0, -120], [0, 0, 9, -72], [0, 0, 0, 1]]))
    for stem in table["scan"]:
        data = torch.zeros(1, *grid.shape)
        data[0, 8:11, 10:14, 9:12] = 1
        io.write_volume(folder / "mri" / f"wp7{stem}.nii.gz", Volume(data, grid))
    run = read_preprocessing(folder)
    assert run.covariates == ["age", "sex"]
    assert {"wmh_ml", "lesion_ml"} <= set(run.volumes)
    words = " ".join(run.methods.paragraphs)
    assert "White-matter hypointensities were segmented from the T1-weighted scans and counted as white matter" in words
    assert "1 scan had a lesion mask; these voxels were left out of the bias field" in words
    page = write_preprocessing_report(folder, folder / "report.html").read_text()
    assert "Frequency of white-matter hypointensities over the scans. 1 scans are below what can be detected." in page
    assert (folder / "figures" / "lesion_frequency.png").is_file()
