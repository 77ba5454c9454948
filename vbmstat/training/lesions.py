"""Training of the network that proposes white-matter hypointensities.

A case is a brain (:class:`vbmstat.training.painted_brains.Brain`), of which patches with painted lesions are drawn, or
an image with a label that someone drew: `contrast` (GM 0, WM 1), `prior` (GM and WM) and `lesion`, with `frame` (voxel
-> template mm) if it is known. If that label has fewer slices than the image, it was drawn on thick slices, and the
prediction is compared after it went through their profile and a rater's decision (Thyreau et al. 2022,
doi:10.1002/hbm.25899, whose abstract names the idea, not the formula). Cases of the group ``shapes`` are lesions of
other people, to be painted as such; those of ``tracts`` are outlines of tracts, painted pale and no lesions.

That paper's two steps: the first trains on all cases; the second, with ``second_step``, drops the cases whose labels
disagree most with the first step's network, or gives them its prediction as label, and trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from vbmstat.image.grid import voxel_indices
from vbmstat.preproc.networks.lesions import positions
from vbmstat.preproc.networks.weights import own_file
from vbmstat.training import losses
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig
from vbmstat.training.painted_brains import Brain, Shapes, painted_patches
from vbmstat.training.task import Example, Stage, Task

SHAPES, TRACTS = "shapes", "tracts"  # groups of cases
_FIRST = "wmh-step1"
_RATER = 10.0  # steepness with which a rater of slices decides
_RARE = -3.0  # logit of lesion before training


class LesionTask(Task):
    """Intensity and priors -> logit of lesion."""

    kind = "wmh"
    cases_kind = "wmh"

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        brains, lesions = cases.split(SHAPES)
        brains, tracts = brains.split(TRACTS)
        super().__init__(brains, config, device, folder)
        self.shapes = Shapes(*([self._load(name)["lesion"][0] for name in names] for names in (lesions, tracts)))
        self.paints = any("wm" in self._load(name) for name in self.cases.names[:1])
        self.relabelled: dict[str, torch.Tensor] = {}

    def build(self) -> nn.Module:
        """A network with random weights that expects few lesions."""
        network = super().build()
        with torch.no_grad():
            network.get_parameter("last.bias").fill_(_RARE)
        return network

    def n_examples(self, stage: Stage) -> int:
        """Patches per brain and epoch; images with labels are used as a whole, as often."""
        del stage
        return self.config.patches if self.paints else 1

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
                disagreement[name] = float(losses.lesion_loss(probability, target, inputs.shape[-1] / target.shape[-1]))
                predicted[name] = (probability > 0.5).float()[0]
        n_worst = round(self.config.disagreeing * len(names))
        worst = sorted(names, key=lambda name: disagreement[name])[len(names) - n_worst :]
        if self.config.second_step == "relabel":
            self.relabelled = {name: predicted[name] for name in worst}
            return names
        return [name for name in names if name not in set(worst)]

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """In training, patches of a brain with painted lesions, or a labelled image, mirrored or not."""
        case = self._load(name)
        if source is not None and "wm" in case:
            brain = Brain.from_arrays(case)
            patches = painted_patches(brain, self.shapes, self.config.patch, source)
            for inputs, lesion in islice(patches, self.n_examples(stage)):
                yield inputs[None], lesion[None]
            return
        shown = float(case["shown"][0]) if "shown" in case else 1.0
        lesion = (self.relabelled.get(name, case["lesion"] * shown) > 0.5).float()[None]
        shape = case["contrast"].shape[1:]
        at = positions(case["frame"].numpy(), voxel_indices(shape)) if "frame" in case else torch.zeros(3, *shape)
        inputs = torch.cat([case["contrast"], case["prior"], at])[None]
        for _ in range(1 if source is None else self.n_examples(stage)):
            mirrored = source is not None and float(torch.rand(1, generator=source)) < 0.5
            yield (inputs.flip(2), lesion.flip(2)) if mirrored else (inputs, lesion)

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Dice and cross-entropy, through the slices in which the labels were drawn."""
        probability = self.seen(network(inputs).float().sigmoid(), targets)
        return losses.lesion_loss(probability, targets, inputs.shape[-1] / targets.shape[-1])

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
