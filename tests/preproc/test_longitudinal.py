"""A small phantom scanned thrice, by an engine whose priors and warp are the template's own; and single structures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.preproc.steps.test_groupwise import POSES, SMALL, largest_error_mm, pose, seen_from, small
from tests.preproc.steps.test_within_person import ball
from vbmstat import assets
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.image import deform
from vbmstat.image.grid import resample
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc import longitudinal, pipeline
from vbmstat.preproc.engines.classic import Classic, Start
from vbmstat.preproc.lesions import LesionPlan, Lesions
from vbmstat.preproc.longitudinal import AGEING, PLASTICITY, Person, preprocess_person
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.priors import tissue_priors

SPEC = PreprocSpec(device="cpu")
YEARS = (2001.5, 2003.0, 2004.5)


def no_warp() -> warp.Warp:
    grid = assets.template().grid
    still = Displacement(torch.zeros(3, *grid.shape), grid)
    return warp.Warp(still, still)


class Plain(Classic):
    """No denoising, priors by the linear matrix, no warp: fast."""

    def denoise(self, brain):
        return brain

    def start(self, raw, work, template, linear):
        del raw
        prior = tissue_priors(template, linear, work.image.grid)
        return Start(prior, linear, torch.zeros(3, *warp.PADDED_SHAPE))

    def register(self, tissues, template, velocity):
        del tissues, template, velocity
        return no_warp()


@pytest.fixture(scope="module")
def scans(phantom) -> list[Volume]:
    return [seen_from(small(phantom), pose(each), seed).image for seed, each in enumerate(POSES)]


@pytest.fixture(scope="module")
def run(scans):
    """Preprocess scans of the phantom; the template is coarse, the registration known but for a millimetre."""
    known = {scan.data.sum().item(): pose(each) for scan, each in zip(scans, POSES, strict=True)}
    error = SMALL @ np.diag([1.02, 1.0, 0.99, 1.0])
    error[:3, 3] = (0.3, -0.3, 0.2)
    template, coarse = assets.template(), assets.template().grid.with_voxel_size(3.0)
    small_template = Volume(resample(template.data, template.grid, coarse), coarse)

    def preprocess(*args, **more) -> Person:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assets, "template", lambda: small_template)
            patch.setattr(PreprocSpec, "grid_of_maps", lambda _, grid: grid)
            patch.setattr(pipeline.linear, "register_brain", lambda scan, *_: known[scan.data.sum().item()] @ error)
            patch.setattr(PreprocSpec, "find_engine", lambda _: Plain())
            return preprocess_person(*args, **more)

    return preprocess


@pytest.fixture(scope="module")
def person(run, scans) -> Person:
    return run(scans, SPEC, years=YEARS)


@pytest.fixture(scope="module")
def reversed_(run, scans) -> Person:
    return run(scans[::-1], SPEC, years=YEARS)


def test_maps_of_both_models_hold_the_volumes_of_their_time_point(person):
    for each in person.time_points:
        volumes_ml = each.preprocessed.segmented.volumes_ml
        assert each.preprocessed.modulated.sums_ml == pytest.approx(volumes_ml, rel=0.01)
        assert each.aged.sums_ml == pytest.approx(volumes_ml, rel=0.01)
        assert each.aged_smoothed[6.0].sums_ml[0] == pytest.approx(volumes_ml[0], rel=0.02)


def test_nothing_has_changed(person):
    first, second = (each.preprocessed.modulated.data[0] for each in person.time_points[:2])
    inside = first + second > 0.4
    change = (second[inside] / first[inside]).log()
    assert abs(float(change.median())) < 0.003
    assert float(change.std()) < 0.15


def test_time_points_are_where_they_were_scanned(person):
    rigids = [each.rigid for each in person.time_points]
    first, second = (pose(each) for each in POSES[:2])
    assert largest_error_mm(rigids[1] @ np.linalg.inv(rigids[0]) @ first, second) < 0.1
    for each in person.time_points:
        assert each.similarity > 0.97
        assert each.residual_mm < 0.01
        assert each.bias_percent > 5
        ratio = np.linalg.inv(each.rigid) @ each.preprocessed.segmented.linear
        shared = np.linalg.inv(rigids[0]) @ person.time_points[0].preprocessed.segmented.linear
        assert np.allclose(ratio, shared)


def test_the_order_of_the_scans_changes_no_byte_and_mirrors_the_rates(person, reversed_):
    for one, other in zip(person.time_points, reversed_.time_points[::-1], strict=True):
        assert torch.equal(one.preprocessed.modulated.data, other.preprocessed.modulated.data)
        assert torch.equal(one.aged.data, other.aged.data)
        assert np.array_equal(one.rigid, other.rigid)
    assert torch.equal(person.average.data, reversed_.average.data)
    assert torch.allclose(person.rate.data, -reversed_.rate.data, atol=1e-5 * float(person.rate.data.abs().max()))
    first, _, last = (each.aged.sums_ml[:2] for each in person.time_points)
    slope = sum((after - before) / 3.0 for before, after in zip(first, last, strict=True))
    assert float(person.rate.data.sum()) == pytest.approx(slope, abs=1e-3)


def structure(volume: Volume) -> SimpleNamespace:
    """What the ageing maps need of a time point that is linearly aligned and not warped."""
    segmented = SimpleNamespace(fractions=volume, linear=np.eye(4), lesions=Lesions(LesionPlan()), maps=volume)
    warped, modulated = pipeline.normalise(volume, deform.deformation(no_warp().forward, np.eye(4)), volume.grid)
    return SimpleNamespace(segmented=segmented, warp=no_warp(), warped=warped, modulated=modulated)


def test_ageing_moves_a_displaced_structure_back_and_plasticity_shows_bands():
    grid = assets.template().grid
    before, after = structure(ball(grid, -0.5)), structure(ball(grid, 0.5))
    aged = longitudinal._ageing_maps([before, after], None, PreprocSpec(device="cpu"))
    moved = after.modulated.data[0] - before.modulated.data[0]
    back = aged[1].data[0] - aged[0].data[0]
    assert float(moved.max()) > 0.3
    assert float(moved.min()) < -0.3
    assert float(back.abs().sum()) < 0.2 * float(moved.abs().sum())
    for model in (aged, [before.modulated, after.modulated]):
        assert model[1].sums_ml[0] == pytest.approx(model[0].sums_ml[0], rel=1e-3)


def test_a_scan_of_another_head_is_refused_by_its_name():
    with pytest.raises(ScanError, match=r"^time point 2: not the same head as the other scans \(r = 0\.31"):
        longitudinal._check_same_head([0.98, 0.31, 0.97], ["time point 1", "time point 2", "time point 3"])
    with pytest.raises(ScanError, match=r"^time point 1 and time point 2: not the same head"):
        longitudinal._check_same_head([0.31, 0.31], ["time point 2", "time point 1"])


def test_an_error_names_the_time_point(run, scans):
    empty = Volume(torch.zeros_like(scans[0].data), scans[0].grid)
    with pytest.raises(ScanError, match="time point 2: expected a T1w image, but every voxel is 0"):
        run([scans[0], empty], SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scans": 1}, "expected two or more scans of a person, got 1"),
        ({"models": ("growth",)}, "expected models plasticity or ageing, got growth"),
        ({"years": [1.0]}, "expected a date in years for each of 2 scans"),
        ({"years": [1.0, float("nan")]}, "expected a date in years for each of 2 scans"),
        ({"spec": PreprocSpec(lesion_mask="lesion.nii.gz")}, "lesion masks cannot be used with repeated scans"),
    ],
)
def test_refusals_come_before_any_work(scans, change, message):
    given = {"spec": SPEC, "models": (PLASTICITY, AGEING), **change}
    given["scans"] = scans[: given.get("scans", 2)]
    with pytest.raises(VbmstatError, match=message):
        preprocess_person(**given)


def test_an_engine_without_priors_is_refused(scans, monkeypatch):
    class Alone(Plain):
        takes_priors = False

    monkeypatch.setattr(PreprocSpec, "find_engine", lambda _: Alone())
    with pytest.raises(
        VbmstatError, match="engine classic takes no priors, so time points cannot start from their average"
    ):
        preprocess_person(scans, SPEC)
