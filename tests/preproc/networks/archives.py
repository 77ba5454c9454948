"""Sets of networks for tests: TorchScript archives in the published layout, and small ones of this project."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from vbmstat.preproc.networks.patches import N_NETWORKS, PATCH_SHAPE, REGION_SHAPE, regular_positions
from vbmstat.preproc.networks.weights import build_network, own_file, save_network

SMALL = {"n_channels": 2, "depth": 2}


class ByIntensity(nn.Module):
    """p0 from intensity alone, as a good network would predict for a noise-free image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image[:, :1]
        return (x / 0.15).clamp(0, 1) + ((x - 0.15) / 0.5).clamp(0, 1) + ((x - 0.65) / 0.33).clamp(0, 1)


class Everywhere(nn.Module):
    """The same two logits everywhere."""

    def __init__(self, gm: float, no_gm: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([gm, no_gm]).reshape(1, 2, 1, 1, 1))

    def forward(self, p0: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(p0.shape[0], 2, p0.shape[2], p0.shape[3], p0.shape[4])


class Shift(nn.Module):
    """The same two velocities everywhere, normalised (z, y, x), as from the published network."""

    def __init__(self, forward: list[float], backward: list[float]) -> None:
        super().__init__()
        self.velocity = nn.Parameter(torch.tensor(forward + backward).reshape(1, 6, 1, 1, 1))

    def forward(self, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v = self.velocity.expand(both.shape[0], 6, both.shape[2], both.shape[3], both.shape[4])
        return v[:, :3], v[:, 3:]


def write_published(folder: Path, networks: dict[str, nn.Module] | None = None) -> Path:
    """All 21 archives of the published set; by default with random weights, one convolution each."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {
        "segmentation_model.pt": nn.Conv3d(1, 1, 1),
        **{f"segmentation_patch_{n}_model.pt": nn.Conv3d(2, 1, 1) for n in range(N_NETWORKS)},
        "segmentation_nogm_model.pt": nn.Conv3d(1, 2, 1),
        "warp_model.pt": Shift([0.0] * 3, [0.0] * 3),
        **(networks or {}),
    }
    for name, network in made.items():
        save_script(folder / name, network)
    return folder


def save_script(path: Path, network: nn.Module) -> None:
    with warnings.catch_warnings():  # torch deprecates TorchScript
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network.eval()).save(str(path))


def write_own(folder: Path, kinds: tuple[str, ...] = ("segmentation", "gm-mask", "registration")) -> Path:
    """A set of this project with small networks, random weights and a 3 mm whole view."""
    torch.manual_seed(1)
    coarse = [n // 6 for n in REGION_SHAPE]
    more = {"segmentation": {"shape": coarse}, "gm-mask": {"shape": coarse}, "registration": {"refine": False}}
    for kind in kinds:
        if kind == "patches":
            for index, position in enumerate(regular_positions(REGION_SHAPE, PATCH_SHAPE)[:N_NETWORKS]):
                settings = {**SMALL, "position": list(position)}
                save_network(own_file(folder, kind, index), build_network(kind, settings), kind, settings)
        else:
            settings = {**SMALL, **more[kind]}
            save_network(own_file(folder, kind), build_network(kind, settings), kind, settings)
    return folder
