from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files import search
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, sample, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.simulate import Settings, Sphere, parse_region, render_t1w, simulate_cohort, tissue_labels
from vbmstat.simulate import anatomy as shape_of
from vbmstat.simulate.cohort import _TEMPLATE_TIV_ML, AGE_SD_YEARS, draw_participants, gm_factor, simulate_person
from vbmstat.simulate.labels import INTENSITY, TISSUE
from vbmstat.simulate.render import STRUCTURE_SD, WM_INTENSITY
from vbmstat.tables import cohort

SHAPE = (40, 40, 40)


def nested_boxes() -> Volume:
    """Skin, bone, CSF, cortex and WM from outside to inside; a spinal canal below, loose CSF in one corner."""
    labels = torch.zeros(SHAPE)
    for start, label in ((4, 511), (6, 515), (8, 24), (11, 3), (15, 2)):
        labels[start : 40 - start, start : 40 - start, start : 40 - start] = label
    labels[18:22, 18:22, 0:8] = 24  # canal, open to the CSF around the brain
    labels[0:2, 0:2, 38:40] = 24
    return Volume(labels[None], Grid(SHAPE, np.eye(4)))


def test_tissue_of_each_label_is_the_documented_one() -> None:
    expected = {2: 3, 16: 3, 28: 3, 77: 3, 3: 2, 10: 2, 13: 2, 17: 2, 47: 2, 24: 1, 4: 1, 15: 1, 31: 1, 515: 0, 512: 0}
    assert {label: TISSUE[label] for label in expected} == expected


def test_csf_below_the_brain_and_loose_csf_are_not_brain() -> None:
    tissue = tissue_labels(nested_boxes()).data[0]
    assert tissue[20, 20, 20] == 3
    assert tissue[20, 20, 12] == 2
    assert tissue[9, 20, 20] == 1  # between cortex and bone
    assert tissue[20, 20, 4] == 0  # spinal canal
    assert tissue[0, 0, 39] == 0  # loose
    assert tissue[6, 20, 20] == 0  # bone


def test_the_canal_is_below_in_every_axis_order() -> None:
    labels = nested_boxes()
    flipped = Volume(labels.data.flip(3), Grid(SHAPE, np.diag([1.0, 1.0, -1.0, 1.0])))
    assert torch.equal(tissue_labels(flipped).data, tissue_labels(labels).data.flip(3))


def test_unknown_label_is_named() -> None:
    labels = nested_boxes()
    labels.data[0, 20, 20, 20] = 999
    with pytest.raises(ScanError, match="unknown values 999"):
        tissue_labels(labels)


def test_without_noise_bias_texture_and_blur_each_structure_has_its_mean() -> None:
    labels = nested_boxes()
    image = render_t1w(labels, noise_percent=0, bias_percent=0, texture_percent=0, psf_fwhm_mm=0).data / WM_INTENSITY
    for label in (2, 3, 24, 515):
        values = image[labels.data == label]
        assert values.std() < 1e-5
        assert abs(float(values[0]) - INTENSITY[label]) < 5 * STRUCTURE_SD
    assert image[labels.data == 0].abs().max() == 0


def test_noise_has_the_requested_sigma_and_is_rician() -> None:
    labels = nested_boxes()
    image = render_t1w(labels, noise_percent=5, bias_percent=0, texture_percent=0, psf_fwhm_mm=0).data / WM_INTENSITY
    assert float(image[labels.data == 2].std()) == pytest.approx(0.05, rel=0.05)
    air = image[labels.data == 0]  # Rayleigh: mean sigma sqrt(pi / 2)
    assert float(air.mean()) == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.02)


def test_bias_spans_the_requested_range_over_the_brain() -> None:
    labels = nested_boxes()
    quiet = {"noise_percent": 0, "texture_percent": 0, "psf_fwhm_mm": 0}
    ratio = render_t1w(labels, bias_percent=40, **quiet).data / render_t1w(labels, bias_percent=0, **quiet).data
    inside = ratio[tissue_labels(labels).data > 0]
    assert float(inside.min()) == pytest.approx(0.8, abs=1e-3)
    assert float(inside.max()) == pytest.approx(1.2, abs=1e-3)


def test_same_seed_same_image_and_every_keyword_matters() -> None:
    labels = nested_boxes()
    first = render_t1w(labels).data
    assert torch.equal(first, render_t1w(labels).data)
    for change in (
        {"seed": 1}, {"noise_percent": 1.0}, {"bias_percent": 10.0}, {"texture_percent": 9.0}, {"psf_fwhm_mm": 3.0},
    ):  # fmt: skip
        assert not torch.allclose(first, render_t1w(labels, **change).data, atol=1.0), change


def test_exponential_of_a_constant_velocity_is_that_translation() -> None:
    velocity = torch.zeros(3, 8, 9, 10)
    velocity[1] = 2.5
    on = Grid((8, 9, 10), np.diag([2.0, 3.0, 4.0, 1.0]))
    assert torch.allclose(shape_of.exponential(velocity, on), velocity, atol=1e-5)


def test_exponential_of_the_negative_velocity_undoes_it() -> None:
    on = Grid((32, 32, 32), np.diag([4.0, 4.0, 4.0, 1.0]))
    rng = np.random.default_rng(0)
    velocity = torch.from_numpy(np.stack([3.0 * shape_of.smooth_noise(on, 40.0, rng) for _ in range(3)]))
    there, back = shape_of.exponential(velocity, on), shape_of.exponential(-velocity, on)
    at = voxel_indices(on.shape) + there / 4.0
    left_over = (there + sample(back, at, padding_mode="border"))[:, 6:-6, 6:-6, 6:-6]
    assert there.abs().max() > 6.0
    assert left_over.abs().max() < 0.4
    assert float(Displacement(there, on).jacobian_determinant.min()) > 0


def region_gm(scores: torch.Tensor, weight: torch.Tensor, shift: float) -> float:
    moved = scores.clone()
    moved[2] += shift * weight
    return float((torch.softmax(moved, 0)[0] * weight).sum())


@pytest.mark.parametrize("factor", [0.65, 0.9, 1.03])
def test_shift_changes_the_regions_gm_by_exactly_the_factor(factor: float) -> None:
    head = shape_of.template_head()
    region = Sphere((-38.0, 4.0, 2.0), 16.0)
    weight = region.weight(apply_affine(head.grid.affine, voxel_indices(head.grid.shape)))
    shift = shape_of.csf_shift(head.scores, weight, factor)
    before, after = region_gm(head.scores, weight, 0.0), region_gm(head.scores, weight, shift)
    assert after / before == pytest.approx(factor, abs=1e-4)


def test_impossible_effect_says_what_is_possible() -> None:
    head = shape_of.template_head()
    weight = torch.zeros(head.grid.shape)
    weight[80, 100, 90] = 1.0
    with pytest.raises(VbmstatError, match="can change by"):
        shape_of.csf_shift(head.scores, weight, 3.0)


def test_effect_is_local_and_takes_gm_to_csf() -> None:
    settings = Settings(1, voxel_size_mm=3.0)
    (without, before), (with_effect, after) = (simulate_person(settings, 0, f, 1500.0) for f in (1.0, 0.7))
    rng = np.random.default_rng([settings.seed, 0, 0])
    shape = shape_of.random_shape(shape_of.template_head(), rng, 1500.0 / _TEMPLATE_TIV_ML)
    weight = settings.region.weight(shape.to_template(without.grid)).numpy()
    outside = torch.from_numpy(~ndimage.binary_dilation(weight > 0, iterations=2))  # reach of the interpolation
    assert torch.equal(without.fractions[:, outside], with_effect.fractions[:, outside])
    assert after["region_gm_ml"] / before["region_gm_ml"] == pytest.approx(0.7, abs=0.06)
    lost_ml = before["gm_ml"] - after["gm_ml"]
    assert lost_ml > 1.5
    assert after["csf_ml"] - before["csf_ml"] == pytest.approx(lost_ml, rel=0.25)
    assert after["tiv_ml"] == pytest.approx(before["tiv_ml"], rel=1e-6)
    assert before["tiv_ml"] == pytest.approx(1500.0, rel=0.06)
    assert before["smallest_jacobian"] > 0


def test_participants_are_balanced_reproducible_and_span_the_ages() -> None:
    people = draw_participants(Settings(40, seed=3))
    assert people.equals(draw_participants(Settings(40, seed=3)))
    assert not people["age"].equals(draw_participants(Settings(40, seed=4))["age"])
    assert people["sex"].value_counts().to_dict() == {"F": 20, "M": 20}
    assert people["age"].between(20, 80).all()
    assert people["age"].std(ddof=0) == pytest.approx(AGE_SD_YEARS, rel=0.05)
    tiv_ml = draw_participants(Settings(4000)).groupby("sex")["tiv_aim_ml"].mean()
    assert tiv_ml["M"] - tiv_ml["F"] == pytest.approx(150.0, abs=15.0)  # standard error 3.5


def test_variation_scales_shape_and_tissue_but_not_pose() -> None:
    head = shape_of.template_head()
    plain, calm = (shape_of.random_shape(head, np.random.default_rng(0), 0.8, v) for v in (1.0, 0.0))
    assert plain.displacement.abs().max() > 3.0
    assert calm.displacement.abs().max() == 0
    assert np.linalg.det(calm.linear) == pytest.approx(1 / 0.8)
    assert np.allclose(np.linalg.svd(calm.linear[:3, :3])[1], 0.8 ** (-1 / 3))  # a similarity
    assert torch.equal(shape_of.own_scores(head, np.random.default_rng(0), 0.0), head.scores)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("simulated") / "bids"
    settings = Settings(1, effect_percent=-12.0, voxel_size_mm=4.0, seed=7)
    seen: list[tuple[int, int]] = []
    simulate_cohort(out, settings, write_maps=True, report=lambda done, n: seen.append((done, n)))
    assert seen == [(1, 1)]
    return out, settings


def test_the_folder_is_a_bids_dataset_that_preprocess_finds(dataset) -> None:
    out, _ = dataset
    scans = search.find_inputs([out]).scans
    assert [scan.participant_id for scan in scans] == ["sub-01"]
    people = cohort.read_cohort(out / "participants.tsv").table
    assert list(people.columns) == ["age", "sex"]
    image = io.read_volume(scans[0].path)
    assert tuple(image.grid.voxel_size_mm) == (4.0, 4.0, 4.0)
    assert 500 < float(image.data.max()) < 2000
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "raw"


def test_the_truth_is_what_the_maps_hold(dataset) -> None:
    out, settings = dataset
    truth = out / "derivatives" / "truth"
    volumes = pd.read_csv(truth / "volumes.tsv", sep="\t", dtype={"participant_id": str})
    gm = io.read_volume(truth / "sub-01" / "anat" / "sub-01_label-GM_probseg.nii.gz")
    assert gm.sums_ml[0] == pytest.approx(volumes["gm_ml"][0], rel=1e-4)
    assert np.allclose(volumes["region_gm_factor"], [gm_factor(age, -12.0) for age in volumes["age"]], atol=1e-5)
    mask = io.read_volume(truth / "effect_mask.nii.gz")
    ball_ml = 4 / 3 * np.pi * settings.region.radius_mm**3 / 1000
    assert mask.sums_ml[0] == pytest.approx(ball_ml, rel=0.01)
    change = io.read_volume(truth / "effect_gm_change_per_sd.nii.gz")
    assert mask.grid.matches(change.grid)
    assert float(change.data.max()) <= 1e-6
    assert float(change.data.min()) < -0.05
    assert json.loads((truth / "ground_truth.json").read_text())["settings"]["seed"] == 7


def test_same_settings_same_bytes_and_noise_leaves_the_truth(dataset, tmp_path) -> None:
    out, settings = dataset
    path = "sub-01/anat/sub-01_T1w.nii.gz"
    again = simulate_cohort(tmp_path / "again", settings)
    assert (again / path).read_bytes() == (out / path).read_bytes()
    noisy = simulate_cohort(tmp_path / "noisy", Settings(1, -12.0, voxel_size_mm=4.0, seed=7, noise_percent=9.0))
    assert (noisy / path).read_bytes() != (out / path).read_bytes()
    volumes = "derivatives/truth/volumes.tsv"
    assert (noisy / volumes).read_text() == (out / volumes).read_text()


def test_an_existing_folder_is_not_overwritten_unasked(dataset, tmp_path) -> None:
    out, settings = dataset
    with pytest.raises(VbmstatError, match="already holds a simulated cohort"):
        simulate_cohort(out, settings)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(VbmstatError, match="not a simulated cohort"):
        simulate_cohort(tmp_path, settings, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_cohort_that_was_cut_short_says_so_and_can_be_replaced(tmp_path) -> None:
    def stop(_done: int, _n: int) -> None:
        raise KeyboardInterrupt

    settings = Settings(1, voxel_size_mm=4.0)
    with pytest.raises(KeyboardInterrupt):
        simulate_cohort(tmp_path, settings, report=stop)
    truth = tmp_path / "derivatives/truth/ground_truth.json"
    assert json.loads(truth.read_text())["complete"] is False
    simulate_cohort(tmp_path, settings, overwrite=True)
    assert json.loads(truth.read_text())["complete"] is True


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"n_scans": 0}, "n_scans"), ({"voxel_size_mm": 9.0}, "voxel_size_mm"), ({"noise_percent": -1.0}, "noise_perc")],
)
def test_settings_out_of_range_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(VbmstatError, match=message):
        Settings(**{"n_scans": 2, **wrong})


def test_region_text_is_checked() -> None:
    assert parse_region("1,2,3,10") == Sphere((1.0, 2.0, 3.0), 10.0)
    with pytest.raises(VbmstatError, match="x,y,z,radius"):
        parse_region("1,2,3")


def test_command_passes_its_options_on(tmp_path) -> None:
    from vbmstat.cli import app  # noqa: PLC0415

    place = "--effect -6 --region 30,-20,0,10 --voxel-size 4 --maps"
    options = f"--n 1 {place} --noise 1 --bias 20 --variation 0.5 --seed 5".split()
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    made = json.loads((tmp_path / "out/derivatives/truth/ground_truth.json").read_text())["settings"]
    assert made == {
        "n_scans": 1, "effect_percent": -6.0, "region": {"centre_mm": [30.0, -20.0, 0.0], "radius_mm": 10.0},
        "voxel_size_mm": 4.0, "noise_percent": 1.0, "bias_percent": 20.0, "variation": 0.5, "seed": 5,
    }  # fmt: skip
    assert len(list((tmp_path / "out/derivatives/truth").rglob("*_probseg.nii.gz"))) == 3
