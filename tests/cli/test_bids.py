"""The BIDS App: what fMRIPrep's users write is understood; exit codes; derivatives that the validator accepts.

A stand-in for the engine makes the maps; everything around it is real.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.batch.light import light, light_person
from tests.files.test_bids import errors_of_validator, needs_validator
from vbmstat.cli import bids
from vbmstat.errors import VbmstatError
from vbmstat.image import storage

ONE_CORE = ["--nprocs", "1", "--omp-nthreads", "1"]


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    monkeypatch.setattr("vbmstat.batch.scan.pipeline.preprocess_scan", light)
    monkeypatch.setattr("vbmstat.batch.derivatives._write_picture", lambda path, *_: Image.new("L", (8, 8)).save(path))
    monkeypatch.setattr("vbmstat.batch.person.draw_change", lambda path, *_: Image.new("L", (8, 8)).save(path))
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "raw"
    for stem in ("sub-01/ses-1/anat/sub-01_ses-1", "sub-01/ses-2/anat/sub-01_ses-2", "sub-02/ses-1/anat/sub-02_ses-1"):
        path = folder / f"{stem}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        data = np.random.default_rng(len(path.name)).random((12, 14, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([12.0, 12, 12, 1])), path)
    storage.write_json(folder / "dataset_description.json", {"Name": "people", "BIDSVersion": "1.10.0"})
    people = pd.DataFrame({"participant_id": ["sub-01", "sub-02"], "age": [30, 40]})
    storage.write_table(folder / "participants.tsv", people)
    storage.write_text(folder / "README", "Random numbers in the form of scans, for the tests of the BIDS App.\n" * 3)
    return folder


def made(out: Path) -> list[str]:
    return sorted(path.name.split("_label")[0] for path in out.rglob("*_label-GM_desc-modulated_probseg.nii.gz"))


def test_participants_then_group(dataset, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert bids.run([str(dataset), str(out), "participant", *ONE_CORE]) == 0
    stems = ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1")
    assert made(out) == [f"{stem}_space-MNI152NLin2009cAsym" for stem in stems]
    table = io_table(out / "cohort.tsv")
    assert list(table["participant_id"] + table["session_id"]) == ["sub-01ses-1", "sub-01ses-2", "sub-02ses-1"]
    assert list(table["age"]) == ["30", "30", "40"]
    beside = out / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_space-MNI152NLin2009cAsym_label-GM_probseg.json"
    assert json.loads(beside.read_text())["Sources"] == ["bids:raw:sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"]
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": "../raw"}
    (out / "cohort.tsv").unlink()
    monkeypatch.setattr("vbmstat.batch.scan.pipeline.preprocess_scan", None)  # no scan is run again, whatever differs
    assert bids.run([str(dataset), str(out), "group", "--engine", "cat"]) == 0
    assert list(io_table(out / "cohort.tsv")["participant_id"]) == ["sub-01", "sub-01", "sub-02"]
    assert set(io_table(out / "cohort.tsv")["engine"]) == {"classic"}
    assert (out / "report.html").is_file()
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": "../raw"}
    assert "3 scans in" in capsys.readouterr().err


def io_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--participant-label", "02"], ["sub-02_ses-1"]),
        (["--participant_label", "sub-02", "01"], ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]),
        (["--session-label", "1"], ["sub-01_ses-1", "sub-02_ses-1"]),
        (["--session-id", "ses-2", "--skip_bids_validation", "--notrack", "-w", "work"], ["sub-01_ses-2"]),
        (["--bids-filter-file", "FILTER"], ["sub-01_ses-2"]),
    ],
)
def test_dry_run_says_what_is_asked_for(dataset, tmp_path, capsys, options, kept):
    (tmp_path / "filter.json").write_text('{"t1w": {"session": "2"}}')
    options = [str(tmp_path / "filter.json") if word == "FILTER" else word for word in options]
    assert bids.run([str(dataset), str(tmp_path / "out"), "participant", "--dry-run", *options]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [f"{stem}_T1w.nii.gz" for stem in kept]
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_stands_in_the_inputs(dataset, tmp_path):
    bids.run([str(dataset), str(tmp_path / "out"), "participant", "--participant-label", "02", *ONE_CORE])
    inputs = io_table(tmp_path / "out" / "inputs.tsv")
    assert inputs.to_csv().count(",used,") == 1
    assert inputs.to_csv().count("participant not selected") == 2


def test_exit_codes(dataset, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")
    (dataset / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_T1w.nii.gz").write_bytes(b"damaged")
    assert bids.run([str(dataset), out, "participant", *ONE_CORE]) == 1
    assert len(made(Path(out))) == 2
    assert "1 failed" in capsys.readouterr().err
    assert bids.run([str(dataset), out, "group"]) == 0
    assert "1 scans are not complete and were left out" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["vbmstat-bids", str(tmp_path / "absent"), out, "participant"])
    with pytest.raises(SystemExit, match="2"):
        bids.main()
    assert capsys.readouterr().err.endswith("absent: no such folder; expected a BIDS dataset\n")
    with pytest.raises(SystemExit, match="2"):
        bids.run([str(dataset), out, "subject"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--participant-label", "9", "01"], "no T1w scan of participant 9; there are 01, 02"),
        (["--session-label", "7"], r"none of 3 T1w scans is selected \(session not selected\)"),
    ],
)
def test_labels_that_are_not_there(dataset, tmp_path, options, match):
    with pytest.raises(VbmstatError, match=match):
        bids.run([str(dataset), str(tmp_path / "out"), "participant", *options])


def test_group_before_participants(dataset, tmp_path):
    with pytest.raises(VbmstatError, match="none of 3 scans is complete; run the level participant first"):
        bids.run([str(dataset), str(tmp_path / "out"), "group"])
    (dataset / "dataset_description.json").unlink()
    with pytest.raises(VbmstatError, match="there is none; or give --skip-bids-validation"):
        bids.run([str(dataset), str(tmp_path / "out"), "participant"])


@pytest.mark.parametrize(
    ("words", "gigabytes"),
    [(["--mem", "16000"], 16), (["--mem_mb", "500"], 0.5), (["--mem", "16G"], 16), (["--mem-gb", "3"], 3), ([], None)],
)
def test_memory_in_every_spelling(words, gigabytes):
    assert bids.parser().parse_args(["a", "b", "participant", *words]).memory_gb == gigabytes


@pytest.mark.parametrize("words", [["--mem", "much"], ["--mem", "0"], ["--nprocs", "0"], ["--nprocs", "two"]])
def test_numbers_that_are_none(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        bids.parser().parse_args(["a", "b", "participant", *words])
    assert "expected" in capsys.readouterr().err


def test_cores(monkeypatch):
    used = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 1, 2, 0})
    monkeypatch.setattr("os.sched_setaffinity", lambda _, cores: used.append(cores))
    bids._use_cores(2)
    bids._use_cores(None)
    assert used == [[0, 1]]
    for words, jobs in ((["--n_cpus", "8", "--omp-nthreads", "3"], 2), (["--nthreads", "1", "--omp-nthreads", "4"], 1)):
        assert bids._jobs(bids.parser().parse_args(["a", "b", "participant", *words])) == jobs
    assert bids._jobs(bids.parser().parse_args(["a", "b", "participant", "--nprocs", "4"])) is None


@needs_validator
def test_derivatives_are_valid(dataset, tmp_path):
    out = dataset / "derivatives" / "vbmstat"
    bids.run([str(dataset), str(out), "participant", *ONE_CORE])
    bids.run([str(dataset), str(out), "group"])
    assert errors_of_validator(out) == []
    assert errors_of_validator(dataset) == []
    (out / "sub-01" / "ses-1" / "anat" / "sub-01_nonsense.nii.gz").write_bytes(b"")
    assert errors_of_validator(out) != []


def test_group_fits_a_model(dataset, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("vbmstat.cli.app", lambda words, **_: asked.append(words))
    monkeypatch.setattr("vbmstat.report.write.write_report", lambda out: out / "report.html")
    out = tmp_path / "out"
    bids.run([str(dataset), str(out), "participant", *ONE_CORE])
    assert bids.run([str(dataset), str(out), "group", "--formula", "gm ~ age", "--contrast", "age"]) == 0
    assert asked == [["glm", "gm ~ age", "--cohort", str(out / "cohort.tsv"), "--contrast", "age"]]


def test_the_sessions_of_a_participant_together(dataset, tmp_path, monkeypatch):
    """sub-02 has one session, and is preprocessed by itself; the group level reads both."""
    monkeypatch.setattr("vbmstat.batch.person.preprocess_person", light_person)
    out = tmp_path / "out"
    assert bids.run([str(dataset), str(out), "participant", "--longitudinal", "ageing", *ONE_CORE]) == 0
    aged = sorted(path.name.split("_space")[0] for path in out.rglob("*_label-GM_desc-modulatedAgeing_probseg.nii.gz"))
    assert aged == ["sub-01_ses-1", "sub-01_ses-2"]
    assert made(out) == ["sub-02_ses-1_space-MNI152NLin2009cAsym"]
    assert bids.run([str(dataset), str(out), "group"]) == 0
    table = io_table(out / "cohort.tsv")
    assert table["time_points"].tolist() == ["2", "2", "1"]
    assert (table["mwmwp1r"] != "n/a").tolist() == [True, True, False]
    assert bids.parser().parse_args(["a", "b", "participant", "--longitudinal"]).longitudinal == "both"
