"""`vbmstat template`, and scans that are preprocessed over its template: coarse people, everything else real."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.batch.light import write_scans
from tests.preproc.group import COARSE_MM, be_coarse, coarse_template, tissues_of, write_people
from vbmstat import rerun
from vbmstat.assets import sha256
from vbmstat.batch import template_levels
from vbmstat.batch.run import preprocess
from vbmstat.batch.warp_images import find_warps
from vbmstat.cli import app
from vbmstat.cli.template import _mapping
from vbmstat.errors import AssetError, TableError, VbmstatError
from vbmstat.glm.data import origins, refuse_mixtures
from vbmstat.harmonize.run import HarmonizeSpec, harmonize_table
from vbmstat.image import deform, io, storage
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.maps.sources import gather
from vbmstat.preproc import pipeline, spec
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.results import Segmented
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.quality import ImageQuality
from vbmstat.preproc.templates import RECORD, TISSUES, TO_STANDARD
from vbmstat.roi.table import cohort_of_maps, measure_rois

LINEAR = np.array([[1.1, 0, 0, 3], [0, 0.9, 0, -2], [0, 0, 1.0, 4], [0, 0, 0, 1.0]])

BACK = np.array([[1.0, 0, 0, -2 * COARSE_MM], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # from a moved template
HOW = {"device": "cpu", "outputs": "all", "fwhm_mm": 0, "voxel_size_mm": COARSE_MM}


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        be_coarse(patch)
        patch.setattr("vbmstat.batch.derivatives._write_picture", lambda at, *_: storage.write_text(at, "picture"))
        patch.setattr(pipeline, "segment_scan", segment)
        patch.setattr(spec, "VOXEL_SIZES_MM", (1.5, COARSE_MM))
        yield


def segment(t1w, engine, *_) -> Segmented:
    """A person whose tissues are known, whatever the scan shows."""
    aligned = tissues_of(21)
    grid = aligned.grid.with_voxel_size(5.0)
    gm, wm = resample(aligned.data, aligned.grid, grid).clamp(0, 1)
    fractions = torch.stack([gm, wm, gm / 2])
    image = ImageQuality(**dict.fromkeys([field.name for field in fields(ImageQuality)], 1.0))
    on = Grid(grid.shape, LINEAR @ grid.affine)
    linear = LINEAR @ BACK if (engine.template or "").endswith("moved") else LINEAR
    return Segmented(
        Volume(fractions, on), Volume(gm[None], on), linear, torch.zeros(3, *warp.PADDED_SHAPE), image, on,
        was_stripped=False, engine=engine.name,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The command's result, and the folder of its template."""
    folder = tmp_path_factory.mktemp("template")
    people = write_people(folder / "people", 10)
    return CliRunner().invoke(app, ["template", str(people), "--out", str(folder / "group")]), folder / "group"


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory):
    """Folders of two scans over the group template, and over the standard one."""
    folder = tmp_path_factory.mktemp("runs")
    scans = write_scans(folder / "scans", 2)
    for name, given in (("group", str(made[1])), ("standard", None)):
        preprocess(scans, folder / name, template=given, **HOW)
    return folder


def test_the_command_says_what_it_made(made):
    result, folder = made
    assert result.exit_code == 0, result.output
    assert "template of 10 people" in result.output
    assert f"next: vbmstat preprocess … --template {folder}" in result.output.replace("\n", "")
    assert (folder / "template.json").is_file()


def test_people_left_out_are_named_and_the_exit_code_says_so(tmp_path):
    people = write_people(tmp_path / "people", 11)
    (people / "mri" / "p1sub-05_T1w.nii.gz").write_bytes(b"none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_levels.steps, "registered", lambda *_: torch.zeros(3, *warp.PADDED_SHAPE))
        result = CliRunner().invoke(app, ["template", str(people), "--out", str(tmp_path / "group")])
    assert result.exit_code == 1
    assert "sub-05_T1w: left out, level 0: its tissues or warp cannot be used" in result.output
    assert "template of 10 people" in result.output


def test_people_are_mapped_in_order_by_the_workers_that_are_asked_for(tmp_path, monkeypatch):
    made = []

    class Threads(ThreadPoolExecutor):
        def __init__(self, n):
            made.append(n)
            super().__init__(n)

    monkeypatch.setattr("vbmstat.batch.workers.ProcessPoolExecutor", lambda n, *_: Threads(n))
    with _mapping(2, None, tmp_path) as several, _mapping(1, None, tmp_path) as one:
        assert list(several(str.upper, "abc")) == list(one(str.upper, "abc")) == ["A", "B", "C"]
    assert made == [2]


def test_maps_over_a_template_elsewhere_are_in_the_standard_space(runs, made):
    """A group template two voxels to the right of the standard one, which its own warp brings back."""
    template = runs / "moved"
    shutil.copytree(made[1], template)
    standard = coarse_template()
    moved = Volume(torch.round(standard.data.roll(2, 1) * 10000), standard.grid)
    io.write_volume(template / TISSUES, moved, dtype="int16", step=1e-4)
    right = torch.tensor([2 * COARSE_MM, 0, 0]).reshape(3, 1, 1, 1).expand(3, *standard.grid.shape)
    io.write_volume(template / TO_STANDARD, Volume(right.contiguous(), standard.grid))
    record = json.loads((template / RECORD).read_text())
    record["sha256"] = {name: sha256(template / name) for name in (TISSUES, TO_STANDARD)}
    (template / RECORD).write_text(json.dumps(record))
    preprocess(runs / "scans", runs / "over_moved", template=str(template), **HOW)
    names = ("wp1", "wp2", "mwp1")
    over, plain = (
        torch.cat([io.read_volume(runs / name / "mri" / f"{kind}sub-01_T1w.nii.gz").data for kind in names])
        for name in ("over_moved", "standard")
    )
    inner = (slice(None), slice(3, -3))  # there, the moved template has all that the standard one has
    assert float((over - plain)[inner].square().mean()) < 0.02 * float(plain.square().mean())


def test_maps_over_a_group_template_are_in_the_standard_space_and_keep_their_volume(runs):
    tissues = segment(None, Classic()).fractions
    for name in ("group", "standard"):
        for number, volume_ml in enumerate(tissues.sums_ml, 1):
            modulated = io.read_volume(runs / name / "mri" / f"mwp{number}sub-01_T1w.nii.gz")
            assert modulated.grid.matches(coarse_template().grid)
            assert modulated.sums_ml[0] == pytest.approx(volume_ml, rel=0.02)
    over, plain = (io.read_volume(runs / name / "mri" / "wp1sub-01_T1w.nii.gz").data for name in ("group", "standard"))
    standard = coarse_template().data[:1]
    assert float((over - plain).abs().max()) > 0.01  # another way
    assert float((over - standard).square().mean()) < 1.3 * float((plain - standard).square().mean())


def test_a_scan_over_a_group_template_has_fields_in_place_of_a_velocity_that_take_images_there_and_back(runs):
    assert (runs / "standard" / "mri" / "u_sub-01_T1w.nii.gz").is_file()
    assert not (runs / "group" / "mri" / "u_sub-01_T1w.nii.gz").exists()
    (there,) = [one for scan, one in find_warps(runs / "group").items() if scan.stem == "sub-01_T1w"]
    written = there.to_template(there.box).data
    there.paths["iy"].unlink()
    (again,) = [one for scan, one in find_warps(runs / "group").items() if scan.stem == "sub-01_T1w"]
    assert float((again.to_template(again.box).data - written)[:, 6:-6, 6:-6, 6:-6].abs().mean()) < 0.5
    gm = io.read_volume(runs / "group" / "mri" / "p1sub-01_T1w.nii.gz")
    warped = io.read_volume(runs / "group" / "mri" / "wp1sub-01_T1w.nii.gz")
    torch.testing.assert_close(deform.pull(gm, again.to_scan).data, warped.data, atol=0.02, rtol=0)


def test_records_name_the_template_and_its_hash(runs, made):
    record = json.loads((runs / "group" / "report" / "vbmstat_sub-01_T1w.json").read_text())
    assert record["spec"]["template"] == "group"
    assert str(made[1].parent) not in json.dumps(record)
    known = record["parameters"]["template"]
    table = pd.read_csv(runs / "group" / "cohort.tsv", sep="\t")
    assert set(table["group_template"]) == {f"group {known['sha256'][:12]}"}
    assert "group_template" not in pd.read_csv(runs / "standard" / "cohort.tsv", sep="\t")
    own = gather(runs / "group" / "mri", "gm", _people(runs)).table
    assert set(own["group_template"]) == set(table["group_template"])  # maps in a folder: from their sidecars


def _people(runs):
    from vbmstat.tables.cohort import read_cohort  # noqa: PLC0415

    whole = read_cohort(runs / "standard" / "cohort.tsv")
    return type(whole)(whole.table[["scan"]], whole.folder)


def test_a_rerun_finds_the_template_by_its_hash(runs, made, tmp_path):
    sidecar = runs / "group" / "report" / "vbmstat_sub-02_T1w.json"
    record = rerun.read_record(sidecar)
    compared = rerun.rerun_scan(record, sidecar, [runs / "scans", made[1].parent], tmp_path / "again")
    assert {one.status for one in compared if "mwp" in one.name} == {"same bytes"}
    record["parameters"]["template"]["sha256"] = "0" * 64
    with pytest.raises(VbmstatError, match=r"group/template.json .* is not below"):
        rerun.rerun_scan(record, sidecar, [runs / "scans"], tmp_path / "never")


def test_other_templates_mean_other_outputs(runs, made):
    scans = runs / "scans"
    before = (runs / "standard" / "mri" / "mwp1sub-01_T1w.nii.gz").stat().st_mtime_ns
    preprocess(scans, runs / "standard", **HOW)
    assert (runs / "standard" / "mri" / "mwp1sub-01_T1w.nii.gz").stat().st_mtime_ns == before
    record = json.loads((made[1] / "template.json").read_text())
    (made[1] / "template.json").write_text(json.dumps({**record, "note": "another"}))
    old = (runs / "group" / "mri" / "mwp1sub-01_T1w.nii.gz").stat().st_mtime_ns
    preprocess(scans, runs / "group", template=str(made[1]), **HOW)
    assert (runs / "group" / "mri" / "mwp1sub-01_T1w.nii.gz").stat().st_mtime_ns > old


def test_statistics_refuse_mixed_templates(tmp_path):
    ids = [f"sub-{number}" for number in range(1, 5)]
    rows = pd.DataFrame({"participant_id": ids, "mwp1": "x.nii", "site": list("aabb")})
    rows["group_template"] = ["kids 0123456789ab", "kids 0123456789ab", None, None]
    expected = r"different templates \(kids 0123456789ab: 2 scans, standard: 2 scans\); preprocess all with one"
    with pytest.raises(TableError, match=expected):
        measure_rois(rows)
    rows.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    rows[["participant_id"]].assign(a_ml=1.0).to_csv(tmp_path / "roi.tsv", sep="\t", index=False)
    with pytest.raises(TableError, match=expected):
        harmonize_table(tmp_path / "roi.tsv", tmp_path / "cohort.tsv", HarmonizeSpec("site"), tmp_path / "out")
    with pytest.raises(TableError, match=r"mix group_template values \(kids .*: 2 scans, standard: 2 scans\)"):
        refuse_mixtures(rows, allowed=False)
    refuse_mixtures(rows, allowed=True)
    refuse_mixtures(rows[:2], allowed=False)
    assert origins(rows[["site"]])["group_template"] == {"standard": 4}  # what a site shares


def test_regions_of_a_folder_with_maps_over_different_templates_are_refused(tmp_path):
    """Without the cohort table, the scans' records say which template it was."""
    for scan, template in (("sub-1", {"name": "kids", "sha256": "0123456789ab"}), ("sub-2", None)):
        storage.write_text(tmp_path / "mri" / f"mwp1{scan}.nii", "never read")
        record = {"engine": "e", "versions": {"vbmstat": "1"}, "parameters": {"template": template}}
        storage.write_json(tmp_path / "report" / f"vbmstat_{scan}.json", record)
    with pytest.raises(TableError, match=r"different templates \(kids 0123456789ab: 1 scans, standard: 1 scans\)"):
        measure_rois(cohort_of_maps(tmp_path))


def test_a_folder_without_a_template_is_refused_before_any_work(tmp_path, runs):
    with pytest.raises(AssetError, match=r"nowhere/template.json: expected the record of a group template"):
        preprocess(runs / "scans", tmp_path / "out", template=str(tmp_path / "nowhere"), **HOW)
