"""What is asked of preprocessing: checked when it is built, recorded, and read again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vbmstat.errors import AssetError, VbmstatError
from vbmstat.files.outputs import BEFORE_SETS, OUTPUTS
from vbmstat.image.grid import Grid
from vbmstat.preproc.engines.cat import Cat
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.engines.deep import Deep
from vbmstat.preproc.spec import PreprocSpec, find_engine


@pytest.mark.parametrize(
    ("spec", "engine", "label", "workload"),
    [
        ({}, Classic(), "classic", "classic"),
        ({"engine": "cat"}, Cat(), "cat", "cat"),
        ({"engine": "deep"}, Deep("vbmstat"), "deep:vbmstat", "deep"),
        ({"engine": "deep", "weights": "runs/mine"}, Deep("runs/mine"), "deep:mine", "deep cascade"),
    ],
)
def test_a_spec_has_its_engine(spec, engine, label, workload):
    found = PreprocSpec(**spec).find_engine()
    assert found == engine
    assert (found.label, found.workload) == (label, workload)


def test_classic_adds_nothing_to_its_sidecar():
    assert Classic().parameters() == {}


@pytest.mark.parametrize(
    ("given", "widths"),
    [(6, (6.0,)), ([8, 6.0, 8.0], (6.0, 8.0)), ((7.5,), (7.5,)), (0, ()), ([0.0], ()), ((), ()), ([], ())],
)
def test_widths_are_ascending_and_single(given, widths):
    assert PreprocSpec(fwhm_mm=given).fwhm_mm == widths


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "spm"}, "expected engine classic, cat or deep, got 'spm'"),
        ({"weights": "mine"}, "expected weights only for engine deep, got 'mine' for classic"),
        ({"names": "spm"}, "expected names cat12 or bids, got 'spm'"),
        ({"fwhm_mm": -1}, "expected FWHM of 0.1 to 50 mm .*got -1"),
        ({"fwhm_mm": (0, 8)}, "got 0, 8"),
        ({"fwhm_mm": float("nan")}, "got nan"),
        ({"fwhm_mm": 60}, "got 60"),
        ({"fwhm_mm": 6.123}, "at most two decimals"),
        ({"fwhm_mm": "wide"}, "got nan"),
        ({"voxel_size_mm": 1.2}, "expected a voxel size of the template maps of 1, 1.5, 2 mm, got 1.2"),
        ({"outputs": "p0,mwp1"}, "got 'mwp1'"),
        ({"wmh_as": "gm"}, "expected wmh_as wm or class or none, got 'gm'"),
        ({"lesion_in_maps": "drop"}, "expected lesion_in_maps exclude or keep, got 'drop'"),
        ({"engine": "cat", "lesion_mask": "a.nii"}, "a lesion mask needs engine classic: the fits of cat cannot leave"),
        (
            {"engine": "deep", "lesion_mask": "a.nii"},
            "a lesion mask needs engine classic: the fits of deep cannot leave",
        ),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(VbmstatError, match=message):
        PreprocSpec(**given)


def test_a_record_gives_the_spec_again_and_names_no_folder():
    spec = PreprocSpec(engine="deep", device="cpu", fwhm_mm=(8, 4), names="bids")
    assert PreprocSpec.from_record(json.loads(json.dumps(spec.record()))) == spec
    private = PreprocSpec(engine="deep", weights="/home/chris/nets", device="cuda:1").record()
    assert (private["weights"], private["device"]) == ("nets", "cuda")


@pytest.mark.parametrize(
    "content", [None, [], {}, {"engine": "classic"}, {**PreprocSpec().record(), "device": 1, "more": 2}]
)
def test_what_is_not_the_record_of_a_spec(content):
    with pytest.raises(VbmstatError, match="expected a spec with engine, weights, device, fwhm_mm, names"):
        PreprocSpec.from_record(content)


def test_engines_by_name():
    assert find_engine("deep") == Deep()
    with pytest.raises(VbmstatError, match="got 'depp'"):
        find_engine("depp")


def test_lesions_are_recorded_and_older_records_are_read():
    spec = PreprocSpec(wmh=True, wmh_as="class", lesion_mask="/data/me/{name}_mask.nii.gz", lesion_in_maps="keep")
    record = json.loads(json.dumps(spec.record()))
    assert record["lesion_mask"] == "{name}_mask.nii.gz"  # no folder of the user's
    again = PreprocSpec.from_record(record)
    assert (again.wmh, again.wmh_as, again.lesion_in_maps) == (True, "class", "keep")
    old = {name: record[name] for name in ("engine", "weights", "device", "fwhm_mm", "names")}
    assert PreprocSpec.from_record(old) == PreprocSpec(outputs=BEFORE_SETS)


def test_outputs_and_voxels_are_recorded_and_older_records_have_what_was_written_then():
    spec = PreprocSpec(outputs="minimal, wj", voxel_size_mm=1)
    record = json.loads(json.dumps(spec.record()))
    assert (record["outputs"], record["voxel_size_mm"]) == (["wj"], 1.0)
    assert PreprocSpec.from_record(record) == spec
    old = {name: entry for name, entry in record.items() if name not in ("outputs", "voxel_size_mm", "template")}
    assert PreprocSpec.from_record(old).outputs == BEFORE_SETS
    assert PreprocSpec(outputs="all").record()["outputs"] == list(OUTPUTS)
    assert "p7" in replace(PreprocSpec(), wmh=True).outputs
    for asked in ("p1,p7", ("p7",)):
        with pytest.raises(VbmstatError, match="add --wmh"):
            PreprocSpec(outputs=asked)


def test_engines_without_a_velocity_write_the_deformation():
    over = {"template": "children"}
    ways = ({"engine": "cat"}, {"engine": "deep", "weights": "deepmriprep"}, over, {"engine": "deep", **over})
    for options in ways:
        assert {"y", "velocity"} & set(PreprocSpec(**options).outputs) == {"y"}
        names = r"cat|deep:deepmriprep|(classic|deep:vbmstat) with a group template"
        with pytest.raises(VbmstatError, match=rf"^engine ({names}) has no velocity"):
            PreprocSpec(**options, outputs="velocity")
    assert "velocity" in PreprocSpec(engine="deep").outputs


@pytest.mark.parametrize(("size_mm", "shape"), [(1, (169, 205, 169)), (1.5, (113, 137, 113)), (2, (85, 103, 85))])
def test_maps_of_other_voxels_are_on_cat12_s_grids(size_mm, shape):
    template = Grid((113, 137, 113), np.array([[1.5, 0, 0, -84], [0, 1.5, 0, -120], [0, 0, 1.5, -72], [0, 0, 0, 1]]))
    grid = PreprocSpec(voxel_size_mm=size_mm).grid_of_maps(template)
    assert grid.shape == shape
    np.testing.assert_allclose(grid.corners_mm, template.corners_mm)


def test_a_group_template_is_recorded_by_its_name_and_older_records_have_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = PreprocSpec(template="children")
    assert spec.template == str(tmp_path / "children")  # also for workers elsewhere
    assert spec.find_engine().template == spec.template
    record = json.loads(json.dumps(spec.record()))
    assert record["template"] == "children"
    assert PreprocSpec.from_record(record) == spec
    old = {name: entry for name, entry in PreprocSpec().record().items() if name != "template"}
    assert PreprocSpec.from_record(old) == PreprocSpec()
    with pytest.raises(AssetError, match=r"template\.json: expected the record of a group template"):
        spec.parameters()


def test_the_plan_of_lesions_has_the_scan_s_mask():
    plan = PreprocSpec(wmh=True, wmh_as="none", lesion_in_maps="keep").lesion_plan()
    assert (plan.wmh, plan.wmh_as, plan.in_maps, plan.mask) == (True, "none", "keep", None)


def test_hypointensities_add_their_network_to_the_sidecar():
    assert PreprocSpec().parameters() == {}
    assert PreprocSpec(wmh=True, wmh_weights="none").parameters() == {"wmh_weights": "none"}
    with pytest.raises(VbmstatError, match=r"missing\.safetensors"):
        PreprocSpec(wmh=True, wmh_weights="missing.safetensors").parameters()


def test_longitudinal_models_are_recorded_only_where_they_are_asked_for():
    assert PreprocSpec().models == ()
    assert "longitudinal" not in PreprocSpec().record()
    assert PreprocSpec(longitudinal=True) == PreprocSpec(longitudinal="both")
    assert PreprocSpec(longitudinal=False) == PreprocSpec()
    spec = PreprocSpec(longitudinal="ageing")
    assert spec.models == ("ageing",)
    assert PreprocSpec.from_record(json.loads(json.dumps(spec.record()))) == spec
    with pytest.raises(VbmstatError, match="expected a longitudinal model plasticity, ageing, both, got 'growth'"):
        PreprocSpec(longitudinal="growth")
    with pytest.raises(VbmstatError, match="lesion masks are only for single scans"):
        PreprocSpec(longitudinal="both", lesion_mask="x.nii")
