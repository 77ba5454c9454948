"""What somebody who means harm could try: in a formula, a file, a name, a table, a record, a set of weights.

Each test makes the attack for real, and looks whether it reached its goal. Hostile images are in ``tests/hostile.py``.
"""

from __future__ import annotations

import getpass
import gzip
import json
import pickle
import platform
import socket
import sys
import zipfile
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests import hostile
from tests.assets.test_downloads import cache, server  # noqa: F401 - fixtures
from tests.glm.conftest import GRID, cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat import rerun
from vbmstat.assets import downloads, sha256
from vbmstat.batch import derivatives
from vbmstat.batch.run import preprocess
from vbmstat.cli import app
from vbmstat.compare.config import read_plan
from vbmstat.errors import AssetError, DesignError, ScanError, TableError, VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.harmonize.model import load_model
from vbmstat.harmonize.run import HarmonizeSpec, harmonize_maps
from vbmstat.image import io, storage
from vbmstat.maps.pack import open_store, pack_maps
from vbmstat.preproc import pipeline
from vbmstat.preproc.networks.weights import find_set
from vbmstat.preproc.spec import PreprocSpec

mpl.use("Agg")
SECRET = "DOE^JOHN 1970"  # noqa: S105 - a patient
ATTACK = "__import__('pathlib').Path('{}').touch()"


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that exists only if an attack succeeded."""
    return tmp_path / "owned"


# Formulas and contrasts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [
        ATTACK, "I(" + ATTACK + ")", "C(" + ATTACK + ")", "`" + ATTACK + "`", "{{" + ATTACK + "}}", "{" + ATTACK + "}",
        "(lambda: " + ATTACK + ")()", "[" + ATTACK + " for x in [1]][0]", "age.__class__.__base__.__subclasses__()",
        "open('{}', 'w')", "np.save('{}', age)", "age if " + ATTACK + " else age", "age[" + ATTACK + "]",
        "center(age, x=" + ATTACK + ")", "bs(age, df=" + ATTACK + ")", "f'{{" + ATTACK + "}}'", "(x := " + ATTACK + ")",
        "eval(\"" + ATTACK + "\")", "contr.__class__", "age.to_pickle('{}')", "@Q", "poly(age, **{{}})",
        "age; import os",
    ],
)  # fmt: skip
def test_code_in_a_formula_is_not_run(table, images, mark, term):  # noqa: F811
    code = term.replace("{}", str(mark)) if "{{" not in term else term.replace("{{", "{").replace("}}", "}")
    code = code.replace("Path('')", f"Path('{mark}')").replace("Path('{}')", f"Path('{mark}')")
    values = images.reshape(len(images), -1)
    for attempt in (
        lambda: fit_glm(values, f"gm ~ age + {code}", table, repeats=0),
        lambda: fit_glm(values, f"gm ~ {code}", table, repeats=0),
        lambda: fit_glm(values, "gm ~ age", table, [f"x = {code}"], repeats=0),
        lambda: fit_glm(values, "gm ~ age", table, [code], repeats=0),
        lambda: fit_glm(None, f"{code} ~ age", table, repeats=0),
    ):
        with pytest.raises((DesignError, TableError, ScanError)):
            attempt()
    assert not mark.exists()


def test_code_in_a_table_is_a_value(table, images, mark):  # noqa: F811
    attack = ATTACK.format(mark)
    table["site"] = [attack, "b"] * (len(table) // 2)
    found = fit_glm(images.reshape(len(images), -1), "gm ~ age + site", table, ["age"], repeats=0)
    assert len(found.design.columns) == 3
    table = table.rename(columns={"age": attack})
    found = fit_glm(images.reshape(len(images), -1), f"gm ~ `{attack}`", table, repeats=0)
    assert attack in found.design.columns
    assert not mark.exists()


# Files that carry code ------------------------------------------------------------------------------------------------


def test_pickles_in_arrays_are_not_loaded(table, images, cohort_folder, mark):  # noqa: F811
    bomb = np.array([Bomb(mark)], dtype=object)
    model = cohort_folder / "model.npz"
    np.savez(model, about=bomb, mean=bomb)
    with pytest.raises(VbmstatError, match="expected a model of vbmstat harmonize"):
        load_model(model)
    paths = {scan: cohort_folder / "mri" / f"s6mwp1{scan}_T1w.nii.gz" for scan in table["participant_id"]}
    store = cohort_folder / "store"
    pack_maps(paths, store)
    np.save(store / "voxels.npy", bomb, allow_pickle=True)
    with pytest.raises(ScanError, match="store"):
        open_store(store)
    checkpoint = cohort_folder / "contrast-age_permutations.npz"
    np.savez(checkpoint, key=bomb, done=bomb)
    options = {"repeats": 0, "inference": "fwe", "permutations": 20, "checkpoint": cohort_folder}
    fit_glm(images.reshape(len(images), -1), "gm ~ age", table, ["age"], **options)  # begins anew
    assert not mark.exists()


def test_weights_that_carry_code_are_refused(cache, tmp_path, mark):  # noqa: F811
    """In the folder of a stranger, and even where they were fetched: torch then reads them as TorchScript only."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for file in downloads.WEIGHTS["deepmriprep"].files:
        with zipfile.ZipFile(folder / file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark), protocol=2))
            archive.writestr("archive/version", "3")
            archive.writestr("archive/constants.pkl", pickle.dumps(Bomb(mark), protocol=2))
    with pytest.raises(AssetError, match="is not recorded, and TorchScript files run code"):
        find_set(str(folder))
    downloads.fetch("deepmriprep", str(folder))
    with pytest.raises(Exception, match=r"."):  # whatever torch makes of it
        find_set("deepmriprep")
    bomb = tmp_path / "checkpoint.pt"
    torch.save(Bomb(mark), bomb)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(bomb, weights_only=True)  # as training reads its checkpoints
    assert not mark.exists()


# Paths ----------------------------------------------------------------------------------------------------------------


def outside(folder: Path, before: set[Path]) -> set[Path]:
    """New files around, but not in, a folder."""
    return {path for path in files_in(folder.parent) - before if not path.is_relative_to(folder)}


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_ids_and_contrasts_that_climb_out_of_the_folder(table, images, tmp_path):  # noqa: F811
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    before = files_in(tmp_path)
    table["participant_id"] = [f"../../evil{i}" for i in range(len(table))]
    contrasts = {"../../evil": "age", "/etc/x": "age"}
    found = fit_glm(images.reshape(len(images), -1), "gm ~ age", table, contrasts, repeats=2)
    found.to_directory(out)
    assert {path.name for path in out.glob("contrast-*.tsv")} == {"contrast-evil_stats.tsv", "contrast-etcX_stats.tsv"}
    assert not outside(out, before)
    assert not outside(out.parent, before)


def test_a_cohort_table_cannot_send_harmonised_maps_elsewhere(cohort_folder, table):  # noqa: F811
    """With ``..`` in the paths of its maps."""
    out = cohort_folder / "a" / "b" / "out"
    cohort = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    (cohort_folder / "sub").mkdir()
    cohort["s6mwp1"] = "../" + cohort["s6mwp1"]
    cohort.to_csv(cohort_folder / "sub" / "cohort.tsv", sep="\t", index=False)
    before = files_in(cohort_folder)
    harmonize_maps(cohort_folder / "sub" / "cohort.tsv", HarmonizeSpec("site", "age"), out)
    new = files_in(cohort_folder) - before
    assert new
    assert all(path.is_relative_to(out) for path in new)


def test_links_to_folders_are_read_and_never_written_through(cohort_folder, table):  # noqa: F811
    """Maps may lie behind links, in a circle even; what is made of them stays in the output folder."""
    maps = cohort_folder / "maps"
    maps.mkdir()
    (cohort_folder / "mri").rename(cohort_folder / "disk")
    (maps / "mri").symlink_to(cohort_folder / "disk")
    (cohort_folder / "disk" / "up").symlink_to(maps)
    table.to_csv(cohort_folder / "participants.tsv", sep="\t", index=False)
    out = cohort_folder / "out"
    before = {path: path.read_bytes() for path in files_in(cohort_folder)}
    harmonize_maps(cohort_folder / "participants.tsv", HarmonizeSpec("site", "age"), out, maps)
    new = files_in(cohort_folder) - set(before)
    assert len([path for path in new if path.name.startswith("s6mwp1")]) == len(table)
    assert all(path.resolve().is_relative_to(out) for path in new)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", "a\\b"])
@pytest.mark.parametrize("place", ["cohort", "variable", "pipeline"])
def test_names_in_a_plan_are_no_paths(tmp_path, name, place):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
    names = {"cohort": "c", "variable": "v", "pipeline": "p", place: name}
    quoted = {key: json.dumps(value) for key, value in names.items()}
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f"[cohorts.{quoted['cohort']}]\npipelines = {{ {quoted['pipeline']} = 'a', q = 'b' }}\n"
        f"[variables.{quoted['variable']}]\nformula = 'age'\ncontrast = 'age'\n"
    )
    with pytest.raises(TableError, match="becomes part of file names; expected no slash"):
        read_plan(plan)


def test_a_record_from_elsewhere_writes_nowhere_and_calls_nobody(tmp_path):
    file = tmp_path / "cohort.tsv"
    file.write_text("participant_id\tage\n")
    data = {"table": {"file": "cohort.tsv", "sha256": sha256(file)}, "maps": "table"}
    spec = {"formula": "gm ~ age", "store": "/etc", "scratch": "/etc", "cluster": "tcp://evil:8786"}
    model = {"spec": spec, "data": data, "outputs": {"atlas": "none"}, "maps": {}, "out": "/etc"}
    with pytest.raises(VbmstatError, match="it is damaged"):
        rerun.rerun_model(model, tmp_path / "glm.json", [tmp_path], tmp_path / "out")
    for stem in ("../../evil", "a/b"):
        record = {"command": "preprocess", "engine": "classic", "scan": stem, "spec": PreprocSpec().record(),
                  "inputs": [{"path": "x.nii", "sha256": "0" * 64}]}  # fmt: skip
        with pytest.raises(VbmstatError, match="it is damaged"):
            rerun.rerun_scan(record, tmp_path / "report" / "vbmstat_x.json", [], tmp_path / "out")


def test_a_link_in_the_output_folder_is_replaced_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    link = tmp_path / "out" / "cohort.tsv"
    link.parent.mkdir()
    link.symlink_to(target)
    storage.write_text(link, "mine")
    assert target.read_text() == "precious"
    assert link.read_text() == "mine"
    assert not link.is_symlink()


# Privacy --------------------------------------------------------------------------------------------------------------


def with_secrets(path: Path, image: nib.Nifti1Image) -> Path:
    """A file whose every free text says who was scanned."""
    if path.suffix == ".mgz":
        nib.save(nib.MGHImage(np.asarray(image.dataobj, dtype=np.float32), image.affine), path)
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content + b"\0\0\0\x03" + len(SECRET).to_bytes(8, "big") + SECRET.encode()))
        return path
    header = image.header
    header["descrip"], header["aux_file"], header["intent_name"] = SECRET, SECRET, SECRET
    header["db_name"] = SECRET
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
    nib.save(image, path)
    return path


def content_of(folder: Path) -> bytes:
    """All bytes of all files, unpacked, with their names."""
    found = b""
    for path in sorted(files_in(folder)):
        content = path.read_bytes()
        found += str(path.relative_to(folder)).encode()
        found += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return found


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz"])
def test_header_texts_do_not_travel_with_an_image(tmp_path, suffix):
    scan = with_secrets(tmp_path / f"sub-01_T1w{suffix}", hostile.nifti(hostile.phantom()))
    raw = scan.read_bytes()
    assert SECRET.encode() in (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    volume = io.read_scan(scan)
    assert set(vars(volume)) == {"data", "grid"}
    io.write_volume(tmp_path / "out" / "copy.nii.gz", volume)
    assert b"DOE" not in content_of(tmp_path / "out")


def test_neither_patient_nor_person_nor_machine_in_the_outputs(tmp_path, preprocessed, monkeypatch):
    """The engine's earlier result stands in for a run; everything else is real."""
    monkeypatch.setattr(pipeline, "preprocess_scan", lambda *_, **__: preprocessed)
    monkeypatch.setattr(derivatives, "_write_picture", lambda path, *_: storage.write_text(path, "picture"))
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "snooped")
    monkeypatch.setenv("HOME", "/home/snooped")
    for module, function in ((platform, "node"), (socket, "gethostname"), (getpass, "getuser")):
        monkeypatch.setattr(module, function, lambda: "snooped")
    scan = with_secrets(tmp_path / "sub-01_T1w.nii.gz", hostile.nifti(hostile.phantom()))
    preprocess(scan, tmp_path / "out", device="cpu")
    written = content_of(tmp_path / "out")
    assert b"mwp1sub-01_T1w" in written
    for told in (b"DOE^JOHN", b"1970", b"snooped", str(tmp_path).encode()):
        assert told not in written, told


def test_map_headers_do_not_reach_a_model(cohort_folder):  # noqa: F811
    path = cohort_folder / "mri" / "s6mwp1sub-000_T1w.nii.gz"
    with_secrets(path, nib.load(path))
    found = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=2)
    found.to_directory(cohort_folder / "glm")
    written = content_of(cohort_folder / "glm")
    assert b"DOE^JOHN" not in written
    assert str(cohort_folder).encode() not in written


CONNECTIONS: list[str] = []
_WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")


def watch(event: str, details: tuple) -> None:
    if event in _WATCHED:
        CONNECTIONS.append(f"{event}{details}")


@pytest.fixture
def connections() -> list[str]:
    """Every connection that Python is asked for from here on."""
    if not getattr(watch, "on", False):
        sys.addaudithook(watch)  # it cannot be taken away again, but only takes notes
        watch.on = True  # type: ignore[attr-defined]
    CONNECTIONS.clear()
    return CONNECTIONS


def test_nothing_is_sent_anywhere(connections, cohort_folder, cache, preprocessed, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pipeline, "preprocess_scan", lambda *_, **__: preprocessed)
    monkeypatch.setattr(derivatives, "_write_picture", lambda path, *_: storage.write_text(path, "picture"))
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    hostile.nifti(hostile.phantom()).to_filename(tmp_path / "sub-01_T1w.nii.gz")
    out = tmp_path / "out"
    for arguments in (
        ["preprocess", tmp_path / "sub-01_T1w.nii.gz", "--out", out, "--device", "cpu", "--jobs", "1", "--no-report"],
        ["glm", "gm ~ age", "--cohort", cohort_folder / "cohort.tsv", "--repeats", "2", "--out", tmp_path / "glm"],
        ["assets", "list"], ["assets", "verify"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        assert result.exit_code == 0, (arguments, result.output)
    assert connections == []
    downloads.fetch("few")  # the only command that may
    assert connections


# Spreadsheets and pages -----------------------------------------------------------------------------------------------


def test_ids_that_a_spreadsheet_would_run_are_kept_as_they_are(table, images, tmp_path):  # noqa: F811
    """TSV is data: joins by id must find them again. Nothing is written as a spreadsheet (.xlsx)."""
    table["participant_id"] = [f"=cmd|' /C calc'!A{i}" for i in range(len(table))]
    found = fit_glm(images.reshape(len(images), -1), "gm ~ age", table, repeats=0)
    found.to_directory(tmp_path)
    assert "=cmd|' /C calc'!A0" in (tmp_path / "design.tsv").read_text()
    assert not list(tmp_path.rglob("*.xlsx"))
