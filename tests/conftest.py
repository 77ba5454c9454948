"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from tests import hostile
from vbmstat.distributed.pool import Cluster
from vbmstat.distributed.start import open_cluster
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc import pipeline
from vbmstat.preproc.pipeline import Preprocessed, Segmented, preprocess_scan, segment_scan
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.simulate import Settings, simulate_cohort


def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped, visibly, where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def volume() -> Volume:
    """A small image without symmetry, 2 × 1.5 × 3 mm, RAS+."""
    return Volume(torch.from_numpy(hostile.phantom())[None], Grid(hostile.SHAPE, hostile.AFFINE))


@pytest.fixture
def stored_as():
    """The same image as another axis order stores it: ``stored_as(data, affine, "PIR")``."""

    def store(data: np.ndarray, affine: np.ndarray, axcodes: str) -> nib.Nifti1Image:
        change = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
        return nib.Nifti1Image(apply_orientation(data, change), affine @ inv_ornt_aff(change, data.shape))

    return store


@pytest.fixture(scope="session")
def local() -> Iterator[Cluster]:
    """Two worker processes of this machine, started once."""
    with open_cluster("local", workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """A BIDS folder with one simulated person of 2 mm, and the truth about them."""
    return simulate_cohort(
        tmp_path_factory.mktemp("simulated") / "bids", Settings(1, voxel_size_mm=2.0, seed=1), write_maps=True
    )


@pytest.fixture(scope="session")
def segmented(simulated) -> Segmented:
    """That person after the engine `classic`, as far as the tissues."""
    return segment_scan(io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz"))


@pytest.fixture(scope="session")
def preprocessed(simulated, segmented) -> Preprocessed:
    """The same after the whole engine, which goes on from that segmentation here, to save the time of another."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "segment_scan", lambda *_: segmented)
        scan = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
        return preprocess_scan(scan, PreprocSpec(device="cpu"))
