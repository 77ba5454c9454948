"""vbmstat preprocess, as a user types it."""

from __future__ import annotations

import shutil

import pytest
import typer
from typer.testing import CliRunner

from vbmstat.cli import preprocess
from vbmstat.errors import ScanError
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
