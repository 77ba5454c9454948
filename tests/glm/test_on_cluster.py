"""Fits and permutations on worker processes: the same bits as in one process, whatever dies on the way."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import LocalCluster
from scipy import ndimage
from typer.testing import CliRunner

from vbmstat.cli import app
from vbmstat.errors import ClusterError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import Contrast, build_contrasts
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit import stream
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.fit.tile import Fit, Fitted
from vbmstat.glm.inference.permute import run
from vbmstat.glm.inference.permute.blocks import free_tree
from vbmstat.glm.inference.permute.checkpoint import Checkpoint
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.store import PackedMaps, Scratch

SHAPE = (18, 20, 17)
GRID = Grid(SHAPE, np.array([[3.0, 0, 0, -27], [0, 3.0, 0, -30], [0, 0, 3.0, -25], [0, 0, 0, 1]]))
N_SCANS = 24
WITH_MAPS = NullSettings(True, True, 2.0)
ARRAYS = ("statistic", "effect", "variance", "residual_variance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Maps of two tissues with an effect of age, seven tiles of voxels in the mask, and their cohort table."""
    where = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "participant_id": [f"sub-{i:02d}" for i in range(N_SCANS)], "age": rng.uniform(20, 80, N_SCANS).round(1),
        "sex": np.array(["F", "M"])[np.arange(N_SCANS) % 2], "family": [f"f{i // 2}" for i in range(N_SCANS)],
        "tiv_ml": rng.normal(1400, 90, N_SCANS).round(1), "engine": "classic", "vbmstat_version": "0.1.0",
    })  # fmt: skip
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    for column, level in (("s6mwp1", 0.5), ("s6mwp2", 0.4)):
        table[column] = [f"{column}{scan}.nii.gz" for scan in table["participant_id"]]
        for path, age in zip(table[column], table["age"], strict=True):
            noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1)
            values = inside * (level - 0.001 * (age - 50) * (axes[0] > 0) + 0.1 * noise)
            write_volume(where / path, Volume(torch.from_numpy(values).float()[None], GRID))
    table.to_csv(where / "cohort.tsv", sep="\t", index=False)
    return where


@pytest.fixture(scope="module")
def maps(folder, tmp_path_factory) -> PackedMaps:
    table = pd.read_csv(folder / "cohort.tsv", sep="\t")
    paths = {scan: folder / path for scan, path in zip(table["participant_id"], table["s6mwp1"], strict=True)}
    return pack_maps(paths, tmp_path_factory.mktemp("store"))


class Model(NamedTuple):
    """What the engines need, with subsets and without."""

    design: Design
    contrasts: list[Contrast]
    with_subsets: Plan
    plan: Plan
    fit: Fit


@pytest.fixture(scope="module")
def model(folder, maps) -> Model:
    table = pd.read_csv(folder / "cohort.tsv", sep="\t")
    design = build_design("age + sex + tiv_ml", table, list(maps.scan_ids))
    contrasts = build_contrasts(["age", "sex[T.M]", "F(age, sex[T.M])"], design)
    draws = draw_subsets(design.scan_ids, 10, 0.8, 3)
    plan = make_plan(design, contrasts, draws[:0])
    return Model(design, contrasts, make_plan(design, contrasts, draws), plan, fit_voxels(maps, plan))


@dataclass(frozen=True)
class DeadlyMaps(PackedMaps):
    """Kill the process that reads a certain chunk, once."""

    marker: Path = Path()
    deadly: int = 0

    @classmethod
    def like(cls, maps: PackedMaps, marker: Path, deadly: int):
        return cls(**vars(maps), marker=marker, deadly=deadly)

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        if start <= self.deadly < stop and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(start, stop, scratch)


def assert_same_fit(a, b):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.quantiles.keys() == b.quantiles.keys()
    for name, values in a.quantiles.items():
        np.testing.assert_array_equal(values, b.quantiles[name])


def assert_same_nulls(a, b):
    assert a.maxima.keys() == b.maxima.keys()
    for name, values in a.maxima.items():
        np.testing.assert_array_equal(values, b.maxima[name])
    for name in ("p_uncorrected", "p_fwe", "p_tfce_fwe", "p_extent_fwe", "p_mass_fwe"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("backend", ["stacked", "compiled"])
def test_fits_have_the_same_bits_however_they_are_cut(maps, model, local, backend, monkeypatch):
    alone = fit_voxels(maps, model.with_subsets, Compute(backend=backend), spm_floor=True)
    seen = []
    for tasks in (1, 50):
        monkeypatch.setattr(stream, "_TASKS_A_WORKER", tasks)
        compute = Compute(backend=backend, chunk_voxels=1024, cluster=local, progress=lambda *told: seen.append(told))
        together = fit_voxels(maps, model.with_subsets, compute, spm_floor=True)
        assert_same_fit(alone, together)
    assert alone.quantiles
    assert seen[-1] == ("fitting voxels", maps.n_voxels, maps.n_voxels)


def test_a_worker_killed_in_the_middle_of_a_fit(maps, model, local, tmp_path):
    deadly = DeadlyMaps.like(maps, tmp_path / "killed", 1600)
    together = fit_voxels(deadly, model.with_subsets, Compute(cluster=local))
    assert deadly.marker.exists()
    assert_same_fit(fit_voxels(maps, model.with_subsets), together)


def everything(maps, model, settings=WITH_MAPS, index=0, permutations=96, **options):
    permuted = make_permuted(model.plan, index, Resampling(free_tree(range(N_SCANS)), permutations))
    checkpoint = Checkpoint(options.pop("checkpoint"), options.pop("key")) if "checkpoint" in options else None
    return permutation_nulls(Fitted(maps, model.plan, model.fit), permuted, settings, Compute(**options), checkpoint)


@pytest.fixture
def small_batches(maps, monkeypatch):
    """Sixteen whole maps at a time, and a checkpoint after each batch."""
    monkeypatch.setattr(run, "_MAPS_BYTES", 4 * 16 * maps.n_voxels)
    monkeypatch.setattr(run, "_SAVE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def alone(maps, model):
    """Permutations in this process."""
    return everything(maps, model)


def test_permutations_have_the_same_bits(maps, model, alone, local, small_batches):
    seen = []
    together = everything(maps, model, cluster=local, progress=lambda *told: seen.append(told))
    assert_same_nulls(alone, together)
    assert seen == [("permutations", done, 96) for done in range(16, 97, 16)]
    assert alone.p_tfce_fwe.min() < 0.05


def test_the_largest_statistic_is_that_of_all_voxels(maps, model, local):
    """Without whole maps, workers share the voxels of a batch."""
    for settings in (NullSettings(), NullSettings(two_sided=False)):
        ours, theirs = (everything(maps, model, settings, cluster=one) for one in (None, local))
        np.testing.assert_array_equal(ours.maxima["statistic"], theirs.maxima["statistic"])
        np.testing.assert_array_equal(ours.p_uncorrected, theirs.p_uncorrected)


def test_a_worker_killed_in_the_middle_of_permutations(maps, model, alone, local, small_batches, tmp_path):
    deadly = DeadlyMaps.like(maps, tmp_path / "killed", 1600)
    assert_same_nulls(alone, everything(deadly, model, cluster=local))
    assert deadly.marker.exists()


def test_interrupted_on_a_cluster_and_resumed_without(maps, model, alone, local, small_batches, tmp_path):
    file = tmp_path / "permutations.npz"

    def stop(stage, done, total):
        if done >= 48:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        everything(maps, model, cluster=local, checkpoint=file, key="this", progress=stop)
    seen = []
    resumed = everything(maps, model, checkpoint=file, key="this", progress=lambda *told: seen.append(told[1]))
    assert min(seen) > 48  # what was done is not done again
    assert_same_nulls(alone, resumed)


def test_early_stops_are_the_same(maps, model, local, small_batches):
    asked = {"settings": NullSettings(True, False, 2.0, stop_after=5), "index": 1, "permutations": 300}
    ours, theirs = (everything(maps, model, **asked, cluster=one) for one in (None, local))
    assert ours.count == theirs.count == 128
    np.testing.assert_array_equal(ours.maxima["extent"], theirs.maxima["extent"])
    np.testing.assert_array_equal(ours.p_uncorrected, theirs.p_uncorrected)


MODELS = {
    "fwe": ("gm ~ age + sex + tiv", {"inference": "fwe,fdr", "permutations": 50, "repeats": 5}),
    "hc3": ("gm ~ age + sex", {"variance": "hc3", "repeats": 5}),
    "map": ("gm ~ age + map(wm)", {"repeats": 5}),
    "groups": ("gm ~ sex + age", {"variance": "groups:sex", "inference": "fwe", "permutations": 50, "repeats": 0}),
    "repeated": ("gm ~ age", {"variance": "sandwich:family", "inference": "fwe", "permutations": 60}),
}


@pytest.mark.parametrize("name", MODELS)
def test_whole_analyses_are_the_same_files(folder, local, tmp_path, name):
    formula, options = MODELS[name]
    written = []
    for cluster in (None, local):
        scratch = tmp_path / f"scratch-{cluster is local}"
        results = fit_glm(None, formula, folder / "cohort.tsv", scratch=scratch, cluster=cluster, **options)
        results.to_directory(tmp_path / str(cluster is local))
        written.append(tmp_path / str(cluster is local))
    ours, theirs = ({path.name: path.read_bytes() for path in one.iterdir()} for one in written)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert any(name.endswith(".nii.gz") for name in ours)


def test_the_command_line(folder, tmp_path):
    """A scheduler by its address, and the refusal of what a cluster is not for."""
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as running:
        arguments = ["glm", "gm ~ age", "--cohort", str(folder / "cohort.tsv"), "--repeats", "0", "--atlas", "none"]
        clustered = [*arguments, "--scheduler", running.scheduler_address, "--out", str(tmp_path / "out")]
        found = CliRunner().invoke(app, clustered, catch_exceptions=False)
        assert found.exit_code == 0
        assert (tmp_path / "out" / "glm.json").is_file()
    with pytest.raises(ClusterError, match="--scheduler is for voxels"):
        CliRunner().invoke(app, [*arguments, "--level", "roi", "--scheduler", "local"], catch_exceptions=False)
