"""vbmstat preprocess, as a user types it."""

from __future__ import annotations

import os
import shutil

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.batch.light import STRANGER, light, light_person, write_people, write_scans
from vbmstat.cli import preprocess
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.image import storage
from vbmstat.preproc import pipeline


@pytest.fixture
def vbmstat(monkeypatch, preprocessed):
    """Exit code and output of the command; the engine's earlier result stands in for another run."""
    monkeypatch.setattr(pipeline, "preprocess_scan", lambda *_: preprocessed)
    app = typer.Typer()
    app.command()(preprocess.command)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())

    return run


def test_bids_folder_with_a_bad_scan(vbmstat, simulated, tmp_path):
    bids = tmp_path / "bids"
    shutil.copytree(simulated, bids)
    code, said = vbmstat(bids, "--device", "cpu")
    assert code == 0
    assert "done sub-01_T1w" in said
    assert "1 scans in" in said
    out = bids / "derivatives" / "vbmstat"
    picture = out / "report" / "vbmreport_sub-01_T1w.png"
    assert picture.stat().st_size > 50_000
    header = (out / "cohort.tsv").read_text().splitlines()[0].split("\t")
    assert "Preprocessing of 1 scan " in (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert header[:3] == ["participant_id", "age", "sex"]  # the folder's own participants.tsv

    (bids / "sub-02" / "anat").mkdir(parents=True)
    (bids / "sub-02" / "anat" / "sub-02_T1w.nii.gz").write_bytes(b"no image")
    code, said = vbmstat(bids, "--device", "cpu", "--no-report")
    assert code == 1
    assert not (out / "report.html").exists()
    assert "failed" in said
    assert "sub-02_T1w.nii.gz: expected a NIfTI or MGH image" in said
    assert f"1failed:{out / 'failures.tsv'}" in said.replace(" ", "")  # rich wraps long lines


def test_nothing_good_is_an_error(vbmstat, tmp_path):
    (tmp_path / "a.nii").write_bytes(b"no image")
    with pytest.raises(ScanError, match="none of 1 scans could be preprocessed"):
        vbmstat(tmp_path / "a.nii", "--out", tmp_path / "out", "--device", "cpu")


@pytest.fixture
def light_scans(tmp_path, monkeypatch):
    """Five small scans, and a stand-in for the engine that takes them."""
    monkeypatch.setattr(pipeline, "preprocess_scan", light)
    monkeypatch.setattr("vbmstat.batch.derivatives._write_picture", lambda at, *_: storage.write_text(at, "picture"))
    return write_scans(tmp_path / "scans", 5)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(vbmstat, light_scans, tmp_path):
    code, said = vbmstat(light_scans, "--out", tmp_path / "out", "--device", "cpu", "--dry-run", "--jobs", "1")
    assert code == 0
    assert "5 scans: 0 complete, 5 to do" in said
    assert "one scan at a time" in said
    assert "disk: about" in said
    assert not (tmp_path / "out").exists()


def test_shards_then_the_whole(vbmstat, light_scans, tmp_path):
    given = (light_scans, "--out", tmp_path / "out", "--device", "cpu", "--jobs", "1")
    code, said = vbmstat(*given, "--shard", "1/2")
    assert code == 0
    assert "3 of 3 scans of shard 1/2 are complete; when all shards are done, the same command without --shard" in said
    assert not (tmp_path / "out" / "report.html").exists()
    with pytest.raises(VbmstatError, match="--shard as i/n"):
        vbmstat(*given, "--shard", "0/2")
    (light_scans / "sub-02_T1w.nii.gz").write_bytes(b"broken")
    (light_scans / "sub-04_T1w.nii.gz").write_bytes(b"broken")
    code, said = vbmstat(*given, "--no-report", "--stop-on-first-failure")
    assert code == 1
    assert "stopped at the first failure; 1 scans were not run" in said
    code, said = vbmstat(*given, "--no-report", "--no-lock")
    assert code == 1
    assert "3 scans in" in said
    assert "2 failed:" in said


def test_a_scan_without_permission_is_no_misuse(light_scans, tmp_path, monkeypatch):
    allowed = os.access
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.R_OK and allowed(path, mode))
    app = typer.Typer()
    app.command()(preprocess.command)
    paths = sorted(map(str, light_scans.glob("*.nii*")))
    result = CliRunner().invoke(app, [*paths, "--out", str(tmp_path / "out"), "--dry-run"])
    assert result.exit_code == 0
    assert "not readable" not in result.output


def test_people_with_several_sessions(vbmstat, light_scans, tmp_path, monkeypatch):
    monkeypatch.setattr("vbmstat.batch.person.preprocess_person", light_person)
    monkeypatch.setattr("vbmstat.batch.derivatives._write_picture", lambda at, *_: Image.new("L", (8, 8)).save(at))
    folder = write_people(tmp_path / "people", {"sub-1": 2, "sub-2": 2, "sub-3": 1}, {"sub-2_ses-1": STRANGER})
    out = tmp_path / "out"
    given = (folder, "--out", out, "--device", "cpu", "--jobs", "1", "--longitudinal", "--model", "ageing")
    code, said = vbmstat(*given)
    assert code == 1
    assert "failed sub-2_ses-1_T1w and sub-2_ses-2_T1w: not the same head" in said
    assert "3 scans in" in said
    assert "2 failed:" in said
    page = (out / "report.html").read_text()
    assert "2 scans of 1 participant with several sessions were processed together" in page
    assert "maps of ageing also by deformations" in page
    assert "maps of plasticity" not in page
    code, said = vbmstat(*given, "--no-report", "--stop-on-first-failure", "--force")
    assert "2 failed:" in said
    assert "stopped at the first failure; 1 scans were not run" in said
    code, said = vbmstat(folder, "--out", out, "--model", "ageing")
    assert code == 2
    assert "--model ageing: only with --longitudinal" in said


def test_a_table_of_scans_or_folders(vbmstat, light_scans, tmp_path):
    table = tmp_path / "subjects.csv"
    table.write_text(f"participant_id,path\na,{light_scans}/sub-01_T1w.nii.gz\nb,{light_scans}/sub-02_T1w.nii.gz\n")
    given = ("--subjects", table, "--out", tmp_path / "out", "--device", "cpu", "--jobs", "1", "--no-report")
    code, said = vbmstat(*given)
    assert code == 0
    assert (tmp_path / "out" / "mri" / "mwp1sub-b_T1w.nii.gz").is_file()
    for arguments in ((), (light_scans, "--subjects", table)):
        code, said = vbmstat(*arguments, "--out", tmp_path / "out")
        assert code == 2
        assert "expected a folder or files, or a table of them" in said
