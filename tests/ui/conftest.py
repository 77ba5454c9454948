"""A cohort with a model in a folder of its own, and a browser that has the token."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import httpx
import matplotlib as mpl
import pandas as pd
import pytest
import torch

from tests.report.conftest import GRID, cohort_folder, model_folder  # noqa: F401 - fixtures
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.report.results import Outputs, write_results
from vbmstat.ui.app import make_app
from vbmstat.ui.study import Study

mpl.use("Agg")
PORT, TOKEN = 8123, "the-token"
ADDRESS = f"http://127.0.0.1:{PORT}"
OLD, VOXELS, PLAIN = "glm/age", "glm/gm_age_sex", "glm/gm_age"


@pytest.fixture(scope="session")
def finished(model_folder, tmp_path_factory) -> Path:  # noqa: F811
    """The cohort with a model of an earlier version (glm/age: no record of its outputs), two of voxels."""
    folder = shutil.copytree(model_folder.parents[1], tmp_path_factory.mktemp("finished") / "study")
    halves = torch.ones(1, *GRID.shape)
    halves[:, GRID.shape[0] // 2 :] = 2
    io.write_volume(folder / "halves.nii.gz", Volume(halves, GRID), dtype="int16")
    (folder / "halves.tsv").write_text("label\tname\n1\tLeft Half\n2\tRight Half\n")
    options = {"repeats": 4, "inference": "fdr", "scratch": folder / "scratch"}
    results = fit_glm(None, "gm ~ age + sex", folder / "cohort.tsv", ["age", "sex"], **options)
    with patch("vbmstat.report.results.write_figures"):  # slow, and not looked at here
        write_results(results, folder / VOXELS, Outputs(atlas=str(folder / "halves.nii.gz")))
    options = {"repeats": 0, "scratch": folder / "scratch"}
    plain = fit_glm(None, "gm ~ age", folder / "cohort.tsv", ["age"], **options)
    with patch("vbmstat.report.results.write_figures"):
        write_results(plain, folder / PLAIN, Outputs(atlas="none"))
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy to write in; its maps are links to the same files."""
    return shutil.copytree(finished, tmp_path / "study", copy_function=_link)


def _link(source: str, target: str) -> None:
    if source.endswith(".nii.gz"):
        Path(target).hardlink_to(source)
    else:
        shutil.copy(source, target)


@pytest.fixture
def study(folder) -> Study:
    return Study(folder.resolve())


class Browser:
    """Asks an application as a browser would, and keeps its cookies."""

    def __init__(self, app: Any, cookies: httpx.Cookies | None = None) -> None:
        self.app, self.cookies, self.raises = app, cookies or httpx.Cookies(), False

    def request(self, method: str, path: str, **asked: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=self.raises)
            async with httpx.AsyncClient(transport=transport, base_url=ADDRESS, cookies=self.cookies) as client:
                answer = await client.request(method, path, **asked)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())

    def get(self, path: str, **asked: Any) -> httpx.Response:
        return self.request("GET", path, **asked)

    def post(self, path: str, **asked: Any) -> httpx.Response:
        return self.request("POST", path, **asked)

    def put(self, path: str, **asked: Any) -> httpx.Response:
        return self.request("PUT", path, **asked)

    def delete(self, path: str) -> httpx.Response:
        return self.request("DELETE", path)


def stranger(study: Study) -> Browser:
    """A browser without the token."""
    return Browser(make_app(study, TOKEN, PORT))


def signed_in(study: Study) -> Browser:
    """A browser that opened the address with the token."""
    browser = stranger(study)
    browser.get(f"/?token={TOKEN}")
    return browser


@pytest.fixture(autouse=True)
def unprepared(monkeypatch) -> None:
    """Results are not got ready in the background, where a test may end before they are."""
    monkeypatch.setattr("vbmstat.ui.app._MOST_READY", -1)


@pytest.fixture
def client(study) -> Iterator[Browser]:
    browser = signed_in(study)
    yield browser
    browser.app.app.state.desk.close()


def address(result: str, rest: str = "") -> str:
    """Where a result is served."""
    return f"/api/results/{quote(result, safe='')}{rest}"


def table(folder: Path) -> pd.DataFrame:
    """The cohort table as text."""
    return pd.read_csv(folder / "cohort.tsv", sep="\t", dtype=str, keep_default_na=False)
