"""Networks that segment: the first stage, patches, and the mask of voxels without GM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from vbmstat.errors import VbmstatError
from vbmstat.preproc.networks.cascade import mask_windows
from vbmstat.preproc.networks.intensity import brain_range, scale_intensity
from vbmstat.preproc.networks.patches import PATCH_SHAPE, REGION_SHAPE, Position, network_of, optimise_positions, window
from vbmstat.preproc.networks.weights import load_network, own_file
from vbmstat.training import augment, losses
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig
from vbmstat.training.task import Example, Stage, Task

_N_SIDES = 9  # patches of the left; their networks also serve the right, so they get no flips


class SegmentationTask(Task):
    """The first stage: T1w -> p0 on the whole view."""

    kind = "segmentation"

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """The scaled image and p0."""
        del stage
        case = self._load(name)
        image, p0 = self._augmented(case["t1w"][0], case["p0"][0], source, flips=True)
        yield image[None, None], p0[None, None]

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean absolute error."""
        return losses.tissue_loss(network(inputs).float(), targets)

    def score(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Dice of each tissue."""
        return tissue_dice(network(inputs).float(), targets)

    def _augmented(
        self, t1w: torch.Tensor, p0: torch.Tensor, source: torch.Generator | None, flips: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The augmented and scaled image, and p0 shifted and flipped with it."""
        probability = self.config.augment if source is not None else 0.0
        if source is None or probability == 0:
            return scale_intensity(t1w, *brain_range(t1w)), p0
        t1w = augment.apply(t1w, augment.IN_SCANNER, probability, source)
        image = scale_intensity(t1w, *brain_range(t1w))
        image = augment.apply(image, augment.ON_SCALED, probability, source)
        by = augment.translation(augment.MAX_SHIFT_VOXELS * t1w.shape[0] / REGION_SHAPE[0], source)
        image, p0 = augment.shifted(image, by), augment.shifted(p0, by)
        if flips and float(torch.rand(1, generator=source)) < 0.5:
            image, p0 = image.flip(0), p0.flip(0)
        return image, p0


class PatchesTask(SegmentationTask):
    """The second stage: patches of image and first-stage p0 -> p0."""

    kind = "patches"

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        super().__init__(cases, config, device, folder)
        if self.given is None:
            msg = 'patches: expected first_stage = "….safetensors" in the configuration'
            raise VbmstatError(msg)
        self.first_stage, settings = load_network(self.given, device)
        self.first_shape = tuple(int(n) for n in settings["shape"])
        scale = cases.shape[0] / REGION_SHAPE[0]
        x, y, z = (round(n * scale) for n in PATCH_SHAPE)
        self.patch = (x, y, z)
        masks = (cases.load(name)["p0"][0] > 0 for name in cases.names)
        self.positions: list[Position] = optimise_positions(masks, self.patch)

    def stages(self) -> list[Stage]:
        """A foundation on all positions, then 18 networks, one per position."""
        foundation = Stage("foundation", self.config.foundation_epochs, ("foundation", None), self.start, {})
        start = own_file(Path(), "foundation") if foundation.epochs else self.start
        single = [
            Stage(f"patch {n:02d}", self.config.epochs, (self.kind, n), start, {"position": list(position)})
            for n, position in enumerate(self.positions[:18])
        ]
        return [foundation, *single] if foundation.epochs else single

    def n_examples(self, stage: Stage) -> int:
        """27 for the foundation, 2 for a patch that serves both sides, otherwise 1."""
        return len(self._served(stage))

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """Patches of the image and the first-stage p0; those on the right are mirrored."""
        case = self._load(name)
        served = self._served(stage)
        flips = all(_N_SIDES <= index < 2 * _N_SIDES for index in served)
        image, p0 = self._augmented(case["t1w"][0], case["p0"][0], source, flips)
        with torch.no_grad():
            small = functional.interpolate(image[None, None], self.first_shape, mode="trilinear", align_corners=True)
            first = functional.interpolate(self.first_stage(small), image.shape, mode="trilinear", align_corners=True)
        both = torch.cat([image[None, None], first], dim=1)
        order = range(len(served)) if source is None else torch.randperm(len(served), generator=source).tolist()
        for index in (served[n] for n in order):
            at = (..., *window(self.positions[index], self.patch))
            inputs, target = both[at], p0[None, None][at]
            mirrored = network_of(index)[1]
            yield (inputs.flip(2), target.flip(2)) if mirrored else (inputs, target)

    def _served(self, stage: Stage) -> list[int]:
        """Indices of the patches that train a stage's network."""
        wanted = stage.file[1]
        return [index for index in range(len(self.positions)) if wanted is None or network_of(index)[0] == wanted]


class GmMaskTask(Task):
    """p0 of half a brain -> mask of voxels without GM."""

    kind = "gm-mask"

    def n_examples(self, stage: Stage) -> int:
        """The two halves."""
        del stage
        return 2

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """The left half and the mirrored right half."""
        del stage
        case = self._load(name)
        if "no_gm" not in case:
            msg = f"{self.cases.path}: case {name} has no mask of voxels without GM; prepare it from label maps"
            raise VbmstatError(msg)
        both = torch.stack([case["p0"][0], case["no_gm"][0]])
        if source is not None and self.config.augment > 0:
            both = augment.shifted(both, augment.translation(4.0 * both.shape[1] / REGION_SHAPE[0], source))
        for at, mirrored in zip(mask_windows(self.cases.shape), (False, True), strict=True):
            half = both[(slice(None), *at)].flip(1) if mirrored else both[(slice(None), *at)]
            yield half[None, :1], half[None, 1:]

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        return losses.mask_loss(network(inputs).float(), targets)

    def score(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Dice of the mask."""
        predicted = network(inputs).float().softmax(1)[:, 1:] > 0.5
        target = targets > 0.5
        return {"dice": float(2 * (predicted & target).sum() / (predicted.sum() + target.sum()).clamp(min=1))}


def tissue_dice(predicted: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """Dice of CSF, GM and WM, and their mean, of tissue maps (B, 1, X, Y, Z) rounded to classes."""
    a, b = predicted.round(), target.round()
    dice = {
        name: float(2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum()).clamp(min=1))
        for name, label in (("csf", 1), ("gm", 2), ("wm", 3))
    }
    return {**{f"dice_{name}": value for name, value in dice.items()}, "dice": sum(dice.values()) / 3}
