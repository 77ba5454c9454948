"""Lesions through a run: files, columns, resuming, masks of single scans; and `vbmstat wmh` on a finished folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.batch.light import SCAN, TEMPLATE, light, write_scans
from vbmstat import rerun
from vbmstat.batch import wmh
from vbmstat.batch.finished import FinishedScan
from vbmstat.batch.run import preprocess
from vbmstat.batch.wmh import measure_folder
from vbmstat.cli import app
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.preproc import lesions, pipeline
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.tables.schema import group_names

WMH_COLUMNS = [name for name in group_names("lesions") if name.startswith("wmh_")]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Pictures take a second each."""
    monkeypatch.setattr("vbmstat.batch.derivatives._write_picture", lambda at, *_: storage.write_text(at, "picture"))
    monkeypatch.setattr("vbmstat.batch.wmh._draw", lambda at, *_: storage.write_text(at, "new picture"))


@pytest.fixture
def scans(tmp_path):
    return write_scans(tmp_path / "scans", 2)


def run(scans, out, **fields) -> pd.DataFrame:
    return preprocess(scans, out, PreprocSpec(device="cpu", **fields), process=light).table


@pytest.mark.parametrize("names", ["cat12", "bids"])
def test_maps_mask_tables_and_columns_of_hypointensities(scans, tmp_path, names):
    out = tmp_path / "out"
    table = run(scans, out, wmh=True, names=names)
    scan = naming.Scan(scans / "x", "sub-01_T1w", "sub-01")
    kinds = ["p7", "mask7", "wp7", "mwp7", "s6mwp7", "wmh_volumes"]
    paths = {kind: naming.output_path(out, scan, kind, names) for kind in kinds}
    assert all(path.is_file() for path in paths.values())
    share, mask = io.read_volume(paths["p7"]), io.read_volume(paths["mask7"])
    assert share.grid.matches(SCAN)
    assert torch.equal(mask.data, (share.data > 0.5).float())
    row = table.loc[("sub-01", "")]
    assert row["wmh_ml"] == pytest.approx(share.sums_ml[0], rel=1e-3)  # p7 is uint8
    volumes = pd.read_csv(paths["wmh_volumes"], sep="\t")
    assert volumes["wmh_ml"].sum() == pytest.approx(row["wmh_ml"], abs=1e-3)
    assert set(WMH_COLUMNS) <= set(table)
    assert row["wmh_as"] == "wm"
    assert (out / row["mwp7"]) == paths["mwp7"]
    assert (out / row["s6mwp7"]) == paths["s6mwp7"]
    assert json.loads((out / "cohort.json").read_text())["wmh_ml"]["Units"] == "mL"
    if names == "bids":
        about = json.loads(paths["mask7"].with_suffix("").with_suffix(".json").read_text())
        assert about["Type"] == "Lesion"


def test_without_the_wish_there_is_nothing_of_it(scans, tmp_path):
    table = run(scans, tmp_path / "out")
    assert not set(group_names("lesions")) & set(table)
    assert not list((tmp_path / "out").rglob("*7sub*"))


def test_a_run_resumes_adds_widths_and_removes_what_it_no_longer_makes(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out, wmh=True)
    before = (out / "mri" / "mwp7sub-01_T1w.nii.gz").stat().st_mtime_ns
    table = run(scans, out, wmh=True, fwhm_mm=(6, 8))
    assert (out / "mri" / "mwp7sub-01_T1w.nii.gz").stat().st_mtime_ns == before
    assert "s8mwp7" in table
    assert (out / "mri" / "s8mwp7sub-02_T1w.nii.gz").is_file()
    table = run(scans, out)
    assert not list(out.rglob("*7sub*"))
    assert not set(WMH_COLUMNS) & set(table)


def test_what_cannot_be_measured_has_empty_columns_a_warning_and_tissue_maps(scans, tmp_path):

    def unmeasured(t1w, spec, on_step):
        result = light(t1w, PreprocSpec(device="cpu"), on_step)
        object.__setattr__(result.segmented, "lesions", lesions.Lesions(spec.lesion_plan(), notes=("not measured",)))
        return result

    out = tmp_path / "out"
    table = preprocess(scans, out, PreprocSpec(device="cpu", wmh=True), process=unmeasured).table
    assert table["wmh_ml"].isna().all()
    assert table["qc_warnings"].str.contains("not measured").all()
    assert "mwp7" not in table
    assert (out / "mri" / "mwp1sub-01_T1w.nii.gz").is_file()
    assert preprocess(scans, out, PreprocSpec(device="cpu", wmh=True), process=None).table["wmh_ml"].isna().all()


def test_masks_go_to_their_scans_and_scans_without_one_are_named(scans, tmp_path, caplog):
    mask = torch.zeros(1, *SCAN.shape)
    mask[0, 4:8, 4:8, 4:8] = 1
    io.write_volume(tmp_path / "masks" / "sub-02.nii.gz", Volume(mask, SCAN), dtype="uint8")
    pattern = str(tmp_path / "masks" / "{participant_id}.nii.gz")
    out = tmp_path / "out"
    table = run(scans, out, lesion_mask=pattern)
    assert "no lesion mask for 1 of 2 scans, which are processed without: sub-01_T1w" in caplog.text
    assert table["lesion_ml"].isna().tolist() == [True, False]
    assert table["lesion_ml"].iloc[1] == pytest.approx(64 * SCAN.voxel_volume_ml, rel=1e-3)
    records = [json.loads((out / "report" / f"vbmstat_sub-0{n}_T1w.json").read_text()) for n in (1, 2)]
    assert [record["spec"]["lesion_mask"] for record in records] == [None, "{participant_id}.nii.gz"]
    assert [len(record["inputs"]) for record in records] == [1, 2]
    mask[0, 3] = 1  # another mask: the scan is not complete any more
    io.write_volume(tmp_path / "masks" / "sub-02.nii.gz", Volume(mask, SCAN), dtype="uint8")
    assert run(scans, out, lesion_mask=pattern)["lesion_ml"].iloc[1] > table["lesion_ml"].iloc[1]


def test_a_scan_with_a_mask_and_one_without_are_run_again_to_the_same_bytes(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "preprocess_scan", light)
    mask = torch.zeros(1, *SCAN.shape)
    mask[0, 4:8, 4:8, 4:8] = 1
    io.write_volume(scans / "sub-02_mask.nii.gz", Volume(mask, SCAN), dtype="uint8")
    spec = PreprocSpec(device="cpu", wmh=True, lesion_mask=str(scans / "{participant_id}_mask.nii.gz"))
    preprocess([scans / f"sub-0{n}_T1w.nii.gz" for n in (1, 2)], tmp_path / "out", spec)
    for number in (1, 2):
        sidecar = tmp_path / "out" / "report" / f"vbmstat_sub-0{number}_T1w.json"
        record = rerun.read_record(sidecar)
        compared = rerun.rerun_scan(record, sidecar, [scans], tmp_path / f"again{number}")
        assert {one.status for one in compared} == {"same bytes"}
        assert {f"mri/p7sub-0{number}_T1w.nii.gz", f"mri/mwp1sub-0{number}_T1w.nii.gz"} <= {c.name for c in compared}
        assert not rerun.differences(record)


def test_one_mask_for_two_scans_is_refused(scans, tmp_path):
    (tmp_path / "lesion.nii").touch()
    with pytest.raises(ScanError, match="one file for 2 scans"):
        run(scans, tmp_path / "out", lesion_mask=str(tmp_path / "lesion.nii"))


@pytest.fixture
def finder(monkeypatch):
    """Hypointensity wherever the brain is bright."""
    monkeypatch.setattr(lesions, "find_lesions", lambda evidence, *_: Volume(
        (evidence.brain.data > 0.8).float(), evidence.brain.grid))  # fmt: skip


def adding_to_one(t1w, spec, on_step):
    """The stand-in with fractions that add to 1, as an engine's do: shares above 1 have no place in uint8."""
    result = light(t1w, spec, on_step)
    fractions = result.segmented.fractions
    sound = Volume(fractions.data / fractions.data.sum(0), fractions.grid)
    return replace(result, segmented=replace(result.segmented, fractions=sound))


def test_a_finished_folder_gets_hypointensities_and_keeps_its_tissues(scans, tmp_path, finder):
    out = tmp_path / "out"
    people = tmp_path / "participants.tsv"
    people.write_text("participant_id\tage\nsub-01\t61\nsub-02\t72\n")
    before = preprocess(scans, out, PreprocSpec(device="cpu"), process=adding_to_one, participants=people).table
    tissue = storage_bytes(out / "mri", "*[123]sub*")
    done = measure_folder(out)
    assert sorted(done.measured) == ["sub-01_T1w", "sub-02_T1w"]
    assert not done.failures
    assert storage_bytes(out / "mri", "*[123]sub*") == tissue
    after = pd.read_csv(out / "cohort.tsv", sep="\t")
    assert after["age"].tolist() == [61, 72]
    assert after["gm_ml"].tolist() == before["gm_ml"].tolist()
    assert (after["wmh_ml"] > 0).all()
    assert (after["wmh_as"] == "none").all()
    modulated = io.read_volume(out / after["mwp7"][0])
    assert modulated.grid.matches(TEMPLATE)
    share = io.read_volume(out / "mri" / "p7sub-01_T1w.nii.gz")
    assert share.sums_ml[0] == pytest.approx(after["wmh_ml"][0], rel=1e-3)
    assert measure_folder(out).kept == ("sub-01_T1w", "sub-02_T1w")
    resumed = preprocess(scans, out, PreprocSpec(device="cpu"), process=light, participants=people).table
    assert resumed["wmh_ml"].tolist() == after["wmh_ml"].tolist()
    assert (out / "report" / "vbmreport_sub-01_T1w.png").read_text() == "new picture"


def storage_bytes(folder, pattern) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def test_scans_whose_images_are_gone_fail_alone(scans, tmp_path, finder):
    out = tmp_path / "out"
    run(scans, out)
    (out / "mri" / "u_sub-01_T1w.nii.gz").unlink()
    result = CliRunner().invoke(app, ["wmh", str(out)])
    assert result.exit_code == 1
    assert "measured 1 scans; tissue maps are unchanged" in result.output
    assert "none of y_sub-01_T1w.nii.gz, iy_sub-01_T1w.nii.gz, u_sub-01_T1w.nii.gz is there" in result.output
    table = pd.read_csv(out / "cohort.tsv", sep="\t")
    assert table["wmh_ml"].isna().tolist() == [True, False]  # and the scan is still in the table


def test_tissues_with_lesions_in_them_are_not_measured_again(scans, tmp_path, finder):
    out = tmp_path / "out"
    run(scans, out, wmh=True)
    assert len(measure_folder(out).kept) == 2
    failures = measure_folder(out, execution=wmh.Execution(force=True)).failures
    assert "run vbmstat preprocess --wmh --force" in failures["sub-01_T1w"]


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(VbmstatError, match="no preprocessed scan"):
        measure_folder(tmp_path)
    with pytest.raises(VbmstatError, match="none: no such folder"):
        measure_folder(tmp_path / "none")


def test_the_maps_of_a_finished_folder_are_those_of_the_warp():
    """A field that moves by 30 mm and doubles one axis: the sum of the modulated map is the volume in the scan."""
    grid = SCAN
    mm = np.stack(np.meshgrid(*[np.arange(n) for n in TEMPLATE.shape], indexing="ij")).astype(np.float32) * 15.0
    y = torch.from_numpy(mm * np.array([1.2, 1.0, 1.0], np.float32)[:, None, None, None])
    share = torch.zeros(1, *grid.shape)
    share[0, 5:9, 5:9, 5:9] = 1
    _, modulated = wmh.normalise(Volume(share, grid), Volume(y, TEMPLATE), TEMPLATE)
    assert modulated.sums_ml[0] == pytest.approx(64 * grid.voxel_volume_ml, rel=0.05)


@pytest.mark.parametrize(("lesion_ml", "in_maps", "why"), [
    (3.2, "keep", "its tissues hold a lesion"), (3.2, "exclude", "is missing"), (None, "keep", "is missing"),
])  # fmt: skip
def test_a_lesion_mask_that_the_tissues_keep_is_not_measured_as_hypointensity(tmp_path, lesion_ml, in_maps, why):
    one = FinishedScan(tmp_path, naming.Scan(Path("x"), "sub-01_T1w", "sub-01"), "cat12")
    record = {"scan": "sub-01_T1w", "row": {"lesion_ml": lesion_ml}, "spec": {"lesion_in_maps": in_maps}}
    storage.write_json(one.path("sidecar"), record)
    with pytest.raises(ScanError, match=why):
        wmh._measure(one, wmh._PLAN, wmh._HERE)
