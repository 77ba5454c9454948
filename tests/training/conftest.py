"""Simple phantoms on small views: onions whose intensity determines their tissue."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.preproc.conftest import phantom  # noqa: F401 - a fixture
from vbmstat.image.grid import voxel_indices
from vbmstat.training.cases import Case, write_cases

SHAPE = (20, 24, 20)  # of 8 mm


def ball(radius: float, centre: tuple[float, float, float], shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    at = voxel_indices(shape) - torch.tensor(centre).reshape(3, 1, 1, 1)
    return (radius + 0.5 - at.square().sum(0).sqrt()).clamp(0, 1)


def onion(number: int) -> dict[str, torch.Tensor]:
    """WM in GM in CSF, off-centre, with noise; the lower half is marked as without GM."""
    source = torch.Generator().manual_seed(number)
    shift = 2 * torch.rand(3, generator=source) - 1
    centre = tuple(float((n - 1) / 2 + s) for n, s in zip(SHAPE, shift, strict=True))
    wm, gm_wm, brain = (ball(radius, centre) for radius in (4.0, 6.3, 8.5))
    gm, csf = gm_wm - wm, brain - gm_wm
    image = 0.25 * csf + 0.7 * gm + wm
    image = (image + 0.02 * torch.randn(SHAPE, generator=source)).clamp(min=0.02) * (brain > 0)
    p0 = csf + 2 * gm + 3 * wm
    no_gm = (voxel_indices(SHAPE)[2] < SHAPE[2] / 2) & (brain > 0.5)
    return {"t1w": image[None], "p0": p0[None], "no_gm": no_gm[None].float()}


@pytest.fixture(scope="session")
def onions(tmp_path_factory) -> Path:
    """Six cases in three groups."""
    path = tmp_path_factory.mktemp("cases") / "onions.npz"
    cases = (Case(f"onion{n}", f"site{n // 2}", onion(n)) for n in range(6))
    write_cases(path, cases, {"kind": "tissue", "shape": list(SHAPE)})
    return path


@pytest.fixture
def configure(tmp_path):
    """Write a configuration: ``configure(data, epochs=2)``."""

    def write(data: Path, **settings) -> Path:
        settings = {"n_channels": 4, "depth": 2, "data": str(data), **settings}
        lines = [
            f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
            for name, value in settings.items()
        ]
        path = tmp_path / "run.toml"
        path.write_text("\n".join(lines))
        return path

    return write
