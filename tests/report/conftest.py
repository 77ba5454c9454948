"""A small model and a small preprocessing run on the disk, and a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.conftest import coarse_figures
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.report import contrasts, model
from vbmstat.report.page import Picture
from vbmstat.report.write import write_report

SCRIPT_ID = "<script>document.title='owned'</script>"
AFFINE = np.array([[6.0, 0, 0, -84], [0, 6, 0, -120], [0, 0, 6, -72], [0, 0, 0, 1]])
GRID = Grid((29, 35, 28), AFFINE)
EFFECT_AT_MM = (-36.0, 0.0, 12.0)  # left, where age takes grey matter
N_SCANS = 14
_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def brain_mm() -> np.ndarray:
    """RAS mm of every voxel, (3, X, Y, Z)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij"))
    return 6.0 * index + AFFINE[:3, 3].reshape(3, 1, 1, 1)


def blob(centre_mm: tuple[float, float, float], radius_mm: float = 12.0) -> np.ndarray:
    """A ball, bool, (X, Y, Z)."""
    away = brain_mm() - np.reshape(centre_mm, (3, 1, 1, 1))
    return np.asarray((away**2).sum(axis=0) < radius_mm**2)


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory) -> Path:
    """The output of a preprocessing run with names that want to be scripts, a failure, and one odd scan."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    scaled = (brain_mm() - np.reshape((0, -18, 10), (3, 1, 1, 1))) / np.reshape((68, 84, 62), (3, 1, 1, 1))
    inside = (scaled**2).sum(axis=0) < 1
    age = np.linspace(20, 72, N_SCANS)
    ids = [f"sub-{n:02d}" for n in range(1, N_SCANS)] + [SCRIPT_ID]
    rows = []
    for number, (scan, years) in enumerate(zip(ids, age, strict=True)):
        name = f"scan{number}_T1w"
        gm = inside * (0.6 + 0.05 * rng.standard_normal(GRID.shape)) - blob(EFFECT_AT_MM) * 0.006 * (years - 46)
        path = f"mri/s6mwp1{name}.nii.gz"
        io.write_volume(folder / path, Volume(torch.from_numpy(gm.astype(np.float32))[None], GRID))
        rows.append({
            "participant_id": scan, "age": round(float(years), 1), "sex": "fm"[number % 2], "scan": name,
            "tiv_ml": 1400 + 10 * number, "gm_ml": 650.0 + number if number else 1900.0, "wm_ml": 500 + number,
            "csf_ml": 250.0, "qc_noise_percent": 10.0 - number % 7,
            "qc_contrast_percent": np.nan if number == 3 else 30,
            "qc_warnings": "strong <b>noise</b>" if number == 2 else None, "came_stripped": number == 1,
            "engine": "classic", "vbmstat_version": "0.1.0", "s6mwp1": path,
        })  # fmt: skip
        sidecar = {
            "command": "preprocess", "engine": "classic", "device": "cpu", "parameters": {"names": "cat12"},
            "inputs": [{"path": f"{name}.nii.gz", "sha256": f"{number:064d}"}], "versions": {"vbmstat": "0.1.0"},
        }  # fmt: skip
        storage.write_json(folder / "report" / f"vbmstat_{name}.json", sidecar)
        picture = Image.fromarray(rng.integers(0, 255, (150, 160, 3), dtype=np.uint8))
        picture.save(folder / "report" / f"vbmreport_{name}.png")
    storage.write_table(folder / "cohort.tsv", pd.DataFrame(rows))
    failed = ["sub-99", "sub-99.nii.gz", "read", "<img src=x onerror=alert(1)> no image"]
    storage.write_table(folder / "failures.tsv", pd.DataFrame([failed], columns=["scan", "path", "step", "reason"]))
    return folder


@pytest.fixture(scope="session")
def model_folder(cohort_folder) -> Path:
    """A model of the run's maps, beside its cohort table; one scan is dropped for its missing covariate."""
    table = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    table["iq"] = [np.nan, *np.random.default_rng(1).normal(100, 15, N_SCANS - 1).round(1)]
    storage.write_table(cohort_folder / "cohort.tsv", table)
    found = fit_glm(
        None, "gm ~ age + sex + iq", cohort_folder / "cohort.tsv", ["age"], repeats=8, missing="drop",
        scratch=cohort_folder / "scratch",
    )  # fmt: skip
    folder = cohort_folder / "glm" / "age"
    found.to_directory(folder)
    clusters = pd.DataFrame({"cluster": [1], "size_ml": [3.2], "x_mm": [-36.0], "regions": ["Left <i>Insula</i> 80 %"]})
    storage.write_table(folder / "contrast-age_clusters.tsv", clusters)
    return folder


@pytest.fixture
def copied(model_folder, tmp_path):
    """The results in a folder of their own, without the cohort table above."""
    return shutil.copytree(model_folder, tmp_path / "deep" / "er" / "age")


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leave out the pictures, which take long to draw."""
    for module in (model, contrasts):
        monkeypatch.setattr(module, "publish", lambda *_: Picture("data:,", "alt", "caption", 1, 1))
    monkeypatch.setattr(contrasts, "viewer_html", lambda *_: "")


def coarse_report(folder: Path) -> Path:
    """The page with figures of few pixels."""
    with coarse_figures():
        return write_report(folder)


@pytest.fixture(scope="session")
def model_page(model_folder) -> Path:
    return coarse_report(model_folder)


@pytest.fixture(scope="session")
def run_page(cohort_folder, model_folder) -> Path:  # after the model, which adds a column to the table
    return coarse_report(cohort_folder)


@pytest.fixture(scope="session")
def record(model_folder) -> dict:
    """``glm.json`` of the model."""
    return json.loads((model_folder / "glm.json").read_text())


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[object]:
    """Headless Chromium with a profile of its own, as a Playwright context."""
    executable = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no Chromium on the path ({', '.join(_BROWSERS)}); install one, e.g. apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -e '.[dev]'")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=executable, headless=True, args=list(_FLAGS)
        )
        yield context
        context.close()
