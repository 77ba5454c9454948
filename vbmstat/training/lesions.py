"""Training of the network that proposes white-matter hypointensities.

A case is either a sample of voxels of a brain with painted lesions, `descriptors` and `lesion` (37 and 1 values a
voxel; :mod:`vbmstat.training.prepare_lesions`), or a whole image with its label: `contrast` (GM 0, WM 1), `prior` (GM
and WM) and `lesion`. If that has fewer slices than the image, it was drawn on thick slices, and the prediction is
compared after it went through their profile and a rater's decision (Thyreau et al. 2022, doi:10.1002/hbm.25899, whose
abstract names the idea, not the formula).

That paper's two steps: the first trains on all cases; the second, with ``second_step``, drops the cases whose labels
disagree most with the first step's network, or gives them its prediction as label, and trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import nn

from vbmstat.preproc.networks.lesion_net import N_DESCRIPTORS, LesionNet, candidates, describe
from vbmstat.preproc.networks.weights import own_file
from vbmstat.training import losses
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig
from vbmstat.training.task import Example, Stage, Task

_FIRST = "wmh-step1"
_RATER = 10.0  # steepness with which a rater of slices decides
_N_RANGE = 24  # cases from which the range of the descriptors is taken
_CANDIDATES = 240_000  # voxels of a hemisphere that can be lesion


class LesionTask(Task):
    """Intensity and priors -> logit of lesion."""

    kind = "wmh"
    cases_kind = "wmh"

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        super().__init__(cases, config, device, folder)
        self.relabelled: dict[str, torch.Tensor] = {}

    def build(self) -> nn.Module:
        """A network with random weights that knows the range of its descriptors."""
        network = cast("LesionNet", super().build())
        some = self.cases.names[:: max(1, len(self.cases.names) // _N_RANGE)]
        network.standardise(torch.cat([self._descriptors(name) for name in some]))
        return network

    def _descriptors(self, name: str) -> torch.Tensor:
        """Of a case's voxels, (n, 37)."""
        inputs, _ = next(self.examples(name, self.stages()[0], None))
        if inputs.shape[1] == N_DESCRIPTORS:
            return inputs[0, :, :, 0, 0].T
        return describe(inputs[0], candidates(inputs[0]))

    def stages(self) -> list[Stage]:
        """One step, or two."""
        settings = {"shape": list(self.cases.shape)}
        if not self.config.second_step:
            return [Stage("step 1", self.config.epochs, (self.kind, None), self.start, settings)]
        return [
            Stage("step 1", self.config.epochs, (_FIRST, None), self.start, settings),
            Stage("step 2", self.config.epochs, (self.kind, None), own_file(Path(), _FIRST), settings),
        ]

    def select(self, names: list[str], stage: Stage, network: nn.Module) -> list[str]:
        """In the second step: without the cases that disagree most with the network, or with its labels for them."""
        self.relabelled = {}
        if stage.name != "step 2":
            return names
        network.eval()
        disagreement, predicted = {}, {}
        with torch.inference_mode():
            for name in names:
                inputs, target = next(self.examples(name, stage, None))
                probability = self.seen(network(inputs).float().sigmoid(), target)
                disagreement[name] = float(losses.lesion_loss(probability, target, self._voxels(inputs, target)))
                predicted[name] = (probability > 0.5).float()[0]
        n_worst = round(self.config.disagreeing * len(names))
        worst = sorted(names, key=lambda name: disagreement[name])[len(names) - n_worst :]
        if self.config.second_step == "relabel":
            self.relabelled = {name: predicted[name] for name in worst}
            return names
        return [name for name in names if name not in set(worst)]

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """An image and its label, or voxels, in training as many as ``voxels`` says; images may be mirrored."""
        del stage
        case = self._load(name)
        lesion = (self.relabelled.get(name, case["lesion"]) > 0.5).float()[None]
        if "descriptors" in case:
            inputs = case["descriptors"][None]
            if source is not None and self.config.voxels:
                drawn = torch.randint(inputs.shape[2], (self.config.voxels,), generator=source)
                inputs, lesion = inputs[:, :, drawn], lesion[:, :, drawn]
        else:
            inputs = torch.cat([case["contrast"], case["prior"]])[None]
            if source is not None and float(torch.rand(1, generator=source)) < 0.5:
                inputs, lesion = inputs.flip(2), lesion.flip(2)
        yield inputs, lesion

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Dice and cross-entropy, through the slices in which the labels were drawn."""
        probability = self.seen(network(inputs).float().sigmoid(), targets)
        return losses.lesion_loss(probability, targets, self._voxels(inputs, targets))

    def score(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Dice, and volumes in mL if voxels are of 1 mm."""
        predicted = self.seen(network(inputs).float().sigmoid(), targets) > 0.5
        target = targets > 0.5
        n_predicted, n_target = int(predicted.sum()), int(target.sum())
        dice = (2 * int((predicted & target).sum()) + 1) / (n_predicted + n_target + 1)
        false = int((predicted & ~target).sum())
        return {"dice": dice, "ml": n_predicted / 1000, "true_ml": n_target / 1000, "false_ml": false / 1000}

    def seen(self, probability: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The probability that a rater of the labels' slices marks lesion: (B, 1, X, Y, Z) -> (B, 1, X, Y, slices).

        The slice shows the mean over its profile, and the rater marks what is mostly lesion. Without the second half of
        that model, a slice that is 40 % lesion and rightly not marked would teach the network that there is none.
        """
        n_voxels, n_slices = probability.shape[-1], targets.shape[-1]
        if n_voxels == n_slices:
            return probability
        thickness = self.config.slice_voxels or n_voxels / n_slices
        mean = probability @ losses.slice_profile(n_voxels, n_slices, thickness).to(probability).T
        return torch.sigmoid(_RATER * (mean - 0.5))

    def _voxels(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Image voxels that each entry of the targets stands for."""
        if inputs.shape[1] == N_DESCRIPTORS:
            return max(_CANDIDATES / targets.numel(), 1.0)
        return inputs.shape[-1] / targets.shape[-1]
