from __future__ import annotations

import webbrowser
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vbmstat.cli import app
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

pytestmark = pytest.mark.usefixtures("coarse_drawing")  # drawing takes long


@pytest.fixture
def image(tmp_path) -> Path:
    data = torch.zeros(1, 12, 12, 12)
    data[0, 4:8, 4:8, 4:8] = -2.0
    io.write_volume(tmp_path / "map.nii.gz", Volume(data, Grid((12, 12, 12), np.diag([8.0, 8, 8, 1]))))
    return tmp_path / "map.nii.gz"


def test_the_picture_is_named(image) -> None:
    said = CliRunner().invoke(app, ["show", str(image)]).output.strip()
    assert Path(said).name == "map.png"
    assert Path(said).read_bytes().startswith(b"\x89PNG")


def test_the_browser_opens_the_page(image, monkeypatch) -> None:
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    result = CliRunner().invoke(app, ["show", str(image), "--browser", "--out", str(image.parent / "x.html")])
    assert result.exit_code == 0, result.output
    assert opened == [(image.parent / "x.html").as_uri()]
    refused = CliRunner().invoke(app, ["show", str(image), "--browser", "--out", str(image.parent / "x.png")])
    assert refused.exit_code == 2
    assert len(opened) == 1


def test_slices_crosshair_and_contours(image) -> None:
    out = image.parent / "x.svg"
    options = [
        "--cut",
        "z=40,48",
        "--crosshair",
        "peak",
        "--cut",
        "x=32",
        "--contour",
        "1",
        "--limit",
        "3",
        "--title",
        "Mine",
    ]
    result = CliRunner().invoke(app, ["show", str(image), *options, "--contour-of", str(image), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert ">Mine<" in out.read_text(encoding="utf-8")
    assert ">z = 48<" in out.read_text(encoding="utf-8")
