"""The published network of deep-T1-WMH (Thyreau et al. 2022, doi:10.1002/hbm.25899; MIT), with its authors' weights.

A 3-D U-Net with max-unpooling and additive skips. Names and shapes of its layers are those of the authors' state dict,
which holds numbers only and is loaded without executing code; layers, frame and rescaling follow their program
(github.com/bthyreau/deep-T1-WMH). Deviation: the head is placed by the engine's linear registration, not by theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vbmstat.errors import AssetError
from vbmstat.image.grid import Grid, resample
from vbmstat.preproc.steps.lesions import Evidence

NAME, FILE = "deep-t1-wmh", "params_finalwide_train7500.pt"
_WIDTH, _WIDE, _NARROW = 64, 128, 24  # filters: most levels, the bottom, the finest level
_POOLINGS = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))
_DEEPEST = len(_POOLINGS)
VIEW = Grid((184, 202, 72), np.array([[-1, 0, 0, 90], [0, 1, 0, -117], [0, 0, 1.5, -33], [0, 0, 0, 1]], float))  # LAS


class DeepT1WMH(nn.Module):
    """Z-scored head (B, 1, 184, 202, 72) -> probability of lesion and of cortical ribbon, (B, 2, …)."""

    def __init__(self) -> None:
        super().__init__()
        self.block0 = _two_convolutions(1, _NARROW, _WIDTH)
        for level in range(1, _DEEPEST + 1):
            self.add_module(f"block{level}", _two_convolutions(_WIDTH, _WIDE if level == _DEEPEST else _WIDTH, _WIDTH))
        for level in range(_DEEPEST):
            self.add_module(f"blockUp{level}_a", _convolution(_WIDTH, _WIDTH, nn.InstanceNorm3d(_WIDTH)))
            if level:
                self.add_module(f"blockUp{level}_b", _convolution(_WIDTH, _WIDTH))
        self.blockUp0_b1, self.blockUp0_b2 = _convolution(_WIDTH, _WIDTH), _convolution(_WIDTH, _NARROW)
        self.conv1x = nn.Conv3d(_NARROW, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities in the view."""
        features, kept, places = self.block0(image), [], []
        for level, size in enumerate(_POOLINGS, start=1):
            kept.append(features)
            pooled, place = functional.max_pool3d(features, size, return_indices=True)
            places.append(place)
            features = self.get_submodule(f"block{level}")(pooled)
        for level in reversed(range(_DEEPEST)):
            shape = list(kept[level].shape)
            features = functional.max_unpool3d(features, places[level], _POOLINGS[level], output_size=shape)
            features = self.get_submodule(f"blockUp{level}_a")(features)
            if level < _DEEPEST - 1:  # the deepest has no skip
                features = features + kept[level]
            if level:
                features = self.get_submodule(f"blockUp{level}_b")(features)
        return torch.sigmoid(self.conv1x(self.blockUp0_b2(self.blockUp0_b1(features))))


@dataclass(frozen=True)
class PublishedNetwork:
    """The published network, ready to propose lesions; a :data:`vbmstat.preproc.steps.lesions.Network`.

    Attributes
    ----------
    network : DeepT1WMH
        With its weights.
    sha256 : dict
        File name -> hash.
    """

    network: DeepT1WMH
    sha256: Mapping[str, str]

    def __call__(self, evidence: Evidence) -> torch.Tensor:
        """Probability on the working grid, (X, Y, Z), from the scan as acquired; zero outside the view."""
        head = resample(evidence.scan.data, evidence.scan.grid, VIEW, evidence.linear)
        scored = (head - head.mean()) / head.std().clamp(min=1e-6)
        probability = stretched(self.network(scored[None])[0, :1])
        return resample(probability, VIEW, evidence.brain.grid, np.linalg.inv(evidence.linear))[0]


def stretched(probability: torch.Tensor) -> torch.Tensor:
    """The authors' rescaling: .5 to .75 becomes .5 to 1, and 0 below."""
    return (2 * probability - 0.5).clamp(0, 1) * (probability > 0.5)


def load_published(path: Path) -> DeepT1WMH:
    """The network with the weights of a state dict; entries of layers that it does not have are ignored.

    Raises
    ------
    AssetError
        If the file is missing, is no state dict (it is loaded with ``weights_only``), or lacks a layer.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        why = "no such file" if not path.is_file() else f"not a state dict of torch ({type(error).__name__})"
        msg = f"{path}: {why}; expected {FILE} of deep-T1-WMH or a .safetensors file of 'vbmstat train wmh'"
        raise AssetError(msg) from error
    network = DeepT1WMH()
    wanted = network.state_dict()
    fitting = tensors if isinstance(tensors, dict) else {}
    for name, expected in wanted.items():
        shape = tuple(getattr(fitting.get(name), "shape", ()))
        if shape != tuple(expected.shape):
            msg = (
                f"{path}: expected {name} of shape {tuple(expected.shape)}, got {shape or 'none'}; "
                f"is this {FILE} of deep-T1-WMH?"
            )
            raise AssetError(msg)
    network.load_state_dict({name: fitting[name] for name in wanted})
    return network


def _convolution(before: int, after: int, *norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1), *norm, nn.ReLU())


def _two_convolutions(before: int, middle: int, after: int) -> nn.Sequential:
    """The second convolution is the sequence's item 3, as in the state dict."""
    return nn.Sequential(*_convolution(before, middle, nn.InstanceNorm3d(middle)), *_convolution(middle, after))
