"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from tests import hostile
from vbmstat.distributed.pool import Cluster
from vbmstat.distributed.start import open_cluster
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc import pipeline
from vbmstat.preproc.pipeline import preprocess_scan, segment_scan
from vbmstat.preproc.results import Preprocessed, Segmented
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.simulate import Settings, simulate_cohort

Made = TypeVar("Made")


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


@contextmanager
def coarse_figures() -> Iterator[None]:
    """Figures are drawn with few pixels, which is sooner done."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mosaic.DPI", "publication.DPI", "side_by_side.DPI", "worst_case._DPI"):
            patch.setattr(f"vbmstat.figures.{name}", 50)
        yield


@pytest.fixture
def coarse_drawing() -> Iterator[None]:
    """Figures of few pixels."""
    with coarse_figures():
        yield


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
def engine_run(simulated, tmp_path_factory) -> tuple[Segmented, Preprocessed]:
    """That person after the engine `classic`, as far as the tissues and all the way."""

    def make() -> tuple[Segmented, Preprocessed]:
        scan = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
        segmented = segment_scan(scan)
        with pytest.MonkeyPatch.context() as patched:  # to save the time of another segmentation
            patched.setattr(pipeline, "segment_scan", lambda *_: segmented)
            return segmented, preprocess_scan(scan, PreprocSpec(device="cpu"))

    return _made_once("engine_run", tmp_path_factory, make)


@pytest.fixture(scope="session")
def segmented(engine_run) -> Segmented:
    """The tissues alone."""
    return engine_run[0]


@pytest.fixture(scope="session")
def preprocessed(engine_run) -> Preprocessed:
    """The result of the whole engine, which went on from that segmentation."""
    return engine_run[1]


def _made_once(name: str, tmp_path_factory: pytest.TempPathFactory, make: Callable[[], Made]) -> Made:
    """What `make` returns; of several test processes (pytest-xdist) the first makes it, and the others read it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make()
    path = tmp_path_factory.getbasetemp().parent / f"{name}.pt"  # the folder that the processes share
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            made = make()
            torch.save(made, path)
            return made
    return torch.load(path, weights_only=False)
