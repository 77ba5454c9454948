"""Training of the network that proposes white-matter hypointensities.

A case is a brain as the engine sees it, in the network's view: `contrast` (intensity, GM 0 and WM 1), `prior` (GM and
WM), `wm` (the engine's WM fraction) and `lesion` (share of each voxel that is lesion). Lesions of other people
(`shapes`) and random ones are painted into it anew in each epoch. Where `lesion` has fewer slices than the image, it
was drawn on thick slices, and the prediction is compared after it went through their profile and a rater's decision
(Thyreau et al. 2022, doi:10.1002/hbm.25899, whose abstract names the idea, not the formula).

That paper's two steps: the first trains on all cases; the second, with ``second_step``, drops the cases whose labels
disagree most with the first step's network, or gives them its prediction as label, and trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vbmstat.errors import VbmstatError
from vbmstat.preproc.networks.lesions import CONTRAST_RANGE
from vbmstat.preproc.networks.weights import own_file
from vbmstat.training import augment, losses, painting
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig
from vbmstat.training.task import Example, Stage, Task

_FIRST = "wmh-step1"
_TO_IMAGE = 0.3  # contrast of GM and WM in an image whose WM is 1, for augmentations that expect one
_STRETCH = (0.85, 1.2)  # of intensities around WM: the tissue means are uncertain
_LOST_PRIOR = (0.0, 0.3)  # WM prior that a warp misled by the lesions gives to GM
_RATER = 10.0  # steepness with which a rater of slices decides
_ACROSS = 8  # voxels of the other hemisphere
_PAINTED, _TWICE, _BLOBS, _THREADS = 0.85, 0.25, 0.5, 0.5  # probabilities


@dataclass(frozen=True)
class _Brain:
    """The arrays of a case, (X, Y, Z), the prior (2, X, Y, Z)."""

    contrast: torch.Tensor
    prior: torch.Tensor
    wm: torch.Tensor
    lesion: torch.Tensor

    def cut(self, side: slice) -> _Brain:
        """A part along x."""
        return _Brain(self.contrast[side], self.prior[:, side], self.wm[side], self.lesion[side])

    def mirrored(self) -> _Brain:
        """Left is right."""
        return _Brain(self.contrast.flip(0), self.prior.flip(1), self.wm.flip(0), self.lesion.flip(0))


class LesionTask(Task):
    """Intensity and priors -> logit of lesion."""

    kind = "wmh"
    cases_kind = "wmh"

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        super().__init__(cases, config, device, folder)
        self.shapes = CaseFile(folder / config.shapes) if config.shapes else None
        if self.shapes is not None and self.shapes.shape != cases.shape:
            msg = f"{self.shapes.path}: expected lesion shapes of {cases.shape} voxels, got {self.shapes.shape}"
            raise VbmstatError(msg)
        self.relabelled: dict[str, torch.Tensor] = {}

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
                disagreement[name] = float(losses.lesion_loss(probability, target))
                predicted[name] = (probability > 0.5).float()[0]
        n_worst = round(self.config.disagreeing * len(names))
        worst = sorted(names, key=lambda name: disagreement[name])[len(names) - n_worst :]
        if self.config.second_step == "relabel":
            self.relabelled = {name: predicted[name] for name in worst}
            return names
        return [name for name in names if name not in set(worst)]

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """The network's inputs and the lesions in them; painted and augmented if a random generator is given."""
        del stage
        case = self._load(name)
        lesion = self.relabelled.get(name, case["lesion"])[0]
        brain = _Brain(case["contrast"][0], case["prior"], case["wm"][0], lesion)
        if source is not None:
            side = _side(self.cases.shape[0], source)
            brain = brain.cut(side)
            if brain.lesion.shape == brain.contrast.shape:  # labels of thick slices cannot be painted on
                brain = self._painted(brain, side, source)
            brain = replace(brain, contrast=self._acquired(brain.contrast, source))
            brain = brain.mirrored() if painting.chance(0.5, source) else brain
        yield torch.cat([brain.contrast[None], brain.prior])[None], (brain.lesion > 0.5).float()[None, None]

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Dice and cross-entropy, through the slices in which the labels were drawn."""
        return losses.lesion_loss(self.seen(network(inputs).float().sigmoid(), targets), targets)

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

    def _painted(self, brain: _Brain, side: slice, source: augment.Source) -> _Brain:
        """A brain with more lesions and with perivascular spaces."""
        if painting.chance(_PAINTED, source):
            share = self._drawn_lesions(side, brain.wm, source)
            painted = painting.paint(brain.contrast, share, brain.wm, source)
            prior = painting.misled(brain.prior, painted.share, _LOST_PRIOR, source)
            brain = _Brain(painted.contrast, prior, brain.wm, torch.maximum(brain.lesion, painted.share))
        if painting.chance(_THREADS, source):
            brain = replace(
                brain, contrast=painting.paint_threads(brain.contrast, brain.wm * (1 - brain.lesion), source)
            )
        return brain

    def _acquired(self, contrast: torch.Tensor, source: augment.Source) -> torch.Tensor:
        """The image with other tissue means and with artefacts."""
        low, high = CONTRAST_RANGE
        stretched = 1 + (contrast - 1) * painting.uniform(_STRETCH, source)
        image = (1 + _TO_IMAGE * (stretched - 1)) * (contrast > low)
        image = augment.apply(image, augment.IN_SCANNER, self.config.augment, source)
        return (1 + (image - 1) / _TO_IMAGE).clamp(low, high)

    def _drawn_lesions(self, side: slice, wm: torch.Tensor, source: augment.Source) -> torch.Tensor:
        """Lesions of one or two other people, or random ones, or both, as a share of each voxel of a side."""
        share = torch.zeros_like(wm)
        if self.shapes is None or painting.chance(_BLOBS, source):
            share = painting.blobs(wm, source)
        for _ in range(0 if self.shapes is None else 1 + painting.chance(_TWICE, source)):
            share = torch.maximum(share, painting.moved(self._shape(source)[side], source))
        return share

    def _shape(self, source: augment.Source) -> torch.Tensor:
        """The lesions of a random person, mirrored or not, (X, Y, Z)."""
        assert self.shapes is not None  # noqa: S101 - callers checked
        names = self.shapes.names
        shape = self.shapes.load(names[painting.integer(len(names), source)])["lesion"][0].to(self.device)
        return shape.flip(0) if painting.chance(0.5, source) else shape


def _side(n: int, source: augment.Source) -> slice:
    """One hemisphere with some of the other, left or right, at half the cost of the whole."""
    size = min(n, 8 * round((n / 2 + _ACROSS) / 8))
    return slice(0, size) if painting.chance(0.5, source) else slice(n - size, n)
