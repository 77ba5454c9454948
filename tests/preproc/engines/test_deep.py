"""Engine `deep`: published archives and own sets from a scan to its maps; directions of warps; what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.preproc.networks import archives
from tests.preproc.test_pipeline import check_contract
from vbmstat import assets
from vbmstat.assets import downloads
from vbmstat.cli import app
from vbmstat.errors import AssetError, ScanError
from vbmstat.image import io
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.preproc import pipeline
from vbmstat.preproc.engines import deep
from vbmstat.preproc.engines.deep import Deep
from vbmstat.preproc.networks import weights
from vbmstat.preproc.networks.cascade import TissueNetworks, tissue_fractions
from vbmstat.preproc.networks.intensity import brain_range, scale_intensity
from vbmstat.preproc.networks.weights import NetworkSet, find_set
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.working import Brain

SPEC = PreprocSpec(engine="deep", device="cpu")
COARSE = (112, 128, 112)  # 1.5 mm


def by_intensity(network: torch.nn.Module | None = None, refine: bool = False) -> NetworkSet:
    """A set whose whole view knows tissue by its intensity."""
    return NetworkSet(TissueNetworks(archives.ByIntensity(), COARSE), network, refine, {})


class Cascade(TissueNetworks):
    """Networks whose maps stand, as those of a cascade with patches do."""

    is_coarse = False  # type: ignore[assignment]


def check_by_intensity(found: torch.Tensor, phantom) -> None:
    """What the networks say in the template's frame and brought back, against what they say of the scan itself."""
    brain = phantom.image.data * phantom.mask
    p0 = archives.ByIntensity()(scale_intensity(brain, *brain_range(brain))[None])[0, 0]
    for tissue, known in zip(found, tissue_fractions(p0 * phantom.mask), strict=True):
        dice = 2 * (tissue * known).sum() / (tissue.square() + known.square()).sum()
        assert float(dice) > 0.7  # cortex is a voxel thin; there and back are two interpolations


@pytest.fixture
def use(monkeypatch):
    """Run the engine with this set."""

    def use(found: NetworkSet) -> None:
        monkeypatch.setattr(deep, "networks", lambda *_: found)

    return use


@pytest.fixture(scope="module")
def coarse(phantom):
    """Tissues by a set whose view is coarse."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deep, "networks", lambda *_: by_intensity())
        return pipeline.segment_scan(phantom.image, Deep())


def test_tissues_of_a_scan(coarse, phantom):
    assert coarse.engine == "deep"
    assert list(coarse.seconds) == ["brain", "affine", "denoise", "priors", "segment", "quality"]
    assert coarse.was_stripped
    known_ml = Volume(phantom.fractions, phantom.image.grid).sums_ml
    assert coarse.volumes_ml == pytest.approx(known_ml, rel=0.15)
    wm = coarse.corrected.data[coarse.tissues.data[1:2] > 0.9]
    assert float(wm.mean()) == pytest.approx(1.0, abs=0.03)


def test_a_coarse_view_is_a_prior_and_the_cascade_a_result(use, coarse, phantom):
    """The scan's own resolution is finer than 1.5 mm: its classes come nearer to the truth than the networks' maps."""
    use(replace(by_intensity(), tissue=Cascade(archives.ByIntensity(), COARSE)))
    cascade = pipeline.segment_scan(phantom.image, Deep())
    by_classes, by_cascade = (
        float((result.tissues.data - phantom.fractions).abs().mean()) for result in (coarse, cascade)
    )
    assert by_classes < 0.7 * by_cascade


@pytest.mark.slow
def test_a_scan_goes_all_the_way(use, phantom):
    use(by_intensity(archives.Shift([0.0] * 3, [0.0] * 3)))
    result = pipeline.preprocess_scan(phantom.image, SPEC)
    check_contract(result)
    assert result.segmented.engine == "deep"
    assert list(result.seconds) == [
        "brain", "affine", "denoise", "priors", "segment", "quality", "warp", "normalise",
    ]  # fmt: skip
    assert float(result.warp.forward.data.abs().max()) == 0


def test_the_command_hands_the_weights_on(tmp_path, phantom):
    io.write_volume(tmp_path / "sub-01_T1w.nii.gz", phantom.image)
    found = CliRunner().invoke(
        app, ["preprocess", str(tmp_path), "--engine", "deep", "--weights", "nowhere", "--out", str(tmp_path / "out")]
    )
    assert isinstance(found.exception, AssetError)
    assert "there is no folder nowhere" in str(found.exception)


@pytest.mark.slow
def test_own_registration_is_refined(use, simulated):
    use(by_intensity(archives.Shift([0.0, 0.01, 0.0], [0.0] * 3), refine=True))
    t1w = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    check_contract(pipeline.preprocess_scan(t1w, SPEC))


def test_networks_without_training_are_refused_by_what_they_make_of_a_scan(use, phantom, tmp_path):
    """Random weights run from end to end; their tissues have no T1w contrast, and that is said."""
    use(find_set(str(archives.write_own(tmp_path))))
    with pytest.raises(ScanError, match="expected T1w contrast"):
        pipeline.segment_scan(phantom.image, Deep())


def test_random_networks_give_fractions(phantom, tmp_path):
    found = find_set(str(archives.write_own(tmp_path)))
    with torch.inference_mode():
        first, second = (deep.segment(phantom, np.eye(4), phantom.image.grid, found) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == phantom.fractions.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert float(first.sum(0).max()) < 1 + 1e-5
    assert float(first.std()) > 0.01


def test_tissue_of_the_phantom_is_found(phantom):
    found = deep.segment(phantom, np.eye(4), phantom.image.grid, by_intensity())
    check_by_intensity(found, phantom)


def test_a_constant_brain_is_a_bad_scan(phantom):
    flat = Volume(phantom.mask[None].float(), phantom.image.grid)
    with pytest.raises(ScanError, match="intensities that vary"):
        deep.segment(Brain(flat, phantom.mask), np.eye(4), flat.grid, by_intensity())


@pytest.fixture(scope="module")
def tissues():
    """GM and WM of the template, on a coarse grid."""
    template = assets.template()
    grid = template.grid.with_voxel_size(6.0)
    return Volume(resample(template.data[:2], template.grid, grid), grid)


@pytest.mark.parametrize("shape", [None, (11, 15, 13)])
@pytest.mark.parametrize(("forward", "backward"), [(0.1, 0.0), (0.0, -0.1), (0.05, -0.05)])
def test_velocities_become_displacements_in_mm_with_the_inverse(tissues, forward, backward, shape):
    """0.1 of half the field of view in x, normalised (z, y, x): forwards from template to scan; on any view."""
    networks = by_intensity(archives.Shift([0, 0, forward], [0, 0, backward]))
    found = deep.register(tissues, tissues, replace(networks, warp_shape=shape))
    moved_mm = 0.1 * (tissues.grid.shape[0] - 1) / 2 * tissues.grid.voxel_size_mm[0]
    middle = (slice(None), slice(5, -5), slice(5, -5), slice(5, -5))
    expected = torch.tensor([moved_mm, 0, 0], dtype=torch.float32).reshape(3, 1, 1, 1)
    assert torch.allclose(found.forward.data[middle], expected.expand_as(found.forward.data[middle]), atol=1e-3)
    assert torch.allclose(found.inverse.data[middle], -expected.expand_as(found.inverse.data[middle]), atol=1e-3)


def test_a_network_of_coarse_voxels_sees_coarse_tissues(tissues):
    class Look(torch.nn.Module):
        def forward(self, both):
            self.seen = both
            return (torch.zeros_like(both[:, :3]),) * 2

    look = Look()
    found = deep.register(tissues, tissues, replace(by_intensity(look), warp_shape=(11, 15, 13)))
    assert look.seen.shape == (1, 4, 11, 15, 13)
    assert torch.equal(look.seen[:, :2], look.seen[:, 2:])
    assert found.forward.grid.shape == tissues.grid.shape


def test_the_optimisation_starts_at_the_network_s_velocity(monkeypatch):
    started, template = [], assets.template()
    tissues = Volume(template.data[:2], template.grid)
    monkeypatch.setattr(warp, "register_both_ways", lambda *_, start=None: started.append(start))
    deep.register(tissues, tissues, by_intensity(archives.Shift([0, 0, 0.06], [0, 0, -0.04]), refine=True))
    deep.register(tissues, tissues, by_intensity(None))
    assert started[0].shape == (3, *warp.PADDED_SHAPE)
    middle = [n // 2 for n in warp.PADDED_SHAPE]
    assert started[0][:, middle[0], middle[1], middle[2]].tolist() == pytest.approx([0.1 * 56 * 1.5, 0, 0], abs=1e-4)
    assert started[1] is None


def test_the_sidecar_records_the_weights_and_their_hashes(tmp_path):
    folder = archives.write_own(tmp_path, ("segmentation",))
    recorded = Deep(str(folder)).parameters()
    path = weights.own_file(folder, "segmentation")
    assert recorded == {"weights": folder.name, "weights_sha256": {path.name: assets.sha256(path)}}


def test_weights_that_are_not_there_stop_before_a_scan_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path))
    nothing = Volume(torch.zeros(1, 2, 2, 2), Grid((2, 2, 2), np.eye(4)))
    with pytest.raises(AssetError, match="vbmstat assets fetch deepmriprep"):
        pipeline.segment_scan(nothing, Deep("deepmriprep"))


@pytest.mark.slow
def test_published_layout_at_its_full_size(phantom, tmp_path, monkeypatch):
    """21 archives with the published names and shapes, 336 × 384 × 336 voxels, 27 patches, GM mask, warp."""
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path / "cache"))
    patches = {f"segmentation_patch_{n}_model.pt": archives.ByIntensity() for n in range(18)}
    mask = archives.Everywhere(4.0, -4.0)
    made = {"segmentation_model.pt": archives.ByIntensity(), "segmentation_nogm_model.pt": mask}
    downloads.fetch("deepmriprep", str(archives.write_published(tmp_path / "made", {**patches, **made})))
    found = find_set("deepmriprep")
    with torch.inference_mode():
        tissue = deep.segment(phantom, np.eye(4), phantom.image.grid, found)
    check_by_intensity(tissue, phantom)


def test_only_a_coarse_view_takes_priors(use):
    use(by_intensity())
    assert Deep().takes_priors
    use(replace(by_intensity(), tissue=Cascade(archives.ByIntensity(), COARSE)))
    assert not Deep().takes_priors
