"""`vbmstat tracts` on a finished folder, and the prior from reference folders."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.batch.light import SCAN, TEMPLATE, light, write_scans
from vbmstat.batch import tract_prior, tracts
from vbmstat.batch.run import preprocess
from vbmstat.cli import app
from vbmstat.errors import AssetError, ScanError
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks.weights import save_network
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.tracts.names import TRACTS
from vbmstat.tracts.network import build_tract_network
from vbmstat.tracts.prior import Prior, read_prior, write_prior
from vbmstat.tracts.references import read_references, write_references

FLAT = Grid((15, 18, 15), np.array([[14.0, 0, 0, 0], [0, 14.0, 0, 0], [0, 0, 14.0, 0], [0, 0, 0, 1.0]]))


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Pictures take a second each."""
    monkeypatch.setattr("vbmstat.batch.derivatives._write_picture", lambda at, *_: storage.write_text(at, "picture"))
    monkeypatch.setattr(tracts, "tracts_figure", lambda *_: None)
    monkeypatch.setattr(tracts, "save_png", lambda at, _: storage.write_text(at, "tracts"))


@pytest.fixture
def source(tmp_path):
    """A prior of one half everywhere, the first tract .2; masks from .1."""
    data = torch.full((len(TRACTS), *FLAT.shape), 0.6)
    data[0] = 0.2
    write_prior(Prior(Volume(data, FLAT), np.full(len(TRACTS), 0.1), "3 people"), tmp_path / "prior")
    return tracts.source_of(None, tmp_path / "prior")


def finished(tmp_path, **fields):
    out = tmp_path / "out"
    preprocess(write_scans(tmp_path / "scans", 2), out, PreprocSpec(device="cpu", **fields), process=light)
    return out


@pytest.mark.parametrize("names", ["cat12", "bids"])
def test_maps_masks_and_volumes_of_a_finished_folder(tmp_path, source, names):
    out = finished(tmp_path, names=names, wmh=True)
    run = tracts.find_tracts(out, source, bundles=True)
    assert not run.failures
    scan = naming.Scan(out, "sub-01_T1w", "sub-01")
    paths = {kind: naming.output_path(out, scan, kind, names) for kind in (*naming.TRACT_KINDS, "p2", "p7", "wp2")}
    wm, wmh = io.read_volume(paths["p2"]), io.read_volume(paths["p7"])
    native, template = io.read_channels(paths["tracts"]), io.read_channels(paths["wtracts"])
    assert nib.load(paths["tracts"]).shape == (*SCAN.shape, 72)
    assert nib.load(paths["tracts"]).get_data_dtype() == np.uint8
    assert native.data[5] == pytest.approx(0.6 * wm.data[0], abs=1 / 255)
    assert template.data[0] == pytest.approx(0.2 * io.read_volume(paths["wp2"]).data[0], abs=1 / 255)
    mask = io.read_channels(paths["tracts_mask"])
    assert torch.equal(mask.data, (native.data > 0.0999).float())
    table = pd.read_csv(paths["tract_volumes"], sep="\t")
    assert table["volume_ml"].to_numpy() == pytest.approx(native.sums_ml, rel=1e-4)
    load = 0.6 * float(wmh.data.sum()) * SCAN.voxel_volume_ml  # also where a lesion was taken for grey matter
    assert table["wmh_ml"][5] == pytest.approx(load, rel=2e-3)
    assert set(table["grade"]) == {"3 people", "weak"}  # as in the prior
    bundles = read_references(out / "tracts" / "sub-01_T1w")  # as TractSeg reads them
    assert torch.equal(bundles.data, mask.data)
    together = pd.read_csv(out / "tracts.tsv", sep="\t")
    assert len(together) == 2 * 72
    about = json.loads((out / "tracts.json").read_text())
    assert "do not add" in about["vbmstat"]["additive"]
    assert all("participants table" not in about[name]["Description"] for name in together)
    if names == "bids":
        assert paths["tracts"].with_suffix("").with_suffix(".json").is_file()


def test_sessions_in_bids_names(tmp_path, source):
    scans = write_scans(tmp_path / "scans", 2)
    for number, session in ((1, "a"), (2, "b")):
        (scans / f"sub-0{number}_T1w.nii.gz").rename(scans / f"sub-01_ses-{session}_T1w.nii.gz")
    out = tmp_path / "out"
    preprocess(scans, out, PreprocSpec(device="cpu", names="bids"), process=light)
    assert not tracts.find_tracts(out, source, bundles=True).failures
    table = pd.read_csv(out / "tracts.tsv", sep="\t")
    assert table["scan"].unique().tolist() == ["sub-01_ses-a_T1w", "sub-01_ses-b_T1w"]
    anat = out / "sub-01" / "ses-b" / "anat"
    image = io.read_channels(anat / "sub-01_ses-b_label-tracts_probseg.nii.gz")
    own = pd.read_csv(anat / "sub-01_ses-b_desc-tracts_morph.tsv", sep="\t")
    assert own["volume_ml"].to_numpy() == pytest.approx(image.sums_ml, rel=1e-3)
    assert (out / "tracts" / "sub-01_ses-b_T1w" / "bundle_segmentations" / "UF_left.nii.gz").is_file()


def test_finished_scans_are_kept_and_another_source_replaces_them(tmp_path, source):
    out = finished(tmp_path)
    assert len(tracts.find_tracts(out, source).measured) == 2
    steps = []
    assert len(tracts.find_tracts(out, source, report=lambda *step: steps.append(step)).kept) == 2
    assert steps == [("tracts", done, 2) for done in (0, 1, 2)]  # a bar from the start
    shipped = tracts.source_of(None, None)
    assert len(tracts.find_tracts(out, shipped).measured) == 2
    record = json.loads((out / "report" / "vbmstat_sub-01_T1w.json").read_text())
    assert record["tracts"]["source"] == "tracts72-prior"
    preprocess(
        tmp_path / "scans", out, PreprocSpec(device="cpu", wmh=True), process=light
    )  # the maps are of an old run
    assert not list(out.rglob("*tracts*sub*"))


def test_a_new_preprocess_takes_the_scans_old_tracts_out_of_the_table(tmp_path, source):
    out = finished(tmp_path)
    tracts.find_tracts(out, source)
    first = tmp_path / "scans" / "sub-01_T1w.nii.gz"
    preprocess([first], out, PreprocSpec(device="cpu", wmh=True), process=light)
    assert pd.read_csv(out / "tracts.tsv", sep="\t")["scan"].unique().tolist() == ["sub-02_T1w"]
    assert list(tracts.find_tracts(out, source).measured) == ["sub-01_T1w"]  # the other one is kept
    assert pd.read_csv(out / "tracts.tsv", sep="\t")["scan"].nunique() == 2
    preprocess(tmp_path / "scans", out, PreprocSpec(device="cpu"), process=light, force=True)
    assert not (out / "tracts.tsv").exists()
    assert not (out / "tracts.json").exists()


def test_new_hypointensities_are_counted(tmp_path, source):
    out = finished(tmp_path)
    tracts.find_tracts(out, source)
    volumes = out / "label" / "tracts_sub-01_T1w.tsv"
    assert "wmh_ml" not in pd.read_csv(volumes, sep="\t")
    p2 = io.read_volume(out / "mri" / "p2sub-01_T1w.nii.gz")
    io.write_volume(out / "mri" / "p7sub-01_T1w.nii.gz", Volume(0.5 * p2.data, p2.grid))  # as vbmstat wmh would
    assert list(tracts.find_tracts(out, source).measured) == ["sub-01_T1w"]
    assert (pd.read_csv(volumes, sep="\t")["wmh_ml"] > 0).all()
    assert len(tracts.find_tracts(out, source).kept) == 2


def test_scans_whose_images_are_gone_fail_alone(tmp_path, source):
    out = finished(tmp_path)
    (out / "mri" / "u_sub-01_T1w.nii.gz").unlink()
    result = CliRunner().invoke(app, ["tracts", str(out), "--prior", str(tmp_path / "prior")])
    assert result.exit_code == 1
    assert "tracts found in 1 of 2 scans" in result.output
    assert "u_sub-01_T1w.nii.gz is there; write them with the maps" in result.output


def test_bundles_follow_the_maps(tmp_path, source):
    out = finished(tmp_path)
    tracts.find_tracts(out, source, bundles=True)
    tracts.find_tracts(out, tracts.source_of(None, None))  # another source, without bundles
    mask = io.read_channels(out / "mri" / "tractsmask_sub-01_T1w.nii.gz")
    written = nib.load(out / "tracts" / "sub-01_T1w" / "bundle_segmentations" / "CC.nii.gz")
    assert int(np.asarray(written.dataobj).sum()) == int(mask.data[TRACTS.index("CC")].sum())
    preprocess(tmp_path / "scans", out, PreprocSpec(device="cpu", wmh=True), process=light)
    assert not list((out / "tracts").rglob("*.nii.gz"))


def test_other_thresholds_are_another_source(tmp_path, source):
    out = finished(tmp_path)
    tracts.find_tracts(out, source)
    table = tmp_path / "prior" / "tracts72.tsv"
    pd.read_csv(table, sep="\t").assign(threshold=0.3).to_csv(table, sep="\t", index=False)
    assert len(tracts.find_tracts(out, tracts.source_of(None, tmp_path / "prior")).measured) == 2
    assert (pd.read_csv(out / "label" / "tracts_sub-01_T1w.tsv", sep="\t")["threshold"] == 0.3).all()


def test_scans_without_their_table_do_not_stop_the_others(tmp_path, source):
    out = finished(tmp_path)
    tracts.find_tracts(out, source)
    (out / "label" / "tracts_sub-01_T1w.tsv").unlink()
    (out / "mri" / "u_sub-01_T1w.nii.gz").unlink()
    assert list(tracts.find_tracts(out, source).failures) == ["sub-01_T1w"]
    assert pd.read_csv(out / "tracts.tsv", sep="\t")["scan"].unique().tolist() == ["sub-02_T1w"]


def network_file(folder, names, seed=0):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    settings = {"kind": "tracts", "tracts": names, "n_channels": 2, "depth": 1}
    save_network(folder / "tracts.safetensors", build_tract_network(settings), "tracts", settings)
    return folder


def test_weights_tell_networks_apart(tmp_path):
    one, other = (tracts.source_of(network_file(tmp_path / "run", list(TRACTS), seed), None) for seed in (0, 1))
    assert one.record["sha256"] != other.record["sha256"]
    assert one.record["settings"] == other.record["settings"]
    with pytest.raises(AssetError, match=r"72 tracts .* in their order"):
        tracts.source_of(network_file(tmp_path / "run", list(TRACTS)[::-1]), None)


def test_a_network_gives_probabilities_and_masks_at_one_half(tmp_path, monkeypatch):
    probability = torch.linspace(0, 1, 72).reshape(72, 1, 1, 1).expand(72, *SCAN.shape)
    monkeypatch.setattr(tracts, "predict_tracts", lambda t1w, weights, grid: iter(probability))
    out = finished(tmp_path, wmh=True)
    source = tracts.FromNetwork(tmp_path, {"source": "network", "sha256": ""})
    monkeypatch.setattr(tracts, "source_of", lambda *_: source)
    labels = io.read_volume(out / "mri" / "p0sub-01_T1w.nii.gz")
    labels.data[:, :4] = 0  # no brain there
    io.write_volume(out / "mri" / "p0sub-01_T1w.nii.gz", labels)
    result = CliRunner().invoke(app, ["tracts", str(out), "--weights", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "sub-01_T1w: the masks of 36 of 72 tracts are empty" in result.output
    native = io.read_channels(out / "mri" / "tracts_sub-01_T1w.nii.gz").data
    assert native[:, :4].max() == 0
    assert native[-1, 4:].min() == pytest.approx(1)
    table = pd.read_csv(out / "label" / "tracts_sub-01_T1w.tsv", sep="\t")
    wmh = io.read_volume(out / "mri" / "p7sub-01_T1w.nii.gz")
    wmh.data[:, :4] = 0
    load = probability[:, 0, 0, 0].numpy() * wmh.sums_ml
    assert table["wmh_ml"].to_numpy() == pytest.approx(load, rel=2e-3, abs=wmh.sums_ml[0] / 400)
    assert (table["threshold"] == 0.5).all()
    assert (table["mask_ml"] > 0).to_numpy().tolist() == (probability[:, 0, 0, 0] >= 0.5).tolist()
    template = io.read_channels(out / "mri" / "wtracts_sub-01_T1w.nii.gz")
    assert template.grid.matches(TEMPLATE)
    assert template.data[-1].max() == pytest.approx(1, abs=1e-5)


def test_priors_that_cannot_be_used(tmp_path, source):
    with pytest.raises(ScanError, match=r"no tracts72\.nii\.gz and tracts72\.tsv"):
        read_prior(tmp_path / "nothing")
    table, image = tmp_path / "prior" / "tracts72.tsv", tmp_path / "prior" / "tracts72.nii.gz"
    sound, content = io.read_channels(image), table.read_text()
    pd.read_csv(table, sep="\t").assign(threshold=50).to_csv(table, sep="\t", index=False)
    with pytest.raises(ScanError, match=r"tsv: expected probabilities from 0 to 1, got 50"):
        read_prior(tmp_path / "prior")
    table.write_text(content)
    io.write_volume(image, Volume(100 * sound.data, sound.grid), step=1.0)
    with pytest.raises(ScanError, match=r"gz: expected probabilities from 0 to 1, got 20 to 60"):
        read_prior(tmp_path / "prior")
    io.write_volume(image, sound, step=1.0)
    table.write_text(content.replace("AF_left", "AF_rigth"))
    with pytest.raises(ScanError, match="72 tracts in TractSeg's order"):
        read_prior(tmp_path / "prior")


@pytest.fixture
def person(tmp_path):
    """Masks that are the bright half of an FA map."""
    grid = Grid((12, 14, 12), np.diag([12.0, 12.0, 12.0, 1.0]))
    inside = torch.zeros(1, *grid.shape)
    inside[:, 3:9, 3:10, 3:9] = 1
    write_references(Volume(inside.expand(72, -1, -1, -1), grid), tmp_path / "person")
    io.write_volume(tmp_path / "person" / "FA.nii.gz", Volume(0.6 * inside, grid))
    return tmp_path / "person"


def rewrite_fa(person, change):
    fa = io.read_volume(person / "FA.nii.gz")
    io.write_volume(person / "FA.nii.gz", change(fa))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda fa: Volume(fa.data.flip(1) * 0 + 0.05, fa.grid), "fractional anisotropy"),
        (lambda fa: Volume(fa.data * float("nan"), fa.grid), "fractional anisotropy"),
        (lambda fa: Volume(1000 * fa.data, fa.grid), "fractional anisotropy.* got 600"),
        (lambda fa: Volume(0.6 - fa.data, fa.grid), "are they of one person"),
        (lambda fa: Volume(fa.data, Grid(fa.grid.shape, np.diag([3.0, 3, 3, 1]))), "differs from the FA map's"),
    ],
)
def test_references_that_cannot_be_used(person, change, match):
    rewrite_fa(person, change)
    with pytest.raises(ScanError, match=match):
        tract_prior.person_in_template(person)


def test_a_person_given_twice_and_impossible_widths_are_refused(person, tmp_path):
    with pytest.raises(ScanError, match="the same masks; give each person once"):
        tract_prior.build_prior_folder([person, person / "bundle_segmentations"], tmp_path / "out")
    for width in (-8.0, float("nan")):
        with pytest.raises(ScanError, match="fwhm: expected a width of 0 mm or more"):
            tract_prior.build_prior_folder([person], tmp_path / "out", width)


def test_references_without_fa(person):
    (person / "FA.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"FA\.nii\.gz: no such file"):
        tract_prior.person_in_template(person)
